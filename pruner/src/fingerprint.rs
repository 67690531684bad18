//! What tells files from others: a hash of their bytes, FNV-1a of 64 bits. It finds mistakes, not forgeries.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

/// A hash that grows.
#[derive(Debug, Clone, Copy)]
pub struct Fingerprint(u64);

impl Default for Fingerprint {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fingerprint {
    /// Adds bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// Adds the bytes of a file; of a folder, the names and bytes of the files in it.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn add_file(&mut self, path: &Path) -> io::Result<()> {
        if fs::metadata(path)?.is_dir() {
            let mut entries: Vec<_> = fs::read_dir(path)?.collect::<io::Result<_>>()?;
            entries.sort_by_key(fs::DirEntry::file_name);
            for entry in entries.iter().filter(|entry| entry.path().is_file()) {
                self.add(entry.file_name().as_encoded_bytes());
                self.add_file(&entry.path())?;
            }
            return Ok(());
        }
        let (mut file, mut buffer) = (File::open(path)?, vec![0; 1 << 16]);
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(()),
                read => self.add(&buffer[..read]),
            }
        }
    }

    /// Of one file or folder.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of(path: &Path) -> io::Result<Self> {
        let mut found = Self::default();
        found.add_file(path)?;
        Ok(found)
    }
}

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_the_published_hashes() {
        // Vectors of Noll's page on FNV.
        for (text, hash) in
            [("", "cbf29ce484222325"), ("a", "af63dc4c8601ec8c"), ("foobar", "85944171f73967e8")]
        {
            let mut found = Fingerprint::default();
            found.add(text.as_bytes());
            assert_eq!(found.to_string(), hash);
            let file = tempfile::NamedTempFile::new().unwrap();
            fs::write(file.path(), text).unwrap();
            assert_eq!(Fingerprint::of(file.path()).unwrap().to_string(), hash);
        }
    }
}
