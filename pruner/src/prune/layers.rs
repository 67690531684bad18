//! Weights of products, layer by layer, from calibration data: what goes by what flows, and what stays fitted to the dense outputs.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;

use poda_formats::{Graph, Pattern, ValueId, Weight};

use super::target::{error, target};
use super::{Progress, PruneError};
use crate::allocation::{Scope, Shares};
use crate::calibration::inputs::Source;
use crate::calibration::{
    CalibrationError, Collector, Lane, Needs, Rows, Samples, Statistics, Stream, Use, run, uses,
};
use crate::criterion::{Criterion, Layer, Normalize, OfWeights, float_values, random_for, weight_scores};
use crate::cut::cuts;
use crate::gradients::saliency::WeightGradients;
use crate::observer::Observer;
use crate::recipe::Inputs;
use crate::report::Fit;
use crate::structured::{Matrix, pattern_marks};
use crate::unstructured::{float_tensor, lowest, row_marks};
use crate::update::{BiasPlace, Freedom, Job, WeightUpdate};

/// How the weights of products are pruned.
pub(super) struct Method<'a> {
    pub(super) criterion: &'static dyn Criterion,
    /// Of the weights, where the criterion asks for some.
    pub(super) gradients: &'a WeightsGradients,
    /// How scores of layers that compete are made comparable.
    pub(super) normalize: Normalize,
    pub(super) updates: &'a [&'static dyn WeightUpdate],
    pub(super) pattern: Option<Pattern>,
    pub(super) scope: Scope,
    /// Within what masks may move, where that does not follow from the others.
    pub(super) freedom: Option<Freedom>,
    pub(super) damping: f64,
    pub(super) inputs: Inputs,
    pub(super) seed: u64,
}

/// What is known of the gradients of several weights, in the order of their tensors.
pub(super) type WeightsGradients = HashMap<ValueId, WeightGradients>;

