//! Tensors of requests, from JSON or bytes: every size is checked against the limits before memory is taken.
//!
//! What a request may hold is bounded by its body; nothing here takes more memory than the tensors that it really carries.

use half::{bf16, f16};
use poda_formats::storage::{AlignedBytes, Storage};
use poda_formats::tensor::checked_bytes;
use poda_formats::{DataType, Tensor};
use serde_json::value::RawValue;

use crate::datatype;

/// Why a request cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum DecodeError {
    #[error("the request is not valid JSON of its form: {reason}")]
    Json { reason: String },
    #[error("header {name} is {value:?}, expected {expected}")]
    Header { name: &'static str, value: String, expected: &'static str },
    #[error("input {name:?}: datatype {datatype:?} is not supported")]
    DataType { name: String, datatype: String },
    #[error("input {name:?}: shape {shape:?} has a negative size, or more elements than can be addressed")]
    Shape { name: String, shape: Vec<i64> },
    #[error("input {name:?} has {elements} elements, more than {limit}, the limit of --max-elements")]
    Elements { name: String, elements: usize, limit: usize },
    #[error("input {name:?}: {reason}")]
    Data { name: String, reason: String },
    #[error("input {name:?} has neither data nor binary_data_size")]
    NoData { name: String },
    #[error("input {name:?} needs {expected} bytes, {found} are given")]
    Length { name: String, expected: usize, found: usize },
    #[error("the binary data of the inputs ends after {expected} bytes, the body after {found}")]
    Trailing { expected: usize, found: usize },
    #[error("{what} is not supported: {instead}")]
    Unsupported { what: &'static str, instead: &'static str },
}

/// What is known of a tensor before its elements.
#[derive(Debug)]
pub(crate) struct Head<'a> {
    pub(crate) name: &'a str,
    pub(crate) dtype: DataType,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: usize,
}

impl<'a> Head<'a> {
    /// Checks names and sizes.
    pub(crate) fn new(
        name: &'a str,
        datatype: &str,
        shape: &[i64],
        max_elements: usize,
    ) -> Result<Self, DecodeError> {
        let named = || name.to_owned();
        let dtype = datatype::parse(datatype)
            .ok_or_else(|| DecodeError::DataType { name: named(), datatype: datatype.to_owned() })?;
        let wrong = || DecodeError::Shape { name: named(), shape: shape.to_vec() };
        if shape.len() > 32 {
            return Err(wrong());
        }
        let sizes: Option<Vec<usize>> = shape.iter().map(|&dim| usize::try_from(dim).ok()).collect();
        let sizes = sizes.ok_or_else(wrong)?;
        let bytes = checked_bytes(dtype, &sizes).ok_or_else(wrong)?;
        let elements = bytes / dtype.size();
        if elements > max_elements {
            return Err(DecodeError::Elements { name: named(), elements, limit: max_elements });
        }
        Ok(Self { name, dtype, shape: sizes, bytes })
    }

    fn finish(self, bytes: AlignedBytes) -> Result<Tensor, DecodeError> {
        let name = self.name;
        Tensor::new(self.dtype, self.shape, Storage::owned(bytes))
            .map_err(|error| DecodeError::Data { name: name.to_owned(), reason: error.to_string() })
    }

    /// From little-endian elements.
    pub(crate) fn bytes(self, bytes: &[u8]) -> Result<Tensor, DecodeError> {
        if bytes.len() != self.bytes {
            let name = self.name.to_owned();
            return Err(DecodeError::Length { name, expected: self.bytes, found: bytes.len() });
        }
        if self.dtype == DataType::Bool
            && let Some(at) = bytes.iter().position(|&byte| byte > 1)
        {
            let reason = format!("element {at} is {}, no BOOL", bytes[at]);
            return Err(DecodeError::Data { name: self.name.to_owned(), reason });
        }
        self.finish(AlignedBytes::copy_of(bytes))
    }

    /// From a JSON array, flat or nested as the shape is.
    pub(crate) fn json(self, data: &RawValue) -> Result<Tensor, DecodeError> {
        // An element takes two characters at least, so that memory is in proportion to the text.
        let elements = self.bytes / self.dtype.size();
        let text = data.get();
        let failed = |reason: String| DecodeError::Data { name: self.name.to_owned(), reason };
        if elements > text.len() {
            return Err(failed(format!("shape {:?} has more elements than the data", self.shape)));
        }
        let mut bytes = AlignedBytes::zeroed(self.bytes);
        let mut sink = Sink { dtype: self.dtype, shape: &self.shape, elements, bytes: &mut bytes, at: 0 };
        sink.arrays(text).map_err(failed)?;
        let found = sink.at;
        if found != elements {
            return Err(failed(format!("{found} elements for shape {:?}", self.shape)));
        }
        self.finish(bytes)
    }
}

