//! Scan, as the Loop that it is: each step gathers its elements from the inputs that are scanned.

use super::attributes::{Attributes, Unsupported};
use super::builder::Builder;
use super::control::leave_out;
use super::{OnnxError, Reader};
use crate::dtype::DataType;
use crate::graph::{Dim, Node, Value, ValueId};
use crate::onnx::proto::{GraphProto, NodeProto};
use crate::op::{Binary, Op};
use crate::tensor::Tensor;

/// The attributes of a Scan that can be rewritten.
pub(super) struct Scan<'m> {
    pub(super) body: &'m GraphProto,
    /// Number of values carried from step to step.
    carried: usize,
    /// For each input that is scanned, its axis and whether it is scanned from the end.
    scanned: Vec<(i64, bool)>,
}

impl<'m> Scan<'m> {
    /// Reads the attributes of a node with `inputs` inputs.
    pub(super) fn of(
        attributes: &Attributes<'m>,
        version: i64,
        inputs: usize,
        outputs: usize,
    ) -> Result<Self, Unsupported> {
        // Opset 8 had a batch axis and sequence lengths.
        if version < 9 {
            return Err(Unsupported::Operator);
        }
        let count = attributes.size("num_scan_inputs", 0)?;
        let carried = inputs.checked_sub(count).filter(|_| count > 0);
        let carried = carried.ok_or(Unsupported::MissingAttribute { name: "num_scan_inputs" })?;
        let all = |name, count| {
            let values = attributes.ints(name)?.unwrap_or(&[]);
            if values.is_empty() || values.len() == count {
                Ok(values)
            } else {
                Err(Unsupported::AttributeValue { name, value: format!("{values:?}") })
            }
        };
        let axes = all("scan_input_axes", count)?;
        let directions = all("scan_input_directions", count)?;
        // Results are stacked as Loop does it: forward, along the first axis.
        for name in ["scan_output_axes", "scan_output_directions"] {
            let values = all(name, outputs.saturating_sub(carried))?;
            if values.iter().any(|&value| value != 0) {
                return Err(Unsupported::AttributeValue { name, value: format!("{values:?}") });
            }
        }
        let at = |values: &[i64], index: usize| values.get(index).copied().unwrap_or(0);
        let scanned = (0..count).map(|i| (at(axes, i), at(directions, i) != 0)).collect();
        Ok(Self { body: attributes.graph("body")?, carried, scanned })
    }
}

impl Reader<'_> {
    /// Turns a Scan, whose body is read already, into a Loop.
    pub(super) fn scan(
        &mut self,
        node: &NodeProto,
        scan: &Scan,
        mut body: Builder,
        inputs: &[Option<ValueId>],
        mut outputs: Vec<Option<ValueId>>,
    ) -> Result<(), OnnxError> {
        let wrong = |what, expected, found| {
            let (node, op_type) = (node.name.clone(), node.op_type.clone());
            Err(OnnxError::Body { node, op_type, graph: "the body", what, expected, found })
        };
        let Scan { carried, scanned, .. } = scan;
        let sources: Option<Vec<ValueId>> = inputs[*carried..].iter().copied().collect();
        let Some(sources) = sources else { return wrong("inputs", inputs.len(), carried + scanned.len()) };
        if body.graph.inputs.len() != inputs.len() {
            return wrong("inputs", inputs.len(), body.graph.inputs.len());
        }
        leave_out(&mut outputs, &body.graph, 0);
        if body.graph.outputs.len() != outputs.len() || outputs.len() < *carried {
            return wrong("outputs", outputs.len().max(*carried), body.graph.outputs.len());
        }
        let name = self.node_name(node);
        let label =
            format!("{}{}", self.frame().prefix, if node.name.is_empty() { "Scan" } else { &node.name });

        let outer = self.builder();
        let (axis, _) = scanned[0];
        let length = Op::Shape { start: axis, end: axis.checked_add(1).filter(|&end| end != 0) };
        let length = emit(outer, length, &[sources[0]], &format!("{label}_length"));
        let zero = constant(outer, Tensor::from_slice(&[1], &[0_i64]), &format!("{label}_zero"));
        let trips = emit(outer, Op::Squeeze, &[length, zero], &format!("{label}_trips"));
        let one = constant(outer, Tensor::scalar(1_i64), &format!("{label}_one"));
        let last = emit(outer, Op::Binary(Binary::Sub), &[trips, one], &format!("{label}_last"));

        let scalar = |dtype| Value { dtype: Some(dtype), shape: Some(Vec::<Dim>::new()), ..Value::default() };
        let step = body.add_value("step", scalar(DataType::I64));
        let condition = body.add_value("condition", scalar(DataType::Bool));
        let elements = body.graph.inputs.split_off(*carried);
        for ((&source, &element), &(axis, backwards)) in sources.iter().zip(&elements).zip(scanned) {
            let value = self.builder().graph.value(source).clone();
            let source = body.capture(source, &value);
            let mut index = step;
            if backwards {
                let value = self.builder().graph.value(last).clone();
                let last = body.capture(last, &value);
                index = emit(&mut body, Op::Binary(Binary::Sub), &[last, step], "backwards");
            }
            let (inputs, outputs) = (vec![Some(source), Some(index)], vec![Some(element)]);
            body.add_node(Node { name: String::new(), op: Op::Gather { axis }, inputs, outputs });
        }
        let going_on = emit(&mut body, Op::Identity, &[condition], "going_on");
        body.graph.inputs.splice(0..0, [step, condition]);
        body.graph.outputs.insert(0, going_on);

        let mut inputs: Vec<_> = [Some(trips), None].iter().chain(&inputs[..*carried]).copied().collect();
        let mut body = [body];
        inputs.extend(self.captures_to_inputs(&mut body));
        let [body] = body.map(|builder| Box::new(builder.graph));
        let op = Op::Loop { body, carried: *carried };
        self.builder().add_node(Node { name, op, inputs, outputs });
        Ok(())
    }
}

fn emit(builder: &mut Builder, op: Op, inputs: &[ValueId], name: &str) -> ValueId {
    let id = builder.add_value(name, Value::default());
    let inputs = inputs.iter().copied().map(Some).collect();
    builder.add_node(Node { name: name.to_owned(), op, inputs, outputs: vec![Some(id)] });
    id
}

fn constant(builder: &mut Builder, tensor: Tensor, name: &str) -> ValueId {
    let id = builder.add_value(name, Value::default());
    builder.set_weight(id, tensor.into());
    id
}
