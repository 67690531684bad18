//! Attention and rotary embedding.

use poda_formats::op::AttentionAttributes;

use super::args::{Infos, not_implemented};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;

pub(super) fn infer_attention(
    attributes: &AttentionAttributes,
    inputs: &Infos<'_>,
    outputs: usize,
) -> Result<Vec<Info>, OpError> {
    let _ = (attributes, inputs, outputs);
    Err(not_implemented("Attention"))
}

pub(super) fn attention(
    attributes: &AttentionAttributes,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let _ = (attributes, inputs, outputs);
    Err(not_implemented("Attention"))
}

pub(super) fn infer_rotary_embedding(
    interleaved: bool,
    num_heads: usize,
    rotary_embedding_dim: usize,
    inputs: &Infos<'_>,
) -> Result<Vec<Info>, OpError> {
    let _ = (interleaved, num_heads, rotary_embedding_dim, inputs);
    Err(not_implemented("RotaryEmbedding"))
}

pub(super) fn rotary_embedding(
    interleaved: bool,
    num_heads: usize,
    rotary_embedding_dim: usize,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let _ = (interleaved, num_heads, rotary_embedding_dim, inputs, outputs);
    Err(not_implemented("RotaryEmbedding"))
}
