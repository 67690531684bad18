//! Unlabelled samples for the pruner, from files: an `.npz` or `.npy` file, a folder of such, or lines of JSON.
//!
//! Samples of one shape are run in batches; a tenth of all is kept aside, to judge by.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use poda_formats::{Graph, Tensor};
use poda_pruner::calibration::{Feeds, Samples, SamplesError};
use poda_pruner::report::Likeness;
use poda_runtime::{Model, Options};

use crate::arrays::{self, ArraysError};
use crate::dataset::{self, Dataset, DatasetError};
use crate::score::DistanceSum;

/// One sample of so many is kept aside.
const HELD_OUT: usize = 10;

/// Samples that a run takes at once, where the model leaves the batch open.
const BATCH: usize = 16;

/// Why samples cannot be taken from files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum CalibrationError {
    #[error(transparent)]
    Arrays(#[from] ArraysError),
    #[error("{path}: {problem}", path = path.display())]
    Io { path: PathBuf, problem: std::io::Error },
    #[error("{path}: no .npz and no .npy file in this folder", path = path.display())]
    NoFiles { path: PathBuf },
    #[cfg(feature = "cli")]
    #[error("{path}, line {line}: {problem}", path = path.display())]
    Line { path: PathBuf, line: usize, problem: crate::json_lines::LineError },
    #[error("{path}: {problem}", path = path.display())]
    Fit { path: PathBuf, problem: Box<DatasetError> },
}

/// Samples from files.
#[derive(Debug)]
pub struct Calibration {
    /// Where they come from.
    path: PathBuf,
    /// Of one shape each.
    sets: Vec<Dataset>,
}

impl Calibration {
    /// For the inputs of `graph`, from an `.npz` or `.npy` file, a folder of these, or, with the feature `cli`, a file of lines of JSON: one sample each,
    /// an object with an array for each input.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn open(path: impl AsRef<Path>, graph: &Graph) -> Result<Self, CalibrationError> {
        let path = path.as_ref();
        let io = |problem| CalibrationError::Io { path: path.to_owned(), problem };
        let mut sets = Vec::new();
        let mut add = |set: Dataset| {
            let left = sets.iter_mut().try_fold(set, |set, known: &mut Dataset| known.append(set).ok_or(()));
            sets.extend(left.ok());
        };
        let is = |path: &Path, wanted: &[&str]| {
            let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
            wanted.iter().any(|wanted| extension.eq_ignore_ascii_case(wanted))
        };
        if fs::metadata(path).map_err(io)?.is_dir() {
            let entries = fs::read_dir(path).map_err(io)?.collect::<Result<Vec<_>, _>>().map_err(io)?;
            let mut files: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
            files.retain(|file| is(file, &["npz", "npy"]));
            files.sort();
            if files.is_empty() {
                return Err(CalibrationError::NoFiles { path: path.to_owned() });
            }
            for file in files {
                add(Dataset::new(with_samples(arrays::read(file)?, graph)));
            }
        } else if is(path, &["jsonl", "ndjson", "json"]) {
            #[cfg(feature = "cli")]
            for (line, sample) in crate::json_lines::read(path, graph).map_err(io)?.into_iter().enumerate() {
                let failed =
                    |problem| CalibrationError::Line { path: path.to_owned(), line: line + 1, problem };
                add(Dataset::new(sample.map_err(failed)?));
            }
        } else {
            add(Dataset::new(arrays::read(path)?));
        }
        Ok(Self { path: path.to_owned(), sets })
    }

    /// From arrays in memory.
    pub fn new(set: Dataset) -> Self {
        Self { path: PathBuf::new(), sets: vec![set] }
    }

    /// The samples as sets of one shape each, with their labels where they have any.
    pub fn sets(&self) -> &[Dataset] {
        &self.sets
    }

    /// The samples as batches for a model.
    ///
    /// # Errors
    /// When arrays do not fit its inputs.
    pub fn bind<'a>(&'a self, graph: &'a Graph) -> Result<Batches<'a>, CalibrationError> {
        let failed = |problem| CalibrationError::Fit { path: self.path.clone(), problem: Box::new(problem) };
        let mut sets = Vec::new();
        for set in &self.sets {
            sets.push(set.bind(graph).map_err(failed)?);
        }
        let total: usize = sets.iter().map(dataset::Samples::len).sum();
        let every = HELD_OUT.min(total);
        let (mut batches, mut number) = (Vec::new(), 0);
        for (index, set) in sets.iter().enumerate() {
            let size = set.batch_size(BATCH).map_err(failed)?;
            let (mut fitted, mut held_out) = (Vec::new(), Vec::new());
            for sample in 0..set.len() {
                number += 1;
                let aside = every > 1 && number % every == 0;
                if aside { &mut held_out } else { &mut fitted }.push(sample);
            }
            for (samples, held_out) in [(fitted, false), (held_out, true)] {
                let chunks = samples.chunks(size).map(<[usize]>::to_vec);
                batches.extend(chunks.map(|samples| Batch { set: index, samples, held_out }));
            }
        }
        Ok(Batches { sets, batches })
    }
}

/// The array of a file of a folder, which may be one sample of a model with one input: with an axis before its own, then.
fn with_samples(mut arrays: BTreeMap<String, Tensor>, graph: &Graph) -> BTreeMap<String, Tensor> {
    if let ([id], [_]) = (&graph.inputs[..], &arrays.keys().collect::<Vec<_>>()[..]) {
        let rank = graph.value(*id).shape.as_ref().map(Vec::len);
        for array in arrays.values_mut().filter(|array| rank == Some(array.rank() + 1)) {
            let shape = [&[1], array.shape()].concat();
            *array = array.reshaped(shape).unwrap_or_else(|_| array.clone());
        }
    }
    arrays
}

