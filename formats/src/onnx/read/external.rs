//! External data: the files beside a model that hold its weights.
//!
//! A stranger's model names these files, so each name is held inside the folder of the model. A name must be relative
//! and free of `..`; what it leads to, symbolic links followed, must lie in the folder that the model was named in, or
//! in the one where it really lies (a Hugging Face cache links both the model and its data into one folder of blobs).
//! The file is then opened by that resolved path, following no link any more (`openat2` with `RESOLVE_BENEATH` and
//! `RESOLVE_NO_SYMLINKS` where the kernel has it), so that nobody can put one in its place in between. A file with
//! several hard links is refused, because its other name may lie anywhere.

use std::collections::{BTreeSet, HashMap};
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Component, Path, PathBuf};

use super::{OnnxError, census};
use crate::onnx::proto::StringStringEntryProto;
use crate::storage::{Load, Storage};

/// Why external data cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum ExternalError {
    #[error("a model that is not read from a file has no folder to find external data {location:?} in")]
    NoFolder { location: String },
    #[error("external data has no location")]
    NoLocation,
    #[error("external data has key {key:?} twice")]
    RepeatedKey { key: String },
    #[error("external data has unknown key {key:?}")]
    UnknownKey { key: String },
    #[error("external data has {key} {value:?}, which is not a number of bytes")]
    Number { key: &'static str, value: String },
    #[error("external data {location:?} is not a relative path without \"..\"")]
    Location { location: String },
    #[error("external data {location:?} lies outside the model's folder, at {target:?}")]
    Outside { location: String, target: PathBuf },
    #[error("external data {location:?} has {links} hard links; copy the file into the model's folder")]
    HardLink { location: String, links: u64 },
    #[error("external data {location:?} declares {found} bytes, its tensor has {expected}")]
    Length { location: String, expected: usize, found: u64 },
    #[error("external data {location:?} ends at byte {size}, before byte {offset} + {length}")]
    PastEnd { location: String, offset: u64, length: usize, size: usize },
    #[error("cannot open external data {location:?}: {source}")]
    Open { location: String, source: io::Error },
}

/// Names of the files beside the model in `file` that hold weights of its main graph.
///
/// # Errors
/// When it is not a model.
pub fn external_locations(file: Storage) -> Result<BTreeSet<String>, OnnxError> {
    let model = census::decode(file)?;
    let initializers = model.graph.into_iter().flat_map(|graph| graph.initializer);
    let entries = initializers.flat_map(|tensor| tensor.external_data);
    Ok(entries.filter(|entry| entry.key == "location").map(|entry| entry.value).collect())
}

/// The external data of one model: where it may lie, and the files mapped so far.
pub(super) struct ExternalData {
    /// The folder that the model was named in, then the one where it really lies; canonical.
    folders: Vec<PathBuf>,
    load: Load,
    files: HashMap<String, Storage>,
}

impl ExternalData {
    /// For a model that has no folder: every external tensor is refused.
    pub(super) fn none() -> Self {
        Self { folders: Vec::new(), load: Load::default(), files: HashMap::new() }
    }

    /// For the model at `path`.
    pub(super) fn beside(path: &Path, load: Load) -> io::Result<Self> {
        let named = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        let mut folders = vec![named.canonicalize()?];
        if let Some(real) = path.canonicalize()?.parent()
            && real != folders[0]
        {
            folders.push(real.to_owned());
        }
        Ok(Self { folders, load, files: HashMap::new() })
    }

    /// Bytes of the files so far, together.
    pub(super) fn bytes(&self) -> usize {
        self.files.values().map(Storage::len).sum()
    }

    /// The `expected` bytes that the entries of a tensor describe.
    pub(super) fn get(
        &mut self,
        entries: &[StringStringEntryProto],
        expected: usize,
    ) -> Result<Storage, ExternalError> {
        let Entries { location, offset, length } = Entries::parse(entries)?;
        if let Some(found) = length
            && found != expected as u64
        {
            return Err(ExternalError::Length { location: location.to_owned(), expected, found });
        }
        if !self.files.contains_key(location) {
            let file = self.map(location)?;
            self.files.insert(location.to_owned(), file);
        }
        let file = &self.files[location];
        let start = usize::try_from(offset).ok();
        let range = start.and_then(|start| Some(start..start.checked_add(expected)?));
        range.and_then(|range| file.slice(range)).ok_or_else(|| ExternalError::PastEnd {
            location: location.to_owned(),
            offset,
            length: expected,
            size: file.len(),
        })
    }

