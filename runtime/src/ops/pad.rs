//! Pad: each axis has a map from its padded steps to steps of the data, or to the constant.

use poda_formats::op::PadMode;

use super::args::{
    self, Infos, Known, integers, known_integers, one, optional, optional_integers, required, strides,
};
use super::number::with_width;
use super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;

/// Begin and end of each axis, in order; both may be negative, which crops.
fn pads_of(rank: usize, pads: &[i64], axes: Option<&[i64]>) -> Result<Vec<[i64; 2]>, OpError> {
    let axes = match axes {
        Some(axes) => args::axes(axes, rank)?,
        None => (0..rank).collect(),
    };
    if pads.len() != 2 * axes.len() {
        return Err(OpError::Invalid(format!("{} pads for {} axes", pads.len(), axes.len())));
    }
    let mut all = vec![[0, 0]; rank];
    for (i, &axis) in axes.iter().enumerate() {
        all[axis] = [pads[i], pads[axes.len() + i]];
    }
    Ok(all)
}

fn padded(data: &[usize], pads: &[[i64; 2]]) -> Result<Vec<usize>, OpError> {
    let pad = |(&dim, &[begin, end]): (&usize, &[i64; 2])| {
        // The steps from `-begin` up to `dim + end` are walked below.
        let (first, last) = (begin.checked_neg()?, (dim as i64).checked_add(end)?);
        usize::try_from(last.checked_sub(first)?).ok()
    };
    let shape = data.iter().zip(pads).map(pad).collect::<Option<_>>();
    shape.ok_or_else(|| OpError::Invalid(format!("shape {data:?} cannot be padded by {pads:?}")))
}

pub(super) fn infer_pad(_: PadMode, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let data = required(inputs, 0)?;
    let Some(shape) = &data.shape else { return Ok(one(data.dtype, None)) };
    let axes = match known_integers(inputs, 3)? {
        Known::Later => return Ok(one(data.dtype, None)),
        Known::Absent => None,
        Known::Now(axes) => Some(axes),
    };
    Ok(match known_integers(inputs, 1)? {
        Known::Absent => return Err(OpError::MissingInput { index: 1 }),
        Known::Later => one(data.dtype, None),
        Known::Now(pads) => {
            one(data.dtype, Some(padded(shape, &pads_of(shape.len(), &pads, axes.as_deref())?)?))
        }
    })
}

/// Where each step of a padded axis comes from; `None` is the constant. What is cropped is not there to be repeated.
fn sources(dim: usize, [begin, end]: [i64; 2], mode: PadMode) -> Result<Vec<Option<usize>>, OpError> {
    let dim = dim as i64;
    let (first, last) = (0.max(-begin), dim - 0.max(-end));
    let len = last - first;
    let source = |at: i64| -> Option<i64> {
        let at = at - first;
        Some(
            match mode {
                _ if (0..len).contains(&at) => at,
                PadMode::Constant => return None,
                PadMode::Edge => at.clamp(0, len - 1),
                PadMode::Wrap => at.rem_euclid(len),
                PadMode::Reflect if len == 1 => 0,
                PadMode::Reflect => {
                    let period = 2 * (len - 1);
                    let at = at.rem_euclid(period);
                    at.min(period - at)
                }
            } + first,
        )
    };
    let steps = -begin..dim + end;
    if len <= 0 && mode != PadMode::Constant && !steps.is_empty() {
        return Err(OpError::Invalid(format!(
            "nothing is left to repeat of {dim} steps padded by {begin} and {end}"
        )));
    }
    Ok(steps.map(|at| source(at).map(|s| s as usize)).collect())
}