impl Method<'_> {
    /// How the criterion scores weights.
    fn scorer(&self) -> &'static dyn OfWeights {
        self.criterion.of_weights().expect("a criterion that scores weights, which the recipe is checked for")
    }

    /// The same, on other activations.
    pub(super) fn on(&self, inputs: Inputs) -> Self {
        Self { inputs, ..*self }
    }

    /// `graph` with these shares of `matrices` gone, or as many as the pattern says, and what was fitted.
    pub(super) fn prune(
        &self,
        graph: &Graph,
        matrices: &[Matrix],
        samples: &dyn Samples,
        shares: Shares<'_>,
        observer: &mut dyn Observer,
    ) -> Result<(Graph, Vec<Fit>), PruneError> {
        let shares = self.shares(graph, matrices, samples, shares, observer)?;
        let needs = self.scorer().needs();
        self.fit(graph, matrices, samples, needs, observer, &|at, dense, statistics| {
            let matrix = &matrices[at];
            let gone = self.marks(matrix, &self.scores(matrix, dense, statistics), shares[at]);
            gone.into_iter().map(|gone| !gone).collect()
        })
    }

    /// `graph` without the weights of `matrices` that are not `kept`, both row by row, and with the others changed. `needs` are
    /// those of `kept`.
    pub(super) fn fit(
        &self,
        graph: &Graph,
        matrices: &[Matrix],
        samples: &dyn Samples,
        needs: Needs,
        observer: &mut dyn Observer,
        kept: &dyn Fn(usize, &[f32], &Statistics) -> Vec<bool>,
    ) -> Result<(Graph, Vec<Fit>), PruneError> {
        let needs = self.updates.iter().map(|update| update.needs()).fold(needs, Ord::max);
        let shifts = self.updates.iter().any(|update| update.shifts_bias());
        let mut fits: Vec<Option<Fit>> = matrices.iter().map(|_| None).collect();
        let mut pruned = graph.clone();
        let mut layers = Layers::new(graph, matrices, samples, needs, self.inputs)?;
        layers.each(&mut pruned, observer, &mut |pruned, at, statistics| {
            let matrix = &matrices[at];
            let Some(weight) = pruned.weight(matrix.id) else { return Ok(()) };
            let tensor = weight.to_dense()?;
            let Some(values) = float_values(&tensor) else { return Ok(()) };
            let dense = matrix.form.rows_of(&values);
            let bias = if shifts { bias_of(pruned, matrix) } else { None };
            let centred = bias.map(|_| statistics.centred());
            let fitted_to = centred.as_ref().unwrap_or(statistics);
            let aim = target(fitted_to, &dense, self.damping);
            let aim: &[f32] = aim.as_deref().unwrap_or(&dense);
            let kept = kept(at, aim, statistics);
            let size = [matrix.rows, matrix.cols];
            let mut job = Job::new(size, aim, kept, self.freedom(), Some(fitted_to), self.damping);
            let apart =
                |job: &Job<'_>, weights: &[f32]| error(fitted_to, &dense, weights).or_else(|| job.error());
            let masked: Vec<f32> =
                dense.iter().zip(&job.kept).map(|(&w, &kept)| if kept { w } else { 0.0 }).collect();
            let before = apart(&job, &masked);
            for update in self.updates {
                let failed =
                    |source| PruneError::Update { weight: pruned.value(matrix.id).name.clone(), source };
                update.update(&mut job).map_err(failed)?;
            }
            fits[at] = Some(Fit {
                weight: pruned.value(matrix.id).name.clone(),
                criterion: self.criterion.name().to_owned(),
                updates: self.updates.iter().map(|update| update.name().to_owned()).collect(),
                rows: statistics.fitted.rows,
                held_out_rows: statistics.held_out.rows,
                inputs: statistics.cols as u64,
                error_before: before,
                error_after: apart(&job, &job.weights),
            });
            let mut values = vec![0.0; job.weights.len()];
            matrix.form.tensor_of(&job.weights, &mut values);
            let shift = bias.map(|place| (place, statistics.lost(&dense, &job.weights)));
            let fitted = float_tensor(tensor.dtype(), tensor.shape(), &values);
            pruned.value_mut(matrix.id).weight = fitted.map(Weight::Tensor);
            if let Some((place, shift)) = shift {
                place.add(pruned, &shift);
            }
            Ok(())
        })?;
        Ok((pruned, fits.into_iter().flatten().collect()))
    }

    /// Scores of the elements of each weight on the dense model, in the order of its tensor.
    pub(super) fn dense_scores(
        &self,
        graph: &Graph,
        matrices: &[Matrix],
        samples: &dyn Samples,
        observer: &mut dyn Observer,
    ) -> Result<BTreeMap<ValueId, Vec<f32>>, PruneError> {
        let mut all = BTreeMap::new();
        let mut layers = Layers::new(graph, matrices, samples, self.scorer().needs(), Inputs::Dense)?;
        layers.each(&mut graph.clone(), observer, &mut |graph, at, statistics| {
            let (id, form) = (matrices[at].id, Some(matrices[at].form));
            let known = (Some(statistics), self.gradients.get(&id));
            let scores = weight_scores(graph, id, form, self.scorer(), known, self.seed);
            all.extend(scores.map(|scores| (id, scores)));
            Ok(())
        })?;
        Ok(all)
    }

    /// What share of each layer goes.
    fn shares(
        &self,
        graph: &Graph,
        matrices: &[Matrix],
        samples: &dyn Samples,
        shares: Shares<'_>,
        observer: &mut dyn Observer,
    ) -> Result<Vec<f64>, PruneError> {
        if shares.scope != Scope::Global {
            return Ok((0..matrices.len()).map(|at| shares.of(at)).collect());
        }
        // Scores of all layers, on the dense model.
        let mut scores: Vec<Vec<f32>> = vec![Vec::new(); matrices.len()];
        let mut layers = Layers::new(graph, matrices, samples, self.scorer().needs(), Inputs::Dense)?;
        layers.each(&mut graph.clone(), observer, &mut |graph, at, statistics| {
            let matrix = &matrices[at];
            let Some(weight) = graph.weight(matrix.id) else { return Ok(()) };
            if let Some(values) = float_values(&weight.to_dense()?) {
                let of_elements = self.scores(matrix, &matrix.form.rows_of(&values), statistics);
                scores[at] = match self.pattern {
                    Some(pattern) => crate::structured::pattern_scores(
                        matrix,
                        &of_elements,
                        pattern,
                        self.scorer(),
                        self.seed,
                    ),
                    None => of_elements,
                };
            }
            Ok(())
        })?;
        let cuts = cuts(matrices.len(), &|at| scores[at].clone(), shares);
        let share = |(cut, scores): (crate::cut::Cut, &Vec<f32>)| {
            let gone = cut.marks(scores).iter().filter(|&&gone| gone).count();
            gone as f64 / scores.len().max(1) as f64
        };
        Ok(cuts.into_iter().zip(&scores).map(share).collect())
    }

    /// Scores of the elements of a matrix, row by row; -1 for zeros, which go first.
    fn scores(&self, matrix: &Matrix, weights: &[f32], statistics: &Statistics) -> Vec<f32> {
        let gradients = self.gradients.get(&matrix.id).map(|gradients| gradients.rows_of(matrix.form));
        let (size, gradients) = ([matrix.rows, matrix.cols], gradients.as_ref());
        let layer = Layer { size, weights, statistics: Some(statistics), gradients };
        let mut scores = self.scorer().elements(&layer, &mut random_for(self.seed, matrix.id));
        self.normalize.scale(&mut scores);
        for (score, &weight) in scores.iter_mut().zip(weights) {
            if weight == 0.0 {
                *score = -1.0;
            } else if score.is_nan() {
                *score = f32::INFINITY;
            }
        }
        scores
    }

    /// Marks what goes, row by row.
    fn marks(&self, matrix: &Matrix, scores: &[f32], share: f64) -> Vec<bool> {
        match (self.pattern, self.scope) {
            (Some(pattern), _) => pattern_marks(matrix, scores, pattern, self.scorer(), self.seed, share),
            (None, Scope::Row) => row_marks(matrix.cols, scores, share),
            (None, _) => lowest(scores, share),
        }
    }

    fn freedom(&self) -> Freedom {
        if let Some(freedom) = self.freedom {
            return freedom;
        }
        match (self.pattern, self.scope) {
            (Some(pattern @ Pattern::NofM { .. }), _) => Freedom::Group(pattern.numbers()[1]),
            (Some(Pattern::Block { .. }), _) => Freedom::None,
            (None, Scope::Row) => Freedom::Row,
            (None, _) => Freedom::Layer,
        }
    }
}

