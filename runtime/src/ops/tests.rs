//! Semantics of operators that are easy to get wrong and that ONNX's own vectors leave out, through the table of
//! operators: each case is an operator, its inputs, and the outputs, or `None` for an error.

use half::f16;
use poda_formats::op::{
    Binary, CumulativeKind, DepthToSpaceMode, PadMode, ReduceKind, ScatterReduction, Unary, Variadic,
};
use poda_formats::{Boolean, DataType, Element, Op, Tensor, TensorView};

use super::{OpError, infer, run};
use crate::info::Info;
use crate::output::Output;

/// The outputs, after holding against them what `infer` promises of known inputs, and of known types and shapes.
fn apply(op: &Op, inputs: &[Option<Tensor>], outputs: usize) -> Result<Vec<Tensor>, OpError> {
    let views: Vec<Option<TensorView<'_>>> = inputs.iter().map(|t| t.as_ref().map(Tensor::view)).collect();
    let mut fresh: Vec<Output<'_>> = (0..outputs).map(|_| Output::Fresh(None)).collect();
    run(op, &views, &mut fresh)?;
    let tensors: Vec<Tensor> = fresh
        .into_iter()
        .map(|output| match output {
            Output::Fresh(Some(tensor)) => tensor.into_tensor(),
            other => panic!("{op:?} left {other:?}"),
        })
        .collect();
    for with_elements in [false, true] {
        let info = |t: &Tensor| {
            if with_elements { Info::constant(t.clone()) } else { Info::new(t.dtype(), t.shape().to_vec()) }
        };
        let infos: Vec<Option<Info>> = inputs.iter().map(|t| t.as_ref().map(info)).collect();
        let infos: Vec<Option<&Info>> = infos.iter().map(Option::as_ref).collect();
        for (info, tensor) in infer(op, &infos, outputs)?.iter().zip(&tensors) {
            assert_eq!(info.dtype, tensor.dtype(), "{op:?}");
            assert!(info.shape.as_deref().is_none_or(|shape| shape == tensor.shape()), "{op:?}: {info:?}");
        }
    }
    Ok(tensors)
}

/// An input.
#[allow(clippy::unnecessary_wraps)]
fn t<T: Element>(shape: &[usize], values: &[T]) -> Option<Tensor> {
    Some(Tensor::from_slice(shape, values))
}

fn v<T: Element>(values: &[T]) -> Option<Tensor> {
    t(&[values.len()], values)
}

fn b(values: &[bool]) -> Option<Tensor> {
    v(&values.iter().map(|&b| Boolean::from(b)).collect::<Vec<_>>())
}

fn h(values: &[f32]) -> Option<Tensor> {
    v(&values.iter().map(|&x| f16::from_f32(x)).collect::<Vec<_>>())
}

fn binary(function: Binary) -> Op {
    Op::Binary(function)
}

fn check(cases: Vec<(Op, Vec<Option<Tensor>>, Option<Tensor>)>) {
    for (op, inputs, expected) in cases {
        let found = apply(&op, &inputs, 1);
        match (&found, &expected) {
            (Err(_), None) => {}
            (Ok(found), Some(expected)) if found[0] == *expected => {}
            _ => panic!(
                "{op:?} of {inputs:?}\ngave {:?}\nnot {:?}",
                found.map(|f| show(&f[0])),
                expected.map(|e| show(&e))
            ),
        }
    }
}

fn show(tensor: &Tensor) -> String {
    format!("{tensor:?} {:?}", super::cast::converted::<f64>(tensor.view()))
}

