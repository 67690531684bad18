//! One node: its inputs and attributes resolved, then dispatched.

use prost::Message;

use super::attributes::{Attributes, Unsupported};
use super::call::Call;
use super::function::{FunctionName, domain};
use super::scope::Binding;
use super::{OnnxError, Reader};
use crate::graph::{Node, ValueId};
use crate::onnx::ops;
use crate::onnx::proto::NodeProto;

/// What one node of a function takes, roughly, beyond what it copies from the file: its operator, helper nodes.
const NODE_BYTES: usize = 512;

impl<'m> Reader<'m> {
    /// Reads one node into the current graph.
    pub(super) fn node(&mut self, node: &'m NodeProto) -> Result<(), OnnxError> {
        let domain = domain(&node.domain);
        if domain.is_empty() && node.op_type == "Constant" {
            return Ok(()); // A weight already.
        }
        let copied = if self.in_function() { NODE_BYTES + self.copied_bytes(node) } else { 0 };
        self.take(copied)?;
        let mut inputs = self.node_inputs(node)?;
        let outputs: Vec<Option<ValueId>> = node.output.iter().map(|name| self.own(name)).collect();

        let function = self.functions.get(&FunctionName::called_by(node)).copied();
        if !domain.is_empty()
            && let Some(function) = function
        {
            return self.inline(node, function, &inputs, &outputs);
        }
        let version = self.opset(domain);
        let version = match (version, domain) {
            (Some(version), _) => version,
            // Known by name alone, and not always imported by those who write it.
            (None, "com.microsoft") => 1,
            (None, _) => {
                let (domain, node, op_type) = (domain.to_owned(), node.name.clone(), node.op_type.clone());
                return Err(OnnxError::NoOpset { domain, node, op_type });
            }
        };
        // What an operator that stays foreign makes of trailing positions is not known: it keeps them.
        let given = inputs.clone();
        while inputs.last() == Some(&None) {
            inputs.pop();
        }
        if domain.is_empty() && matches!(node.op_type.as_str(), "If" | "Loop" | "Scan") {
            return self.control(node, inputs, outputs);
        }

        let attributes = self.attributes(node)?;
        let first_output = node.output.iter().find(|name| !name.is_empty());
        let label = [Some(&node.name), first_output, Some(&node.op_type)];
        let label = label.into_iter().flatten().find(|name| !name.is_empty()).map_or("", String::as_str);
        let name = self.node_name(node);
        let mut call = Call {
            label: format!("{}{label}", self.frame().prefix),
            builder: self.graphs.last_mut().expect("a graph is being read"),
            weights: &mut self.weights,
            op_type: &node.op_type,
            version,
            attributes,
            inputs: inputs.clone(),
            outputs: outputs.clone(),
        };
        let mark = call.builder.mark();
        let op = match domain {
            "" => match ops::sequence(&mut call) {
                Ok(None) => ops::standard(&mut call),
                Ok(Some(op)) => Ok(op),
                Err(reason) => Err(reason),
            },
            "com.microsoft" => ops::microsoft(&mut call),
            "ai.onnx.ml" => ops::ml(&mut call),
            _ => Err(Unsupported::Operator),
        };
        match op.and_then(|op| call.attributes.finish().map(|()| op)) {
            Ok(op) => {
                let Call { builder, mut inputs, outputs, .. } = call;
                while inputs.last() == Some(&None) {
                    inputs.pop();
                }
                builder.add_node(Node { name, op, inputs, outputs });
                Ok(())
            }
            Err(reason) => {
                call.builder.rewind(&mark);
                if domain.is_empty()
                    && let Some(function) = function
                {
                    return self.inline(node, function, &inputs, &outputs);
                }
                self.foreign(node, version, &reason, given, outputs)
            }
        }
    }

    /// The name for a node of the file, within the function that is being inlined if one is. A function's node without a
    /// name has that of its output, as names of calls alone would be those of several nodes.
    pub(super) fn node_name(&self, node: &NodeProto) -> String {
        let first_output = || node.output.iter().find(|name| !name.is_empty());
        let own = if node.name.is_empty() && self.in_function() { first_output() } else { None };
        format!("{}{}", self.frame().prefix, own.unwrap_or(&node.name))
    }

    /// Bytes of names and attributes that reading a node of a function copies or goes through. Graphs are not among them,
    /// which account for themselves.
    fn copied_bytes(&self, node: &NodeProto) -> usize {
        let names = node.input.iter().chain(&node.output).chain([&node.name, &node.op_type, &node.domain]);
        let set = &self.frame().attributes;
        let attributes = node.attribute.iter().map(|own| {
            let attribute = set.get(own.ref_attr_name.as_str()).copied().unwrap_or(own);
            attribute.encoded_len() - attribute.g.as_ref().map_or(0, Message::encoded_len)
        });
        names.map(String::len).sum::<usize>() + attributes.sum::<usize>()
    }

    fn node_inputs(&mut self, node: &'m NodeProto) -> Result<Vec<Option<ValueId>>, OnnxError> {
        let mut inputs = Vec::with_capacity(node.input.len());
        for name in &node.input {
            let binding = if name.is_empty() { Some(Binding::Value(None)) } else { self.lookup(name) };
            inputs.push(match binding {
                Some(Binding::Value(id)) => id,
                Some(Binding::Unsupported(dtype)) => {
                    return Err(OnnxError::ElementType {
                        name: name.clone(),
                        node: node.name.clone(),
                        dtype,
                    });
                }
                None => {
                    let (name, node, op_type) = (name.clone(), node.name.clone(), node.op_type.clone());
                    return Err(OnnxError::Undefined { name, node, op_type });
                }
            });
        }
        Ok(inputs)
    }

    /// The value that a node of this scope makes under `name`.
    fn own(&self, name: &str) -> Option<ValueId> {
        match self.scope().names.get(name) {
            Some(&Binding::Value(id)) => id,
            Some(Binding::Unsupported(_)) | None => None,
        }
    }

    /// The attributes of a node, with references to a function's attributes resolved. One that refers to an attribute
    /// that the call did not set is absent.
    pub(super) fn attributes(&self, node: &'m NodeProto) -> Result<Attributes<'m>, OnnxError> {
        let reference = node.attribute.iter().find(|a| !a.ref_attr_name.is_empty());
        if let Some(attribute) = reference
            && !self.in_function()
        {
            return Err(OnnxError::Reference { node: node.name.clone(), name: attribute.name.clone() });
        }
        let set = &self.frame().attributes;
        Ok(Attributes::new(node.attribute.iter().filter_map(
            |attribute| match attribute.ref_attr_name.as_str() {
                "" => Some((attribute.name.as_str(), attribute)),
                reference => set.get(reference).map(|value| (attribute.name.as_str(), *value)),
            },
        )))
    }
}
