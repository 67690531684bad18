//! Masks as files: what a pruning left, under the names of the model's own parameters, for whoever trains it elsewhere; and a
//! pruning by such masks, wherever they come from.
//!
//! A safetensors file holds for a weight `NAME` the tensor `NAME` of its shape before pruning, 0 where it went; PyTorch's
//! `NAME_mask` is read as well. Where whole units went, `NAME.kept.D` holds the indices along dimension D that stay, in order.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use poda_formats::atomic::{self, AtomicFile};
use poda_formats::safetensors::{self, SafeTensorsError};
use poda_formats::{Boolean, DataType, Graph, Tensor, ValueId};
use serde::{Deserialize, Serialize};

use crate::criterion::float_values;
use crate::dependency::{DependencyGraph, Removal};
use crate::quantised;
use crate::recipe::Recipe;
use crate::unstructured::prunable_weights;

/// What stays of a dimension of a weight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Name of the weight.
    pub weight: String,
    /// Its dimension.
    pub dim: usize,
    /// Its size before.
    pub of: usize,
    /// What stays, in order.
    pub indices: Vec<usize>,
}

/// Why masks cannot be read, written or followed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum MasksError {
    #[error("{path}: {error}", path = path.display())]
    Read { path: PathBuf, error: SafeTensorsError },
    #[error("{path}: {error}", path = path.display())]
    Write { path: PathBuf, error: io::Error },
    #[error("there is no mask in {path}", path = path.display())]
    Empty { path: PathBuf },
    #[error("mask {name:?}: the model has no weight of this name{hint}")]
    Unknown { name: String, hint: String },
    #[error("mask {name:?} is {found:?}, the weight {expected:?}")]
    Shape { name: String, found: Vec<usize>, expected: Vec<usize> },
    #[error("mask {name:?} holds {found}; expected booleans, integers or f32, 0 where a weight goes")]
    Type { name: String, found: DataType },
    #[error("{name:?} lists what stays: expected increasing indices below {size}, at least one")]
    Indices { name: String, size: usize },
    #[error(
        "units of dimension {dim} of {weight:?} cannot go as the mask says: others hang on them, or must stay"
    )]
    Units { weight: String, dim: usize },
    #[error(
        "mask {name:?} says something else than the units that go: give the .kept. lists in a file of their own, then the masks"
    )]
    Mixed { name: String },
    #[error("weight {weight:?} is not float")]
    NotFloat { weight: String },
}

/// Masks of a model's weights.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Masks {
    /// By weight: its shape before pruning, and what stays.
    weights: BTreeMap<String, (Vec<usize>, Vec<bool>)>,
    kept: Vec<Kept>,
}

/// What stays of each weight that a removal makes smaller.
pub fn kept(graph: &Graph, dependencies: &DependencyGraph, removal: &Removal) -> Vec<Kept> {
    let mut all = Vec::new();
    for (index, value) in graph.values.iter().enumerate().filter(|(_, value)| value.weight.is_some()) {
        let Some(layout) = dependencies.layout(ValueId(index as u32)) else { continue };
        for (dim, &axis) in layout.axes.iter().enumerate() {
            let Some(kept) = dependencies.kept(axis, removal) else { continue };
            let indices = (0..kept.len()).filter(|&at| kept[at]).collect();
            all.push(Kept { weight: value.name.clone(), dim, of: kept.len(), indices });
        }
    }
    all
}

/// What stays of two removals, one after the other: the second counts among what the first left.
pub fn then(first: Vec<Kept>, second: Vec<Kept>) -> Vec<Kept> {
    let mut all = first;
    for next in second {
        match all.iter_mut().find(|kept| (&kept.weight, kept.dim) == (&next.weight, next.dim)) {
            Some(kept) => {
                kept.indices = next.indices.iter().filter_map(|&at| kept.indices.get(at).copied()).collect();
            }
            None => all.push(next),
        }
    }
    all
}

impl Masks {
    /// What `pruned` has left of `dense`, whose removed units are known: masks of the weights of products, and of all that
    /// lost units.
    ///
    /// # Errors
    /// When a weight cannot be read.
    pub fn between(dense: &Graph, pruned: &Graph, kept: &[Kept]) -> Result<Self, MasksError> {
        let (dense, pruned) = (&quantised::separate(dense).0, &quantised::separate(pruned).0);
        let mut names: Vec<&str> = prunable_weights(dense, &Recipe::default())
            .into_iter()
            .map(|id| dense.value(id).name.as_str())
            .chain(kept.iter().map(|kept| kept.weight.as_str()))
            .collect();
        names.sort_unstable();
        names.dedup();
        let mut weights = BTreeMap::new();
        for name in names {
            let weight = |graph: &Graph| graph.find(name).and_then(|id| graph.weight(id).cloned());
            // A weight that nothing uses any more is gone.
            let (Some(before), Some(after)) = (weight(dense), weight(pruned)) else { continue };
            let after = after.to_dense().ok().filter(|tensor| tensor.dtype().is_float());
            let Some(values) = after.as_ref().and_then(float_values) else {
                return Err(MasksError::NotFloat { weight: name.to_owned() });
            };
            let shape = before.shape().to_vec();
            let matrix = shape.len() > 1;
            let mut stays = left_by_units(kept, name, &shape);
            if stays.iter().filter(|&&stays| stays).count() != values.len() {
                let found = after.map(|tensor| tensor.shape().to_vec()).unwrap_or_default();
                return Err(MasksError::Shape { name: name.to_owned(), found, expected: shape });
            }
            let dense = before.to_dense().ok().as_ref().and_then(float_values).unwrap_or_default();
            let left = stays.iter_mut().zip(&dense).filter(|(stays, _)| **stays).zip(&values);
            for ((stays, &dense), &value) in left {
                // Zeros of vectors, such as biases, mean nothing; nor do those that were there when units went.
                *stays = value != 0.0 || !matrix || !kept.is_empty() && dense == 0.0;
            }
            weights.insert(name.to_owned(), (shape, stays));
        }
        Ok(Self { weights, kept: kept.to_vec() })
    }

