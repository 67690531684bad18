//! What a convolution's weights are multiplied with, one row for each place of the window: the transposed im2col matrix.
//!
//! For statistics of a layer's inputs, such as the Gram matrix that a pruner fits weights by.

use poda_formats::op::ConvAttributes;

use super::OpError;
use super::geometry::Convolution;

/// The windows of a convolution of `x` `[batch, channels, spatial…]`.
#[derive(Debug, Clone)]
pub struct Patches {
    plan: Convolution,
}

impl Patches {
    /// Of a convolution with a weight of shape `w`, `[filters, channels / groups, kernel…]`.
    ///
    /// # Errors
    /// When the shapes do not fit each other or the attributes.
    pub fn new(attributes: &ConvAttributes, x: &[usize], w: &[usize]) -> Result<Self, OpError> {
        Ok(Self { plan: Convolution::new(attributes, x, w)? })
    }

    /// Groups of channels, each with filters of its own.
    pub fn groups(&self) -> usize {
        self.plan.groups
    }

    /// Places of the window in all images.
    pub fn rows(&self) -> usize {
        self.plan.batch * self.plan.windows.outputs()
    }

    /// Elements under the window of one group: `channels / groups · taps`, in the order of the weight.
    pub fn cols(&self) -> usize {
        self.plan.channels / self.plan.groups * self.plan.windows.taps()
    }

    /// Writes one row, `[cols]`, of a group; what lies in the padding is zero.
    ///
    /// # Panics
    /// When the image is not of the shape given, or there is no such group or row.
    pub fn write(&self, x: &[f32], group: usize, row: usize, out: &mut [f32]) {
        let windows = &self.plan.windows;
        let (channels, pixels) = (self.plan.channels / self.plan.groups, windows.inputs());
        let (image, place) = (row / windows.outputs(), row % windows.outputs());
        let [d, h, w] = &windows.axes;
        let at = [place / (h.output * w.output), place / w.output % h.output, place % w.output];
        let taps = [d.taps(at[0]), h.taps(at[1]), w.taps(at[2])];
        let all = windows.taps();
        let x = &x[(image * self.plan.groups + group) * channels * pixels..][..channels * pixels];
        if taps[2].len() < w.kernel || taps[1].len() < h.kernel || taps[0].len() < d.kernel {
            out.fill(0.0);
        }
        for (channel, out) in x.chunks_exact(pixels).zip(out.chunks_exact_mut(all)) {
            for z in taps[0].clone() {
                for y in taps[1].clone() {
                    let line = (d.position(at[0], z) * h.input + h.position(at[1], y)) * w.input;
                    let to = (z * h.kernel + y) * w.kernel;
                    for t in taps[2].clone() {
                        out[to + t] = channel[line + w.position(at[2], t)];
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use poda_formats::op::Padding;

    use super::super::conv::convolve;
    use super::*;

    #[test]
    fn weights_times_patches_are_the_convolution() {
        for (x, w, group, strides, dilations, pads) in [
            (&[2, 3, 5, 6][..], &[4, 3, 3, 3][..], 1, &[1, 1][..], &[1, 1][..], &[0, 0, 0, 0][..]),
            (&[2, 4, 7, 5], &[6, 2, 3, 2], 2, &[2, 1], &[1, 2], &[1, 0, 2, 3]),
            (&[1, 4, 4, 4], &[4, 1, 1, 1], 4, &[1, 1], &[1, 1], &[1, 1, 1, 1]),
            (&[1, 2, 9], &[3, 2, 4], 1, &[3], &[2], &[2, 1]),
        ] {
            let attributes = ConvAttributes {
                group,
                kernel: vec![],
                strides: strides.to_vec(),
                dilations: dilations.to_vec(),
                padding: Padding::Explicit(pads.to_vec()),
            };
            let size = |shape: &[usize]| shape.iter().product::<usize>();
            let noise = |len: usize| (0..len).map(|i| (i as f32 * 12.9898).sin()).collect::<Vec<f32>>();
            let (image, weights) = (noise(size(x)), noise(size(w)));
            let patches = Patches::new(&attributes, x, w).unwrap();
            let plan = &patches.plan;
            let mut y = vec![f32::NAN; size(&plan.output())];
            convolve(plan, &image, &weights, None, &mut y);
            let (filters, outputs) = (plan.filters / group, plan.windows.outputs());
            let mut row = vec![f32::NAN; patches.cols()];
            for (place, g) in (0..patches.rows()).flat_map(|place| (0..group).map(move |g| (place, g))) {
                patches.write(&image, g, place, &mut row);
                for f in 0..filters {
                    let weights = &weights[(g * filters + f) * row.len()..][..row.len()];
                    let sum: f32 = weights.iter().zip(&row).map(|(w, x)| w * x).sum();
                    let at = (place / outputs * plan.filters + g * filters + f) * outputs + place % outputs;
                    assert!((sum - y[at]).abs() < 1e-4, "{x:?} {w:?}: {sum} {}", y[at]);
                }
            }
        }
    }
}
