//! The models of a configuration as they lie on disk.
//!
//! A repository holds `NAME/VERSION/model.safetensors` (or `.onnx`) with whole numbers as versions, of which the greatest that has a
//! model file is served; or `NAME/model.safetensors`; or `NAME.safetensors`. Anything else is passed over: names that begin with a
//! dot, and names that copying tools give to what they have not finished.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use crate::config::Config;
use crate::model::load::LoadError;
use crate::registry::{file_of, name_of};

/// A model on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) path: PathBuf,
}

/// What tells whether a file is still the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stamp {
    path: PathBuf,
    bytes: u64,
    modified: SystemTime,
}

/// A file that was written so long ago is not being written.
const SETTLED: Duration = Duration::from_secs(2);
/// Between two looks at one that may be.
const LOOK: Duration = Duration::from_millis(300);
/// Looks before it is given up.
const LOOKS: usize = 40;

impl Stamp {
    pub(crate) fn of(source: &Source) -> io::Result<Self> {
        // The whole folder of a version: external data counts.
        let paths: Vec<PathBuf> = match source.path.file_name().and_then(|name| name.to_str()) {
            Some("model.safetensors" | "model.onnx") => {
                let folder = source.path.parent().unwrap_or(Path::new("."));
                fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?
            }
            _ => vec![source.path.clone()],
        };
        let (mut bytes, mut modified) = (0, SystemTime::UNIX_EPOCH);
        for metadata in paths.iter().map(fs::metadata) {
            let metadata = metadata?;
            bytes += metadata.len();
            modified = modified.max(metadata.modified()?);
        }
        Ok(Self { path: source.path.clone(), bytes, modified })
    }

    /// Whether it was written long ago. A clock that jumped says nothing, and is not waited for.
    fn is_old(&self) -> bool {
        self.modified.elapsed().map_or(true, |age| age >= SETTLED)
    }
}

/// Waits until a model that was just written stays the same.
///
/// # Errors
/// When it keeps changing, or is not there.
pub(crate) fn settled(source: &Source) -> Result<Stamp, LoadError> {
    let stamp =
        || Stamp::of(source).map_err(|error| LoadError::Io { path: source.path.clone(), source: error });
    let mut last = stamp()?;
    for _ in 0..LOOKS {
        if last.is_old() {
            return Ok(last);
        }
        thread::sleep(LOOK);
        let now = stamp()?;
        if now == last {
            return Ok(now);
        }
        last = now;
    }
    Err(LoadError::Unsettled { path: source.path.clone() })
}

/// All models that a configuration names.
///
/// # Errors
/// When the repository cannot be read.
pub(crate) fn scan(config: &Config) -> Result<Vec<Source>, LoadError> {
    let mut sources: Vec<Source> = Vec::new();
    for path in &config.models {
        let name = config.name.clone().or_else(|| name_of(path)).ok_or_else(|| {
            let source = io::Error::new(io::ErrorKind::InvalidInput, "it gives the model no name");
            LoadError::Io { path: path.clone(), source }
        })?;
        sources.push(Source { name, version: "1".into(), path: file_of(path) });
    }
    if let Some(folder) = &config.repository {
        let failed = |source| LoadError::Io { path: folder.clone(), source };
        for entry in fs::read_dir(folder).map_err(failed)? {
            sources.extend(in_repository(&entry.map_err(failed)?.path()));
        }
    }
    sources.sort_by(|a, b| a.name.cmp(&b.name));
    match sources.windows(2).find(|pair| pair[0].name == pair[1].name) {
        Some(pair) => {
            let reason = format!("{} is a model {:?} too", pair[0].path.display(), pair[0].name);
            let source = io::Error::new(io::ErrorKind::AlreadyExists, reason);
            Err(LoadError::Io { path: pair[1].path.clone(), source })
        }
        None => Ok(sources),
    }
}

/// The model of an entry of a repository.
fn in_repository(path: &Path) -> Option<Source> {
    let name = name_of(path).filter(|name| is_name(name))?;
    let source = |version: String, path: PathBuf| Some(Source { name: name.clone(), version, path });
    if path.is_file() {
        let known =
            path.extension().is_some_and(|extension| extension == "safetensors" || extension == "onnx");
        return if known { source("1".into(), path.to_owned()) } else { None };
    }
    let version = |entry: io::Result<fs::DirEntry>| {
        let path = entry.ok()?.path();
        let number: u64 = path.file_name()?.to_str()?.parse().ok()?;
        let file = file_of(&path);
        file.is_file().then_some((number, file))
    };
    let newest = fs::read_dir(path).ok()?.filter_map(version).max();
    match newest {
        Some((number, file)) => source(number.to_string(), file),
        None => Some(file_of(path)).filter(|file| file.is_file()).and_then(|file| source("1".into(), file)),
    }
}

/// Letters, digits, `.`, `_` and `-`, not beginning with a dot.
fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    !name.is_empty() && name.len() <= 128 && !name.starts_with('.') && name.chars().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_whole_version_is_found_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        };
        for path in [
            "a/1/model.onnx",
            "a/10/model.safetensors",
            "a/9/model.safetensors",
            "a/11/model.safetensors.part",
            "a/new/model.onnx",
            "b.safetensors",
            "c/model.onnx",
            ".hidden/1/model.onnx",
            "notes.txt",
            "sp ace.onnx",
            "empty/1/readme",
        ] {
            write(path);
        }
        let config = Config { repository: Some(folder.path().into()), ..Config::default() };
        let found: Vec<_> = scan(&config).unwrap().into_iter().map(|s| (s.name, s.version)).collect();
        let expected = [("a", "10"), ("b", "1"), ("c", "1")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        assert_eq!(found, expected);
        let twice = Config { models: vec![folder.path().join("b.safetensors")], ..config };
        assert!(scan(&twice).unwrap_err().to_string().contains("\"b\""));
    }

    #[test]
    fn a_file_that_stays_the_same_is_settled() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.onnx");
        fs::write(&path, "xyz").unwrap();
        let source = Source { name: "m".into(), version: "1".into(), path };
        let stamp = settled(&source).unwrap();
        assert_eq!(stamp, Stamp::of(&source).unwrap());
        fs::write(&source.path, "changed").unwrap();
        assert_ne!(stamp, Stamp::of(&source).unwrap());
        // By a clock that jumped: neither is waited for, as looking would not tell more.
        let file = fs::File::options().write(true).open(&source.path).unwrap();
        for modified in [SystemTime::now() + Duration::from_hours(24), SystemTime::UNIX_EPOCH] {
            file.set_modified(modified).unwrap();
            assert!(Stamp::of(&source).unwrap().is_old());
            settled(&source).unwrap();
        }
        let gone = Source { path: folder.path().join("gone.onnx"), ..source };
        assert!(matches!(settled(&gone), Err(LoadError::Io { .. })));
    }
}
