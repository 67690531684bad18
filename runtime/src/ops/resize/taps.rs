//! Which elements along an axis a resized element is made of.

use poda_formats::op::{CoordinateTransform, NearestRounding, ResizeAttributes, ResizeMode};

/// The longest axis whose places are counted in f32, in quarters at least.
const LONGEST_IN_F32: usize = 1 << 21;

/// How one axis is resized.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Line {
    pub(super) input: usize,
    pub(super) output: usize,
    /// Output per input; `output` may be rounded.
    pub(super) scale: f64,
    /// Start and end of the part that is taken, as shares of the axis.
    pub(super) roi: [f64; 2],
}

impl Line {
    /// An axis that stays as it is.
    pub(super) fn unchanged(size: usize) -> Self {
        Self { input: size, output: size, scale: 1.0, roi: [0.0, 1.0] }
    }

    /// Where element `i` of the output lies on the input.
    fn place(&self, transform: CoordinateTransform, i: usize) -> f64 {
        let (x, input, scaled) = (i as f64, self.input as f64, self.input as f64 * self.scale);
        let half_pixel = (x + 0.5) / self.scale - 0.5;
        match transform {
            CoordinateTransform::HalfPixel => half_pixel,
            CoordinateTransform::HalfPixelSymmetric => {
                input / 2.0 * (1.0 - self.output as f64 / scaled) + half_pixel
            }
            CoordinateTransform::PytorchHalfPixel if self.output > 1 => half_pixel,
            CoordinateTransform::AlignCorners if self.output > 1 => x * (input - 1.0) / (scaled - 1.0),
            CoordinateTransform::PytorchHalfPixel | CoordinateTransform::AlignCorners => 0.0,
            CoordinateTransform::Asymmetric => x / self.scale,
            CoordinateTransform::TfCropAndResize if self.output > 1 => {
                let [start, end] = self.roi;
                start * (input - 1.0) + x * (end - start) * (input - 1.0) / (self.output as f64 - 1.0)
            }
            CoordinateTransform::TfCropAndResize => 0.5 * (self.roi[0] + self.roi[1]) * (input - 1.0),
        }
    }

    /// As [`Line::place`], by the arithmetic of ONNX Runtime, which decides what is nearest: 1.5 / 0.6 - 0.5 is 2 in f32, and 1.9999999 in
    /// more digits of the same 0.6. Axes so long that f32 does not tell halves apart any more are placed in f64.
    fn place_in_f32(&self, transform: CoordinateTransform, i: usize) -> f64 {
        let (x, scale) = (i as f32, self.scale as f32);
        match transform {
            _ if self.input.max(self.output) > LONGEST_IN_F32 => self.place(transform, i),
            CoordinateTransform::HalfPixel => ((x + 0.5) / scale - 0.5).into(),
            CoordinateTransform::PytorchHalfPixel if self.output > 1 => ((x + 0.5) / scale - 0.5).into(),
            CoordinateTransform::Asymmetric => (x / scale).into(),
            _ => self.place(transform, i),
        }
    }

    fn clamp(&self, place: f64) -> usize {
        // NaN becomes 0.
        (place.max(0.0) as usize).min(self.input - 1)
    }
}

/// The element of the input nearest to element `i` of the output.
pub(super) fn nearest(attributes: &ResizeAttributes, line: &Line, i: usize) -> usize {
    let place = line.place_in_f32(attributes.coordinates, i);
    line.clamp(match attributes.nearest {
        NearestRounding::RoundPreferFloor => (place - 0.5).ceil(),
        NearestRounding::RoundPreferCeil => (place + 0.5).floor(),
        NearestRounding::Floor => place.floor(),
        NearestRounding::Ceil => place.ceil(),
    })
}

/// Elements of the input and their weights.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Taps {
    pub(super) weights: Vec<(usize, f64)>,
    /// Whether the place lies outside of the input, where nothing is interpolated.
    pub(super) outside: bool,
}

impl Taps {
    /// Whether it is element `i` itself.
    pub(super) fn is(&self, i: usize) -> bool {
        self.weights.iter().all(|&(place, weight)| if place == i { weight == 1.0 } else { weight == 0.0 })
            && self.weights.iter().any(|w| w.0 == i)
    }
}

/// The elements of the input that element `i` of the output is made of.
pub(super) fn taps(attributes: &ResizeAttributes, line: &Line, i: usize) -> Taps {
    let place = line.place(attributes.coordinates, i);
    let outside = attributes.coordinates == CoordinateTransform::TfCropAndResize
        && !(0.0..=line.input as f64 - 1.0).contains(&place);
    // Reach of the kernel to either side, and the kernel.
    let (reach, kernel): (f64, &dyn Fn(f64) -> f64) = match attributes.mode {
        ResizeMode::Nearest => {
            return Taps { weights: vec![(nearest(attributes, line, i), 1.0)], outside };
        }
        ResizeMode::Linear => (1.0, &|x: f64| (1.0 - x.abs()).max(0.0)),
        ResizeMode::Cubic => (2.0, &|x: f64| cubic(attributes.cubic_coeff_a.into(), x.abs())),
    };
    // Against aliasing a kernel is as wide as the elements of the output; never wider than twice the input.
    let shrink = if attributes.antialias { line.scale.max(reach / line.input as f64).min(1.0) } else { 1.0 };
    let base = place.ceil() - 1.0;
    let start = (-reach / shrink).floor() + 1.0;
    let count = (2.0 - 2.0 * start) as usize;
    let mut weights: Vec<(usize, f64)> = (0..count)
        .map(|n| {
            let at = base + start + n as f64;
            let inside = (0.0..line.input as f64).contains(&at);
            let weight = kernel((at - place) * shrink);
            (line.clamp(at), if inside || !attributes.exclude_outside { weight } else { 0.0 })
        })
        .collect();
    if attributes.antialias || attributes.exclude_outside {
        let sum: f64 = weights.iter().map(|w| w.1).sum();
        weights.iter_mut().for_each(|w| w.1 /= sum);
    }
    Taps { weights, outside }
}

/// Keys' cubic convolution kernel, for `x ≥ 0`. Keys, 1981.
fn cubic(a: f64, x: f64) -> f64 {
    if x <= 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
    } else {
        0.0
    }
}
