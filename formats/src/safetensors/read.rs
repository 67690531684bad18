//! Reading: the header is checked whole, the tensors stay where they lie.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

use super::{METADATA, from_format};
use crate::storage::Storage;
use crate::tensor::Tensor;

/// Why bytes are not a safetensors file, or do not hold a tensor.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum SafeTensorsError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{length} bytes are too short for a safetensors file")]
    TooShort { length: usize },
    #[error("the header's length of {header} bytes reaches past the end of the file ({length} bytes)")]
    HeaderLength { header: u64, length: usize },
    #[error("the header does not begin with '{{', so this is not a safetensors file")]
    NotAnObject,
    #[error("header: {0}")]
    Header(#[from] serde_json::Error),
    #[error("tensor {name:?} of type {dtype:?} and shape {shape:?} cannot take the bytes {start} to {end}")]
    Size { name: String, dtype: Dtype, shape: Vec<usize>, start: usize, end: usize },
    #[error(
        "tensor {name:?} starts at byte {found}, expected {expected}: the tensors overlap or leave a hole"
    )]
    Offset { name: String, expected: usize, found: usize },
    #[error("the tensors take {expected} bytes, found {found}")]
    DataLength { expected: usize, found: usize },
    #[error("there is no tensor {name:?}")]
    Missing { name: String },
    #[error("tensor {name:?} is of type {dtype:?}, which Poda does not have")]
    DataType { name: String, dtype: Dtype },
}

/// An open safetensors file.
#[derive(Debug)]
pub struct SafeTensors {
    metadata: BTreeMap<String, String>,
    tensors: HashMap<String, Entry>,
    storage: Storage,
}

#[derive(Debug)]
struct Entry {
    dtype: Dtype,
    shape: Vec<usize>,
    range: Range<usize>,
}

/// Maps the file `path` and checks its header.
///
/// # Errors
/// When the file cannot be mapped or breaks the format.
pub fn read(path: impl AsRef<Path>) -> Result<SafeTensors, SafeTensorsError> {
    SafeTensors::parse(Storage::map(path.as_ref())?)
}

impl SafeTensors {
    /// Checks the header of a whole file. No tensor's bytes are touched, and memory stays proportional to the header.
    ///
    /// # Errors
    /// When it breaks the format.
    pub fn parse(storage: Storage) -> Result<Self, SafeTensorsError> {
        let bytes = storage.bytes();
        let length = bytes.len();
        let Some((prefix, rest)) = bytes.split_first_chunk::<8>() else {
            return Err(SafeTensorsError::TooShort { length });
        };
        let header = u64::from_le_bytes(*prefix);
        let text = usize::try_from(header)
            .ok()
            .and_then(|n| rest.get(..n))
            .ok_or(SafeTensorsError::HeaderLength { header, length })?;
        if text.first() != Some(&b'{') {
            return Err(SafeTensorsError::NotAnObject);
        }
        // (A copy, which nobody changes between its checks.)
        let private = text.to_vec();
        let Header { metadata, tensors } = serde_json::from_slice(&private)?;
        let start = prefix.len() + text.len();
        let tensors = place(tensors, start, length)?;
        Ok(Self { metadata, tensors, storage })
    }

    /// The free-form strings.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Names of the tensors, in no particular order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The tensor of this name, over the mapping where it lies there aligned.
    ///
    /// # Errors
    /// When there is none, or Poda does not have its type.
    pub fn tensor(&self, name: &str) -> Result<Tensor, SafeTensorsError> {
        let Some(Entry { dtype, shape, range }) = self.tensors.get(name) else {
            return Err(SafeTensorsError::Missing { name: name.to_owned() });
        };
        let Some(data_type) = from_format(*dtype) else {
            return Err(SafeTensorsError::DataType { name: name.to_owned(), dtype: *dtype });
        };
        let storage = self.storage.slice(range.clone());
        storage.and_then(|s| Tensor::from_file(data_type, shape.clone(), s).ok()).ok_or_else(|| {
            let (start, end) = (range.start, range.end);
            SafeTensorsError::Size { name: name.to_owned(), dtype: *dtype, shape: shape.clone(), start, end }
        })
    }
}

/// Checks that the tensors take the bytes from `start` to `end` of the file one after the other.
fn place(
    mut tensors: Vec<(String, TensorInfo)>,
    start: usize,
    end: usize,
) -> Result<HashMap<String, Entry>, SafeTensorsError> {
    tensors.sort_unstable_by(|a, b| (a.1.data_offsets, &a.0).cmp(&(b.1.data_offsets, &b.0)));
    let mut at = 0;
    let mut placed = HashMap::with_capacity(tensors.len());
    for (name, TensorInfo { dtype, shape, data_offsets: (from, to) }) in tensors {
        let elements = shape.iter().try_fold(1_usize, |product, &dim| product.checked_mul(dim));
        let bits = elements.and_then(|n| n.checked_mul(dtype.bitsize()));
        if to.checked_sub(from).and_then(|bytes| bytes.checked_mul(8)).is_none_or(|found| Some(found) != bits)
        {
            return Err(SafeTensorsError::Size { name, dtype, shape, start: from, end: to });
        }
        if from != at {
            return Err(SafeTensorsError::Offset { name, expected: at, found: from });
        }
        at = to;
        if to > end - start {
            break;
        }
        placed.insert(name, Entry { dtype, shape, range: start + from..start + to });
    }
    if at == end - start {
        Ok(placed)
    } else {
        Err(SafeTensorsError::DataLength { expected: at, found: end - start })
    }
}

struct Header {
    metadata: BTreeMap<String, String>,
    tensors: Vec<(String, TensorInfo)>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors by name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut header = Header { metadata: BTreeMap::new(), tensors: Vec::new() };
        let mut seen = std::collections::HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if !seen.insert(name.clone()) {
                return Err(A::Error::custom(format_args!("{name:?} occurs twice")));
            }
            if name == METADATA {
                header.metadata = map.next_value()?;
            } else {
                header.tensors.push((name, map.next_value()?));
            }
        }
        Ok(header)
    }
}
