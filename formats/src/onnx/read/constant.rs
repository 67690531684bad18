//! Nodes `Constant`, which become weights.

use super::scope::Binding;
use super::{OnnxError, Reader, own_bytes};
use crate::graph::ValueId;
use crate::onnx::proto::{AttributeProto, NodeProto, data_type};
use crate::tensor::Tensor;
use crate::weight::Weight;

impl<'m> Reader<'m> {
    /// Makes the output of a node `Constant`, which is declared already, a weight.
    pub(super) fn constant(&mut self, node: &'m NodeProto) -> Result<(), OnnxError> {
        let Some(name) = node.output.first().filter(|name| !name.is_empty()) else { return Ok(()) };
        let attributes = self.attributes(node)?;
        let mut values = attributes.iter();
        let (Some((kind, proto)), None) = (values.next(), values.next()) else {
            return Err(OnnxError::NoValue { node: node.name.clone() });
        };
        let weight = match self.constant_value(kind, proto) {
            Some(Ok(Ok(weight))) => weight,
            Some(Ok(Err(dtype))) => {
                self.scope_mut().names.insert(name, Binding::Unsupported(dtype));
                return Ok(());
            }
            Some(Err(problem)) => return Err(OnnxError::Tensor { name: name.clone(), problem }),
            None => return Err(OnnxError::NoValue { node: node.name.clone() }),
        };
        self.take(match &weight {
            Weight::Tensor(tensor) => own_bytes(tensor),
            Weight::Matrix(_) => weight.bytes(),
        })?;
        if let Some(&Binding::Value(Some(id))) = self.scope().names.get(name.as_str()) {
            let id: ValueId = id;
            self.builder().set_weight(id, weight);
        }
        Ok(())
    }

    /// The value of one of the attributes of `Constant`: a weight, or the name of an element type that Poda has not.
    /// `None` for an unknown attribute, or one without a value.
    #[allow(clippy::type_complexity)]
    fn constant_value(
        &mut self,
        kind: &str,
        proto: &AttributeProto,
    ) -> Option<Result<Result<Weight, &'static str>, super::TensorProblem>> {
        let vector = |tensor: Tensor| Some(Ok(Ok(tensor.into())));
        match kind {
            "value" => {
                let tensor = proto.t.as_deref()?;
                match data_type(tensor.data_type) {
                    Ok(_) => Some(self.weights.tensor(tensor).map(|tensor| Ok(tensor.into()))),
                    Err(dtype) => Some(Ok(Err(dtype))),
                }
            }
            "sparse_value" => {
                let left = self.left();
                Some(self.weights.sparse(proto.sparse_tensor.as_deref()?, left).map(Ok))
            }
            "value_int" => vector(Tensor::scalar(proto.i.unwrap_or(0))),
            "value_float" => vector(Tensor::scalar(proto.f.unwrap_or(0.0))),
            "value_ints" => vector(Tensor::from_slice(&[proto.ints.len()], &proto.ints)),
            "value_floats" => vector(Tensor::from_slice(&[proto.floats.len()], &proto.floats)),
            "value_string" | "value_strings" => Some(Ok(Err("STRING"))),
            _ => None,
        }
    }
}
