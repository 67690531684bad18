//! Convolutional networks over images `[batch, channels, 6, 6]`.

use poda_formats::op::{
    AspectRatioPolicy, Binary, ConvAttributes, CoordinateTransform, NearestRounding, Padding, PoolAttributes,
    PoolKind, ReduceKind, ResizeAttributes, ResizeMode, Unary,
};
use poda_formats::{DataType, Dim, Graph, Op, ValueId};

use super::Builder;

/// A layer of a convolutional network.
#[derive(Debug, Clone)]
pub(crate) enum Layer {
    Conv {
        out: usize,
        wide: bool,
        bias: bool,
    },
    Depthwise,
    Grouped {
        groups: usize,
        each: usize,
    },
    BatchNorm,
    Activation(usize),
    Save,
    Add,
    Concat,
    Split {
        both: bool,
    },
    Slice {
        start: usize,
        step: usize,
    },
    Shuffle {
        groups: usize,
    },
    SqueezeExcite,
    Pool {
        max: bool,
    },
    GroupNorm {
        groups: usize,
    },
    InstanceNorm,
    ResponseNorm,
    Deconvolution {
        groups: usize,
        each: usize,
    },
    Resize,
    /// Times a number that is brought to this rank.
    Scale {
        rank: usize,
    },
    /// Times a gate of one channel.
    Gate,
    /// Divided by a positive parameter of the channel: itself, or its reciprocal, root or logarithm on the way.
    Divide {
        how: usize,
    },
    /// A convolution whose kernel is a direction of norm 1 times a gain.
    WeightNorm {
        out: usize,
    },
    /// Divided by another convolution's channels, kept away from zero.
    DivideByConv,
}

const SIDE: usize = 6;

fn attributes(group: usize, kernel: usize) -> ConvAttributes {
    ConvAttributes {
        group,
        kernel: vec![kernel; 2],
        strides: vec![1; 2],
        dilations: vec![1; 2],
        padding: Padding::Explicit(vec![(kernel / 2) as i64; 4]),
    }
}

fn conv(
    b: &mut Builder,
    x: ValueId,
    from: usize,
    to: usize,
    group: usize,
    kernel: usize,
    bias: bool,
) -> ValueId {
    let mut inputs = vec![x, b.weight(&[to, from / group, kernel, kernel])];
    if bias {
        inputs.push(b.weight(&[to]));
    }
    b.node(Op::Conv(attributes(group, kernel)), &inputs)
}

/// What comes after the layers, before the classifier.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Head {
    /// All pixels.
    Flatten,
    /// Global pooling, and a reshape.
    Pool,
    /// Global pooling, and a squeeze of whatever is 1.
    Squeeze,
}

/// A network of `layers` and a classifier. Sizes of images are open where `open`, as far as the layers leave them so.
pub(crate) fn network(layers: &[Layer], head: Head, open: bool, seed: u64) -> Graph {
    let mut b = Builder::new(seed);
    // Both name the sizes of the image in a reshape.
    let binds = head == Head::Flatten || layers.iter().any(|layer| matches!(layer, Layer::Shuffle { .. }));
    let side = |name: &str| {
        if open && !binds { Dim::Symbol(name.into()) } else { Dim::Fixed(SIDE) }
    };
    let dims = vec![Dim::Symbol("batch".into()), Dim::Fixed(3), side("height"), side("width")];
    let x = b.graph.add_input("x", DataType::F32, dims);
    let (mut x, mut c) = (conv(&mut b, x, 3, 12, 1, 3, true), 12);
    let mut saved = (x, c);
    for layer in layers {
        (x, c) = add(&mut b, layer, x, c, &mut saved);
    }
    if head == Head::Flatten {
        let flat = b.node(Op::Flatten { axis: 1 }, &[x]);
        let inputs = [flat, b.weight(&[5, c * SIDE * SIDE]), b.weight(&[5])];
        let op = Op::Gemm { alpha: 1.0, beta: 1.0, trans_a: false, trans_b: true };
        x = b.node(op, &inputs);
    } else {
        x = b.node(Op::GlobalPool { kind: PoolKind::Average }, &[x]);
        // (A squeeze of a single channel would drop it.)
        let squeeze = head == Head::Squeeze && c > 1;
        x = if squeeze { b.node(Op::Squeeze, &[x]) } else { b.reshape(x, &[0, -1]) };
        let w = b.weight(&[c, 5]);
        x = b.node(Op::MatMul, &[x, w]);
    }
    b.graph.outputs.push(x);
    b.graph
}

