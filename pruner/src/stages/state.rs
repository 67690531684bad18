//! The state of a run in a folder: the model after the last round, and what was done.
//!
//! A round's model is written whole under a name of its own, then `state.toml`, which names it, takes the place of the old one:
//! whatever kills the process leaves the state after one round or the next. The run goes on from the file that it has written, so
//! that one that was interrupted comes to the same bits as one that was not.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use poda_formats::atomic::AtomicFile;
use poda_formats::{Graph, OpenError, WriteError, WriteOptions};
use serde::{Deserialize, Serialize};

use super::{Round, Stages};
use crate::finetune::Checkpoint;
use crate::report::Report;

const STATE: &str = "state.toml";

/// A folder for the state of one run.
#[derive(Debug)]
pub struct StateFolder {
    path: PathBuf,
    /// What tells this run from others, beside the stages.
    identity: String,
    every: Duration,
}

/// Why a state cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum StateError {
    #[error("{path}: {error}", path = path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("{path} is damaged: {what}; remove the folder to begin anew", path = path.display())]
    Damaged { path: PathBuf, what: String },
    #[error(
        "{path} is of another run (with another {what}): remove it, or give the model, data and recipe of that run",
        path = path.display()
    )]
    OtherRun { path: PathBuf, what: &'static str },
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// What a run has come to.
#[derive(Debug)]
pub(super) struct Saved {
    /// The next stage and round, counted from 0; the round may be one past the last.
    pub(super) stage: usize,
    pub(super) round: usize,
    pub(super) graph: Graph,
    pub(super) rounds: Vec<Round>,
    /// Of the last pruning that was kept.
    pub(super) last: Option<Report>,
    pub(super) notes: Vec<String>,
}

impl Saved {
    pub(super) fn new(graph: Graph) -> Self {
        Self { stage: 0, round: 0, graph, rounds: Vec::new(), last: None, notes: Vec::new() }
    }
}

#[derive(Serialize, Deserialize)]
struct Written {
    identity: String,
    stages: String,
    stage: usize,
    round: usize,
    model: String,
    notes: Vec<String>,
    rounds: Vec<Round>,
    last: Option<Report>,
}

impl StateFolder {
    /// In the folder `path`, which is made when there is something to write. `identity` tells runs on other models or data
    /// from this one. While a model is trained, its state is written as often as `every` has passed.
    pub fn new(path: impl Into<PathBuf>, identity: impl Into<String>, every: Duration) -> Self {
        Self { path: path.into(), identity: identity.into(), every }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn io(&self, error: io::Error) -> StateError {
        StateError::Io { path: self.path.clone(), error }
    }

    /// Goes on from what the folder holds, if it holds anything.
    pub(super) fn load(&self, stages: &Stages) -> Result<Option<Saved>, StateError> {
        fs::create_dir_all(&self.path).map_err(|error| self.io(error))?;
        let file = self.path.join(STATE);
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StateError::Io { path: file, error }),
        };
        let damaged = |error: toml::de::Error| StateError::Damaged {
            path: file.clone(),
            what: error.message().to_owned(),
        };
        let written: Written = toml::from_str(&text).map_err(damaged)?;
        let other = |what| Err(StateError::OtherRun { path: self.path.clone(), what });
        if written.identity != self.identity {
            return other("model or data");
        }
        if written.stages != stages.to_toml() {
            return other("recipe");
        }
        let Written { stage, round, notes, rounds, last, model, .. } = written;
        let graph = poda_formats::open(self.path.join(model))?;
        Ok(Some(Saved { stage, round, graph, rounds, last, notes }))
    }

    /// Writes the state after a round, and goes on from the file.
    pub(super) fn save(&self, stages: &Stages, saved: &mut Saved) -> Result<(), StateError> {
        let number = saved.rounds.len();
        let model = format!("model-{number}.safetensors");
        let path = self.path.join(&model);
        poda_formats::write(&saved.graph, &path, &WriteOptions::default())?;
        saved.graph = poda_formats::open(&path)?;
        let written = Written {
            identity: self.identity.clone(),
            stages: stages.to_toml(),
            stage: saved.stage,
            round: saved.round,
            model,
            notes: saved.notes.clone(),
            rounds: saved.rounds.clone(),
            last: saved.last.clone(),
        };
        let text = toml::to_string(&written).map_err(|error| self.io(io::Error::other(error)))?;
        let write = || -> io::Result<()> {
            let mut file = AtomicFile::create_in(&self.path)?;
            file.write_all(text.as_bytes())?;
            file.commit(&self.path.join(STATE))
        };
        write().map_err(|error| self.io(error))?;
        // What the new state does not name.
        for old in
            [self.checkpoint_path(number - 1), self.path.join(format!("model-{}.safetensors", number - 1))]
        {
            match fs::remove_file(old) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(self.io(error)),
                _ => {}
            }
        }
        Ok(())
    }

    fn checkpoint_path(&self, rounds: usize) -> PathBuf {
        self.path.join(format!("training-{rounds}.checkpoint"))
    }

    /// Where training after so many rounds keeps its state.
    pub(super) fn checkpoint(&self, rounds: usize) -> Checkpoint {
        Checkpoint::new(self.checkpoint_path(rounds), self.every)
    }

    /// Removes the folder: the run is over.
    ///
    /// # Errors
    /// When it is there and cannot be removed.
    pub fn remove(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
