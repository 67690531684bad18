//! Graphs that look like a pattern and are not it, or are it at sizes that coincide: a fusion must prove shapes, ranks and
//! constants.

use poda_formats::op::{Binary, ConvAttributes, Padding, SoftmaxKind, Unary};
use poda_formats::{Boolean, DataType, Dim, Graph, Op, Tensor, ValueId};

use super::{Chain, check, conv, numbers, prepare, views};

fn steps(graph: &Graph, feeds: &[(&str, Tensor)]) -> usize {
    prepare(graph, 1, true).profile(&views(feeds), 1).unwrap().nodes.len()
}

/// A constant of this shape, away from zero so that it may divide.
fn away_from_zero(shape: &[usize], seed: usize) -> Tensor {
    let values: Vec<f32> =
        numbers(shape, seed, 0.0).as_slice::<f32>().unwrap().iter().map(|v| v + v.signum()).collect();
    Tensor::from_slice(shape, &values)
}

#[test]
fn constants_after_convolutions_whose_window_is_the_image() {
    let (channels, filters) = (4, 3);
    for image in [vec![1, 1], vec![3, 3], vec![1, 5], vec![1], vec![5]] {
        let rank = 2 + image.len();
        let mut shapes: Vec<Vec<usize>> = (0..=rank).map(|r| vec![1; r]).collect();
        let mut per_channel = vec![1; rank - 1];
        per_channel[0] = filters;
        shapes.push(per_channel.clone());
        shapes.push([&[1][..], &per_channel].concat());
        // As many images as filters: one constant for each image.
        shapes.push([&[filters][..], &vec![1; rank - 1]].concat());
        shapes.push([&[filters, filters][..], &vec![1; rank - 2]].concat());
        // And shapes that make the result larger.
        shapes.push(vec![filters]);
        for (seed, shape) in shapes.iter().enumerate() {
            for function in [Binary::Add, Binary::Sub, Binary::Mul, Binary::Div] {
                for constant_first in [false, true] {
                    let mut c = Chain::new(&[&[channels][..], &image].concat());
                    let x = c.at;
                    let w = c.weight(numbers(&[&[filters, channels][..], &image].concat(), 1, 0.5));
                    let bias = c.weight(numbers(&[filters], 2, 0.0));
                    let op = match conv(1, 1, 0) {
                        Op::Conv(mut attributes) => {
                            attributes.strides.clear();
                            attributes.padding = poda_formats::op::Padding::Explicit(vec![]);
                            Op::Conv(attributes)
                        }
                        other => other,
                    };
                    let y = c.node(op, &[x, w, bias]);
                    let k = c.weight(away_from_zero(shape, seed));
                    let y = if constant_first { c.binary(function, k, y) } else { c.binary(function, y, k) };
                    c.unary(Unary::Relu, y);
                    let graph = c.finish();
                    for batch in [1, filters] {
                        if shape.first() == Some(&filters) && shape.len() == rank && batch == 1 {
                            continue;
                        }
                        let x = numbers(&[&[batch, channels][..], &image].concat(), 9, 0.0);
                        check(&graph, &[("x", x)]);
                    }
                }
            }
        }
    }
}

#[test]
fn a_scalar_after_a_whole_window_is_fused() {
    let mut c = Chain::new(&[4, 1, 1]);
    let x = c.at;
    let w = c.weight(numbers(&[3, 4, 1, 1], 1, 0.0));
    let y = c.node(conv(1, 1, 0), &[x, w]);
    let y = c.by(Binary::Add, y, 3.0);
    let (low, high) = (c.scalar(0.0), c.scalar(6.0));
    let y = c.node(Op::Clip, &[y, low, high]);
    c.by(Binary::Div, y, 6.0);
    let graph = c.finish();
    let feeds = [("x", numbers(&[2, 4, 1, 1], 3, 0.0))];
    check(&graph, &feeds);
    // The hard sigmoid is recognised and taken by the product.
    assert_eq!(steps(&graph, &feeds), 1);
}

