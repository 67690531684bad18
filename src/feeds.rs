//! What a command feeds a model: options for shapes, and arrays from files or made up.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Result, bail, ensure};
use clap::Args;
use poda::arrays;
use poda_formats::{Dim, Graph, Tensor, TensorView};
use poda_runtime::random_feeds::random_feeds;

/// `NAME=1x3x224x224`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamedShape {
    name: String,
    shape: Vec<usize>,
}

impl FromStr for NamedShape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, dims) = text.rsplit_once('=').ok_or("expected NAME=1x3x224x224")?;
        let shape = dims
            .split('x')
            .filter(|_| !dims.is_empty())
            .map(|dim| dim.parse().map_err(|_| format!("{dim:?} is not a size")))
            .collect::<Result<_, _>>()?;
        Ok(Self { name: name.to_owned(), shape })
    }
}

impl std::fmt::Display for NamedShape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let dims: Vec<_> = self.shape.iter().map(usize::to_string).collect();
        write!(f, "{}={}", self.name, dims.join("x"))
    }
}

/// `NAME=FILE`; NAME may be empty when a model has one input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamedFile {
    name: Option<String>,
    path: PathBuf,
}

impl FromStr for NamedFile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((_, "")) => Err("expected NAME=FILE.npy or FILE.npz".to_owned()),
            Some((name, path)) => Ok(Self { name: Some(name.to_owned()), path: path.into() }),
            None => Ok(Self { name: None, path: text.into() }),
        }
    }
}

/// Options that make symbolic shapes concrete.
#[derive(Debug, Clone, Args)]
pub(crate) struct ShapeArgs {
    /// Size of symbolic dimensions that are named like a batch
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) batch: usize,
    /// Shape of an input, such as input=1x3x224x224; may be repeated
    #[arg(long, value_name = "NAME=DIMS")]
    pub(crate) shape: Vec<NamedShape>,
}

impl ShapeArgs {
    /// The concrete shape of each input of `graph`.
    pub(crate) fn resolve(&self, graph: &Graph) -> Result<Shapes> {
        let given = given_shapes(graph, &self.shape)?;
        let symbols = settled_symbols(graph, &given);
        // The inputs alone, with what is settled filled in.
        let mut settled = Graph::default();
        for &id in &graph.inputs {
            let mut value = graph.value(id).clone();
            if let Some(shape) = given.get(&value.name) {
                value.shape = Some(shape.iter().map(|&d| Dim::Fixed(d)).collect());
            }
            for dim in value.shape.iter_mut().flatten() {
                if let Dim::Symbol(symbol) = dim
                    && let Some(&size) = symbols.get(symbol.as_str())
                {
                    *dim = Dim::Fixed(size);
                }
            }
            let id = settled.add_value(value);
            settled.inputs.push(id);
        }
        warn_of_conflicts(graph, given.iter().map(|(name, shape)| (name.as_str(), shape.as_slice())));
        poda_runtime::analysis::default_shapes(&settled, self.batch).map_err(|error| {
            let input = graph.inputs.first().map_or("NAME", |&id| graph.value(id).name.as_str());
            anyhow::anyhow!("{error}, such as --shape {input}=1x128")
        })
    }
}

/// The shapes that were given for inputs of `graph`, checked against what it declares.
pub(crate) fn given_shapes(graph: &Graph, shapes: &[NamedShape]) -> Result<Shapes> {
    let mut given = BTreeMap::new();
    for NamedShape { name, shape } in shapes {
        let id = graph.inputs.iter().find(|&&id| graph.value(id).name == *name);
        let Some(&id) = id else {
            bail!("--shape: the model has no input {name:?}; {}", input_names(graph));
        };
        ensure!(given.insert(name.clone(), shape.clone()).is_none(), "--shape: {name:?} is there twice");
        let Some(declared) = &graph.value(id).shape else { continue };
        ensure!(
            declared.len() == shape.len(),
            "--shape: input {name:?} has {} dimensions, {} given",
            declared.len(),
            shape.len()
        );
        for (axis, (declared, size)) in declared.iter().zip(shape).enumerate() {
            if let Dim::Fixed(fixed) = declared {
                ensure!(
                    fixed == size,
                    "--shape: dimension {axis} of input {name:?} is {fixed} in the model, {size} given"
                );
            }
        }
    }
    Ok(given)
}

