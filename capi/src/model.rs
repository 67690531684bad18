//! Models.

use std::ffi::{CString, c_char};
use std::ptr;

use poda::formats::Dim;
use poda::{Executable, Model};

use crate::error::{PodaError, PodaStatus, path};
use crate::guard::{array, get, guard, place, quiet, release, text};
use crate::options::PodaOptions;
use crate::tensor::{PodaTensor, PodaType};

/// A model, ready to run, from any number of threads at once.
#[derive(Debug)]
pub struct PodaModel {
    pub(crate) executable: Executable,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
}

/// Whether a port is an input or an output.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodaSide {
    /// What the model takes.
    Input = 0,
    /// What the model gives.
    Output = 1,
}

/// An input or output with its texts as C takes them.
#[derive(Debug)]
struct Port {
    name: CString,
    dtype: PodaType,
    /// Sizes, or the names of open dimensions.
    dims: Option<Vec<Result<usize, CString>>>,
}

impl Port {
    fn new(port: poda::Port) -> Self {
        let text = |name: String| CString::new(name.replace('\0', "\\0")).expect("no NUL is left");
        let dim = |dim: Dim| match dim {
            Dim::Fixed(size) => Ok(size),
            Dim::Symbol(name) => Err(text(name)),
        };
        Self {
            name: text(port.name),
            dtype: port.dtype.into(),
            dims: port.shape.map(|dims| dims.into_iter().map(dim).collect()),
        }
    }
}

impl PodaModel {
    fn new(model: &Model, options: &PodaOptions) -> Result<Self, PodaError> {
        let ports = |ports: Vec<poda::Port>| ports.into_iter().map(Port::new).collect();
        let executable = model.prepare(options.options.clone())?;
        Ok(Self { executable, inputs: ports(model.inputs()), outputs: ports(model.outputs()) })
    }
}

/// Opens an ONNX file or an artifact of Poda's and makes it ready to run. `options` may be NULL. Release the model with
/// poda_model_release.
///
/// # Safety
/// `path` is a text that ends in NUL; `options` is NULL or not yet released; `model` and, unless NULL, `error` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poda_model_open(
    path: *const c_char,
    options: *const PodaOptions,
    model: *mut *mut PodaModel,
    error: *mut *mut PodaError,
) -> PodaStatus {
    let open = || {
        // SAFETY: by the contract above.
        let (file, options) = unsafe { (text(path, "path")?, options.as_ref()) };
        let (place, options) = (place(model, "model")?, options.cloned().unwrap_or_default());
        let opened = PodaModel::new(&Model::open_with(self::path(file), options.load)?, &options)?;
        // SAFETY: not NULL, and by the contract above to be written.
        unsafe { place.write(Box::into_raw(Box::new(opened))) };
        Ok(())
    };
    // SAFETY: by the contract above.
    unsafe { guard(error, open) }
}

/// As poda_model_open, of the content of such a file, which is copied.
///
/// # Safety
/// As poda_model_open; `bytes` points to `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poda_model_open_bytes(
    bytes: *const u8,
    length: usize,
    options: *const PodaOptions,
    model: *mut *mut PodaModel,
    error: *mut *mut PodaError,
) -> PodaStatus {
    let open = || {
        // SAFETY: by the contract above.
        let (content, options) = unsafe { (array(bytes, length, "bytes")?, options.as_ref()) };
        let (place, options) = (place(model, "model")?, options.cloned().unwrap_or_default());
        let opened = PodaModel::new(&Model::from_bytes(content)?, &options)?;
        // SAFETY: not NULL, and by the contract above to be written.
        unsafe { place.write(Box::into_raw(Box::new(opened))) };
        Ok(())
    };
    // SAFETY: by the contract above.
    unsafe { guard(error, open) }
}

/// Lets a model go, which no thread may use any more.
///
/// # Safety
/// `model` is NULL or a model that was not released.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poda_model_release(model: *mut PodaModel) {
    // SAFETY: by the contract above.
    unsafe { release(model) };
}

/// Number of threads that a run uses; 0 of NULL.
///
/// # Safety
/// As poda_model_release.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poda_model_threads(model: *const PodaModel) -> usize {
    // SAFETY: by the contract above.
    let model = unsafe { model.as_ref() };
    quiet(0, || model.map_or(0, |model| model.executable.threads()))
}

