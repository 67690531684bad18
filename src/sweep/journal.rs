//! The journal of a sweep: a file of JSON lines, to which each run is added once it is over.
//!
//! The first line says what the sweep is ([`Header`]), the others are a [`Done`] each. A line is written in one piece and forced to
//! disk; one that was cut off as the process was killed is cut away when the next goes on. Each part of a sweep writes a file of
//! its own, `journal-1-of-4.jsonl`, so that machines need nothing but a folder that they share; all files of the folder are
//! read, so that the number of parts may change from one start to the next.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use poda_pruner::report::Totals;
use serde::{Deserialize, Serialize};

use super::{Done, Shard};

/// The model that every run starts from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dense {
    /// What scores are: `score` (accuracy) or `cosine` to the dense outputs.
    pub measure: String,
    /// Its score.
    pub score: f64,
    /// Its size.
    pub totals: Totals,
}

/// What a sweep is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// What tells it from others: of the model and the data.
    pub identity: String,
    /// Of Poda.
    pub version: String,
    /// Name of the model's file.
    pub model: String,
    /// Where every run starts.
    pub dense: Dense,
    /// Methods, ratios and seeds, as TOML.
    pub plan: String,
    /// The files of samples, by what they are for.
    pub data: Vec<(String, String)>,
}

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum JournalError {
    #[error("{path}: {error}", path = path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("{path}, line {line}: {error}", path = path.display())]
    Line { path: PathBuf, line: usize, error: serde_json::Error },
    #[error(
        "{path} is of another sweep: take another folder, or give the model and data of that one",
        path = path.display()
    )]
    Other { path: PathBuf },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Sweep(Box<Header>),
    Run(Done),
}

/// A journal that is being written.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    header: Header,
    done: Vec<Done>,
}

/// The files of a folder that are journals, in order.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    let is = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("journal-") && name.ends_with(".jsonl")
    };
    let mut files: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).filter(is).collect();
    files.sort();
    Ok(files)
}

/// Adds the runs of a file to `done`. A last line without an end was cut off, or is being written.
fn read(path: &Path, header: &Header, done: &mut Vec<Done>) -> Result<(), JournalError> {
    let text = fs::read_to_string(path).map_err(|error| JournalError::Io { path: path.to_owned(), error })?;
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    for (number, line) in whole.lines().enumerate() {
        let bad = |error| JournalError::Line { path: path.to_owned(), line: number + 1, error };
        match serde_json::from_str(line).map_err(bad)? {
            Line::Sweep(found) if found.identity != header.identity => {
                return Err(JournalError::Other { path: path.to_owned() });
            }
            Line::Sweep(_) => {}
            Line::Run(run) => add(done, run),
        }
    }
    Ok(())
}

/// A run that was done again counts as it came out last, unless it failed.
fn add(done: &mut Vec<Done>, run: Done) {
    let same =
        |other: &&mut Done| (&other.method, other.ratio, other.seed) == (&run.method, run.ratio, run.seed);
    match done.iter_mut().find(same) {
        Some(other) if run.failed.is_none() || other.failed.is_some() => *other = run,
        Some(_) => {}
        None => done.push(run),
    }
}

impl Journal {
    /// Goes on with the sweep `header` in a folder, which is made if it is not there.
    ///
    /// # Errors
    /// When the folder is of another sweep, or cannot be written to.
    pub fn open(folder: &Path, shard: Shard, header: Header) -> Result<Self, JournalError> {
        let path = folder.join(format!("journal-{}-of-{}.jsonl", shard.index, shard.of));
        let io = |error| JournalError::Io { path: path.clone(), error };
        fs::create_dir_all(folder).map_err(io)?;
        let mut done = Vec::new();
        for file in files(folder).map_err(io)? {
            read(&file, &header, &mut done)?;
        }
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(&path).map_err(io)?;
        // What was cut off goes.
        let text = fs::read(&path).map_err(io)?;
        let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        file.set_len(whole as u64).map_err(io)?;
        if whole == 0 {
            write(&mut file, &Line::Sweep(Box::new(header.clone()))).map_err(io)?;
        }
        Ok(Self { path, file, header, done })
    }

    /// What the sweep is.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Runs that are over, of all parts.
    pub fn done(&self) -> &[Done] {
        &self.done
    }

    /// Whether a run is over, and has a result.
    pub fn has(&self, method: &str, plan: &str, ratio: f64, seed: u64) -> bool {
        let is = |done: &Done| {
            (done.method.as_str(), done.plan.as_str(), done.ratio, done.seed) == (method, plan, ratio, seed)
        };
        self.done.iter().any(|done| done.failed.is_none() && is(done))
    }

    /// Adds a run that is over.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn append(&mut self, run: Done) -> Result<(), JournalError> {
        let io = |error| JournalError::Io { path: self.path.clone(), error };
        write(&mut self.file, &Line::Run(run.clone())).map_err(io)?;
        add(&mut self.done, run);
        Ok(())
    }
}

fn write(file: &mut File, line: &Line) -> io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    file.write_all(&text)?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(identity: &str) -> Header {
        Header {
            identity: identity.to_owned(),
            version: "0".to_owned(),
            model: "m.onnx".to_owned(),
            dense: Dense { measure: "score".to_owned(), score: 0.9, totals: Totals::default() },
            plan: String::new(),
            data: Vec::new(),
        }
    }

    fn run(method: &str, seed: u64, failed: bool) -> Done {
        Done {
            method: method.to_owned(),
            plan: "p".to_owned(),
            ratio: 2.0,
            seed,
            measure: "score".to_owned(),
            before: Some(0.5),
            after: Some(0.75),
            compression: 2.0,
            speedup: 1.5,
            nnz: 10,
            nonzero_macs: 20,
            epochs: 1,
            kept_starts: 0,
            seconds: 0.25,
            failed: failed.then(|| "no".to_owned()),
        }
    }

    #[test]
    fn what_was_cut_off_goes_and_the_rest_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (Shard::default(), "2/2".parse().unwrap());
        let mut journal = Journal::open(folder.path(), first, header("a")).unwrap();
        journal.append(run("x", 0, false)).unwrap();
        journal.append(run("y", 0, true)).unwrap();
        let path = folder.path().join("journal-1-of-1.jsonl");
        let whole = fs::read(&path).unwrap();
        // As if killed while writing, at every place.
        for cut in 1..40 {
            fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            let journal = Journal::open(folder.path(), first, header("a")).unwrap();
            assert!(journal.has("x", "p", 2.0, 0) && !journal.has("y", "p", 2.0, 0));
            assert!(fs::read(&path).unwrap().ends_with(b"}\n"));
        }
        // Another part knows what the first has done, and writes elsewhere; a failure is tried again.
        let mut other = Journal::open(folder.path(), second, header("a")).unwrap();
        assert!(other.has("x", "p", 2.0, 0) && !other.has("y", "p", 2.0, 0));
        other.append(run("y", 0, false)).unwrap();
        let journal = Journal::open(folder.path(), first, header("a")).unwrap();
        assert!(journal.has("y", "p", 2.0, 0));
        assert_eq!(journal.done().len(), 2);
        let error = Journal::open(folder.path(), first, header("b")).unwrap_err().to_string();
        assert!(error.contains("is of another sweep"), "{error}");
    }
}
