//! ONNX's operators, by family: how each is read, from any version to [`Op`], and its attributes written. A family gives `None` for
//! what is not its own.

mod convolution;
mod elementwise;
mod generate;
mod microsoft;
mod ml;
mod movement;
mod normalization;
mod quantised;
mod reduction;
mod sampling;
mod sequence;

use super::read::{Call, Unsupported};
use super::write::Form;
use crate::dtype::DataType;
use crate::graph::{Graph, Node};
use crate::op::Op;

/// Reads a node of the family.
type Read = fn(&mut Call) -> Result<Option<Op>, Unsupported>;
/// Writes the attributes of an operator of the family.
type Write = fn(&Op, Form, &Around<'_>) -> Option<Form>;

/// The families of ONNX's own domain.
const FAMILIES: [(Read, Write); 7] = [
    (elementwise::read, elementwise::write),
    (movement::read, movement::write),
    (convolution::read, convolution::write),
    (normalization::read, normalization::write),
    (reduction::read, reduction::write),
    (sampling::read, sampling::write),
    (generate::read, generate::write),
];

/// The operator of a node in ONNX's own domain. Inputs are rewritten and helper nodes added where the file's opset has
/// another form than the newest.
pub(super) fn standard(call: &mut Call) -> Result<Op, Unsupported> {
    for (read, _) in FAMILIES {
        if let Some(op) = read(call)? {
            return Ok(op);
        }
    }
    Err(Unsupported::Operator)
}

/// `f` with the attributes of an operator without bodies; `None` for what ONNX has not.
pub(super) fn write(op: &Op, f: &Form, around: &Around<'_>) -> Option<Form> {
    let f = FAMILIES.iter().find_map(|(_, write)| write(op, f.clone(), around))?;
    // Most operators that lacked bf16 have it since 22.
    Some(f.since_if(22, around.has(DataType::BF16)))
}

/// What the form of an operator may depend on beside its attributes.
pub(super) struct Around<'a> {
    graph: &'a Graph,
    node: &'a Node,
    /// Of the inputs and outputs, as far as they are declared.
    types: Vec<DataType>,
}

impl<'a> Around<'a> {
    pub(super) fn of(graph: &'a Graph, node: &'a Node) -> Self {
        let values = node.inputs.iter().chain(&node.outputs).flatten();
        Self { graph, node, types: values.filter_map(|&id| graph.value(id).dtype).collect() }
    }

    fn has(&self, dtype: DataType) -> bool {
        self.types.contains(&dtype)
    }

    /// Whether floats of 16 bits are among them.
    fn half(&self) -> bool {
        self.has(DataType::BF16) || self.has(DataType::F16)
    }

    /// Whether integers of 16 bits are among them.
    fn wide(&self) -> bool {
        self.has(DataType::I16) || self.has(DataType::U16)
    }
}

pub(super) use microsoft::read as microsoft;
pub(super) use ml::read as ml;
pub(super) use sequence::{Sequence, read as sequence};
