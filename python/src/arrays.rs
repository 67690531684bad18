//! NumPy arrays in and out. What is fed is read where it lies, and outputs are handed over as they are; copies are made of
//! arrays that are not C-contiguous, not aligned, or of foreign byte order.

use half::f16;
use numpy::npyffi::{NPY_ARRAY_WRITEABLE, NpyTypes, PY_ARRAY_API, get_type_object, npy_intp};
use numpy::{PyArrayDescr, PyArrayDescrMethods, PyUntypedArray, PyUntypedArrayMethods, dtype};
use poda::formats::storage::AlignedBytes;
use poda::{DataType, Tensor, TensorView};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyTuple};

use crate::errors::InputError;

/// NumPy's name of an element type; that of bfloat16 is known where `ml_dtypes` is imported.
pub(crate) const fn numpy_name(dtype: DataType) -> &'static str {
    match dtype {
        DataType::F32 => "float32",
        DataType::F16 => "float16",
        DataType::BF16 => "bfloat16",
        DataType::F64 => "float64",
        DataType::I8 => "int8",
        DataType::I16 => "int16",
        DataType::I32 => "int32",
        DataType::I64 => "int64",
        DataType::U8 => "uint8",
        DataType::U16 => "uint16",
        DataType::U32 => "uint32",
        DataType::U64 => "uint64",
        DataType::Bool => "bool",
    }
}

fn descr(py: Python<'_>, of: DataType) -> PyResult<Bound<'_, PyArrayDescr>> {
    Ok(match of {
        DataType::F32 => dtype::<f32>(py),
        DataType::F16 => dtype::<f16>(py),
        DataType::F64 => dtype::<f64>(py),
        DataType::I8 => dtype::<i8>(py),
        DataType::I16 => dtype::<i16>(py),
        DataType::I32 => dtype::<i32>(py),
        DataType::I64 => dtype::<i64>(py),
        DataType::U8 => dtype::<u8>(py),
        DataType::U16 => dtype::<u16>(py),
        DataType::U32 => dtype::<u32>(py),
        DataType::U64 => dtype::<u64>(py),
        DataType::Bool => dtype::<bool>(py),
        // NumPy has no such type of its own.
        DataType::BF16 => PyArrayDescr::new(py, py.import("ml_dtypes")?.getattr("bfloat16")?)?,
    })
}

fn data_type(descr: &Bound<'_, PyArrayDescr>) -> Option<DataType> {
    Some(match (descr.kind(), descr.itemsize()) {
        (b'f', 4) => DataType::F32,
        (b'f', 2) => DataType::F16,
        (b'f', 8) => DataType::F64,
        (b'i', 1) => DataType::I8,
        (b'i', 2) => DataType::I16,
        (b'i', 4) => DataType::I32,
        (b'i', 8) => DataType::I64,
        (b'u', 1) => DataType::U8,
        (b'u', 2) => DataType::U16,
        (b'u', 4) => DataType::U32,
        (b'u', 8) => DataType::U64,
        (b'b', 1) => DataType::Bool,
        (_, 2) if descr.typeobj().name().is_ok_and(|name| name == "bfloat16") => DataType::BF16,
        _ => return None,
    })
}

/// An array that a run reads: C-contiguous, aligned, native.
pub(crate) struct Fed<'py> {
    array: Bound<'py, PyUntypedArray>,
    dtype: DataType,
}

impl<'py> Fed<'py> {
    /// Of whatever Python calls an array: NumPy's, what speaks DLPack, what NumPy can make one of. Numbers and lists of them
    /// become elements of type `declared`.
    pub(crate) fn new(name: &str, object: &Bound<'py, PyAny>, declared: Option<DataType>) -> PyResult<Self> {
        let array = match object.cast::<PyUntypedArray>() {
            Ok(array) => array.clone(),
            Err(_) => converted(object, declared)?,
        };
        let descr = array.dtype();
        let Some(dtype) = data_type(&descr) else {
            return Err(InputError::new_err(format!(
                "input {name:?}: arrays of type {descr} are not supported; there are floats of 16, 32 and 64 bits, bfloat16, \
                 integers of 8 to 64 bits, and bool"
            )));
        };
        let native = descr.is_native_byteorder().unwrap_or(true);
        if native && array.is_c_contiguous() && array.is_aligned() {
            return Ok(Self { array, dtype });
        }
        let py = object.py();
        let options = PyDict::new(py);
        options.set_item("dtype", descr.call_method1("newbyteorder", ("=",))?)?;
        options.set_item("order", "C")?;
        options.set_item("copy", true)?;
        let copy = numpy(py)?.call_method("array", (array,), Some(&options))?;
        Ok(Self { array: copy.cast_into::<PyUntypedArray>()?, dtype })
    }

