//! Files that appear whole or not at all.

use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// Bytes that are written at a time. Linux keeps what was written at once in one piece of its cache, up to 2 MiB, and makes
/// all of a piece resident in a process that reads a byte of it: 64 MiB instead of 28 for a model that reads a few rows of
/// its embeddings.
const PIECE: usize = 1 << 16;

/// A file under a temporary name beside its place, removed when dropped.
///
/// Until [`AtomicFile::commit`] an old file at that place stays as it is, whatever fails; after it, the new file is
/// there whole and on disk. Who has mapped the old file keeps seeing the old bytes.
pub struct AtomicFile {
    out: BufWriter<NamedTempFile>,
    folder: PathBuf,
}

impl AtomicFile {
    /// A new file that will be renamed to some name in `folder`.
    pub fn create_in(folder: &Path) -> io::Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(".poda-");
        #[cfg(unix)]
        {
            // As any fresh file: the process's umask takes away from this.
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(Permissions::from_mode(0o666));
        }
        let file = builder.tempfile_in(folder)?;
        Ok(Self { out: BufWriter::with_capacity(PIECE, file), folder: folder.to_owned() })
    }

    /// Puts the file on disk under `path`, in the folder given to [`AtomicFile::create_in`].
    pub fn commit(self, path: &Path) -> io::Result<()> {
        let file = self.out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        // The rename itself lasts only once the folder is on disk.
        File::open(&self.folder)?.sync_all()
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
