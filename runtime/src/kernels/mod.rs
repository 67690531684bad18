//! Products of a stored weight with activations, `Y = epilogue(W · X)`, and the one table of kernels that compute them.
//!
//! A weight `[m, k]` is packed once, for one kernel, by `tune::PackedWeight::prepare`; `tune::PackedWeight::run` then takes any number
//! of columns `n`. Activations are matrices in either [`Layout`], or images whose im2col matrix is packed on the fly.
//!
//! A pruned weight contributes nothing, whatever its input: the one difference from a dense product, where 0 · ∞ is NaN.

#![allow(
    clippy::inline_always,
    reason = "code with vectors must be inlined into a function that has the instructions enabled"
)]

pub mod activation;
pub mod attention;
#[cfg(test)]
mod bytes_tests;
mod csr;
pub mod depthwise;
mod exp;
mod gelu;
mod gemm;
pub(crate) mod movement;
pub(crate) mod pool;
mod range;
pub mod roof;
mod softmax;
mod spmm;
mod spmv;
#[cfg(test)]
mod structured_tests;
mod table;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::sync::OnceLock;

use poda_formats::dtype::DataType;
use poda_formats::tensor::TensorError;
#[cfg(feature = "structured")]
use poda_formats::{BlockMatrix, NmMatrix};
use poda_formats::{CsrMatrix, DenseMatrix, Matrix, Pattern, Tensor};

use crate::packing::ConvGeometry;
pub(crate) use crate::packing::Right;
use crate::packing::bit_rows::{self, BitRows};
pub use crate::packing::{Layout, X};
use crate::threads::Threads;

pub use crate::simd::{Level, Supported};
pub use activation::{Activation, Rounding};
pub use depthwise::Depthwise;
#[cfg(all(target_arch = "x86_64", feature = "quantized"))]
pub(crate) use gemm::quads::sums as sums_bytes;
pub(crate) use gemm::{Mat, matmul};
pub(crate) use range::range;
pub(crate) use softmax::{softmax_columns, softmax_rows};
pub(crate) use table::Source;
pub use table::{Kernel, Params, all};

/// What happens to a product before it is written: `activation(W · X + bias + residual)`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Epilogue<'a> {
    /// `[m]`
    pub bias: Option<&'a [f32]>,
    /// Shape and layout of the output.
    pub residual: Option<&'a [f32]>,
    /// Applied last.
    pub activation: Activation,
}

/// What a weight will be used for, as far as it is known when it is packed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Problem {
    /// Columns expected; others work, but may be slower than they could be.
    pub n: usize,
    /// Order of the input matrix, unless `conv` says that it is an image.
    pub x_layout: Layout,
    /// Order of the output.
    pub y_layout: Layout,
    /// The geometry, when the input is an image.
    pub conv: Option<ConvGeometry>,
    /// What sums of whole numbers must be.
    pub sums: Sums,
    /// What inputs are known to be multiples of.
    pub grid: Option<Grid>,
}

/// What sums of whole numbers must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Sums {
    /// Near what they are.
    #[default]
    Near,
    /// Whole, where those of floats are: leaves out kernels that multiply with fractions of the weights.
    Whole,
    /// What they are, beyond where floats are: leaves out all kernels that sum floats.
    Integer,
}

/// Whether this CPU has a kernel that sums so many products of bytes as integers: no build without that kernel.
#[cfg(not(all(target_arch = "x86_64", feature = "quantized")))]
pub(crate) fn sums_bytes(_: usize) -> bool {
    false
}

impl Problem {
    /// A matrix of `n` columns.
    pub const fn matrix(n: usize, x_layout: Layout, y_layout: Layout) -> Self {
        Self { n, x_layout, y_layout, conv: None, sums: Sums::Near, grid: None }
    }

    /// An image, as kernels get it: that of a pointwise convolution is a matrix.
    pub fn image(geometry: ConvGeometry) -> Self {
        let layout = Layout::FeatureMajor;
        let matrix = Self::matrix(geometry.n(), layout, layout);
        Self { conv: Some(geometry).filter(|geometry| !geometry.is_pointwise()), ..matrix }
    }
}

/// Whole multiples of a number that 8 bits tell apart, zero among them: what QuantizeLinear leaves of its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Grid {
    /// As bits.
    step: u32,
    least: Option<i32>,
}

impl Grid {
    /// Multiples of `step`: those from the first to the second of `range`, or 256 of them, one after another, that are known
    /// when they are there. None where they are more, or the step is no ordinary number.
    pub fn new(step: f32, range: Option<[f32; 2]>) -> Option<Self> {
        let fits = |[least, most]: [f32; 2]| {
            let whole = least.fract() == 0.0 && most.fract() == 0.0;
            whole && (-255.0..=0.0).contains(&least) && (0.0..256.0 + least).contains(&most)
        };
        let proper = (1e-30..1e30).contains(&step);
        let least = range.map(|[least, _]| least as i32);
        (proper && range.is_none_or(fits)).then(|| Self { step: step.to_bits(), least })
    }

