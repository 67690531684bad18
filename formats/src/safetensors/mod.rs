//! safetensors: named dense tensors behind one JSON header.
//!
//! Layout: header length `n` (u64), `n` bytes of JSON, then the tensors' bytes without holes or overlaps, row-major and
//! little-endian. The header maps each name to type, shape and byte range, and `__metadata__` to free-form strings.
//! The format promises no alignment; [`write()`] gives each tensor a multiple of 64 bytes in the file, and so in a
//! mapping, by padding the header with spaces and the gaps with small U8 tensors.
//!
//! Specification: <https://github.com/huggingface/safetensors#format>.

mod read;
mod write;

pub use read::{SafeTensors, SafeTensorsError, read};
pub use write::{write, write_packed};

use safetensors::Dtype;

use crate::dtype::DataType;

/// Key of the header under which free-form strings lie.
pub(crate) const METADATA: &str = "__metadata__";

const fn to_format(dtype: DataType) -> Dtype {
    match dtype {
        DataType::F32 => Dtype::F32,
        DataType::F16 => Dtype::F16,
        DataType::BF16 => Dtype::BF16,
        DataType::F64 => Dtype::F64,
        DataType::I8 => Dtype::I8,
        DataType::I16 => Dtype::I16,
        DataType::I32 => Dtype::I32,
        DataType::I64 => Dtype::I64,
        DataType::U8 => Dtype::U8,
        DataType::U16 => Dtype::U16,
        DataType::U32 => Dtype::U32,
        DataType::U64 => Dtype::U64,
        DataType::Bool => Dtype::BOOL,
    }
}

