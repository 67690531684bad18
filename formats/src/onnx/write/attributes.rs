//! Attributes of a node under construction.

use bytes::Bytes;

use crate::onnx::proto::{AttributeProto, AttributeType, GraphProto, TensorProto, data_type_code};
use crate::op::{Padding, ScalarValue};

/// What a node becomes: ONNX's name of the operator, its attributes, and the operator set that first has this form.
#[derive(Debug, Clone)]
pub(in crate::onnx) struct Form {
    pub(in crate::onnx) domain: String,
    pub(in crate::onnx) op_type: String,
    pub(in crate::onnx) opset: i64,
    pub(in crate::onnx) attributes: Vec<AttributeProto>,
}

impl Form {
    pub(in crate::onnx) fn new(op_type: &str) -> Self {
        Self { domain: String::new(), op_type: op_type.to_owned(), opset: 0, attributes: Vec::new() }
    }

    /// The form needs at least this operator set.
    pub(in crate::onnx) fn since(mut self, opset: i64) -> Self {
        self.opset = self.opset.max(opset);
        self
    }

    /// The form needs at least this operator set if `needed`.
    pub(in crate::onnx) fn since_if(self, opset: i64, needed: bool) -> Self {
        if needed { self.since(opset) } else { self }
    }

    fn attribute(mut self, name: &str, kind: AttributeType, value: AttributeProto) -> Self {
        self.attributes.push(AttributeProto { name: name.to_owned(), r#type: kind.into(), ..value });
        self
    }

    pub(in crate::onnx) fn int(self, name: &str, value: i64) -> Self {
        self.attribute(
            name,
            AttributeType::Int,
            AttributeProto { i: Some(value), ..AttributeProto::default() },
        )
    }

    pub(in crate::onnx) fn size(self, name: &str, value: usize) -> Self {
        self.int(name, value as i64)
    }

    /// Nothing when 0.
    pub(in crate::onnx) fn positive(self, name: &str, value: usize) -> Self {
        if value == 0 { self } else { self.size(name, value) }
    }

    pub(in crate::onnx) fn flag(self, name: &str, value: bool) -> Self {
        self.int(name, i64::from(value))
    }

    pub(in crate::onnx) fn float(self, name: &str, value: f32) -> Self {
        self.attribute(
            name,
            AttributeType::Float,
            AttributeProto { f: Some(value), ..AttributeProto::default() },
        )
    }

    pub(in crate::onnx) fn string(self, name: &str, value: &str) -> Self {
        let s = Some(Bytes::copy_from_slice(value.as_bytes()));
        self.attribute(name, AttributeType::String, AttributeProto { s, ..AttributeProto::default() })
    }

    /// The first text that stands for `value` in the table that the attribute is read by.
    ///
    /// # Panics
    /// When the table lacks it.
    pub(in crate::onnx) fn choice<T: PartialEq>(self, name: &str, table: &[(&str, T)], value: &T) -> Self {
        let text = table.iter().find(|(_, other)| other == value).map(|(text, _)| *text);
        self.string(name, text.expect("the table has every value"))
    }

    /// Nothing when empty, as all lists below.
    pub(in crate::onnx) fn ints(self, name: &str, values: &[i64]) -> Self {
        if values.is_empty() {
            return self;
        }
        let ints = values.to_vec();
        self.attribute(name, AttributeType::Ints, AttributeProto { ints, ..AttributeProto::default() })
    }

    pub(in crate::onnx) fn sizes(self, name: &str, values: &[usize]) -> Self {
        let values: Vec<i64> = values.iter().map(|&v| v as i64).collect();
        self.ints(name, &values)
    }

    pub(in crate::onnx) fn floats(self, name: &str, values: &[f32]) -> Self {
        if values.is_empty() {
            return self;
        }
        let floats = values.to_vec();
        self.attribute(name, AttributeType::Floats, AttributeProto { floats, ..AttributeProto::default() })
    }

    pub(in crate::onnx) fn strings(self, name: &str, values: &[String]) -> Self {
        if values.is_empty() {
            return self;
        }
        let strings = values.iter().map(|v| Bytes::copy_from_slice(v.as_bytes())).collect();
        self.attribute(name, AttributeType::Strings, AttributeProto { strings, ..AttributeProto::default() })
    }

    /// A tensor of shape `[1]`.
    pub(in crate::onnx) fn scalar(self, name: &str, value: &ScalarValue) -> Self {
        let tensor = TensorProto {
            dims: vec![1],
            data_type: data_type_code(value.dtype),
            raw_data: Some(value.bytes().into()),
            ..TensorProto::default()
        };
        let t = Some(Box::new(tensor));
        self.attribute(name, AttributeType::Tensor, AttributeProto { t, ..AttributeProto::default() })
    }

    pub(in crate::onnx) fn graph(self, name: &str, graph: GraphProto) -> Self {
        let g = Some(Box::new(graph));
        self.attribute(name, AttributeType::Graph, AttributeProto { g, ..AttributeProto::default() })
    }

    pub(in crate::onnx) fn padding(self, padding: &Padding) -> Self {
        match padding {
            Padding::Explicit(pads) => self.ints("pads", pads),
            Padding::SameUpper => self.string("auto_pad", "SAME_UPPER"),
            Padding::SameLower => self.string("auto_pad", "SAME_LOWER"),
            Padding::Valid => self.string("auto_pad", "VALID"),
        }
    }

    /// Applies `with` when there is a value.
    pub(in crate::onnx) fn maybe<T>(self, value: Option<T>, with: impl FnOnce(Self, T) -> Self) -> Self {
        match value {
            Some(value) => with(self, value),
            None => self,
        }
    }
}
