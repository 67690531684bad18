//! Windows that slide over the spatial axes of `[batch, channels, spatial…]`: convolution and pooling.

use std::ops::Range;

use poda_formats::op::{ConvAttributes, Padding, PoolAttributes};

use super::OpError;
use super::facts::bad_shape;
use crate::packing::ConvGeometry;

/// How a window slides along one axis. All sizes fit `isize`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Axis {
    pub(crate) input: usize,
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) dilation: usize,
    /// May be negative: so many elements are cut off.
    pub(crate) begin: isize,
    pub(crate) end: isize,
    pub(crate) output: usize,
}

impl Axis {
    /// Where tap `tap` of the window at `output` reads, which must be inside the input.
    #[inline]
    pub(crate) fn position(&self, output: usize, tap: usize) -> usize {
        // Every term is at most the padded size, which fits.
        ((output * self.stride + tap * self.dilation) as isize - self.begin) as usize
    }

    /// Where an axis that is not there slides: one element, one window.
    pub(super) const UNIT: Self =
        Self { input: 1, kernel: 1, stride: 1, dilation: 1, begin: 0, end: 0, output: 1 };

    /// The outputs for which tap `tap` reads inside the input.
    pub(crate) fn valid(&self, tap: usize) -> Range<usize> {
        let first = self.begin - (tap * self.dilation) as isize;
        let reaches = |from: isize| (from.max(0) as usize).div_ceil(self.stride).min(self.output);
        let start = reaches(first);
        start..reaches(first + self.input as isize).max(start)
    }

    /// The taps of the window at `output` that read inside the input.
    pub(crate) fn taps(&self, output: usize) -> Range<usize> {
        let start = (output * self.stride) as isize - self.begin;
        let reaches = |from: isize| (from.max(0) as usize).div_ceil(self.dilation).min(self.kernel);
        let first = reaches(-start);
        first..reaches(self.input as isize - start).max(first)
    }

    /// Taps of the window at `output` that lie in the input or its padding: all but those that rounding up added.
    pub(crate) fn padded_taps(&self, output: usize) -> usize {
        let room = self.input as isize + self.end + self.begin - (output * self.stride) as isize;
        (room.max(0) as usize).div_ceil(self.dilation).min(self.kernel)
    }

    /// Whether the output is the input.
    fn is_identity(&self) -> bool {
        self.kernel == 1 && self.stride == 1 && self.begin == 0 && self.end == 0
    }

    /// Elements from the first to the last that a window covers.
    pub(super) fn extent(&self) -> usize {
        (self.kernel - 1) * self.dilation + 1
    }
}

/// The attributes that convolution and pooling share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sliding<'a> {
    pub(super) strides: &'a [usize],
    pub(super) dilations: &'a [usize],
    pub(super) padding: &'a Padding,
    pub(super) ceil_mode: bool,
}

impl<'a> From<&'a ConvAttributes> for Sliding<'a> {
    fn from(attributes: &'a ConvAttributes) -> Self {
        let ConvAttributes { strides, dilations, padding, .. } = attributes;
        Self { strides, dilations, padding, ceil_mode: false }
    }
}

impl<'a> From<&'a PoolAttributes> for Sliding<'a> {
    fn from(attributes: &'a PoolAttributes) -> Self {
        let PoolAttributes { strides, dilations, padding, ceil_mode, .. } = attributes;
        Self { strides, dilations, padding, ceil_mode: *ceil_mode }
    }
}

/// The largest size, of a padded axis, that is worked with: sums and products of two fit.
pub(super) const LIMIT: usize = 1 << 31;

/// One value for each axis: `given`, or `default` for all when it is empty.
pub(super) fn per_axis(
    name: &'static str,
    given: &[usize],
    default: usize,
    axes: usize,
) -> Result<Vec<usize>, OpError> {
    if given.is_empty() {
        return Ok(vec![default; axes]);
    }
    if given.len() != axes {
        return Err(OpError::Invalid(format!("{name} {given:?} should have {axes} values")));
    }
    match given.iter().find(|&&v| v == 0 || v >= LIMIT) {
        Some(&value) => Err(OpError::OutOfRange { name, value: value as i64, bound: LIMIT as i64 }),
        None => Ok(given.to_vec()),
    }
}

