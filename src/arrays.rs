//! NumPy's `.npy` and `.npz` files as tensors. Formats: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Cursor, Read, Seek, Write};
use std::path::{Path, PathBuf};

use poda_formats::atomic::{self, AtomicFile};
use poda_formats::storage::{AlignedBytes, Storage, check_regular};
use poda_formats::tensor::TensorError;
use poda_formats::{DataType, Tensor};
use zip::result::ZipError;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

/// Deflate cannot compress below 1 byte in 1032; an entry that claims more is not read.
const MAX_COMPRESSION: u64 = 1032;

/// Why arrays cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {problem}", path = path.display())]
pub struct ArraysError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    #[source]
    pub problem: ArraysProblem,
}

/// What can be wrong with a file of arrays.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum ArraysProblem {
    #[error("neither an .npy nor an .npz file")]
    Format,
    #[error("the header of the array makes no sense")]
    Header,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Zip(#[from] ZipError),
    #[error("entry {name:?} is not an .npy file")]
    Entry { name: String },
    #[error("array {name:?} is there twice")]
    Duplicate { name: String },
    #[error("array {name:?}: {bytes} bytes cannot come from {compressed} compressed ones")]
    Bomb { name: String, bytes: u64, compressed: u64 },
    #[error("array {name:?}: {problem}")]
    Array { name: String, problem: Box<ArraysProblem> },
    #[error("elements of type {found} are not supported: save numbers or booleans")]
    DataType { found: String },
    #[error("shape {shape:?} of {dtype} needs {needed} bytes, the file has {available}")]
    Length { shape: Vec<u64>, dtype: DataType, needed: u128, available: u64 },
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

/// All arrays of an `.npz` file by name, or the one array of an `.npy` file under the name `""`.
///
/// # Errors
/// When the file cannot be read, or an array is not made of numbers or booleans.
pub fn read(path: impl AsRef<Path>) -> Result<BTreeMap<String, Tensor>, ArraysError> {
    let path = path.as_ref();
    read_file(path).map_err(|problem| ArraysError { path: path.to_owned(), problem })
}

fn read_file(path: &Path) -> Result<BTreeMap<String, Tensor>, ArraysProblem> {
    // Of a pipe or a device, opening may wait and reading may not end.
    let metadata = fs::metadata(path)?;
    check_regular(&metadata)?;
    let mut reader = BufReader::new(File::open(path)?);
    match reader.fill_buf()? {
        bytes if bytes.starts_with(MAGIC) => {
            Ok(BTreeMap::from([(String::new(), read_array(reader, metadata.len())?)]))
        }
        [b'P', b'K', ..] => read_zip(reader),
        _ => Err(ArraysProblem::Format),
    }
}

/// All arrays of the bytes of an `.npz` file, by name.
///
/// # Errors
/// As [`read`].
pub fn read_npz(bytes: &[u8]) -> Result<BTreeMap<String, Tensor>, ArraysProblem> {
    read_zip(Cursor::new(bytes))
}

fn read_zip(reader: impl Read + Seek) -> Result<BTreeMap<String, Tensor>, ArraysProblem> {
    let mut zip = ZipArchive::new(reader)?;
    let mut arrays = BTreeMap::new();
    for index in 0..zip.len() {
        let entry = zip.by_index(index)?;
        let name = entry.name()?.into_owned();
        let Some(name) = name.strip_suffix(".npy").map(str::to_owned) else {
            return Err(ArraysProblem::Entry { name });
        };
        let (bytes, compressed) = (entry.size(), entry.compressed_size());
        if bytes / MAX_COMPRESSION > compressed {
            return Err(ArraysProblem::Bomb { name, bytes, compressed });
        }
        let tensor = match read_array(entry, bytes) {
            Ok(tensor) => tensor,
            Err(problem) => return Err(ArraysProblem::Array { name, problem: Box::new(problem) }),
        };
        if arrays.insert(name.clone(), tensor).is_some() {
            return Err(ArraysProblem::Duplicate { name });
        }
    }
    Ok(arrays)
}

/// What every `.npy` stream begins with.
const MAGIC: &[u8] = b"\x93NUMPY";
/// NumPy reads no longer header unless told to, and writes none.
const MAX_HEADER: usize = 64 << 10;

/// What an `.npy` stream says of its array.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Header {
    /// Byte order, kind and size, such as `<f4`.
    descr: String,
    column_major: bool,
    shape: Vec<u64>,
}

