//! Bytes that tensors live in: 64-byte aligned memory of our own, or a read-only mapping of a file.

mod pages;

use std::alloc::{self, Layout};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

use memmap2::Mmap;
use pages::Pages;

/// Alignment, in bytes, of every owned buffer: one cache line and one AVX-512 register.
pub const ALIGNMENT: usize = 64;

/// As aligned as [`ALIGNMENT`].
#[repr(align(64))]
struct Line;

/// An owned buffer whose first byte lies on a multiple of [`ALIGNMENT`].
pub struct AlignedBytes {
    ptr: NonNull<u8>,
    len: usize,
    /// Of a large buffer; others come from the allocator.
    pages: Option<Pages>,
}

// SAFETY: `AlignedBytes` owns its memory alone, as `Vec<u8>` does; there is no interior mutability.
unsafe impl Send for AlignedBytes {}
// SAFETY: as above; shared references only read.
unsafe impl Sync for AlignedBytes {}

impl AlignedBytes {
    /// `len` zero bytes. Large buffers come from the system as untouched zero pages.
    ///
    /// Aborts when memory runs out; where a file decides the length, use [`AlignedBytes::try_zeroed`].
    pub fn zeroed(len: usize) -> Self {
        Self::try_zeroed(len).unwrap_or_else(|| alloc::handle_alloc_error(Self::layout(len)))
    }

    /// `len` zero bytes, or `None` when there is not that much memory.
    pub fn try_zeroed(len: usize) -> Option<Self> {
        if len == 0 {
            // Dangling, but aligned: an empty slice of any element type may start here.
            return Some(Self { ptr: NonNull::<Line>::dangling().cast(), len, pages: None });
        }
        if len >= pages::LARGE
            && let Some(pages) = Pages::take(len)
            && let Some(ptr) = pages.start()
        {
            return Some(Self { ptr, len, pages: Some(pages) });
        }
        let layout = Layout::from_size_align(len, ALIGNMENT).ok()?;
        // SAFETY: the layout has a size above 0, checked above.
        let ptr = unsafe { alloc::alloc_zeroed(layout) };
        NonNull::new(ptr).map(|ptr| Self { ptr, len, pages: None })
    }

    /// A copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut buffer = Self::zeroed(bytes.len());
        buffer.copy_from_slice(bytes);
        buffer
    }

    fn layout(len: usize) -> Layout {
        Layout::from_size_align(len, ALIGNMENT).expect("a length that fits memory fits a layout")
    }
}

impl fmt::Debug for AlignedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBytes({} bytes)", self.len)
    }
}

impl Drop for AlignedBytes {
    fn drop(&mut self) {
        if self.len > 0 && self.pages.is_none() {
            // SAFETY: `ptr` came from `alloc_zeroed` with this very layout, in `zeroed`.
            unsafe { alloc::dealloc(self.ptr.as_ptr(), Self::layout(self.len)) };
        }
    }
}

impl std::ops::Deref for AlignedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `ptr` owns `len` (perhaps 0) initialised bytes (zeroed at birth) for as long as `self` lives.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl std::ops::DerefMut for AlignedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes the borrow unique.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

/// How the bytes of a file are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Load {
    /// Mapped: read when they are touched, shared with all processes that map them, and given back to the system when memory
    /// is short. The file must not shrink meanwhile: the system ends a process that touches what was cut off (`SIGBUS`). Who
    /// writes into it changes the values of weights under way, but nothing else: what is not a value is copied before it is
    /// checked. Poda's own writers, and all that rename a new file into place, disturb nobody.
    #[default]
    Map,
    /// Copied into memory: whatever becomes of the file then does not matter.
    Read,
}

#[derive(Clone)]
enum Source {
    Owned(Arc<AlignedBytes>),
    Mapped(Arc<Mmap>),
}

/// A shared, immutable range of bytes, owned or mapped. Cloning shares it.
#[derive(Clone)]
pub struct Storage {
    source: Source,
    range: Range<usize>,
}

impl Storage {
    /// The whole of an owned buffer.
    pub fn owned(bytes: AlignedBytes) -> Self {
        let range = 0..bytes.len();
        Self { source: Source::Owned(Arc::new(bytes)), range }
    }

    /// Maps a whole file, read only.
    ///
    /// What that asks of others is in [`Load::Map`].
    ///
    /// # Errors
    /// When the file cannot be opened or mapped, or is not a regular one (which is not even opened: a pipe would wait).
    pub fn map(path: &Path) -> io::Result<Self> {
        // Asked before opening, because to open a pipe waits for its writer.
        check_regular(&path.metadata()?)?;
        Self::map_file(&File::open(path)?)
    }

    /// The whole of a file, taken as `load` says.
    ///
    /// # Errors
    /// As [`Storage::map`]; also when memory does not hold it.
    pub fn load(path: &Path, load: Load) -> io::Result<Self> {
        check_regular(&path.metadata()?)?;
        Self::load_file(&File::open(path)?, load)
    }

