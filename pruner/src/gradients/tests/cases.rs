//! The table: operators, attributes and shapes.

use poda_formats::op::*;
use poda_formats::{Boolean, Tensor};

use super::In::{Absent, Constant, Fed, Positive, Small, X};
use super::{check, check_of, ints};

#[test]
fn products() {
    for (a, b) in [
        (&[3, 4][..], &[4, 5][..]),
        (&[2, 3, 4], &[4, 5]),
        (&[2, 3, 4], &[2, 4, 5]),
        (&[3, 4], &[2, 4, 5]),
        (&[2, 1, 3, 4], &[3, 4, 2]),
        (&[4], &[4, 5]),
        (&[3, 4], &[4]),
        (&[4], &[4]),
        (&[4], &[2, 4, 3]),
        (&[2, 3, 4], &[4]),
        (&[1, 3, 4], &[1, 4, 5]),
    ] {
        check(&Op::MatMul, &[X(a), X(b)]);
    }
    for (trans_a, trans_b) in [(false, false), (true, false), (false, true), (true, true)] {
        let a: &[usize] = if trans_a { &[4, 3] } else { &[3, 4] };
        let b: &[usize] = if trans_b { &[5, 4] } else { &[4, 5] };
        let op = Op::Gemm { alpha: 0.5, beta: 2.0, trans_a, trans_b };
        for c in [&[5][..], &[3, 1], &[3, 5], &[]] {
            check(&op, &[X(a), X(b), X(c)]);
        }
        check(&op, &[X(a), X(b)]);
    }
    for (equation, shapes) in [
        ("ij,jk->ik", vec![&[3, 4][..], &[4, 5]]),
        ("bij,bkj->bik", vec![&[2, 3, 4], &[2, 5, 4]]),
        ("bhid,bhjd->bhij", vec![&[2, 2, 3, 4], &[2, 2, 5, 4]]),
        ("ij->j", vec![&[3, 4]]),
        ("i,j->ij", vec![&[3], &[4]]),
        ("ij,ik,kj", vec![&[3, 4], &[3, 2], &[2, 4]]),
    ] {
        let inputs: Vec<_> = shapes.into_iter().map(X).collect();
        check(&Op::Einsum { equation: equation.into() }, &inputs);
    }
}

fn conv(group: usize, strides: &[usize], dilations: &[usize], padding: Padding) -> ConvAttributes {
    let (strides, dilations) = (strides.to_vec(), dilations.to_vec());
    ConvAttributes { group, kernel: vec![], strides, dilations, padding }
}

fn pads(pads: &[i64]) -> Padding {
    Padding::Explicit(pads.to_vec())
}

#[test]
fn convolutions() {
    type Case = (&'static [usize], &'static [usize], usize, &'static [usize], &'static [usize], Padding);
    let cases: [Case; 13] = [
        (&[1, 3, 5, 6], &[4, 3, 3, 3], 1, &[], &[], pads(&[])),
        (&[2, 3, 5, 6], &[4, 3, 3, 3], 1, &[], &[], pads(&[1, 1, 1, 1])),
        (&[2, 4, 7, 5], &[6, 2, 3, 2], 2, &[2, 1], &[1, 2], pads(&[1, 0, 2, 3])),
        (&[2, 3, 6, 6], &[3, 1, 3, 3], 3, &[2, 2], &[], Padding::SameLower),
        (&[2, 3, 6, 7], &[6, 1, 2, 4], 3, &[3, 2], &[], Padding::SameUpper),
        (&[2, 2, 4, 4], &[3, 2, 1, 1], 1, &[], &[], pads(&[])),
        (&[2, 2, 5, 5], &[3, 2, 1, 1], 1, &[2, 2], &[], pads(&[])),
        (&[1, 2, 4, 4], &[3, 2, 2, 2], 1, &[], &[], pads(&[-1, 0, 0, -1])),
        (&[1, 1, 1, 1], &[1, 1, 3, 3], 1, &[5, 5], &[], pads(&[4, 4, 4, 4])),
        (&[2, 3, 8], &[4, 3, 3], 1, &[2], &[2], pads(&[1, 0])),
        (&[1, 2, 3, 4, 3], &[2, 2, 2, 2, 2], 1, &[1, 2, 1], &[], pads(&[])),
        (&[1, 3, 8, 8], &[4, 3, 3, 3], 1, &[3, 3], &[], pads(&[0, 0, 0, 0])),
        (&[1, 2, 5, 5], &[2, 2, 3, 3], 1, &[], &[], Padding::Valid),
    ];
    for (x, w, group, strides, dilations, padding) in cases {
        let attributes = conv(group, strides, dilations, padding);
        check(&Op::Conv(attributes.clone()), &[X(x), X(w), X(if w[0] == 6 { &[6] } else { BIAS[w[0]] })]);
        check(&Op::Conv(attributes), &[X(x), X(w)]);
    }
}

