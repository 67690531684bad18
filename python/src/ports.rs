//! What a model takes and gives, as Python sees it.

use poda::formats::Dim;
use pyo3::prelude::*;

use crate::arrays::numpy_name;

/// An input or output of a model, as the model declares it.
#[pyclass(frozen, module = "poda", from_py_object)]
#[derive(Clone)]
pub(crate) struct Port {
    /// Its name.
    #[pyo3(get)]
    name: String,
    /// NumPy's name of the element type, such as 'float32'; None where the model says nothing.
    #[pyo3(get)]
    dtype: Option<&'static str>,
    /// Sizes, names of open dimensions, None for open ones without a name; None where the model says nothing.
    #[pyo3(get)]
    shape: Option<Vec<Size>>,
}

/// One dimension: a number, a name, or None.
#[derive(Clone, IntoPyObject, IntoPyObjectRef)]
enum Size {
    Fixed(usize),
    Named(Option<String>),
}

impl From<poda::Port> for Port {
    fn from(port: poda::Port) -> Self {
        let size = |dim: Dim| match dim {
            Dim::Fixed(size) => Size::Fixed(size),
            Dim::Symbol(name) => Size::Named((!name.is_empty()).then_some(name)),
        };
        Self {
            name: port.name,
            dtype: port.dtype.map(numpy_name),
            shape: port.shape.map(|dims| dims.into_iter().map(size).collect()),
        }
    }
}

#[pymethods]
impl Port {
    fn __repr__(&self) -> String {
        let size = |size: &Size| match size {
            Size::Fixed(size) => size.to_string(),
            Size::Named(name) => name.as_ref().map_or_else(|| "None".to_owned(), |name| format!("{name:?}")),
        };
        let dtype = self.dtype.map_or_else(|| "None".to_owned(), |dtype| format!("{dtype:?}"));
        let shape = self.shape.as_ref().map_or_else(
            || "None".to_owned(),
            |sizes| format!("[{}]", sizes.iter().map(size).collect::<Vec<_>>().join(", ")),
        );
        format!("Port(name={:?}, dtype={dtype}, shape={shape})", self.name)
    }
}