#[test]
fn arithmetic_of_integers_wraps_and_refuses_zero_divisors() {
    let shift = |left| binary(Binary::BitShift { left });
    let modulo = |fmod| binary(Binary::Mod { fmod });
    check(vec![
        (binary(Binary::Add), vec![v(&[i8::MAX, -3]), v(&[1i8, 1])], v(&[i8::MIN, -2])),
        (binary(Binary::Mul), vec![v(&[1u8 << 7]), v(&[3u8])], v(&[128u8])),
        (binary(Binary::Sub), vec![v(&[0u64]), v(&[1u64])], v(&[u64::MAX])),
        (binary(Binary::Div), vec![v(&[-7i32, i32::MIN]), v(&[2i32, -1])], v(&[-3i32, i32::MIN])),
        (binary(Binary::Div), vec![v(&[7i64]), v(&[0i64])], None),
        (binary(Binary::Div), vec![v(&[1.0f32]), v(&[0.0f32])], v(&[f32::INFINITY])),
        (modulo(false), vec![v(&[i64::MIN, -7]), v(&[-1i64, 3])], v(&[0i64, 2])),
        (modulo(true), vec![v(&[-7i64]), v(&[3i64])], v(&[-1i64])),
        (modulo(false), vec![v(&[1u8]), v(&[0u8])], None),
        (shift(true), vec![v(&[1u8, 1, 1]), v(&[7u8, 8, 255])], v(&[128u8, 0, 0])),
        (shift(false), vec![v(&[u64::MAX, 4]), v(&[64u64, 1])], v(&[0u64, 2])),
        (shift(false), vec![v(&[1i32]), v(&[1i32])], None),
        (binary(Binary::Pow), vec![v(&[2i32, -2]), v(&[31i32, 3])], v(&[i32::MIN, -8])),
        (binary(Binary::Pow), vec![v(&[2i64]), v(&[-1i64])], v(&[0i64])),
        (binary(Binary::Pow), vec![v(&[3i32]), v(&[2.0f32])], v(&[9i32])),
        (binary(Binary::Pow), vec![v(&[3.0f32, -2.0]), v(&[2i64])], v(&[9.0f32, 4.0])),
        (binary(Binary::Pow), vec![v(&[4.0f32, f32::NEG_INFINITY]), v(&[0.5f32])], v(&[2.0, f32::INFINITY])),
        (binary(Binary::BitwiseXor), vec![v(&[-1i16]), v(&[1i16])], v(&[-2i16])),
        (binary(Binary::Add), vec![b(&[true]), b(&[true])], None),
        (binary(Binary::Add), vec![v(&[1i32]), v(&[1i64])], None),
        (binary(Binary::Add), vec![v(&[1i32]), None], None),
        (Op::Unary(Unary::Abs), vec![v(&[i32::MIN, -1])], v(&[i32::MIN, 1])),
        (Op::Unary(Unary::Neg), vec![v(&[i64::MIN])], v(&[i64::MIN])),
        (Op::Unary(Unary::BitwiseNot), vec![v(&[0u16])], v(&[u16::MAX])),
        (Op::Unary(Unary::Sign), vec![v(&[-0.0f32, -3.0, 2.0])], v(&[-0.0f32, -1.0, 1.0])),
        (Op::Unary(Unary::Exp), vec![v(&[1i32])], None),
        (Op::Unary(Unary::Round), vec![v(&[0.5f64, 1.5, -2.5])], v(&[0.0f64, 2.0, -2.0])),
        (Op::Unary(Unary::Relu), vec![v(&[f32::NAN, -0.5])], v(&[f32::NAN, 0.0])),
    ]);
}

#[test]
fn halves_are_computed_by_way_of_f32() {
    check(vec![
        (binary(Binary::Add), vec![h(&[1.5, 2.0]), h(&[0.25])], h(&[1.75, 2.0 + 0.25])),
        (binary(Binary::Less), vec![h(&[1.0, 2.0]), h(&[2.0, 1.0])], b(&[true, false])),
        (binary(Binary::Pow), vec![v(&[2.0f32]), h(&[3.0])], v(&[8.0f32])),
        (binary(Binary::Pow), vec![h(&[2.0]), v(&[3i64])], h(&[8.0])),
        (Op::Unary(Unary::Sqrt), vec![h(&[9.0, f32::INFINITY])], h(&[3.0, f32::INFINITY])),
        (Op::Unary(Unary::IsNan), vec![h(&[f32::NAN, 1.0])], b(&[true, false])),
        (Op::Variadic(Variadic::Max), vec![h(&[1.0]), h(&[2.0, 0.0])], h(&[2.0, 1.0])),
        (Op::Clip, vec![h(&[-1.0, 9.0]), None, t(&[], &[f16::from_f32(4.0)])], h(&[-1.0, 4.0])),
        (Op::Range, vec![h(&[1.0]), h(&[4.0]), h(&[2.0])], h(&[1.0, 3.0])),
    ]);
}

