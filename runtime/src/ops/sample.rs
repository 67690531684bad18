//! Sampling at computed places: GridSample and RoiAlign.

mod roi_align;

pub(super) use roi_align::{infer_roi_align, roi_align};

use poda_formats::op::{GridSampleMode, GridSamplePadding};

use super::args::{Infos, one, required, strides};
use super::facts::{Fact, bad_shape, float_type, known, shape};
use super::real::{Real, load, store, with_real};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;
use crate::threads;

fn infos<'a, F: Fact<'a>>(mode: GridSampleMode, inputs: &[Option<F>]) -> Result<Vec<Info>, OpError> {
    let dtype = float_type(inputs, 0)?;
    float_type(inputs, 1)?;
    let (Some(x), Some(grid)) = (shape(inputs, 0)?, shape(inputs, 1)?) else { return Ok(one(dtype, None)) };
    let (Some(axes @ (1..=3)), true) = (x.len().checked_sub(2), x.len() == grid.len()) else {
        return Err(bad_shape(
            0,
            x,
            format!("expected 1 to 3 spatial axes and as many as the grid, {grid:?}"),
        ));
    };
    if grid[0] != x[0] || grid[axes + 1] != axes {
        return Err(bad_shape(1, grid, format!("it does not fit {x:?}")));
    }
    if x[2..].contains(&0) && grid[1..=axes].iter().all(|&d| d > 0) {
        return Err(bad_shape(0, x, "there is nothing to sample"));
    }
    if mode == GridSampleMode::Cubic && axes != 2 {
        return Err(bad_shape(0, x, "cubic sampling is defined for images only"));
    }
    Ok(one(dtype, Some([&x[..2], &grid[1..=axes]].concat())))
}

pub(super) fn infer_grid_sample(
    mode: GridSampleMode,
    _padding: GridSamplePadding,
    _align_corners: bool,
    inputs: &Infos<'_>,
) -> Result<Vec<Info>, OpError> {
    infos(mode, inputs)
}

/// How places along one axis of `size` elements are read.
#[derive(Debug, Clone, Copy)]
struct Axis {
    size: usize,
    padding: GridSamplePadding,
    align_corners: bool,
}

impl Axis {
    /// From -1 … 1 to elements.
    fn place(&self, x: f64) -> f64 {
        let size = self.size as f64;
        if self.align_corners { f64::midpoint(x, 1.0) * (size - 1.0) } else { ((x + 1.0) * size - 1.0) / 2.0 }
    }

    /// A place moved inside, where the padding says how.
    fn inside(&self, x: f64) -> f64 {
        let last = self.size as f64 - 1.0;
        match self.padding {
            GridSamplePadding::Zeros => x,
            GridSamplePadding::Border => x.clamp(0.0, last),
            GridSamplePadding::Reflection => {
                let (low, high) = if self.align_corners { (0.0, last) } else { (-0.5, last + 0.5) };
                let range = high - low;
                if range <= 0.0 || !x.is_finite() {
                    return 0.0;
                }
                let turns = (x - low).rem_euclid(2.0 * range);
                low + if turns > range { 2.0 * range - turns } else { turns }
            }
        }
    }

    /// The element at a whole place, if there is one.
    fn element(&self, at: f64) -> Option<usize> {
        let at = match self.padding {
            GridSamplePadding::Zeros => at,
            GridSamplePadding::Border | GridSamplePadding::Reflection => {
                self.inside(at).clamp(0.0, self.size as f64 - 1.0)
            }
        };
        (at >= 0.0 && at < self.size as f64).then_some(at as usize)
    }

