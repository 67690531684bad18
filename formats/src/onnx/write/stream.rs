//! The model's bytes, weight by weight.
//!
//! A whole message would hold a second copy of every weight. Here the message without the main graph's weights is
//! encoded as usual, and each weight follows as one more field of the graph, straight from where it lies: fields of
//! a protobuf message may come in any order.

use std::hash::{DefaultHasher, Hasher};
use std::io::Write;

use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use super::WriteError;
use super::graph::{dense, tensor_header};
use crate::dtype::DataType;
use crate::onnx::proto::{
    DataLocation, ModelProto, SparseTensorProto, StringStringEntryProto, TensorProto, data_type_code,
};
use crate::sparse::SparseError;
use crate::weight::{UnstructuredWeight, Weight};

const MODEL_GRAPH: u32 = 7;
const GRAPH_INITIALIZER: u32 = 5;
const GRAPH_SPARSE_INITIALIZER: u32 = 15;
const TENSOR_RAW_DATA: u32 = 9;

/// External tensors start on multiples of this, so that readers may map them.
const EXTERNAL_ALIGNMENT: usize = 4096;

/// Where the elements of a weight go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Into the model.
    Inline,
    /// Into the model, stored elements only.
    Sparse,
    /// Into the file beside it, from this byte on.
    External(usize),
}

/// The weights of the main graph, by name, and where each goes.
pub(super) struct Weights<'g> {
    list: Vec<(String, &'g Weight, Place)>,
}

/// One field of the graph: `head`, then perhaps the elements of a tensor.
struct Field {
    tag: u32,
    head: Vec<u8>,
    raw: Option<usize>,
}

impl<'g> Weights<'g> {
    /// All in the model; those that are stored sparse in sparse form if `sparse`.
    pub(super) fn new(list: Vec<(String, &'g Weight)>, sparse: bool) -> Self {
        let place = |weight: &Weight| match weight {
            Weight::Unstructured(csr) if sparse && !csr.arrays().values().is_empty() => Place::Sparse,
            Weight::Structured(weight) if sparse && weight.nnz() > 0 => Place::Sparse,
            Weight::Unstructured(_) | Weight::Structured(_) | Weight::Dense(_) | Weight::Narrow(_) => {
                Place::Inline
            }
        };
        Self { list: list.into_iter().map(|(name, weight)| (name, weight, place(weight))).collect() }
    }

    /// Moves weights of at least `smallest` bytes out of the model. Whether there were any.
    pub(super) fn move_out(&mut self, smallest: usize) -> bool {
        let mut at = 0_usize;
        for (_, weight, place) in &mut self.list {
            let bytes = dense_bytes(weight);
            if *place == Place::Inline && bytes >= smallest.max(1) {
                *place = Place::External(at);
                at = (at + bytes).next_multiple_of(EXTERNAL_ALIGNMENT);
            }
        }
        at > 0
    }

    /// Writes the file beside the model, and gives a hash of its elements.
    pub(super) fn write_external(&self, out: &mut impl Write) -> Result<u64, WriteError> {
        let mut hasher = DefaultHasher::new();
        let mut end = 0;
        for (name, weight, place) in &self.list {
            let Place::External(start) = *place else { continue };
            out.write_all(&[0; EXTERNAL_ALIGNMENT][..start - end])?;
            let tensor = dense(name, weight)?;
            out.write_all(tensor.bytes())?;
            hasher.write(tensor.bytes());
            end = start + tensor.bytes().len();
        }
        Ok(hasher.finish())
    }

    /// Bytes that the weights add to the model.
    pub(super) fn bytes(&self, location: &str) -> Result<usize, WriteError> {
        (0..self.list.len()).try_fold(0, |sum, index| {
            let field = self.field(index, location)?;
            Ok(sum + key_len(field.tag) + encoded_len_varint(field.len() as u64) + field.len())
        })
    }

    /// Writes `model`, whose graph has no weights, with these; `location` names the file beside the model.
    pub(super) fn write_model(
        &self,
        out: &mut impl Write,
        mut model: ModelProto,
        location: &str,
    ) -> Result<(), WriteError> {
        let graph = model.graph.take().unwrap_or_default().encode_to_vec();
        let mut bytes = model.encode_to_vec();
        begin(MODEL_GRAPH, graph.len() + self.bytes(location)?, &mut bytes);
        out.write_all(&bytes)?;
        out.write_all(&graph)?;
        for (index, (name, weight, _)) in self.list.iter().enumerate() {
            let field = self.field(index, location)?;
            let mut bytes = Vec::new();
            begin(field.tag, field.len(), &mut bytes);
            bytes.extend_from_slice(&field.head);
            if let Some(raw) = field.raw {
                begin(TENSOR_RAW_DATA, raw, &mut bytes);
                out.write_all(&bytes)?;
                out.write_all(dense(name, weight)?.bytes())?;
            } else {
                out.write_all(&bytes)?;
            }
        }
        Ok(())
    }

    fn field(&self, index: usize, location: &str) -> Result<Field, WriteError> {
        let (name, weight, place) = &self.list[index];
        let mut tensor = tensor_header(name, weight);
        Ok(match (*place, weight) {
            (Place::Sparse, Weight::Unstructured(csr)) => {
                let error = |error| WriteError::Weight { weight: name.clone(), error };
                let head = sparse(name, csr).map_err(error)?.encode_to_vec();
                Field { tag: GRAPH_SPARSE_INITIALIZER, head, raw: None }
            }
            (Place::Sparse, Weight::Structured(weight)) => {
                let error = |error| WriteError::Weight { weight: name.clone(), error };
                let csr = weight.to_csr().map_err(error)?;
                let head = sparse(name, &csr).map_err(error)?.encode_to_vec();
                Field { tag: GRAPH_SPARSE_INITIALIZER, head, raw: None }
            }
            (Place::External(start), _) => {
                let entry = |key: &str, value: String| StringStringEntryProto { key: key.to_owned(), value };
                tensor.data_location = DataLocation::External.into();
                tensor.external_data = vec![
                    entry("location", location.to_owned()),
                    entry("offset", start.to_string()),
                    entry("length", dense_bytes(weight).to_string()),
                ];
                Field { tag: GRAPH_INITIALIZER, head: tensor.encode_to_vec(), raw: None }
            }
            (Place::Inline | Place::Sparse, _) => {
                let raw = Some(dense_bytes(weight));
                Field { tag: GRAPH_INITIALIZER, head: tensor.encode_to_vec(), raw }
            }
        })
    }
}

impl Field {
    fn len(&self) -> usize {
        let raw = self.raw.map_or(0, |n| key_len(TENSOR_RAW_DATA) + encoded_len_varint(n as u64) + n);
        self.head.len() + raw
    }
}

/// Key and length of a field.
fn begin(tag: u32, length: usize, out: &mut Vec<u8>) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(length as u64, out);
}