pub(super) fn pad(mode: PadMode, inputs: &Inputs<'_>, outputs: &mut [Output<'_>]) -> Result<(), OpError> {
    let data = required(inputs, 0)?;
    let axes = optional_integers(inputs, 3)?;
    let pads = pads_of(data.rank(), &integers(required(inputs, 1)?, 1)?, axes.as_deref())?;
    let shape = padded(data.shape(), &pads)?;
    let value = optional(inputs, 2);
    if let Some(value) = value
        && (value.dtype() != data.dtype() || value.len() != 1)
    {
        return Err(OpError::Invalid(format!(
            "the padding value is {:?} of {}, expected one {}",
            value.shape(),
            value.dtype(),
            data.dtype()
        )));
    }
    let bytes = outputs[0].alloc_bytes(data.dtype(), &shape)?;
    let maps = data.shape().iter().zip(&pads).map(|(&dim, &pads)| sources(dim, pads, mode));
    let maps = maps.collect::<Result<Vec<_>, _>>()?;
    with_width!(data.dtype(), T => {
        let value = value.map_or(0, |v| bytemuck::cast_slice::<u8, T>(v.bytes())[0]);
        let strides = strides(data.shape());
        fill(bytemuck::cast_slice_mut(bytes), bytemuck::cast_slice::<u8, T>(data.bytes()), &maps, &strides, value);
    });
    Ok(())
}

/// Fills `output`, whose axes come from those of `input` by `maps`. `input` starts where the outer axes stand.
fn fill<T: Copy>(output: &mut [T], input: &[T], maps: &[Vec<Option<usize>>], strides: &[usize], value: T) {
    let Some((map, inner)) = maps.split_first() else {
        output.copy_from_slice(&input[..output.len()]);
        return;
    };
    if output.is_empty() {
        return;
    }
    if inner.is_empty() {
        // What lies inside the data is one run.
        let inside = map.iter().position(|&s| s == Some(0)).filter(|_| map.len() > 8);
        let start = inside.unwrap_or(0);
        let len = map[start..].iter().zip(0..).take_while(|&(&s, i)| s == Some(i)).count();
        output[start..start + len].copy_from_slice(&input[..len]);
        for at in (0..start).chain(start + len..map.len()) {
            output[at] = map[at].map_or(value, |s| input[s]);
        }
        return;
    }
    let step = output.len() / map.len();
    for (output, source) in output.chunks_exact_mut(step).zip(map) {
        match source {
            Some(s) => fill(output, &input[s * strides[0]..], inner, &strides[1..], value),
            None => output.fill(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(dim: usize, pads: [i64; 2], mode: PadMode) -> Vec<i32> {
        let map = sources(dim, pads, mode).unwrap();
        let input: Vec<i32> = (1..=dim as i32).collect();
        let mut output = vec![-1; map.len()];
        fill(&mut output, &input, &[map], &[1], 0);
        output
    }

    #[test]
    fn axes_are_padded_and_cropped() {
        assert_eq!(line(3, [2, 1], PadMode::Constant), [0, 0, 1, 2, 3, 0]);
        assert_eq!(line(3, [2, 2], PadMode::Reflect), [3, 2, 1, 2, 3, 2, 1]);
        assert_eq!(line(3, [2, 1], PadMode::Edge), [1, 1, 1, 2, 3, 3]);
        assert_eq!(line(3, [2, 4], PadMode::Wrap), [2, 3, 1, 2, 3, 1, 2, 3, 1]);
        assert_eq!(line(1, [2, 1], PadMode::Reflect), [1, 1, 1, 1]);
        assert_eq!(line(4, [-1, 2], PadMode::Constant), [2, 3, 4, 0, 0]);
        assert_eq!(line(4, [-1, 2], PadMode::Reflect), [2, 3, 4, 3, 2]);
        assert_eq!(line(3, [-2, -1], PadMode::Constant), [0; 0]);
        assert_eq!(line(0, [1, 1], PadMode::Constant), [0, 0]);
        assert_eq!(line(9, [1, 1], PadMode::Constant), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0]);
        assert!(sources(0, [1, 0], PadMode::Edge).is_err());
        assert!(padded(&[3], &[[-2, -2]]).is_err() && padded(&[3], &[[i64::MAX, 1]]).is_err());
    }
}
