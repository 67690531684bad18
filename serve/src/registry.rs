//! The models that a server has: loaded beside the one that serves, then put in its place, so that a failure changes nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use serde::Serialize;
use tracing::{error, info};

use crate::config::Config;
use crate::metrics::Metrics;
use crate::model::Served;
use crate::model::load::{self, LoadError};
use crate::refusal::Refusal;
use crate::repository::{self, Source, Stamp};

/// All models by name.
#[derive(Debug)]
pub(crate) struct Registry {
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    entries: RwLock<BTreeMap<String, Entry>>,
    /// One load at a time.
    loading: Mutex<()>,
}

#[derive(Debug, Default)]
struct Entry {
    served: Option<(Arc<Served>, Stamp)>,
    /// What is being loaded.
    loading: bool,
    /// Why the last load failed, or what was done since.
    reason: String,
}

/// A model as the repository's index tells of it.
#[derive(Debug, Serialize)]
pub(crate) struct IndexRow {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) state: &'static str,
    pub(crate) reason: String,
}

impl Registry {
    pub(crate) fn new(config: Arc<Config>, metrics: Arc<Metrics>) -> Self {
        Self { config, metrics, entries: RwLock::default(), loading: Mutex::default() }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<String, Entry>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes one entry; each change is a whole one.
    fn change<R>(&self, name: &str, f: impl FnOnce(&mut Entry) -> R) -> R {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        f(entries.entry(name.to_owned()).or_default())
    }

    /// The version of a model that serves. Whoever has it finishes with it, whatever comes after.
    pub(crate) fn get(&self, name: &str, version: Option<&str>) -> Result<Arc<Served>, Refusal> {
        let entries = self.read();
        let Some(entry) = entries.get(name) else {
            let known = match &entries.keys().map(|name| format!("{name:?}")).collect::<Vec<_>>()[..] {
                [] => "there are no models".to_owned(),
                names => format!("there are {}", names.join(", ")),
            };
            return Err(Refusal::UnknownModel { name: name.to_owned(), known });
        };
        let Some((served, _)) = &entry.served else {
            let reason = if entry.loading { "it is being loaded".into() } else { entry.reason.clone() };
            return Err(Refusal::NotReady { name: name.to_owned(), reason });
        };
        match version.filter(|version| !version.is_empty() && *version != served.version) {
            Some(version) => Err(Refusal::UnknownVersion {
                name: name.to_owned(),
                version: version.to_owned(),
                served: served.version.clone(),
            }),
            None => Ok(Arc::clone(served)),
        }
    }

    /// The only model, where there is one, or one that is named.
    pub(crate) fn get_or_only(&self, name: Option<&str>) -> Result<Arc<Served>, Refusal> {
        let only = {
            let entries = self.read();
            let mut names = entries.keys();
            names.next().filter(|_| names.next().is_none()).cloned()
        };
        match (name, only) {
            (Some(name), _) => self.get(name, None),
            (None, Some(only)) => self.get(&only, None),
            (None, None) => self.get("", None),
        }
    }

    /// All that serve.
    pub(crate) fn served(&self) -> Vec<Arc<Served>> {
        self.read().values().filter_map(|entry| Some(Arc::clone(&entry.served.as_ref()?.0))).collect()
    }

    /// What there is, and what became of it.
    pub(crate) fn index(&self) -> Vec<IndexRow> {
        let row = |(name, entry): (&String, &Entry)| IndexRow {
            name: name.clone(),
            version: entry.served.as_ref().map(|(served, _)| served.version.clone()).unwrap_or_default(),
            state: match (&entry.served, entry.loading) {
                (Some(_), _) => "READY",
                (None, true) => "LOADING",
                (None, false) => "UNAVAILABLE",
            },
            reason: entry.reason.clone(),
        };
        self.read().iter().map(row).collect()
    }

    /// Loads what is new or has changed, and lets go what is no longer there. Gives how many loads failed, the first with its
    /// reason.
    ///
    /// # Errors
    /// When the repository cannot be read at all.
    pub(crate) fn reload(&self) -> Result<(), LoadError> {
        let sources = repository::scan(&self.config)?;
        for source in &sources {
            self.change(&source.name, |entry| entry.loading |= entry.served.is_none());
        }
        let mut first = Ok(());
        for source in &sources {
            let same = |(served, stamp): &(Arc<Served>, Stamp)| {
                served.version == source.version && Stamp::of(source).is_ok_and(|now| now == *stamp)
            };
            let unchanged =
                self.read().get(&source.name).and_then(|entry| entry.served.as_ref()).is_some_and(same);
            if !unchanged {
                first = first.and(self.load_source(source));
            }
        }
        let names: Vec<String> = self.read().keys().cloned().collect();
        for gone in names.iter().filter(|name| sources.iter().all(|source| source.name != **name)) {
            self.let_go(gone, "it is no longer in the repository");
        }
        first
    }

    /// Loads or reloads one model.
    ///
    /// # Errors
    /// When there is none, or it cannot be loaded; what served before serves on.
    pub(crate) fn load(&self, name: &str) -> Result<(), LoadError> {
        // The name is only compared, so that no path comes from a request.
        let sources = repository::scan(&self.config)?;
        let source = sources.iter().find(|source| source.name == name);
        self.load_source(source.ok_or_else(|| LoadError::NotThere { name: name.to_owned() })?)
    }

    /// Stops serving a model.
    pub(crate) fn unload(&self, name: &str) -> Result<(), Refusal> {
        self.get(name, None)?;
        self.let_go(name, "it was unloaded");
        Ok(())
    }

    fn load_source(&self, source: &Source) -> Result<(), LoadError> {
        let _alone = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.read().get(&source.name).and_then(|entry| Some(Arc::clone(&entry.served.as_ref()?.0)));
        self.change(&source.name, |entry| entry.loading = true);
        let outcome = self.try_load(source, old.as_deref());
        self.change(&source.name, |entry| entry.loading = false);
        match outcome {
            Ok((new, stamp)) => {
                self.metrics.describe(&new.metrics, &new.facts);
                let (name, version) = (new.name.clone(), new.version.clone());
                let old = self.change(&source.name, |entry| {
                    entry.reason.clear();
                    entry.served.replace((new.shared(), stamp))
                });
                if let Some((old, _)) = old {
                    info!(model = name, from = old.version, to = version, "swapped");
                    if old.version != version {
                        self.metrics.forget(&old.metrics, &old.facts);
                    }
                }
                poda_formats::storage::give_back();
                Ok(())
            }
            Err(error) => {
                let kept = old.map(|old| old.version.clone());
                error!(model = source.name, version = source.version, serving = kept, %error, "load failed");
                self.metrics.load_failures.with_label_values(&[&source.name]).inc();
                self.change(&source.name, |entry| {
                    entry.reason = format!("version {}: {error}", source.version);
                });
                Err(error)
            }
        }
    }

    fn try_load(&self, source: &Source, old: Option<&Served>) -> Result<(Served, Stamp), LoadError> {
        let stamp = repository::settled(source)?;
        let new = load::load(&self.config, &self.metrics, &source.name, &source.version, &source.path)?;
        if let Some(old) = old.filter(|_| !self.config.allow_signature_change) {
            load::same_signature(old, &new)?;
        }
        Ok((new, stamp))
    }

    fn let_go(&self, name: &str, reason: &str) {
        let old = self.change(name, |entry| {
            reason.clone_into(&mut entry.reason);
            entry.served.take()
        });
        if let Some((old, _)) = old {
            info!(model = name, version = old.version, reason, "let go");
            self.metrics.forget(&old.metrics, &old.facts);
        }
        poda_formats::storage::give_back();
    }
}

/// The name that a file or folder gives a model.
pub(crate) fn name_of(path: &Path) -> Option<String> {
    let name = if path.is_dir() { path.file_name() } else { path.file_stem() }?;
    Some(name.to_str()?.to_owned())
}

/// Where a path says that a model is: the file, or the model file of a folder.
pub(crate) fn file_of(path: &Path) -> PathBuf {
    let inside = ["model.safetensors", "model.onnx"].map(|name| path.join(name));
    inside.into_iter().find(|path| path.is_file()).unwrap_or_else(|| path.to_owned())
}