const BIAS: [&[usize]; 7] = [&[0], &[1], &[2], &[3], &[4], &[5], &[6]];

#[test]
fn transposed_convolutions() {
    type Case =
        (&'static [usize], &'static [usize], usize, &'static [usize], &'static [usize], Padding, Vec<usize>);
    let cases: [Case; 6] = [
        (&[1, 3, 4, 3], &[3, 2, 3, 3], 1, &[], &[], pads(&[]), vec![]),
        (&[2, 3, 4, 3], &[3, 2, 3, 3], 1, &[2, 2], &[], pads(&[1, 1, 1, 1]), vec![1, 1]),
        (&[1, 4, 3, 3], &[4, 1, 2, 3], 2, &[2, 1], &[1, 2], pads(&[0, 1, 1, 0]), vec![]),
        (&[1, 3, 3, 3], &[3, 1, 3, 3], 3, &[3, 2], &[], pads(&[]), vec![2, 0]),
        (&[2, 2, 5], &[2, 3, 4], 1, &[2], &[], pads(&[1, 1]), vec![]),
        (&[1, 2, 3, 3], &[2, 2, 2, 2], 1, &[2, 2], &[], Padding::Valid, vec![]),
    ];
    for (x, w, group, strides, dilations, padding, output_padding) in cases {
        let conv = conv(group, strides, dilations, padding);
        let op = Op::ConvTranspose { conv, output_padding, output_shape: vec![] };
        check(&op, &[X(x), X(w), X(BIAS[w[1] * group])]);
    }
}

fn pool(kind: PoolKind, kernel: &[usize], strides: &[usize], padding: Padding) -> PoolAttributes {
    let (kernel, strides) = (kernel.to_vec(), strides.to_vec());
    let (ceil_mode, count_include_pad) = (false, false);
    PoolAttributes {
        kind,
        kernel,
        strides,
        dilations: vec![],
        padding,
        ceil_mode,
        count_include_pad,
        column_major: false,
    }
}

#[test]
fn pools() {
    for kind in [PoolKind::Max, PoolKind::Average] {
        let cases = [
            (&[2, 3, 6, 6][..], pool(kind, &[2, 2], &[2, 2], pads(&[]))),
            (&[1, 2, 7, 5], pool(kind, &[3, 3], &[2, 2], pads(&[1, 1, 1, 1]))),
            (&[1, 2, 7, 5], pool(kind, &[3, 2], &[1, 1], pads(&[0, 1, 1, 0]))),
            (&[1, 2, 7, 5], PoolAttributes { ceil_mode: true, ..pool(kind, &[3, 2], &[2, 2], pads(&[])) }),
            (&[1, 2, 6, 6], pool(kind, &[3, 3], &[2, 2], Padding::SameUpper)),
            (&[1, 2, 9], pool(kind, &[3], &[2], pads(&[1, 0]))),
            (
                &[1, 2, 7, 7],
                PoolAttributes { dilations: vec![2, 1], ..pool(kind, &[2, 3], &[1, 2], pads(&[])) },
            ),
            (&[1, 1, 4, 4], pool(kind, &[1, 1], &[2, 2], pads(&[]))),
        ];
        for (x, attributes) in cases {
            check(&Op::Pool(attributes.clone()), &[X(x)]);
            if kind == PoolKind::Average {
                check(&Op::Pool(PoolAttributes { count_include_pad: true, ..attributes }), &[X(x)]);
            }
        }
        for x in [&[2, 3, 4, 5][..], &[1, 2, 6]] {
            check(&Op::GlobalPool { kind }, &[X(x)]);
        }
    }
    check_of(&Op::Pool(pool(PoolKind::Max, &[2, 2], &[1, 1], pads(&[]))), &[X(&[1, 2, 4, 4])], 2);
}

