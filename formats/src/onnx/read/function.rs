//! Model-local functions, inlined where they are called.

use std::collections::HashMap;

use super::scope::{Binding, Scope};
use super::{DEPTH_LIMIT, OnnxError, Reader};
use crate::graph::{Node, ValueId};
use crate::onnx::proto::{AttributeProto, FunctionProto, ModelProto, NodeProto, OperatorSetIdProto};
use crate::onnx::{NEWEST_OPSET, OLDEST_OPSET};
use crate::op::Op;

/// What an entry of the tables for one call of a function takes, roughly.
const ENTRY_BYTES: usize = 64;

/// ONNX's own domain has two names.
pub(super) fn domain(name: &str) -> &str {
    if name == "ai.onnx" { "" } else { name }
}

/// What tells functions apart.
#[derive(PartialEq, Eq, Hash)]
pub(super) struct FunctionName<'m> {
    domain: &'m str,
    name: &'m str,
    overload: &'m str,
}

impl<'m> FunctionName<'m> {
    pub(super) fn of(function: &'m FunctionProto) -> Self {
        Self { domain: domain(&function.domain), name: &function.name, overload: &function.overload }
    }

    pub(super) fn called_by(node: &'m NodeProto) -> Self {
        Self { domain: domain(&node.domain), name: &node.op_type, overload: &node.overload }
    }
}

/// What nodes are read with: the model's own, or those of a function for one call of it.
pub(super) struct Frame<'m> {
    /// Versions of the operator sets imported, by domain.
    pub(super) opsets: HashMap<&'m str, i64>,
    /// Values of the function's attributes.
    pub(super) attributes: HashMap<&'m str, &'m AttributeProto>,
    /// Start of the names of values and nodes.
    pub(super) prefix: String,
}

impl<'m> Frame<'m> {
    pub(super) fn of_model(model: &'m ModelProto) -> Result<Self, OnnxError> {
        let opsets = opsets(&model.opset_import)?;
        Ok(Self { opsets, attributes: HashMap::new(), prefix: String::new() })
    }
}

fn opsets(imports: &[OperatorSetIdProto]) -> Result<HashMap<&str, i64>, OnnxError> {
    let opsets: HashMap<&str, i64> = imports.iter().map(|i| (domain(&i.domain), i.version)).collect();
    match opsets.get("") {
        Some(&found) if !(OLDEST_OPSET..=NEWEST_OPSET).contains(&found) => Err(OnnxError::Opset { found }),
        _ => Ok(opsets),
    }
}

impl<'m> Reader<'m> {
    /// Reads the nodes of `function` into the current graph, in place of the call `node`.
    pub(super) fn inline(
        &mut self,
        node: &'m NodeProto,
        function: &'m FunctionProto,
        inputs: &[Option<ValueId>],
        outputs: &[Option<ValueId>],
    ) -> Result<(), OnnxError> {
        self.check_depth(node)?;
        let count = |what, expected: usize, found: usize| {
            let (node, function) = (node.name.clone(), function.name.clone());
            if found > expected {
                Err(OnnxError::Call { node, function, what, expected, found })
            } else {
                Ok(())
            }
        };
        count("inputs", function.input.len(), inputs.len())?;
        count("outputs", function.output.len(), outputs.len())?;

        let (imports, defaults) = (&function.opset_import, &function.attribute_proto);
        let names = (function.input.iter().chain(&function.output))
            .chain(function.value_info.iter().map(|info| &info.name))
            .chain(imports.iter().map(|import| &import.domain))
            .chain(defaults.iter().map(|default| &default.name));
        let header: usize = names.map(|name| ENTRY_BYTES + name.len()).sum();
        self.take(header + ENTRY_BYTES * function.node.len() + self.frame().prefix.len())?;
        let defaults = defaults.iter().map(|a| (a.name.as_str(), a));
        let mut attributes: HashMap<&str, &AttributeProto> = defaults.collect();
        attributes.extend(self.attributes(node)?.iter());
        let label = [&node.name, &function.name].into_iter().find(|name| !name.is_empty());
        let prefix = format!("{}{}/", self.frame().prefix, label.map_or("", String::as_str));

        let mut scope = Scope::of_function(self.graphs.len() - 1);
        for (index, name) in function.input.iter().enumerate() {
            let binding = Binding::Value(inputs.get(index).copied().flatten());
            if scope.names.insert(name, binding).is_some() {
                return Err(OnnxError::Duplicate { name: name.clone() });
            }
        }
        let mut passed_through = Vec::new();
        for (name, id) in function.output.iter().zip(outputs) {
            let Some(id) = *id else { continue };
            match scope.names.get(name.as_str()) {
                Some(&Binding::Value(input)) => passed_through.push((name, input, id)),
                _ => scope.reserve(name, id),
            }
        }
        self.scopes.push(scope);
        self.frames.push(Frame { opsets: opsets(imports)?, attributes, prefix });

        let declared = function.value_info.iter().map(|info| (info.name.as_str(), info)).collect();
        self.declare_outputs(&function.node, &declared)?;
        if let Some(name) = self.scope().first_reserved() {
            let (name, graph) = (name.to_owned(), function.name.clone());
            return Err(OnnxError::UndefinedOutput { name, graph });
        }
        for node in &function.node {
            self.node(node)?;
        }
        for (name, input, output) in passed_through {
            let undefined =
                || OnnxError::UndefinedOutput { name: name.clone(), graph: function.name.clone() };
            let input = input.ok_or_else(undefined)?;
            let name = format!("{}{name}", self.frame().prefix);
            let (inputs, outputs) = (vec![Some(input)], vec![Some(output)]);
            self.builder().add_node(Node { name, op: Op::Identity, inputs, outputs });
        }
        self.frames.pop();
        self.scopes.pop();
        Ok(())
    }

    /// Refuses to go deeper than [`DEPTH_LIMIT`].
    pub(super) fn check_depth(&self, node: &NodeProto) -> Result<(), OnnxError> {
        if self.scopes.len() >= DEPTH_LIMIT {
            return Err(OnnxError::Depth { node: node.name.clone(), limit: DEPTH_LIMIT });
        }
        Ok(())
    }
}