impl Header {
    fn read(reader: &mut impl Read) -> Result<Self, ArraysProblem> {
        let mut start = [0; 8];
        reader.read_exact(&mut start)?;
        let mut length = [0; 4];
        match start[6] {
            _ if !start.starts_with(MAGIC) => return Err(ArraysProblem::Header),
            1 => reader.read_exact(&mut length[..2])?,
            2 | 3 => reader.read_exact(&mut length)?,
            _ => return Err(ArraysProblem::Header),
        }
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_HEADER {
            return Err(ArraysProblem::Header);
        }
        let mut text = vec![0; length];
        reader.read_exact(&mut text)?;
        let text = String::from_utf8(text).map_err(|_| ArraysProblem::Header)?;
        Self::parse(&text).ok_or(ArraysProblem::Header)
    }

    /// `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }`, the keys in any order.
    fn parse(text: &str) -> Option<Self> {
        let mut rest = text.trim().strip_prefix('{')?.trim_start();
        let (mut descr, mut column_major, mut shape) = (None, None, None);
        while !rest.starts_with('}') {
            let (key, after) = quoted(rest)?;
            rest = after.trim_start().strip_prefix(':')?.trim_start();
            match key {
                // Of records there is a list, which no tensor is.
                "descr" if rest.starts_with('[') => {
                    let end = rest.rfind(']')? + 1;
                    descr = Some(rest[..end].to_owned());
                    rest = &rest[end..];
                }
                "descr" => {
                    let (value, after) = quoted(rest)?;
                    (descr, rest) = (Some(value.to_owned()), after);
                }
                "fortran_order" => {
                    let value = rest.starts_with("True");
                    rest = rest.strip_prefix(if value { "True" } else { "False" })?;
                    column_major = Some(value);
                }
                "shape" => {
                    let (inner, after) = rest.strip_prefix('(')?.split_once(')')?;
                    let sizes = inner.split(',').map(str::trim).filter(|size| !size.is_empty());
                    // Python 2 wrote long numbers as `3L`.
                    let size = |size: &str| size.trim_end_matches('L').parse::<u64>().ok();
                    (shape, rest) = (Some(sizes.map(size).collect::<Option<Vec<_>>>()?), after);
                }
                _ => return None,
            }
            rest = rest.trim_start();
            rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
        }
        Some(Self { descr: descr?, column_major: column_major?, shape: shape? })
    }

    /// As bytes; the data that follow lie at a multiple of 64.
    fn bytes(&self) -> Vec<u8> {
        let order = if self.column_major { "True" } else { "False" };
        let sizes = match self.shape[..] {
            [size] => format!("{size},"),
            _ => self.shape.iter().map(u64::to_string).collect::<Vec<_>>().join(", "),
        };
        let mut text =
            format!("{{'descr': '{}', 'fortran_order': {order}, 'shape': ({sizes}), }}", self.descr);
        let before = MAGIC.len() + 4;
        let padded = (before + text.len() + 1).next_multiple_of(64) - before;
        text.extend(std::iter::repeat_n(' ', padded - 1 - text.len()));
        text.push('\n');
        // A rank that makes a longer header than this is beyond any tensor.
        let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
        [MAGIC, &[1, 0], &length.to_le_bytes(), text.as_bytes()].concat()
    }
}

/// A quoted text without escapes, and what comes after it.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    text[1..].split_once(quote)
}

