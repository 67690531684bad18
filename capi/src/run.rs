//! Runs.

use std::ffi::{CString, c_void};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use poda::{RunOptions, Stop, Tensor};

use crate::error::{PodaError, PodaStatus};
use crate::guard::{array, get, guard, place, quiet, release};
use crate::model::PodaModel;
use crate::tensor::{PodaTensor, PodaType};

/// What ends a run early. Other threads may cancel runs that are under way with it.
#[derive(Debug, Default)]
pub struct PodaRunOptions {
    cancelled: AtomicBool,
    /// 0 for none.
    timeout_ms: AtomicU64,
}

/// Options that end no run early. Release them with poda_run_options_release, when no run uses them any more.
#[unsafe(no_mangle)]
pub extern "C" fn poda_run_options_new() -> *mut PodaRunOptions {
    quiet(std::ptr::null_mut(), || Box::into_raw(Box::default()))
}

/// Milliseconds after which runs that begin from now on end, with PODA_STATUS_STOPPED; 0 for none.
///
/// # Safety
/// `options` is NULL or options that were not released.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poda_run_options_set_timeout_ms(options: *mut PodaRunOptions, milliseconds: u64) {
    // SAFETY: by the contract above.
    if let Some(options) = unsafe { options.as_ref() } {
        options.timeout_ms.store(milliseconds, Ordering::Relaxed);
    }
}

/// Ends every run with these options, under way or yet to come, with PODA_STATUS_STOPPED. Any thread may say so.
///
/// # Safety
/// As poda_run_options_set_timeout_ms.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poda_run_options_cancel(options: *const PodaRunOptions) {
    // SAFETY: by the contract above.
    if let Some(options) = unsafe { options.as_ref() } {
        options.cancelled.store(true, Ordering::Relaxed);
    }
}

/// Takes poda_run_options_cancel back, for runs yet to come.
///
/// # Safety
/// As poda_run_options_set_timeout_ms.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poda_run_options_reset(options: *const PodaRunOptions) {
    // SAFETY: by the contract above.
    if let Some(options) = unsafe { options.as_ref() } {
        options.cancelled.store(false, Ordering::Relaxed);
    }
}

/// Lets run options go.
///
/// # Safety
/// As poda_run_options_set_timeout_ms.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poda_run_options_release(options: *mut PodaRunOptions) {
    // SAFETY: by the contract above.
    unsafe { release(options) };
}

/// Outputs of a run, in memory of Poda's.
#[derive(Debug)]
pub struct PodaOutputs {
    outputs: Vec<(CString, Tensor)>,
}

/// Runs the model and gives named tensors.
///
/// # Safety
/// `model` and `options` are NULL or not yet released; `inputs` points to `count` tensors that are what they say.
unsafe fn results(
    model: *const PodaModel,
    inputs: *const PodaTensor,
    count: usize,
    options: *const PodaRunOptions,
) -> Result<Vec<(String, Tensor)>, PodaError> {
    // SAFETY: by the contract above.
    let (model, inputs, options) =
        unsafe { (get(model, "model")?, array(inputs, count, "inputs")?, options.as_ref()) };
    // SAFETY: by the contract above.
    let views = inputs.iter().map(|tensor| unsafe { tensor.view() }).collect::<Result<Vec<_>, _>>()?;
    let timeout = options.map(|options| options.timeout_ms.load(Ordering::Relaxed)).filter(|&ms| ms > 0);
    let deadline = timeout.and_then(|ms| Instant::now().checked_add(Duration::from_millis(ms)));
    let stop = Stop { cancelled: options.map(|options| &options.cancelled), deadline };
    Ok(model.executable.run_with(&views, &RunOptions { stop, ..RunOptions::default() })?)
}

