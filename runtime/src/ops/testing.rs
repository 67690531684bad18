//! Runs one operator for a test.

use poda_formats::op::Op;
use poda_formats::{Element, Tensor};

use super::{OpError, infer, run};
use crate::info::Info;
use crate::output::Output;

/// Applies `op`, both into memory of its own and into planned memory that starts as all ones bits (NaN), and checks that
/// the two agree with each other and with [`infer`].
pub(crate) fn apply(op: &Op, inputs: &[Option<Tensor>], outputs: usize) -> Result<Vec<Tensor>, OpError> {
    let infos: Vec<Option<Info>> =
        inputs.iter().map(|t| t.as_ref().map(|t| Info::new(t.dtype(), t.shape().to_vec()))).collect();
    let refs: Vec<Option<&Info>> = infos.iter().map(Option::as_ref).collect();
    let inferred = infer(op, &refs, outputs);
    let views: Vec<_> = inputs.iter().map(|t| t.as_ref().map(Tensor::view)).collect();
    let mut fresh: Vec<Output<'_>> = (0..outputs).map(|_| Output::Fresh(None)).collect();
    run(op, &views, &mut fresh)?;
    let tensors: Vec<Tensor> = fresh
        .into_iter()
        .map(|output| match output {
            Output::Fresh(Some(tensor)) => tensor.into_tensor(),
            other => panic!("not written: {other:?}"),
        })
        .collect();
    let inferred = inferred.expect("what runs can be inferred");
    assert_eq!(inferred.len(), outputs, "{op:?}");
    let mut buffers: Vec<_> = tensors
        .iter()
        .map(|t| poda_formats::storage::AlignedBytes::copy_of(&vec![0xff; t.bytes().len()]))
        .collect();
    for (info, tensor) in inferred.iter().zip(&tensors) {
        assert_eq!(info.dtype, tensor.dtype(), "{op:?}");
        assert!(info.shape.as_deref().is_none_or(|s| s == tensor.shape()), "{info:?} {tensor:?}");
    }
    let mut planned: Vec<Output<'_>> = buffers
        .iter_mut()
        .zip(&tensors)
        .map(|(bytes, t)| Output::Planned { dtype: t.dtype(), shape: t.shape(), bytes })
        .collect();
    run(op, &views, &mut planned)?;
    for (buffer, tensor) in buffers.iter().zip(&tensors) {
        assert_eq!(&buffer[..], tensor.bytes(), "{op:?}: every element must be written");
    }
    Ok(tensors)
}

/// A tensor input.
#[allow(clippy::unnecessary_wraps)]
pub(crate) fn input<T: Element>(shape: &[usize], values: &[T]) -> Option<Tensor> {
    Some(Tensor::from_slice(shape, values))
}

/// Small numbers, different from each other and reproducible.
#[allow(clippy::unnecessary_wraps)]
pub(crate) fn noise(shape: &[usize], seed: usize) -> Option<Tensor> {
    let len: usize = shape.iter().product();
    let value = |i: usize| ((i * 7919 + seed * 104_729 + 13) % 1009) as f32 / 504.5 - 1.0;
    Some(Tensor::from_slice(shape, &(0..len).map(value).collect::<Vec<_>>()))
}

/// The elements as f32.
pub(crate) fn floats(tensor: &Tensor) -> &[f32] {
    tensor.as_slice().expect("f32")
}

/// Checks that all elements are within `tolerance`, absolute and relative.
#[track_caller]
pub(crate) fn assert_close(actual: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(actual.len(), expected.len());
    for (i, (a, e)) in actual.iter().zip(expected).enumerate() {
        let close = (a - e).abs() <= tolerance * (1.0 + e.abs()) || a == e || a.is_nan() && e.is_nan();
        assert!(close, "element {i} is {a}, expected {e}: {actual:?} vs {expected:?}");
    }
}