/// One `.npy` stream of `available` bytes.
fn read_array(mut reader: impl Read, available: u64) -> Result<Tensor, ArraysProblem> {
    let header = Header::read(&mut reader)?;
    let (dtype, swap) = data_type(&header.descr)?;
    let elements = header.shape.iter().try_fold(1_u128, |product, &dim| product.checked_mul(dim.into()));
    let needed = elements.unwrap_or(u128::MAX).saturating_mul(dtype.size() as u128);
    if needed > available.into() {
        return Err(ArraysProblem::Length { shape: header.shape, dtype, needed, available });
    }
    let shape: Vec<usize> =
        header.shape.iter().map(|&dim| usize::try_from(dim).unwrap_or(usize::MAX)).collect();
    let mut data = AlignedBytes::zeroed(needed as usize);
    reader.read_exact(&mut data)?;
    if swap {
        data.chunks_exact_mut(dtype.size()).for_each(<[u8]>::reverse);
    }
    if header.column_major && shape.len() > 1 {
        data = row_major(&data, dtype.size(), &shape);
    }
    Ok(Tensor::new(dtype, shape, Storage::owned(data))?)
}

/// Types by NumPy's name without byte order.
const TYPES: [(&str, DataType); 12] = [
    ("f2", DataType::F16),
    ("f4", DataType::F32),
    ("f8", DataType::F64),
    ("i1", DataType::I8),
    ("i2", DataType::I16),
    ("i4", DataType::I32),
    ("i8", DataType::I64),
    ("u1", DataType::U8),
    ("u2", DataType::U16),
    ("u4", DataType::U32),
    ("u8", DataType::U64),
    ("b1", DataType::Bool),
];

/// The element type, and whether bytes must be swapped.
fn data_type(descr: &str) -> Result<(DataType, bool), ArraysProblem> {
    let big = descr.starts_with('>');
    let name = descr.trim_start_matches(['<', '>', '|', '=']);
    match TYPES.iter().find(|(known, _)| *known == name) {
        Some(&(_, dtype)) => Ok((dtype, big)),
        None => Err(ArraysProblem::DataType { found: descr.to_owned() }),
    }
}

/// Copies column-major elements of `size` bytes into row-major order.
fn row_major(data: &[u8], size: usize, shape: &[usize]) -> AlignedBytes {
    let mut out = AlignedBytes::zeroed(data.len());
    let mut index = vec![0; shape.len()];
    for element in out.chunks_exact_mut(size) {
        let from = index.iter().zip(shape).rev().fold(0, |at, (&i, &dim)| at * dim + i);
        element.copy_from_slice(&data[from * size..][..size]);
        for (i, &dim) in index.iter_mut().zip(shape).rev() {
            *i += 1;
            if *i < dim {
                break;
            }
            *i = 0;
        }
    }
    out
}

/// Writes an uncompressed `.npz`; bf16 arrays, which NumPy lacks, become f32. The file appears whole or not at all.
///
/// # Errors
/// When the file cannot be written.
pub fn write_npz(path: impl AsRef<Path>, arrays: &[(String, Tensor)]) -> Result<(), ArraysError> {
    let path = path.as_ref();
    write_zip(path, arrays).map_err(|problem| ArraysError { path: path.to_owned(), problem })
}

fn write_zip(path: &Path, arrays: &[(String, Tensor)]) -> Result<(), ArraysProblem> {
    let path = &atomic::destination(path)?;
    let mut file = AtomicFile::create_in(atomic::folder(path))?;
    let mut zip = ZipWriter::new_stream(&mut file);
    for (name, tensor) in arrays {
        let tensor = numpy_tensor(tensor)?;
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .large_file(tensor.bytes().len() > 1 << 31);
        zip.start_file(format!("{name}.npy"), options)?;
        let shape = tensor.shape().iter().map(|&dim| dim as u64).collect();
        let header = Header { descr: type_string(tensor.dtype()), column_major: false, shape };
        zip.write_all(&header.bytes())?;
        zip.write_all(tensor.bytes())?;
    }
    zip.finish()?;
    Ok(file.commit(path)?)
}