    /// Whether whole units go.
    pub fn removes_units(&self) -> bool {
        !self.kept.is_empty()
    }

    /// From a file; names and shapes are those of `graph`.
    ///
    /// # Errors
    /// When it is no safetensors file, or a name or shape is not the model's.
    pub fn read(path: &Path, graph: &Graph) -> Result<Self, MasksError> {
        let failed = |error| MasksError::Read { path: path.to_owned(), error };
        let file = safetensors::read(path).map_err(failed)?;
        let mut masks = Self::default();
        let mut names: Vec<&str> = file.names().collect();
        names.sort_unstable();
        for &name in &names {
            let tensor = file.tensor(name).map_err(failed)?;
            let kept = name.rsplit_once(".kept.").and_then(|(weight, dim)| Some((weight, dim.parse().ok()?)));
            match kept.filter(|_| graph.find(name).is_none()) {
                Some((weight, dim)) => masks.kept.push(kept_of(graph, name, weight, dim, &tensor)?),
                None => {
                    let (weight, mask) = mask_of(graph, name, &tensor)?;
                    masks.weights.insert(weight, mask);
                }
            }
        }
        if names.is_empty() {
            return Err(MasksError::Empty { path: path.to_owned() });
        }
        for (name, (shape, stays)) in masks.weights.iter().filter(|_| !masks.kept.is_empty()) {
            if *stays != left_by_units(&masks.kept, name, shape) {
                return Err(MasksError::Mixed { name: name.clone() });
            }
        }
        Ok(masks)
    }

    /// Writes a file, whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), MasksError> {
        let mut tensors: Vec<(String, Tensor)> = Vec::new();
        for (name, (shape, stays)) in &self.weights {
            let stays: Vec<Boolean> = stays.iter().map(|&stays| Boolean(u8::from(stays))).collect();
            tensors.push((name.clone(), Tensor::from_slice(shape, &stays)));
        }
        for Kept { weight, dim, indices, .. } in &self.kept {
            let indices: Vec<i64> = indices.iter().map(|&at| at as i64).collect();
            tensors.push((format!("{weight}.kept.{dim}"), Tensor::from_slice(&[indices.len()], &indices)));
        }
        let write = || -> io::Result<()> {
            let mut file = AtomicFile::create_in(atomic::folder(path))?;
            safetensors::write_packed(&mut file, &tensors)?;
            file.commit(path)
        };
        write().map_err(|error| MasksError::Write { path: path.to_owned(), error })
    }

    /// What stays of a weight, in the order of its tensor; `None` where all of it does.
    pub(crate) fn stays(&self, weight: &str) -> Option<&[bool]> {
        self.weights.get(weight).map(|(_, stays)| stays.as_slice())
    }

    /// The weights of `graph` that have a mask.
    pub(crate) fn of(&self, graph: &Graph) -> Result<Vec<ValueId>, MasksError> {
        self.weights.iter().map(|(name, (shape, _))| find(graph, name, shape)).collect()
    }

    /// The units that go.
    pub(crate) fn removal(
        &self,
        graph: &Graph,
        dependencies: &DependencyGraph,
    ) -> Result<Removal, MasksError> {
        let mut removal = Removal::none(dependencies);
        let axis = |kept: &Kept| {
            let layout = dependencies.layout(graph.find(&kept.weight)?)?;
            layout.axes.get(kept.dim).copied()
        };
        let unfit = |kept: &Kept| MasksError::Units { weight: kept.weight.clone(), dim: kept.dim };
        for kept in &self.kept {
            let axis = axis(kept).ok_or_else(|| unfit(kept))?;
            let mut stays = vec![false; dependencies.unit_count()];
            let mut seen = stays.clone();
            dependencies.for_each_unit(axis, &mut |index, unit| {
                seen[unit] = true;
                stays[unit] |= kept.indices.binary_search(&index).is_ok();
            });
            (0..seen.len()).filter(|&unit| seen[unit] && !stays[unit]).for_each(|unit| removal.remove(unit));
        }
        for kept in &self.kept {
            let axis = axis(kept).ok_or_else(|| unfit(kept))?;
            let found = dependencies.kept(axis, &removal).unwrap_or_else(|| vec![true; kept.of]);
            if (0..found.len()).any(|at| found[at] != kept.indices.binary_search(&at).is_ok()) {
                return Err(unfit(kept));
            }
        }
        Ok(removal)
    }
}