/// Samples that fit a model.
#[derive(Debug)]
pub struct Batches<'a> {
    sets: Vec<dataset::Samples<'a>>,
    batches: Vec<Batch>,
}

#[derive(Debug)]
struct Batch {
    set: usize,
    samples: Vec<usize>,
    held_out: bool,
}

impl Samples for Batches<'_> {
    fn batches(&self) -> usize {
        self.batches.len()
    }

    fn feeds(&self, batch: usize) -> Result<Feeds, SamplesError> {
        let Batch { set, samples, .. } = &self.batches[batch];
        Ok(self.sets[*set].feeds_of(samples)?)
    }

    fn held_out(&self, batch: usize) -> bool {
        self.batches[batch].held_out
    }
}

/// Samples that are compared at most.
const COMPARED: usize = 128;

impl Batches<'_> {
    /// Runs both models on the samples kept aside, or on all where there are none such, and compares their float outputs.
    ///
    /// # Errors
    /// When one does not run.
    pub fn likeness(&self, dense: &Graph, pruned: &Graph) -> Result<Likeness, SamplesError> {
        let options = || Options { tune: false, ..Options::default() };
        let prepare =
            |graph: &Graph| Ok::<_, SamplesError>(Model::from_graph(graph.clone())?.prepare(options())?);
        let models = [prepare(dense)?, prepare(pruned)?];
        let held_out = self.batches.iter().any(|batch| batch.held_out);
        let batches = self.batches.iter().filter(|batch| batch.held_out == held_out);
        let samples: Vec<(usize, usize)> =
            batches.flat_map(|batch| batch.samples.iter().map(|&sample| (batch.set, sample))).collect();
        let step = samples.len().div_ceil(COMPARED).max(1);
        let mut cosines = Vec::new();
        for &(set, sample) in samples.iter().step_by(step) {
            let set = &self.sets[set];
            let size = set.batch_size(1)?;
            let run = |model| set.outputs(model, size, sample..sample + 1);
            let [expected, found] = [run(&models[0])?, run(&models[1])?];
            let mut sum = DistanceSum::default();
            for ((_, expected), (_, found)) in expected.iter().zip(&found) {
                if expected.dtype().is_float() {
                    sum.add(found, expected, 1)?;
                }
            }
            let distance = sum.finish();
            cosines.push(if distance.elements > 0 { distance.cosine } else { 1.0 });
        }
        let mean = cosines.iter().sum::<f64>() / cosines.len().max(1) as f64;
        let worst = cosines.iter().copied().fold(1.0, f64::min);
        Ok(Likeness { samples: cosines.len(), held_out, mean, worst })
    }
}

#[cfg(test)]
mod tests {
    use poda_formats::{DataType, Dim, Op};

    use super::*;

    fn graph() -> Graph {
        let mut graph = Graph::default();
        let x = graph.add_input(
            "x",
            DataType::F32,
            vec![Dim::Symbol("batch".into()), Dim::Symbol("n".into()), Dim::Fixed(2)],
        );
        let w = graph.add_weight("w", Tensor::from_slice(&[2, 1], &[1.0_f32, 2.0]));
        let y = graph.add_node(Op::MatMul, &[x, w], "y");
        graph.outputs.push(y);
        graph
    }

    fn set(samples: usize, length: usize) -> BTreeMap<String, Tensor> {
        let values: Vec<f32> = (0..samples * length * 2).map(|i| i as f32).collect();
        BTreeMap::from([("x".to_owned(), Tensor::from_slice(&[samples, length, 2], &values))])
    }

    #[test]
    fn files_of_a_folder_join_where_shapes_allow_and_a_tenth_is_kept_aside() {
        let graph = graph();
        let folder = tempfile::tempdir().unwrap();
        for (name, samples, length) in [("a.npz", 12, 3), ("b.npz", 5, 4), ("c.npz", 8, 3)] {
            let arrays: Vec<_> = set(samples, length).into_iter().collect();
            arrays::write_npz(folder.path().join(name), &arrays).unwrap();
        }
        fs::write(folder.path().join("notes.txt"), "no array").unwrap();
        let calibration = Calibration::open(folder.path(), &graph).unwrap();
        assert_eq!(calibration.sets.len(), 2);
        let batches = calibration.bind(&graph).unwrap();
        let count = |held_out| {
            let of = batches.batches.iter().filter(|batch| batch.held_out == held_out);
            of.map(|batch| batch.samples.len()).sum::<usize>()
        };
        assert_eq!((count(false), count(true)), (23, 2));
        let shapes: Vec<_> =
            (0..batches.batches()).map(|b| batches.feeds(b).unwrap()[0].1.shape().to_vec()).collect();
        assert_eq!(shapes, [vec![16, 3, 2], vec![2, 3, 2], vec![2, 3, 2], vec![5, 4, 2]]);
        let same = batches.likeness(&graph, &graph).unwrap();
        assert_eq!((same.samples, same.held_out), (2, true));
        assert!((same.worst - 1.0).abs() < 1e-6 && same.mean >= same.worst);
        let empty = tempfile::tempdir().unwrap();
        assert!(matches!(Calibration::open(empty.path(), &graph), Err(CalibrationError::NoFiles { .. })));
    }
}
