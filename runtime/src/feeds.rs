//! Checks what a run is fed against what the graph declares.
//!
//! Dimensions of one name need not agree: exporters write one name for all that are open, and reuse names. Such dimensions
//! count as different, as in ONNX Runtime; [`conflicts`] tells of them.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use poda_formats::dtype::DataType;
use poda_formats::{Dim, Graph, TensorView, ValueId};
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
}

/// Two dimensions that the graph gives one name, and a run different sizes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Conflict {
    pub symbol: String,
    /// Input, axis and size of the one and the other.
    pub dims: [(String, usize, usize); 2],
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [(a, a_axis, a_size), (b, b_axis, b_size)] = &self.dims;
        write!(
            f,
            "dimension {a_axis} of input {a:?} is {a_size} and dimension {b_axis} of {b:?} is {b_size}, though the \
             model calls both {:?}: they count as different",
            self.symbol
        )
    }
}

/// The first two dimensions, for each name, that the graph gives this name and `shapes` different sizes.
pub fn conflicts<'a>(
    graph: &Graph,
    shapes: impl IntoIterator<Item = (&'a str, &'a [usize])>,
) -> Vec<Conflict> {
    let shapes: HashMap<&str, &[usize]> = shapes.into_iter().collect();
    let mut known: BTreeMap<&str, (&str, usize, usize)> = BTreeMap::new();
    let mut found: BTreeMap<&str, Conflict> = BTreeMap::new();
    for value in graph.inputs.iter().map(|&id| graph.value(id)) {
        let (Some(dims), Some(shape)) = (&value.shape, shapes.get(value.name.as_str())) else { continue };
        for (axis, (dim, &size)) in dims.iter().zip(*shape).enumerate() {
            let Dim::Symbol(symbol) = dim else { continue };
            let &mut first = known.entry(symbol).or_insert((&value.name, axis, size));
            if first.2 != size && !symbol.is_empty() {
                let own = |(name, axis, size): (&str, usize, usize)| (name.to_owned(), axis, size);
                let dims = [own(first), own((&value.name, axis, size))];
                found.entry(symbol).or_insert_with(|| Conflict { symbol: symbol.clone(), dims });
            }
        }
    }
    found.into_values().collect()
}

/// Weights that feeds are to take the place of, ascending.
pub(crate) fn overridden(graph: &Graph, feeds: &[(&str, TensorView<'_>)]) -> Vec<ValueId> {
    let is_input = |name: &str| graph.inputs.iter().any(|&id| graph.value(id).name == name);
    // (Most runs feed inputs only, and are to allocate nothing.)
    let fed = |value: &str| feeds.iter().any(|&(name, _)| name == value);
    if feeds.iter().all(|(name, _)| is_input(name)) {
        return Vec::new();
    }
    let ids = (0..graph.values.len() as u32).map(ValueId);
    let overridden = |id: &ValueId| {
        let value = graph.value(*id);
        value.overridable && fed(&value.name)
    };
    ids.filter(overridden).collect()
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

/// Checks the shape of each input against what the graph declares.
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
            if let Dim::Fixed(expected) = dim
                && *expected != size
            {
                return Err(FeedError::Dimension { name: name(), axis, expected: *expected, found: found() });
            }
        }
    }
    Ok(())
}
