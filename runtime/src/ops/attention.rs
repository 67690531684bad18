//! Attention and rotary embedding.

pub(super) mod plain;
mod rotary;

pub(super) use rotary::{infer_rotary_embedding, rotary_embedding};

use poda_formats::op::AttentionAttributes;
use poda_formats::{DataType, TensorView};

use super::args::{Infos, broadcast, broadcast_strides, optional, required};
use super::facts::{Fact, bad_shape, float_type, known, same_type, shape};
use super::real::{Real, load, store, with_real};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::kernels::attention::{Attention, Causal, Heads, Mask, MaskValues, Order, Scoring, Undefined};
use crate::output::Output;
use plain::{Stage, all_scores};

/// Sizes of an attention, all in the order `[batch, heads, sequence, size]`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sizes {
    q: [usize; 4],
    /// Of the new keys and values, without the past ones.
    k: [usize; 4],
    v: [usize; 4],
    /// Length of the past.
    past: usize,
    /// Whether inputs are `[batch, sequence, heads · size]`.
    token_major: bool,
}

/// `[batch, heads, sequence, size]` of input `index`, which has `heads` heads if it has rank 3.
fn heads_of(index: usize, dims: &[usize], heads: usize) -> Result<[usize; 4], OpError> {
    match *dims {
        [batch, heads, sequence, size] => Ok([batch, heads, sequence, size]),
        [batch, sequence, hidden] if heads > 0 && hidden.is_multiple_of(heads) => {
            Ok([batch, heads, sequence, hidden / heads])
        }
        [_, _, _] => Err(bad_shape(index, dims, format!("its last axis does not divide into {heads} heads"))),
        _ => Err(bad_shape(index, dims, "expected 3 or 4 axes")),
    }
}

impl Sizes {
    /// Sizes for Q, K, V and past key.
    fn new(
        attributes: &AttentionAttributes,
        [q, k, v]: [&[usize]; 3],
        past: [Option<&[usize]>; 2],
    ) -> Result<Self, OpError> {
        let token_major = q.len() == 3;
        for (index, dims) in [(1, k), (2, v)] {
            if dims.len() != q.len() {
                return Err(bad_shape(index, dims, format!("its rank is not that of the queries, {q:?}")));
            }
        }
        let (k_dims, v_dims) = (k, v);
        let q = heads_of(0, q, attributes.q_num_heads)?;
        let k = heads_of(1, k, attributes.kv_num_heads)?;
        let v = heads_of(2, v, attributes.kv_num_heads)?;
        if [k[0], k[3]] != [q[0], q[3]] {
            return Err(bad_shape(
                1,
                k_dims,
                format!("batch or head size is not that of the queries, {q:?}"),
            ));
        }
        if v[..3] != k[..3] {
            return Err(bad_shape(2, v_dims, format!("it does not fit the keys, {k:?}")));
        }
        if q[1] != k[1] && !(k[1] > 0 && q[1].is_multiple_of(k[1])) {
            return Err(bad_shape(1, k_dims, format!("{} heads do not share {} heads of keys", q[1], k[1])));
        }
        let mut past_len = 0;
        for (index, past, new) in [(4, past[0], k), (5, past[1], v)] {
            let Some(dims) = past else { continue };
            match *dims {
                [b, h, len, size]
                    if [b, h, size] == [new[0], new[1], new[3]] && (index == 4 || len == past_len) =>
                {
                    past_len = len;
                }
                _ => return Err(bad_shape(index, dims, format!("it does not fit {new:?}"))),
            }
        }
        if past[0].is_some() != past[1].is_some() {
            return Err(OpError::MissingInput { index: if past[0].is_some() { 5 } else { 4 } });
        }
        Ok(Self { q, k, v, past: past_len, token_major })
    }

    /// Keys, with past ones.
    fn keys(&self) -> usize {
        self.past + self.k[2]
    }

    /// `dims` with the past added to the sequence.
    fn present(&self, dims: [usize; 4]) -> [usize; 4] {
        [dims[0], dims[1], self.keys(), dims[3]]
    }

