//! Decoding, once it is known how much memory the messages of a file take.
//!
//! An empty message takes two bytes of a file, and in memory some hundred times as much. So before any message is made,
//! all are counted: a [`Census`] is decoded as the messages themselves are, but allocates nothing and steps over whatever
//! is no message, weights above all.

use bytes::{Buf, BufMut, Bytes};
use prost::encoding::{DecodeContext, WireType, message, skip_field};
use prost::{DecodeError, Message};

use super::OnnxError;
use crate::onnx::proto::{
    AttributeProto, Dimension, ElementType, FunctionProto, GraphProto, MapType, ModelProto, NodeProto,
    OpaqueType, OperatorSetIdProto, Segment, SparseTensorProto, StringStringEntryProto, TensorProto,
    TensorShapeProto, TensorType, TypeProto, ValueInfoProto,
};
use crate::storage::Storage;

/// Bytes of memory that messages may take: so many whatever the file, and some more for each byte of it. Exporters' files
/// take 15 for each byte at most.
const LIMIT: (usize, usize) = (1 << 24, 32);

/// Decodes a model.
///
/// # Errors
/// When it is none, or its messages take more memory than [`LIMIT`].
pub(super) fn decode(file: Storage) -> Result<ModelProto, OnnxError> {
    let mut census = Census::of(&MODEL);
    census.merge(file.bytes())?;
    let (bytes, limit) = (census.bytes, LIMIT.0.saturating_add(file.len().saturating_mul(LIMIT.1)));
    if bytes > limit {
        return Err(OnnxError::Messages { bytes, limit });
    }
    Ok(ModelProto::decode(Bytes::from_owner(file))?)
}

/// A type of message.
struct Kind {
    /// What one takes in memory by itself.
    bytes: usize,
    /// Tags and types of its fields that are messages.
    fields: &'static [(u32, &'static Self)],
}

impl Kind {
    const fn of<M>(fields: &'static [(u32, &'static Self)]) -> Self {
        Self { bytes: size_of::<M>(), fields }
    }
}

static MODEL: Kind =
    Kind::of::<ModelProto>(&[(7, &GRAPH), (8, &OPERATOR_SET), (14, &STRING_STRING), (25, &FUNCTION)]);
static OPERATOR_SET: Kind = Kind::of::<OperatorSetIdProto>(&[]);
static STRING_STRING: Kind = Kind::of::<StringStringEntryProto>(&[]);
static GRAPH: Kind = Kind::of::<GraphProto>(&[
    (1, &NODE),
    (5, &TENSOR),
    (11, &VALUE_INFO),
    (12, &VALUE_INFO),
    (13, &VALUE_INFO),
    (15, &SPARSE_TENSOR),
]);
static NODE: Kind = Kind::of::<NodeProto>(&[(5, &ATTRIBUTE)]);
static ATTRIBUTE: Kind = Kind::of::<AttributeProto>(&[
    (5, &TENSOR),
    (6, &GRAPH),
    (10, &TENSOR),
    (11, &GRAPH),
    (14, &TYPE),
    (15, &TYPE),
    (22, &SPARSE_TENSOR),
    (23, &SPARSE_TENSOR),
]);
static TENSOR: Kind = Kind::of::<TensorProto>(&[(3, &SEGMENT), (13, &STRING_STRING)]);
static SEGMENT: Kind = Kind::of::<Segment>(&[]);
static SPARSE_TENSOR: Kind = Kind::of::<SparseTensorProto>(&[(1, &TENSOR), (2, &TENSOR)]);
static VALUE_INFO: Kind = Kind::of::<ValueInfoProto>(&[(2, &TYPE)]);
static TYPE: Kind = Kind::of::<TypeProto>(&[
    (1, &TENSOR_TYPE),
    (4, &ELEMENT_TYPE),
    (5, &MAP_TYPE),
    (7, &OPAQUE_TYPE),
    (8, &TENSOR_TYPE),
    (9, &ELEMENT_TYPE),
]);
static TENSOR_TYPE: Kind = Kind::of::<TensorType>(&[(2, &SHAPE)]);
static ELEMENT_TYPE: Kind = Kind::of::<ElementType>(&[(1, &TYPE)]);
static MAP_TYPE: Kind = Kind::of::<MapType>(&[(2, &TYPE)]);
static OPAQUE_TYPE: Kind = Kind::of::<OpaqueType>(&[]);
static SHAPE: Kind = Kind::of::<TensorShapeProto>(&[(1, &DIMENSION)]);
static DIMENSION: Kind = Kind::of::<Dimension>(&[]);
static FUNCTION: Kind =
    Kind::of::<FunctionProto>(&[(7, &NODE), (9, &OPERATOR_SET), (11, &ATTRIBUTE), (12, &VALUE_INFO)]);

/// Counts what a message of some type and all those in it take.
struct Census {
    kind: &'static Kind,
    bytes: usize,
}

impl Census {
    fn of(kind: &'static Kind) -> Self {
        Self { kind, bytes: kind.bytes }
    }
}

impl Message for Census {
    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        let Some((_, kind)) = self.kind.fields.iter().find(|(field, _)| *field == tag) else {
            return skip_field(wire_type, tag, buf, ctx);
        };
        let mut inner = Self::of(kind);
        message::merge(wire_type, &mut inner, buf, ctx)?;
        self.bytes += inner.bytes;
        Ok(())
    }

    fn clear(&mut self) {
        self.bytes = self.kind.bytes;
    }

    fn encode_raw(&self, _: &mut impl BufMut) {
        unreachable!("a census is only read");
    }

    fn encoded_len(&self) -> usize {
        unreachable!("a census is only read");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// All types of messages that one may hold, itself among them.
    fn reach(kind: &'static Kind, seen: &mut HashSet<*const Kind>) -> usize {
        if !seen.insert(kind) {
            return 0;
        }
        kind.fields.len() + kind.fields.iter().map(|(_, inner)| reach(inner, seen)).sum::<usize>()
    }

    #[test]
    fn every_field_that_holds_messages_is_known() {
        let declared = include_str!("../proto.rs").matches("#[prost(message").count();
        assert_eq!(reach(&MODEL, &mut HashSet::new()), declared);
    }

    #[test]
    fn messages_within_messages_are_counted() {
        let dim = vec![Dimension::default(); 3];
        let tensor = TensorType { elem_type: 1, shape: Some(TensorShapeProto { dim }) };
        let value = Some(crate::onnx::proto::TypeValue::Tensor(tensor));
        let info = ValueInfoProto { name: "x".into(), r#type: Some(TypeProto { value }) };
        let graph = GraphProto { input: vec![info], ..GraphProto::default() };
        let model = ModelProto { graph: Some(graph), ..ModelProto::default() };
        let mut census = Census::of(&MODEL);
        census.merge(&model.encode_to_vec()[..]).unwrap();
        let each =
            [&MODEL, &GRAPH, &VALUE_INFO, &TYPE, &TENSOR_TYPE, &SHAPE, &DIMENSION, &DIMENSION, &DIMENSION];
        assert_eq!(census.bytes, each.iter().map(|kind| kind.bytes).sum::<usize>());
    }
}
