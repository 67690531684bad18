//! What lost inputs brought on average goes into the bias: `b ← b + Σ (w − ŵ) E[x]`.
//!
//! Updates that fit weights then fit them to what varies about the means, because the bias sees to the means themselves.

use poda_formats::{Graph, Op, ValueId, Weight};

use super::{Job, UpdateError, WeightUpdate};
use crate::calibration::{Needs, Statistics};
use crate::criterion::float_values;
use crate::unstructured::float_tensor;

/// Mean-field compensation, where a layer has a bias.
#[derive(Debug)]
pub struct Bias;

impl WeightUpdate for Bias {
    fn name(&self) -> &'static str {
        "bias"
    }

    fn description(&self) -> &'static str {
        "what lost inputs brought on average goes into the layer's bias, where it has one"
    }

    fn needs(&self) -> Needs {
        Needs::Inputs
    }

    fn shifts_bias(&self) -> bool {
        true
    }

    /// Nothing: the bias is that of the weights once all updates are done.
    fn update(&self, _: &mut Job<'_>) -> Result<(), UpdateError> {
        Ok(())
    }
}

/// A constant that is added to the outputs of a product, one number for each.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct BiasPlace {
    id: ValueId,
    /// What one added to the outputs adds to the constant.
    factor: f64,
}

impl BiasPlace {
    /// That of `node`, which multiplies with a weight of `rows` outputs; `None` where there is none, or where others use it too.
    pub(crate) fn find(graph: &Graph, node: usize, rows: usize) -> Option<Self> {
        let of = |id: Option<ValueId>, factor: f64| Some(Self { id: id?, factor });
        let node = &graph.nodes[node];
        let users = |id: ValueId| -> Vec<usize> {
            let uses = |n: &usize| graph.nodes[*n].inputs.contains(&Some(id));
            (0..graph.nodes.len()).filter(uses).collect()
        };
        let next = || match users(node.output(0)?)[..] {
            [only] if !graph.outputs.contains(&node.output(0)?) => Some(&graph.nodes[only]),
            _ => None,
        };
        // The constant of an addition that follows.
        let added = || {
            let next = next()?;
            let other = next.inputs.iter().flatten().copied().find(|id| Some(*id) != node.output(0))?;
            matches!(next.op, Op::Binary(poda_formats::op::Binary::Add)).then_some(other)
        };
        let place = match &node.op {
            Op::Gemm { beta, .. } if node.input(2).is_some() && *beta != 0.0 => {
                of(node.input(2), 1.0 / f64::from(*beta))
            }
            Op::Conv(_) if node.input(2).is_some() => of(node.input(2), 1.0),
            Op::Conv(_) => match next() {
                Some(norm) if matches!(norm.op, Op::BatchNormalization { .. }) => of(norm.input(3), -1.0),
                _ => of(added(), 1.0),
            },
            Op::MatMul | Op::Gemm { .. } => of(added(), 1.0),
            _ => None,
        }?;
        let weight = graph.weight(place.id)?;
        // The outputs lie along the last axis of a product, and along the second of a convolution.
        let shape = weight.shape();
        let image = matches!(node.op, Op::Conv(_)) && shape.len() > 1;
        let along = if image {
            shape.len().checked_sub(node_rank(graph, node)? - 1)?
        } else {
            shape.len().checked_sub(1)?
        };
        let lies = shape.iter().enumerate().all(|(axis, &size)| size == if axis == along { rows } else { 1 });
        (lies && weight.dtype().is_float() && users(place.id).len() == 1).then_some(place)
    }

    /// The constant.
    pub(crate) fn id(self) -> ValueId {
        self.id
    }

    /// Adds to the outputs.
    pub(crate) fn add(self, graph: &mut Graph, shift: &[f64]) -> Option<()> {
        let tensor = graph.weight(self.id)?.to_dense().ok()?;
        let mut values = float_values(&tensor)?;
        let shifted = values.iter_mut().zip(shift);
        shifted.for_each(|(v, shift)| *v = (f64::from(*v) + self.factor * shift) as f32);
        let tensor = float_tensor(tensor.dtype(), tensor.shape(), &values)?;
        graph.value_mut(self.id).weight = Some(Weight::Tensor(tensor));
        Some(())
    }
}

/// The rank of a convolution's image: that of its weight.
fn node_rank(graph: &Graph, node: &poda_formats::Node) -> Option<usize> {
    Some(graph.weight(node.input(1)?)?.shape().len())
}

impl Statistics {
    /// The same about the means of the fitted samples.
    pub(crate) fn centred(&self) -> Self {
        let mut centred = self.clone();
        let cols = self.cols;
        let count = self.fitted.rows.max(1) as f64;
        let means: Vec<f64> = self.fitted.sums.iter().map(|sum| sum / count).collect();
        // Of the dense model, where its inputs are known too.
        let dense_means: Option<Vec<f64>> =
            self.fitted.dense.as_ref().map(|dense| dense.sums.iter().map(|sum| sum / count).collect());
        // `Σ (x − m)(z − p)ᵀ` from `Σ x zᵀ`.
        let about = |square: &mut [f64], rows: u64, [x, z]: [&[f64]; 2], [m, p]: [&[f64]; 2]| {
            for (at, v) in square.iter_mut().enumerate() {
                let (group, i, j) = (at / (cols * cols) * cols, at / cols % cols, at % cols);
                let (i, j) = (group + i, group + j);
                *v += rows as f64 * m[i] * p[j] - x[i] * p[j] - m[i] * z[j];
            }
        };
        for moments in [&mut centred.fitted, &mut centred.held_out] {
            let (rows, sums) = (moments.rows, &moments.sums);
            about(&mut moments.gram, rows, [sums, sums], [&means, &means]);
            if let (Some(dense), Some(of_dense)) = (&mut moments.dense, &dense_means) {
                about(&mut dense.cross, rows, [sums, &dense.sums], [&means, of_dense]);
                about(&mut dense.gram, rows, [&dense.sums, &dense.sums], [of_dense, of_dense]);
            }
        }
        centred
    }

    /// What outputs lose on average when the weights `dense`, `[rows, cols]`, become `weights`, and the inputs those of the pruned
    /// model where both are known.
    pub(crate) fn lost(&self, dense: &[f32], weights: &[f32]) -> Vec<f64> {
        let cols = self.cols.max(1);
        let (rows, count) = (dense.len() / cols, self.fitted.rows.max(1) as f64);
        let of_row = |(row, (dense, weights)): (usize, (&[f32], &[f32]))| {
            let of_group = self.group(row, rows) * cols..;
            let sums = &self.fitted.sums[of_group.clone()][..cols];
            let before = self.fitted.dense.as_ref().map_or(sums, |dense| &dense.sums[of_group][..cols]);
            let lost = dense.iter().zip(before).zip(weights.iter().zip(sums));
            lost.map(|((a, before), (b, sum))| (f64::from(*a) * before - f64::from(*b) * sum) / count).sum()
        };
        dense.chunks_exact(cols).zip(weights.chunks_exact(cols)).enumerate().map(of_row).collect()
    }
}
