//! How a model is to run.

use poda::formats::Load;
use poda::{Options, Prefer};

use crate::guard::{quiet, release};

/// How a model is to be loaded and run. Used by one thread at a time.
#[derive(Debug, Clone, Default)]
pub struct PodaOptions {
    pub(crate) options: Options,
    pub(crate) load: Load,
}

/// Options as they are by default: threads as many as this container may use, the fastest kernels, timed on this CPU, the
/// file mapped. Release them with poda_options_release.
#[unsafe(no_mangle)]
pub extern "C" fn poda_options_new() -> *mut PodaOptions {
    quiet(std::ptr::null_mut(), || Box::into_raw(Box::default()))
}

/// Calls `f` with options that are there.
///
/// # Safety
/// `options` is NULL, or options that nobody else uses meanwhile.
unsafe fn set(options: *mut PodaOptions, f: impl FnOnce(&mut PodaOptions)) {
    // SAFETY: by the contract.
    if let Some(options) = unsafe { options.as_mut() } {
        f(options);
    }
}

/// Threads that a run uses; 0 for as many as there are.
///
/// # Safety
/// `options` is NULL or options that were not released.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poda_options_set_threads(options: *mut PodaOptions, threads: usize) {
    // SAFETY: by the contract above.
    unsafe { set(options, |o| o.options.threads = (threads > 0).then_some(threads)) };
}

/// Whether the fastest kernel among the smallest is taken (not 0), or the fastest of all (0).
///
/// # Safety
/// As poda_options_set_threads.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poda_options_set_prefer_memory(options: *mut PodaOptions, prefer_memory: u32) {
    let prefer = if prefer_memory == 0 { Prefer::Latency } else { Prefer::Memory };
    // SAFETY: by the contract above.
    unsafe { set(options, |o| o.options.prefer = prefer) };
}

/// Whether kernels are timed on this CPU (not 0), or chosen by a cost model (0).
///
/// # Safety
/// As poda_options_set_threads.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poda_options_set_tune(options: *mut PodaOptions, tune: u32) {
    // SAFETY: by the contract above.
    unsafe { set(options, |o| o.options.tune = tune != 0) };
}

/// Whether the file is copied into memory (not 0), which keeps it from changes of the file, or mapped (0).
///
/// # Safety
/// As poda_options_set_threads.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poda_options_set_read(options: *mut PodaOptions, read: u32) {
    let load = if read == 0 { Load::Map } else { Load::Read };
    // SAFETY: by the contract above.
    unsafe { set(options, |o| o.load = load) };
}

/// The most bytes that the activations of a run may take; 0 for what the process may have.
///
/// # Safety
/// As poda_options_set_threads.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poda_options_set_memory_limit(options: *mut PodaOptions, bytes: usize) {
    // SAFETY: by the contract above.
    unsafe { set(options, |o| o.options.memory_limit = (bytes > 0).then_some(bytes)) };
}

/// Lets options go; models that were opened with them stay.
///
/// # Safety
/// As poda_options_set_threads.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poda_options_release(options: *mut PodaOptions) {
    // SAFETY: by the contract above.
    unsafe { release(options) };
}