/// The bias of the one product that uses a matrix.
pub(super) fn bias_of(graph: &Graph, matrix: &Matrix) -> Option<BiasPlace> {
    match &uses(graph, matrix.id)[..] {
        [only] => BiasPlace::find(graph, only.node, matrix.rows),
        _ => None,
    }
}

/// What is done with the statistics of a matrix, given by number.
type Visit<'v> = &'v mut dyn FnMut(&mut Graph, usize, &Statistics) -> Result<(), PruneError>;

/// Matrices in the order in which a model multiplies with them.
pub(super) struct Layers<'a> {
    matrices: &'a [Matrix],
    /// Of each matrix by number, in the order of nodes.
    uses: Vec<(usize, Use)>,
    /// On the way through the model that is pruned.
    stream: Stream<'a>,
    /// Through the dense one, where its inputs are to be known.
    dense: Option<(Stream<'a>, Graph)>,
    inputs: Inputs,
    needs: Needs,
}

impl<'a> Layers<'a> {
    pub(super) fn new(
        graph: &Graph,
        matrices: &'a [Matrix],
        samples: &'a dyn Samples,
        needs: Needs,
        inputs: Inputs,
    ) -> Result<Self, PruneError> {
        let mut all = Vec::new();
        for (at, matrix) in matrices.iter().enumerate() {
            let uses = uses(graph, matrix.id);
            if uses.is_empty() {
                let weight = graph.value(matrix.id).name.clone();
                return Err(PruneError::NoInputs { weight });
            }
            all.extend(uses.into_iter().map(|of| (at, of)));
        }
        all.sort_by_key(|(_, of)| of.node);
        let stream = Stream::new(graph, samples)?;
        // Only what is fitted is fitted to something.
        let inputs = if inputs == Inputs::Both && needs < Needs::Gram { Inputs::Pruned } else { inputs };
        let dense = match inputs {
            Inputs::Pruned => None,
            Inputs::Both | Inputs::Dense => Some((Stream::new(graph, samples)?, graph.clone())),
        };
        Ok(Self { matrices, uses: all, stream, dense, inputs, needs })
    }