/// What units that go leave of a weight.
fn left_by_units(kept: &[Kept], weight: &str, shape: &[usize]) -> Vec<bool> {
    let mut stays = vec![true; shape.iter().product()];
    for Kept { dim, indices, .. } in kept.iter().filter(|kept| kept.weight == weight) {
        let inner: usize = shape[dim + 1..].iter().product();
        let there: Vec<bool> = (0..shape[*dim]).map(|at| indices.binary_search(&at).is_ok()).collect();
        stays.iter_mut().enumerate().for_each(|(at, stays)| *stays &= there[at / inner % shape[*dim]]);
    }
    stays
}

fn find(graph: &Graph, name: &str, shape: &[usize]) -> Result<ValueId, MasksError> {
    let weight = graph.find(name).and_then(|id| Some((id, graph.weight(id)?)));
    let Some((id, weight)) = weight else {
        let known =
            graph.values.iter().filter(|value| value.weight.is_some()).map(|value| value.name.as_str());
        let last = name.rsplit('.').nth(1).unwrap_or(name);
        let near = known.into_iter().find(|known| known.contains(last) || name.contains(known));
        let hint = near.map_or_else(String::new, |near| format!("; there is {near:?}"));
        return Err(MasksError::Unknown { name: name.to_owned(), hint });
    };
    if weight.shape() != shape {
        let (found, expected) = (shape.to_vec(), weight.shape().to_vec());
        return Err(MasksError::Shape { name: name.to_owned(), found, expected });
    }
    Ok(id)
}

/// A mask, under the name of its weight.
fn mask_of(
    graph: &Graph,
    name: &str,
    tensor: &Tensor,
) -> Result<(String, (Vec<usize>, Vec<bool>)), MasksError> {
    let torch =
        name.strip_suffix("_mask").filter(|base| graph.find(name).is_none() && graph.find(base).is_some());
    let weight = torch.unwrap_or(name);
    find(graph, weight, tensor.shape())?;
    let stays = match tensor.dtype() {
        DataType::F64 | DataType::F16 | DataType::BF16 => {
            return Err(MasksError::Type { name: name.to_owned(), found: tensor.dtype() });
        }
        // A zero is all bytes zero, but for −0.
        DataType::F32 => float_values(tensor).unwrap_or_default().iter().map(|&v| v != 0.0).collect(),
        dtype => {
            tensor.bytes().chunks_exact(dtype.size()).map(|bytes| bytes.iter().any(|&b| b != 0)).collect()
        }
    };
    Ok((weight.to_owned(), (tensor.shape().to_vec(), stays)))
}

/// Indices that stay.
fn kept_of(graph: &Graph, name: &str, weight: &str, dim: usize, tensor: &Tensor) -> Result<Kept, MasksError> {
    let shape = graph.find(weight).and_then(|id| graph.weight(id)).map(|weight| weight.shape().to_vec());
    let shape = shape.ok_or_else(|| MasksError::Unknown { name: name.to_owned(), hint: String::new() })?;
    let size = shape.get(dim).copied().unwrap_or(0);
    let listed: Option<Vec<usize>> = match tensor.dtype() {
        DataType::I64 => {
            tensor.as_slice::<i64>().ok().map(|list| list.iter().map(|&at| at as usize).collect())
        }
        DataType::I32 => {
            tensor.as_slice::<i32>().ok().map(|list| list.iter().map(|&at| at as usize).collect())
        }
        _ => None,
    };
    let rises = |list: &Vec<usize>| list.windows(2).all(|pair| pair[0] < pair[1]);
    let fits = |list: &Vec<usize>| !list.is_empty() && rises(list) && list.iter().all(|&at| at < size);
    let indices = listed.filter(fits).ok_or_else(|| MasksError::Indices { name: name.to_owned(), size })?;
    Ok(Kept { weight: weight.to_owned(), dim, of: size, indices })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removals_one_after_the_other_are_one() {
        let kept = |weight: &str, of: usize, indices: &[usize]| Kept {
            weight: weight.to_owned(),
            dim: 0,
            of,
            indices: indices.to_vec(),
        };
        let first = vec![kept("a", 6, &[0, 2, 3, 5]), kept("b", 2, &[1])];
        let both = then(first.clone(), vec![kept("a", 4, &[1, 3]), kept("c", 3, &[0, 2])]);
        assert_eq!(both, [kept("a", 6, &[2, 5]), kept("b", 2, &[1]), kept("c", 3, &[0, 2])]);
        assert_eq!(then(first.clone(), Vec::new()), first);
        assert_eq!(left_by_units(&both, "a", &[6, 2]).iter().filter(|&&stays| stays).count(), 4);
    }
}