/// The inputs (a PodaSide of 0) or outputs (1) of a model; none of NULL.
///
/// # Safety
/// As poda_model_release.
unsafe fn ports<'a>(model: *const PodaModel, side: u32) -> &'a [Port] {
    // SAFETY: by the contract above.
    match (unsafe { model.as_ref() }, side) {
        (Some(model), 0) => &model.inputs,
        (Some(model), 1) => &model.outputs,
        _ => &[],
    }
}

/// Number of inputs or outputs; `side` is a PodaSide.
///
/// # Safety
/// As poda_model_release.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poda_model_port_count(model: *const PodaModel, side: u32) -> usize {
    // SAFETY: by the contract above.
    unsafe { ports(model, side) }.len()
}

/// The name of an input or output; NULL where there is none. It lives as long as the model.
///
/// # Safety
/// As poda_model_release.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poda_model_port_name(
    model: *const PodaModel,
    side: u32,
    index: usize,
) -> *const c_char {
    // SAFETY: by the contract above.
    unsafe { ports(model, side) }.get(index).map_or(ptr::null(), |port| port.name.as_ptr())
}

/// The element type of an input or output; PODA_TYPE_UNKNOWN where the model does not say.
///
/// # Safety
/// As poda_model_release.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poda_model_port_type(model: *const PodaModel, side: u32, index: usize) -> PodaType {
    // SAFETY: by the contract above.
    unsafe { ports(model, side) }.get(index).map_or(PodaType::Unknown, |port| port.dtype)
}

/// Number of dimensions of an input or output; -1 where the model does not say.
///
/// # Safety
/// As poda_model_release.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poda_model_port_rank(model: *const PodaModel, side: u32, index: usize) -> i64 {
    // SAFETY: by the contract above.
    let dims = unsafe { ports(model, side) }.get(index).and_then(|port| port.dims.as_ref());
    dims.map_or(-1, |dims| dims.len() as i64)
}

/// The size of a dimension; -1 where it is open.
///
/// # Safety
/// As poda_model_release.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poda_model_port_size(
    model: *const PodaModel,
    side: u32,
    index: usize,
    axis: usize,
) -> i64 {
    // SAFETY: by the contract above.
    let port = unsafe { ports(model, side) }.get(index);
    match port.and_then(|port| port.dims.as_ref()?.get(axis)) {
        Some(Ok(size)) => *size as i64,
        Some(Err(_)) | None => -1,
    }
}

/// The name of an open dimension, "" where it has none; NULL for one that is not open. It lives as long as the model.
///
/// # Safety
/// As poda_model_release.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poda_model_port_axis(
    model: *const PodaModel,
    side: u32,
    index: usize,
    axis: usize,
) -> *const c_char {
    // SAFETY: by the contract above.
    let port = unsafe { ports(model, side) }.get(index);
    match port.and_then(|port| port.dims.as_ref()?.get(axis)) {
        Some(Err(name)) => name.as_ptr(),
        Some(Ok(_)) | None => ptr::null(),
    }
}

/// Plans, packs and tunes for inputs of these names and shapes, so that the first run with them is as fast as the next. Types
/// and data of the tensors are not looked at.
///
/// # Safety
/// `model` is NULL or not yet released; `inputs` points to `count` tensors whose names and shapes are what they say; `error` is NULL or may be
/// written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poda_model_warm(
    model: *const PodaModel,
    inputs: *const PodaTensor,
    count: usize,
    error: *mut *mut PodaError,
) -> PodaStatus {
    let warm = || {
        // SAFETY: by the contract above.
        let (model, inputs) = unsafe { (get(model, "model")?, array(inputs, count, "inputs")?) };
        // SAFETY: by the contract above.
        let shape = |tensor: &PodaTensor| unsafe { Ok((tensor.name()?, tensor.shape()?)) };
        let shapes = inputs.iter().map(shape).collect::<Result<Vec<_>, PodaError>>()?;
        Ok(model.executable.warm(&shapes)?)
    };
    // SAFETY: by the contract above.
    unsafe { guard(error, warm) }
}
