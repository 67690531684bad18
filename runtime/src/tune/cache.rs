//! Answers of the tuner, in memory and in a file.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::{env, fs};

use serde::{Deserialize, Serialize};

use super::Choice;
use crate::kernels::Level;

/// Raised whenever a kernel's speed or a packing changes.
const VERSION: u32 = 7;

/// The file.
#[derive(Debug, Serialize, Deserialize)]
struct File {
    version: u32,
    cpu: String,
    choices: BTreeMap<String, Choice>,
}

/// Answers of this machine.
#[derive(Debug)]
pub(super) struct Cache {
    path: Option<PathBuf>,
    choices: BTreeMap<String, Choice>,
    changed: bool,
    /// Why the file is not used.
    pub(super) note: Option<String>,
}

impl Cache {
    /// Reads the file, if there is one for this machine.
    pub(super) fn open(path: Option<PathBuf>) -> Self {
        let mut cache = Self { path, choices: BTreeMap::new(), changed: false, note: None };
        match cache.read() {
            Ok(choices) => cache.choices = choices,
            Err(note) => cache.note = Some(note),
        }
        cache
    }

    fn read(&self) -> Result<BTreeMap<String, Choice>, String> {
        let Some(path) = &self.path else { return Ok(BTreeMap::new()) };
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(error) => return Err(format!("{}: {error}", path.display())),
        };
        let file: File =
            serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        if file.version != VERSION || file.cpu != cpu() {
            return Err(format!("{}: of another CPU or version", path.display()));
        }
        Ok(file.choices.into_iter().filter(|(_, choice)| !choice.candidates.is_empty()).collect())
    }

    pub(super) fn get(&self, key: &str) -> Option<Choice> {
        self.choices.get(key).cloned()
    }

    pub(super) fn insert(&mut self, key: String, choice: Choice) {
        self.choices.insert(key, choice);
        self.changed = true;
    }

    /// Writes the file when there is something new, with what other processes have added meanwhile.
    pub(super) fn save(&mut self) {
        let Some(path) = self.path.clone().filter(|_| self.changed) else { return };
        let mut choices = self.read().unwrap_or_default();
        choices.extend(self.choices.clone());
        let write = || -> io::Result<()> {
            let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
            fs::create_dir_all(directory)?;
            // A name of this process's own, renamed into place, so that readers see the old file or the new one.
            let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
            fs::write(&temporary, serde_json::to_vec(&File { version: VERSION, cpu: cpu(), choices })?)?;
            fs::rename(&temporary, &path)
        };
        match write() {
            Ok(()) => self.changed = false,
            Err(error) => self.note = Some(format!("{}: {error}", path.display())),
        }
    }
}

/// `poda/kernels.json` in the user's cache directory.
pub(super) fn default_path() -> Option<PathBuf> {
    let directory = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = directory("XDG_CACHE_HOME").or_else(|| Some(directory("HOME")?.join(".cache")))?;
    Some(base.join("poda").join("kernels.json"))
}

/// Model and features of the CPU.
fn cpu() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = info.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name));
        line.and_then(|line| line.split(':').nth(1)).unwrap_or("?").trim().to_owned()
    };
    format!(
        "{} family {} model {} {:?}",
        field("model name"),
        field("cpu family"),
        field("model"),
        Level::best()
    )
}
