//! What changes during a run, and what a checkpoint holds.

use poda_formats::op::{Binary, Op, OpClass};
use poda_formats::{DataType, Graph, Tensor, ValueId};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rayon::prelude::*;

use super::step::batch_norms;
use super::{Epoch, FineTuneError, Options, Report};
use crate::names;

/// Weights, moments of the optimiser, and the best state so far.
#[derive(Debug)]
pub(super) struct State {
    pub(super) ids: Vec<ValueId>,
    pub(super) names: Vec<String>,
    pub(super) shapes: Vec<Vec<usize>>,
    pub(super) weights: Vec<Vec<f32>>,
    pub(super) gradients: Vec<Vec<f32>>,
    /// For each weight those of the optimiser.
    pub(super) moments: Vec<Vec<Vec<f32>>>,
    /// Of weights with zeros that stay: what does not.
    keep: Vec<Option<Vec<bool>>>,
    /// Elements of the best state, `None` as long as that is the start.
    pub(super) best: Option<Vec<Vec<f32>>>,
    /// Mean and variance of each batch normalisation in the best state.
    pub(super) statistics: Vec<Tensor>,
    pub(super) step: u64,
    /// Sum over the steps of this epoch.
    pub(super) loss: f64,
    pub(super) epochs: Vec<Epoch>,
    pub(super) before: Option<f64>,
    pub(super) best_score: Option<f64>,
    pub(super) best_epoch: u64,
}

/// Weights that training may change: f32, of more than one element, where gradients make sense; no statistics of batch
/// normalisation, no bounds, exponents or scales of images.
pub(crate) fn candidates(graph: &Graph, freeze: &[String]) -> Vec<ValueId> {
    let mut fixed = vec![false; graph.values.len()];
    let mut used = vec![false; graph.values.len()];
    for node in &graph.nodes {
        let first_only = match &node.op {
            Op::BatchNormalization { .. } => 3,
            Op::Binary(Binary::Pow | Binary::Mod { .. }) | Op::Clip | Op::Pad { .. } | Op::Resize(_) => 1,
            _ if node.op.class() == OpClass::Quantization => 0,
            _ => usize::MAX,
        };
        for (i, id) in node.inputs.iter().enumerate().filter_map(|(i, id)| Some((i, (*id)?))) {
            used[id.index()] = true;
            fixed[id.index()] |= i >= first_only;
        }
    }
    let may = |&(index, value): &(usize, &poda_formats::Value)| {
        let weight = value.weight.as_ref().is_some_and(|w| w.dtype() == DataType::F32 && w.len() > 1);
        let frozen = freeze.iter().any(|pattern| names::fits(pattern, &value.name));
        weight && used[index] && !fixed[index] && !frozen
    };
    graph.values.iter().enumerate().filter(may).map(|(index, _)| ValueId(index as u32)).collect()
}

