//! From the layouts that files and operators use to the ones that kernels read.

mod geometry;
mod im2col;
pub(crate) mod scratch;

pub use geometry::{ConvGeometry, GeometryError};
pub use im2col::im2col;
