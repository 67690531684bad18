//! One node on its way from the file's form to ours: inputs may be added and replaced, and helper nodes put before it.

use super::attributes::{Attributes, Unsupported};
use super::builder::Builder;
use super::tensor::WeightSource;
use crate::dtype::{DataType, Element};
use crate::graph::{Node, Value, ValueId};
use crate::op::Op;
use crate::tensor::Tensor;

/// A node being read.
pub(in crate::onnx) struct Call<'c, 'm> {
    pub(in crate::onnx) builder: &'c mut Builder,
    pub(in crate::onnx) weights: &'c mut WeightSource,
    pub(in crate::onnx) op_type: &'m str,
    /// Version of the operator set that the node is of.
    pub(in crate::onnx) version: i64,
    pub(in crate::onnx) attributes: Attributes<'m>,
    pub(in crate::onnx) inputs: Vec<Option<ValueId>>,
    pub(in crate::onnx) outputs: Vec<Option<ValueId>>,
    /// Start of the names of helper values and nodes.
    pub(in crate::onnx) label: String,
}

impl Call<'_, '_> {
    /// Input `index`, when present.
    pub(in crate::onnx) fn input(&self, index: usize) -> Option<ValueId> {
        self.inputs.get(index).copied().flatten()
    }

    /// Input `index`, which the operator cannot do without.
    pub(in crate::onnx) fn required(&self, index: usize) -> Result<ValueId, Unsupported> {
        let found = self.inputs.len();
        self.input(index).ok_or(Unsupported::Inputs { expected: index + 1, found })
    }

    /// Puts a value in place `index`.
    pub(in crate::onnx) fn set_input(&mut self, index: usize, id: Option<ValueId>) {
        if self.inputs.len() <= index {
            self.inputs.resize(index + 1, None);
        }
        self.inputs[index] = id;
    }

    /// Refuses more than `expected` inputs: the form of the file's opset has no more.
    pub(in crate::onnx) fn at_most_inputs(&self, expected: usize) -> Result<(), Unsupported> {
        let found = self.inputs.len();
        if found > expected { Err(Unsupported::Inputs { expected, found }) } else { Ok(()) }
    }

    /// A new weight.
    pub(in crate::onnx) fn weight(&mut self, suffix: &str, tensor: Tensor) -> ValueId {
        let id = self.builder.add_value(&format!("{}_{suffix}", self.label), Value::default());
        self.builder.set_weight(id, tensor.into());
        id
    }

    /// A new weight of rank 1.
    pub(in crate::onnx) fn vector<T: Element>(&mut self, suffix: &str, values: &[T]) -> ValueId {
        self.weight(suffix, Tensor::from_slice(&[values.len()], values))
    }

    /// A helper node before this one; gives its output.
    pub(in crate::onnx) fn emit(&mut self, op: Op, inputs: &[Option<ValueId>], suffix: &str) -> ValueId {
        let name = format!("{}_{suffix}", self.label);
        let id = self.builder.add_value(&name, Value::default());
        self.builder.add_node(Node { name, op, inputs: inputs.to_vec(), outputs: vec![Some(id)] });
        id
    }

    /// Moves an attribute of integers to input `index`, as later opsets have it.
    pub(in crate::onnx) fn ints_to_input(
        &mut self,
        name: &'static str,
        index: usize,
    ) -> Result<(), Unsupported> {
        if let Some(ints) = self.attributes.ints(name)? {
            let id = self.vector(name, ints);
            self.set_input(index, Some(id));
        }
        Ok(())
    }

    /// A scalar weight of the element type that `like` has; one more node makes it so where that is not known.
    pub(in crate::onnx) fn scalar_like(
        &mut self,
        suffix: &'static str,
        value: f32,
        like: ValueId,
    ) -> ValueId {
        let tensor = match self.builder.facts(like).dtype {
            Some(DataType::F16) => Tensor::scalar(half::f16::from_f32(value)),
            Some(DataType::BF16) => Tensor::scalar(half::bf16::from_f32(value)),
            Some(DataType::F64) => Tensor::scalar(f64::from(value)),
            _ => Tensor::scalar(value),
        };
        let exact = self.builder.facts(like).dtype == Some(tensor.dtype());
        let id = self.weight(suffix, tensor);
        if exact { id } else { self.emit(Op::CastLike, &[Some(id), Some(like)], &format!("{suffix}_cast")) }
    }
}
