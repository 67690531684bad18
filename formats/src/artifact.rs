//! The artifact: a whole model in one valid safetensors file.
//!
//! The metadata hold the graph as JSON (`poda.graph`), a list of sections that says which tensors form which weight
//! (`poda.weights`), and the version of both (`poda.version`). A dense weight is the tensor of its own name; a matrix is
//! NAME.values and what its [`Layout`] has beside them: NAME.indptr and NAME.indices (CSR, blocks), NAME.bitmap, or
//! NAME.positions (N:M). Values may be narrower than the f32 that they stand for: such a section says how far they are from
//! it, and int8 ones have NAME.scales as well. Tensors start on multiples of 64 bytes, and one that several weights share is
//! stored once.
//!
//! Beside a matrix there may be packings, which the runtime that made them reads in place of the matrix: arrays NAME.packed0.0 and so
//! on, and a label that is nothing to this code. Whoever knows nothing of them, an older version too, reads the matrix.
//!
//! Opening reads headers only: sizes, types and references are checked there, the arrays of matrices when they are used
//! (see [`MatrixWeight`]). A layout to come is a new `kind` of section, which older versions refuse by name.
//! Narrower values came with version 2, bitmaps with version 3, narrower values of blocks and N:M and matrices of several
//! parts with version 4; a file is written as the lowest version that it can be.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::atomic::{self, AtomicFile};
use crate::dtype::DataType;
use crate::graph::{Graph, GraphError, Value, ValueId};
use crate::op::MatrixForm;
use crate::safetensors::{self, SafeTensors, SafeTensorsError};
use crate::tensor::Tensor;
use crate::weight::{
    Layout, MatrixWeight, Packing, Pattern, RoundingError, SparseError, Values, ValuesError, Weight,
};

/// The newest version that this code reads and writes.
pub const VERSION: u32 = 4;
/// The first version with values narrower than the f32 that they stand for.
const ROUNDED_VERSION: u32 = 2;
/// The first version with bitmaps.
const BITMAP_VERSION: u32 = 3;
/// The first version in which values of patterns may be narrower.
const ROUNDED_PATTERN_VERSION: u32 = 4;
/// The first version with matrices that are not `[first axis, others]` of a tensor or its transpose.
const FORM_VERSION: u32 = 4;

const VERSION_KEY: &str = "poda.version";
const GRAPH_KEY: &str = "poda.graph";
const WEIGHTS_KEY: &str = "poda.weights";

/// A tensor, or a matrix of all its elements.
const DENSE: &str = "dense";
/// Whose values come before their places.
const NM: &str = "nm";

/// How a weight is made of tensors.
#[derive(Debug, Serialize, Deserialize)]
struct Section {
    /// Number of the graph in [`Graph::with_bodies`].
    graph: usize,
    value: ValueId,
    kind: String,
    /// In an order that `kind` defines.
    tensors: Vec<String>,
    /// Of a matrix, sparse or of narrower values: shape of the tensor that it stands for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shape: Option<Vec<usize>>,
    /// Whether the matrix is the transpose.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    transposed: bool,
    /// Parts, and rows and columns of each, where these are not the common ones (see [`MatrixForm`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    form: Option<[usize; 3]>,
    /// Of values that stand for f32: how far they are from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rounded: Option<RoundingError>,
    /// Rows and columns of a block, or N and M.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pattern: Option<[usize; 2]>,
    /// What is kept beside it; who knows nothing of it may pass it over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    packings: Vec<PackingSection>,
}

/// How a packing is made of tensors.
#[derive(Debug, Serialize, Deserialize)]
struct PackingSection {
    label: String,
    tensors: Vec<String>,
}

