//! Constants that go are added to the bias of the product that summed them.

use poda_formats::op::Binary;
use poda_formats::{DataType, Graph, Node, Op, Tensor, Value, ValueId};

use super::bounds::{constant, padded};
use super::range::Bounds;
use super::{along, operands, weight_is_second};
use crate::criterion::float_values;
use crate::dependency::{Contraction, DependencyGraph, Facts, Removal};
use crate::unstructured::float_tensor;

/// What a product's output loses with the units that go.
pub(super) struct Fold {
    /// The product, by its output.
    output: ValueId,
    /// For each output channel.
    shift: Vec<f64>,
    /// The dimension of the output with the channels.
    dim: usize,
    /// Of the output.
    dtype: DataType,
}

impl Fold {
    /// Whether constants summed there can be folded: a plain product with a constant matrix, where no padding mixes in.
    pub(super) fn fits(graph: &Graph, facts: Facts<'_>, contraction: &Contraction) -> bool {
        let node = &graph.nodes[contraction.node];
        let second =
            node.input(1).is_some_and(|id| operands(facts, contraction).1.is_some_and(|w| w.0 == id));
        let matrix = || node.input(1).and_then(|id| facts.shape(id)).is_some_and(|s| s.len() == 2);
        let plain = if let Op::Conv(conv) = &node.op {
            conv.group <= 1 && !padded(&conv.padding)
        } else {
            matches!(node.op, Op::Gemm { trans_a: false, .. }) || matches!(node.op, Op::MatMul) && matrix()
        };
        second && plain && weight_is_second(&node.op)
    }

    pub(super) fn new(
        graph: &Graph,
        dependencies: &DependencyGraph,
        facts: Facts<'_>,
        bounds: &Bounds,
        removal: &Removal,
        contraction: &Contraction,
    ) -> Option<Self> {
        if !Self::fits(graph, facts, contraction) {
            return None;
        }
        let node = &graph.nodes[contraction.node];
        let [data, (weight, dim)] = contraction.operands;
        let bounds = along(facts, bounds, data);
        let tensor = facts.constant(weight)?;
        let (values, shape) = (float_values(tensor)?, tensor.shape());
        let kept = dependencies.kept(contraction.axis, removal)?;
        let out_dim = usize::from(dim == 0);
        let alpha = if let Op::Gemm { alpha, .. } = node.op { f64::from(alpha) } else { 1.0 };
        let window: usize = shape.iter().skip(2).product();
        let strides = [shape[1] * window, window];
        let mut shift = vec![0.0; shape[out_dim]];
        for i in (0..kept.len()).filter(|&i| !kept[i]) {
            let value = bounds.get(i).and_then(|&pair| constant(pair)).filter(|&value| value != 0.0);
            let Some(value) = value else { continue };
            for (o, shift) in shift.iter_mut().enumerate() {
                let start = i * strides[dim] + o * strides[out_dim];
                let sum: f64 = values[start..start + window].iter().map(|&w| f64::from(w)).sum();
                *shift += alpha * value * sum;
            }
        }
        let output = node.output(0)?;
        let (rank, dtype) = (facts.shape(output)?.len(), facts.info(output)?.dtype);
        let dim = if matches!(node.op, Op::Conv(_)) { 1 } else { rank - 1 };
        shift.iter().any(|&s| s != 0.0).then_some(Self { output, shift, dim, dtype })
    }

    /// Adds the shift to the bias of the product in the compacted graph, whose ids are those of the graph before.
    pub(super) fn apply(&self, graph: &mut Graph, dependencies: &DependencyGraph, removal: &Removal) {
        let Some(layout) = dependencies.layout(self.output) else { return };
        let kept = dependencies.kept(layout.axes[self.dim], removal);
        let stays = |i: &usize| kept.as_ref().is_none_or(|kept| kept[*i]);
        let shift: Vec<f64> = (0..self.shift.len()).filter(stays).map(|i| self.shift[i]).collect();
        let Some(at) = graph.nodes.iter().position(|n| n.outputs.contains(&Some(self.output))) else {
            return;
        };
        let node = &graph.nodes[at];
        let name = node.name.clone();
        let dtype = self.dtype;
        let takes_bias = matches!(node.op, Op::Conv(_)) || matches!(node.op, Op::Gemm { beta: 1.0, .. });
        let old = match node.input(2) {
            // One for each channel; a summand of another shape is not the channels' alone.
            Some(id) => graph
                .weight(id)
                .and_then(|w| w.to_dense().ok())
                .filter(|t| t.len() == shift.len() && t.shape().last() == Some(&shift.len())),
            None => Some(Tensor::zeros(DataType::F32, &[shift.len()])),
        };
        if let Some(old) = old.as_ref().and_then(float_values).filter(|_| takes_bias) {
            let sum: Vec<f32> = old.iter().zip(&shift).map(|(&b, s)| (f64::from(b) + s) as f32).collect();
            let Some(tensor) = float_tensor(dtype, &[sum.len()], &sum) else { return };
            let bias = graph.unique_name(&format!("{name}.bias"));
            let bias = graph.add_weight(bias, tensor);
            let inputs = &mut graph.nodes[at].inputs;
            inputs.resize(3.max(inputs.len()), None);
            inputs[2] = Some(bias);
            return;
        }
        let mut shape = vec![shift.len()];
        shape.resize(layout.axes.len() - self.dim, 1);
        let shift: Vec<f32> = shift.iter().map(|&s| s as f32).collect();
        let Some(tensor) = float_tensor(dtype, &shape, &shift) else { return };
        let base = graph.unique_name(&format!("{name}.shift"));
        let shift = graph.add_weight(base, tensor);
        let raw =
            Value { name: graph.unique_name(&format!("{name}.raw")), dtype: Some(dtype), ..Value::default() };
        let raw = graph.add_value(raw);
        graph.nodes[at].outputs[0] = Some(raw);
        let add = Node {
            name: graph.value(raw).name.clone(),
            op: Op::Binary(Binary::Add),
            inputs: vec![Some(raw), Some(shift)],
            outputs: vec![Some(self.output)],
        };
        graph.nodes.insert(at + 1, add);
    }
}
