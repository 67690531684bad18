//! Rotary position embedding: pairs of features turn by an angle that grows with the position.
//! Su et al., 2021, <https://arxiv.org/abs/2104.09864>.

use poda_formats::DataType;

use super::super::args::{Infos, one, optional, required};
use super::super::facts::{Fact, bad_shape, float_type, same_type, shape};
use super::super::real::{load, store, with_real};
use super::super::{Inputs, OpError};
use super::heads_of;
use crate::info::Info;
use crate::output::Output;
use crate::threads;

/// `[batch, heads, sequence, size]` and how many features of each head turn.
fn sizes(x: &[usize], num_heads: usize, rotary: usize) -> Result<([usize; 4], usize), OpError> {
    let dims = heads_of(0, x, num_heads)?;
    let rotary = if rotary == 0 { dims[3] } else { rotary };
    if rotary > dims[3] || !rotary.is_multiple_of(2) {
        return Err(bad_shape(
            0,
            x,
            format!("{rotary} features of a head of {} cannot turn in pairs", dims[3]),
        ));
    }
    Ok((dims, rotary))
}

fn infos<'a, F: Fact<'a>>(
    num_heads: usize,
    rotary: usize,
    inputs: &[Option<F>],
) -> Result<Vec<Info>, OpError> {
    let dtype = float_type(inputs, 0)?;
    same_type(inputs, [1, 2], dtype)?;
    same_type(inputs, [3], DataType::I64)?;
    let (cos, sin, ids) = (shape(inputs, 1)?, shape(inputs, 2)?, optional(inputs, 3).map(Fact::dims));
    let Some(x) = shape(inputs, 0)? else { return Ok(one(dtype, None)) };
    let ([batch, _, sequence, _], rotary) = sizes(x, num_heads, rotary)?;
    for (index, cache) in [(1, cos), (2, sin)] {
        let fits = match cache {
            // One sequence's cache may serve the whole batch, as PyTorch's exporter writes it.
            Some(&[b, s, half]) if ids.is_none() => {
                (b == batch || b == 1) && [s, half] == [sequence, rotary / 2]
            }
            Some(&[_, half]) if ids.is_some() => half == rotary / 2,
            None => true,
            Some(_) => false,
        };
        if !fits {
            return Err(bad_shape(index, cache.unwrap_or_default(), format!("it does not fit {x:?}")));
        }
    }
    if let (Some(cos), Some(sin)) = (cos, sin)
        && cos != sin
    {
        return Err(bad_shape(2, sin, format!("expected {cos:?}")));
    }
    match ids.flatten() {
        Some(ids) if ids != [batch, sequence] => {
            Err(bad_shape(3, ids, format!("expected [{batch}, {sequence}]")))
        }
        _ => Ok(one(dtype, Some(x.to_vec()))),
    }
}

pub(in super::super) fn infer_rotary_embedding(
    _interleaved: bool,
    num_heads: usize,
    rotary_embedding_dim: usize,
    inputs: &Infos<'_>,
) -> Result<Vec<Info>, OpError> {
    infos(num_heads, rotary_embedding_dim, inputs)
}

pub(in super::super) fn rotary_embedding(
    interleaved: bool,
    num_heads: usize,
    rotary_embedding_dim: usize,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    infos(num_heads, rotary_embedding_dim, inputs)?;
    let (x, cos, sin) = (required(inputs, 0)?, required(inputs, 1)?, required(inputs, 2)?);
    let ([_, heads, sequence, size], rotary) = sizes(x.shape(), num_heads, rotary_embedding_dim)?;
    let half = rotary / 2;
    let ids = optional(inputs, 3).map(|view| view.as_slice::<i64>()).transpose()?;
    let positions = cos.shape()[0];
    if let Some(&id) = ids.and_then(|ids| ids.iter().find(|&&id| id < 0 || id as u64 >= positions as u64)) {
        return Err(OpError::OutOfRange { name: "position", value: id, bound: positions as i64 });
    }
    let token_major = x.rank() == 3;
    let shared = ids.is_none() && positions == 1;
    with_real!(x.dtype(), R => store::<R>(&mut outputs[0], x.dtype(), x.shape(), |y| {
        let (x, cos, sin) = (load::<R>(x), load::<R>(cos), load::<R>(sin));
        threads::for_each_chunk(y, size.max(1), 64, |i, y| {
            let token = if token_major { i / heads } else { i / (heads * sequence) * sequence + i % sequence };
            let token = if shared { token % sequence } else { token };
            let at = ids.map_or(token, |ids| ids[token] as usize) * half;
            let x = &x[i * size..][..size];
            y.copy_from_slice(x);
            for (j, (&c, &s)) in cos[at..at + half].iter().zip(&sin[at..at + half]).enumerate() {
                let [a, b] = if interleaved { [2 * j, 2 * j + 1] } else { [j, j + half] };
                y[a] = x[a] * c - x[b] * s;
                y[b] = x[a] * s + x[b] * c;
            }
        });
        Ok(())
    }))
}