    /// Visits every matrix once the statistics of its inputs are known, on the activations of `graph` as it is by then.
    pub(super) fn each(
        &mut self,
        graph: &mut Graph,
        observer: &mut dyn Observer,
        visit: Visit<'_>,
    ) -> Result<(), PruneError> {
        let mut waiting: Vec<Option<Statistics>> = self.matrices.iter().map(|_| None).collect();
        let mut done = 0;
        while done < self.uses.len() {
            let value = self.uses[done].1.value;
            let count = self.uses[done..].iter().take_while(|(_, of)| of.value == value).count();
            let window = done..done + count;
            let gathered = self.statistics(graph, window.clone())?;
            for place in window {
                let (at, of) = &self.uses[place];
                let found = gathered.iter().find(|(source, _)| *source == of.source);
                let statistics = &found.expect("statistics for each source").1;
                let last = !self.uses[place + 1..].iter().any(|(other, _)| other == at);
                match waiting[*at].take() {
                    None if last => visit(graph, *at, statistics)?,
                    None => waiting[*at] = Some(statistics.clone()),
                    Some(mut all) => {
                        all.merge(statistics);
                        if last {
                            visit(graph, *at, &all)?;
                        } else {
                            waiting[*at] = Some(all);
                        }
                    }
                }
            }
            done += count;
            let progress = Progress::Layer { layer: done, of: self.uses.len() };
            if observer.progress(progress) == ControlFlow::Break(()) {
                return Err(PruneError::Stopped);
            }
        }
        Ok(())
    }

    /// Statistics for uses of one value, by how it lies as rows.
    fn statistics(
        &mut self,
        graph: &Graph,
        window: std::ops::Range<usize>,
    ) -> Result<Vec<(Source, Statistics)>, PruneError> {
        let first = &self.uses[window.start].1;
        // A state of a recurrence arises in its own node.
        let own = graph.nodes[first.node].outputs.contains(&Some(first.value));
        let (to, tap) = (first.node + usize::from(own), first.value);
        let mut collectors: Vec<(&Use, usize, Collector)> = Vec::new();
        for (at, of) in &self.uses[window] {
            if !collectors.iter().any(|(other, ..)| other.source == of.source) {
                collectors.push((of, *at, Collector::new(self.needs >= Needs::Gram)));
            }
        }
        let counts = [false, true].map(|held_out| self.stream.count(held_out));
        let matrices = self.matrices;
        let name = |at: usize| graph.value(matrices[at].id).name.clone();
        let mut lanes = Vec::new();
        if self.inputs != Inputs::Dense {
            lanes.push(Lane { stream: &mut self.stream, graph, keep: !own });
        }
        if let Some((stream, graph)) = &mut self.dense {
            lanes.push(Lane { stream, graph, keep: true });
        }
        run(&mut lanes, to, tap, &mut |shown| {
            for (of, at, collector) in &mut collectors {
                let of_lane = |tensor| {
                    let failed = |source| CalibrationError::Product { weight: name(*at), source };
                    let rows = Rows::new(&of.source, matrices[*at].form, tensor).map_err(failed)?;
                    rows.ok_or_else(|| CalibrationError::Rows { weight: name(*at) })
                };
                let rows: Result<Vec<Rows<'_>>, _> = shown.lanes.iter().map(of_lane).collect();
                let rows = rows?;
                let dense = rows.get(1);
                if dense.is_some_and(|dense| dense.sizes() != rows[0].sizes()) {
                    return Err(CalibrationError::Sizes { weight: name(*at) });
                }
                collector.add(&rows[0], dense, shown.held_out, counts[usize::from(shown.held_out)]);
            }
            Ok(())
        })?;
        let mut gathered = Vec::new();
        for (of, at, collector) in collectors {
            let statistics =
                collector.finish().ok_or_else(|| CalibrationError::Infinite { weight: name(at) })?;
            gathered.push((of.source.clone(), statistics));
        }
        Ok(gathered)
    }
}