#[test]
fn what_a_gemm_adds() {
    for [rows, cols] in [[3, 3], [1, 3], [3, 1], [1, 1], [2, 3]] {
        let shapes =
            [vec![], vec![1], vec![cols], vec![rows, 1], vec![1, cols], vec![1, 1], vec![rows, cols]];
        for (seed, shape) in shapes.iter().enumerate() {
            for (alpha, beta, trans_a, constant) in [
                (1.0, 1.0, false, true),
                (0.5, 2.0, true, true),
                (1.0, 1.0, false, false),
                (2.0, 0.0, true, false),
            ] {
                let a_shape = if trans_a { [5, rows] } else { [rows, 5] };
                let added = numbers(shape, seed + 3, 0.0);
                let mut feeds = vec![("a", numbers(&a_shape, 2, 0.0))];
                if !constant {
                    feeds.push(("c", added.clone()));
                }
                let (mut c, inputs) = Chain::fed(&feeds);
                let w = c.weight(numbers(&[5, cols], 1, 0.5));
                let k = inputs.get(1).copied().unwrap_or_else(|| c.weight(added));
                let a = inputs[0];
                let y = c.node(Op::Gemm { alpha, beta, trans_a, trans_b: false }, &[a, w, k]);
                // What comes after is of the columns, too.
                let scale = c.weight(numbers(&[cols], 7, 0.0));
                let y = c.binary(Binary::Mul, y, scale);
                let rows_only = c.weight(numbers(&[rows, 1], 8, 0.0));
                c.binary(Binary::Add, y, rows_only);
                check(&c.finish(), &feeds);
            }
        }
    }
}

/// Attention of fed queries, keys and values of these shapes; a mask where there is one.
struct Heads<'a> {
    q: &'a [usize],
    k: &'a [usize],
    v: &'a [usize],
    /// Whether keys and values are constants.
    learned: bool,
    mask: Option<Tensor>,
    /// Put zeros for probabilities that are NaN.
    guard: bool,
}

impl Heads<'_> {
    fn graph(&self) -> (poda_formats::Graph, Vec<(&'static str, Tensor)>) {
        let (k, v) = (numbers(self.k, 2, 0.0), numbers(self.v, 3, 0.0));
        let mut feeds = vec![("q", numbers(self.q, 1, 0.0))];
        if !self.learned {
            feeds.extend([("k", k.clone()), ("v", v.clone())]);
        }
        feeds.extend(self.mask.clone().map(|mask| ("m", mask)));
        let (mut c, inputs) = Chain::fed(&feeds);
        let q = inputs[0];
        let [k, v] = if self.learned { [c.weight(k), c.weight(v)] } else { [inputs[1], inputs[2]] };
        let mut swap: Vec<usize> = (0..self.k.len()).collect();
        swap.swap(self.k.len() - 1, self.k.len() - 2);
        let k = c.node(Op::Transpose { perm: swap }, &[k]);
        let mut scores = c.node(Op::MatMul, &[q, k]);
        scores = c.by(Binary::Mul, scores, 0.5);
        if let Some(mask) = &self.mask {
            let added = mask.dtype() == DataType::F32;
            let mask = inputs[inputs.len() - 1];
            scores = if added {
                c.binary(Binary::Add, scores, mask)
            } else {
                let low = c.scalar(f32::NEG_INFINITY);
                c.node(Op::Where, &[mask, scores, low])
            };
        }
        let mut p = c.node(Op::Softmax { kind: SoftmaxKind::Softmax, axis: -1 }, &[scores]);
        if self.guard {
            let nan = c.unary(Unary::IsNan, p);
            let zero = c.scalar(0.0);
            p = c.node(Op::Where, &[nan, zero, p]);
        }
        c.node(Op::MatMul, &[p, v]);
        (c.finish(), feeds)
    }
}