/// Where elements go.
struct Sink<'a> {
    dtype: DataType,
    shape: &'a [usize],
    elements: usize,
    bytes: &'a mut [u8],
    at: usize,
}

/// An array that has begun.
#[derive(Default)]
struct Array {
    count: usize,
    /// Whether it holds elements, or arrays of them.
    flat: Option<bool>,
}

impl Array {
    fn add(&mut self, element: bool) -> Result<(), String> {
        if self.flat.replace(element).is_some_and(|flat| flat != element) {
            return Err("numbers and arrays side by side".into());
        }
        self.count += 1;
        Ok(())
    }
}

impl Sink<'_> {
    /// Reads what is known to be JSON: arrays of numbers, without a visitor's call for each.
    fn arrays(&mut self, text: &str) -> Result<(), String> {
        let mut open: Vec<Array> = Vec::new();
        let mut at = 0;
        while let Some(&byte) = text.as_bytes().get(at) {
            match byte {
                b' ' | b'\t' | b'\n' | b'\r' | b',' => {}
                b'[' if open.len() > self.shape.len() => {
                    return Err(format!("arrays are nested more deeply than shape {:?}", self.shape));
                }
                b'[' => {
                    open.last_mut().map_or(Ok(()), |outer| outer.add(false))?;
                    open.push(Array::default());
                }
                b']' => {
                    let array = open.pop().unwrap_or_default();
                    self.check(&array, open.len())?;
                }
                _ => {
                    let rest = &text.as_bytes()[at..];
                    let ends = |&byte: &u8| matches!(byte, b',' | b']' | b' ' | b'\t' | b'\n' | b'\r');
                    let length = rest.iter().position(ends).unwrap_or(rest.len());
                    match open.last_mut() {
                        Some(array) => array.add(true)?,
                        None if self.shape.is_empty() => {}
                        None => return Err("data is no array".into()),
                    }
                    self.push(text.get(at..at + length).unwrap_or_default())?;
                    at += length;
                    continue;
                }
            }
            at += 1;
        }
        Ok(())
    }

    /// Whether a whole array at some depth fits the shape.
    fn check(&self, array: &Array, depth: usize) -> Result<(), String> {
        let (rank, size) = (self.shape.len(), self.shape.get(depth).copied().unwrap_or(0));
        let (expected, fits) = match array.flat {
            // All elements in a row.
            Some(true) if depth == 0 => (self.elements, true),
            Some(true) => (size, depth + 1 == rank),
            Some(false) => (size, depth + 1 < rank),
            None => (0, self.elements == 0),
        };
        let (count, shape) = (array.count, self.shape);
        if count == expected && fits {
            return Ok(());
        }
        Err(format!("an array of {count} at depth {depth} does not fit shape {shape:?}"))
    }

    /// Takes an element as JSON has it.
    fn push(&mut self, text: &str) -> Result<(), String> {
        if self.at >= self.elements {
            return Err(format!("more elements than shape {:?} has", self.shape));
        }
        let size = self.dtype.size();
        let place = &mut self.bytes[self.at * size..][..size];
        write(self.dtype, text, place).ok_or_else(|| {
            let text: String = text.chars().take(32).collect();
            format!("{text} is no {}", datatype::name(self.dtype))
        })?;
        self.at += 1;
        Ok(())
    }
}