/// Numbers from 0 on in the order of an epoch.
pub fn shuffled(len: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).collect();
    order.shuffle(&mut SmallRng::seed_from_u64(seed ^ epoch.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    order
}

impl State {
    pub(super) fn new(graph: &Graph, ids: &[ValueId], options: &Options) -> Result<Self, FineTuneError> {
        let mut state = Self {
            ids: ids.to_vec(),
            names: Vec::new(),
            shapes: Vec::new(),
            weights: Vec::new(),
            gradients: Vec::new(),
            moments: Vec::new(),
            keep: Vec::new(),
            best: None,
            statistics: Vec::new(),
            step: 0,
            loss: 0.0,
            epochs: Vec::new(),
            before: None,
            best_score: None,
            best_epoch: 0,
        };
        for &id in ids {
            let name = graph.value(id).name.clone();
            let dense = graph.weight(id).and_then(|weight| weight.to_dense().ok());
            let values = dense.as_ref().and_then(|dense| dense.as_slice::<f32>().ok());
            let (Some(dense), Some(values)) = (&dense, values) else {
                return Err(FineTuneError::NoWeights { reason: format!("{name:?} cannot be read as f32") });
            };
            if values.iter().any(|v| !v.is_finite()) {
                return Err(FineTuneError::NotFinite { name });
            }
            let masked = dense.rank() > 1 && values.contains(&0.0);
            state.keep.push(masked.then(|| values.iter().map(|&v| v != 0.0).collect()));
            state.moments.push(vec![vec![0.0; values.len()]; options.optimizer.moments()]);
            state.gradients.push(vec![0.0; values.len()]);
            state.weights.push(values.to_vec());
            state.shapes.push(dense.shape().to_vec());
            state.names.push(name);
        }
        Ok(state)
    }

    /// Takes a step along the gradients. Gives false, having done nothing, when these are not finite.
    pub(super) fn update(&mut self, options: &Options, rate: f32) -> bool {
        // In f64 and in order: the same for any number of threads.
        let norms: Vec<f64> = self
            .gradients
            .par_iter()
            .map(|gradient| gradient.iter().map(|&g| f64::from(g) * f64::from(g)).sum())
            .collect();
        let norm = norms.iter().sum::<f64>().sqrt();
        if !norm.is_finite() {
            return false;
        }
        let factor = options.clip.map_or(1.0, |clip| (f64::from(clip) / norm.max(1e-12)).min(1.0)) as f32;
        for index in 0..self.ids.len() {
            let (weights, gradients) = (&mut self.weights[index], &mut self.gradients[index]);
            if factor < 1.0 {
                gradients.par_iter_mut().for_each(|g| *g *= factor);
            }
            if options.l1 > 0.0 && self.shapes[index].len() > 1 {
                let pull = |(g, &w): (&mut f32, &f32)| {
                    if w != 0.0 {
                        *g += options.l1 * w.signum();
                    }
                };
                gradients.par_iter_mut().zip(&*weights).for_each(pull);
            }
            let keep = self.keep[index].as_deref();
            let moments = &mut self.moments[index];
            options.optimizer.step(self.step + 1, rate, weights, gradients, moments, keep);
        }
        true
    }

    /// `graph` with these elements in place of its weights.
    fn filled(&self, graph: &Graph, weights: &[Vec<f32>]) -> Graph {
        let mut graph = graph.clone();
        for ((&id, values), shape) in self.ids.iter().zip(weights).zip(&self.shapes) {
            graph.value_mut(id).weight = Some(Tensor::from_slice(shape, values).into());
        }
        graph
    }

    /// `graph` with the present weights.
    pub(super) fn graph(&self, graph: &Graph) -> Graph {
        self.filled(graph, &self.weights)
    }

    /// `graph` in its best state.
    pub(super) fn best_graph(&self, graph: &Graph) -> Graph {
        let Some(best) = &self.best else { return graph.clone() };
        let mut graph = self.filled(graph, best);
        super::statistics::set(&mut graph, &self.statistics);
        graph
    }

    /// Notes what an epoch came to; `graph` is the state after it.
    pub(super) fn end_epoch(&mut self, loss: f64, score: Option<f64>, graph: &Graph) {
        self.loss = 0.0;
        self.epochs.push(Epoch { loss, score });
        // Without a score the latest is the best. NaN never is.
        let better = match (score, self.best_score) {
            (None, _) => true,
            (Some(score), Some(best)) => score > best,
            (Some(score), None) => !score.is_nan(),
        };
        if better {
            self.best = Some(self.weights.clone());
            self.best_score = score;
            self.best_epoch = self.epochs.len() as u64;
            let norms = batch_norms(graph).into_iter().flat_map(|index| &graph.nodes[index].inputs[3..5]);
            let tensors = norms.flatten().filter_map(|&id| graph.weight(id)?.to_dense().ok());
            self.statistics = tensors.collect();
        }
    }

    pub(super) fn report(&self, resumed: Option<u64>, stopped: Option<String>) -> Report {
        let zeros = self.keep.iter().flatten().map(|keep| keep.iter().filter(|keep| !**keep).count()).sum();
        let all: usize = self.weights.iter().map(Vec::len).sum();
        let mut report = Report {
            trained: self.names.clone(),
            parameters: all - zeros,
            zeros,
            before: self.before,
            best: self.best_score,
            best_epoch: self.best_epoch,
            epochs: self.epochs.clone(),
            resumed,
            stopped,
            notes: Vec::new(),
        };
        if report.kept_start() {
            report.notes.push(
                "no epoch scored better than the start, which is the result: nothing of the training was kept".into(),
            );
        }
        report
    }
}