#[test]
fn shapes_broadcast_and_may_be_empty() {
    let where_ = |c: Option<Tensor>, x, y| vec![c, x, y];
    check(vec![
        (
            Op::Where,
            where_(t(&[2, 1], &[true, false].map(Boolean::from)), v(&[1i64, 2, 3]), t(&[], &[9i64])),
            t(&[2, 3], &[1i64, 2, 3, 9, 9, 9]),
        ),
        (Op::Where, where_(b(&[true]), t::<f32>(&[0, 3], &[]), v(&[1.0f32])), t::<f32>(&[0, 3], &[])),
        (Op::Where, where_(b(&[true, false]), v(&[1.0f32; 3]), v(&[1.0f32])), None),
        (Op::Where, where_(v(&[1i64]), v(&[1.0f32]), v(&[1.0f32])), None),
        (binary(Binary::Mul), vec![t::<f32>(&[2, 0], &[]), t(&[], &[3.0f32])], t::<f32>(&[2, 0], &[])),
        (binary(Binary::Equal), vec![t(&[], &[3i64]), t(&[], &[3i64])], t(&[], &[Boolean::from(true)])),
        (binary(Binary::PRelu), vec![v(&[-1.0f32]), v(&[1.0f32, 2.0])], None),
        (
            Op::Expand,
            vec![t(&[2, 1], &[1u8, 2]), v(&[3i64, 1, 2])],
            t(&[3, 2, 2], &[1u8, 1, 2, 2, 1, 1, 2, 2, 1, 1, 2, 2]),
        ),
        (Op::Expand, vec![v(&[1u8]), v(&[0i64])], t::<u8>(&[0], &[])),
        (Op::Tile, vec![v(&[1i16, 2]), v(&[0i64])], t::<i16>(&[0], &[])),
        (Op::Transpose { perm: vec![] }, vec![t::<f64>(&[0, 2, 3], &[])], t::<f64>(&[3, 2, 0], &[])),
        (Op::Transpose { perm: vec![0, 0] }, vec![t(&[1, 1], &[1u8])], None),
        (
            Op::Concat { axis: -1 },
            vec![t::<f32>(&[1, 0], &[]), t(&[1, 2], &[1.0f32, 2.0])],
            t(&[1, 2], &[1.0f32, 2.0]),
        ),
        (Op::Concat { axis: 0 }, vec![v(&[1.0f32]), v(&[1i32])], None),
        (Op::NonZero, vec![t(&[], &[-0.0f32])], t::<i64>(&[1, 0], &[])),
        (Op::NonZero, vec![t(&[2, 2], &[0u8, 3, 4, 0])], t(&[2, 2], &[0i64, 1, 1, 0])),
        (
            Op::Trilu { upper: false },
            vec![t(&[2, 2], &[1i64, 2, 3, 4]), t(&[], &[i64::MAX])],
            t(&[2, 2], &[1i64, 2, 3, 4]),
        ),
        (Op::Variadic(Variadic::Mean), vec![v(&[1.0f32, 2.0]), t(&[], &[3.0f32])], v(&[2.0f32, 2.5])),
        (Op::Variadic(Variadic::Max), vec![v(&[f32::NAN, 2.0]), v(&[1.0, f32::NAN])], v(&[f32::NAN; 2])),
        (
            Op::DepthToSpace { block_size: 0, mode: DepthToSpaceMode::DepthColumnRow },
            vec![t(&[1, 1, 1, 1], &[1u8])],
            None,
        ),
    ]);
}

