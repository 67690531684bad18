//! Resize is linear in its image, along one axis after the other: the gradient goes back through the transposed matrix of
//! each axis, which resizing the identity gives.

use poda_formats::op::{CoordinateTransform, Op, ResizeAttributes};
use poda_formats::{DataType, Tensor};
use poda_runtime::{Output, ops};

use super::{Call, Inputs};
use crate::gradients::{Emit, Refusal};

pub(super) fn resize(e: &mut Emit, call: &Call<'_>) -> Inputs {
    let Op::Resize(attributes) = &call.node.op else { return Err(Refusal::NoRule) };
    if attributes.coordinates == CoordinateTransform::TfCropAndResize {
        return Err(Refusal::Unsupported("it crops"));
    }
    let (x, mut g) = (call.input(0)?, call.gradient()?);
    let (from, to) = (e.shape(x)?, e.shape(g)?);
    let scales = call.node.input(2).and_then(|id| e.info(id)?.value.clone()).filter(|s| !s.is_empty());
    let axes: Vec<usize> = if attributes.axes.is_empty() {
        (0..from.len()).collect()
    } else {
        attributes.axes.iter().map(|&axis| e.axis(x, axis)).collect::<Result<_, _>>()?
    };
    for (i, &axis) in axes.iter().enumerate() {
        let scale = scales.as_ref().and_then(|s| s.as_slice::<f32>().ok()?.get(i).copied());
        if from[axis] == to[axis] && scale.is_none_or(|scale| scale == 1.0) {
            continue;
        }
        let matrix = matrix(attributes, from[axis], to[axis], scale)?;
        let matrix = e.numbers(&matrix, &[to[axis], from[axis]], x)?;
        let mut perm: Vec<usize> = (0..from.len()).filter(|&a| a != axis).collect();
        perm.push(axis);
        let last = e.transpose(g, &perm)?;
        let back = e.matmul(last, matrix)?;
        let mut inverse = vec![0; perm.len()];
        perm.iter().enumerate().for_each(|(to, &from)| inverse[from] = to);
        g = e.transpose(back, &inverse)?;
    }
    Ok(vec![Some(g)])
}

/// `[to, from]`: what each element of the result takes of each of the image.
fn matrix(
    attributes: &ResizeAttributes,
    from: usize,
    to: usize,
    scale: Option<f32>,
) -> Result<Vec<f64>, Refusal> {
    let mut identity = vec![0.0_f64; from * from];
    identity.iter_mut().step_by(from + 1).for_each(|v| *v = 1.0);
    let identity = Tensor::from_slice(&[from, from], &identity);
    let op = Op::Resize(ResizeAttributes { axes: vec![0], ..attributes.clone() });
    let (scale, size) =
        (scale.map(|s| Tensor::from_slice(&[1], &[s])), Tensor::from_slice(&[1], &[to as i64]));
    let size = scale.is_none().then_some(&size);
    let mut outputs = [Output::Fresh(None)];
    let inputs = [Some(identity.view()), None, scale.as_ref().map(Tensor::view), size.map(Tensor::view)];
    ops::run(&op, &inputs, &mut outputs)?;
    let [Output::Fresh(Some(matrix))] = outputs else { return Err(Refusal::Type { dtype: DataType::F64 }) };
    let matrix = matrix.into_tensor();
    Ok(matrix.as_slice::<f64>().map_err(ops::OpError::from)?.to_vec())
}
