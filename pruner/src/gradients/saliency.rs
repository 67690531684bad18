//! Gradients of a loss at weights, example by example: how much it would change without a weight, to first or second order.
//!
//! [`collect`] runs the examples through loss and gradients and keeps, for each weight, means over them; with
//! [`Gradients::Blocks`] also the inverse of the Fisher information in blocks along the diagonal. Criteria make scores of these.

use std::collections::HashMap;

use poda_formats::{Graph, MatrixForm, ValueId};
use rayon::prelude::*;

use super::objective::{Against, Objective, ObjectiveError};
use crate::calibration::{Example, Samples, each_example};
use crate::criterion::float_values;
use crate::finetune::step::{self, Step};
use crate::finetune::{Batch, FineTuneError};
use crate::settings::Shapes;
use crate::solve;

/// What is to be known of the gradients of a loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Gradients {
    /// Their means.
    Mean,
    /// Means of their squares: the diagonal of the Fisher information.
    Squares,
    /// And the inverse of `λI + mean(g gᵀ)` in blocks of so many weights in a row. Kurtic et al., EMNLP 2022,
    /// <https://arxiv.org/abs/2203.07259>.
    Blocks {
        /// Weights of a block.
        size: usize,
        /// `λ`
        damping: f64,
    },
}

impl Gradients {
    /// What outputs are held against where there are no labels.
    pub fn against(self) -> Against {
        match self {
            Self::Mean => Against::Zero,
            Self::Squares | Self::Blocks { .. } => Against::Noise,
        }
    }

    /// Elements of triangles for so many weights.
    fn held(self, weights: usize) -> usize {
        match self {
            Self::Mean | Self::Squares => 0,
            Self::Blocks { size, .. } => weights.div_ceil(size.max(1)) * triangle(size.max(1)),
        }
    }
}

/// Of one weight, element by element.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightGradients {
    /// Examples that were run.
    pub examples: usize,
    /// Mean gradient.
    pub mean: Vec<f32>,
    /// Mean of the gradient's squares.
    pub square: Vec<f32>,
    /// Diagonal of the inverse of the Fisher information, where that was asked for.
    pub inverse: Option<Vec<f32>>,
}

impl WeightGradients {
    /// The same, from the order of the tensor to that of its matrix.
    #[must_use]
    pub fn rows_of(&self, form: MatrixForm) -> Self {
        let rows = |values: &Vec<f32>| form.rows_of(values).into_owned();
        let inverse = self.inverse.as_ref().map(rows);
        Self { examples: self.examples, mean: rows(&self.mean), square: rows(&self.square), inverse }
    }
}

struct Sums {
    mean: Vec<f64>,
    square: Vec<f64>,
    blocks: Option<Blocks>,
}

/// Sums of `g gᵀ` along the diagonal, block after block: of each the lower triangle, row by row.
struct Blocks {
    size: usize,
    damping: f64,
    sums: Vec<f32>,
}

/// Elements of a triangle.
fn triangle(size: usize) -> usize {
    size * (size + 1) / 2
}

impl Blocks {
    fn new(len: usize, size: usize, damping: f64) -> Self {
        Self { size, damping, sums: vec![0.0; len.div_ceil(size) * triangle(size)] }
    }

    fn add(&mut self, gradient: &[f32]) {
        let update = |(sums, g): (&mut [f32], &[f32])| {
            let mut rest = sums;
            for (row, &a) in g.iter().enumerate() {
                let (sums, left) = rest.split_at_mut(row + 1);
                sums.iter_mut().zip(g).for_each(|(sum, &b)| *sum += a * b);
                rest = left;
            }
        };
        let sums = self.sums.par_chunks_mut(triangle(self.size));
        sums.zip(gradient.par_chunks(self.size)).with_min_len(64).for_each(update);
    }

