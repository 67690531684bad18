//! Interchange layouts of sparse weights. What a kernel wants (panels, SELL) is made from these by the runtime.

pub(crate) mod bitmap;
mod block;
mod csr;
mod nm;
mod pattern;
mod store;
mod structured;

pub use block::BlockMatrix;
pub(crate) use csr::index_type;
pub use csr::{CsrMatrix, CsrView, SparseError, UncheckedCsr};
pub use nm::NmMatrix;
pub use pattern::{Pattern, PatternError};
pub use structured::{StructuredMatrix, Unchecked};
