//! The geometry of a convolution over one image: where each output pixel reads.

/// Why numbers do not describe a convolution.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum GeometryError {
    #[error("kernel {kernel:?}, stride {stride:?} and dilation {dilation:?} must be at least 1")]
    Zero { kernel: [usize; 2], stride: [usize; 2], dilation: [usize; 2] },
    #[error("kernel {kernel:?} with dilation {dilation:?} is larger than the padded input {padded:?}")]
    KernelTooLarge { kernel: [usize; 2], dilation: [usize; 2], padded: [usize; 2] },
    #[error("input {input:?} with pads {pads:?}, kernel {kernel:?} and {channels} channels is too large")]
    TooLarge { channels: usize, input: [usize; 2], kernel: [usize; 2], pads: [usize; 4] },
}

/// Elements of a padded image that are fine however small the image is: 64 MiB.
const MOST_PADDED: usize = 1 << 24;

/// A convolution of an image `[channels, h, w]`; a 1-D one has `h = 1`. Pairs are (vertical, horizontal).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ConvGeometry {
    channels: usize,
    input: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
    pads: [usize; 4],
    output: [usize; 2],
}

impl ConvGeometry {
    /// `pads` are (top, left, bottom, right), as in ONNX; the output size follows.
    ///
    /// # Errors
    /// When a number is zero that must not be, or the kernel does not fit the padded input.
    pub fn new(
        channels: usize,
        input: [usize; 2],
        kernel: [usize; 2],
        stride: [usize; 2],
        dilation: [usize; 2],
        pads: [usize; 4],
    ) -> Result<Self, GeometryError> {
        if [kernel, stride, dilation].iter().flatten().any(|&v| v == 0) {
            return Err(GeometryError::Zero { kernel, stride, dilation });
        }
        // Offsets are computed in 32 bits, and twice over while padding.
        let limit = i32::MAX as usize / 4;
        let product = |a: &[usize]| a.iter().try_fold(1_usize, |p, &v| p.checked_mul(v));
        let mut output = [0; 2];
        let mut padded = [0; 2];
        let mut fits = product(&[channels, input[0], input[1]]).is_some_and(|p| p < limit)
            && product(&[channels, kernel[0], kernel[1]]).is_some_and(|p| p < limit);
        for axis in 0..2 {
            let sides = [input[axis], pads[axis], pads[axis + 2]];
            padded[axis] = sides.iter().fold(0, |sum: usize, &v| sum.saturating_add(v));
            let extent = dilation[axis].saturating_mul(kernel[axis] - 1).saturating_add(1);
            fits &= padded[axis] < limit;
            if fits && extent > padded[axis] {
                return Err(GeometryError::KernelTooLarge { kernel, dilation, padded });
            }
            output[axis] = padded[axis].saturating_sub(extent) / stride[axis] + 1;
        }
        // Kernels pad the image: what pads take must not be out of proportion.
        let image = product(&[channels, input[0], input[1]]).unwrap_or(limit);
        let most = image.saturating_mul(16).max(MOST_PADDED).min(limit);
        if !fits || product(&[channels.max(1), padded[0], padded[1]]).is_none_or(|p| p >= most) {
            return Err(GeometryError::TooLarge { channels, input, kernel, pads });
        }
        Ok(Self { channels, input, kernel, stride, dilation, pads, output })
    }

    /// Rows of the im2col matrix: `channels · kh · kw`.
    pub fn k(&self) -> usize {
        self.channels * self.kernel[0] * self.kernel[1]
    }

    /// Columns of the im2col matrix: output pixels.
    pub fn n(&self) -> usize {
        self.output[0] * self.output[1]
    }

    /// Elements of the image.
    pub fn image_len(&self) -> usize {
        self.channels * self.input[0] * self.input[1]
    }

    /// Input channels.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Input height and width.
    pub fn input(&self) -> [usize; 2] {
        self.input
    }

    /// Kernel height and width.
    pub fn kernel(&self) -> [usize; 2] {
        self.kernel
    }

    /// Strides.
    pub fn stride(&self) -> [usize; 2] {
        self.stride
    }

    /// Dilations.
    pub fn dilation(&self) -> [usize; 2] {
        self.dilation
    }

    /// Pads: top, left, bottom, right.
    pub fn pads(&self) -> [usize; 4] {
        self.pads
    }

    /// Output height and width.
    pub fn output(&self) -> [usize; 2] {
        self.output
    }

    /// Whether the im2col matrix is the image itself: a 1×1 kernel, stride 1, no pads.
    pub fn is_pointwise(&self) -> bool {
        self.kernel == [1, 1] && self.stride == [1, 1] && self.pads == [0; 4]
    }

    /// The windows that squares of `side` outputs read, one for each square: those of a convolution with stride and dilation 1 lie
    /// `side` apart and are `side - 1` longer. Squares at the end may reach beyond the outputs.
    pub(crate) fn tiled(&self, side: usize) -> Self {
        debug_assert_eq!([self.stride, self.dilation], [[1; 2]; 2], "tiles of {self:?}");
        let kernel = self.kernel.map(|size| size + side - 1);
        let output = self.output.map(|size| size.div_ceil(side));
        let [top, left, ..] = self.pads;
        let after = |axis: usize, before: usize| {
            ((output[axis] - 1) * side + kernel[axis]).saturating_sub(self.input[axis] + before)
        };
        let pads = [top, left, after(0, top), after(1, left)];
        Self { kernel, stride: [side; 2], pads, output, ..self.clone() }
    }

    /// The same convolution over images with fewer channels.
    #[cfg(all(target_arch = "x86_64", feature = "quantized"))]
    pub(crate) fn with_channels(&self, channels: usize) -> Self {
        debug_assert!(channels <= self.channels, "{channels} of {self:?}");
        Self { channels, ..self.clone() }
    }

    /// The same convolution over images of another size.
    ///
    /// # Errors
    /// As [`ConvGeometry::new`].
    pub fn with_input(&self, input: [usize; 2]) -> Result<Self, GeometryError> {
        Self::new(self.channels, input, self.kernel, self.stride, self.dilation, self.pads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_sizes_follow_onnx() {
        let conv = |input, kernel, stride, dilation, pads| {
            ConvGeometry::new(3, input, kernel, stride, dilation, pads).map(|g| g.output())
        };
        assert_eq!(conv([112, 112], [3, 3], [2, 2], [1, 1], [0, 0, 1, 1]), Ok([56, 56]));
        assert_eq!(conv([7, 9], [5, 3], [1, 2], [1, 2], [2, 0, 2, 0]), Ok([7, 3]));
        assert!(matches!(
            conv([1, 2], [1, 3], [1, 1], [1, 1], [0; 4]),
            Err(GeometryError::KernelTooLarge { .. })
        ));
        assert!(matches!(conv([4, 4], [0, 3], [1, 1], [1, 1], [0; 4]), Err(GeometryError::Zero { .. })));
        assert!(matches!(
            conv([usize::MAX, 4], [1, 3], [1, 1], [1, 1], [1; 4]),
            Err(GeometryError::TooLarge { .. })
        ));
    }
}