    /// The whole of an open file, taken as `load` says.
    pub(crate) fn load_file(mut file: &File, load: Load) -> io::Result<Self> {
        if load == Load::Map {
            return Self::map_file(file);
        }
        let metadata = file.metadata()?;
        check_regular(&metadata)?;
        let length = usize::try_from(metadata.len()).ok().and_then(AlignedBytes::try_zeroed);
        let mut bytes = length.ok_or(io::ErrorKind::OutOfMemory)?;
        file.read_exact(&mut bytes)?;
        Ok(Self::owned(bytes))
    }

    /// Maps a whole open file, read only; see [`Storage::map`].
    pub fn map_file(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        check_regular(&metadata)?;
        if metadata.len() == 0 {
            return Ok(Self::owned(AlignedBytes::zeroed(0)));
        }
        // SAFETY: files are immutable while mapped, by the contract documented on `map`.
        let map = unsafe { Mmap::map(file)? };
        let range = 0..map.len();
        Ok(Self { source: Source::Mapped(Arc::new(map)), range })
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        let all: &[u8] = match &self.source {
            Source::Owned(bytes) => bytes,
            Source::Mapped(map) => map,
        };
        &all[self.range.clone()]
    }

    /// A part of this range that shares it, or `None` when `range` reaches outside.
    pub fn slice(&self, range: Range<usize>) -> Option<Self> {
        if range.start > range.end || range.end > self.range.len() {
            return None;
        }
        let start = self.range.start + range.start;
        Some(Self { source: self.source.clone(), range: start..start + range.len() })
    }

    /// The part of this range that `part` borrows from, sharing it; `None` when `part` lies elsewhere.
    pub fn slice_of(&self, part: &[u8]) -> Option<Self> {
        let start = (part.as_ptr() as usize).checked_sub(self.bytes().as_ptr() as usize)?;
        self.slice(start..start.checked_add(part.len())?)
    }

    /// The bytes as a buffer that nobody else has: their own where they are alone in it, otherwise a copy.
    pub fn into_owned(self) -> AlignedBytes {
        match self.source {
            Source::Owned(bytes) if self.range == (0..bytes.len()) => {
                Arc::try_unwrap(bytes).unwrap_or_else(|shared| AlignedBytes::copy_of(&shared))
            }
            _ => AlignedBytes::copy_of(self.bytes()),
        }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// Whether the bytes lie in a mapped file.
    pub fn is_mapped(&self) -> bool {
        matches!(self.source, Source::Mapped(_))
    }

    /// Tells the system that the whole pages of this range are not needed for now, so that they stop counting as
    /// resident. They are read again from the file when touched. Does nothing for owned memory.
    pub fn release(&self) {
        if let Source::Mapped(map) = &self.source {
            const PAGE: usize = 4096;
            let start = self.range.start.next_multiple_of(PAGE);
            let end = self.range.end / PAGE * PAGE;
            if start < end {
                // SAFETY: a read-only file mapping loses nothing by `MADV_DONTNEED`: pages come back from the file.
                let _ = unsafe {
                    map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start)
                };
            }
        }
    }

    /// These bytes if they start on a multiple of `alignment`, otherwise an aligned copy.
    #[must_use]
    pub fn aligned_to(self, alignment: usize) -> Self {
        debug_assert!(alignment <= ALIGNMENT);
        if (self.bytes().as_ptr() as usize).is_multiple_of(alignment) {
            self
        } else {
            Self::owned(AlignedBytes::copy_of(self.bytes()))
        }
    }
}

/// Asks the allocator to return freed memory to the system. What has been freed often stays with the process otherwise,
/// and counts as resident. Does nothing where the C library has no such call.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `malloc_trim` may be called at any time from any thread; it takes no pointer.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Has the allocator give large blocks (bodies of requests, answers) back to the system as soon as they are freed, for a process that
/// runs for long: by itself it keeps what threads have freed, each in a heap of its own and up to 64 MiB at its end. New blocks cost
/// their page faults. ([`AlignedBytes`] of that size do not come from the allocator.)
pub fn give_back_early() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `mallopt` may be called at any time from any thread; it takes no pointer.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20);
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}

/// Refuses what is not a regular file: a folder, a pipe, a device.
///
/// # Errors
/// `InvalidInput`, saying what it is.
pub fn check_regular(metadata: &fs::Metadata) -> io::Result<()> {
    if metadata.is_file() {
        return Ok(());
    }
    Err(if metadata.is_dir() {
        io::Error::new(io::ErrorKind::IsADirectory, "it is a directory")
    } else {
        io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")
    })
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_mapped() { "mapped" } else { "owned" };
        write!(f, "Storage({kind}, {} bytes)", self.len())
    }
}

/// A [`Storage`] as an owner of bytes, such as of the crate `bytes`.
impl AsRef<[u8]> for Storage {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}
