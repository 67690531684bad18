//! Resize: one pass for each axis whose size or place changes.

mod taps;

use poda_formats::op::{AspectRatioPolicy, CoordinateTransform, ResizeAttributes, ResizeMode};
use poda_formats::tensor::checked_bytes;
use poda_formats::{DataType, TensorView};

use super::args::{Infos, around, axes, integers, one, optional, required};
use super::elementwise::wide::widest;
use super::facts::bad_shape;
use super::geometry::LIMIT;
use super::real::{Real, load, store};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::memory::filled;
use crate::output::Output;
use crate::threads::share::{cost, for_rows};
use taps::{Line, Taps, nearest, taps};

/// The sizes that the result shall have, from the optional inputs; empty ones count as left out.
enum Target {
    Scales(Vec<f64>),
    Sizes(Vec<i64>),
}

fn target(scales: Option<TensorView<'_>>, sizes: Option<TensorView<'_>>) -> Result<Target, OpError> {
    match (scales.filter(|s| !s.is_empty()), sizes.filter(|s| !s.is_empty())) {
        (Some(scales), None) if scales.dtype().is_float() => {
            Ok(Target::Scales(load::<f64>(scales).into_owned()))
        }
        (Some(scales), None) => {
            Err(OpError::InputType { index: 2, expected: "a floating-point type", found: scales.dtype() })
        }
        (None, Some(sizes)) => Ok(Target::Sizes(integers(sizes, 3)?)),
        (None, None) => Err(OpError::MissingInput { index: 2 }),
        (Some(_), Some(_)) => Err(OpError::Invalid("Resize has both scales and sizes".to_owned())),
    }
}

/// How each axis of `x` is resized.
fn lines(
    attributes: &ResizeAttributes,
    x: &[usize],
    target: &Target,
    roi: Option<&[f64]>,
) -> Result<Vec<Line>, OpError> {
    let chosen =
        if attributes.axes.is_empty() { (0..x.len()).collect() } else { axes(&attributes.axes, x.len())? };
    let count = match target {
        Target::Scales(scales) => scales.len(),
        Target::Sizes(sizes) => sizes.len(),
    };
    if count != chosen.len() {
        return Err(OpError::Invalid(format!(
            "Resize has {count} scales or sizes for {} axes",
            chosen.len()
        )));
    }
    let mut lines: Vec<Line> = x.iter().map(|&size| Line::unchanged(size)).collect();
    let out_of_range =
        |name, value: f64| OpError::OutOfRange { name, value: value as i64, bound: LIMIT as i64 };
    // One scale for all axes when the aspect ratio is kept.
    let common = match (target, attributes.keep_aspect_ratio) {
        (Target::Scales(_), _) | (_, AspectRatioPolicy::Stretch) => None,
        (Target::Sizes(sizes), policy) => {
            let ratios = sizes.iter().zip(&chosen).map(|(&size, &a)| size as f64 / x[a].max(1) as f64);
            let not_larger = policy == AspectRatioPolicy::NotLarger;
            ratios.reduce(if not_larger { f64::min } else { f64::max })
        }
    };
    for (i, &at) in chosen.iter().enumerate() {
        let input = x[at] as f64;
        let (scale, size) = match (target, common) {
            (Target::Scales(scales), _) => (scales[i], (input * scales[i]).floor()),
            (Target::Sizes(_), Some(scale)) => (scale, (input * scale + 0.5).floor()),
            (Target::Sizes(sizes), None) => (sizes[i] as f64 / input.max(1.0), sizes[i] as f64),
        };
        if !(scale.is_finite() && scale >= 0.0 && (0.0..LIMIT as f64).contains(&size)) {
            return Err(out_of_range("scaled size", size));
        }
        if x[at] == 0 && size > 0.0 {
            return Err(bad_shape(0, x, "nothing cannot become something"));
        }
        let roi = roi.map_or([0.0, 1.0], |roi| [roi[i], roi[chosen.len() + i]]);
        lines[at] = Line { input: x[at], output: size as usize, scale, roi };
    }
    Ok(lines)
}

pub(super) fn infer_resize(attributes: &ResizeAttributes, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let x = required(inputs, 0)?;
    check_type(attributes, x.dtype)?;
    // An input that may turn out empty must be known too.
    let mut given = [None, None];
    for (given, index) in given.iter_mut().zip([2, 3]) {
        let Some(info) = optional(inputs, index) else { continue };
        match (&info.value, &info.shape) {
            (Some(value), _) => *given = Some(value.view()),
            (None, Some(shape)) if shape.contains(&0) => {}
            _ => return Ok(one(x.dtype, None)),
        }
    }
    let target = target(given[0], given[1])?;
    let Some(dims) = &x.shape else { return Ok(one(x.dtype, None)) };
    let lines = lines(attributes, dims, &target, None)?;
    Ok(one(x.dtype, Some(lines.iter().map(|l| l.output).collect())))
}