/// Runs a model on the caller's arrays and copies its outputs into the caller's buffers, one for each output of the model, of its
/// type and shape. Where anything fails no buffer is touched. `options` may be NULL.
///
/// # Safety
/// `model` and `options` are NULL or not yet released. `inputs` and `outputs` point to as many tensors as the counts say, whose
/// pointers point to what they say; nobody changes inputs meanwhile, or looks at the outputs' data. `error` is NULL or may be
/// written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poda_run(
    model: *const PodaModel,
    inputs: *const PodaTensor,
    input_count: usize,
    outputs: *const PodaTensor,
    output_count: usize,
    options: *const PodaRunOptions,
    error: *mut *mut PodaError,
) -> PodaStatus {
    let run = || {
        // SAFETY: by the contract above.
        let buffers = unsafe { array(outputs, output_count, "outputs")? };
        // SAFETY: by the contract above.
        let results = unsafe { results(model, inputs, input_count, options)? };
        let unfit = |text: String| PodaError::new(PodaStatus::Output, text);
        let mut pairs = Vec::with_capacity(buffers.len());
        for buffer in buffers {
            buffer.check_data()?;
            // SAFETY: by the contract above.
            let (name, shape) = unsafe { (buffer.name()?, buffer.shape()?) };
            let Some((_, result)) = results.iter().find(|(given, _)| given == name) else {
                let given: Vec<_> = results.iter().map(|(given, _)| given).collect();
                return Err(unfit(format!("no output is named {name:?}; the model gives {given:?}")));
            };
            let (dtype, bytes) = (buffer.data_type()?, result.bytes());
            if (dtype, shape, buffer.bytes) != (result.dtype(), result.shape(), bytes.len()) {
                return Err(unfit(format!(
                    "output {name:?} is {} {:?} of {} bytes, its buffer {dtype} {shape:?} of {}",
                    result.dtype(),
                    result.shape(),
                    bytes.len(),
                    buffer.bytes
                )));
            }
            pairs.push((bytes, buffer.data.cast::<u8>()));
        }
        let fits = |(name, _): &&(String, Tensor)| {
            // SAFETY: by the contract above.
            buffers.iter().filter(|buffer| unsafe { buffer.name() }.is_ok_and(|given| given == name)).count()
                != 1
        };
        if let Some((name, _)) = results.iter().find(fits) {
            return Err(unfit(format!("output {name:?} has no buffer, or several")));
        }
        for (bytes, to) in pairs.into_iter().filter(|(bytes, _)| !bytes.is_empty()) {
            // SAFETY: `check_data` found the buffer not to be NULL, its length was compared above, it is the caller's to be
            // written by the contract, and results lie in memory of ours.
            unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        }
        Ok(())
    };
    // SAFETY: by the contract above.
    unsafe { guard(error, run) }
}

/// As poda_run, with outputs in memory of Poda's, for shapes that are not known before. Release them with
/// poda_outputs_release.
///
/// # Safety
/// As poda_run; `outputs` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poda_run_alloc(
    model: *const PodaModel,
    inputs: *const PodaTensor,
    input_count: usize,
    options: *const PodaRunOptions,
    outputs: *mut *mut PodaOutputs,
    error: *mut *mut PodaError,
) -> PodaStatus {
    let run = || {
        let place = place(outputs, "outputs")?;
        // SAFETY: by the contract above.
        let results = unsafe { results(model, inputs, input_count, options)? };
        let text = |name: String| CString::new(name.replace('\0', "\\0")).expect("no NUL is left");
        let outputs = results.into_iter().map(|(name, tensor)| (text(name), tensor)).collect();
        // SAFETY: not NULL, and by the contract above to be written.
        unsafe { place.write(Box::into_raw(Box::new(PodaOutputs { outputs }))) };
        Ok(())
    };
    // SAFETY: by the contract above.
    unsafe { guard(error, run) }
}

/// Number of outputs; 0 of NULL.
///
/// # Safety
/// `outputs` is NULL or not yet released.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poda_outputs_count(outputs: *const PodaOutputs) -> usize {
    // SAFETY: by the contract above.
    unsafe { outputs.as_ref() }.map_or(0, |outputs| outputs.outputs.len())
}

/// Shows an output, in the order of the model; what `tensor` then points to lives as long as the outputs, and is not to be
/// written.
///
/// # Safety
/// `outputs` is NULL or not yet released; `tensor` may be written, and `error`, unless it is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poda_outputs_get(
    outputs: *const PodaOutputs,
    index: usize,
    tensor: *mut PodaTensor,
    error: *mut *mut PodaError,
) -> PodaStatus {
    let show = || {
        // SAFETY: by the contract above.
        let all = &unsafe { get(outputs, "outputs")? }.outputs;
        let place = place(tensor, "tensor")?;
        let Some((name, output)) = all.get(index) else {
            return Err(PodaError::argument(format!(
                "there are {} outputs, none has index {index}",
                all.len()
            )));
        };
        let shown = PodaTensor {
            name: name.as_ptr(),
            shape: output.shape().as_ptr(),
            rank: output.rank(),
            data: output.bytes().as_ptr().cast_mut().cast::<c_void>(),
            bytes: output.bytes().len(),
            dtype: PodaType::from(Some(output.dtype())) as u32,
        };
        // SAFETY: not NULL, and by the contract above to be written.
        unsafe { place.write(shown) };
        Ok(())
    };
    // SAFETY: by the contract above.
    unsafe { guard(error, show) }
}

/// Lets outputs go.
///
/// # Safety
/// `outputs` is NULL or not yet released.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poda_outputs_release(outputs: *mut PodaOutputs) {
    // SAFETY: by the contract above.
    unsafe { release(outputs) };
}