#[test]
fn attention_of_every_rank() {
    type Shape = &'static [usize];
    // Queries, keys, values, and whether they become one step.
    let cases: &[(Shape, Shape, Shape, bool)] = &[
        (&[2, 2, 3, 4], &[2, 5, 4], &[2, 5, 6], true),
        (&[3, 3, 3, 4], &[3, 5, 4], &[3, 5, 6], true),
        (&[2, 2, 3, 4], &[2, 5, 4], &[2, 1, 5, 6], true),
        (&[2, 2, 3, 4], &[2, 1, 5, 4], &[2, 5, 6], true),
        (&[2, 3, 3, 4], &[3, 5, 4], &[3, 5, 6], true),
        (&[2, 2, 3, 4], &[2, 2, 5, 4], &[2, 2, 5, 6], true),
        (&[2, 2, 3, 4], &[2, 1, 5, 4], &[2, 1, 5, 6], true),
        (&[2, 2, 3, 4], &[1, 2, 5, 4], &[2, 1, 5, 6], true),
        (&[1, 2, 3, 4], &[2, 5, 4], &[2, 5, 6], true),
        (&[2, 3, 4], &[2, 5, 4], &[2, 5, 6], true),
        (&[2, 3, 4], &[1, 5, 4], &[2, 5, 6], true),
        (&[2, 3, 4], &[2, 2, 5, 4], &[2, 2, 5, 6], true),
        (&[2, 2, 3, 4], &[5, 4], &[5, 6], true),
        (&[3, 4], &[5, 4], &[5, 6], true),
        (&[2, 2, 1, 4], &[2, 5, 4], &[2, 5, 6], true),
        // Queries are repeated for more batches of keys.
        (&[2, 1, 3, 4], &[2, 5, 4], &[2, 5, 6], true),
        // The scores would be computed again for more batches of values.
        (&[1, 2, 3, 4], &[1, 2, 5, 4], &[3, 2, 5, 6], false),
        (&[2, 3, 4], &[2, 5, 4], &[3, 2, 5, 6], false),
        (&[1, 2, 2, 3, 4], &[1, 2, 2, 5, 4], &[1, 2, 2, 5, 6], false),
        // Nothing of something.
        (&[2, 2, 3, 4], &[2, 2, 0, 4], &[2, 2, 0, 6], true),
        (&[2, 2, 3, 0], &[2, 2, 5, 0], &[2, 2, 5, 6], true),
        (&[2, 2, 3, 4], &[2, 2, 5, 4], &[2, 2, 5, 0], true),
        (&[2, 0, 3, 4], &[2, 0, 5, 4], &[2, 0, 5, 6], true),
        (&[0, 2, 3, 4], &[2, 5, 4], &[2, 5, 6], true),
        (&[2, 2, 0, 4], &[2, 2, 5, 4], &[2, 2, 5, 6], true),
        (&[1, 1, 1, 1], &[1, 1, 1, 1], &[1, 1, 1, 1], true),
    ];
    for &(q, k, v, fused) in cases {
        for learned in [false, true] {
            let (graph, feeds) = Heads { q, k, v, learned, mask: None, guard: false }.graph();
            check(&graph, &feeds);
            assert!(learned || (steps(&graph, &feeds) == 1) == fused, "{q:?} {k:?} {v:?}");
        }
    }
}

#[test]
fn masks_of_every_rank() {
    let (q, k, v) = (&[3, 3, 3, 4][..], &[3, 3, 3, 4][..], &[3, 3, 3, 6][..]);
    for shape in [
        &[][..],
        &[3],
        &[3, 1],
        &[1, 3],
        &[3, 3],
        &[3, 1, 1],
        &[3, 1, 3],
        &[3, 3, 3],
        &[3, 1, 1, 3],
        &[1, 3, 3, 1],
        &[3, 3, 3, 3],
        // These make the scores larger.
        &[2, 1, 1, 1, 1],
    ] {
        let (graph, feeds) =
            Heads { q, k, v, learned: false, mask: Some(numbers(shape, 5, 0.0)), guard: false }.graph();
        check(&graph, &feeds);
    }
    // Ranks below four count from the end, too.
    for shape in [&[3][..], &[3, 1], &[2, 1, 1], &[2, 3, 3], &[1, 2, 1, 3], &[2, 2, 1, 1]] {
        let (q, k, v) = (&[2, 3, 4][..], &[2, 3, 4][..], &[2, 3, 6][..]);
        let (graph, feeds) =
            Heads { q, k, v, learned: false, mask: Some(numbers(shape, 5, 0.0)), guard: false }.graph();
        check(&graph, &feeds);
    }
}