    /// Shapes of Y, present key, present value and scores.
    fn outputs(&self) -> [Vec<usize>; 4] {
        let [batch, heads, queries, _] = self.q;
        let y = if self.token_major {
            vec![batch, queries, heads * self.v[3]]
        } else {
            vec![batch, heads, queries, self.v[3]]
        };
        let scores = vec![batch, heads, queries, self.keys()];
        [y, self.present(self.k).to_vec(), self.present(self.v).to_vec(), scores]
    }

    /// Strides of a mask of these dimensions, and how many keys it speaks of.
    fn mask(&self, dims: &[usize]) -> Result<([usize; 4], usize), OpError> {
        let bad = || bad_shape(3, dims, format!("it does not fit scores {:?}", self.outputs()[3]));
        let (Some((&keys, rest)), true) = (dims.split_last(), dims.len() <= 4) else { return Err(bad()) };
        let full = [self.q[0], self.q[1], self.q[2]];
        if keys > self.keys() || broadcast(rest, &full).ok().as_deref() != Some(&full[..]) {
            return Err(bad());
        }
        let strides = broadcast_strides(dims, 4);
        Ok(([strides[0], strides[1], strides[2], strides[3]], keys))
    }
}

fn sizes<'a, F: Fact<'a>>(
    attributes: &AttentionAttributes,
    inputs: &[Option<F>],
) -> Result<Option<Sizes>, OpError> {
    let (q, k, v) = (shape(inputs, 0)?, shape(inputs, 1)?, shape(inputs, 2)?);
    let past = [4, 5].map(|i| optional(inputs, i).map(Fact::dims));
    let (Some(q), Some(k), Some(v)) = (q, k, v) else { return Ok(None) };
    if past.contains(&Some(None)) {
        return Ok(None);
    }
    let sizes = Sizes::new(attributes, [q, k, v], past.map(Option::flatten))?;
    if let Some(mask) = optional(inputs, 3).and_then(Fact::dims) {
        sizes.mask(mask)?;
    }
    match optional(inputs, 6).and_then(Fact::dims) {
        Some(lengths) if lengths != [sizes.q[0]] => {
            Err(bad_shape(6, lengths, format!("expected [{}]", sizes.q[0])))
        }
        _ => Ok(Some(sizes)),
    }
}

fn infos<'a, F: Fact<'a>>(
    attributes: &AttentionAttributes,
    inputs: &[Option<F>],
    outputs: usize,
) -> Result<Vec<Info>, OpError> {
    let (q, v) = (float_type(inputs, 0)?, float_type(inputs, 2)?);
    same_type(inputs, [1, 4], q)?;
    same_type(inputs, [5], v)?;
    same_type(inputs, [6], DataType::I64)?;
    if attributes.qk_matmul_output_mode > 3 {
        let (value, bound) = (attributes.qk_matmul_output_mode.into(), 4);
        return Err(OpError::OutOfRange { name: "qk_matmul_output_mode", value, bound });
    }
    let dims = sizes(attributes, inputs)?.map(|s| s.outputs());
    let info = |(i, dtype): (usize, DataType)| Info {
        dtype,
        shape: dims.as_ref().map(|d| d[i].clone()),
        value: None,
    };
    Ok([q, q, v, q].into_iter().enumerate().take(outputs.max(1)).map(info).collect())
}

pub(super) fn infer_attention(
    attributes: &AttentionAttributes,
    inputs: &Infos<'_>,
    outputs: usize,
) -> Result<Vec<Info>, OpError> {
    infos(attributes, inputs, outputs)
}

pub(super) fn attention(
    attributes: &AttentionAttributes,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let infos = infos(attributes, inputs, outputs.len())?;
    let dtype = required(inputs, 0)?.dtype();
    with_real!(dtype, R => compute::<R>(attributes, inputs, &infos, outputs))
}