/// What the given shapes say of symbols: one that one input's shape settles is settled for all, unless another says
/// otherwise.
fn settled_symbols<'a>(graph: &'a Graph, given: &Shapes) -> BTreeMap<&'a str, usize> {
    let mut symbols: BTreeMap<&str, Option<usize>> = BTreeMap::new();
    for &id in &graph.inputs {
        let value = graph.value(id);
        let (Some(declared), Some(shape)) = (&value.shape, given.get(&value.name)) else { continue };
        for (declared, &size) in declared.iter().zip(shape) {
            if let Dim::Symbol(symbol) = declared
                && !symbol.is_empty()
            {
                let known = symbols.entry(symbol.as_str()).or_insert(Some(size));
                *known = known.filter(|&known| known == size);
            }
        }
    }
    symbols.into_iter().filter_map(|(symbol, size)| Some((symbol, size?))).collect()
}

/// Says which dimensions of one name have different sizes.
fn warn_of_conflicts<'a>(graph: &Graph, shapes: impl IntoIterator<Item = (&'a str, &'a [usize])>) {
    for conflict in poda_runtime::feeds::conflicts(graph, shapes) {
        eprintln!("poda: warning: {}", crate::table::escaped(&conflict.to_string()));
    }
}

fn input_names(graph: &Graph) -> String {
    let names: Vec<_> = graph.inputs.iter().map(|&id| format!("{:?}", graph.value(id).name)).collect();
    format!("its inputs are {}", names.join(", "))
}

/// A concrete shape for each input, by name.
pub(crate) type Shapes = BTreeMap<String, Vec<usize>>;

/// Arrays for each input of the graph, in order, with its name.
pub(crate) type Feeds = Vec<(String, Tensor)>;

/// Borrowed, as a run takes them.
pub(crate) fn views(feeds: &Feeds) -> Vec<(&str, TensorView<'_>)> {
    feeds.iter().map(|(name, tensor)| (name.as_str(), tensor.view())).collect()
}

/// Made-up feeds of the resolved shapes.
pub(crate) fn random(graph: &Graph, shapes: &ShapeArgs, seed: u64) -> Result<Feeds> {
    Ok(random_feeds(graph, &shapes.resolve(graph)?, seed)?)
}

/// Feeds from `.npy` files by name, and from `.npz` files that hold arrays by name.
pub(crate) fn from_files(graph: &Graph, files: &[NamedFile]) -> Result<Feeds> {
    let mut feeds = Feeds::new();
    for NamedFile { name, path } in files {
        let arrays = arrays::read(path)?;
        for (array, tensor) in arrays {
            let name = match (name, array.as_str()) {
                (Some(name), "") => name.clone(),
                (None, "") if graph.inputs.len() == 1 => graph.value(graph.inputs[0]).name.clone(),
                (None, "") => {
                    bail!("{}: say which input it is, NAME={0}; {}", path.display(), input_names(graph))
                }
                (None, array) => array.to_owned(),
                // A named .npz: its array of that name, or its only one.
                (Some(name), array) if name == array => array.to_owned(),
                (Some(_), _) => continue,
            };
            feeds.push((name, tensor));
        }
    }
    warn_of_conflicts(graph, feeds.iter().map(|(name, tensor)| (name.as_str(), tensor.shape())));
    for &id in &graph.inputs {
        let name = &graph.value(id).name;
        ensure!(
            feeds.iter().any(|(fed, _)| fed == name),
            "input {name:?} is not fed; {}",
            input_names(graph)
        );
    }
    Ok(feeds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_and_files_parse() {
        let shape: NamedShape = "a=b=1x30".parse().unwrap();
        assert_eq!(shape, NamedShape { name: "a=b".into(), shape: vec![1, 30] });
        assert!("x=".parse::<NamedShape>().unwrap().shape.is_empty());
        assert!("x=1x-3".parse::<NamedShape>().is_err());
        assert!("1x3".parse::<NamedShape>().is_err());
        assert_eq!("x=y.npy".parse::<NamedFile>().unwrap().name.as_deref(), Some("x"));
        assert!("x=".parse::<NamedFile>().is_err());
    }
}