#[test]
fn queries_that_see_no_key() {
    let (q, k, v) = (&[2, 2, 3, 4][..], &[2, 2, 5, 4][..], &[2, 2, 5, 6][..]);
    // The second query of the first batch sees nothing, the third one key.
    let allowed: Vec<bool> = (0..2 * 3 * 5).map(|i| i / 5 != 1 && (i / 5 != 2 || i % 5 == 0)).collect();
    let added: Vec<f32> = allowed.iter().map(|&a| if a { 0.25 } else { f32::NEG_INFINITY }).collect();
    let allowed: Vec<Boolean> = allowed.into_iter().map(Boolean::from).collect();
    let shape = [2, 1, 3, 5];
    for mask in [Tensor::from_slice(&shape, &added), Tensor::from_slice(&shape, &allowed)] {
        for guard in [false, true] {
            let mask = Some(mask.clone());
            let (graph, mut feeds) = Heads { q, k, v, learned: false, mask, guard }.graph();
            check(&graph, &feeds);
            assert_eq!(steps(&graph, &feeds), 1);
            let executable = prepare(&graph, 1, true);
            let found = executable.run(&views(&feeds)).unwrap();
            let row = &found[0].1.as_slice::<f32>().unwrap()[6..12];
            assert!(row.iter().all(|&v| if guard { v == 0.0 } else { v.is_nan() }), "{row:?}");
            // Queries that are no numbers, or whose products overflow.
            for odd in [f32::NAN, f32::INFINITY, f32::MAX] {
                let values: Vec<f32> = (0..48).map(|i| if i % 7 == 0 { odd } else { 0.5 }).collect();
                feeds[0].1 = Tensor::from_slice(q, &values);
                check(&graph, &feeds);
            }
        }
    }
}