/// Writes a number as an element, or gives `None` where it is none of the type.
fn write(dtype: DataType, text: &str, place: &mut [u8]) -> Option<()> {
    macro_rules! element {
        ($type:ty) => {
            place.copy_from_slice(&text.parse::<$type>().ok()?.to_le_bytes())
        };
    }
    // (What Rust reads beside the numbers of JSON, `inf` and `nan`, is not finite.)
    let float = || text.parse::<f64>().ok();
    match dtype {
        DataType::Bool => {
            place[0] = match text {
                "true" | "1" => 1,
                "false" | "0" => 0,
                _ => return None,
            }
        }
        DataType::U8 => element!(u8),
        DataType::U16 => element!(u16),
        DataType::U32 => element!(u32),
        DataType::U64 => element!(u64),
        DataType::I8 => element!(i8),
        DataType::I16 => element!(i16),
        DataType::I32 => element!(i32),
        DataType::I64 => element!(i64),
        DataType::F64 => place.copy_from_slice(&float().filter(|value| value.is_finite())?.to_le_bytes()),
        DataType::F32 => {
            let value = text.parse::<f32>().ok().filter(|value| value.is_finite())?;
            place.copy_from_slice(&value.to_le_bytes());
        }
        DataType::F16 => {
            let value = Some(f16::from_f64(float()?)).filter(|value| value.is_finite())?;
            place.copy_from_slice(&value.to_le_bytes());
        }
        DataType::BF16 => {
            let value = Some(bf16::from_f64(float()?)).filter(|value| value.is_finite())?;
            place.copy_from_slice(&value.to_le_bytes());
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(datatype: &str, shape: &[i64], data: &str) -> Result<Tensor, DecodeError> {
        let data: Box<RawValue> = serde_json::from_str(data).unwrap();
        Head::new("x", datatype, shape, 100)?.json(&data)
    }

    fn message(datatype: &str, shape: &[i64], data: &str) -> String {
        json(datatype, shape, data).unwrap_err().to_string()
    }

    #[test]
    fn arrays_are_flat_or_nested_as_the_shape_is() {
        let expected = Tensor::from_slice(&[2, 2], &[1.0_f32, -2.5, 3.0, 4e-3]);
        for data in ["[1, -2.5, 3.0, 4e-3]", "[[1, -2.5], [3, 0.004]]"] {
            assert_eq!(json("FP32", &[2, 2], data).unwrap(), expected, "{data}");
        }
        assert_eq!(json("INT64", &[], "7").unwrap(), Tensor::scalar(7_i64));
        assert_eq!(json("INT64", &[], "[7]").unwrap(), Tensor::scalar(7_i64));
        assert_eq!(json("BOOL", &[2], "[true, 0]").unwrap().bytes(), [1, 0]);
        assert!(json("FP32", &[2, 0], "[]").unwrap().is_empty());
        assert!(json("FP32", &[2, 0], "[[], []]").unwrap().is_empty());
        for data in [
            "[[1, 2, 3], [4]]",
            "[[[1, 2], [3, 4]]]",
            "[1, 2, 3]",
            "[1, 2, 3, 4, 5]",
            "[[1, 2], 3, 4]",
            "4",
            "[]",
        ] {
            assert!(json("FP32", &[2, 2], data).is_err(), "{data}");
        }
    }

    #[test]
    fn numbers_must_be_of_the_type() {
        assert!(message("UINT8", &[1], "[256]").contains("256 is no UINT8"));
        assert!(message("INT32", &[1], "[1.5]").contains("1.5 is no INT32"));
        assert!(message("FP32", &[1], "[1e39]").contains("no FP32"));
        assert!(message("FP16", &[1], "[70000]").contains("no FP16"));
        for wrong in ["\"1\"", "null", "true", "{}", "\"ä, ö\"", "1e999"] {
            let text = format!("[{wrong}]");
            for datatype in ["FP16", "BF16", "FP32", "FP64", "INT64", "UINT8"] {
                assert!(message(datatype, &[1], &text).contains("is no"), "{datatype} {wrong}");
            }
        }
        assert!(message("BOOL", &[1], "[2]").contains("2 is no BOOL"));
        assert!(message("UINT8", &[1], "[-1]").contains("-1 is no UINT8"));
        assert_eq!(json("FP64", &[2], "[-0.1,1E2]").unwrap(), Tensor::from_slice(&[2], &[-0.1, 100.0]));
        assert_eq!(
            json("INT64", &[1], "[-9223372036854775808]").unwrap(),
            Tensor::from_slice(&[1], &[i64::MIN])
        );
        assert_eq!(
            json("UINT64", &[1], "[18446744073709551615]").unwrap(),
            Tensor::from_slice(&[1], &[u64::MAX])
        );
    }

    #[test]
    fn sizes_are_checked_before_memory_is_taken() {
        assert!(matches!(json("FP32", &[-1], "[1]"), Err(DecodeError::Shape { .. })));
        assert!(matches!(json("FP32", &[i64::MAX, i64::MAX], "[1]"), Err(DecodeError::Shape { .. })));
        assert!(matches!(json("FP32", &[101], "[1]"), Err(DecodeError::Elements { limit: 100, .. })));
        assert!(matches!(json("BYTES", &[1], "[1]"), Err(DecodeError::DataType { .. })));
        let deep = format!("{}1{}", "[".repeat(120), "]".repeat(120));
        assert!(message("FP32", &[1], &deep).contains("nested"));
    }

    #[test]
    fn bytes_must_be_those_of_the_shape() {
        let head = |shape: &[i64]| Head::new("x", "FP32", shape, 100).unwrap();
        let one = Tensor::from_slice(&[1], &[1.0_f32]);
        assert_eq!(head(&[1]).bytes(&1.0_f32.to_le_bytes()).unwrap(), one);
        assert!(matches!(head(&[2]).bytes(&[0; 4]), Err(DecodeError::Length { expected: 8, found: 4, .. })));
        assert!(Head::new("x", "BOOL", &[2], 100).unwrap().bytes(&[1, 2]).is_err());
    }
}