fn check_type(attributes: &ResizeAttributes, dtype: DataType) -> Result<(), OpError> {
    if attributes.mode != ResizeMode::Nearest && dtype == DataType::Bool {
        return Err(super::args::unsupported_type(attributes.mode, dtype));
    }
    Ok(())
}

pub(super) fn resize(
    attributes: &ResizeAttributes,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let x = required(inputs, 0)?;
    check_type(attributes, x.dtype())?;
    let target = target(optional(inputs, 2), optional(inputs, 3))?;
    let cropped = attributes.coordinates == CoordinateTransform::TfCropAndResize;
    let roi = match optional(inputs, 1).filter(|_| cropped) {
        None => None,
        Some(view) => {
            let axes = if attributes.axes.is_empty() { x.rank() } else { attributes.axes.len() };
            if !view.dtype().is_float() || view.len() != 2 * axes {
                return Err(bad_shape(1, view.shape(), format!("expected {} numbers", 2 * axes)));
            }
            Some(load::<f64>(view))
        }
    };
    let lines = lines(attributes, x.shape(), &target, roi.as_deref())?;
    let dims: Vec<usize> = lines.iter().map(|l| l.output).collect();
    if !outputs[0].is_used() {
        return Ok(());
    }
    if attributes.mode == ResizeMode::Nearest && !cropped {
        let bytes = outputs[0].alloc_bytes(x.dtype(), &dims)?;
        return match x.dtype().size() {
            1 => pick::<u8>(attributes, &lines, x, bytes),
            2 => pick::<u16>(attributes, &lines, x, bytes),
            4 => pick::<u32>(attributes, &lines, x, bytes),
            _ => pick::<u64>(attributes, &lines, x, bytes),
        };
    }
    match x.dtype() {
        DataType::F64 | DataType::I32 | DataType::I64 | DataType::U32 | DataType::U64 => {
            interpolate::<f64>(attributes, &lines, x, &dims, &mut outputs[0])
        }
        _ => interpolate::<f32>(attributes, &lines, x, &dims, &mut outputs[0]),
    }
}

/// Copies the nearest elements.
fn pick<T: bytemuck::Pod + Send + Sync>(
    attributes: &ResizeAttributes,
    lines: &[Line],
    x: TensorView<'_>,
    y: &mut [u8],
) -> Result<(), OpError> {
    let places = lines.iter().map(|line| (0..line.output).map(|i| nearest(attributes, line, i)).collect());
    let places: Vec<Vec<usize>> = places.collect();
    let changed: Vec<usize> =
        (0..lines.len()).filter(|&at| !places[at].iter().copied().eq(0..lines[at].input)).collect();
    let pass = |[outer, input, inner]: [usize; 3], at: usize, from: &[T], to: &mut [T]| {
        debug_assert_eq!(from.len(), outer * input * inner);
        let places = &places[at];
        for_rows(to, places.len() * inner, cost::ARITHMETIC, |i, to| {
            let from = &from[i * input * inner..][..input * inner];
            if inner == 1 {
                to.iter_mut().zip(places).for_each(|(y, &p)| *y = from[p]);
            } else {
                let rows = to.chunks_exact_mut(inner).zip(places);
                rows.for_each(|(y, &p)| y.copy_from_slice(&from[p * inner..][..inner]));
            }
        });
    };
    let values = std::borrow::Cow::Borrowed(bytemuck::cast_slice::<u8, T>(x.bytes()));
    passes(lines, &changed, (x.shape(), x.dtype()), values, bytemuck::cast_slice_mut(y), pass)
}

/// Runs `pass([outer, input, inner], axis, from, to)` along each of the `axes`, the last of them into `y`.
fn passes<T: Copy + bytemuck::Zeroable>(
    lines: &[Line],
    axes: &[usize],
    (dims, dtype): (&[usize], DataType),
    mut values: std::borrow::Cow<'_, [T]>,
    y: &mut [T],
    pass: impl Fn([usize; 3], usize, &[T], &mut [T]),
) -> Result<(), OpError> {
    let Some((&last, rest)) = axes.split_last() else {
        y.copy_from_slice(&values);
        return Ok(());
    };
    let mut dims = dims.to_vec();
    for &at in rest {
        let around = around(&dims, at);
        dims[at] = lines[at].output;
        let mut next = between(T::zeroed(), dtype, &dims)?;
        if !next.is_empty() {
            pass(around, at, &values, &mut next);
        }
        values = next.into();
    }
    if !y.is_empty() {
        pass(around(&dims, last), last, &values, y);
    }
    Ok(())
}

