//! What a model is fed: arrays from files, or made up.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use poda_formats::{Graph, Tensor, TensorView};
use poda_runtime::random_feeds::{RandomFeedError, random_feeds};

use crate::arrays::{self, ArraysError};
use crate::shapes::{Shapes, describe_inputs};

/// Arrays for each input of a graph, in order, with its name.
pub type Feeds = Vec<(String, Tensor)>;

/// `NAME=FILE`, or a file alone: an `.npz` with arrays named like the inputs, or the one array of a model with one input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedFile {
    /// Which input it is.
    pub name: Option<String>,
    /// The file.
    pub path: PathBuf,
}

impl fmt::Display for NamedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name}={}", self.path.display()),
            None => write!(f, "{}", self.path.display()),
        }
    }
}

/// Why a text is no [`NamedFile`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected NAME=FILE.npy or FILE.npz")]
pub struct ParseFileError;

impl FromStr for NamedFile {
    type Err = ParseFileError;

    fn from_str(text: &str) -> Result<Self, ParseFileError> {
        match text.split_once('=') {
            _ if text.is_empty() => Err(ParseFileError),
            Some((_, "")) => Err(ParseFileError),
            Some((name, path)) => Ok(Self { name: Some(name.to_owned()), path: path.into() }),
            None => Ok(Self { name: None, path: text.into() }),
        }
    }
}