    /// What all are multiples of.
    pub fn step(self) -> f32 {
        f32::from_bits(self.step)
    }

    /// The least multiple, at most 0, if it is known.
    pub fn least(self) -> Option<i32> {
        self.least
    }
}

/// A weight `[m, k]` as it is stored.
#[derive(Debug, Clone)]
pub enum WeightMatrix {
    /// f32 `[m, k]`
    Dense(Tensor),
    /// f32 values, or narrower ones that stand for them
    Csr(CsrMatrix),
    /// Every element, narrower than f32.
    Narrow(DenseMatrix),
    /// Values, perhaps narrower ones, by a pattern or a bitmap
    Stored(Box<Stored>),
}

/// A sparse weight stored otherwise than as CSR, which kernels that make nothing of that take as CSR.
#[derive(Debug, Clone)]
pub struct Stored {
    matrix: Matrix,
    /// Made when it is first asked for.
    csr: OnceLock<CsrMatrix>,
}

impl From<Matrix> for WeightMatrix {
    fn from(matrix: Matrix) -> Self {
        if matrix.pattern().is_some() || matches!(matrix.places(), poda_formats::Layout::Bitmap(_)) {
            return Self::Stored(Box::new(Stored { matrix, csr: OnceLock::new() }));
        }
        match matrix.dense() {
            Some(dense) if dense.values().rounding_error().is_some() => Self::Narrow(dense),
            Some(dense) => Self::Dense(dense.values().tensor().clone()),
            None => Self::Csr(matrix.to_csr()),
        }
    }
}

/// Why a weight cannot be packed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum KernelError {
    #[error("no kernel takes weights of type {found}")]
    Values { found: DataType },
    #[error("a weight must have 2 dimensions, found shape {shape:?}")]
    Rank { shape: Vec<usize> },
    #[error(transparent)]
    Widen(#[from] TensorError),
    #[error("kernel {name} does not take this weight on this CPU")]
    Refused { name: String },
    #[error("kernel {name} cannot be packed with {params:?}")]
    Params { name: String, params: Params },
    #[error("no kernel of this CPU multiplies such a weight as asked for")]
    Missing,
    #[error("the kernels for this weight have not been timed yet")]
    Untimed,
}

impl WeightMatrix {
    /// Rows and columns, `[m, k]`.
    ///
    /// # Errors
    /// When the weight is not an f32 matrix.
    pub fn shape(&self) -> Result<[usize; 2], KernelError> {
        let (dtype, shape) = match self {
            Self::Dense(tensor) => (tensor.dtype(), tensor.shape().to_vec()),
            Self::Csr(csr) => (csr.values().dtype(), vec![csr.rows(), csr.cols()]),
            Self::Narrow(narrow) => (DataType::F32, vec![narrow.rows(), narrow.cols()]),
            Self::Stored(weight) => (weight.matrix.values().dtype(), weight.matrix.shape().to_vec()),
        };
        match shape[..] {
            _ if dtype != DataType::F32 => Err(KernelError::Values { found: dtype }),
            [m, k] => Ok([m, k]),
            _ => Err(KernelError::Rank { shape }),
        }
    }

    /// Stored values.
    pub fn nnz(&self) -> usize {
        match self {
            Self::Dense(tensor) => tensor.len(),
            Self::Csr(csr) => csr.nnz(),
            Self::Narrow(narrow) => narrow.values().len(),
            Self::Stored(weight) => weight.matrix.nnz(),
        }
    }

    /// A sparse weight as CSR, where all that is stored is kept, zeros of a block too.
    pub(crate) fn csr(&self) -> Option<&CsrMatrix> {
        match self {
            Self::Dense(_) | Self::Narrow(_) => None,
            Self::Csr(csr) => Some(csr),
            Self::Stored(weight) => Some(weight.csr.get_or_init(|| weight.matrix.to_csr())),
        }
    }

