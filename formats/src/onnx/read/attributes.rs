//! The attributes of a node, typed: reading one marks it, and one that nobody read is refused, because ignoring it
//! might compute something else in silence.

use std::cell::Cell;

use prost::Message;

use crate::dtype::DataType;
use crate::onnx::proto::{AttributeProto, AttributeType, GraphProto, TensorProto, data_type};

/// Why a node does not become an operator of Poda's set; the reason kept with [`ForeignOp`](crate::op::ForeignOp).
#[derive(Debug, thiserror::Error)]
pub(in crate::onnx) enum Unsupported {
    #[error("the operator is not implemented")]
    Operator,
    #[error("attribute {name:?} is not supported")]
    UnknownAttribute { name: String },
    #[error("attribute {name:?} is missing")]
    MissingAttribute { name: &'static str },
    #[error("attribute {name:?} should be {expected:?}, found type {found}")]
    AttributeType { name: &'static str, expected: AttributeType, found: i32 },
    #[error("{value} for attribute {name:?} is not supported")]
    AttributeValue { name: &'static str, value: String },
    #[error("training mode is not supported")]
    Training,
    #[error("input {index} must be a constant")]
    NotConstant { index: usize },
    #[error("{found} inputs, where {expected} were expected")]
    Inputs { expected: usize, found: usize },
    #[error("{found} outputs, where {expected} were expected")]
    Outputs { expected: usize, found: usize },
    #[error("element type {name} is not supported")]
    ElementType { name: &'static str },
    #[error("position {position} in a sequence is out of range or cannot be resolved")]
    Position { position: i64 },
}

/// The attributes of a node, with references to a function's attributes resolved.
pub(in crate::onnx) struct Attributes<'m> {
    list: Vec<(&'m str, &'m AttributeProto, Cell<bool>)>,
}

impl<'m> Attributes<'m> {
    /// `list` pairs each name with the message that holds its value.
    pub(in crate::onnx) fn new(list: impl Iterator<Item = (&'m str, &'m AttributeProto)>) -> Self {
        Self { list: list.map(|(name, proto)| (name, proto, Cell::new(false))).collect() }
    }

    /// The first attribute that nobody read.
    pub(in crate::onnx) fn finish(&self) -> Result<(), Unsupported> {
        match self.list.iter().find(|(_, _, read)| !read.get()) {
            Some(&(name, ..)) => Err(Unsupported::UnknownAttribute { name: name.to_owned() }),
            None => Ok(()),
        }
    }

    /// Marks attributes that make no difference to Poda, such as the momentum of training.
    pub(in crate::onnx) fn ignore(&self, names: &[&str]) {
        self.list.iter().filter(|(name, ..)| names.contains(name)).for_each(|(_, _, read)| read.set(true));
    }

    /// Names and messages.
    pub(in crate::onnx) fn iter(&self) -> impl Iterator<Item = (&'m str, &'m AttributeProto)> {
        self.list.iter().map(|&(name, proto, _)| (name, proto))
    }

    /// Each attribute encoded under its name.
    pub(in crate::onnx) fn encode(&self) -> Vec<Vec<u8>> {
        let encode = |(name, proto): (&str, &AttributeProto)| {
            let own = AttributeProto {
                name: name.to_owned(),
                ref_attr_name: String::new(),
                ..AttributeProto::clone(proto)
            };
            own.encode_to_vec()
        };
        self.iter().map(encode).collect()
    }

    /// The attribute `name` if it is there, of type `expected` (or untyped, as in very old files).
    fn get(
        &self,
        name: &'static str,
        expected: AttributeType,
    ) -> Result<Option<&'m AttributeProto>, Unsupported> {
        let Some((_, proto, read)) = self.list.iter().find(|(n, ..)| *n == name) else { return Ok(None) };
        if proto.r#type != expected as i32 && proto.r#type != AttributeType::Undefined as i32 {
            return Err(Unsupported::AttributeType { name, expected, found: proto.r#type });
        }
        read.set(true);
        Ok(Some(proto))
    }

    pub(in crate::onnx) fn has(&self, name: &str) -> bool {
        self.list.iter().any(|(n, ..)| *n == name)
    }

    pub(in crate::onnx) fn optional_int(&self, name: &'static str) -> Result<Option<i64>, Unsupported> {
        Ok(self.get(name, AttributeType::Int)?.map(|a| a.i.unwrap_or(0)))
    }

    pub(in crate::onnx) fn int(&self, name: &'static str, default: i64) -> Result<i64, Unsupported> {
        Ok(self.optional_int(name)?.unwrap_or(default))
    }

    pub(in crate::onnx) fn required_int(&self, name: &'static str) -> Result<i64, Unsupported> {
        self.optional_int(name)?.ok_or(Unsupported::MissingAttribute { name })
    }

    pub(in crate::onnx) fn size(&self, name: &'static str, default: usize) -> Result<usize, Unsupported> {
        match self.optional_int(name)? {
            None => Ok(default),
            Some(value) => usize::try_from(value)
                .map_err(|_| Unsupported::AttributeValue { name, value: value.to_string() }),
        }
    }

    pub(in crate::onnx) fn flag(&self, name: &'static str, default: bool) -> Result<bool, Unsupported> {
        Ok(self.optional_int(name)?.map_or(default, |i| i != 0))
    }

    pub(in crate::onnx) fn optional_float(&self, name: &'static str) -> Result<Option<f32>, Unsupported> {
        Ok(self.get(name, AttributeType::Float)?.map(|a| a.f.unwrap_or(0.0)))
    }

    pub(in crate::onnx) fn float(&self, name: &'static str, default: f32) -> Result<f32, Unsupported> {
        Ok(self.optional_float(name)?.unwrap_or(default))
    }

    pub(in crate::onnx) fn floats(&self, name: &'static str) -> Result<&'m [f32], Unsupported> {
        Ok(self.get(name, AttributeType::Floats)?.map_or(&[], |a| &a.floats))
    }

    pub(in crate::onnx) fn ints(&self, name: &'static str) -> Result<Option<&'m [i64]>, Unsupported> {
        Ok(self.get(name, AttributeType::Ints)?.map(|a| a.ints.as_slice()))
    }

    pub(in crate::onnx) fn sizes(&self, name: &'static str) -> Result<Vec<usize>, Unsupported> {
        let ints = self.ints(name)?.unwrap_or(&[]);
        let sizes: Result<Vec<usize>, _> = ints.iter().map(|&i| usize::try_from(i)).collect();
        sizes.map_err(|_| Unsupported::AttributeValue { name, value: format!("{ints:?}") })
    }

    pub(in crate::onnx) fn strings(&self, name: &'static str) -> Result<Vec<String>, Unsupported> {
        let strings = self.get(name, AttributeType::Strings)?.map_or(&[][..], |a| &a.strings);
        strings.iter().map(|bytes| utf8(name, bytes).map(str::to_owned)).collect()
    }

    pub(in crate::onnx) fn optional_string(
        &self,
        name: &'static str,
    ) -> Result<Option<&'m str>, Unsupported> {
        let proto = self.get(name, AttributeType::String)?;
        proto.map(|a| utf8(name, a.s.as_deref().unwrap_or_default())).transpose()
    }

    /// One of the strings of a table, or the table's first when the attribute is absent.
    pub(in crate::onnx) fn choice<T: Clone>(
        &self,
        name: &'static str,
        table: &[(&str, T)],
    ) -> Result<T, Unsupported> {
        let Some(found) = self.optional_string(name)? else { return Ok(table[0].1.clone()) };
        match table.iter().find(|(text, _)| *text == found) {
            Some((_, value)) => Ok(value.clone()),
            None => Err(Unsupported::AttributeValue { name, value: format!("{found:?}") }),
        }
    }

    pub(in crate::onnx) fn tensor(&self, name: &'static str) -> Result<Option<&'m TensorProto>, Unsupported> {
        Ok(self.get(name, AttributeType::Tensor)?.and_then(|a| a.t.as_deref()))
    }

    pub(in crate::onnx) fn graph(&self, name: &'static str) -> Result<&'m GraphProto, Unsupported> {
        let graph = self.get(name, AttributeType::Graph)?.and_then(|a| a.g.as_deref());
        graph.ok_or(Unsupported::MissingAttribute { name })
    }

    /// An element type; `None` when absent or 0.
    pub(in crate::onnx) fn data_type(&self, name: &'static str) -> Result<Option<DataType>, Unsupported> {
        match self.optional_int(name)? {
            None | Some(0) => Ok(None),
            Some(code) => {
                let code = i32::try_from(code).unwrap_or(0);
                data_type(code).map(Some).map_err(|name| Unsupported::ElementType { name })
            }
        }
    }
}

fn utf8<'m>(name: &'static str, bytes: &'m [u8]) -> Result<&'m str, Unsupported> {
    str::from_utf8(bytes)
        .map_err(|_| Unsupported::AttributeValue { name, value: format!("\"{}\"", bytes.escape_ascii()) })
}