#[test]
fn resizes() {
    let attributes = |mode, coordinates| ResizeAttributes {
        mode,
        coordinates,
        nearest: NearestRounding::RoundPreferFloor,
        antialias: false,
        axes: vec![],
        cubic_coeff_a: -0.75,
        exclude_outside: false,
        extrapolation_value: 0.0,
        keep_aspect_ratio: AspectRatioPolicy::Stretch,
    };
    let scales = |s: &[f32]| Constant(Tensor::from_slice(&[s.len()], s));
    for mode in [ResizeMode::Nearest, ResizeMode::Linear, ResizeMode::Cubic] {
        for coordinates in [
            CoordinateTransform::HalfPixel,
            CoordinateTransform::AlignCorners,
            CoordinateTransform::Asymmetric,
            CoordinateTransform::PytorchHalfPixel,
        ] {
            let op = Op::Resize(attributes(mode, coordinates));
            check(&op, &[X(&[1, 2, 3, 4]), Absent, scales(&[1.0, 1.0, 2.0, 1.5])]);
            check(&op, &[X(&[1, 2, 5, 4]), Absent, Absent, ints(&[1, 2, 3, 7])]);
        }
        let axes = ResizeAttributes { axes: vec![2, -1], ..attributes(mode, CoordinateTransform::HalfPixel) };
        check(&Op::Resize(axes), &[X(&[1, 2, 3, 4]), Absent, Absent, ints(&[6, 8])]);
    }
}

#[test]
fn functions_of_one_input() {
    let anywhere = [
        Unary::Abs,
        Unary::Asinh,
        Unary::Atan,
        Unary::Ceil,
        Unary::Celu { alpha: 0.5 },
        Unary::Cos,
        Unary::Cosh,
        Unary::Elu { alpha: 0.5 },
        Unary::Erf,
        Unary::Exp,
        Unary::Gelu { approximate: true },
        Unary::Gelu { approximate: false },
        Unary::HardSigmoid { alpha: 0.25, beta: 0.5 },
        Unary::HardSwish,
        Unary::LeakyRelu { alpha: 0.125 },
        Unary::Mish,
        Unary::Neg,
        Unary::Reciprocal,
        Unary::Relu,
        Unary::Selu { alpha: 1.5, gamma: 1.25 },
        Unary::Shrink { bias: 0.25, lambda: 0.5 },
        Unary::Sigmoid,
        Unary::Sign,
        Unary::Sin,
        Unary::Sinh,
        Unary::Softplus,
        Unary::Softsign,
        Unary::Swish { alpha: 1.5 },
        Unary::Tan,
        Unary::Tanh,
        Unary::ThresholdedRelu { alpha: 0.3 },
    ];
    for function in anywhere {
        if function == Unary::Reciprocal {
            check(&Op::Unary(function), &[Positive(&[2, 13])]);
        } else if function == Unary::Tan {
            check(&Op::Unary(function), &[Small(&[2, 13])]);
        } else {
            check(&Op::Unary(function), &[X(&[2, 13])]);
        }
    }
    for function in [Unary::Log, Unary::Sqrt] {
        check(&Op::Unary(function), &[Positive(&[2, 13])]);
    }
    for function in [Unary::Acos, Unary::Asin, Unary::Atanh] {
        check(&Op::Unary(function), &[Small(&[2, 13])]);
    }
}

#[test]
fn functions_of_several_inputs() {
    for op in [Binary::Add, Binary::Sub, Binary::Mul, Binary::Div, Binary::Pow] {
        for (a, b) in [
            (&[2, 3, 4][..], &[2, 3, 4][..]),
            (&[2, 3, 4], &[4]),
            (&[2, 3, 4], &[3, 1]),
            (&[3, 1], &[2, 3, 4]),
            (&[2, 1, 4], &[3, 1]),
            (&[], &[2, 3]),
            (&[2, 3], &[1, 1, 3]),
        ] {
            check(&Op::Binary(op), &[Positive(a), Positive(b)]);
        }
    }
    check(&Op::Binary(Binary::PRelu), &[X(&[2, 3, 4]), X(&[3, 1])]);
    check(
        &Op::Binary(Binary::Mod { fmod: true }),
        &[X(&[2, 3]), Constant(Tensor::from_slice(&[3], &[0.7_f64; 3]))],
    );
    for op in [Variadic::Max, Variadic::Min, Variadic::Sum, Variadic::Mean] {
        check(&Op::Variadic(op), &[X(&[2, 3, 4]), X(&[4]), X(&[3, 1])]);
        check(&Op::Variadic(op), &[X(&[5])]);
    }
    let bound = |v: f64| Constant(Tensor::scalar(v));
    check(&Op::Clip, &[X(&[2, 9]), bound(-0.5), bound(0.7)]);
    check(&Op::Clip, &[X(&[2, 9]), Absent, bound(0.7)]);
    let condition: Vec<Boolean> = (0..6).map(|i| Boolean(u8::from(i % 3 == 0))).collect();
    let condition = Tensor::from_slice(&[2, 3], &condition);
    check(&Op::Where, &[Constant(condition.clone()), X(&[2, 3]), X(&[3])]);
    check(&Op::Where, &[Fed(condition), X(&[]), X(&[4, 2, 3])]);
    check(&Op::Identity, &[X(&[3])]);
    check(&Op::Cast { to: poda_formats::DataType::F64 }, &[X(&[3])]);
}