    /// Where the weights of each row of a sparse weight begin, `[m + 1]`.
    pub(crate) fn row_offsets(&self) -> Option<Cow<'_, [u32]>> {
        match self.stored_matrix().map(|matrix| (matrix, matrix.places())) {
            Some((matrix, poda_formats::Layout::Bitmap(bits))) => {
                Some(bit_rows::starts(matrix.shape(), bits, matrix.values().len()).into())
            }
            _ => self.csr().map(|csr| csr.row_offsets().into()),
        }
    }

    /// A sparse weight of f32 as bits and values.
    pub(crate) fn bit_rows(&self) -> Option<BitRows<'_>> {
        match self.stored_matrix().map(|matrix| (matrix, matrix.places())) {
            Some((matrix, poda_formats::Layout::Bitmap(bits))) => {
                Some(BitRows::new(matrix.shape(), bits, matrix.values_f32().ok()?))
            }
            _ => self.csr()?.view().ok().map(BitRows::from),
        }
    }

    /// Whether all its elements are whole numbers.
    pub(crate) fn is_whole(&self) -> bool {
        let whole = |values: &[f32]| values.iter().all(|v| v.fract() == 0.0);
        match self {
            Self::Dense(tensor) => tensor.as_slice().is_ok_and(whole),
            Self::Csr(csr) => csr.values().tensor().as_slice().is_ok_and(whole),
            Self::Narrow(_) => false,
            Self::Stored(weight) => weight.matrix.values_f32().is_ok_and(whole),
        }
    }

    /// Whether what is zero is not stored.
    pub(crate) fn is_sparse(&self) -> bool {
        matches!(self, Self::Csr(_) | Self::Stored(_))
    }

    /// A weight that is stored otherwise than as CSR.
    fn stored_matrix(&self) -> Option<&Matrix> {
        match self {
            Self::Dense(_) | Self::Csr(_) | Self::Narrow(_) => None,
            Self::Stored(weight) => Some(&weight.matrix),
        }
    }

    /// A weight that is stored in blocks.
    #[cfg(feature = "structured")]
    pub(crate) fn blocks(&self) -> Option<BlockMatrix> {
        self.stored_matrix()?.blocks()
    }

    /// A weight that is stored as N:M.
    #[cfg(feature = "structured")]
    pub(crate) fn n_of_m(&self) -> Option<NmMatrix> {
        self.stored_matrix()?.n_of_m()
    }

    /// The pattern that the weight is stored by.
    pub(crate) fn pattern(&self) -> Option<Pattern> {
        self.stored_matrix().and_then(Matrix::pattern)
    }

    /// Bytes of the smallest lossless format for the values that are stored: dense, a bitmap with the values, CSR, or the
    /// pattern that the weight is stored by.
    pub fn smallest_bytes(&self) -> usize {
        self.smallest_bytes_of(self.stored())
    }

    /// The same if they were stored as `values`.
    pub(crate) fn smallest_bytes_of(&self, values: DataType) -> usize {
        let ([m, k], size) = (self.shape().unwrap_or_default(), values.size());
        let values = self.nnz() * size;
        let index = if k <= 1 << 16 { size_of::<u16>() } else { size_of::<u32>() };
        let csr = self.nnz() * index + (m + 1) * size_of::<u32>();
        let any = (m * k * size).min(values + csr.min((m * k).div_ceil(8)));
        self.stored_matrix().map_or(any, |matrix| any.min(matrix.bytes()))
    }

    /// Type of the stored values.
    pub fn stored(&self) -> DataType {
        match self {
            Self::Dense(tensor) => tensor.dtype(),
            Self::Csr(csr) => csr.values().stored(),
            Self::Narrow(narrow) => narrow.values().stored(),
            Self::Stored(weight) => weight.matrix.values().stored(),
        }
    }

    /// The same weight with f32 values; shares them if they are f32.
    ///
    /// # Errors
    /// When memory does not hold it.
    pub fn widened(&self) -> Result<Self, TensorError> {
        Ok(match self {
            Self::Dense(tensor) => Self::Dense(tensor.clone()),
            Self::Csr(csr) => Self::Csr(csr.widened()?),
            Self::Narrow(narrow) => Self::Dense(narrow.to_tensor()?),
            Self::Stored(weight) => weight.matrix.widened()?.into(),
        })
    }
}

/// One product: checked by `tune::PackedWeight::run`, trusted by kernels.
pub(crate) struct Call<'a> {
    pub(crate) n: usize,
    pub(crate) x: Right<'a>,
    pub(crate) y: &'a mut [f32],
    pub(crate) y_layout: Layout,
    pub(crate) epilogue: &'a Epilogue<'a>,
    pub(crate) threads: &'a Threads,
}

/// A weight packed for one kernel.
pub(crate) trait Packed: Send + Sync {
    /// Writes every element of `call.y`.
    fn run(&self, call: Call<'_>);

    /// Bytes of the packed weight.
    fn bytes(&self) -> usize;

    /// Side of the squares of outputs that it computes together; the columns of an image are then what such squares read.
    fn tile(&self) -> usize {
        1
    }

    /// Whether it takes the columns of several images at once.
    fn takes_images(&self) -> bool {
        false
    }

    /// What [`Kernel::restore`] makes the same of; `None` of a kernel that has none: where to pack the weight anew is as fast.
    fn arrays(&self) -> Option<Vec<Tensor>> {
        None
    }
}

/// A weight as some kernel reads it.
pub(crate) type Packing = Box<dyn Packed>;
