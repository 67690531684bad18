//! The model's bytes, weight by weight.
//!
//! A whole message would hold a second copy of every weight. Here the message without the main graph's weights is
//! encoded as usual, and each weight follows as one more field of the graph, straight from where it lies: fields of
//! a protobuf message may come in any order. Before the elements of a weight come blanks, as its documentation, such
//! that they begin on a multiple of [`ALIGNMENT`] in the file: whoever maps it need not copy them.

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
use crate::storage::ALIGNMENT;
use crate::weight::{MatrixWeight, SparseError, Weight};

const MODEL_GRAPH: u32 = 7;
const GRAPH_INITIALIZER: u32 = 5;
const GRAPH_SPARSE_INITIALIZER: u32 = 15;
const TENSOR_RAW_DATA: u32 = 9;
const TENSOR_DOC_STRING: u32 = 12;

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

/// One field of the graph: `head`, then perhaps the elements of a tensor, of this many bytes.
struct Field {
    tag: u32,
    head: Vec<u8>,
    raw: Option<usize>,
}

/// Where everything goes in the model's file.
pub(super) struct Layout {
    /// The model up to its graph's weights.
    start: Vec<u8>,
    fields: Vec<Field>,
    /// Bytes of the whole file.
    pub(super) bytes: usize,
}

impl<'g> Weights<'g> {
    /// All in the model; those that are stored sparse in sparse form if `sparse`.
    pub(super) fn new(list: Vec<(String, &'g Weight)>, sparse: bool) -> Self {
        let place = |weight: &Weight| match weight {
            weight if sparse && weight.is_sparse() && weight.nnz() > 0 => Place::Sparse,
            Weight::Tensor(_) | Weight::Matrix(_) => Place::Inline,
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

    /// Places `model`, whose graph has no weights, with these; `location` names the file beside the model.
    pub(super) fn layout(&self, mut model: ModelProto, location: &str) -> Result<Layout, WriteError> {
        let graph = model.graph.take().unwrap_or_default().encode_to_vec();
        let model = model.encode_to_vec();
        let fields: Vec<Field> =
            (0..self.list.len()).map(|index| self.field(index, location)).collect::<Result<_, _>>()?;
        // How long the length of the graph is must be known before anything is placed.
        let most = graph.len() + fields.iter().map(Field::most_bytes).sum::<usize>();
        let width = encoded_len_varint(most as u64);
        let mut start = model;
        encode_key(MODEL_GRAPH, WireType::LengthDelimited, &mut start);
        let length_at = start.len();
        start.resize(length_at + width, 0);
        let graph_at = start.len();
        start.extend_from_slice(&graph);

        let mut end = start.len();
        let place = |mut field: Field| {
            let bytes = field.place(end);
            end += bytes;
            field
        };
        let fields = fields.into_iter().map(place).collect();
        let mut length = (end - graph_at) as u64;
        for (at, byte) in start[length_at..graph_at].iter_mut().enumerate() {
            let more = if at + 1 < width { 0x80 } else { 0 };
            *byte = (length & 0x7f) as u8 | more;
            length >>= 7;
        }
        Ok(Layout { start, fields, bytes: end })
    }

    /// Writes the model that was placed.
    pub(super) fn write_model(&self, out: &mut impl Write, layout: &Layout) -> Result<(), WriteError> {
        out.write_all(&layout.start)?;
        for (field, (name, weight, _)) in layout.fields.iter().zip(&self.list) {
            out.write_all(&field.head)?;
            if field.raw.is_some() {
                out.write_all(dense(name, weight)?.bytes())?;
            }
        }
        Ok(())
    }

    fn field(&self, index: usize, location: &str) -> Result<Field, WriteError> {
        let (name, weight, place) = &self.list[index];
        let mut tensor = tensor_header(name, weight);
        Ok(match (*place, weight) {
            (Place::Sparse, Weight::Matrix(weight)) => {
                let error = |error| WriteError::Weight { weight: name.clone(), error };
                let head = sparse(name, weight).map_err(error)?.encode_to_vec();
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
    /// More bytes than it can take.
    fn most_bytes(&self) -> usize {
        const KEYS_AND_LENGTHS: usize = 64;
        self.head.len() + self.raw.unwrap_or(0) + KEYS_AND_LENGTHS + 2 * ALIGNMENT
    }

    /// Puts before `head` what begins the field, and after it what begins its elements, for a field that begins at byte
    /// `at` of the file. Gives the bytes of the whole field.
    fn place(&mut self, at: usize) -> usize {
        let Some(raw) = self.raw else {
            self.head.splice(0..0, begin(self.tag, self.head.len()));
            return self.head.len();
        };
        let elements = begin(TENSOR_RAW_DATA, raw);
        let field = |blanks: Option<usize>| {
            let blanks = blanks.map_or_else(Vec::new, |n| {
                let mut field = begin(TENSOR_DOC_STRING, n);
                field.resize(field.len() + n, b' ');
                field
            });
            let tensor = self.head.len() + blanks.len() + elements.len();
            [begin(self.tag, tensor + raw), self.head.clone(), blanks, elements.clone()].concat()
        };
        let aligned = |field: &Vec<u8>| (at + field.len()).is_multiple_of(ALIGNMENT);
        // A blank more is a byte more, except where the length of a length grows: twice at most.
        let lengths = std::iter::once(None).chain((0..3 * ALIGNMENT).map(Some));
        let lengths = lengths.take(if raw < ALIGNMENT { 1 } else { usize::MAX });
        self.head = lengths.map(field).find(aligned).unwrap_or_else(|| field(None));
        self.head.len() + raw
    }
}

/// Key and length of a field.
fn begin(tag: u32, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(key_len(tag) + encoded_len_varint(length as u64));
    encode_key(tag, WireType::LengthDelimited, &mut bytes);
    encode_varint(length as u64, &mut bytes);
    bytes
}

fn dense_bytes(weight: &Weight) -> usize {
    weight.len() * weight.dtype().size()
}

/// Values with the positions of their elements in the dense tensor, ascending.
fn sparse(name: &str, weight: &MatrixWeight) -> Result<SparseTensorProto, SparseError> {
    // ONNX has no narrower values that stand for f32, so these are widened.
    let stored = weight.csr()?;
    let matrix = if stored.values().rounding_error().is_some() { stored.widened()? } else { stored };
    let values = matrix.values().tensor();
    let form = weight.form();
    let mut elements: Vec<(usize, &[u8])> = (0..matrix.rows())
        .flat_map(|row| matrix.row_columns(row).map(move |col| (row, col as usize)))
        .map(|(row, col)| form.at(row, col))
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
        dims: weight.shape().iter().map(|&d| d as i64).collect(),
    })
}
