//! `X · Wᵀ` from rows and matrix is what the operator computes, for every product there is.

use poda_formats::op::{ConvAttributes, Padding};
use poda_formats::{DataType, Dim, Tensor};
use poda_runtime::{Model, Options};

use super::*;

fn noise(shape: &[usize]) -> Tensor {
    let len: usize = shape.iter().product();
    Tensor::from_slice(shape, &(0..len).map(|i| ((i as f32 + 1.0) * 12.9898).sin()).collect::<Vec<_>>())
}

/// Every sum of squares of the outputs `X · Wᵀ`, of all groups, and that of the operator's output.
fn sums(op: Op, weight_at: usize, x: &[usize], w: &[usize]) -> (f64, f64) {
    let mut graph = Graph::default();
    let input = graph.add_input("x", DataType::F32, x.iter().map(|&d| Dim::Fixed(d)).collect());
    let weight = graph.add_weight("w", noise(w));
    let operands = if weight_at == 1 { [input, weight] } else { [weight, input] };
    let y = graph.add_node(op, &operands, "y");
    graph.outputs.push(y);
    let form = graph.matrix_uses()[&weight];
    let [of] = &uses(&graph, weight)[..] else { panic!("one use") };
    let x = noise(x);
    let view = x.view();
    let rows = Rows::new(&of.source, form, &view).unwrap().unwrap();
    let tensor = graph.weight(weight).unwrap().to_dense().unwrap();
    let matrix = form.rows_of(tensor.as_slice::<f32>().unwrap()).into_owned();
    let per_group = matrix.len() / rows.cols / rows.groups;
    let (mut row, mut found) = (vec![0.0; rows.cols], 0.0);
    for (group, at) in (0..rows.groups).flat_map(|g| (0..rows.rows).map(move |r| (g, r))) {
        rows.write(group, at, &mut row);
        for weights in matrix.chunks_exact(rows.cols).skip(group * per_group).take(per_group) {
            let sum: f64 = weights.iter().zip(&row).map(|(w, x)| f64::from(w * x)).sum();
            found += sum * sum;
        }
    }
    let options = Options { threads: Some(1), tune: false, ..Options::default() };
    let executable = Model::from_graph(graph).unwrap().prepare(options).unwrap();
    let outputs = executable.run(&[("x", x.view())]).unwrap();
    let expected = outputs[0].1.as_slice::<f32>().unwrap().iter().map(|&v| f64::from(v) * f64::from(v)).sum();
    (found, expected)
}

#[test]
fn rows_times_the_matrix_are_the_outputs() {
    let gemm = |trans_a, trans_b| Op::Gemm { alpha: 1.0, beta: 1.0, trans_a, trans_b };
    let conv = |group, pads: &[i64]| ConvAttributes {
        group,
        kernel: vec![],
        strides: vec![2, 1],
        dilations: vec![],
        padding: Padding::Explicit(pads.to_vec()),
    };
    let einsum = |equation: &str| Op::Einsum { equation: equation.to_owned() };
    // (A transposed convolution whose windows do not overlap adds nothing up.)
    let apart = ConvAttributes { strides: vec![2, 2], ..conv(2, &[0, 0, 0, 0]) };
    let transposed = Op::ConvTranspose { conv: apart, output_padding: vec![], output_shape: vec![] };
    let cases: Vec<(Op, usize, &[usize], &[usize])> = vec![
        (Op::MatMul, 1, &[2, 5, 7], &[7, 3]),
        (Op::MatMul, 1, &[7], &[7, 3]),
        (Op::MatMul, 1, &[2, 5, 7], &[2, 7, 3]),
        (Op::MatMul, 1, &[5, 7], &[2, 7, 3]),
        (Op::MatMul, 1, &[3, 2, 5, 7], &[2, 7, 4]),
        (Op::MatMul, 1, &[3, 1, 5, 7], &[2, 7, 4]),
        (Op::MatMul, 0, &[3, 7, 2], &[4, 7]),
        (gemm(false, true), 1, &[5, 7], &[3, 7]),
        (gemm(true, false), 1, &[7, 5], &[7, 3]),
        (gemm(false, false), 0, &[7, 5], &[4, 7]),
        (gemm(true, true), 0, &[5, 7], &[7, 4]),
        (Op::Conv(conv(1, &[1, 0, 2, 1])), 1, &[2, 4, 7, 6], &[6, 4, 3, 2]),
        (Op::Conv(conv(2, &[0, 0, 0, 0])), 1, &[2, 4, 7, 6], &[6, 2, 3, 2]),
        (transposed, 1, &[2, 4, 3, 3], &[4, 3, 2, 2]),
        (einsum("bnc,cd->bnd"), 1, &[2, 3, 4], &[4, 6]),
        (einsum("bqhd,hde->bqe"), 1, &[2, 3, 2, 4], &[2, 4, 5]),
        (einsum("ebn,ebm->enm"), 1, &[3, 4, 2], &[3, 4, 5]),
    ];
    for (op, weight_at, x, w) in cases {
        let name = format!("{op:?} {x:?} {w:?}");
        let (found, expected) = sums(op, weight_at, x, w);
        assert!((found - expected).abs() < 1e-4 * expected, "{name}: {found} {expected}");
    }
}

#[test]
fn shapes_that_fit_no_product_are_none() {
    let form = MatrixForm { parts: 1, rows: 2, cols: 3, transposed: false };
    let x = noise(&[4, 5]);
    let rows = |source: &Source| Rows::new(source, form, &x.view()).unwrap().is_none();
    assert!(rows(&Source::Matrix { transposed: false }));
    assert!(rows(&Source::States { directions: 1, batch_first: false }));
    let ids = Tensor::from_slice(&[2, 3], &[1_i64; 6]);
    assert!(Rows::new(&Source::Matrix { transposed: false }, form, &ids.view()).unwrap().is_none());
}