    /// Of the inverse of the mean over `count`, with the damping.
    fn inverse_diagonal(&self, len: usize, count: f64) -> Vec<f32> {
        let size = self.size;
        let of_block = |sums: &[f32]| {
            let mut all = vec![0.0; size * size];
            for row in 0..size {
                for col in 0..=row {
                    let sum = f64::from(sums[triangle(row) + col]) / count;
                    let damping = if row == col { self.damping } else { 0.0 };
                    all[row * size + col] = sum + damping;
                    all[col * size + row] = sum + damping;
                }
            }
            // (Of more weights than examples, rounding may leave it without an inverse: then each by itself.)
            let diagonal = |all: &[f64]| all.iter().step_by(size + 1).copied().collect::<Vec<f64>>();
            let inverse = solve::inverse(&all, size).map(|inverse| diagonal(&inverse));
            let inverse = inverse.filter(|inverse| inverse.iter().all(|&v| v > 0.0));
            inverse.unwrap_or_else(|| diagonal(&all).iter().map(|v| 1.0 / v).collect())
        };
        let blocks: Vec<Vec<f64>> = self.sums.par_chunks(triangle(size)).map(of_block).collect();
        blocks.into_iter().flatten().take(len).map(|v| v as f32).collect()
    }
}

/// Elements of triangles that are held at a time; of more weights, the examples run several times.
const MOST_HELD: usize = 1 << 28;

/// The loss of examples, and its gradients at some weights: a graph for each set of input shapes, one after the other.
pub(crate) struct Steps<'a> {
    graph: &'a Graph,
    objective: &'a Objective,
    /// Those that the loss depends on, once an example was run.
    weights: Vec<ValueId>,
    shapes: Vec<Vec<usize>>,
    values: Vec<Vec<f32>>,
    gradients: Vec<Vec<f32>>,
    step: Option<(Shapes, Step)>,
}

impl<'a> Steps<'a> {
    pub(crate) fn new(
        graph: &'a Graph,
        objective: &'a Objective,
        weights: &[ValueId],
    ) -> Result<Self, ObjectiveError> {
        let mut this = Self {
            graph,
            objective,
            weights: weights.to_vec(),
            shapes: Vec::new(),
            values: Vec::new(),
            gradients: Vec::new(),
            step: None,
        };
        for &id in weights {
            let dense = graph.weight(id).and_then(|weight| weight.to_dense().ok());
            let floats =
                dense.as_ref().and_then(|dense| Some((dense.shape().to_vec(), float_values(dense)?)));
            let (shape, floats) = floats.ok_or_else(|| FineTuneError::NoWeights {
                reason: format!("{:?} cannot be read as floats", graph.value(id).name),
            })?;
            this.gradients.push(vec![0.0; floats.len()]);
            this.shapes.push(shape);
            this.values.push(floats);
        }
        Ok(this)
    }

    /// The gradients of one example, weight by weight; not of those that the loss does not depend on.
    pub(crate) fn run(
        &mut self,
        example: Example,
        number: usize,
    ) -> Result<impl Iterator<Item = (ValueId, &[f32])>, ObjectiveError> {
        let batch = self.objective.batch(example, number)?;
        let shapes = shapes_of(&batch);
        if self.step.as_ref().is_none_or(|(known, _)| *known != shapes) {
            let terms = self.objective.terms();
            let reached = step::reached(self.graph, &self.weights, terms, &batch)?;
            let mut stays =
                self.weights.iter().map(|id| reached.contains(id)).collect::<Vec<_>>().into_iter();
            self.shapes.retain(|_| stays.next().unwrap_or(false));
            let mut stays =
                self.weights.iter().map(|id| reached.contains(id)).collect::<Vec<_>>().into_iter();
            self.values.retain(|_| stays.next().unwrap_or(false));
            self.weights = reached;
            self.gradients = self.values.iter().map(|values| vec![0.0; values.len()]).collect();
            // In inference form: what is pruned runs with the statistics that it has.
            self.step = Some((shapes, Step::new(self.graph, &self.weights, terms, &batch, false, None)?));
        }
        let (_, step) = self.step.as_ref().expect("made for these shapes");
        step.run(&batch, &self.shapes, &self.values, &mut self.gradients)?;
        Ok(self.weights.iter().copied().zip(self.gradients.iter().map(Vec::as_slice)))
    }
}

/// Shapes of what is fed.
pub(crate) fn shapes_of(batch: &Batch) -> Shapes {
    batch.feeds.iter().map(|(name, tensor)| (name.clone(), tensor.shape().to_vec())).collect()
}

