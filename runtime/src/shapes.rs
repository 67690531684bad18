//! Sizes for the open dimensions of a model, one way for everything that needs concrete shapes.
//!
//! What is given comes first: `--shape ids=1x128` gives the shape of an input, `--shape sequence=128` the size of every
//! open dimension of that name. Dimensions named like a batch, or that lead an input and have no name that lengths have,
//! are [`Sizes::batch`], unless a given shape has a batch already. For the others usual sizes are tried until the whole graph fits them; [`Resolved::assumed`] says
//! which, so that no figure rests on a size that nobody saw.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use poda_formats::{Dim, Graph};

use crate::analysis::{self, is_batch};
use crate::ops::OpError;

/// A concrete shape for each input, by name.
pub type Shapes = BTreeMap<String, Vec<usize>>;

/// `NAME=1x3x224x224`: the shape of an input, or the size of an open dimension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedShape {
    /// Of an input, or of an open dimension.
    pub name: String,
    /// Its sizes.
    pub shape: Vec<usize>,
}

/// Why a text is no [`NamedShape`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum ParseShapeError {
    #[error("expected NAME=DIMS, such as x=1x3x224x224")]
    Form,
    #[error("{text:?} is not a size")]
    Size { text: String },
}

impl FromStr for NamedShape {
    type Err = ParseShapeError;

    fn from_str(text: &str) -> Result<Self, ParseShapeError> {
        let (name, dims) = text.rsplit_once('=').ok_or(ParseShapeError::Form)?;
        let size = |dim: &str| dim.parse().map_err(|_| ParseShapeError::Size { text: dim.to_owned() });
        let shape = dims.split('x').filter(|_| !dims.is_empty()).map(size).collect::<Result<_, _>>()?;
        Ok(Self { name: name.to_owned(), shape })
    }
}

impl fmt::Display for NamedShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dims: Vec<_> = self.shape.iter().map(usize::to_string).collect();
        write!(f, "{}={}", self.name, dims.join("x"))
    }
}

/// Why a model's inputs cannot have the shapes asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum ShapesError {
    #[error("the model has no input and no open dimension named {name:?}; {known}")]
    Unknown { name: String, known: String },
    #[error("{name:?} is given twice")]
    Twice { name: String },
    #[error("{name:?} is an open dimension and takes one size, {given:?} given")]
    Symbol { name: String, given: Vec<usize> },
    #[error("input {input:?} has {declared} dimensions, {given} given")]
    Rank { input: String, declared: usize, given: usize },
    #[error("dimension {axis} of input {input:?} is {fixed} in the model, {given} given")]
    Fixed { input: String, axis: usize, fixed: usize, given: usize },
    #[error("the shape of input {input:?} is not in the model; give it: --shape {input}=DIMS, such as 1x128")]
    Undeclared { input: String },
    #[error(
        "dimension {axis} ({symbol}) of input {input:?} has no size in the model, and no usual one fits; \
         give it: {hint}"
    )]
    Open { input: String, axis: usize, symbol: Dim, hint: String },
}

/// What is known of sizes before a model is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sizes {
    /// Size of batches.
    pub batch: usize,
    /// What is given.
    pub given: Vec<NamedShape>,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { batch: 1, given: Vec::new() }
    }
}

/// The shapes of a model's inputs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resolved {
    /// By input.
    pub shapes: Shapes,
    /// Open dimensions whose size nobody gave, with the size taken.
    pub assumed: Vec<(String, usize)>,
}

impl Resolved {
    /// What was assumed, in a sentence with the flags that say otherwise; `None` where nothing was.
    pub fn note(&self) -> Option<String> {
        if self.assumed.is_empty() {
            return None;
        }
        let sizes: Vec<_> = self.assumed.iter().map(|(name, size)| format!("{name} = {size}")).collect();
        Some(format!("open dimensions taken as {}; --shape {} says otherwise", sizes.join(", "), self.hint()))
    }