fn numpy_tensor(tensor: &Tensor) -> Result<Tensor, TensorError> {
    if tensor.dtype() != DataType::BF16 {
        return Ok(tensor.clone());
    }
    let values: Vec<f32> = tensor.as_slice::<half::bf16>()?.iter().map(|v| v.to_f32()).collect();
    Ok(Tensor::from_slice(tensor.shape(), &values))
}

/// NumPy's name of a type.
fn type_string(dtype: DataType) -> String {
    let name = TYPES.iter().find(|(_, known)| *known == dtype).map_or("f4", |(name, _)| name);
    let order = if dtype.size() == 1 { '|' } else { '<' };
    format!("{order}{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_of_every_type_survive_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("arrays.npz");
        let arrays = [
            ("f32".to_owned(), Tensor::from_slice(&[2, 2], &[1.0_f32, f32::NAN, -0.0, 1e-40])),
            ("i64/nested name".to_owned(), Tensor::from_slice(&[], &[i64::MIN])),
            ("u8".to_owned(), Tensor::from_slice(&[0, 3], &[0_u8; 0])),
            ("bool".to_owned(), Tensor::zeros(DataType::Bool, &[3])),
            ("f16".to_owned(), Tensor::from_slice(&[1], &[half::f16::from_f32(1.5)])),
        ];
        write_npz(&path, &arrays).unwrap();
        let back = read(&path).unwrap();
        assert_eq!(back, BTreeMap::from(arrays));
    }

    #[test]
    fn headers_are_as_numpy_writes_them() {
        for (shape, said) in [(vec![], "()"), (vec![3], "(3,)"), (vec![2, 0, 5], "(2, 0, 5)")] {
            let header = Header { descr: "<f4".into(), column_major: false, shape };
            let bytes = header.bytes();
            assert_eq!(bytes.len() % 64, 0);
            let text = String::from_utf8_lossy(&bytes[10..]).into_owned();
            let expected = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {said}, }}");
            assert_eq!(text.trim_end(), expected);
            assert_eq!(Header::read(&mut &bytes[..]).unwrap(), header);
        }
    }

    #[test]
    fn column_major_and_big_endian_arrays_are_understood() {
        let npy = |text: &str, data: &[u8]| {
            let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
            bytes.extend((text.len() as u16).to_le_bytes());
            bytes.extend(text.as_bytes());
            bytes.extend(data);
            let available = bytes.len() as u64;
            read_array(&bytes[..], available)
        };
        let text = "{'descr': '>i2', 'fortran_order': True, 'shape': (2, 3), }\n";
        let columns = [0, 1, 0, 4, 0, 2, 0, 5, 0, 3, 0, 6];
        assert_eq!(npy(text, &columns).unwrap().as_slice::<i16>().unwrap(), [1, 2, 3, 4, 5, 6]);
        assert!(matches!(npy(text, &columns[..4]), Err(ArraysProblem::Io(_) | ArraysProblem::Length { .. })));
        let huge = "{'descr': '<f8', 'fortran_order': False, 'shape': (9999999999999, 9999999), }\n";
        assert!(npy(huge, &[0; 8]).is_err());
        for descr in ["'<U4'", "'<c8'", "'|O'", "'<M8[ns]'", "[('a', '<f4'), ('b', '<i8')]"] {
            let text = format!("{{'descr': {descr}, 'fortran_order': False, 'shape': (1,), }}\n");
            assert!(matches!(npy(&text, &[0; 16]), Err(ArraysProblem::DataType { .. })), "{descr}");
        }
        for text in ["", "{", "{'descr': '<f4'}", "{'descr': '<f4', 'fortran_order': 0, 'shape': ()}", "{'é'"]
        {
            assert!(matches!(npy(text, &[0; 16]), Err(ArraysProblem::Header)), "{text}");
        }
        let negative = "{'shape': (-1,), 'descr': '<f4', 'fortran_order': False}";
        assert!(matches!(npy(negative, &[0; 16]), Err(ArraysProblem::Header)));
    }
}
