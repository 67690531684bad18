//! Checks what a run is fed against what the graph declares.

use std::collections::HashMap;

use poda_formats::dtype::DataType;
use poda_formats::{Dim, Graph, TensorView};

/// Why feeds do not fit a graph's inputs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum FeedError {
    #[error("no input is named {name:?}; the model takes {inputs:?}")]
    Unknown { name: String, inputs: Vec<String> },
    #[error("input {name:?} is missing")]
    Missing { name: String },
    #[error("input {name:?} is given twice")]
    Duplicate { name: String },
    #[error("input {name:?} is {found}, expected {expected}")]
    Type { name: String, expected: DataType, found: DataType },
    #[error("input {name:?} has shape {found:?}, expected rank {expected}")]
    Rank { name: String, expected: usize, found: Vec<usize> },
    #[error("input {name:?} has shape {found:?}, expected {expected} in dimension {axis}")]
    Dimension { name: String, axis: usize, expected: usize, found: Vec<usize> },
    #[error(
        "input {name:?} has shape {found:?}, but dimension {axis} ({symbol}) is {expected} in input {other:?}"
    )]
    Symbol { name: String, axis: usize, symbol: String, expected: usize, other: String, found: Vec<usize> },
}

/// The feeds in the order of the graph's inputs.
///
/// # Errors
/// When a name, type or shape does not fit.
pub(crate) fn check<'a>(
    graph: &Graph,
    feeds: &[(&str, TensorView<'a>)],
) -> Result<Vec<TensorView<'a>>, FeedError> {
    let mut ordered: Vec<Option<TensorView<'a>>> = vec![None; graph.inputs.len()];
    for &(name, view) in feeds {
        let Some(position) = graph.inputs.iter().position(|&id| graph.value(id).name == name) else {
            let inputs = graph.inputs.iter().map(|&id| graph.value(id).name.clone()).collect();
            return Err(FeedError::Unknown { name: name.to_owned(), inputs });
        };
        if ordered[position].replace(view).is_some() {
            return Err(FeedError::Duplicate { name: name.to_owned() });
        }
    }
    let mut symbols: HashMap<&str, (usize, &str)> = HashMap::new();
    let mut views = Vec::with_capacity(ordered.len());
    for (&id, view) in graph.inputs.iter().zip(ordered) {
        let value = graph.value(id);
        let name = || value.name.clone();
        let view = view.ok_or_else(|| FeedError::Missing { name: name() })?;
        if let Some(expected) = value.dtype.filter(|&dtype| dtype != view.dtype()) {
            return Err(FeedError::Type { name: name(), expected, found: view.dtype() });
        }
        let dims = value.shape.as_deref().unwrap_or_default();
        if value.shape.is_some() && dims.len() != view.rank() {
            return Err(FeedError::Rank { name: name(), expected: dims.len(), found: view.shape().to_vec() });
        }
        for (axis, (dim, &size)) in dims.iter().zip(view.shape()).enumerate() {
            let found = || view.shape().to_vec();
            match dim {
                Dim::Fixed(expected) if *expected != size => {
                    return Err(FeedError::Dimension {
                        name: name(),
                        axis,
                        expected: *expected,
                        found: found(),
                    });
                }
                Dim::Symbol(symbol) if !symbol.is_empty() => {
                    let &mut (expected, other) = symbols.entry(symbol).or_insert((size, &value.name));
                    if expected != size {
                        let (symbol, other) = (symbol.clone(), other.to_owned());
                        return Err(FeedError::Symbol {
                            name: name(),
                            axis,
                            symbol,
                            expected,
                            other,
                            found: found(),
                        });
                    }
                }
                Dim::Fixed(_) | Dim::Symbol(_) => {}
            }
        }
        views.push(view);
    }
    Ok(views)
}