/// Runs the examples that are not kept aside, and gives what is known of the gradients of `weights`, in the order of their
/// tensors.
///
/// # Errors
/// When an operator has no gradient, samples do not fit, or the loss does not depend on a weight.
pub fn collect(
    graph: &Graph,
    samples: &dyn Samples,
    weights: &[ValueId],
    gradients: Gradients,
    seed: u64,
) -> Result<HashMap<ValueId, WeightGradients>, ObjectiveError> {
    let objective = Objective::new(graph, samples, gradients.against(), seed)?;
    let mut all = HashMap::new();
    let mut left = weights;
    while !left.is_empty() {
        let mut held = 0;
        let fits = |id: &&ValueId| {
            let elements = graph.weight(**id).map_or(0, poda_formats::Weight::len);
            held += gradients.held(elements);
            held <= MOST_HELD
        };
        let (now, later) = left.split_at(left.iter().take_while(fits).count().max(1));
        left = later;
        let mut steps = Steps::new(graph, &objective, now)?;
        let mut sums: HashMap<ValueId, Sums> = HashMap::new();
        let mut examples = 0;
        each_example(samples, 1, &mut |number, example| {
            examples += 1;
            for (id, gradient) in steps.run(example, number)? {
                sums.entry(id).or_insert_with(|| Sums::new(gradient.len(), gradients)).add(gradient);
            }
            Ok::<_, ObjectiveError>(())
        })?;
        if let Some(&id) = now.iter().find(|id| !sums.contains_key(id)) {
            return Err(ObjectiveError::NotReached { name: graph.value(id).name.clone() });
        }
        all.extend(sums.into_iter().map(|(id, sums)| (id, sums.finish(examples))));
    }
    Ok(all)
}

impl Sums {
    fn new(len: usize, gradients: Gradients) -> Self {
        let blocks = match gradients {
            Gradients::Mean | Gradients::Squares => None,
            Gradients::Blocks { size, damping } => Some(Blocks::new(len, size.max(1), damping)),
        };
        Self { mean: vec![0.0; len], square: vec![0.0; len], blocks }
    }

    fn add(&mut self, gradient: &[f32]) {
        let of = self.mean.par_iter_mut().zip(self.square.par_iter_mut()).zip(gradient);
        of.with_min_len(1 << 14).for_each(|((mean, square), &g)| {
            *mean += f64::from(g);
            *square += f64::from(g) * f64::from(g);
        });
        if let Some(blocks) = &mut self.blocks {
            blocks.add(gradient);
        }
    }

    fn finish(self, examples: usize) -> WeightGradients {
        let count = examples.max(1) as f64;
        let mean = |values: Vec<f64>| values.into_iter().map(|v| (v / count) as f32).collect();
        let inverse = self.blocks.map(|blocks| blocks.inverse_diagonal(self.mean.len(), count));
        WeightGradients { examples, mean: mean(self.mean), square: mean(self.square), inverse }
    }
}

#[cfg(test)]
mod tests {
    use poda_formats::op::Op;
    use poda_formats::{DataType, Dim, Tensor};

    use super::*;
    use crate::calibration::testing::{LABELS, Labelled, ROWS, errors};
    use crate::criterion::{self, Layer, random_for};

    /// `[3, 2]`
    const WEIGHTS: [f32; 6] = [0.5, -1.0, 2.0, 0.25, -0.75, 1.5];
    const COUNT: f64 = ROWS.len() as f64;

    fn graph() -> (Graph, ValueId) {
        let mut graph = Graph::default();
        let x = graph.add_input("x", DataType::F32, vec![Dim::Symbol("batch".into()), Dim::Fixed(3)]);
        let w = graph.add_weight("w", Tensor::from_slice(&[3, 2], &WEIGHTS));
        let y = graph.add_node(Op::MatMul, &[x, w], "y");
        graph.outputs.push(y);
        (graph, w)
    }

    fn collected(labelled: bool, gradients: Gradients) -> WeightGradients {
        let (graph, w) = graph();
        collect(&graph, &Labelled(labelled), &[w], gradients, 0).unwrap().remove(&w).unwrap()
    }

    fn outputs(x: &[f32; 3]) -> [f64; 2] {
        [0, 1].map(|j| (0..3).map(|i| f64::from(x[i] * WEIGHTS[i * 2 + j])).sum())
    }

    /// Of the cross-entropy of each row: `x ⊗ (softmax − class)`.
    fn gradients() -> Vec<[f64; 6]> {
        let of = |(x, &label): (&[f32; 3], &i64)| -> [f64; 6] {
            let errors = errors(outputs(x), label);
            std::array::from_fn(|at| f64::from(x[at / 2]) * errors[at % 2])
        };
        ROWS.iter().zip(&LABELS).map(of).collect()
    }