/// `None` for the types that Poda has not: complex numbers and floats of 4, 6 and 8 bits.
const fn from_format(dtype: Dtype) -> Option<DataType> {
    Some(match dtype {
        Dtype::F32 => DataType::F32,
        Dtype::F16 => DataType::F16,
        Dtype::BF16 => DataType::BF16,
        Dtype::F64 => DataType::F64,
        Dtype::I8 => DataType::I8,
        Dtype::I16 => DataType::I16,
        Dtype::I32 => DataType::I32,
        Dtype::I64 => DataType::I64,
        Dtype::U8 => DataType::U8,
        Dtype::U16 => DataType::U16,
        Dtype::U32 => DataType::U32,
        Dtype::U64 => DataType::U64,
        Dtype::BOOL => DataType::Bool,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::storage::{ALIGNMENT, AlignedBytes, Storage};
    use crate::tensor::Tensor;

    fn storage(bytes: &[u8]) -> Storage {
        Storage::owned(AlignedBytes::copy_of(bytes))
    }

    /// A file with `header` and `data` bytes of zeros.
    fn file(header: &str, data: usize) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; data]].concat()
    }

    fn parse(bytes: &[u8]) -> Result<SafeTensors, SafeTensorsError> {
        SafeTensors::parse(storage(bytes))
    }

    fn metadata() -> BTreeMap<String, String> {
        BTreeMap::from([("note".to_owned(), "a \"b\"\u{0}\u{1b}".to_owned())])
    }

    fn sample() -> (Vec<(String, Tensor)>, Vec<u8>) {
        let tensors = vec![
            ("a".to_owned(), Tensor::from_slice(&[3], &[1_u8, 2, 3])),
            ("empty".to_owned(), Tensor::from_slice::<f32>(&[0, 2], &[])),
            ("b".to_owned(), Tensor::from_slice(&[2, 1], &[f32::NAN, -0.0])),
            ("scalar".to_owned(), Tensor::scalar(7_i64)),
            ("__padding__.0".to_owned(), Tensor::scalar(half::f16::ONE)),
        ];
        let mut out = Vec::new();
        write(&mut out, &metadata(), &tensors).unwrap();
        (tensors, out)
    }

    #[test]
    fn what_is_written_is_read_back_aligned() {
        let (tensors, bytes) = sample();
        let file = parse(&bytes).unwrap();
        assert_eq!(file.metadata(), &metadata());
        for (name, tensor) in &tensors {
            let back = file.tensor(name).unwrap();
            assert_eq!(&back, tensor, "{name}");
            assert!((back.bytes().as_ptr() as usize).is_multiple_of(ALIGNMENT) || back.is_empty(), "{name}");
        }
        assert!(matches!(file.tensor("c"), Err(SafeTensorsError::Missing { .. })));
    }

    #[test]
    fn what_is_packed_holds_nothing_else() {
        let (tensors, _) = sample();
        let mut bytes = Vec::new();
        super::write_packed(&mut bytes, &tensors).unwrap();
        let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(theirs.len(), tensors.len());
        let ours = parse(&bytes).unwrap();
        for (name, tensor) in &tensors {
            assert_eq!(&ours.tensor(name).unwrap(), tensor);
            assert_eq!(theirs.tensor(name).unwrap().data(), tensor.bytes());
        }
    }

    #[test]
    fn the_reference_reader_agrees() {
        let (tensors, bytes) = sample();
        let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        for (name, tensor) in &tensors {
            let view = theirs.tensor(name).unwrap();
            assert_eq!(view.data(), tensor.bytes());
            assert_eq!(view.shape(), tensor.shape());
        }
    }

    #[test]
    fn every_truncation_and_trailing_bytes_are_refused() {
        let (_, mut bytes) = sample();
        for len in 0..bytes.len() {
            assert!(parse(&bytes[..len]).is_err(), "{len} bytes");
        }
        bytes.push(0);
        assert!(matches!(parse(&bytes), Err(SafeTensorsError::DataLength { .. })));
    }

    #[test]
    fn bad_headers_are_refused_by_name() {
        let one = |fields: &str| file(&format!("{{\"w\":{{{fields}}}}}"), 8);
        let cases: Vec<(Vec<u8>, &str)> = vec![
            (Vec::new(), "too short"),
            (u64::MAX.to_le_bytes().to_vec(), "18446744073709551615"),
            (file("[]", 0), "does not begin with"),
            (file(" {}", 0), "does not begin with"),
            (file("{\"w\":1}", 0), "invalid type"),
            (file(&format!("{{\"w\":{}", "[".repeat(100_000)), 0), "header"),
            (one("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]"), "\"w\""),
            (one("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]"), "hole"),
            (one("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8,4]"), "\"w\""),
            (one("\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]"), "invalid value"),
            (one("\"dtype\":\"F4\",\"shape\":[1],\"data_offsets\":[0,4]"), "\"w\""),
            (one("\"dtype\":\"X\",\"shape\":[1],\"data_offsets\":[0,4]"), "unknown variant"),
            (
                one("\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,8]"),
                "[4294967296, 4294967296]",
            ),
            (
                one("\"dtype\":\"F32\",\"shape\":[281474976710656],\"data_offsets\":[0,1125899906842624]"),
                "1125899906842624",
            ),
            (
                file(
                    "{\"a\":{\"dtype\":\"U8\",\"shape\":[6],\"data_offsets\":[0,6]},\
                     \"b\":{\"dtype\":\"U8\",\"shape\":[6],\"data_offsets\":[2,8]}}",
                    8,
                ),
                "\"b\"",
            ),
            (
                file(
                    "{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},\
                     \"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}",
                    0,
                ),
                "twice",
            ),
        ];
        for (bytes, expected) in cases {
            let error = parse(&bytes).unwrap_err().to_string();
            assert!(error.contains(expected), "{error:?} lacks {expected:?}");
        }
    }

    #[test]
    fn a_type_without_equal_is_refused_when_asked_for() {
        let header = "{\"w\":{\"dtype\":\"F8_E4M3\",\"shape\":[1],\"data_offsets\":[0,1]}}";
        let error = parse(&file(header, 1)).unwrap().tensor("w").unwrap_err();
        assert_eq!(error.to_string(), "tensor \"w\" is of type F8_E4M3, which Poda does not have");
    }

    proptest! {
        #[test]
        fn mutations_never_panic(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
            let (_, mut bytes) = sample();
            for (at, byte) in flips {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Ok(file) = parse(&bytes) {
                for name in file.names() {
                    let _ = file.tensor(name);
                }
            }
        }
    }
}