    fn hint(&self) -> String {
        let shape = |(name, shape): (&String, &Vec<usize>)| {
            NamedShape { name: name.clone(), shape: shape.clone() }.to_string()
        };
        self.shapes.iter().map(shape).collect::<Vec<_>>().join(" --shape ")
    }
}

/// An open dimension: its name, or its place where it has none.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Named(String),
    Place(String, usize),
}

impl Key {
    fn new(input: &str, axis: usize, symbol: &str) -> Self {
        // "?" is what exporters write for any open dimension, so it names none.
        if symbol.is_empty() || symbol == "?" {
            Self::Place(input.to_owned(), axis)
        } else {
            Self::Named(symbol.to_owned())
        }
    }

    /// Whether two dimensions are of one input, or have names.
    fn shares_input(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Place(a, _), Self::Place(b, _)) => a == b,
            _ => true,
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => f.write_str(name),
            Self::Place(input, axis) => write!(f, "dimension {axis} of {input}"),
        }
    }
}

impl Sizes {
    /// The concrete shape of each input of `graph`.
    ///
    /// # Errors
    /// When what is given does not fit the model, or a dimension is left to which no usual size fits.
    pub fn resolve(&self, graph: &Graph) -> Result<Resolved, ShapesError> {
        let mut known = self.known(graph)?;
        let batches = |&(_, axis, symbol): &(&str, usize, &str)| {
            is_batch(symbol, axis) || (axis == 0 && !is_length(symbol))
        };
        // A shape that is given says more than a flag that has a default.
        let given = open_dims(graph).filter(batches).find_map(|(input, axis, symbol)| {
            let size = known.sizes.get(&Key::new(input, axis, symbol)).copied();
            size.or_else(|| known.shapes.get(input)?.get(axis).copied())
        });
        for (input, axis, symbol) in open_dims(graph).filter(batches) {
            known.sizes.entry(Key::new(input, axis, symbol)).or_insert(given.unwrap_or(self.batch));
        }
        let mut open: Vec<(Key, usize)> = Vec::new();
        for &id in &graph.inputs {
            let value = graph.value(id);
            if known.shapes.contains_key(&value.name) {
                continue;
            }
            let Some(dims) = &value.shape else {
                return Err(ShapesError::Undeclared { input: value.name.clone() });
            };
            for (axis, dim) in dims.iter().enumerate() {
                let Dim::Symbol(symbol) = dim else { continue };
                let key = Key::new(&value.name, axis, symbol);
                if !known.sizes.contains_key(&key) && open.iter().all(|(other, _)| *other != key) {
                    open.push((key, usual(symbol, axis, dims.len())));
                }
            }
        }
        if open.is_empty() {
            return Ok(Resolved { shapes: known.shapes(graph), assumed: Vec::new() });
        }
        let usual: Vec<usize> = open.iter().map(|&(_, size)| size).collect();
        let first = &open[0].0;
        // What is open in other inputs is often the batch of a state, under no name.
        let beside = |size: usize| {
            let size = |key: &Key| if first.shares_input(key) { size } else { self.batch };
            open.iter().map(|(key, _)| size(key)).collect::<Vec<_>>()
        };
        let others = UNIFORM.iter().flat_map(|&size| [vec![size; open.len()], beside(size)]);
        for sizes in std::iter::once(usual.clone()).chain(others) {
            let mut known = known.clone();
            known.sizes.extend(open.iter().map(|(key, _)| key.clone()).zip(sizes.iter().copied()));
            let shapes = known.shapes(graph);
            if fits(graph, &shapes) {
                let assumed = open.iter().map(|(key, _)| key.to_string()).zip(sizes).collect();
                return Ok(Resolved { shapes, assumed });
            }
        }
        known.sizes.extend(open.iter().map(|(key, _)| key.clone()).zip(usual));
        let hint = Resolved { shapes: known.shapes(graph), assumed: Vec::new() }.hint();
        let unsettled =
            open_dims(graph).find(|&(input, axis, symbol)| Key::new(input, axis, symbol) == open[0].0);
        let (input, axis, symbol) = unsettled.expect("it was found there");
        let symbol = Dim::Symbol(symbol.to_owned());
        Err(ShapesError::Open { input: input.to_owned(), axis, symbol, hint: format!("--shape {hint}") })
    }

