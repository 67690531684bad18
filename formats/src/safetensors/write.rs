//! Writing: header first, then each tensor straight from where it lies.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Write};

use safetensors::tensor::TensorInfo;
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::{METADATA, to_format};
use crate::dtype::DataType;
use crate::storage::ALIGNMENT;
use crate::tensor::Tensor;

/// Writes a file with these tensors, in this order, each on a multiple of [`ALIGNMENT`] bytes.
///
/// # Errors
/// When `out` cannot be written to.
///
/// # Panics
/// When two tensors have the same name.
pub fn write(
    out: &mut impl Write,
    metadata: &BTreeMap<String, String>,
    tensors: &[(String, Tensor)],
) -> io::Result<()> {
    write_aligned(out, metadata, tensors, ALIGNMENT)
}

/// As [`write()`], for other programs: nothing is in the file but the tensors, the widest types first, so that each lies at a
/// multiple of its elements' size.
///
/// # Errors
/// When `out` cannot be written to.
///
/// # Panics
/// When two tensors have the same name.
pub fn write_packed(out: &mut impl Write, tensors: &[(String, Tensor)]) -> io::Result<()> {
    let mut sorted = tensors.to_vec();
    sorted.sort_by_key(|(_, tensor)| std::cmp::Reverse(tensor.dtype().size()));
    write_aligned(out, &BTreeMap::new(), &sorted, 1)
}

fn write_aligned(
    out: &mut impl Write,
    metadata: &BTreeMap<String, String>,
    tensors: &[(String, Tensor)],
    alignment: usize,
) -> io::Result<()> {
    let names: HashSet<&str> = tensors.iter().map(|(name, _)| name.as_str()).collect();
    assert!(names.len() == tensors.len() && !names.contains(METADATA), "tensors need names of their own");
    let mut paddings =
        (0..).map(|i| format!("__padding__.{i}")).filter(|name| !names.contains(name.as_str()));

    let mut header = Header { metadata, tensors: Vec::with_capacity(tensors.len()) };
    let mut at = 0_usize;
    for (name, tensor) in tensors {
        let gap = at.next_multiple_of(alignment) - at;
        if gap > 0 {
            header.push(paddings.next().expect("numbers do not run out"), DataType::U8, &[gap], at, gap);
        }
        at += gap;
        header.push(name.clone(), tensor.dtype(), tensor.shape(), at, tensor.bytes().len());
        at += tensor.bytes().len();
    }

    let mut text = serde_json::to_vec(&header)?;
    let prefix = size_of::<u64>();
    text.resize((prefix + text.len()).next_multiple_of(ALIGNMENT) - prefix, b' ');
    out.write_all(&(text.len() as u64).to_le_bytes())?;
    out.write_all(&text)?;
    let mut at = 0_usize;
    for (_, tensor) in tensors {
        let gap = at.next_multiple_of(alignment) - at;
        out.write_all(&[0; ALIGNMENT][..gap])?;
        out.write_all(tensor.bytes())?;
        at += gap + tensor.bytes().len();
    }
    Ok(())
}

struct Header<'a> {
    metadata: &'a BTreeMap<String, String>,
    tensors: Vec<(String, TensorInfo)>,
}

impl Header<'_> {
    fn push(&mut self, name: String, dtype: DataType, shape: &[usize], start: usize, bytes: usize) {
        let data_offsets = (start, start + bytes);
        self.tensors
            .push((name, TensorInfo { dtype: to_format(dtype), shape: shape.to_vec(), data_offsets }));
    }
}

impl Serialize for Header<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1 + self.tensors.len()))?;
        map.serialize_entry(METADATA, self.metadata)?;
        for (name, info) in &self.tensors {
            map.serialize_entry(name, info)?;
        }
        map.end()
    }
}