#[test]
fn indices_count_from_either_end_and_are_checked() {
    let scatter = |reduction| Op::ScatterElements { axis: 0, reduction };
    let scatter_nd = |reduction| Op::ScatterNd { reduction };
    let data = || t(&[2, 3], &[1i32, 2, 3, 4, 5, 6]);
    check(vec![
        (Op::Gather { axis: 1 }, vec![data(), t(&[], &[-1i32])], v(&[3i32, 6])),
        (Op::Gather { axis: 0 }, vec![data(), t::<i64>(&[0, 2], &[])], t::<i32>(&[0, 2, 3], &[])),
        (Op::Gather { axis: 0 }, vec![data(), v(&[2i64])], None),
        (Op::Gather { axis: 0 }, vec![data(), v(&[i64::MIN])], None),
        (Op::Gather { axis: 0 }, vec![t(&[], &[1i32]), v(&[0i64])], None),
        (Op::GatherNd { batch_dims: 1 }, vec![data(), t(&[2, 1], &[2i64, -3])], v(&[3i32, 4])),
        (
            Op::GatherNd { batch_dims: 0 },
            vec![data(), t::<i64>(&[1, 0], &[])],
            t(&[1, 2, 3], &[1i32, 2, 3, 4, 5, 6]),
        ),
        (Op::GatherNd { batch_dims: 3 }, vec![data(), t(&[2, 1], &[0i64, 0])], None),
        (
            scatter(ScatterReduction::Add),
            vec![v(&[1i8, 2]), v(&[0i64, -2]), v(&[100i8, 100])],
            v(&[-55i8, 2]),
        ),
        (scatter(ScatterReduction::Max), vec![h(&[1.0, 2.0]), v(&[1i64]), h(&[5.0])], h(&[1.0, 5.0])),
        (
            scatter(ScatterReduction::None),
            vec![b(&[false, false]), v(&[1i64]), b(&[true])],
            b(&[false, true]),
        ),
        (scatter(ScatterReduction::Mul), vec![b(&[false]), v(&[0i64]), b(&[true])], None),
        (scatter(ScatterReduction::None), vec![v(&[1i8]), v(&[0i64, 0]), v(&[1i8])], None),
        (
            scatter_nd(ScatterReduction::Min),
            vec![data(), t(&[1, 1], &[1i64]), t(&[1, 3], &[9i32, 0, 9])],
            t(&[2, 3], &[1i32, 2, 3, 4, 0, 6]),
        ),
        (scatter_nd(ScatterReduction::None), vec![data(), t(&[1, 2], &[2i64, 0]), v(&[9i32])], None),
        (
            Op::TensorScatter { axis: -2, circular: true },
            vec![t(&[2, 3, 1], &[1u8, 2, 3, 4, 5, 6]), t(&[2, 2, 1], &[7u8, 8, 9, 10]), v(&[2i64, 0])],
            t(&[2, 3, 1], &[8u8, 2, 7, 9, 10, 6]),
        ),
        (
            Op::TensorScatter { axis: 1, circular: false },
            vec![t(&[1, 2, 1], &[1u8, 2]), t(&[1, 1, 1], &[7u8]), v(&[2i64])],
            None,
        ),
        (
            Op::OneHot { axis: -1 },
            vec![v(&[-1i64, 0, 7]), t(&[], &[2i32]), v(&[0u8, 1])],
            t(&[3, 2], &[0u8, 1, 1, 0, 0, 0]),
        ),
        (Op::Pad { mode: PadMode::Wrap }, vec![v(&[1i64, 2, 3]), v(&[1i64, 1])], v(&[3i64, 1, 2, 3, 1])),
        (
            Op::Pad { mode: PadMode::Constant },
            vec![v(&[1i64, 2, 3]), v(&[-1i64, 1]), t(&[], &[9i64])],
            v(&[2i64, 3, 9]),
        ),
        (
            Op::Pad { mode: PadMode::Edge },
            vec![t(&[1, 2], &[1u8, 2]), v(&[1i64, 0]), None, v(&[-1i64])],
            t(&[1, 3], &[1u8, 1, 2]),
        ),
        (Op::Pad { mode: PadMode::Constant }, vec![v(&[1i64]), v(&[i64::MAX, i64::MAX])], None),
    ]);
}