    /// Its elements. Whoever writes into the array during a run gets other numbers, as with any NumPy function.
    pub(crate) fn view(&self) -> PyResult<TensorView<'_>> {
        let len = self.array.len() * self.dtype.size();
        // SAFETY: `new` made sure that the array is C-contiguous and of this element type, so `data` points to `len` bytes, which
        // live as long as the array that `self` holds; a NumPy array's data pointer is never null. The elements are numbers
        // and booleans, of which any bits will do.
        let bytes = unsafe {
            let array = &*self.array.as_array_ptr();
            std::slice::from_raw_parts(array.fields.data.cast::<u8>().cast_const(), len)
        };
        TensorView::from_bytes(self.dtype, self.array.shape(), bytes)
            .map_err(|error| InputError::new_err(error.to_string()))
    }

    /// A copy.
    pub(crate) fn tensor(&self) -> PyResult<Tensor> {
        Ok(self.view()?.to_tensor())
    }
}

fn numpy(py: Python<'_>) -> PyResult<Bound<'_, PyModule>> {
    py.import(intern!(py, "numpy"))
}

fn converted<'py>(
    object: &Bound<'py, PyAny>,
    declared: Option<DataType>,
) -> PyResult<Bound<'py, PyUntypedArray>> {
    let py = object.py();
    let numpy = numpy(py)?;
    let plain = object.is_instance_of::<PyList>()
        || object.is_instance_of::<PyTuple>()
        || object.is_instance_of::<PyFloat>()
        || object.is_instance_of::<PyInt>()
        || object.is_instance_of::<PyBool>();
    let array = if plain {
        let options = PyDict::new(py);
        if let Some(dtype) = declared {
            options.set_item("dtype", descr(py, dtype)?)?;
        }
        numpy
            .call_method("asarray", (object,), Some(&options))
            .map_err(|error| InputError::new_err(error.value(py).to_string()))?
    } else if object.hasattr(intern!(py, "__dlpack__"))? {
        numpy.call_method1("from_dlpack", (object,))?
    } else {
        numpy.call_method1("asarray", (object,))?
    };
    Ok(array.cast_into::<PyUntypedArray>()?)
}

/// Memory that a NumPy array lies in.
#[pyclass(frozen, module = "poda")]
struct Buffer(#[expect(dead_code, reason = "held for the array")] AlignedBytes);

/// The tensor as an array, which may be written to; its memory is the tensor's own where nobody else has it.
pub(crate) fn to_numpy(py: Python<'_>, tensor: Tensor) -> PyResult<Bound<'_, PyAny>> {
    let descr = descr(py, tensor.dtype())?;
    let mut dims: Vec<npy_intp> = tensor.shape().iter().map(|&dim| dim as npy_intp).collect();
    let mut bytes = tensor.into_bytes();
    let data = bytes.as_mut_ptr();
    let base = Bound::new(py, Buffer(bytes))?;
    // SAFETY: `data` points to as many bytes as a tensor of this type and shape has, which `Tensor` guarantees, aligned to 64 and
    // C-contiguous; the buffer was owned alone, so that Python may write to it, and moving `AlignedBytes` into `Buffer` does
    // not move what it points to. The array holds `base`, and with it the memory, until it is gone. `PyArray_NewFromDescr`
    // takes the reference to `descr`, `PyArray_SetBaseObject` that to `base`.
    unsafe {
        let array = PY_ARRAY_API.PyArray_NewFromDescr(
            py,
            get_type_object(py, NpyTypes::PyArray_Type),
            descr.into_dtype_ptr(),
            dims.len() as i32,
            dims.as_mut_ptr(),
            std::ptr::null_mut(),
            data.cast(),
            NPY_ARRAY_WRITEABLE,
            std::ptr::null_mut(),
        );
        let array = Bound::from_owned_ptr_or_err(py, array)?;
        if PY_ARRAY_API.PyArray_SetBaseObject(py, array.as_ptr().cast(), base.into_ptr()) < 0 {
            return Err(PyErr::fetch(py));
        }
        Ok(array)
    }
}