#[test]
fn reductions() {
    use ReduceKind::*;
    for kind in [Sum, Mean, Max, Min, Prod, L1, L2, LogSum, LogSumExp, SumSquare] {
        for keep_dims in [false, true] {
            let op = |noop_with_empty_axes| Op::Reduce { kind, keep_dims, noop_with_empty_axes };
            check(&op(false), &[Positive(&[2, 3, 4]), ints(&[1])]);
            check(&op(false), &[Positive(&[2, 3, 4]), ints(&[-1, 0])]);
            check(&op(false), &[Positive(&[2, 3, 4])]);
        }
    }
    let k = ints(&[2]);
    for largest in [false, true] {
        check_of(&Op::TopK { axis: 1, largest, sorted: true }, &[X(&[3, 5]), k.clone()], 2);
    }
    for (exclusive, reverse) in [(false, false), (true, false), (false, true), (true, true)] {
        let op = Op::Cumulative { kind: CumulativeKind::Sum, exclusive, reverse };
        check(&op, &[X(&[3, 5]), Constant(Tensor::scalar(1_i64))]);
    }
}

#[test]
fn losses() {
    let labels = |shape: &[usize], values: &[i64]| Fed(Tensor::from_slice(shape, values));
    for reduction in [LossReduction::None, LossReduction::Sum, LossReduction::Mean] {
        for make in [Op::SoftmaxCrossEntropyLoss, Op::NegativeLogLikelihoodLoss] {
            let op = make(LossAttributes { reduction, ignore_index: None });
            check(&op, &[X(&[4, 3]), labels(&[4], &[0, 2, 1, 2])]);
            check(&op, &[X(&[2, 3, 2]), labels(&[2, 2], &[0, 2, 1, 2])]);
            let weights = Constant(Tensor::from_slice(&[3], &[1.0_f64, 0.5, 2.0]));
            check(&op, &[X(&[4, 3]), labels(&[4], &[0, 2, 1, 2]), weights]);
            let op = make(LossAttributes { reduction, ignore_index: Some(-1) });
            check(&op, &[X(&[4, 3]), labels(&[4], &[0, -1, 1, 2])]);
        }
    }
}