/// Begin and end of each axis from ONNX `pads`.
pub(super) fn explicit(pads: &[i64], axes: usize) -> Result<Vec<[isize; 2]>, OpError> {
    if pads.is_empty() {
        return Ok(vec![[0, 0]; axes]);
    }
    if pads.len() != 2 * axes {
        return Err(OpError::Invalid(format!("pads {pads:?} should have {} values", 2 * axes)));
    }
    match pads.iter().find(|v| v.unsigned_abs() >= LIMIT as u64) {
        Some(&value) => Err(OpError::OutOfRange { name: "pads", value, bound: LIMIT as i64 }),
        None => Ok((0..axes).map(|i| [pads[i] as isize, pads[axes + i] as isize]).collect()),
    }
}

/// How windows of size `kernel` slide over the spatial axes of `x` (input 0, `[batch, channels, spatial…]`).
///
/// # Errors
/// When a number is out of range, counts differ, or a window is larger than the padded input.
pub(super) fn slide(sliding: Sliding<'_>, x: &[usize], kernel: &[usize]) -> Result<Vec<Axis>, OpError> {
    let axes = spatial(0, x)?.len();
    let input = &x[2..];
    if kernel.len() != axes {
        return Err(OpError::Invalid(format!("kernel {kernel:?} should have {axes} values")));
    }
    let kernel = per_axis("kernel", kernel, 1, axes)?;
    let strides = per_axis("stride", sliding.strides, 1, axes)?;
    let dilations = per_axis("dilation", sliding.dilations, 1, axes)?;
    let pads = match sliding.padding {
        Padding::Explicit(pads) => explicit(pads, axes)?,
        Padding::SameUpper | Padding::SameLower | Padding::Valid => vec![[0, 0]; axes],
    };
    (0..axes)
        .map(|i| {
            let mut axis = Axis {
                input: input[i],
                kernel: kernel[i],
                stride: strides[i],
                dilation: dilations[i],
                begin: pads[i][0],
                end: pads[i][1],
                output: 0,
            };
            if (axis.kernel - 1).checked_mul(axis.dilation).is_none_or(|v| v >= LIMIT) || axis.input >= LIMIT
            {
                return Err(bad_shape(
                    0,
                    x,
                    format!("a window of {} elements, {} apart, is too large", axis.kernel, axis.dilation),
                ));
            }
            let extent = axis.extent();
            if matches!(sliding.padding, Padding::SameUpper | Padding::SameLower) {
                axis.output = axis.input.div_ceil(axis.stride);
                let needed =
                    (axis.output.saturating_sub(1) * axis.stride + extent).saturating_sub(axis.input);
                let (less, more) = ((needed / 2) as isize, needed.div_ceil(2) as isize);
                (axis.begin, axis.end) =
                    if *sliding.padding == Padding::SameUpper { (less, more) } else { (more, less) };
                return Ok(axis);
            }
            let padded = axis.input as isize + axis.begin + axis.end;
            let room = padded - extent as isize;
            // Windows after the first: whole ones, and where they are rounded up also the one that room is left for in part.
            // The first itself may be partial, on a map that is smaller than the window.
            let stride = axis.stride as isize;
            let mut more = room.div_euclid(stride);
            if sliding.ceil_mode && room.rem_euclid(stride) != 0 {
                more += 1;
                // A partial window counts unless it would start in the padding at the end.
                if more * stride >= axis.input as isize + axis.begin {
                    more -= 1;
                }
            }
            let Ok(more) = usize::try_from(more) else {
                return Err(bad_shape(
                    0,
                    x,
                    format!("a window of extent {extent} does not fit {padded} padded elements"),
                ));
            };
            axis.output = more + 1;
            Ok(axis)
        })
        .collect()
}

/// The spatial axes of `[batch, channels, spatial…]`.
///
/// # Errors
/// When there are less than two dimensions.
pub(super) fn spatial(index: usize, shape: &[usize]) -> Result<&[usize], OpError> {
    shape.get(2..).ok_or_else(|| bad_shape(index, shape, "expected [batch, channels, spatial…]"))
}

/// Windows over three axes; those that a tensor lacks come first and have one element.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Windows {
    pub(crate) axes: [Axis; 3],
    /// How many of the axes are the tensor's.
    rank: usize,
}

impl Windows {
    /// How windows of size `kernel` slide over `x` (input 0).
    ///
    /// # Errors
    /// As [`slide`], and when there are more than three spatial axes.
    pub(super) fn new(sliding: Sliding<'_>, x: &[usize], kernel: &[usize]) -> Result<Self, OpError> {
        Self::from_axes(x, &slide(sliding, x, kernel)?)
    }