/// Why files do not feed a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum FeedsError {
    #[error(transparent)]
    Arrays(#[from] ArraysError),
    #[error(transparent)]
    Random(#[from] RandomFeedError),
    #[error("{path}: say which input it is, NAME={path}; {inputs}", path = path.display())]
    Nameless { path: PathBuf, inputs: String },
    #[error("{path}: array {name:?} is for no input of the model; {inputs}", path = path.display())]
    Unknown { path: PathBuf, name: String, inputs: String },
    #[error("the model has no input {name:?}; {inputs}")]
    NoSuchInput { name: String, inputs: String },
    #[error("{path}: none of its arrays {found:?} is named {name:?}", path = path.display())]
    NotThere { path: PathBuf, name: String, found: Vec<String> },
    #[error("input {name:?} is fed twice")]
    Twice { name: String },
    #[error("input {name:?} is not fed; {inputs}")]
    NotFed { name: String, inputs: String },
}

/// Borrowed, as a run takes them.
pub fn views(feeds: &Feeds) -> Vec<(&str, TensorView<'_>)> {
    feeds.iter().map(|(name, tensor)| (name.as_str(), tensor.view())).collect()
}

/// Made-up feeds of the given shapes; see [`random_feeds`].
///
/// # Errors
/// When an input lacks a type or a shape, or is larger than memory.
pub fn random(graph: &Graph, shapes: &Shapes, seed: u64) -> Result<Feeds, FeedsError> {
    Ok(random_feeds(graph, shapes, seed)?)
}

/// Feeds from files. Every array is for an input, or for a weight that an input of the same name may replace, and every
/// input is fed once; of an `.npz` file that is given for one input, only its array is taken.
///
/// # Errors
/// When a file cannot be read, or names do not fit.
pub fn from_files(graph: &Graph, files: &[NamedFile]) -> Result<Feeds, FeedsError> {
    let inputs = || describe_inputs(graph);
    let is_input = |name: &str| {
        let input = graph.inputs.iter().any(|&id| graph.value(id).name == name);
        input || graph.values.iter().any(|value| value.overridable && value.name == name)
    };
    let mut feeds = Feeds::new();
    let mut feed = |name: String, tensor: Tensor| {
        if feeds.iter().any(|(fed, _)| *fed == name) {
            return Err(FeedsError::Twice { name });
        }
        feeds.push((name, tensor));
        Ok(())
    };
    for NamedFile { name, path } in files {
        if let Some(name) = name.as_ref().filter(|name| !is_input(name)) {
            return Err(FeedsError::NoSuchInput { name: name.clone(), inputs: inputs() });
        }
        let mut arrays = arrays::read(path)?;
        let only = match graph.inputs[..] {
            [id] if arrays.len() == 1 => Some(graph.value(id).name.clone()),
            _ => None,
        };
        match name.clone().or(only) {
            Some(name) => {
                let alone = arrays.len() == 1;
                let own = arrays.remove(&name).or_else(|| Some(arrays.pop_first().filter(|_| alone)?.1));
                let Some(tensor) = own else {
                    let found = arrays.into_keys().collect();
                    return Err(FeedsError::NotThere { path: path.clone(), name, found });
                };
                feed(name, tensor)?;
            }
            None => {
                for (name, tensor) in arrays {
                    match name.as_str() {
                        "" => return Err(FeedsError::Nameless { path: path.clone(), inputs: inputs() }),
                        known if is_input(known) => feed(name, tensor)?,
                        _ => return Err(FeedsError::Unknown { path: path.clone(), name, inputs: inputs() }),
                    }
                }
            }
        }
    }
    let missing = graph.inputs.iter().map(|&id| &graph.value(id).name);
    match missing.into_iter().find(|&name| feeds.iter().all(|(fed, _)| fed != name)) {
        Some(name) => Err(FeedsError::NotFed { name: name.clone(), inputs: inputs() }),
        None => Ok(feeds),
    }
}

#[cfg(test)]
mod tests {
    use poda_formats::{DataType, Dim};

    use super::*;

    #[test]
    fn arrays_find_their_inputs() {
        let folder = tempfile::tempdir().unwrap();
        let save = |name: &str, arrays: &[&str]| {
            let array = |name: &&str| ((*name).to_owned(), Tensor::from_slice(&[1], &[1.0_f32]));
            let path = folder.path().join(name);
            arrays::write_npz(&path, &arrays.iter().map(array).collect::<Vec<_>>()).unwrap();
            path
        };
        let (one, two) = (save("one.npz", &["a"]), save("two.npz", &["x", "z"]));
        let graph = |inputs: &[&str]| {
            let mut graph = Graph::default();
            for name in inputs {
                graph.add_input(*name, DataType::F32, vec![Dim::Fixed(1)]);
            }
            let weight = graph.add_weight("default", Tensor::zeros(DataType::F32, &[1]));
            graph.value_mut(weight).overridable = true;
            graph
        };
        let feed = |inputs: &[&str], files: &[(&str, &PathBuf)]| {
            let file = |&(name, path): &(&str, &PathBuf)| NamedFile {
                name: (!name.is_empty()).then(|| name.to_owned()),
                path: path.clone(),
            };
            let feeds = from_files(&graph(inputs), &files.iter().map(file).collect::<Vec<_>>());
            feeds.map(|feeds| feeds.into_iter().map(|(name, _)| name).collect::<Vec<_>>())
        };
        assert_eq!(feed(&[], &[]).unwrap(), [""; 0]);
        assert_eq!(feed(&["x"], &[("", &one)]).unwrap(), ["x"]);
        assert_eq!(feed(&["x", "z"], &[("", &two)]).unwrap(), ["x", "z"]);
        assert_eq!(feed(&["x", "y"], &[("x", &two), ("y", &one)]).unwrap(), ["x", "y"]);
        assert_eq!(feed(&["a"], &[("", &one), ("default", &one)]).unwrap(), ["a", "default"]);
        assert!(matches!(feed(&["x"], &[("", &two)]), Err(FeedsError::Unknown { name, .. }) if name == "z"));
        assert!(matches!(feed(&["x"], &[("w", &one)]), Err(FeedsError::NoSuchInput { .. })));
        assert!(matches!(feed(&["y"], &[("y", &two)]), Err(FeedsError::NotThere { .. })));
        assert!(matches!(feed(&["x", "y"], &[("x", &one), ("x", &one)]), Err(FeedsError::Twice { .. })));
        assert!(
            matches!(feed(&["x", "y"], &[("x", &one)]), Err(FeedsError::NotFed { name, .. }) if name == "y")
        );
    }

    #[test]
    fn files_parse() {
        assert_eq!("x=y.npy".parse::<NamedFile>().unwrap().name.as_deref(), Some("x"));
        assert_eq!("a/b.npz".parse::<NamedFile>().unwrap().name, None);
        assert!("x=".parse::<NamedFile>().is_err());
        assert!("".parse::<NamedFile>().is_err());
    }
}