#[test]
fn movements() {
    for (from, to) in [(&[2, 6][..], [3, 4]), (&[12], [3, 4])] {
        check(&Op::Reshape { allow_zero: false }, &[X(from), ints(&to)]);
    }
    check(&Op::Flatten { axis: 2 }, &[X(&[2, 3, 4])]);
    check(&Op::Squeeze, &[X(&[2, 1, 3]), ints(&[1])]);
    check(&Op::Unsqueeze, &[X(&[2, 3]), ints(&[0, 2])]);
    for perm in [vec![], vec![1, 2, 0], vec![0, 2, 1]] {
        check(&Op::Transpose { perm }, &[X(&[2, 3, 4])]);
    }
    check(&Op::Concat { axis: -1 }, &[X(&[2, 3]), X(&[2, 1]), X(&[2, 2])]);
    check_of(&Op::Split { axis: 1, num_outputs: None }, &[X(&[2, 6]), ints(&[1, 3, 2])], 3);
    for (starts, ends, axes, steps) in [
        (&[1, 0][..], &[3, 2][..], &[0, 1][..], &[1, 1][..]),
        (&[-3], &[i64::MAX], &[-1], &[2]),
        (&[-1], &[i64::MIN], &[1], &[-1]),
        (&[4, 1], &[0, 9], &[2, 0], &[-2, 1]),
    ] {
        check(&Op::Slice, &[X(&[3, 4, 5]), ints(starts), ints(ends), ints(axes), ints(steps)]);
    }
    check(&Op::Slice, &[X(&[3, 4]), ints(&[1]), ints(&[2])]);
    check(&Op::Expand, &[X(&[3, 1]), ints(&[2, 3, 4])]);
    check(&Op::Tile, &[X(&[2, 3]), ints(&[2, 3])]);
    check(&Op::Pad { mode: PadMode::Constant }, &[X(&[2, 3]), ints(&[1, 0, 2, -1])]);
    check(&Op::Pad { mode: PadMode::Constant }, &[X(&[2, 3]), ints(&[1, 2]), Absent, ints(&[-1])]);
    for mode in [PadMode::Reflect, PadMode::Edge, PadMode::Wrap] {
        check(&Op::Pad { mode }, &[X(&[2, 4, 5]), ints(&[0, 1, 2, 0, 2, 0])]);
    }
    for mode in [DepthToSpaceMode::DepthColumnRow, DepthToSpaceMode::ColumnRowDepth] {
        check(&Op::DepthToSpace { block_size: 2, mode }, &[X(&[1, 8, 2, 3])]);
    }
    check(&Op::SpaceToDepth { block_size: 2 }, &[X(&[1, 2, 4, 6])]);
    check(&Op::Trilu { upper: true }, &[X(&[2, 3, 4])]);
    check(&Op::Trilu { upper: false }, &[X(&[4, 4]), Constant(Tensor::scalar(-1_i64))]);
    check(&Op::ReverseSequence { batch_axis: 1, time_axis: 0 }, &[X(&[4, 2, 3]), ints(&[3, 2])]);
}

#[test]
fn indices() {
    let indices = |shape: &[usize], values: &[i64]| Tensor::from_slice(shape, values);
    for axis in [0, 1, -1] {
        check(&Op::Gather { axis }, &[X(&[3, 4, 3]), Fed(indices(&[2, 2], &[0, 2, 0, -1]))]);
        check(&Op::Gather { axis }, &[X(&[3, 4, 3]), Constant(indices(&[], &[1]))]);
    }
    check(&Op::Gather { axis: 0 }, &[X(&[7, 3]), Fed(indices(&[5], &[6, 6, 0, 1, 6]))]);
    check(&Op::GatherElements { axis: 1 }, &[X(&[2, 3]), Fed(indices(&[2, 2], &[0, 0, 2, -1]))]);
    check(&Op::GatherNd { batch_dims: 0 }, &[X(&[2, 3, 2]), Fed(indices(&[3, 2], &[0, 0, 1, 2, 0, 0]))]);
    for reduction in [ScatterReduction::None, ScatterReduction::Add] {
        check(
            &Op::ScatterElements { axis: 0, reduction },
            &[X(&[3, 3]), Fed(indices(&[2, 3], &[1, 0, 2, 0, 2, 1])), X(&[2, 3])],
        );
        check(&Op::ScatterNd { reduction }, &[X(&[4, 2]), Fed(indices(&[2, 1], &[3, 1])), X(&[2, 2])]);
    }
}

#[test]
fn norms() {
    let epsilon = 1e-3;
    for x in [&[3, 4, 2, 3][..], &[4, 4], &[2, 4, 5]] {
        let channel = || X(&[4]);
        let batch = Op::BatchNormalization { epsilon };
        check(&batch, &[X(x), channel(), channel(), channel(), Positive(&[4])]);
    }
    for x in [&[2, 4, 2, 3][..], &[2, 4, 5]] {
        check(&Op::InstanceNormalization { epsilon }, &[X(x), X(&[4]), X(&[4])]);
        check(&Op::GroupNormalization { num_groups: 2, epsilon }, &[X(x), X(&[4]), X(&[4])]);
    }
    for (axis, scale) in [(-1, &[5][..]), (1, &[3, 5]), (-1, &[1])] {
        check(&Op::LayerNormalization { axis, epsilon }, &[X(&[2, 3, 5]), X(scale), X(scale)]);
        check(&Op::LayerNormalization { axis, epsilon }, &[X(&[2, 3, 5]), X(scale)]);
        check(&Op::RmsNormalization { axis, epsilon }, &[X(&[2, 3, 5]), X(scale)]);
    }
    for p in [1, 2] {
        check(&Op::LpNormalization { axis: 1, p }, &[X(&[2, 3, 4])]);
    }
    check(&Op::MeanVarianceNormalization { axes: vec![0, 2, 3] }, &[X(&[2, 3, 2, 2])]);
    check(&Op::Lrn { size: 3, alpha: 0.5, beta: 0.75, bias: 1.0 }, &[X(&[2, 5, 2, 2])]);
    for kind in [SoftmaxKind::Softmax, SoftmaxKind::LogSoftmax] {
        for axis in [-1, 1, 0] {
            check(&Op::Softmax { kind, axis }, &[X(&[2, 3, 4])]);
        }
    }
}