fn dense_bytes(weight: &Weight) -> usize {
    weight.len() * weight.dtype().size()
}

/// Values with the positions of their elements in the dense tensor, ascending.
fn sparse(name: &str, csr: &UnstructuredWeight) -> Result<SparseTensorProto, SparseError> {
    // ONNX has no narrower values that stand for f32, so these are widened.
    let stored = csr.matrix()?;
    let matrix = if stored.values().rounding_error().is_some() { stored.widened()? } else { stored };
    let values = matrix.values().tensor();
    let (rows, cols) = (matrix.rows(), matrix.cols());
    let mut elements: Vec<(usize, &[u8])> = (0..rows)
        .flat_map(|row| matrix.row_columns(row).map(move |col| (row, col as usize)))
        .map(|(row, col)| if csr.is_transposed() { col * rows + row } else { row * cols + col })
        .zip(values.bytes().chunks_exact(values.dtype().size()))
        .collect();
    elements.sort_unstable_by_key(|(at, _)| *at);
    let nnz = elements.len() as i64;
    let tensor = |name: &str, dtype, raw: Vec<u8>| TensorProto {
        name: name.to_owned(),
        dims: vec![nnz],
        data_type: data_type_code(dtype),
        raw_data: Some(raw.into()),
        ..TensorProto::default()
    };
    let indices = elements.iter().flat_map(|(at, _)| (*at as i64).to_le_bytes()).collect();
    let stored = elements.iter().flat_map(|(_, value)| *value).copied().collect();
    Ok(SparseTensorProto {
        values: Some(tensor(name, values.dtype(), stored)),
        indices: Some(tensor("", DataType::I64, indices)),
        dims: csr.shape().iter().map(|&d| d as i64).collect(),
    })
}
