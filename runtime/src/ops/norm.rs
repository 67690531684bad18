//! Normalisations.

use super::args::{Infos, not_implemented};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;

pub(super) fn infer_batch_normalization(epsilon: f32, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let _ = (epsilon, inputs);
    Err(not_implemented("BatchNormalization"))
}

pub(super) fn batch_normalization(
    epsilon: f32,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let _ = (epsilon, inputs, outputs);
    Err(not_implemented("BatchNormalization"))
}

pub(super) fn infer_instance_normalization(epsilon: f32, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let _ = (epsilon, inputs);
    Err(not_implemented("InstanceNormalization"))
}

pub(super) fn instance_normalization(
    epsilon: f32,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let _ = (epsilon, inputs, outputs);
    Err(not_implemented("InstanceNormalization"))
}

pub(super) fn infer_layer_normalization(
    axis: i64,
    epsilon: f32,
    inputs: &Infos<'_>,
    outputs: usize,
) -> Result<Vec<Info>, OpError> {
    let _ = (axis, epsilon, inputs, outputs);
    Err(not_implemented("LayerNormalization"))
}

pub(super) fn layer_normalization(
    axis: i64,
    epsilon: f32,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let _ = (axis, epsilon, inputs, outputs);
    Err(not_implemented("LayerNormalization"))
}

pub(super) fn infer_group_normalization(
    num_groups: usize,
    epsilon: f32,
    inputs: &Infos<'_>,
) -> Result<Vec<Info>, OpError> {
    let _ = (num_groups, epsilon, inputs);
    Err(not_implemented("GroupNormalization"))
}

pub(super) fn group_normalization(
    num_groups: usize,
    epsilon: f32,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let _ = (num_groups, epsilon, inputs, outputs);
    Err(not_implemented("GroupNormalization"))
}

pub(super) fn infer_rms_normalization(
    axis: i64,
    epsilon: f32,
    inputs: &Infos<'_>,
) -> Result<Vec<Info>, OpError> {
    let _ = (axis, epsilon, inputs);
    Err(not_implemented("RMSNormalization"))
}

pub(super) fn rms_normalization(
    axis: i64,
    epsilon: f32,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let _ = (axis, epsilon, inputs, outputs);
    Err(not_implemented("RMSNormalization"))
}

pub(super) fn infer_lp_normalization(axis: i64, p: u32, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let _ = (axis, p, inputs);
    Err(not_implemented("LpNormalization"))
}

pub(super) fn lp_normalization(
    axis: i64,
    p: u32,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let _ = (axis, p, inputs, outputs);
    Err(not_implemented("LpNormalization"))
}

pub(super) fn infer_mean_variance_normalization(
    axes: &[i64],
    inputs: &Infos<'_>,
) -> Result<Vec<Info>, OpError> {
    let _ = (axes, inputs);
    Err(not_implemented("MeanVarianceNormalization"))
}

pub(super) fn mean_variance_normalization(
    axes: &[i64],
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let _ = (axes, inputs, outputs);
    Err(not_implemented("MeanVarianceNormalization"))
}

pub(super) fn infer_lrn(
    size: usize,
    alpha: f32,
    beta: f32,
    bias: f32,
    inputs: &Infos<'_>,
) -> Result<Vec<Info>, OpError> {
    let _ = (size, alpha, beta, bias, inputs);
    Err(not_implemented("LRN"))
}

pub(super) fn lrn(
    size: usize,
    alpha: f32,
    beta: f32,
    bias: f32,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let _ = (size, alpha, beta, bias, inputs, outputs);
    Err(not_implemented("LRN"))
}
