//! NumPy's `.npy` and `.npz` files as tensors. Formats: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Cursor, Read, Seek, Write};
use std::panic;
use std::path::{Path, PathBuf};

use npyz::WriterBuilder;
use npyz::{DType, Endianness, NpyHeader, Order, TypeChar, TypeStr};
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
        [0x93, b'N', b'U', b'M', b'P', b'Y', ..] => {
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
        let Some(name) = npyz::npz::array_name_from_file_name(&name).map(str::to_owned) else {
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

/// One `.npy` stream of `available` bytes.
fn read_array(mut reader: impl Read, available: u64) -> Result<Tensor, ArraysProblem> {
    // The parser multiplies the dimensions before anyone can look at them.
    let header = panic::catch_unwind(panic::AssertUnwindSafe(|| NpyHeader::from_reader(&mut reader)))
        .map_err(|_| ArraysProblem::Header)??;
    let (dtype, swap) = data_type(&header.dtype())?;
    let elements = header.shape().iter().try_fold(1_u128, |product, &dim| product.checked_mul(dim.into()));
    let needed = elements.unwrap_or(u128::MAX).saturating_mul(dtype.size() as u128);
    if needed > available.into() {
        return Err(ArraysProblem::Length { shape: header.shape().to_vec(), dtype, needed, available });
    }
    let shape: Vec<usize> =
        header.shape().iter().map(|&dim| usize::try_from(dim).unwrap_or(usize::MAX)).collect();
    let mut data = AlignedBytes::zeroed(needed as usize);
    reader.read_exact(&mut data)?;
    if swap {
        data.chunks_exact_mut(dtype.size()).for_each(<[u8]>::reverse);
    }
    if header.order() == Order::Fortran && shape.len() > 1 {
        data = row_major(&data, dtype.size(), &shape);
    }
    Ok(Tensor::new(dtype, shape, Storage::owned(data))?)
}

/// The element type, and whether bytes must be swapped.
fn data_type(dtype: &DType) -> Result<(DataType, bool), ArraysProblem> {
    let DType::Plain(plain) = dtype else {
        return Err(ArraysProblem::DataType { found: dtype.descr() });
    };
    let found = match (plain.type_char(), plain.size_field()) {
        (TypeChar::Float, 2) => DataType::F16,
        (TypeChar::Float, 4) => DataType::F32,
        (TypeChar::Float, 8) => DataType::F64,
        (TypeChar::Int, 1) => DataType::I8,
        (TypeChar::Int, 2) => DataType::I16,
        (TypeChar::Int, 4) => DataType::I32,
        (TypeChar::Int, 8) => DataType::I64,
        (TypeChar::Uint, 1) => DataType::U8,
        (TypeChar::Uint, 2) => DataType::U16,
        (TypeChar::Uint, 4) => DataType::U32,
        (TypeChar::Uint, 8) => DataType::U64,
        (TypeChar::Bool, 1) => DataType::Bool,
        _ => return Err(ArraysProblem::DataType { found: plain.to_string() }),
    };
    Ok((found, plain.endianness() == Endianness::Big))
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
        zip.start_file(npyz::npz::file_name_from_array_name(name), options)?;
        let shape: Vec<u64> = tensor.shape().iter().map(|&dim| dim as u64).collect();
        let writer = npyz::WriteOptions::<f32>::new()
            .dtype(DType::Plain(type_string(tensor.dtype())))
            .shape(&shape)
            .writer(&mut zip)
            .write_header_only()?;
        writer.write_all(tensor.bytes())?;
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

fn type_string(dtype: DataType) -> TypeStr {
    let text = match dtype {
        DataType::F16 => "<f2",
        DataType::F32 | DataType::BF16 => "<f4",
        DataType::F64 => "<f8",
        DataType::I8 => "|i1",
        DataType::I16 => "<i2",
        DataType::I32 => "<i4",
        DataType::I64 => "<i8",
        DataType::U8 => "|u1",
        DataType::U16 => "<u2",
        DataType::U32 => "<u4",
        DataType::U64 => "<u8",
        DataType::Bool => "|b1",
    };
    text.parse().expect("one of NumPy's type strings")
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
        let text = "{'descr': '<U4', 'fortran_order': False, 'shape': (1,), }\n";
        assert!(matches!(npy(text, &[0; 16]), Err(ArraysProblem::DataType { .. })));
    }
}
