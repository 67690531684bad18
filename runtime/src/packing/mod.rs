//! From the layouts that files and operators use to the ones that kernels read.

#![allow(
    clippy::inline_always,
    reason = "code with vectors must be inlined into a function that has the instructions enabled"
)]

pub(crate) mod bit_rows;
pub(crate) mod bitmap;
#[cfg(feature = "structured")]
pub(crate) mod blocks;
pub(crate) mod floats;
mod geometry;
mod im2col;
pub(crate) mod image;
#[cfg(all(target_arch = "x86_64", feature = "structured"))]
pub(crate) mod nm;
mod operand;
mod pairs;
pub(crate) mod panels;
mod panels_file;
pub(crate) mod scratch;
pub(crate) mod sell;
#[cfg(feature = "structured")]
pub(crate) mod strips;
pub(crate) mod tile;
pub(crate) mod transpose;
pub(crate) mod wsell;

pub use geometry::{ConvGeometry, GeometryError};
pub use im2col::im2col;
pub(crate) use operand::Right;
pub use operand::{Layout, X};
pub use transpose::transpose_matrix;
