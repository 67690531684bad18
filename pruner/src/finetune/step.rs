//! One training step as a graph: loss and gradients from samples, targets and the weights that are trained, for one size of
//! batch.

use poda_formats::op::{Binary, Op, ReduceKind};
use poda_formats::{DataType, Dim, Graph, Tensor, TensorView, TensorViewMut, ValueId};
use poda_runtime::{Executable, Model, Options};

use super::{Batch, FineTuneError, Term};
use crate::gradients::{differentiate, loss};

/// What a step computes.
#[derive(Debug)]
pub(crate) struct Step {
    executable: Executable,
    loss: String,
    /// Of the outputs, each trained weight's gradient.
    gradients: Vec<String>,
    targets: Vec<String>,
    /// Names of the weights that are fed.
    weights: Vec<String>,
}

/// Weights whose gradients `graph` has, of those in `candidates`, for batches like this one.
pub(crate) fn reached(
    graph: &Graph,
    candidates: &[ValueId],
    terms: &[Term],
    batch: &Batch,
) -> Result<Vec<ValueId>, FineTuneError> {
    let built = Built::new(graph, candidates, terms, batch, false)?;
    let built = built.differentiated(candidates, batch)?;
    Ok(candidates.iter().zip(&built.gradients).filter(|(_, g)| g.is_some()).map(|(&id, _)| id).collect())
}

struct Built {
    graph: Graph,
    loss: ValueId,
    gradients: Vec<Option<ValueId>>,
    targets: Vec<String>,
}

impl Built {
    fn new(
        graph: &Graph,
        weights: &[ValueId],
        terms: &[Term],
        batch: &Batch,
        batch_statistics: bool,
    ) -> Result<Self, FineTuneError> {
        let mut graph = graph.clone();
        // Weights that are not trained may be stored sparse: the kernels take them as they are.
        for &id in weights {
            graph.make_input(id);
        }
        if batch_statistics {
            normalise_by_batch(&mut graph);
        }
        let (mut losses, mut targets) = (Vec::new(), Vec::new());
        for (i, (term, target)) in terms.iter().zip(&batch.targets).enumerate() {
            let name = graph.unique_name(&format!("target{i}"));
            let dims = target.shape().iter().map(|&d| Dim::Fixed(d)).collect();
            let id = graph.add_input(name.clone(), target.dtype(), dims);
            targets.push(name);
            losses.push((loss::append(&mut graph, term.loss, term.output, id), term.factor));
        }
        let loss = loss::weighted_sum(&mut graph, &losses).ok_or(FineTuneError::NoLoss)?;
        Ok(Self { graph, loss, gradients: Vec::new(), targets })
    }

    /// With the gradients of `weights`.
    fn differentiated(mut self, weights: &[ValueId], batch: &Batch) -> Result<Self, FineTuneError> {
        let fed = |(name, tensor): (&String, &Tensor)| (name.clone(), tensor.shape().to_vec());
        let feeds = batch.feeds.iter().map(|(name, tensor)| (name, tensor));
        let shapes = feeds.chain(self.targets.iter().zip(&batch.targets)).map(fed).collect();
        self.gradients = differentiate(&mut self.graph, &shapes, self.loss, weights)?;
        Ok(self)
    }
}

impl Step {
    /// `weights` must all be reached by the loss. With `batch_statistics`, batch normalisation takes mean and variance from
    /// the batch, as in training.
    pub(crate) fn new(
        graph: &Graph,
        weights: &[ValueId],
        terms: &[Term],
        batch: &Batch,
        batch_statistics: bool,
        threads: Option<usize>,
    ) -> Result<Self, FineTuneError> {
        let built = Built::new(graph, weights, terms, batch, batch_statistics)?;
        Self::of(built.differentiated(weights, batch)?, weights, threads)
    }

    /// The loss alone.
    pub(crate) fn forward(
        graph: &Graph,
        weights: &[ValueId],
        terms: &[Term],
        batch: &Batch,
        threads: Option<usize>,
    ) -> Result<Self, FineTuneError> {
        Self::of(Built::new(graph, weights, terms, batch, false)?, weights, threads)
    }

    fn of(built: Built, weights: &[ValueId], threads: Option<usize>) -> Result<Self, FineTuneError> {
        let Built { mut graph, loss, gradients, targets } = built;
        let names = weights.iter().map(|&id| graph.value(id).name.clone()).collect();
        let given: Vec<ValueId> = gradients.into_iter().flatten().collect();
        debug_assert!(given.is_empty() || given.len() == weights.len(), "every weight has a gradient");
        graph.outputs = [&[loss], &given[..]].concat();
        let (executable, outputs) = prepare(graph, threads)?;
        let mut outputs = outputs.into_iter();
        let loss = outputs.next().ok_or(FineTuneError::NoLoss)?;
        Ok(Self { executable, loss, gradients: outputs.collect(), targets, weights: names })
    }

