//! Answers of the tuner, in memory and in a file.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use poda_formats::atomic::{AtomicFile, destination, folder};
use poda_formats::storage::check_regular;
use serde::{Deserialize, Serialize};

use super::Candidate;
use crate::kernels::Level;

/// Raised whenever a kernel's speed or a packing changes.
pub(crate) const VERSION: u32 = 12;
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

impl Timed {
    fn is_empty(&self) -> bool {
        self.kernels.is_empty() && self.batches.is_empty()
    }
}

/// Answers of this machine.
#[derive(Debug)]
pub(super) struct Cache {
    path: Option<PathBuf>,
    /// What the file held.
    known: Arc<Timed>,
    /// What is not in the file yet.
    new: Timed,
    /// What the model keeps.
    kept: Timed,
    /// What has been asked for.
    asked: Timed,
    /// Why the file is not used.
    pub(super) note: Option<String>,
}

impl Cache {
    /// Reads the file, if there is one for this machine.
    pub(super) fn open(path: Option<PathBuf>) -> Self {
        let [new, kept, asked] = [0; 3].map(|_| Timed::default());
        let mut cache = Self { path, known: Arc::default(), new, kept, asked, note: None };
        match cache.read() {
            Ok(known) => cache.known = known,
            Err(note) => cache.note = Some(note),
        }
        cache
    }

    fn read(&self) -> Result<Arc<Timed>, String> {
        let Some(path) = &self.path else { return Ok(Arc::default()) };
        match shared(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Arc::default()),
            timed => timed.map_err(|error| format!("{}: {error}", path.display())),
        }
    }

    /// Takes answers that a model keeps, unless they are of another CPU or version: they go before all others, for its packings are
    /// for what they say.
    pub(super) fn keep(&mut self, answers: &str) {
        self.kept = parse(answers).unwrap_or_default();
    }

    /// Whether the model keeps answers for this CPU.
    pub(super) fn keeps(&self) -> bool {
        !self.kept.is_empty()
    }

    /// What the model keeps, and all that was asked for and answered.
    pub(super) fn answers(&self) -> String {
        let mut timed = self.kept.clone();
        timed.kernels.extend(self.asked.kernels.clone());
        timed.batches.extend(self.asked.batches.clone());
        let answers = Answers { version: VERSION, cpu: cpu().to_owned(), timed };
        serde_json::to_string(&answers).expect("names and numbers are JSON")
    }

    pub(super) fn get(&mut self, key: &str) -> Option<Vec<Candidate>> {
        let all = [&self.kept, &self.new, &self.known];
        let found = all.into_iter().find_map(|timed| timed.kernels.get(key)).cloned()?;
        self.asked.kernels.insert(key.to_owned(), found.clone());
        Some(found)
    }

    pub(super) fn insert(&mut self, key: String, timed: Vec<Candidate>) {
        self.asked.kernels.insert(key.clone(), timed.clone());
        self.new.kernels.insert(key, timed);
    }

    pub(super) fn batch(&mut self, key: &str) -> Option<Vec<(String, f64)>> {
        let all = [&self.kept, &self.new, &self.known];
        let found = all.into_iter().find_map(|timed| timed.batches.get(key)).cloned()?;
        self.asked.batches.insert(key.to_owned(), found.clone());
        Some(found)
    }

    pub(super) fn insert_batch(&mut self, key: String, timed: Vec<(String, f64)>) {
        self.asked.batches.insert(key.clone(), timed.clone());
        self.new.batches.insert(key, timed);
    }

    /// Writes the file when there is something new, with what other processes have added meanwhile.
    pub(super) fn save(&mut self) {
        let Some(path) = self.path.clone().filter(|_| !self.new.is_empty()) else { return };
        let mut timed = self.read().map_or_else(|_| Timed::default(), |timed| (*timed).clone());
        timed.kernels.extend(self.new.kernels.clone());
        timed.batches.extend(self.new.batches.clone());
        let answers = Answers { version: VERSION, cpu: cpu().to_owned(), timed };
        let write = || -> io::Result<()> {
            fs::create_dir_all(folder(&path))?;
            let path = destination(&path)?;
            let mut file = AtomicFile::create_in(folder(&path))?;
            file.write_all(&serde_json::to_vec(&answers)?)?;
            file.commit(&path)
        };
        match write() {
            Ok(()) => (self.known, self.new) = (Arc::new(answers.timed), Timed::default()),
            Err(error) => self.note = Some(format!("{}: {error}", path.display())),
        }
    }
}

