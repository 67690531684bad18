//! The state of a run on disk: one safetensors file, written beside its place and renamed, so that whatever kills the process
//! leaves the old one or the new one whole.
//!
//! Tensors: `weight/NAME`, `moment{i}/NAME`, `best/NAME`, `statistics/{i}`. In the metadata the counters, and what tells one
//! run from another: options, number of samples, and names, shapes and elements at the start.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use poda_formats::Tensor;
use poda_formats::atomic::{self, AtomicFile};
use poda_formats::safetensors;
use serde::{Deserialize, Serialize};

use super::state::State;
use super::{Epoch, FineTuneError, Options};
use crate::fingerprint::Fingerprint;

/// Where a run keeps its state, and how often it writes it.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    every: Duration,
    last: Cell<Instant>,
    /// What tells this run from others; known once it has started.
    run: Cell<Fingerprint>,
}

const KEY: &str = "poda.finetune";

#[derive(Serialize, Deserialize)]
struct Counters {
    run: String,
    samples: usize,
    options: Options,
    step: u64,
    loss: f64,
    epochs: Vec<Epoch>,
    before: Option<f64>,
    best_score: Option<f64>,
    best_epoch: u64,
    has_best: bool,
    statistics: usize,
}

impl Checkpoint {
    /// In the file `path`, written after every epoch, and when `every` has passed.
    pub fn new(path: impl Into<PathBuf>, every: Duration) -> Self {
        Self { path: path.into(), every, last: Cell::new(Instant::now()), run: Cell::default() }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn is_due(&self) -> bool {
        self.last.get().elapsed() >= self.every
    }

    /// Goes on from what the file holds; gives the step, `None` when there is no file.
    pub(super) fn load(
        &self,
        state: &mut State,
        options: &Options,
        samples: usize,
    ) -> Result<Option<u64>, FineTuneError> {
        self.run.set(fingerprint(state));
        if !self.path.exists() {
            return Ok(None);
        }
        let path = || self.path.clone();
        let file =
            safetensors::read(&self.path).map_err(|error| FineTuneError::Read { path: path(), error })?;
        let damaged = |what: &str| FineTuneError::Damaged { path: path(), what: what.to_owned() };
        let text = file.metadata().get(KEY).ok_or_else(|| damaged("it is no state of a fine-tuning"))?;
        let counters: Counters = toml::from_str(text).map_err(|error| damaged(&error.to_string()))?;
        let other = |what| Err(FineTuneError::OtherRun { path: path(), what });
        // More or fewer threads give the same bits.
        let ours = Options { threads: counters.options.threads, ..options.clone() };
        if counters.run != self.run.get().to_string() {
            return other("of another model");
        }
        if counters.samples != samples {
            return other("with other samples");
        }
        if counters.options != ours {
            return other("with other options");
        }
        let read = |name: String, into: &mut Vec<f32>| -> Result<(), FineTuneError> {
            let tensor = file.tensor(&name).map_err(|error| FineTuneError::Read { path: path(), error })?;
            let values = tensor.as_slice::<f32>().ok().filter(|values| values.len() == into.len());
            into.copy_from_slice(values.ok_or_else(|| damaged(&format!("{name} has another size")))?);
            Ok(())
        };
        let mut best = counters.has_best.then(|| state.weights.clone());
        for (i, name) in state.names.iter().enumerate() {
            read(format!("weight/{name}"), &mut state.weights[i])?;
            for (k, moment) in state.moments[i].iter_mut().enumerate() {
                read(format!("moment{k}/{name}"), moment)?;
            }
            if let Some(best) = &mut best {
                read(format!("best/{name}"), &mut best[i])?;
            }
        }
        let statistic = |i: usize| {
            let tensor = file.tensor(&format!("statistics/{i}"));
            // A copy: the file is about to be replaced.
            tensor.map(|t| t.view().to_tensor()).map_err(|error| FineTuneError::Read { path: path(), error })
        };
        state.statistics = (0..counters.statistics).map(statistic).collect::<Result<_, _>>()?;
        state.best = best;
        let Counters { step, loss, epochs, before, best_score, best_epoch, .. } = counters;
        (state.step, state.loss, state.epochs, state.before) = (step, loss, epochs, before);
        (state.best_score, state.best_epoch) = (best_score, best_epoch);
        Ok(Some(step))
    }

    pub(super) fn save(&self, state: &State, options: &Options, samples: usize) -> Result<(), FineTuneError> {
        let counters = Counters {
            run: self.run.get().to_string(),
            samples,
            options: options.clone(),
            step: state.step,
            loss: state.loss,
            epochs: state.epochs.clone(),
            before: state.before,
            best_score: state.best_score,
            best_epoch: state.best_epoch,
            has_best: state.best.is_some(),
            statistics: state.statistics.len(),
        };
        let write = |error| FineTuneError::Write { path: self.path.clone(), error };
        let text = toml::to_string(&counters).map_err(|error| write(std::io::Error::other(error)))?;
        let mut tensors: Vec<(String, Tensor)> = Vec::new();
        for (i, name) in state.names.iter().enumerate() {
            let tensor = |values: &[f32]| Tensor::from_slice(&state.shapes[i], values);
            tensors.push((format!("weight/{name}"), tensor(&state.weights[i])));
            let moments = state.moments[i].iter().enumerate();
            tensors.extend(moments.map(|(k, moment)| (format!("moment{k}/{name}"), tensor(moment))));
            tensors.extend(state.best.iter().map(|best| (format!("best/{name}"), tensor(&best[i]))));
        }
        let statistics = state.statistics.iter().enumerate();
        tensors.extend(statistics.map(|(i, tensor)| (format!("statistics/{i}"), tensor.clone())));
        let metadata = BTreeMap::from([(KEY.to_owned(), text)]);
        let mut file = AtomicFile::create_in(atomic::folder(&self.path)).map_err(write)?;
        safetensors::write(&mut file, &metadata, &tensors).map_err(write)?;
        file.commit(&self.path).map_err(write)?;
        self.last.set(Instant::now());
        Ok(())
    }

    /// Removes the file: the run is over.
    ///
    /// # Errors
    /// When it is there and cannot be removed.
    pub fn remove(&self) -> std::io::Result<()> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Of names, shapes and elements at the start.
fn fingerprint(state: &State) -> Fingerprint {
    let mut found = Fingerprint::default();
    for (name, (shape, weights)) in state.names.iter().zip(state.shapes.iter().zip(&state.weights)) {
        found.add(format!("{name:?} {shape:?}").as_bytes());
        weights.iter().for_each(|weight| found.add(&weight.to_le_bytes()));
    }
    found
}