    /// Runs the step: gives the loss and writes the gradients.
    pub(crate) fn run(
        &self,
        batch: &Batch,
        shapes: &[Vec<usize>],
        weights: &[Vec<f32>],
        gradients: &mut [Vec<f32>],
    ) -> Result<f32, FineTuneError> {
        let mut feeds: Vec<(&str, TensorView<'_>)> =
            batch.feeds.iter().map(|(name, tensor)| (name.as_str(), tensor.view())).collect();
        feeds.extend(self.targets.iter().zip(&batch.targets).map(|(name, t)| (name.as_str(), t.view())));
        let views = weights.iter().zip(shapes).map(|(w, shape)| TensorView::from_slice(shape, w));
        feeds.extend(self.weights.iter().map(String::as_str).zip(views));
        let mut loss = [0.0_f32];
        let mut outputs = vec![(self.loss.as_str(), TensorViewMut::from_slice(&[], &mut loss))];
        for ((name, gradient), shape) in self.gradients.iter().zip(gradients).zip(shapes) {
            outputs.push((name, TensorViewMut::from_slice(shape, gradient)));
        }
        self.executable.run_into(&feeds, &mut outputs)?;
        Ok(loss[0])
    }
}

/// The same bits in every run: kernels are chosen by rule, not by the clock. Gives the names of the outputs, which may have
/// become others where one value was several.
fn prepare(mut graph: Graph, threads: Option<usize>) -> Result<(Executable, Vec<String>), FineTuneError> {
    graph.remove_unused();
    let model = Model::from_graph(graph)?;
    let names = model.outputs().into_iter().map(|port| port.name).collect();
    let executable = model.prepare(Options { threads, tune: false, plans: 2, ..Options::default() })?;
    Ok((executable, names))
}

/// Batch normalisations whose statistics are weights, as indices of nodes.
pub(crate) fn batch_norms(graph: &Graph) -> Vec<usize> {
    let constant = |id: Option<ValueId>| id.is_some_and(|id| graph.weight(id).is_some());
    let norms = graph.nodes.iter().enumerate().filter(|(_, node)| {
        matches!(node.op, Op::BatchNormalization { .. }) && (3..5).all(|i| constant(node.input(i)))
    });
    norms.map(|(index, _)| index).collect()
}

/// Gives batch normalisations mean and variance of their batch; these, in order, node by node.
fn normalise_by_batch(graph: &mut Graph) -> Vec<ValueId> {
    let mut made = Vec::new();
    for index in batch_norms(graph) {
        let Some(x) = graph.nodes[index].input(0) else { continue };
        let channels =
            graph.nodes[index].input(3).and_then(|id| graph.weight(id)).map_or(0, poda_formats::Weight::len);
        let name = |graph: &Graph, part: &str| graph.unique_name(&format!("batch_{part}"));
        let node = |graph: &mut Graph, op: Op, inputs: &[ValueId], part: &str| {
            let name = name(graph, part);
            graph.add_node(op, inputs, name)
        };
        // `[batch, channels, …]` as `[channels, all others]`, whatever the rank.
        let axes = {
            let name = name(graph, "shape");
            graph.add_weight(name, Tensor::from_slice(&[3], &[0_i64, channels as i64, -1]))
        };
        let rows = node(graph, Op::Reshape { allow_zero: false }, &[x, axes], "rows");
        let over = {
            let name = name(graph, "axes");
            graph.add_weight(name, Tensor::from_slice(&[2], &[0_i64, 2]))
        };
        let reduce =
            |keep_dims| Op::Reduce { kind: ReduceKind::Mean, keep_dims, noop_with_empty_axes: false };
        let mean = node(graph, reduce(false), &[rows, over], "mean");
        let kept = node(graph, reduce(true), &[rows, over], "center");
        let centered = node(graph, Op::Binary(Binary::Sub), &[rows, kept], "centered");
        let square = node(graph, Op::Binary(Binary::Mul), &[centered, centered], "square");
        let variance = node(graph, reduce(false), &[square, over], "variance");
        for (id, input) in [(mean, 3), (variance, 4)] {
            let value = graph.value_mut(id);
            (value.dtype, value.shape) = (Some(DataType::F32), Some(vec![Dim::Fixed(channels)]));
            graph.nodes[index].inputs[input] = Some(id);
            made.push(id);
        }
    }
    made
}

/// Forward only, for statistics of batches.
#[derive(Debug)]
pub(crate) struct Forward {
    executable: Executable,
    statistics: Vec<String>,
}

impl Forward {
    /// Of a graph with its present weights.
    pub(crate) fn new(graph: &Graph, threads: Option<usize>) -> Result<Self, FineTuneError> {
        let mut graph = graph.clone();
        graph.outputs = normalise_by_batch(&mut graph);
        let (executable, statistics) = prepare(graph, threads)?;
        Ok(Self { executable, statistics })
    }

    /// Mean and variance of each batch normalisation over a batch.
    pub(crate) fn run(&self, feeds: &[(String, Tensor)]) -> Result<Vec<Tensor>, FineTuneError> {
        // Inputs that only what was cut off needed are fed no more than others.
        let feeds: Vec<_> = feeds.iter().map(|(name, tensor)| (name.as_str(), tensor.view())).collect();
        let outputs = self.executable.run(&feeds)?;
        debug_assert_eq!(outputs.len(), self.statistics.len());
        Ok(outputs.into_iter().map(|(_, tensor)| tensor).collect())
    }
}