    fn assert_close(found: &[f32], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            let found = f64::from(*found);
            assert!((found - expected).abs() < 1e-4 * (1e-2 + expected.abs()), "{found} {expected}");
        }
    }

    fn scores(name: &str) -> Vec<f32> {
        let criterion = criterion::find(name).unwrap().of_weights().unwrap();
        let gradients = collected(true, criterion.gradients().unwrap());
        let layer = Layer { size: [3, 2], weights: &WEIGHTS, statistics: None, gradients: Some(&gradients) };
        criterion.elements(&layer, &mut random_for(0, ValueId(0)))
    }

    #[test]
    fn scores_are_those_of_the_papers() {
        let g = gradients();
        let mean = |f: &dyn Fn(f64) -> f64| -> Vec<f64> {
            (0..6).map(|i| g.iter().map(|g| f(g[i])).sum::<f64>() / COUNT).collect()
        };
        let of = |by: &[f64], f: &dyn Fn(f64, f64) -> f64| -> Vec<f64> {
            WEIGHTS.iter().zip(by).map(|(&w, &v)| f(f64::from(w), v)).collect()
        };
        let (first, second) = (mean(&|g| g), mean(&|g| g * g));
        assert_close(&scores("gradient"), &of(&first, &|w, g| (w * g).abs()));
        assert_close(&scores("snip"), &of(&first, &|w, g| (w * g).abs()));
        assert_close(&scores("taylor-fo"), &of(&second, &|w, g| w * w * g));
        assert_close(&scores("obd"), &of(&second, &|w, g| 0.5 * w * w * g));
    }

    #[test]
    fn blocks_are_inverted() {
        const DAMPING: f64 = 0.1;
        let found = collected(true, Gradients::Blocks { size: 2, damping: DAMPING });
        let g = gradients();
        let f = |i: usize, j: usize| {
            g.iter().map(|g| g[i] * g[j]).sum::<f64>() / COUNT + if i == j { DAMPING } else { 0.0 }
        };
        let inverse = |at: usize| {
            let (a, b) = (at / 2 * 2, at / 2 * 2 + 1);
            f(a + b - at, a + b - at) / (f(a, a) * f(b, b) - f(a, b).powi(2))
        };
        assert_close(found.inverse.as_ref().unwrap(), &(0..6).map(inverse).collect::<Vec<_>>());
        // Three in a row, of which the last block is full: against the general inverse.
        let all: Vec<f64> = (0..9).map(|at| f(3 + at / 3, 3 + at % 3)).collect();
        let expected: Vec<f64> = solve::inverse(&all, 3).unwrap().into_iter().step_by(4).collect();
        let found = collected(true, Gradients::Blocks { size: 3, damping: DAMPING }).inverse.unwrap();
        assert_close(&found[3..], &expected);
    }

    #[test]
    fn without_labels_the_loss_is_of_the_outputs() {
        // The mean square of the first example's outputs is the unit.
        let y = outputs(&ROWS[0]);
        let unit = f64::midpoint(y[0] * y[0], y[1] * y[1]);
        let expected = |at: usize| {
            let of = |x: &[f32; 3]| outputs(x)[at % 2] * f64::from(x[at / 2]) / unit;
            ROWS.iter().map(of).sum::<f64>() / COUNT
        };
        assert_close(&collected(false, Gradients::Mean).mean, &(0..6).map(expected).collect::<Vec<_>>());
        // Against noise, squares of gradients are those of one output alone, whatever the signs: x² / unit.
        let expected =
            |at: usize| ROWS.iter().map(|x| f64::from(x[at / 2]).powi(2)).sum::<f64>() / COUNT / unit;
        let found = collected(false, Gradients::Squares);
        assert_close(&found.square, &(0..6).map(expected).collect::<Vec<_>>());
    }

    #[test]
    fn what_has_no_loss_is_refused() {
        let (mut graph, w) = graph();
        let unused = graph.add_weight("unused", Tensor::from_slice(&[3, 2], &WEIGHTS));
        let error =
            collect(&graph, &Labelled(true), &[w, unused], Gradients::Mean, 0).unwrap_err().to_string();
        assert!(error.starts_with("the loss has no gradient at \"unused\""), "{error}");
        graph.outputs = vec![w];
        let error = collect(&graph, &Labelled(true), &[w], Gradients::Mean, 0).unwrap_err().to_string();
        assert!(error.starts_with("no output is scores of floats [samples, classes]"), "{error}");
    }
}
