//! Regions of an image pooled to one size at sampled places. He et al., 2017, <https://arxiv.org/abs/1703.06870>.

use poda_formats::DataType;
use poda_formats::op::RoiAlignAttributes;

use super::super::args::{Infos, one, required};
use super::super::facts::{Fact, bad_shape, expect_shape, float_type, known, same_type, shape};
use super::super::real::{Real, load, store, with_real};
use super::super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;
use crate::threads;

/// Samples along one axis of one bin that are taken at most; regions are a file's or a stranger's.
const MOST_SAMPLES: f64 = 1024.0;

fn infos<'a, F: Fact<'a>>(
    attributes: &RoiAlignAttributes,
    inputs: &[Option<F>],
) -> Result<Vec<Info>, OpError> {
    let dtype = float_type(inputs, 0)?;
    same_type(inputs, [1], dtype)?;
    same_type(inputs, [2], DataType::I64)?;
    let (Some(x), Some(rois)) = (shape(inputs, 0)?, shape(inputs, 1)?) else { return Ok(one(dtype, None)) };
    let &[_, channels, _, _] = x else { return Err(bad_shape(0, x, "expected [batch, channels, h, w]")) };
    let &[count, 4] = rois else { return Err(bad_shape(1, rois, "expected [regions, 4]")) };
    expect_shape(inputs, 2, &[count])?;
    Ok(one(dtype, Some(vec![count, channels, attributes.output_height, attributes.output_width])))
}

pub(in super::super) fn infer_roi_align(
    attributes: &RoiAlignAttributes,
    inputs: &Infos<'_>,
) -> Result<Vec<Info>, OpError> {
    infos(attributes, inputs)
}

/// Samples of one bin along one axis, each as two elements and the share of the second; `None` outside the image.
type Samples = Vec<Option<[(usize, f64); 2]>>;

/// The samples of each bin along an axis of `size` elements.
fn bins(
    attributes: &RoiAlignAttributes,
    count: usize,
    size: usize,
    [start, end]: [f64; 2],
) -> Result<Vec<Samples>, OpError> {
    let scale = f64::from(attributes.spatial_scale);
    let offset = if attributes.half_pixel { 0.5 } else { 0.0 };
    let (start, end) = (start * scale - offset, end * scale - offset);
    let length = if attributes.half_pixel { end - start } else { (end - start).max(1.0) };
    let bin = length / count as f64;
    let samples = if attributes.sampling_ratio > 0 { attributes.sampling_ratio as f64 } else { bin.ceil() };
    if samples > MOST_SAMPLES {
        return Err(OpError::OutOfRange {
            name: "samples",
            value: samples as i64,
            bound: MOST_SAMPLES as i64,
        });
    }
    let last = size.saturating_sub(1);
    let sample = |bin_index: usize, i: usize| {
        let place = start + bin_index as f64 * bin + (i as f64 + 0.5) * bin / samples;
        if size == 0 || !(-1.0..=size as f64).contains(&place) {
            return None;
        }
        let low = (place.max(0.0) as usize).min(last);
        let share = if low == last { 0.0 } else { place.max(0.0) - low as f64 };
        Some([(low, 1.0 - share), ((low + 1).min(last), share)])
    };
    let samples = samples.max(0.0) as usize;
    Ok((0..count).map(|b| (0..samples).map(|i| sample(b, i)).collect()).collect())
}

pub(in super::super) fn roi_align(
    attributes: &RoiAlignAttributes,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let infos = infos(attributes, inputs)?;
    let (x, rois, batches) = (required(inputs, 0)?, required(inputs, 1)?, required(inputs, 2)?);
    let batches = batches.as_slice::<i64>()?;
    let &[batch, channels, h, w] = x.shape() else { return Err(bad_shape(0, x.shape(), "4 axes")) };
    let (height, width) = (attributes.output_height, attributes.output_width);
    if let Some(&value) = batches.iter().find(|&&b| b < 0 || b as u64 >= batch as u64) {
        return Err(OpError::OutOfRange { name: "batch index", value, bound: batch as i64 });
    }
    let corners = load::<f64>(rois);
    let regions = corners
        .chunks_exact(4)
        .map(|r| Ok((bins(attributes, height, h, [r[1], r[3]])?, bins(attributes, width, w, [r[0], r[2]])?)))
        .collect::<Result<Vec<_>, OpError>>()?;
    with_real!(x.dtype(), R => store::<R>(&mut outputs[0], x.dtype(), known(&infos, 0), |y| {
        let x = load::<R>(x);
        if y.is_empty() {
            return Ok(());
        }
        threads::for_each_chunk(y, height * width, 1, |i, y| {
            let (region, c) = (i / channels, i % channels);
            let image = &x[(batches[region] as usize * channels + c) * h * w..][..h * w];
            let (rows, cols) = &regions[region];
            for (j, y) in y.iter_mut().enumerate() {
                *y = one_bin(attributes.max, &rows[j / width], &cols[j % width], w, image);
            }
        });
        Ok(())
    }))
}

/// The mean of the interpolated samples of a bin, or, as ONNX has it, the largest weighted element.
fn one_bin<R: Real>(max: bool, rows: &Samples, cols: &Samples, width: usize, image: &[R]) -> R {
    let (mut sum, mut largest) = (R::default(), None);
    for (row, col) in rows.iter().flat_map(|r| cols.iter().map(move |c| (r, c))) {
        let (Some(row), Some(col)) = (row, col) else {
            largest = Some(largest.map_or(R::default(), |l: R| l.larger(R::default())));
            continue;
        };
        for (&(y, wy), &(x, wx)) in row.iter().flat_map(|r| col.iter().map(move |c| (r, c))) {
            let value = image[y * width + x] * R::from_f64(wy * wx);
            sum += value;
            largest = Some(largest.map_or(value, |l: R| l.larger(value)));
        }
    }
    if max {
        return largest.unwrap_or_default();
    }
    sum / R::from_f64((rows.len() * cols.len()).max(1) as f64)
}
