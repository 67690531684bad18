//! Files that appear whole or not at all.
//!
//! Where the file system can, a file being written has no name: whatever ends the process, nothing is left. Elsewhere, and
//! for the moment in which a finished file takes an old one's place, it lies beside its place as `.poda-??????.tmp`, locked
//! by the process that writes it. What nobody locks was abandoned, and the next write to that folder removes it.

use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::{Builder, NamedTempFile};

/// Bytes that are written at a time. Linux keeps what was written at once in one piece of its cache, up to 2 MiB, and makes
/// all of a piece resident in a process that reads a byte of it: 64 MiB instead of 28 for a model that reads a few rows of
/// its embeddings.
const PIECE: usize = 1 << 16;

/// Start and end of temporary names.
const TEMPORARY: [&str; 2] = [".poda-", ".tmp"];

/// A file without a name, or with a temporary one beside its place; gone when dropped.
///
/// Until [`AtomicFile::commit`] an old file at that place stays as it is, whatever fails; after it, the new file is
/// there whole and on disk. Who has mapped the old file keeps seeing the old bytes.
pub struct AtomicFile {
    out: BufWriter<Unfinished>,
    folder: PathBuf,
}

enum Unfinished {
    #[cfg(target_os = "linux")]
    Unnamed(File),
    Named(NamedTempFile),
}

impl AtomicFile {
    /// A new file that will be renamed to some name in `folder`.
    pub fn create_in(folder: &Path) -> io::Result<Self> {
        remove_abandoned(folder);
        #[cfg(target_os = "linux")]
        let unnamed = unnamed(folder).map(Unfinished::Unnamed);
        #[cfg(not(target_os = "linux"))]
        let unnamed = None;
        let file = match unnamed {
            Some(file) => file,
            None => Unfinished::Named(named(folder)?),
        };
        Ok(Self { out: BufWriter::with_capacity(PIECE, file), folder: folder.to_owned() })
    }

    /// Puts the file on disk under `path`, in the folder given to [`AtomicFile::create_in`].
    pub fn commit(self, path: &Path) -> io::Result<()> {
        let file = self.out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.as_file().sync_all()?;
        match &file {
            #[cfg(target_os = "linux")]
            Unfinished::Unnamed(file) => match link(file, path) {
                // A link replaces nothing, a renamed file does.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    let linked = temporary().make_in(&self.folder, |path| link(file, path))?;
                    linked.persist(path).map_err(|error| error.error)?;
                }
                result => result?,
            },
            Unfinished::Named(_) => {}
        }
        if let Unfinished::Named(file) = file {
            file.persist(path).map_err(|error| error.error)?;
        }
        // The name itself lasts only once the folder is on disk.
        File::open(&self.folder)?.sync_all()
    }
}

impl Unfinished {
    fn as_file(&self) -> &File {
        match self {
            #[cfg(target_os = "linux")]
            Self::Unnamed(file) => file,
            Self::Named(file) => file.as_file(),
        }
    }
}

impl Write for Unfinished {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.as_file().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.as_file().flush()
    }
}

fn temporary() -> Builder<'static, 'static> {
    let mut builder = Builder::new();
    builder.prefix(TEMPORARY[0]).suffix(TEMPORARY[1]);
    builder
}

/// A locked file without a name, where the file system has such.
#[cfg(target_os = "linux")]
fn unnamed(folder: &Path) -> Option<File> {
    use rustix::fs::{Mode, OFlags};
    // Without this folder it could not be given a name later.
    if !Path::new(DESCRIPTORS).is_dir() {
        return None;
    }
    // As any fresh file: the process's umask takes away from this.
    let mode = Mode::from_raw_mode(0o666);
    let file: File =
        rustix::fs::open(folder, OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, mode).ok()?.into();
    // It will have a temporary name for a moment if it replaces another.
    file.try_lock().ok()?;
    Some(file)
}

#[cfg(target_os = "linux")]
const DESCRIPTORS: &str = "/proc/self/fd";

/// Gives a file without a name the name `path`, which must be free.
#[cfg(target_os = "linux")]
fn link(file: &File, path: &Path) -> io::Result<()> {
    use rustix::fs::{AtFlags, CWD};
    use std::os::fd::AsRawFd;
    let descriptor = format!("{DESCRIPTORS}/{}", file.as_raw_fd());
    Ok(rustix::fs::linkat(CWD, descriptor, CWD, path, AtFlags::SYMLINK_FOLLOW)?)
}

/// A locked file with a temporary name.
fn named(folder: &Path) -> io::Result<NamedTempFile> {
    let mut builder = temporary();
    #[cfg(unix)]
    {
        // As any fresh file: the process's umask takes away from this.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(Permissions::from_mode(0o666));
    }
    loop {
        let file = builder.tempfile_in(folder)?;
        // (Where there are no locks, nobody takes the file for abandoned either.)
        let locked = file.as_file().lock();
        // Before it was locked, somebody may have taken it for abandoned.
        if locked.is_err() || file.path().exists() {
            return Ok(file);
        }
    }
}