/// What tells one state of a file from another: device, inode, length and time of the last change.
type Stamp = (u64, u64, u64, SystemTime);

/// A file that was read, and what it held.
struct Last {
    path: PathBuf,
    stamp: Stamp,
    timed: Arc<Timed>,
}

/// How long ago a file must have been changed for its time to tell it from the next state: clocks of file systems tick.
const SETTLED: Duration = Duration::from_millis(50);

/// The file at `path`, parsed: of all tuners of this process the first reads it, until it changes (a million bytes take 7 ms).
///
/// # Errors
/// When it cannot be read, or is not of this CPU and version.
fn shared(path: &Path) -> io::Result<Arc<Timed>> {
    static LAST: Mutex<Option<Last>> = Mutex::new(None);
    // Replaced whole, so that a panic elsewhere leaves it valid.
    let last = || LAST.lock().unwrap_or_else(PoisonError::into_inner);
    let stamp = stamp(path)?;
    if let Some(last) = last().as_ref().filter(|last| last.path == path && last.stamp == stamp) {
        return Ok(Arc::clone(&last.timed));
    }
    let timed = Arc::new(parse(&text(path)?)?);
    if stamp.3.elapsed().is_ok_and(|ago| ago > SETTLED) {
        *last() = Some(Last { path: path.to_owned(), stamp, timed: Arc::clone(&timed) });
    }
    Ok(timed)
}

fn parse(text: &str) -> io::Result<Timed> {
    let answers: Answers = serde_json::from_str(text).map_err(io::Error::other)?;
    if answers.version != VERSION || answers.cpu != cpu() {
        return Err(io::Error::other("of another CPU or version"));
    }
    Ok(answers.timed)
}

#[cfg(unix)]
fn stamp(path: &Path) -> io::Result<Stamp> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = fs::metadata(path)?;
    Ok((metadata.dev(), metadata.ino(), metadata.len(), metadata.modified()?))
}

#[cfg(not(unix))]
fn stamp(path: &Path) -> io::Result<Stamp> {
    let metadata = fs::metadata(path)?;
    Ok((0, 0, metadata.len(), metadata.modified()?))
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
fn cpu() -> &'static str {
    static CPU: OnceLock<String> = OnceLock::new();
    CPU.get_or_init(find_cpu)
}

fn find_cpu() -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_parsed_once_until_it_changes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kernels.json");
        let write = |key: &str, age: u64| {
            let mut timed = Timed::default();
            timed.batches.insert(key.to_owned(), vec![("whole".to_owned(), 1.0)]);
            let answers = Answers { version: VERSION, cpu: cpu().to_owned(), timed };
            fs::write(&path, serde_json::to_vec(&answers).unwrap()).unwrap();
            let changed = SystemTime::now() - Duration::from_secs(age);
            File::options().write(true).open(&path).unwrap().set_modified(changed).unwrap();
        };
        let open = || Cache::open(Some(path.clone()));
        write("a", 60);
        let (first, mut second) = (open(), open());
        assert!(Arc::ptr_eq(&first.known, &second.known) && second.batch("a").is_some());
        // As long as before, but of another time.
        write("b", 30);
        let (mut first, mut third) = (first, open());
        assert!(third.batch("b").is_some() && third.batch("a").is_none() && first.batch("a").is_some());
        // Changed just now: the next change may bear the same time.
        write("c", 0);
        assert!(!Arc::ptr_eq(&open().known, &open().known));
        fs::remove_file(&path).unwrap();
        assert!(open().batch("c").is_none() && open().note.is_none());
    }
}
