//! Answers of the tuner, in memory and in a file.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use poda_formats::atomic::{AtomicFile, destination, folder};
use poda_formats::storage::check_regular;
use serde::{Deserialize, Serialize};

use super::Candidate;
use crate::kernels::Level;

/// Raised whenever a kernel's speed or a packing changes.
const VERSION: u32 = 11;
/// Bytes of a file that are read: a hundred thousand answers.
const MOST_BYTES: u64 = 64 << 20;

/// The file.
#[derive(Debug, Serialize, Deserialize)]
struct Answers {
    version: u32,
    cpu: String,
    #[serde(flatten)]
    timed: Timed,
}

/// What was timed, by what was asked.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Timed {
    #[serde(rename = "timed")]
    kernels: BTreeMap<String, Vec<Candidate>>,
    /// Ways to run a batch, in microseconds.
    #[serde(default)]
    batches: BTreeMap<String, Vec<(String, f64)>>,
}

/// Answers of this machine.
#[derive(Debug)]
pub(super) struct Cache {
    path: Option<PathBuf>,
    timed: Timed,
    changed: bool,
    /// Why the file is not used.
    pub(super) note: Option<String>,
}

impl Cache {
    /// Reads the file, if there is one for this machine.
    pub(super) fn open(path: Option<PathBuf>) -> Self {
        let mut cache = Self { path, timed: Timed::default(), changed: false, note: None };
        match cache.read() {
            Ok(timed) => cache.timed = timed,
            Err(note) => cache.note = Some(note),
        }
        cache
    }

    fn read(&self) -> Result<Timed, String> {
        let Some(path) = &self.path else { return Ok(Timed::default()) };
        let text = match text(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Timed::default()),
            Err(error) => return Err(format!("{}: {error}", path.display())),
        };
        let answers: Answers =
            serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        if answers.version != VERSION || answers.cpu != cpu() {
            return Err(format!("{}: of another CPU or version", path.display()));
        }
        Ok(answers.timed)
    }

    pub(super) fn get(&self, key: &str) -> Option<Vec<Candidate>> {
        self.timed.kernels.get(key).cloned()
    }

    pub(super) fn insert(&mut self, key: String, timed: Vec<Candidate>) {
        self.timed.kernels.insert(key, timed);
        self.changed = true;
    }

    pub(super) fn batch(&self, key: &str) -> Option<Vec<(String, f64)>> {
        self.timed.batches.get(key).cloned()
    }

    pub(super) fn insert_batch(&mut self, key: String, timed: Vec<(String, f64)>) {
        self.timed.batches.insert(key, timed);
        self.changed = true;
    }

    /// Writes the file when there is something new, with what other processes have added meanwhile.
    pub(super) fn save(&mut self) {
        let Some(path) = self.path.clone().filter(|_| self.changed) else { return };
        let mut timed = self.read().unwrap_or_default();
        timed.kernels.extend(self.timed.kernels.clone());
        timed.batches.extend(self.timed.batches.clone());
        let write = || -> io::Result<()> {
            fs::create_dir_all(folder(&path))?;
            let path = destination(&path)?;
            let mut file = AtomicFile::create_in(folder(&path))?;
            file.write_all(&serde_json::to_vec(&Answers { version: VERSION, cpu: cpu(), timed })?)?;
            file.commit(&path)
        };
        match write() {
            Ok(()) => self.changed = false,
            Err(error) => self.note = Some(format!("{}: {error}", path.display())),
        }
    }
}

/// What a regular file of bearable length holds.
fn text(path: &Path) -> io::Result<String> {
    // Before it is opened: a pipe would wait for a writer.
    check_regular(&fs::metadata(path)?)?;
    let mut text = String::new();
    let read = File::open(path)?.take(MOST_BYTES + 1).read_to_string(&mut text)?;
    if read as u64 > MOST_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {MOST_BYTES} bytes")));
    }
    Ok(text)
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
