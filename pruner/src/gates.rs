//! Gates: a factor of one on each unit wherever it is summed, as an input of the model.
//!
//! A gate at zero is the masked model without the unit ([`crate::mask`]); the gradient of a loss with respect to it, at one, is
//! `Σ a · ∂L/∂a` over the unit's elements.

use std::collections::HashMap;

use poda_formats::op::{Binary, Op};
use poda_formats::{DataType, Graph, Tensor, ValueId};

use crate::calibration::{Samples, each_example};
use crate::compact::Rewrite;
use crate::criterion::float_values;
use crate::dependency::DependencyGraph;
use crate::finetune::step::Step;
use crate::gradients::objective::{Against, Objective, ObjectiveError};
use crate::gradients::saliency::{Steps, shapes_of};
use crate::mask::summed;
use crate::settings::{Settings, Shapes};

/// A model with gates.
pub(crate) struct Gates {
    graph: Graph,
    /// Weights of ones, `[size, 1, …]`.
    ids: Vec<ValueId>,
    /// By gate, how many elements of the value that it lies on each of its own stands for, of one sample.
    spans: Vec<f64>,
    /// By unit, its elements of gates.
    places: Vec<Vec<(usize, usize)>>,
}

/// The gradient of a loss with respect to the gate of a unit, over examples.
#[derive(Debug, Clone, Copy, Default)]
pub struct Gate {
    /// Mean, for each element of the unit.
    pub mean: f64,
    /// Mean of its absolute value, for each element of the unit.
    pub size: f64,
    /// Mean of its square.
    pub square: f64,
}

impl Gates {
    /// On every unit that may go of `dependencies`, which are those of `graph`.
    pub(crate) fn new(graph: &Graph, dependencies: &DependencyGraph, settings: &Settings) -> Self {
        let (facts, one_sample) = (settings.facts(), settings.one_sample(graph));
        let mut rewrite = Rewrite::new(graph.clone());
        let (mut ids, mut spans) = (Vec::new(), Vec::new());
        let mut places = vec![Vec::new(); dependencies.unit_count()];
        let mut latest: HashMap<(usize, ValueId), ValueId> = HashMap::new();
        for contraction in dependencies.contractions() {
            // One operand is enough to take a unit out of a sum.
            let Some((id, dim)) = summed(facts, contraction).into_iter().next() else { continue };
            let (Some(layout), Some(info)) = (dependencies.layout(id), facts.info(id)) else { continue };
            let axis = layout.axes[dim];
            if !dependencies.can_shrink(axis) || info.dtype != DataType::F32 {
                continue;
            }
            let (size, node) = (dependencies.size(axis), contraction.node);
            let base = format!("{}.gate", graph.value(id).name);
            let mut shape = vec![size];
            shape.resize(layout.axes.len() - dim, 1);
            let gate = rewrite.constant(&base, Tensor::from_slice(&shape, &vec![1.0_f32; size]));
            let operand = latest.get(&(node, id)).copied().unwrap_or(id);
            let gated = rewrite.insert_before(node, Op::Binary(Binary::Mul), &[operand, gate], &base, id);
            latest.insert((node, id), gated);
            for input in rewrite.graph.nodes[node].inputs.iter_mut().filter(|i| **i == Some(operand)) {
                *input = Some(gated);
            }
            let number = ids.len();
            dependencies.for_each_unit(axis, &mut |index, unit| places[unit].push((number, index)));
            let all: usize = one_sample.shape(id).map_or(0, |shape| shape.iter().product());
            spans.push(all as f64 / size.max(1) as f64);
            ids.push(gate);
        }
        Self { graph: rewrite.finish(), ids, spans, places }
    }

    /// Gradients of the loss with respect to the gate of each unit; `None` of a unit that no sum that the loss depends on has.
    pub(crate) fn gradients(
        &self,
        samples: &dyn Samples,
        against: Against,
        seed: u64,
    ) -> Result<Vec<Option<Gate>>, ObjectiveError> {
        let objective = Objective::new(&self.graph, samples, against, seed)?;
        let mut steps = Steps::new(&self.graph, &objective, &self.ids)?;
        let mut all: Vec<Option<Gate>> = vec![None; self.places.len()];
        let mut examples = 0;
        each_example(samples, 1, &mut |number, example| {
            examples += 1;
            let mut of_gates: Vec<Option<&[f32]>> = vec![None; self.ids.len()];
            for (id, gradient) in steps.run(example, number)? {
                let at = self.ids.iter().position(|gate| *gate == id);
                of_gates[at.expect("gates were asked for")] = Some(gradient);
            }
            for (all, places) in all.iter_mut().zip(&self.places) {
                let (mut sum, mut elements) = (0.0, 0.0);
                for &(gate, index) in places {
                    let Some(gradient) = of_gates[gate] else { continue };
                    sum += f64::from(gradient[index]);
                    elements += self.spans[gate];
                }
                if elements > 0.0 {
                    let gate = all.get_or_insert_default();
                    gate.mean += sum / elements;
                    gate.size += sum.abs() / elements;
                    gate.square += sum * sum;
                }
            }
            Ok::<_, ObjectiveError>(())
        })?;
        let count = f64::from(examples);
        for gate in all.iter_mut().flatten() {
            [&mut gate.mean, &mut gate.size, &mut gate.square].into_iter().for_each(|v| *v /= count);
        }
        Ok(all)
    }