    /// Elements and weights that make up the value at grid coordinate `x`.
    fn taps(&self, mode: GridSampleMode, x: f64) -> [(Option<usize>, f64); 4] {
        let place = self.place(x);
        let mut taps = [(None, 0.0); 4];
        match mode {
            GridSampleMode::Nearest => {
                taps[0] = (self.element(self.inside(place.round_ties_even()).round_ties_even()), 1.0);
            }
            GridSampleMode::Linear => {
                let place = self.inside(place);
                let part = place - place.floor();
                taps[0] = (self.element(place.floor()), 1.0 - part);
                taps[1] = (self.element(place.floor() + 1.0), part);
            }
            GridSampleMode::Cubic => {
                // Each of the four elements is moved inside, not the place between them: beyond the border the curve goes
                // on, as in ONNX Runtime and PyTorch.
                let part = place - place.floor();
                for (i, tap) in taps.iter_mut().enumerate() {
                    let at = i as f64 - 1.0;
                    *tap = (self.element(place.floor() + at), cubic((at - part).abs()));
                }
            }
        }
        taps
    }
}

/// Keys' kernel with `a = -0.75`, for `x ≥ 0`.
fn cubic(x: f64) -> f64 {
    let a = -0.75;
    if x <= 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else {
        ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
    }
}

pub(super) fn grid_sample(
    mode: GridSampleMode,
    padding: GridSamplePadding,
    align_corners: bool,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let infos = infos(mode, inputs)?;
    let (x, grid) = (required(inputs, 0)?, required(inputs, 1)?);
    let (channels, spatial) = (x.shape()[1], &x.shape()[2..]);
    let (steps, pixels): (Vec<usize>, usize) = (strides(spatial), spatial.iter().product());
    let places: usize = grid.shape()[1..=spatial.len()].iter().product();
    let axes: Vec<Axis> = spatial.iter().map(|&size| Axis { size, padding, align_corners }).collect();
    with_real!(x.dtype(), R => store::<R>(&mut outputs[0], x.dtype(), known(&infos, 0), |y| {
        let (x, grid) = (load::<R>(x), load::<f64>(grid));
        if y.is_empty() {
            return Ok(());
        }
        threads::for_each_chunk(y, channels * places, 1, |n, y| {
            let image = &x[n * channels * pixels..][..channels * pixels];
            for place in 0..places {
                let at = &grid[(n * places + place) * axes.len()..][..axes.len()];
                // The grid names the last axis first.
                let taps: Vec<_> = axes.iter().zip(at.iter().rev()).map(|(axis, &x)| axis.taps(mode, x)).collect();
                for c in 0..channels {
                    y[c * places + place] = value(&taps, &steps, &image[c * pixels..][..pixels]);
                }
            }
        });
        Ok(())
    }))
}

/// The weighted sum over all combinations of taps.
fn value<R: Real>(taps: &[[(Option<usize>, f64); 4]], steps: &[usize], channel: &[R]) -> R {
    let Some((first, rest)) = taps.split_first() else { return channel[0] };
    let mut sum = R::default();
    for &(element, weight) in first {
        if let Some(at) = element
            && weight != 0.0
        {
            sum += value(rest, &steps[1..], &channel[at * steps[0]..]) * R::from_f64(weight);
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use poda_formats::op::Op;

    use super::super::testing::{apply, assert_close, floats, input};
    use super::*;

    /// As ONNX Runtime 1.32 gives them.
    #[test]
    fn cubic_samples_beyond_the_border() {
        let x = input(&[1, 1, 2, 3], &[1.0_f32, 4.0, 9.0, 16.0, 25.0, 36.0]);
        let grid = [-1.3_f32, -1.1, 0.9, 1.2, 1.5, 0.3, 0.1, -0.2, -0.8, 7.0];
        for (align_corners, expected) in [
            (false, [-0.084_579_59, 38.527_176, 31.248_005, 11.091_098, 15.136_009]),
            (true, [0.183_985_11, 36.771_584, 27.854_666, 13.072_568, 17.320_013]),
        ] {
            let op = Op::GridSample {
                mode: GridSampleMode::Cubic,
                padding: GridSamplePadding::Border,
                align_corners,
            };
            let result = apply(&op, &[x.clone(), input(&[1, 1, 5, 2], &grid)], 1).unwrap();
            assert_close(floats(&result[0]), &expected, 1e-5);
        }
    }
}
