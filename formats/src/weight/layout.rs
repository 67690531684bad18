//! Where the stored elements of a matrix lie, whatever type they are of.
//!
//! A layout is a file of this folder that says it once, as [`Places`], and a variant of [`Layout`]; what is asked of weights
//! (checks, sizes, conversions, scaling, widening, the artifact) follows from that. A kernel that makes use of it is a file
//! in the runtime.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use super::bitmap::Bitmap;
use super::block::Block;
use super::csr::{Csr, CsrMatrix};
use super::dense::Dense;
use super::nm::NofM;
use super::{Pattern, SparseError, Values};
use crate::tensor::{Tensor, TensorError};

/// The places of stored elements of a matrix `[rows, cols]`, which are the elements of an array, its values.
pub trait Places: Clone + PartialEq + fmt::Debug {
    /// The arrays that say where, and what follows the weight's name in theirs.
    fn arrays(&self) -> Vec<(&'static str, &Tensor)>;

    /// The same with arrays that no other process can change.
    ///
    /// # Errors
    /// When memory does not hold them.
    fn private(&self) -> Result<Self, TensorError>;

    /// Checks sizes and types; reads no element.
    ///
    /// # Errors
    /// When one does not fit the matrix or the number of values.
    fn check_sizes(&self, shape: [usize; 2], values: usize) -> Result<(), SparseError>;

    /// Checks what the arrays hold, reading them through. Their sizes fit.
    ///
    /// # Errors
    /// The first violation found.
    fn check(&self, shape: [usize; 2], values: usize) -> Result<(), SparseError>;

    /// Stored elements within the matrix, of so many values.
    fn stored(&self, shape: [usize; 2], values: usize) -> usize;

    /// Whether all elements are stored in row-major order, or at least all that are not zero.
    fn is_dense(&self) -> bool {
        false
    }

    /// Calls `f` with rows, and ranges of the values that lie in them: each value that means something, once.
    fn runs(&self, shape: [usize; 2], f: &mut dyn FnMut(usize, Range<usize>));

    /// Calls `f` with row, column and place among the values of each stored element within the matrix: row by row, columns
    /// ascending.
    fn for_each(&self, shape: [usize; 2], f: &mut dyn FnMut(usize, usize, usize));

    /// As CSR: every stored element, zeros too.
    ///
    /// # Panics
    /// When 32 bits do not count them.
    fn to_csr(&self, shape: [usize; 2], values: &Values) -> CsrMatrix {
        CsrMatrix::from_elements(shape, values, |f| self.for_each(shape, f))
    }
}

/// Any of the layouts.
#[derive(Debug, Clone, PartialEq)]
pub enum Layout {
    /// Every element, row by row.
    Dense(Dense),
    /// Compressed sparse rows.
    Csr(Csr),
    /// A bit for each element.
    Bitmap(Bitmap),
    /// Whole blocks.
    Block(Block),
    /// N of each M elements of a row.
    NofM(NofM),
}

/// `$body` for the places of whichever layout it is.
macro_rules! each {
    ($layout:expr, $places:ident => $body:expr) => {
        match $layout {
            Layout::Dense($places) => $body,
            Layout::Csr($places) => $body,
            Layout::Bitmap($places) => $body,
            Layout::Block($places) => $body,
            Layout::NofM($places) => $body,
        }
    };
}

macro_rules! from {
    ($($places:ident),*) => {
        $(impl From<$places> for Layout {
            fn from(places: $places) -> Self {
                Self::$places(places)
            }
        })*
    };
}
from!(Dense, Csr, Bitmap, Block, NofM);

impl Layout {
    /// How many arrays the layout named `kind` has; `None` when there is none of that name.
    pub fn arrays_of(kind: &str) -> Option<usize> {
        match kind {
            "dense" => Some(0),
            "bitmap" | "nm" => Some(1),
            "csr" | "block" => Some(2),
            _ => None,
        }
    }

    /// The layout named `kind` with these arrays, in the order of [`Places::arrays`], and numbers, those of its pattern.
    ///
    /// # Errors
    /// When the numbers are none of a pattern.
    ///
    /// # Panics
    /// When there are not [`Layout::arrays_of`] arrays.
    pub fn from_parts(
        kind: &str,
        numbers: Option<[usize; 2]>,
        arrays: &[Tensor],
    ) -> Result<Self, SparseError> {
        let numbers = || numbers.unwrap_or_default();
        Ok(match (kind, arrays) {
            ("dense", []) => Dense.into(),
            ("csr", [indptr, indices]) => Csr::new(indptr.clone(), indices.clone()).into(),
            ("bitmap", [bits]) => Bitmap::new(bits.clone()).into(),
            ("block", [indptr, indices]) => Block::new(numbers(), indptr.clone(), indices.clone())?.into(),
            ("nm", [positions]) => NofM::new(numbers(), positions.clone())?.into(),
            _ => panic!("{kind} of {} arrays", arrays.len()),
        })
    }

    /// Its name without numbers.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Dense(_) => "dense",
            Self::Csr(_) => "csr",
            Self::Bitmap(_) => "bitmap",
            Self::Block(_) => "block",
            Self::NofM(_) => "nm",
        }
    }

    /// The pattern of zeros that it is for.
    pub fn pattern(&self) -> Option<Pattern> {
        match self {
            Self::Dense(_) | Self::Csr(_) | Self::Bitmap(_) => None,
            Self::Block(block) => Some(block.pattern()),
            Self::NofM(nm) => Some(nm.pattern()),
        }
    }

    /// Name: `dense`, `csr`, `bitmap`, `block:4x1`, `nm:2:4` and the like.
    pub fn name(&self) -> Cow<'static, str> {
        self.pattern().map_or(self.kind().into(), |pattern| pattern.to_string().into())
    }
}

impl Places for Layout {
    fn arrays(&self) -> Vec<(&'static str, &Tensor)> {
        each!(self, places => places.arrays())
    }

    fn private(&self) -> Result<Self, TensorError> {
        Ok(each!(self, places => places.private()?.into()))
    }

    fn check_sizes(&self, shape: [usize; 2], values: usize) -> Result<(), SparseError> {
        each!(self, places => places.check_sizes(shape, values))
    }

    fn check(&self, shape: [usize; 2], values: usize) -> Result<(), SparseError> {
        each!(self, places => places.check(shape, values))
    }

    fn stored(&self, shape: [usize; 2], values: usize) -> usize {
        each!(self, places => places.stored(shape, values))
    }

    fn is_dense(&self) -> bool {
        each!(self, places => places.is_dense())
    }

    fn runs(&self, shape: [usize; 2], f: &mut dyn FnMut(usize, Range<usize>)) {
        each!(self, places => places.runs(shape, f));
    }

    fn for_each(&self, shape: [usize; 2], f: &mut dyn FnMut(usize, usize, usize)) {
        each!(self, places => places.for_each(shape, f));
    }

    fn to_csr(&self, shape: [usize; 2], values: &Values) -> CsrMatrix {
        each!(self, places => places.to_csr(shape, values))
    }
}
