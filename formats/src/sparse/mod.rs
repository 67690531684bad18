//! Interchange layouts of sparse weights. What a kernel wants (panels, SELL) is made from these by the runtime.

mod csr;
mod store;

pub(crate) use csr::index_type;
pub use csr::{CsrMatrix, CsrView, SparseError, UncheckedCsr};