    /// The size of the change of the loss without each unit, `None` where there is no sum to leave it out of. `tell` is
    /// told how many were left out, and ends the run with an error of its own.
    pub(crate) fn ablations<E: From<ObjectiveError>>(
        &self,
        samples: &dyn Samples,
        seed: u64,
        tell: &mut dyn FnMut(usize) -> Result<(), E>,
    ) -> Result<Vec<Option<f64>>, E> {
        let losses = Losses::new(&self.graph, samples, &self.ids, MOST_ABLATED, seed)?;
        let dense = losses.of(&[])?;
        let mut all = Vec::new();
        for (unit, places) in self.places.iter().enumerate() {
            let change = if places.is_empty() { None } else { Some((losses.of(places)? - dense).abs()) };
            all.push(change);
            tell(unit + 1)?;
        }
        Ok(all)
    }
}

/// Samples that units are left out on, at most: each unit takes a run of all.
pub(crate) const MOST_ABLATED: usize = 128;

/// Samples that run at once.
const AT_ONCE: usize = 16;

/// The loss of a model with some of its weights, or gates, at other values.
pub(crate) struct Losses {
    /// A graph for each set of shapes, with the batches for it.
    steps: Vec<(Shapes, Step, Vec<crate::finetune::Batch>)>,
    shapes: Vec<Vec<usize>>,
    /// As they are in the graph.
    values: Vec<Vec<f32>>,
}

impl Losses {
    /// On `most` samples, of a graph whose `weights` may change.
    pub(crate) fn new(
        graph: &Graph,
        samples: &dyn Samples,
        weights: &[ValueId],
        most: usize,
        seed: u64,
    ) -> Result<Self, ObjectiveError> {
        let objective = Objective::new(graph, samples, Against::Dense, seed)?;
        let shape = |&id: &ValueId| graph.weight(id).map_or_else(Vec::new, |weight| weight.shape().to_vec());
        let floats = |&id: &ValueId| float_values(&graph.weight(id)?.to_dense().ok()?);
        let values = weights.iter().map(|id| floats(id).unwrap_or_default()).collect();
        let mut this = Self { steps: Vec::new(), shapes: weights.iter().map(shape).collect(), values };
        let mut seen = 0;
        each_example(samples, AT_ONCE, &mut |number, example| {
            let size = example.feeds.first().and_then(|(_, tensor)| tensor.shape().first().copied());
            if seen >= most {
                return Ok(());
            }
            seen += size.unwrap_or(1).min(AT_ONCE);
            let batch = objective.batch(example, number)?;
            let shapes = shapes_of(&batch);
            if let Some((.., batches)) = this.steps.iter_mut().find(|(known, ..)| *known == shapes) {
                batches.push(batch);
            } else {
                let step = Step::forward(graph, weights, objective.terms(), &batch, None)?;
                this.steps.push((shapes, step, vec![batch]));
            }
            Ok::<_, ObjectiveError>(())
        })?;
        Ok(this)
    }

    /// The mean loss with these elements of weights at zero.
    pub(crate) fn of(&self, zero: &[(usize, usize)]) -> Result<f64, ObjectiveError> {
        let mut values = self.values.clone();
        zero.iter().for_each(|&(weight, index)| values[weight][index] = 0.0);
        self.mean(&values, usize::MAX)
    }

    /// The mean loss, on `most` samples, with weights, in their order, as they are in other graphs.
    pub(crate) fn of_weights(
        &self,
        weights: &[Option<(ValueId, &Graph)>],
        most: usize,
    ) -> Result<f64, ObjectiveError> {
        let other = |&(id, graph): &(ValueId, &Graph)| float_values(&graph.weight(id)?.to_dense().ok()?);
        let values = weights.iter().zip(&self.values);
        let values =
            values.map(|(weight, own)| weight.as_ref().and_then(other).unwrap_or_else(|| own.clone()));
        self.mean(&values.collect::<Vec<_>>(), most)
    }