/// Removes what processes that were killed left in `folder`. What cannot be removed stays.
fn remove_abandoned(folder: &Path) {
    let is_temporary = |name: &str| {
        let inner = name.strip_prefix(TEMPORARY[0]).and_then(|name| name.strip_suffix(TEMPORARY[1]));
        inner.is_some_and(|inner| inner.len() == 6 && inner.bytes().all(|b| b.is_ascii_alphanumeric()))
    };
    for entry in folder.read_dir().into_iter().flatten().flatten() {
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if is_file
            && entry.file_name().to_str().is_some_and(is_temporary)
            && let Ok(file) = File::open(entry.path())
            && file.try_lock().is_ok()
        {
            let _ = fs::remove_file(entry.path());
        }
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(&bytes[..bytes.len().min(PIECE)])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// The file that writing to `path` replaces: `path` itself, or where it leads as a symbolic link.
///
/// # Errors
/// When something other than a regular file is there, such as a folder or a device.
pub fn destination(path: &Path) -> io::Result<PathBuf> {
    let destination = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_symlink() => fs::canonicalize(path)?,
        Ok(_) => path.to_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(path.to_owned()),
        Err(error) => return Err(error),
    };
    crate::storage::check_regular(&fs::metadata(&destination)?)?;
    Ok(destination)
}

/// The folder that `path` lies in.
pub fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Storage;

    fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
        let path = destination(path)?;
        let mut file = AtomicFile::create_in(folder(&path))?;
        file.write_all(bytes)?;
        file.commit(&path)
    }

    fn entries(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn a_file_with_a_temporary_name_does_as_well() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model");
        for bytes in [&b"old"[..], b"newer"] {
            let out = Unfinished::Named(named(folder.path()).unwrap());
            let mut file = AtomicFile { out: BufWriter::new(out), folder: folder.path().to_owned() };
            file.write_all(bytes).unwrap();
            assert_eq!(entries(folder.path()), if bytes == b"old" { 1 } else { 2 });
            file.commit(&path).unwrap();
            assert_eq!(fs::read(&path).unwrap(), bytes);
            assert_eq!(entries(folder.path()), 1);
        }
    }

    #[test]
    fn what_was_abandoned_goes_and_what_is_being_written_stays() {
        let folder = tempfile::tempdir().unwrap();
        let writing = named(folder.path()).unwrap();
        for name in [".poda-abc123.tmp", ".poda-notes.tmp", ".poda-abc123", "model"] {
            fs::write(folder.path().join(name), b"x").unwrap();
        }
        write(&folder.path().join("other"), b"y").unwrap();
        assert!(!folder.path().join(".poda-abc123.tmp").exists());
        assert!(writing.path().exists());
        assert_eq!(entries(folder.path()), 5);
        drop(writing);
        assert_eq!(entries(folder.path()), 4);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_file_being_written_has_no_name_where_it_can() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = AtomicFile::create_in(folder.path()).unwrap();
        file.write_all(&vec![7; 3 * PIECE]).unwrap();
        let unnamed = matches!(file.out.get_ref(), Unfinished::Unnamed(_));
        assert_eq!(entries(folder.path()), usize::from(!unnamed));
        file.commit(&folder.path().join("model")).unwrap();
        assert_eq!(entries(folder.path()), 1);
    }

    #[test]
    fn a_new_file_replaces_an_old_one_that_stays_mapped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model");
        write(&path, b"old").unwrap();
        let old = Storage::map(&path).unwrap();
        write(&path, b"newer").unwrap();
        assert_eq!(old.bytes(), b"old");
        assert_eq!(fs::read(&path).unwrap(), b"newer");
        assert_eq!(entries(folder.path()), 1);
    }

    #[test]
    fn an_abandoned_file_leaves_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model");
        write(&path, b"old").unwrap();
        let mut file = AtomicFile::create_in(folder.path()).unwrap();
        file.write_all(&vec![0; 1 << 20]).unwrap();
        drop(file);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(entries(folder.path()), 1);
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_and_devices_and_folders_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("model"), folder.path().join("link"));
        write(&path, b"old").unwrap();
        std::os::unix::fs::symlink("model", &link).unwrap();
        write(&link, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert!(link.is_symlink());
        assert!(write(Path::new("/dev/null"), b"x").is_err());
        assert!(write(folder.path(), b"x").is_err());
        assert!(write(&folder.path().join("missing/model"), b"x").is_err());
    }

    #[cfg(unix)]
    #[test]
    fn permissions_are_those_of_a_fresh_file() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let (ours, fresh) = (folder.path().join("ours"), folder.path().join("fresh"));
        write(&ours, b"x").unwrap();
        fs::write(&fresh, b"x").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&ours), mode(&fresh));
    }
}