fn compute<R: Real>(
    attributes: &AttentionAttributes,
    inputs: &Inputs<'_>,
    infos: &[Info],
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let [q, k, v] = [required(inputs, 0)?, required(inputs, 1)?, required(inputs, 2)?];
    let past = [4, 5].map(|i| optional(inputs, i));
    let sizes = Sizes::new(
        attributes,
        [q.shape(), k.shape(), v.shape()],
        past.map(|p| p.as_ref().map(TensorView::shape)),
    )?;
    let order = if sizes.token_major { Order::TokenMajor } else { Order::HeadMajor };
    let (q_values, k_values, v_values) = (load::<R>(q), load::<R>(k), load::<R>(v));
    let heads = |values, dims| match order {
        Order::HeadMajor => Heads::head_major(values, dims),
        Order::TokenMajor => Heads::token_major(values, dims),
    };
    let (q_heads, k_heads, v_heads) =
        (heads(&q_values, sizes.q), heads(&k_values, sizes.k), heads(&v_values, sizes.v));

    // With a past, or when asked for, keys and values are joined as `[batch, heads, sequence, size]`.
    let wanted = |i: usize| outputs.get(i).is_some_and(Output::is_used) || past[0].is_some();
    let joined_k = wanted(1).then(|| join(past[0], &k_heads, sizes.present(sizes.k)));
    let joined_v = wanted(2).then(|| join(past[1], &v_heads, sizes.present(sizes.v)));
    let present = |joined: &Option<Vec<R>>, i: usize, output: Option<&mut Output<'_>>| match (joined, output)
    {
        (Some(joined), Some(output)) => store::<R>(output, infos[i].dtype, known(infos, i), |y| {
            y.copy_from_slice(joined);
            Ok(())
        }),
        _ => Ok(()),
    };
    present(&joined_k, 1, outputs.get_mut(1))?;
    present(&joined_v, 2, outputs.get_mut(2))?;

    let bias = optional(inputs, 3).filter(|m| m.dtype() != DataType::Bool).map(load::<R>);
    let mask = match optional(inputs, 3) {
        None => None,
        Some(view) => {
            let (strides, keys) = sizes.mask(view.shape())?;
            let values = match &bias {
                Some(bias) => MaskValues::Add(bias),
                None => MaskValues::Allow(view.as_slice()?),
            };
            Some(Mask { values, strides, keys })
        }
    };
    let lengths = optional(inputs, 6).map(|view| view.as_slice::<i64>()).transpose()?;
    let causal = match (attributes.is_causal, lengths) {
        (false, _) => Causal::No,
        (true, Some(lengths)) if past[0].is_none() => Causal::Lengths(lengths),
        (true, _) => Causal::After(sizes.past as i64),
    };
    let scale = attributes.scale.map_or_else(|| 1.0 / (sizes.q[3] as f64).sqrt(), f64::from);
    let scoring = Scoring {
        scale: R::from_f64(scale),
        softcap: R::from_f64(attributes.softcap.into()),
        mask,
        causal,
        lengths,
        undefined: Undefined::ZeroUnseen,
    };
    let attention = Attention {
        q: q_heads,
        k: joined_k.as_ref().map_or(k_heads, |k| Heads::head_major(k, sizes.present(sizes.k))),
        v: joined_v.as_ref().map_or(v_heads, |v| Heads::head_major(v, sizes.present(sizes.v))),
        scoring,
    };
    store::<R>(&mut outputs[0], infos[0].dtype, known(infos, 0), |y| {
        R::attend(&attention, order, y);
        Ok(())
    })?;
    let Some(output) = outputs.get_mut(3) else { return Ok(()) };
    let stage = [Stage::Product, Stage::Capped, Stage::Masked, Stage::Probabilities];
    store::<R>(output, infos[3].dtype, known(infos, 3), |scores| {
        all_scores(&attention, stage[attributes.qk_matmul_output_mode as usize], scores);
        Ok(())
    })
}

/// Past and new keys or values, `[batch, heads, sequence, size]`.
fn join<R: Real>(past: Option<TensorView<'_>>, new: &Heads<'_, R>, dims: [usize; 4]) -> Vec<R> {
    let [batch, heads, keys, size] = dims;
    let past_values = past.map(load::<R>);
    let past_len = keys - new.shape[2];
    let mut joined = Vec::with_capacity(dims.iter().product());
    for (b, h) in (0..batch).flat_map(|b| (0..heads).map(move |h| (b, h))) {
        if let Some(past) = &past_values {
            joined.extend_from_slice(&past[(b * heads + h) * past_len * size..][..past_len * size]);
        }
        let rows = new.rows(b, h, 0, new.shape[2]);
        for i in 0..if size == 0 { 0 } else { rows.rows } {
            joined.extend_from_slice(&rows.data[i * rows.row_stride..][..size]);
        }
    }
    joined
}

#[cfg(test)]
mod tests;
