//! Checks what a run is fed against what the graph declares.

use poda_formats::dtype::DataType;
use poda_formats::{Dim, Graph, TensorView};
use smallvec::{SmallVec, smallvec};

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
pub(crate) fn check<'a>(graph: &Graph, feeds: &[(&str, TensorView<'a>)]) -> Result<Views<'a>, FeedError> {
    let order = order(graph, feeds.iter().map(|&(name, _)| name))?;
    let views: Views<'a> = order.iter().map(|&at| feeds[at].1).collect();
    for (&id, view) in graph.inputs.iter().zip(&views) {
        let value = graph.value(id);
        if let Some(expected) = value.dtype.filter(|&dtype| dtype != view.dtype()) {
            return Err(FeedError::Type { name: value.name.clone(), expected, found: view.dtype() });
        }
    }
    fit(graph, |input| views[input].shape())?;
    Ok(views)
}

/// Shapes that a run might be fed with, in the order of the graph's inputs.
///
/// # Errors
/// When a name or a shape does not fit.
pub(crate) fn check_shapes(graph: &Graph, shapes: &[(&str, &[usize])]) -> Result<Vec<Vec<usize>>, FeedError> {
    let order = order(graph, shapes.iter().map(|&(name, _)| name))?;
    fit(graph, |input| shapes[order[input]].1)?;
    Ok(order.iter().map(|&at| shapes[at].1.to_vec()).collect())
}

/// Feeds in the order of the inputs. Few enough lie in place, so that nothing is allocated.
pub(crate) type Views<'a> = SmallVec<[TensorView<'a>; 8]>;

/// For each input the position of its name among those given.
fn order<'a>(graph: &Graph, names: impl Iterator<Item = &'a str>) -> Result<SmallVec<[usize; 8]>, FeedError> {
    let mut order: SmallVec<[Option<usize>; 8]> = smallvec![None; graph.inputs.len()];
    for (at, name) in names.enumerate() {
        let Some(input) = graph.inputs.iter().position(|&id| graph.value(id).name == name) else {
            let inputs = graph.inputs.iter().map(|&id| graph.value(id).name.clone()).collect();
            return Err(FeedError::Unknown { name: name.to_owned(), inputs });
        };
        if order[input].replace(at).is_some() {
            return Err(FeedError::Duplicate { name: name.to_owned() });
        }
    }
    let missing = |input: usize| FeedError::Missing { name: graph.value(graph.inputs[input]).name.clone() };
    order.into_iter().enumerate().map(|(input, at)| at.ok_or_else(|| missing(input))).collect()
}

/// Checks the shape of each input against what the graph declares, and equal symbols for equal sizes.
fn fit<'a>(graph: &Graph, shape: impl Fn(usize) -> &'a [usize]) -> Result<(), FeedError> {
    for (input, &id) in graph.inputs.iter().enumerate() {
        let value = graph.value(id);
        let (name, sizes) = (|| value.name.clone(), shape(input));
        let found = || sizes.to_vec();
        let Some(dims) = &value.shape else { continue };
        if dims.len() != sizes.len() {
            return Err(FeedError::Rank { name: name(), expected: dims.len(), found: found() });
        }
        for (axis, (dim, &size)) in dims.iter().zip(sizes).enumerate() {
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
                    let (first, at) = first(graph, dim, [input, axis]);
                    let expected = shape(first)[at];
                    if expected != size {
                        let other = graph.value(graph.inputs[first]).name.clone();
                        let (symbol, found) = (symbol.clone(), found());
                        return Err(FeedError::Symbol { name: name(), axis, symbol, expected, other, found });
                    }
                }
                Dim::Fixed(_) | Dim::Symbol(_) => {}
            }
        }
    }
    Ok(())
}

/// The first input and axis with a symbol, which input and axis `last` has.
fn first(graph: &Graph, symbol: &Dim, last: [usize; 2]) -> (usize, usize) {
    let dims = |input: usize| graph.value(graph.inputs[input]).shape.as_deref().unwrap_or_default();
    let found = (0..last[0]).find_map(|input| Some((input, dims(input).iter().position(|d| d == symbol)?)));
    let within = || (last[0], dims(last[0]).iter().position(|d| d == symbol).unwrap_or(last[1]));
    found.unwrap_or_else(within)
}
