//! Poda's C API. The header is `include/poda.h`, made of this crate by cbindgen; `include/poda.hpp` wraps it for C++.
//!
//! Every entry catches panics, checks its pointers for NULL, and writes outputs on success alone. Handles are opaque boxes; what
//! C gives beside them (arrays, strings) is read through the pointers and lengths that the header asks for.

mod error;
mod guard;
mod model;
mod options;
mod prune;
mod run;
mod tensor;

pub use error::{PodaError, PodaStatus, poda_error_message, poda_error_release, poda_error_status};
pub use model::{
    PodaModel, PodaSide, poda_model_open, poda_model_open_bytes, poda_model_port_axis, poda_model_port_count,
    poda_model_port_name, poda_model_port_rank, poda_model_port_size, poda_model_port_type,
    poda_model_release, poda_model_threads, poda_model_warm,
};
pub use options::{
    PodaOptions, poda_options_new, poda_options_release, poda_options_set_memory_limit,
    poda_options_set_prefer_memory, poda_options_set_read, poda_options_set_threads, poda_options_set_tune,
};
pub use prune::poda_prune;
pub use run::{
    PodaOutputs, PodaRunOptions, poda_outputs_count, poda_outputs_get, poda_outputs_release, poda_run,
    poda_run_alloc, poda_run_options_cancel, poda_run_options_new, poda_run_options_release,
    poda_run_options_reset, poda_run_options_set_timeout_ms,
};
pub use tensor::{PodaTensor, PodaType};

/// Number of the last addition to this header; `poda_abi` says that of the library.
pub const PODA_ABI: u32 = 1;

/// Number of the last addition that the library has. A program that was compiled with `PODA_ABI` runs with any library that
/// says as much or more.
#[unsafe(no_mangle)]
pub extern "C" fn poda_abi() -> u32 {
    PODA_ABI
}

/// The version of the library, such as "0.1.0".
#[unsafe(no_mangle)]
pub extern "C" fn poda_version() -> *const std::ffi::c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}