fn add(
    b: &mut Builder,
    layer: &Layer,
    x: ValueId,
    c: usize,
    saved: &mut (ValueId, usize),
) -> (ValueId, usize) {
    match *layer {
        Layer::Conv { out, wide, bias } => (conv(b, x, c, out, 1, if wide { 3 } else { 1 }, bias), out),
        Layer::Depthwise => (conv(b, x, c, c, c, 3, true), c),
        Layer::Grouped { groups, each } if c.is_multiple_of(groups) => {
            (conv(b, x, c, groups * each, groups, 3, true), groups * each)
        }
        Layer::BatchNorm => {
            let inputs = [x, b.weight(&[c]), b.weight(&[c]), b.weight(&[c]), b.positive(&[c])];
            (b.node(Op::BatchNormalization { epsilon: 1e-3 }, &inputs), c)
        }
        Layer::Activation(kind) => {
            let unary = [
                Unary::Relu,
                Unary::Sigmoid,
                Unary::HardSwish,
                Unary::Tanh,
                Unary::Softplus,
                Unary::Gelu { approximate: false },
            ];
            match unary.get(kind) {
                Some(&unary) => (b.unary(unary, x), c),
                // x · sigmoid(x), spelled out.
                None => {
                    let gate = b.unary(Unary::Sigmoid, x);
                    (b.binary(Binary::Mul, x, gate), c)
                }
            }
        }
        Layer::Save => {
            *saved = (x, c);
            (x, c)
        }
        Layer::Add => {
            let (other, width) = *saved;
            let x = if width == c { x } else { conv(b, x, c, width, 1, 1, false) };
            (b.binary(Binary::Add, x, other), width)
        }
        Layer::Concat if c + saved.1 <= 64 => (b.node(Op::Concat { axis: 1 }, &[x, saved.0]), c + saved.1),
        Layer::Split { both } if c > 2 && c.is_multiple_of(2) => {
            let parts = b.outputs(Op::Split { axis: 1, num_outputs: Some(2) }, &[x], 2);
            if both {
                let gate = b.unary(Unary::Sigmoid, parts[1]);
                (b.binary(Binary::Mul, parts[0], gate), c / 2)
            } else {
                *saved = (parts[1], c / 2);
                (parts[0], c / 2)
            }
        }
        Layer::Slice { start, step } if c > start + step + 1 => {
            let inputs = [
                x,
                b.integers(&[start as i64]),
                b.integers(&[i64::MAX]),
                b.integers(&[1]),
                b.integers(&[step as i64]),
            ];
            (b.node(Op::Slice, &inputs), (c - start).div_ceil(step))
        }
        Layer::Shuffle { groups } if c.is_multiple_of(groups) && c > groups => {
            let (side, n) = (SIDE as i64, groups as i64);
            let split = b.reshape(x, &[-1, n, c as i64 / n, side, side]);
            let turned = b.node(Op::Transpose { perm: vec![0, 2, 1, 3, 4] }, &[split]);
            (b.reshape(turned, &[-1, c as i64, side, side]), c)
        }
        Layer::SqueezeExcite => {
            let pooled = b.node(Op::GlobalPool { kind: PoolKind::Average }, &[x]);
            let squeezed = conv(b, pooled, c, 5, 1, 1, true);
            let squeezed = b.unary(Unary::Relu, squeezed);
            let gate = conv(b, squeezed, 5, c, 1, 1, true);
            let gate = b.unary(Unary::HardSigmoid { alpha: 0.2, beta: 0.5 }, gate);
            (b.binary(Binary::Mul, x, gate), c)
        }
        Layer::Pool { max } => {
            let pool = PoolAttributes {
                kind: if max { PoolKind::Max } else { PoolKind::Average },
                kernel: vec![3, 3],
                strides: vec![1, 1],
                dilations: vec![1, 1],
                padding: Padding::Explicit(vec![1; 4]),
                ceil_mode: false,
                count_include_pad: true,
                column_major: false,
            };
            (b.node(Op::Pool(pool), &[x]), c)
        }
        Layer::GroupNorm { groups } if c.is_multiple_of(groups) => {
            let inputs = [x, b.weight(&[c]), b.weight(&[c])];
            (b.node(Op::GroupNormalization { num_groups: groups, epsilon: 1e-3 }, &inputs), c)
        }
        Layer::InstanceNorm => {
            let inputs = [x, b.weight(&[c]), b.weight(&[c])];
            (b.node(Op::InstanceNormalization { epsilon: 1e-3 }, &inputs), c)
        }
        Layer::Deconvolution { groups, each } if c.is_multiple_of(groups) => {
            let inputs = [x, b.weight(&[c, each, 3, 3]), b.weight(&[groups * each])];
            let conv = attributes(groups, 3);
            let op = Op::ConvTranspose { conv, output_padding: Vec::new(), output_shape: Vec::new() };
            (b.node(op, &inputs), groups * each)
        }
        // Up by a list of all sizes, and down again by pooling.
        Layer::Resize => {
            let batch = b.node(Op::Shape { start: 0, end: Some(1) }, &[x]);
            let rest = b.integers(&[c as i64, 2 * SIDE as i64, 2 * SIDE as i64]);
            let sizes = b.node(Op::Concat { axis: 0 }, &[batch, rest]);
            let attributes = ResizeAttributes {
                mode: ResizeMode::Nearest,
                coordinates: CoordinateTransform::Asymmetric,
                nearest: NearestRounding::Floor,
                antialias: false,
                axes: Vec::new(),
                cubic_coeff_a: -0.75,
                exclude_outside: false,
                extrapolation_value: 0.0,
                keep_aspect_ratio: AspectRatioPolicy::Stretch,
            };
            let up = b.node(Op::Resize(attributes), &[x, sizes]);
            let node = b.graph.nodes.last_mut().expect("just added");
            node.inputs = vec![Some(x), None, None, Some(sizes)];
            let pool = PoolAttributes {
                kind: PoolKind::Max,
                kernel: vec![2, 2],
                strides: vec![2, 2],
                dilations: Vec::new(),
                padding: Padding::Valid,
                ceil_mode: false,
                count_include_pad: false,
                column_major: false,
            };
            (b.node(Op::Pool(pool), &[up]), c)
        }
        // Global response normalisation: a mean over channels.
        Layer::ResponseNorm => {
            let (space, channels) = (b.integers(&[2, 3]), b.integers(&[1]));
            let reduce = |kind| Op::Reduce { kind, keep_dims: true, noop_with_empty_axes: false };
            let norm = b.node(reduce(ReduceKind::L2), &[x, space]);
            let mean = b.node(reduce(ReduceKind::Mean), &[norm, channels]);
            let epsilon = b.scalar(1e-3);
            let mean = b.binary(Binary::Add, mean, epsilon);
            let scale = b.binary(Binary::Div, norm, mean);
            (b.binary(Binary::Mul, x, scale), c)
        }
        Layer::Scale { rank } => {
            let number = b.scalar(1.5);
            let axes: Vec<i64> = (0..rank as i64).collect();
            let axes = b.integers(&axes);
            let number = if rank == 0 { number } else { b.node(Op::Unsqueeze, &[number, axes]) };
            (b.binary(Binary::Mul, x, number), c)
        }
        Layer::Gate => {
            let gate = conv(b, x, c, 1, 1, 1, true);
            let gate = b.unary(Unary::Sigmoid, gate);
            (b.binary(Binary::Mul, x, gate), c)
        }
        Layer::Divide { how } => {
            let v = b.positive(&[c, 1, 1]);
            let (op, v) = match how {
                0 => (Binary::Div, v),
                1 => (Binary::Mul, b.unary(Unary::Reciprocal, v)),
                2 => (Binary::Div, b.unary(Unary::Sqrt, v)),
                _ => (Binary::Mul, b.unary(Unary::Log, v)),
            };
            (b.binary(op, x, v), c)
        }
        Layer::WeightNorm { out } => {
            let (direction, gain) = (b.weight(&[out, c, 3, 3]), b.weight(&[out, 1, 1, 1]));
            let axes = b.integers(&[1, 2, 3]);
            let l2 = Op::Reduce { kind: ReduceKind::L2, keep_dims: true, noop_with_empty_axes: false };
            let norm = b.node(l2, &[direction, axes]);
            let unit = b.binary(Binary::Div, direction, norm);
            let kernel = b.binary(Binary::Mul, unit, gain);
            (b.node(Op::Conv(attributes(1, 3)), &[x, kernel]), out)
        }
        Layer::DivideByConv => {
            let divisor = conv(b, x, c, c, 1, 1, false);
            let divisor = b.binary(Binary::Mul, divisor, divisor);
            let (divisor, one) = (b.unary(Unary::Tanh, divisor), b.unary(Unary::Exp, x));
            let one = b.unary(Unary::Sigmoid, one);
            let divisor = b.binary(Binary::Add, divisor, one);
            (b.binary(Binary::Div, x, divisor), c)
        }
        Layer::Grouped { .. }
        | Layer::Deconvolution { .. }
        | Layer::Concat
        | Layer::Split { .. }
        | Layer::Slice { .. }
        | Layer::Shuffle { .. }
        | Layer::GroupNorm { .. } => (x, c),
    }
}
