//! Depthwise convolution, direct and dense: every output channel reads one input channel.

use super::Epilogue;
use crate::packing::ConvGeometry;
use crate::threads::Threads;

/// Weights of a depthwise convolution, packed.
#[derive(Debug, Clone)]
pub struct Depthwise {
    channels: usize,
    multiplier: usize,
    taps: usize,
    weights: Vec<f32>,
}

impl Depthwise {
    /// Packs weights `[channels · multiplier, kh · kw]`. Output channel `c` reads input channel `c / multiplier`.
    ///
    /// # Panics
    /// When the weights are not a multiple of `channels · kh · kw`.
    pub fn prepare(weights: &[f32], geometry: &ConvGeometry) -> Self {
        let [kh, kw] = geometry.kernel();
        let (channels, taps) = (geometry.channels(), kh * kw);
        let multiplier = weights.len() / (channels * taps).max(1);
        assert_eq!(weights.len(), channels * taps * multiplier, "{} weights, {geometry:?}", weights.len());
        Self { channels, multiplier, taps, weights: weights.to_vec() }
    }

    /// Convolves one image `[channels, h, w]` to `y` `[channels · multiplier, oh, ow]`. The size of the image may differ
    /// from call to call; bias is `[channels · multiplier]`.
    ///
    /// # Panics
    /// When a slice has not the length that the geometry gives it, or the kernel size differs from the packed one.
    pub fn run(
        &self,
        x: &[f32],
        geometry: &ConvGeometry,
        y: &mut [f32],
        epilogue: &Epilogue<'_>,
        _threads: &Threads,
    ) {
        let ([h, w], [kh, kw], [oh, ow]) = (geometry.input(), geometry.kernel(), geometry.output());
        let ([sy, sx], [dy, dx]) = (geometry.stride(), geometry.dilation());
        let [top, left, ..] = geometry.pads();
        assert_eq!([self.channels, self.taps], [geometry.channels(), kh * kw], "{geometry:?}");
        assert_eq!(x.len(), geometry.image_len(), "x");
        assert_eq!(y.len(), self.channels * self.multiplier * oh * ow, "y");
        for (i, y) in y.iter_mut().enumerate() {
            let (channel, oy, ox) = (i / (oh * ow), i / ow % oh, i % ow);
            let plane = &x[channel / self.multiplier * h * w..][..h * w];
            let mut sum = 0.0;
            for ky in 0..kh {
                for kx in 0..kw {
                    let row = (oy * sy + ky * dy).wrapping_sub(top);
                    let col = (ox * sx + kx * dx).wrapping_sub(left);
                    if row < h && col < w {
                        sum += self.weights[channel * self.taps + ky * kw + kx] * plane[row * w + col];
                    }
                }
            }
            sum += epilogue.bias.map_or(0.0, |bias| bias[channel]);
            *y = sum + epilogue.residual.map_or(0.0, |residual| residual[i]);
        }
        epilogue.activation.apply(y);
    }

    /// Bytes of the packed weights.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.weights[..])
    }
}
