//! Tensors of requests, from JSON or bytes: every size is checked against the limits before memory is taken.
//!
//! What a request may hold is bounded by its body; nothing here takes more memory than the tensors that it really carries.

use std::fmt;

use half::{bf16, f16};
use poda_formats::storage::{AlignedBytes, Storage};
use poda_formats::tensor::checked_bytes;
use poda_formats::{DataType, Tensor};
use serde::de::{self, DeserializeSeed, SeqAccess, Visitor};
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
        let mut json = serde_json::Deserializer::from_str(text);
        let level = Level { sink: &mut sink, depth: 0 };
        level.deserialize(&mut json).map_err(|error| failed(error.to_string()))?;
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

/// A number as JSON has it.
#[derive(Debug, Clone, Copy)]
enum Number {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsigned(n) => n.fmt(f),
            Self::Signed(n) => n.fmt(f),
            Self::Float(n) => n.fmt(f),
            Self::Bool(n) => n.fmt(f),
        }
    }
}

impl Sink<'_> {
    fn push(&mut self, number: Number) -> Result<(), String> {
        if self.at >= self.elements {
            return Err(format!("more elements than shape {:?} has", self.shape));
        }
        let size = self.dtype.size();
        let place = &mut self.bytes[self.at * size..][..size];
        let fits = write(self.dtype, number, place);
        fits.ok_or_else(|| format!("{number} is no {}", datatype::name(self.dtype)))?;
        self.at += 1;
        Ok(())
    }
}

/// Writes a number as an element, or gives `None` where it is none of the type.
fn write(dtype: DataType, number: Number, place: &mut [u8]) -> Option<()> {
    macro_rules! integer {
        ($type:ty) => {{
            let value = match number {
                Number::Unsigned(n) => <$type>::try_from(n).ok()?,
                Number::Signed(n) => <$type>::try_from(n).ok()?,
                Number::Float(_) | Number::Bool(_) => return None,
            };
            place.copy_from_slice(&value.to_le_bytes());
        }};
    }
    let float = || match number {
        Number::Unsigned(n) => Some(n as f64),
        Number::Signed(n) => Some(n as f64),
        Number::Float(n) => Some(n),
        Number::Bool(_) => None,
    };
    match dtype {
        DataType::Bool => match number {
            Number::Bool(b) => place[0] = u8::from(b),
            Number::Unsigned(n @ (0 | 1)) => place[0] = n as u8,
            _ => return None,
        },
        DataType::U8 => integer!(u8),
        DataType::U16 => integer!(u16),
        DataType::U32 => integer!(u32),
        DataType::U64 => integer!(u64),
        DataType::I8 => integer!(i8),
        DataType::I16 => integer!(i16),
        DataType::I32 => integer!(i32),
        DataType::I64 => integer!(i64),
        DataType::F64 => place.copy_from_slice(&float()?.to_le_bytes()),
        DataType::F32 => {
            let value = Some(float()? as f32).filter(|value| value.is_finite())?;
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

/// An element, or an array of them at some depth. Gives whether it was an element.
struct Level<'s, 'a> {
    sink: &'s mut Sink<'a>,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Level<'_, '_> {
    type Value = bool;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Level<'_, '_> {
    fn number<E: de::Error>(self, number: Number) -> Result<bool, E> {
        if self.depth == 0 && !self.sink.shape.is_empty() {
            return Err(E::custom("data is no array"));
        }
        self.sink.push(number).map_err(E::custom)?;
        Ok(true)
    }
}

impl<'de> Visitor<'de> for Level<'_, '_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("numbers in arrays")
    }

    fn visit_u64<E: de::Error>(self, n: u64) -> Result<bool, E> {
        self.number(Number::Unsigned(n))
    }

    fn visit_i64<E: de::Error>(self, n: i64) -> Result<bool, E> {
        self.number(Number::Signed(n))
    }

    fn visit_f64<E: de::Error>(self, n: f64) -> Result<bool, E> {
        self.number(Number::Float(n))
    }

    fn visit_bool<E: de::Error>(self, b: bool) -> Result<bool, E> {
        self.number(Number::Bool(b))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<bool, A::Error> {
        let Self { sink, depth } = self;
        let (mut count, mut flat) = (0, None);
        while let Some(element) = seq.next_element_seed(Level { sink, depth: depth + 1 })? {
            if flat.is_some_and(|flat| flat != element) {
                return Err(de::Error::custom("numbers and arrays side by side"));
            }
            flat = Some(element);
            count += 1;
        }
        let rank = sink.shape.len();
        let (expected, fits) = match flat {
            // All elements in a row.
            Some(true) if depth == 0 => (sink.elements, true),
            Some(true) => (sink.shape.get(depth).copied().unwrap_or(0), depth + 1 == rank),
            Some(false) => (sink.shape.get(depth).copied().unwrap_or(0), depth + 1 < rank),
            None => (0, sink.elements == 0),
        };
        if count == expected && fits {
            return Ok(false);
        }
        let shape = sink.shape;
        Err(de::Error::custom(format!("an array of {count} at depth {depth} does not fit shape {shape:?}")))
    }
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
        assert!(message("FP32", &[1], "[\"1\"]").contains("invalid type"));
        assert!(message("FP32", &[1], "[null]").contains("invalid type"));
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
        assert!(json("FP32", &[1], &deep).is_err());
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