    /// The shapes of the inputs about which something is given; the others are left to whoever asks.
    ///
    /// # Errors
    /// As [`Sizes::resolve`].
    pub fn resolve_given(&self, graph: &Graph) -> Result<Shapes, ShapesError> {
        if self.given.is_empty() {
            return Ok(Shapes::new());
        }
        let known = self.known(graph)?;
        let mut shapes = self.resolve(graph)?.shapes;
        shapes.retain(|input, _| {
            let about = |(name, axis, symbol): (&str, usize, &str)| {
                name == input && known.sizes.contains_key(&Key::new(name, axis, symbol))
            };
            known.shapes.contains_key(input) || open_dims(graph).any(about)
        });
        Ok(shapes)
    }

    /// What is given, checked against what the model declares.
    fn known(&self, graph: &Graph) -> Result<Known, ShapesError> {
        let mut known = Known::default();
        for NamedShape { name, shape } in &self.given {
            let input = graph.inputs.iter().map(|&id| graph.value(id)).find(|value| value.name == *name);
            let Some(input) = input else {
                if open_dims(graph).all(|(_, _, symbol)| symbol != name || name.is_empty()) {
                    return Err(ShapesError::Unknown { name: name.clone(), known: describe_inputs(graph) });
                }
                let [size] = shape[..] else {
                    return Err(ShapesError::Symbol { name: name.clone(), given: shape.clone() });
                };
                if known.sizes.insert(Key::Named(name.clone()), size).is_some() {
                    return Err(ShapesError::Twice { name: name.clone() });
                }
                continue;
            };
            if let Some(declared) = &input.shape {
                check(name, declared, shape)?;
            }
            if known.shapes.insert(name.clone(), shape.clone()).is_some() {
                return Err(ShapesError::Twice { name: name.clone() });
            }
        }
        // A name that one input's shape settles is settled for all; where two disagree, for none.
        let mut settled: BTreeMap<Key, Option<usize>> = BTreeMap::new();
        for (input, axis, symbol) in open_dims(graph) {
            let (Some(shape), key) = (known.shapes.get(input), Key::new(input, axis, symbol)) else {
                continue;
            };
            let size = settled.entry(key).or_insert(Some(shape[axis]));
            *size = size.filter(|&size| size == shape[axis]);
        }
        for (key, size) in settled {
            if let Some(size) = size {
                known.sizes.entry(key).or_insert(size);
            }
        }
        Ok(known)
    }
}

/// Shapes of inputs and sizes of open dimensions.
#[derive(Debug, Clone, Default)]
struct Known {
    shapes: Shapes,
    sizes: BTreeMap<Key, usize>,
}

impl Known {
    /// A shape for each declared input, 1 where nothing is known.
    fn shapes(&self, graph: &Graph) -> Shapes {
        let shape = |input: &str, dims: &[Dim]| -> Vec<usize> {
            let size = |(axis, dim): (usize, &Dim)| match dim {
                Dim::Fixed(size) => *size,
                Dim::Symbol(symbol) => *self.sizes.get(&Key::new(input, axis, symbol)).unwrap_or(&1),
            };
            dims.iter().enumerate().map(size).collect()
        };
        let inputs = graph.inputs.iter().map(|&id| graph.value(id));
        inputs
            .map(|value| {
                let given = self.shapes.get(&value.name).cloned();
                let own = || shape(&value.name, value.shape.as_deref().unwrap_or_default());
                (value.name.clone(), given.unwrap_or_else(own))
            })
            .collect()
    }
}