    /// Windows over axes that are resolved already; `x` is named in the error.
    pub(super) fn from_axes(x: &[usize], given: &[Axis]) -> Result<Self, OpError> {
        let Some(first) = 3_usize.checked_sub(given.len()) else {
            return Err(bad_shape(0, x, "more than three spatial axes are not supported"));
        };
        let mut axes = [Axis::UNIT; 3];
        axes[first..].copy_from_slice(given);
        Ok(Self { axes, rank: given.len() })
    }

    /// The same as windows over an image `[channels, h, w]`, where one axis is an image of height 1; `None` for three axes,
    /// negative pads, and sizes that packed kernels do not take.
    pub(crate) fn image(&self, channels: usize) -> Option<ConvGeometry> {
        let [_, h, w] = &self.axes;
        let pads = [h.begin, w.begin, h.end, w.end].map(|pad| usize::try_from(pad).ok());
        let [Some(top), Some(left), Some(bottom), Some(right)] = pads else { return None };
        let both = |value: fn(&Axis) -> usize| [value(h), value(w)];
        let (input, kernel) = (both(|a| a.input), both(|a| a.kernel));
        let (strides, dilations) = (both(|a| a.stride), both(|a| a.dilation));
        let geometry =
            ConvGeometry::new(channels, input, kernel, strides, dilations, [top, left, bottom, right]);
        geometry.ok().filter(|_| self.rank < 3)
    }

    /// Elements of one channel of the input.
    pub(crate) fn inputs(&self) -> usize {
        self.axes.iter().map(|a| a.input).product()
    }

    /// Elements of one channel of the output.
    pub(crate) fn outputs(&self) -> usize {
        self.axes.iter().map(|a| a.output).product()
    }

    /// Elements of a window.
    pub(crate) fn taps(&self) -> usize {
        self.axes.iter().map(|a| a.kernel).product()
    }

    /// Whether each window is one element of the input, in order.
    pub(crate) fn is_identity(&self) -> bool {
        self.axes.iter().all(Axis::is_identity)
    }

    /// Sizes of the output along the axes that the tensor has.
    pub(crate) fn output(&self) -> impl Iterator<Item = usize> {
        self.axes[3 - self.rank..].iter().map(|a| a.output)
    }

    /// Calls `visit(column, count, at, step)` for each run of outputs within `columns` for which tap number `tap` reads
    /// inside the input: `count` outputs from `column` on (counted from the start of `columns`) read elements `at`,
    /// `at + step`, … of a channel.
    pub(crate) fn runs(
        &self,
        tap: usize,
        columns: Range<usize>,
        mut visit: impl FnMut(usize, usize, usize, usize),
    ) {
        let [d, h, w] = self.axes;
        let taps = [tap / (h.kernel * w.kernel), tap / w.kernel % h.kernel, tap % w.kernel];
        let (depths, rows, valid) = (d.valid(taps[0]), h.valid(taps[1]), w.valid(taps[2]));
        if columns.is_empty() || valid.is_empty() {
            return;
        }
        for line in columns.start / w.output..=(columns.end - 1) / w.output {
            let (z, y) = (line / h.output, line % h.output);
            if !depths.contains(&z) || !rows.contains(&y) {
                continue;
            }
            let start = (line * w.output + valid.start).max(columns.start);
            let end = (line * w.output + valid.end).min(columns.end);
            if start < end {
                let plane = d.position(z, taps[0]) * h.input + h.position(y, taps[1]);
                let at = plane * w.input + w.position(start - line * w.output, taps[2]);
                visit(start - columns.start, end - start, at, w.stride);
            }
        }
    }
}

/// A convolution of `x` `[batch, channels, spatial…]` with `w` `[filters, channels / groups, kernel…]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Convolution {
    pub(crate) batch: usize,
    pub(crate) channels: usize,
    pub(crate) filters: usize,
    pub(crate) groups: usize,
    pub(crate) windows: Windows,
}

impl Convolution {
    /// The geometry for inputs of these shapes.
    ///
    /// # Errors
    /// When they do not fit each other or the attributes.
    pub(crate) fn new(attributes: &ConvAttributes, x: &[usize], w: &[usize]) -> Result<Self, OpError> {
        let kernel = kernel_of(attributes, x, w)?;
        let ([batch, channels], [filters, per_group], groups) =
            ([x[0], x[1]], [w[0], w[1]], attributes.group);
        if groups == 0 || per_group.checked_mul(groups) != Some(channels) || !filters.is_multiple_of(groups) {
            return Err(bad_shape(1, w, format!("it does not fit {channels} channels in {groups} groups")));
        }
        Ok(Self { batch, channels, filters, groups, windows: Windows::new(attributes.into(), x, kernel)? })
    }