/// `x · clip(x + 3, 0, 6) · sixth` and the like, with constants that are a little off.
#[test]
fn constants_that_are_almost_right() {
    let chain = || {
        let c = Chain::new(&[5, 8]);
        let x = c.at;
        (c, x)
    };
    let clip = |c: &mut Chain, x: ValueId, [three, low, high]: [f32; 3]| {
        let s = c.by(Binary::Add, x, three);
        let (low, high) = (c.scalar(low), c.scalar(high));
        c.node(Op::Clip, &[s, low, high])
    };
    let gelu = |c: &mut Chain, x: ValueId, [root, one, half]: [f32; 3]| {
        let e = c.by(Binary::Div, x, root);
        let e = c.unary(Unary::Erf, e);
        let e = c.by(Binary::Add, e, one);
        let y = c.binary(Binary::Mul, x, e);
        c.by(Binary::Mul, y, half)
    };
    let tanh_gelu = |c: &mut Chain, x: ValueId, [scale, cubic, power]: [f32; 3]| {
        let cube = c.by(Binary::Pow, x, power);
        let cube = c.by(Binary::Mul, cube, cubic);
        let t = c.binary(Binary::Add, x, cube);
        let t = c.by(Binary::Mul, t, scale);
        let t = c.unary(Unary::Tanh, t);
        let t = c.by(Binary::Add, t, 1.0);
        let half = c.by(Binary::Mul, x, 0.5);
        c.binary(Binary::Mul, half, t)
    };
    let root = std::f32::consts::SQRT_2;
    let mut graphs = Vec::new();
    for (three, low, high, sixth) in [
        (3.0, 0.0, 6.0, 6.0),
        (3.0, 0.0, 6.0, 5.995),
        (3.0, 0.0, 6.0, 6.003),
        (3.0, 0.0, 6.0, 5.9999),
        (3.001, 0.0, 6.0, 6.0),
        (3.0, 0.001, 6.0, 6.0),
        (3.0, 0.0, 5.995, 6.0),
    ] {
        let (mut c, x) = chain();
        let s = clip(&mut c, x, [three, low, high]);
        let s = c.binary(Binary::Mul, x, s);
        c.by(Binary::Div, s, sixth);
        graphs.push((c.finish(), (three, low, high, sixth) == (3.0, 0.0, 6.0, 6.0)));
        let (mut c, x) = chain();
        let s = clip(&mut c, x, [three, low, high]);
        c.by(Binary::Mul, s, 1.0 / sixth);
        graphs.push((c.finish(), (three, low, high, sixth) == (3.0, 0.0, 6.0, 6.0)));
    }
    for constants in
        [[root, 1.0, 0.5], [1.4141, 1.0, 0.5], [1.415, 1.0, 0.5], [root, 1.001, 0.5], [root, 1.0, 0.4995]]
    {
        let (mut c, x) = chain();
        gelu(&mut c, x, constants);
        graphs.push((c.finish(), constants == [root, 1.0, 0.5]));
    }
    for constants in [
        [0.797_884_6, 0.044_715, 3.0],
        [0.7979, 0.044_715, 3.0],
        [0.797_884_6, 0.0447, 3.0],
        [0.797_884_6, 0.044_715, 2.0],
    ] {
        let (mut c, x) = chain();
        tanh_gelu(&mut c, x, constants);
        graphs.push((c.finish(), constants == [0.797_884_6, 0.044_715, 3.0]));
    }
    for alpha in [1.0 / 6.0, 1.0 / 5.995, 0.167, 0.2] {
        let (mut c, x) = chain();
        let s = c.unary(Unary::HardSigmoid { alpha, beta: 0.5 }, x);
        c.binary(Binary::Mul, x, s);
        graphs.push((c.finish(), alpha == 1.0 / 6.0));
    }
    // Large enough that a wrong third digit shows.
    let values: Vec<f32> =
        numbers(&[2, 5, 8], 7, 0.0).as_slice::<f32>().unwrap().iter().map(|v| v * 6.0).collect();
    let feeds = [("x", Tensor::from_slice(&[2, 5, 8], &values))];
    for (i, (graph, recognised)) in graphs.iter().enumerate() {
        check(graph, &feeds);
        let profile = prepare(graph, 1, true).profile(&views(&feeds), 1).unwrap();
        // Other functions in a row are one step as well, but named by what they are.
        let found = profile.nodes.len() == 1 && !profile.nodes[0].kernel.contains('+');
        assert_eq!(found, *recognised, "graph {i}");
    }
}

/// Of an image without pixels a window sees its pads: the result is the bias.
#[test]
fn images_without_pixels() {
    for stored in [false, true] {
        let mut graph = Graph::default();
        let x = graph.add_input("x", DataType::F32, [1, 2, 1, 0].map(Dim::Fixed).to_vec());
        let w = graph.add_weight("w", numbers(&[2, 2, 2, 2], 3, 0.8));
        let bias = graph.add_weight("bias", numbers(&[2], 4, 0.0));
        let op = Op::Conv(ConvAttributes {
            group: 1,
            kernel: vec![],
            strides: vec![2, 2],
            dilations: vec![],
            padding: Padding::Explicit(vec![1, 1, 1, 1]),
        });
        let y = graph.add_node(op, &[x, w, bias], "y");
        graph.outputs.push(y);
        if stored {
            graph.store_sparse();
        }
        check(&graph, &[("x", numbers(&[1, 2, 1, 0], 1, 0.0))]);
    }
}