/// Elements of a tensor on the way, when some axes are resized: it may be larger than the input and the output.
fn between<T: Clone>(zero: T, dtype: DataType, dims: &[usize]) -> Result<Vec<T>, OpError> {
    let len = checked_bytes(dtype, dims).map(|bytes| bytes / dtype.size());
    let too_large = || OpError::TooLarge { dtype, shape: dims.to_vec() };
    len.and_then(|len| filled(zero, len)).ok_or_else(too_large)
}

fn interpolate<R: Real>(
    attributes: &ResizeAttributes,
    lines: &[Line],
    x: TensorView<'_>,
    shape: &[usize],
    output: &mut Output<'_>,
) -> Result<(), OpError> {
    store::<R>(output, x.dtype(), shape, |y| {
        let taps: Vec<Vec<Taps>> =
            lines.iter().map(|line| (0..line.output).map(|i| taps(attributes, line, i)).collect()).collect();
        let same = |at: usize| {
            lines[at].input == lines[at].output && taps[at].iter().enumerate().all(|(i, t)| t.is(i))
        };
        let changed: Vec<usize> = (0..lines.len()).filter(|&at| !same(at)).collect();
        let pass = |[_, input, inner]: [usize; 3], at: usize, from: &[R], to: &mut [R]| {
            let taps = &taps[at];
            let most = taps.iter().map(|t| t.weights.len()).max().unwrap_or(0);
            // The taps of all places, one after the other: an element each, and 0 of the first where there are fewer.
            let tap = |n: usize, t: &Taps| {
                t.weights.get(n).map_or((0, R::default()), |&(p, w)| (p, R::from_f64(w)))
            };
            let side: Vec<Vec<(usize, R)>> =
                (0..most).map(|n| taps.iter().map(|t| tap(n, t)).collect()).collect();
            for_rows(to, taps.len() * inner, most * cost::ARITHMETIC, |i, to| {
                let from = &from[i * input * inner..][..input * inner];
                if inner == 1 { gather(&side, from, to) } else { blend(taps, inner, from, to) }
            });
        };
        passes(lines, &changed, (x.shape(), R::DTYPE), load::<R>(x), y, pass)?;
        let outside: Vec<Vec<bool>> =
            taps.iter().map(|taps| taps.iter().map(|t| t.outside).collect()).collect();
        if outside.iter().flatten().any(|&o| o) {
            let (dims, steps) = (shape, super::args::strides(shape));
            let value = R::from_f64(attributes.extrapolation_value.into());
            for (i, y) in y.iter_mut().enumerate() {
                if outside.iter().enumerate().any(|(a, o)| o[i / steps[a] % dims[a]]) {
                    *y = value;
                }
            }
        }
        Ok(())
    })
}

/// `to[i] = Σ weight · from[place]` along the innermost axis, for the taps of all places in turn. Zero weights add nothing, not
/// even what is not finite.
fn gather<R: Real>(taps: &[Vec<(usize, R)>], from: &[R], to: &mut [R]) {
    let Some((first, rest)) = taps.split_first() else { return to.fill(R::default()) };
    to.iter_mut().zip(first).for_each(|(y, &(place, weight))| *y = from[place] * weight);
    for taps in rest {
        for (y, &(place, weight)) in to.iter_mut().zip(taps) {
            *y += if weight == R::default() { weight } else { from[place] * weight };
        }
    }
}

/// `to[i] = Σ weight · from[place]` along one axis, for `inner` interleaved lines.
fn blend<R: Real>(taps: &[Taps], inner: usize, from: &[R], to: &mut [R]) {
    widest(
        #[inline(always)]
        || {
            for (row, taps) in to.chunks_exact_mut(inner).zip(taps) {
                for (n, &(place, weight)) in taps.weights.iter().enumerate() {
                    let weight = R::from_f64(weight);
                    let values = &from[place * inner..][..inner];
                    if n > 0 && weight == R::default() {
                        continue;
                    }
                    if n == 0 {
                        row.iter_mut().zip(values).for_each(|(y, &v)| *y = v * weight);
                    } else {
                        row.iter_mut().zip(values).for_each(|(y, &v)| *y += v * weight);
                    }
                }
            }
        },
    );
}

#[cfg(test)]
mod tests;