    /// Shape of the result.
    pub(crate) fn output(&self) -> Vec<usize> {
        [self.batch, self.filters].into_iter().chain(self.windows.output()).collect()
    }
}

/// The kernel size that `w` (input 1) has, checked against the attribute and the rank of `x` (input 0).
pub(super) fn kernel_of<'a>(
    attributes: &ConvAttributes,
    x: &[usize],
    w: &'a [usize],
) -> Result<&'a [usize], OpError> {
    spatial(0, x)?;
    let kernel = spatial(1, w)?;
    if kernel.len() != x.len() - 2 {
        return Err(bad_shape(1, w, format!("its rank does not match the input's, {x:?}")));
    }
    if !attributes.kernel.is_empty() && attributes.kernel != kernel {
        return Err(bad_shape(1, w, format!("the kernel should be {:?}", attributes.kernel)));
    }
    Ok(kernel)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slide_1d(padding: &Padding, ceil_mode: bool, numbers: [usize; 4]) -> Option<[isize; 3]> {
        let [input, kernel, stride, dilation] = numbers;
        let sliding = Sliding { strides: &[stride], dilations: &[dilation], padding, ceil_mode };
        let axis = slide(sliding, &[1, 1, input], &[kernel]).ok()?[0];
        Some([axis.output as isize, axis.begin, axis.end])
    }

    #[test]
    fn sizes_follow_onnx() {
        let pads = |begin, end| Padding::Explicit(vec![begin, end]);
        let cases = [
            (pads(0, 0), false, [5, 3, 1, 1], Some([3, 0, 0])),
            (pads(1, 1), false, [5, 3, 2, 1], Some([3, 1, 1])),
            (pads(1, 1), false, [5, 3, 1, 3], Some([1, 1, 1])),
            (pads(0, 0), false, [5, 3, 1, 3], None),
            (pads(-1, 0), false, [5, 3, 1, 1], Some([2, -1, 0])),
            (pads(-3, -3), false, [5, 1, 1, 1], None),
            (Padding::SameUpper, false, [5, 2, 1, 1], Some([5, 0, 1])),
            (Padding::SameLower, false, [5, 2, 1, 1], Some([5, 1, 0])),
            (Padding::SameLower, false, [6, 3, 2, 1], Some([3, 1, 0])),
            (Padding::SameUpper, false, [4, 1, 2, 1], Some([2, 0, 0])),
            (Padding::Valid, false, [6, 3, 2, 1], Some([2, 0, 0])),
            (pads(0, 0), true, [4, 3, 2, 1], Some([2, 0, 0])),
            // The only window is a partial one.
            (pads(0, 0), true, [1, 2, 2, 1], Some([1, 0, 0])),
            (pads(0, 0), true, [2, 4, 3, 1], Some([1, 0, 0])),
            (pads(1, 1), true, [2, 5, 2, 1], Some([1, 1, 1])),
            (pads(0, 0), true, [1, 2, 3, 2], Some([1, 0, 0])),
            (pads(0, 0), true, [1, 2, 1, 1], None),
            (pads(0, 0), true, [1, 4, 2, 1], None),
            (pads(0, 0), true, [1, 4, 3, 1], None),
            (pads(0, 0), false, [1, 2, 2, 1], None),
            (pads(0, 1), true, [0, 2, 2, 1], None),
            // The extra window would start in the padding at the end.
            (pads(0, 1), true, [2, 1, 2, 1], Some([2, 0, 1])),
            (pads(0, 2), true, [2, 2, 2, 1], Some([2, 0, 2])),
            (pads(1, 1), true, [2, 1, 3, 1], Some([2, 1, 1])),
            (pads(0, 0), false, [5, 0, 1, 1], None),
            (pads(0, 0), false, [5, 1, 0, 1], None),
            (pads(0, 0), false, [5, 1, 1, 0], None),
            (pads(0, 0), false, [0, 1, 1, 1], None),
            (pads(1, 0), false, [0, 1, 1, 1], Some([1, 1, 0])),
            (pads(i64::MAX, i64::MAX), false, [5, 1, 1, 1], None),
            (pads(0, 0), false, [5, usize::MAX, 1, usize::MAX], None),
        ];
        for (padding, ceil_mode, numbers, expected) in cases {
            assert_eq!(
                slide_1d(&padding, ceil_mode, numbers),
                expected,
                "{padding:?} {ceil_mode} {numbers:?}"
            );
        }
    }
}