/// Why a file is not an artifact, or a graph cannot become one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum ArtifactError {
    #[error(transparent)]
    SafeTensors(#[from] SafeTensorsError),
    #[error(
        "a safetensors file without a graph: its metadata lack {key:?}, so it is not an artifact of Poda"
    )]
    MissingKey { key: &'static str },
    #[error("artifact version {found:?} is not among those this Poda reads (1 to {VERSION})")]
    Version { found: String },
    #[error("{key}: {error}")]
    Json { key: &'static str, error: serde_json::Error },
    #[error(transparent)]
    Graph(#[from] GraphError),
    #[error("a section is for value {value} of graph {graph}, which does not exist")]
    NoSuchValue { graph: usize, value: u32 },
    #[error("weight {weight:?} is given twice")]
    Twice { weight: String },
    #[error("weight {weight:?} is stored as {kind:?} over {tensors} tensors, which this Poda does not know")]
    Kind { weight: String, kind: String, tensors: usize },
    #[error("weight {weight:?}: {error}")]
    Csr { weight: String, error: SparseError },
    #[error("weight {weight:?}: {error}")]
    Values { weight: String, error: ValuesError },
    #[error("weight {weight:?} is declared as {declared}, stored as {stored}")]
    Declared { weight: String, declared: String, stored: String },
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Opens the artifact `path`. Its weights stay in the mapping.
///
/// # Errors
/// When the file is not an artifact, is damaged, or is too new.
pub fn read(path: impl AsRef<Path>) -> Result<Graph, ArtifactError> {
    parse(&safetensors::read(path)?)
}

/// The graph in an open safetensors file.
///
/// # Errors
/// As [`read`].
pub fn parse(file: &SafeTensors) -> Result<Graph, ArtifactError> {
    let text = |key| file.metadata().get(key).map(String::as_str).ok_or(ArtifactError::MissingKey { key });
    let version = text(VERSION_KEY)?;
    if !version.parse().is_ok_and(|v: u32| (1..=VERSION).contains(&v)) {
        return Err(ArtifactError::Version { found: version.to_owned() });
    }
    let json = |key| move |error| ArtifactError::Json { key, error };
    let mut graph: Graph = serde_json::from_str(text(GRAPH_KEY)?).map_err(json(GRAPH_KEY))?;
    let sections: Vec<Section> = serde_json::from_str(text(WEIGHTS_KEY)?).map_err(json(WEIGHTS_KEY))?;

    let mut by_graph: HashMap<usize, Vec<Section>> = HashMap::new();
    for section in sections {
        by_graph.entry(section.graph).or_default().push(section);
    }
    let mut tensors = HashMap::new();
    let mut number = 0;
    graph.visit_mut(&mut |graph| {
        let sections = by_graph.remove(&number).unwrap_or_default();
        number += 1;
        sections.into_iter().try_for_each(|section| attach(graph, section, file, &mut tensors))
    })?;
    if let Some(section) = by_graph.into_values().flatten().next() {
        return Err(ArtifactError::NoSuchValue { graph: section.graph, value: section.value.0 });
    }
    graph.normalize()?;
    Ok(graph)
}

/// Gives the value of `graph` that `section` is for its weight.
///
/// A tensor that does not lie aligned in the file is copied, so `tensors` keeps those taken so far: a small file could
/// ask for the same one very often.
fn attach(
    graph: &mut Graph,
    section: Section,
    file: &SafeTensors,
    tensors: &mut HashMap<String, Tensor>,
) -> Result<(), ArtifactError> {
    let Some(value) = graph.values.get_mut(section.value.index()) else {
        return Err(ArtifactError::NoSuchValue { graph: section.graph, value: section.value.0 });
    };
    let weight = value.name.clone();
    if value.weight.is_some() {
        return Err(ArtifactError::Twice { weight });
    }
    let mut named = |names: &[String]| -> Result<Vec<Tensor>, ArtifactError> {
        let tensor = |name: &String| match tensors.get(name) {
            Some(tensor) => Ok(tensor.clone()),
            None => Ok(tensors.entry(name.clone()).or_insert(file.tensor(name)?).clone()),
        };
        names.iter().map(tensor).collect()
    };
    let parts = named(&section.tensors)?;
    let stored: Weight = match (&section, &parts[..]) {
        (Section { kind, rounded: None, shape: None, .. }, [tensor]) if kind == DENSE => {
            tensor.clone().into()
        }
        _ => {
            let packing = |packing: &PackingSection| {
                Ok(Packing { label: packing.label.clone(), arrays: named(&packing.tensors)? })
            };
            let packings = section.packings.iter().map(packing).collect::<Result<_, ArtifactError>>()?;
            matrix(&weight, section, parts)?.with_packings(packings).into()
        }
    };
    check_declared(value, &stored)?;
    value.weight = Some(stored);
    Ok(())
}

/// The weight that is stored as a matrix.
fn matrix(weight: &str, section: Section, mut parts: Vec<Tensor>) -> Result<MatrixWeight, ArtifactError> {
    let csr_error = |error| ArtifactError::Csr { weight: weight.to_owned(), error };
    let unknown = |section: Section, tensors| ArtifactError::Kind {
        weight: weight.to_owned(),
        kind: section.kind,
        tensors,
    };
    let count = parts.len();
    // Places, values, scales (of rounded ones).
    let places = Layout::arrays_of(&section.kind)
        .filter(|&places| count == places + 1 || count == places + 2 && section.rounded.is_some());
    let Some(places) = places else { return Err(unknown(section, count)) };
    if section.kind == NM {
        parts.swap(0, 1);
    }
    let scales = parts.split_off(places + 1).pop();
    let tensor = parts.pop().expect("the values at least");
    let layout = Layout::from_parts(&section.kind, section.pattern, &parts).map_err(csr_error)?;
    let shape = section.shape.unwrap_or_default();
    let form = match section.form {
        Some([parts, rows, cols]) => Some(MatrixForm { parts, rows, cols, transposed: section.transposed }),
        None => MatrixForm::of(&shape, section.transposed),
    };
    // One that does not fit the shape is refused with the matrix.
    let none = MatrixForm { parts: 1, rows: 0, cols: 0, transposed: section.transposed };
    let form = form.filter(|form| form.fits(&shape)).unwrap_or(none);
    let [rows, _] = form.size();
    let values = match section.rounded {
        Some(error) => Values::rounded(tensor, scales, rows, error),
        None => Ok(tensor.into()),
    };
    let values = values.map_err(|error| ArtifactError::Values { weight: weight.to_owned(), error })?;
    MatrixWeight::from_arrays(shape, form, layout, values).map_err(csr_error)
}

/// What a value says of its type and shape must be what its weight has.
fn check_declared(value: &Value, stored: &Weight) -> Result<(), ArtifactError> {
    let same = value.dtype.is_none_or(|dtype| dtype == stored.dtype())
        && value.shape.as_ref().is_none_or(|declared| stored.fits(declared));
    if same {
        return Ok(());
    }
    Err(ArtifactError::Declared {
        weight: value.name.clone(),
        declared: format!(
            "{} {:?}",
            value.dtype.map_or("?", DataType::name),
            value.shape.as_deref().unwrap_or_default()
        ),
        stored: format!("{} {:?}", stored.dtype(), stored.shape()),
    })
}

/// Writes `graph` as an artifact.
///
/// # Errors
/// When the graph is not well formed, or `out` cannot be written to.
pub fn write(out: &mut impl Write, graph: &Graph) -> Result<(), ArtifactError> {
    let mut graph = graph.clone();
    graph.normalize()?;
    let mut tensors = Tensors::default();
    let mut sections = Vec::new();
    let mut version = 1;
    for (number, graph) in graph.with_bodies().into_iter().enumerate() {
        for (index, value) in graph.values.iter().enumerate() {
            let Some(weight) = &value.weight else { continue };
            check_declared(value, weight)?;
            let matrix = if let Weight::Matrix(matrix) = weight { Some(matrix) } else { None };
            let layout = matrix.map(MatrixWeight::layout);
            let mut arrays = match matrix {
                Some(matrix) => {
                    let error = |error| ArtifactError::Csr { weight: value.name.clone(), error };
                    matrix.matrix().map_err(error)?;
                    matrix.arrays()
                }
                None => weight.tensors().into_iter().map(|tensor| ("", tensor)).collect(),
            };
            let kind = layout.map_or(DENSE, Layout::kind);
            if kind == NM {
                arrays.swap(0, 1);
            }
            let parts = arrays.into_iter();
            let parts =
                parts.map(|(part, tensor)| tensors.add(&format!("{}{part}", value.name), tensor)).collect();
            let packings = weight.packings().iter().enumerate().map(|(i, packing)| {
                let arrays = packing.arrays.iter().enumerate();
                let arrays =
                    arrays.map(|(j, tensor)| tensors.add(&format!("{}.packed{i}.{j}", value.name), tensor));
                PackingSection { label: packing.label.clone(), tensors: arrays.collect() }
            });
            let packings = packings.collect();
            let (rounded, pattern) = (weight.rounding_error(), layout.and_then(Layout::pattern));
            let form = matrix.map(MatrixWeight::form);
            let transposed = form.is_some_and(|form| form.transposed);
            let uncommon = form.filter(|&form| MatrixForm::of(weight.shape(), transposed) != Some(form));
            version = version.max(if uncommon.is_some() { FORM_VERSION } else { 1 });
            version = version.max(match (layout, rounded) {
                (Some(Layout::Bitmap(_)), _) => BITMAP_VERSION,
                (Some(Layout::Block(_) | Layout::NofM(_)), Some(_)) => ROUNDED_PATTERN_VERSION,
                (_, Some(_)) => ROUNDED_VERSION,
                (_, None) => 1,
            });
            sections.push(Section {
                graph: number,
                value: ValueId(index as u32),
                kind: kind.to_owned(),
                tensors: parts,
                shape: matrix.map(|matrix| matrix.shape().to_vec()),
                transposed,
                form: uncommon.map(|form| [form.parts, form.rows, form.cols]),
                rounded,
                pattern: pattern.map(Pattern::numbers),
                packings,
            });
        }
    }
    let json = |key| move |error| ArtifactError::Json { key, error };
    let metadata = BTreeMap::from([
        ("format".to_owned(), "poda".to_owned()),
        (VERSION_KEY.to_owned(), version.to_string()),
        (GRAPH_KEY.to_owned(), serde_json::to_string(&graph).map_err(json(GRAPH_KEY))?),
        (WEIGHTS_KEY.to_owned(), serde_json::to_string(&sections).map_err(json(WEIGHTS_KEY))?),
    ]);
    Ok(safetensors::write(out, &metadata, &tensors.list)?)
}

/// Bytes of the artifact that [`write()`] would make of a graph.
///
/// # Errors
/// As [`write()`].
pub fn written_bytes(graph: &Graph) -> Result<u64, ArtifactError> {
    struct Count(u64);
    impl Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len() as u64;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    write(&mut count, graph)?;
    Ok(count.0)
}

/// Writes `graph` as the artifact `path`. An old file there stays as it is until the new one is whole and on disk.
///
/// # Errors
/// As [`write()`]; also when a folder or a device is at `path`.
pub fn save(graph: &Graph, path: impl AsRef<Path>) -> Result<(), ArtifactError> {
    let path = atomic::destination(path.as_ref())?;
    let mut file = AtomicFile::create_in(atomic::folder(&path))?;
    write(&mut file, graph)?;
    Ok(file.commit(&path)?)
}

/// The tensors of a file to be, each stored once and under a name of its own.
#[derive(Default)]
struct Tensors {
    list: Vec<(String, Tensor)>,
    names: HashSet<String>,
    /// By address, length, type and shape.
    stored: HashMap<(*const u8, usize, DataType, Vec<usize>), String>,
}

impl Tensors {
    /// The name under which `tensor` is stored: `name`, or one like it if that is taken.
    fn add(&mut self, name: &str, tensor: &Tensor) -> String {
        let bytes = tensor.bytes();
        let key = (bytes.as_ptr(), bytes.len(), tensor.dtype(), tensor.shape().to_vec());
        if let Some(name) = self.stored.get(&key) {
            return name.clone();
        }
        let mut unique = name.to_owned();
        let mut number = 0;
        while unique == safetensors::METADATA || !self.names.insert(unique.clone()) {
            number += 1;
            unique = format!("{name}~{number}");
        }
        self.list.push((unique.clone(), tensor.clone()));
        self.stored.insert(key, unique.clone());
        unique
    }
}

#[cfg(test)]
mod tests;