/// Sizes for all open dimensions alike, where the usual ones do not fit.
const UNIFORM: [usize; 8] = [64, 32, 16, 256, 512, 8, 1, 1024];

/// The size that a dimension like this most often has: pixels of an image, steps of a sequence.
fn usual(symbol: &str, axis: usize, rank: usize) -> usize {
    let lower = symbol.to_ascii_lowercase();
    let side = lower.contains("height") || lower.contains("width") || matches!(lower.as_str(), "h" | "w");
    if side || (rank == 4 && axis >= 2) { 224 } else { 128 }
}

/// Whether an open dimension has a name that lengths have, and batches do not.
fn is_length(symbol: &str) -> bool {
    let lower = symbol.to_ascii_lowercase();
    let parts = ["seq", "time", "frame", "token", "len", "step", "height", "width", "chan", "feat", "point"];
    parts.iter().any(|part| lower.contains(part))
        || matches!(lower.as_str(), "t" | "l" | "s" | "h" | "w" | "c")
}

/// Whether every operator takes what follows from the shapes; those that are not supported do not count.
fn fits(graph: &Graph, shapes: &Shapes) -> bool {
    let failures = analysis::analyze(graph, shapes).failures;
    failures.iter().all(|(_, error)| matches!(error, OpError::Unsupported { .. }))
}

/// Input, axis and name of every open dimension of the inputs, in order.
fn open_dims(graph: &Graph) -> impl Iterator<Item = (&str, usize, &str)> {
    graph.inputs.iter().map(|&id| graph.value(id)).flat_map(|value| {
        value.shape.iter().flatten().enumerate().filter_map(|(axis, dim)| match dim {
            Dim::Symbol(symbol) => Some((value.name.as_str(), axis, symbol.as_str())),
            Dim::Fixed(_) => None,
        })
    })
}

fn check(input: &str, declared: &[Dim], given: &[usize]) -> Result<(), ShapesError> {
    let input = || input.to_owned();
    if declared.len() != given.len() {
        return Err(ShapesError::Rank { input: input(), declared: declared.len(), given: given.len() });
    }
    for (axis, (declared, &given)) in declared.iter().zip(given).enumerate() {
        if let Dim::Fixed(fixed) = *declared
            && fixed != given
        {
            return Err(ShapesError::Fixed { input: input(), axis, fixed, given });
        }
    }
    Ok(())
}

