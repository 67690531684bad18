//! Interchange layouts of sparse weights. What a kernel wants (panels, SELL) is made from these by the runtime.

pub(crate) mod bitmap;
mod block;
mod csr;
mod error;
mod nm;
mod pattern;
mod store;
mod structured;
mod unstructured;

pub use block::BlockMatrix;
pub(crate) use csr::index_type;
pub use csr::{CsrMatrix, CsrView};
pub use error::SparseError;
pub use nm::NmMatrix;
pub use pattern::{Pattern, PatternError};
pub use structured::{StructuredMatrix, Unchecked};
pub use unstructured::UncheckedUnstructured;