    fn mean(&self, values: &[Vec<f32>], most: usize) -> Result<f64, ObjectiveError> {
        let (mut sum, mut count) = (0.0, 0);
        for (_, step, batches) in &self.steps {
            for batch in batches.iter().take(most.div_ceil(AT_ONCE)) {
                sum += f64::from(step.run(batch, &self.shapes, values, &mut [])?);
                count += 1;
            }
        }
        Ok(sum / f64::from(count.max(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibration::testing::{LABELS, Labelled, ROWS, SECOND, errors, hidden, outputs, perceptron};
    use crate::criterion::{self, OfUnits};

    const COUNT: f64 = ROWS.len() as f64;

    fn gates(graph: &Graph) -> Gates {
        let settings = Settings::find(graph, &Shapes::new());
        Gates::new(graph, &DependencyGraph::new(graph, settings.facts()), &settings)
    }

    #[test]
    fn the_gradient_of_a_gate_is_what_the_papers_say() {
        let found = gates(&perceptron()).gradients(&Labelled(true), Against::Zero, 0).unwrap();
        // Of the cross-entropy: a · ∂L/∂a with ∂L/∂a = SECOND · (softmax − class).
        let of_sample = |unit: usize, (x, &label): (&[f32; 3], &i64)| {
            let (a, errors) = (hidden(x), errors(outputs(hidden(x)), label));
            a[unit] * (0..2).map(|j| f64::from(SECOND[unit * 2 + j]) * errors[j]).sum::<f64>()
        };
        assert_eq!(found.len(), 4);
        for (unit, gate) in found.iter().enumerate() {
            let all: Vec<f64> = ROWS.iter().zip(&LABELS).map(|sample| of_sample(unit, sample)).collect();
            let mean = |f: &dyn Fn(f64) -> f64| all.iter().map(|&v| f(v)).sum::<f64>() / COUNT;
            let expected = [
                ("taylor-2016", mean(&f64::abs)),
                ("taylor-signed", mean(&|v| v).abs()),
                ("taylor-fo", mean(&|v| v * v)),
            ];
            for (name, expected) in expected {
                let of_units = criterion::find(name).unwrap().of_units();
                let Some(OfUnits::Gates { score, .. }) = of_units else { panic!("{name}") };
                let found = score(gate.as_ref().unwrap());
                assert!((found - expected).abs() < 1e-5, "{name}, unit {unit}: {found} {expected}");
            }
        }
    }

    #[test]
    fn the_oracle_is_the_loss_without_a_unit() {
        let gates = gates(&perceptron());
        let ablations = |labelled| {
            let found = gates.ablations::<ObjectiveError>(&Labelled(labelled), 0, &mut |_| Ok(()));
            found.unwrap().into_iter().map(|change| change.unwrap()).collect::<Vec<f64>>()
        };
        let without = |x: &[f32; 3], unit: usize| {
            let mut hidden = hidden(x);
            hidden[unit] = 0.0;
            outputs(hidden)
        };
        let entropy = |y: [f64; 2], label: i64| -> f64 {
            (y[0].exp() + y[1].exp()).ln() - y[usize::try_from(label).unwrap()]
        };
        let first = outputs(hidden(&ROWS[0]));
        let unit_of = f64::midpoint(first[0].powi(2), first[1].powi(2));
        let (by_class, by_distance) = (ablations(true), ablations(false));
        for unit in 0..4 {
            let change = |(x, &label): (&[f32; 3], &i64)| {
                entropy(without(x, unit), label) - entropy(outputs(hidden(x)), label)
            };
            let expected = (ROWS.iter().zip(&LABELS).map(change).sum::<f64>() / COUNT).abs();
            assert!((by_class[unit] - expected).abs() < 1e-5, "{unit}: {} {expected}", by_class[unit]);
            let distance = |x: &[f32; 3]| {
                let (a, b) = (without(x, unit), outputs(hidden(x)));
                f64::midpoint((a[0] - b[0]).powi(2), (a[1] - b[1]).powi(2)) / unit_of
            };
            let expected = ROWS.iter().map(distance).sum::<f64>() / COUNT;
            assert!(
                (by_distance[unit] - expected).abs() < 1e-5 * (1.0 + expected),
                "{unit}: {}",
                by_distance[unit]
            );
        }
    }
}