    fn map(&self, location: &str) -> Result<Storage, ExternalError> {
        let relative = Path::new(location);
        let plain = |c: Component| matches!(c, Component::Normal(_) | Component::CurDir);
        if !relative.components().all(plain) || location.contains(['\0', '\\']) {
            return Err(ExternalError::Location { location: location.to_owned() });
        }
        if self.folders.is_empty() {
            return Err(ExternalError::NoFolder { location: location.to_owned() });
        }
        let open = |source| ExternalError::Open { location: location.to_owned(), source };
        let mut missing = None;
        for folder in &self.folders {
            let target = match folder.join(relative).canonicalize() {
                Ok(target) => target,
                Err(error) => {
                    missing.get_or_insert(error);
                    continue;
                }
            };
            let inside = self.folders.iter().find_map(|f| Some((f, target.strip_prefix(f).ok()?)));
            let Some((root, inner)) = inside else {
                return Err(ExternalError::Outside { location: location.to_owned(), target });
            };
            let file = open_beneath(root, inner).map_err(open)?;
            let links = hard_links(&file).map_err(open)?;
            if links > 1 {
                return Err(ExternalError::HardLink { location: location.to_owned(), links });
            }
            return Storage::load_file(&file, self.load).map_err(open);
        }
        Err(open(missing.expect("a folder was tried")))
    }
}

/// What the key-value pairs of an external tensor say.
struct Entries<'a> {
    location: &'a str,
    offset: u64,
    length: Option<u64>,
}

impl<'a> Entries<'a> {
    fn parse(entries: &'a [StringStringEntryProto]) -> Result<Self, ExternalError> {
        let (mut location, mut offset, mut length, mut checksum) = (None, None, None, None);
        for StringStringEntryProto { key, value } in entries {
            let slot = match key.as_str() {
                "location" => &mut location,
                "offset" => &mut offset,
                "length" => &mut length,
                "checksum" => &mut checksum,
                _ => return Err(ExternalError::UnknownKey { key: key.clone() }),
            };
            if slot.replace(value.as_str()).is_some() {
                return Err(ExternalError::RepeatedKey { key: key.clone() });
            }
        }
        let number = |key, value: Option<&str>| {
            match value {
                None => Ok(None),
                Some(text) if text.bytes().all(|b| b.is_ascii_digit()) => {
                    text.parse().map(Some).map_err(|_| text)
                }
                Some(text) => Err(text),
            }
            .map_err(|text| ExternalError::Number { key, value: text.to_owned() })
        };
        Ok(Self {
            location: location.filter(|l| !l.is_empty()).ok_or(ExternalError::NoLocation)?,
            offset: number("offset", offset)?.unwrap_or(0),
            length: number("length", length)?,
        })
    }
}

/// Opens `inner`, a path without links, beneath `root`.
#[cfg(target_os = "linux")]
fn open_beneath(root: &Path, inner: &Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags, ResolveFlags};
    use rustix::io::Errno;

    let folder = File::open(root)?;
    // A pipe put in the file's place would otherwise make this wait.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    match rustix::fs::openat2(&folder, inner, flags, Mode::empty(), resolve) {
        Ok(file) => Ok(file.into()),
        // An old kernel, or a sandbox that does not know the call.
        Err(Errno::NOSYS | Errno::PERM) => open_plain(&root.join(inner)),
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(target_os = "linux"))]
fn open_beneath(root: &Path, inner: &Path) -> io::Result<File> {
    open_plain(&root.join(inner))
}

fn open_plain(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::fs::OpenOptionsExt;
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        options.custom_flags(flags.bits() as i32);
    }
    options.open(path)
}

#[cfg(unix)]
fn hard_links(file: &File) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(file.metadata()?.nlink())
}

#[cfg(not(unix))]
fn hard_links(_: &File) -> io::Result<u64> {
    Ok(1)
}