/// The inputs with their declared shapes, as a part of a sentence.
pub fn describe_inputs(graph: &Graph) -> String {
    let input = |&id: &poda_formats::ValueId| {
        let value = graph.value(id);
        let shape = value.shape.as_ref().map_or_else(String::new, |dims| format!(" {dims:?}"));
        format!("{:?}{shape}", value.name)
    };
    match &graph.inputs[..] {
        [] => "it has no inputs".to_owned(),
        ids => format!("its inputs are {}", ids.iter().map(input).collect::<Vec<_>>().join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use poda_formats::{DataType, Op, Tensor};

    use super::*;

    fn sizes(batch: usize, given: &[&str]) -> Sizes {
        Sizes { batch, given: given.iter().map(|text| text.parse().unwrap()).collect() }
    }

    fn symbols(dims: &[&str]) -> Vec<Dim> {
        dims.iter().map(|d| d.parse().map_or_else(|_| Dim::Symbol((*d).to_owned()), Dim::Fixed)).collect()
    }

    /// Inputs of such shapes, of which nothing is made.
    fn graph(inputs: &[(&str, &[&str])]) -> Graph {
        let mut graph = Graph::default();
        for (name, dims) in inputs {
            graph.add_input(*name, DataType::F32, symbols(dims));
        }
        graph
    }

    #[test]
    fn shapes_parse() {
        let shape: NamedShape = "a=b=1x30".parse().unwrap();
        assert_eq!(shape, NamedShape { name: "a=b".into(), shape: vec![1, 30] });
        assert_eq!(shape.to_string(), "a=b=1x30");
        assert!("x=".parse::<NamedShape>().unwrap().shape.is_empty());
        assert!("x=1x-3".parse::<NamedShape>().is_err());
        assert!("1x3".parse::<NamedShape>().is_err());
    }

    #[test]
    fn batches_names_and_shapes_settle_dimensions() {
        let graph = graph(&[("ids", &["batch", "sequence"]), ("mask", &["batch", "sequence"])]);
        let shapes = |sizes: Sizes| sizes.resolve(&graph).unwrap().shapes.into_values().collect::<Vec<_>>();
        assert_eq!(shapes(sizes(4, &["sequence=7"])), [[4, 7], [4, 7]]);
        assert_eq!(shapes(sizes(4, &["ids=2x9"])), [[2, 9], [2, 9]]);
        // Where two shapes disagree, the name says nothing.
        assert_eq!(shapes(sizes(1, &["ids=2x9", "mask=3x8"])), [[2, 9], [3, 8]]);
        let resolved = sizes(1, &[]).resolve(&graph).unwrap();
        assert_eq!(resolved.assumed, [("sequence".to_owned(), 128)]);
        assert!(resolved.note().unwrap().contains("--shape ids=1x128 --shape mask=1x128"));
        let given = sizes(1, &["sequence=7"]).resolve_given(&graph).unwrap();
        assert_eq!(given.into_values().collect::<Vec<_>>(), [[1, 7], [1, 7]]);
        assert!(sizes(1, &[]).resolve_given(&graph).unwrap().is_empty());
    }

    #[test]
    fn question_marks_are_dimensions_of_their_own() {
        let graph = graph(&[("x", &["?", "3", "?", "?"]), ("scale", &["?", "2"])]);
        let shapes = sizes(5, &["x=2x3x32x48"]).resolve(&graph).unwrap().shapes;
        assert_eq!(shapes.into_values().collect::<Vec<_>>(), [vec![2, 2], vec![2, 3, 32, 48]]);
        let resolved = sizes(5, &[]).resolve(&graph).unwrap();
        assert_eq!(resolved.shapes["x"], [5, 3, 224, 224]);
        assert_eq!(resolved.assumed[0].0, "dimension 2 of x");
    }

    #[test]
    fn what_does_not_fit_is_refused_with_a_hint_of_the_right_rank() {
        let refused = |graph: &Graph, given: &[&str]| sizes(1, given).resolve(graph).unwrap_err();
        let plain = graph(&[("x", &["n", "3", "h", "w"])]);
        assert!(matches!(refused(&plain, &["y=1"]), ShapesError::Unknown { .. }));
        assert!(matches!(refused(&plain, &["x=1x3"]), ShapesError::Rank { declared: 4, given: 2, .. }));
        assert!(matches!(refused(&plain, &["x=1x4x8x8"]), ShapesError::Fixed { axis: 1, fixed: 3, .. }));
        assert!(matches!(refused(&plain, &["h=1x2"]), ShapesError::Symbol { .. }));
        assert!(matches!(refused(&plain, &["h=1", "h=2"]), ShapesError::Twice { .. }));
        // A width to which only 100 fits.
        let mut narrow = graph(&[("x", &["n", "3", "odd"])]);
        let weight = narrow.add_weight("w", Tensor::zeros(DataType::F32, &[100, 2]));
        let y = narrow.add_node(Op::MatMul, &[narrow.inputs[0], weight], "y");
        narrow.outputs.push(y);
        let message = refused(&narrow, &[]).to_string();
        assert!(message.contains("(odd)") && message.contains("--shape x=1x3x128"), "{message}");
        assert_eq!(sizes(1, &["odd=100"]).resolve(&narrow).unwrap().shapes["x"], [1, 3, 100]);
    }
}