#[test]
fn reductions_follow_their_axes() {
    let reduce = |kind, noop| Op::Reduce { kind, keep_dims: false, noop_with_empty_axes: noop };
    let data = || t(&[2, 2], &[1i32, -2, 3, -4]);
    let scan = |kind| Op::Cumulative { kind, exclusive: true, reverse: true };
    check(vec![
        (reduce(ReduceKind::Sum, false), vec![data(), v::<i64>(&[])], t(&[], &[-2i32])),
        (reduce(ReduceKind::Sum, true), vec![data(), v::<i64>(&[])], data()),
        (reduce(ReduceKind::L1, true), vec![data()], t(&[2, 2], &[1i32, 2, 3, 4])),
        (reduce(ReduceKind::L2, false), vec![v(&[3i32, 4])], t(&[], &[5i32])),
        (reduce(ReduceKind::Prod, false), vec![data(), v(&[-2i64])], v(&[3i32, 8])),
        (reduce(ReduceKind::Mean, false), vec![data(), v(&[0i64])], v(&[2i32, -3])),
        (reduce(ReduceKind::Mean, false), vec![t::<i32>(&[0], &[])], None),
        (reduce(ReduceKind::Sum, false), vec![t::<i64>(&[2, 0], &[]), v(&[1i64])], v(&[0i64, 0])),
        (reduce(ReduceKind::Min, false), vec![t::<i8>(&[0], &[])], t(&[], &[i8::MAX])),
        (reduce(ReduceKind::Max, false), vec![b(&[false, true])], t(&[], &[Boolean::from(true)])),
        (reduce(ReduceKind::Sum, false), vec![b(&[false, true])], None),
        (reduce(ReduceKind::Sum, false), vec![data(), v(&[0i64, -2])], None),
        (scan(CumulativeKind::Sum), vec![v(&[1i64, 2, 3]), t(&[], &[0i32])], v(&[5i64, 3, 0])),
        (scan(CumulativeKind::Prod), vec![v(&[1.0f32, 2.0, 3.0]), t(&[], &[-1i64])], v(&[6.0f32, 3.0, 1.0])),
    ]);
}

#[test]
fn several_outputs_and_late_sizes() {
    let top = Op::TopK { axis: -1, largest: true, sorted: false };
    let found = apply(&top, &[t(&[2, 3], &[1u8, 9, 9, 4, 2, 8]), v(&[2i64])], 2).unwrap();
    assert_eq!(found, [t(&[2, 2], &[9u8, 9, 8, 4]).unwrap(), t(&[2, 2], &[1i64, 2, 2, 0]).unwrap()]);
    assert!(apply(&top, &[v(&[1u8]), v(&[2i64])], 2).is_err());
    assert!(apply(&top, &[v(&[1u8]), v(&[-1i64])], 2).is_err());

    let split = Op::Split { axis: 0, num_outputs: Some(2) };
    let found = apply(&split, &[v(&[1u8, 2, 3])], 2).unwrap();
    assert_eq!(found, [v(&[1u8, 2]).unwrap(), v(&[3u8]).unwrap()]);

    // What needs elements that are not known has a shape only when it runs.
    let shape = Info::new(DataType::I64, vec![2]);
    let data = Info::new(DataType::F32, vec![4]);
    let infos = [Some(&data), Some(&shape)];
    for op in [Op::Reshape { allow_zero: false }, Op::Expand, Op::Tile] {
        assert_eq!(infer(&op, &infos, 1), Ok(vec![Info::dynamic(DataType::F32)]), "{op:?}");
    }
}
