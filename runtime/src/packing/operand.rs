//! The activations of a product: a matrix in either order, or an image whose im2col matrix is packed on the fly.

use super::geometry::ConvGeometry;
use super::image::PaddedImage;

/// Order of an activation matrix with `features` rows in the mathematical product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    /// `[features, n]`, `n` contiguous; images are `[channels, pixels]`.
    FeatureMajor,
    /// `[n, features]`, features contiguous.
    TokenMajor,
}

/// The activations that a weight is multiplied with.
#[derive(Debug, Clone, Copy)]
pub enum X<'a> {
    /// A matrix of `k · n` elements.
    Matrix {
        /// The elements.
        data: &'a [f32],
        /// Their order.
        layout: Layout,
    },
    /// The im2col matrix of an image: row `(c, ky, kx)`, column = output pixel.
    Image {
        /// `[channels, h, w]`
        data: &'a [f32],
        /// Where each output pixel reads.
        geometry: &'a ConvGeometry,
    },
}

impl X<'_> {
    /// Calls `f` with what kernels take that compute squares of `tile` × `tile` outputs together.
    pub(crate) fn with_right<R>(self, tile: usize, f: impl FnOnce(Right<'_>) -> R) -> R {
        match self {
            Self::Matrix { data, layout } => f(Right::Matrix { data, layout }),
            Self::Image { data, geometry } if geometry.is_pointwise() => {
                f(Right::Matrix { data, layout: Layout::FeatureMajor })
            }
            Self::Image { data, geometry } => f(Right::Image(&PaddedImage::new(data, geometry, tile))),
        }
    }
}

/// The right matrix of a product, as kernels get it.
#[derive(Clone, Copy)]
pub(crate) enum Right<'a> {
    /// `[k, n]`, also the image of a pointwise convolution.
    Matrix { data: &'a [f32], layout: Layout },
    /// The im2col matrix of an image, or of several.
    Image(&'a PaddedImage<'a>),
    /// `[images, k, pixels]`: the images of a pointwise convolution. Only for kernels that take several.
    Images { data: &'a [f32], pixels: usize },
}

impl Right<'_> {
    /// Columns of an image, of `n`: the output is then `[images, m, pixels]`, feature-major.
    pub(crate) fn pixels(&self, n: usize) -> usize {
        match self {
            Self::Matrix { .. } => n,
            Self::Image(image) => image.output().iter().product(),
            Self::Images { pixels, .. } => *pixels,
        }
    }
}