#[test]
fn attention() {
    let attributes = |q_num_heads, kv_num_heads| AttentionAttributes {
        is_causal: false,
        q_num_heads,
        kv_num_heads,
        scale: None,
        softcap: 0.0,
        qk_matmul_output_mode: 0,
    };
    let flat = || [X(&[2, 3, 8]), X(&[2, 4, 8]), X(&[2, 4, 6])];
    check(&Op::Attention(attributes(2, 2)), &flat());
    let causal = AttentionAttributes { is_causal: true, scale: Some(0.3), ..attributes(2, 2) };
    check(&Op::Attention(causal), &[X(&[2, 4, 8]), X(&[2, 4, 8]), X(&[2, 4, 6])]);
    check(&Op::Attention(attributes(4, 2)), &[X(&[1, 3, 8]), X(&[1, 5, 4]), X(&[1, 5, 4])]);
    let deep = [X(&[1, 2, 3, 4]), X(&[1, 2, 5, 4]), X(&[1, 2, 5, 3])];
    check(&Op::Attention(attributes(0, 0)), &deep);
    let capped = AttentionAttributes { softcap: 1.5, ..attributes(0, 0) };
    check(&Op::Attention(capped), &[&deep[..], &[X(&[3, 5])]].concat());
    let mask: Vec<Boolean> = (0..15).map(|i| Boolean(u8::from(i % 4 != 1))).collect();
    let mask = Constant(Tensor::from_slice(&[3, 5], &mask));
    check(&Op::Attention(attributes(0, 0)), &[&deep[..], &[mask]].concat());
}

#[test]
fn recurrent_layers() {
    const W: [[&[usize]; 3]; 2] =
        [[&[1, 3, 4], &[1, 9, 4], &[1, 12, 4]], [&[2, 3, 4], &[2, 9, 4], &[2, 12, 4]]];
    const R: [[&[usize]; 3]; 2] =
        [[&[1, 3, 3], &[1, 9, 3], &[1, 12, 3]], [&[2, 3, 3], &[2, 9, 3], &[2, 12, 3]]];
    const B: [[&[usize]; 3]; 2] = [[&[1, 6], &[1, 18], &[1, 24]], [&[2, 6], &[2, 18], &[2, 24]]];
    const H: [&[usize]; 2] = [&[1, 2, 3], &[2, 2, 3]];
    let kinds = [
        (RecurrentKind::Rnn, 0, 2),
        (RecurrentKind::Gru { linear_before_reset: false }, 1, 2),
        (RecurrentKind::Gru { linear_before_reset: true }, 1, 2),
        (RecurrentKind::Lstm { input_forget: false }, 2, 3),
    ];
    for (kind, gates, outputs) in kinds {
        for (direction, d) in
            [(Direction::Forward, 0), (Direction::Reverse, 0), (Direction::Bidirectional, 1)]
        {
            let op = |batch_first| {
                Op::Recurrent(RecurrentAttributes {
                    kind,
                    hidden_size: 3,
                    direction,
                    activations: vec![],
                    activation_alpha: vec![],
                    activation_beta: vec![],
                    clip: None,
                    batch_first,
                })
            };
            let weights = [Small(W[d][gates]), Small(R[d][gates])];
            check_of(&op(false), &[&[X(&[3, 2, 4])][..], &weights].concat(), outputs);
            let mut all = [&[X(&[3, 2, 4])][..], &weights, &[X(B[d][gates]), Absent, X(H[d])]].concat();
            if gates == 2 {
                all.push(X(H[d]));
            }
            check_of(&op(false), &all, outputs);
            let states = [&[X(&[2, 3, 4])][..], &weights, &[X(B[d][gates])]].concat();
            check_of(&op(true), &states, outputs);
        }
    }
}
