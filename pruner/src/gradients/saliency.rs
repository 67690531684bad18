//! Saliency from gradients: how much the loss would change without a weight, to first or second order.
//!
//! [`collect`] runs batches through loss and gradients and keeps, for each weight, means over the batches; with
//! [`Fisher::Blocks`] also the inverse of the Fisher information in blocks along the diagonal. [`Saliency`] makes scores of these.

use std::collections::HashMap;

use poda_formats::{Graph, Tensor, ValueId};
use rayon::prelude::*;

use crate::finetune::step::Step;
use crate::finetune::{Data, FineTuneError, Term};

/// What is kept of the second moments of gradients.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fisher {
    /// Means of squares: the diagonal.
    Diagonal,
    /// And the inverse of `λI + mean(g gᵀ)` in blocks of so many weights in a row. Kurtic et al., EMNLP 2022,
    /// <https://arxiv.org/abs/2203.07259>.
    Blocks {
        /// Weights of a block.
        size: usize,
        /// `λ`
        damping: f64,
    },
}

/// Of one weight, in the order of its elements.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightGradients {
    /// Batches that were run.
    pub batches: usize,
    /// The weight's elements.
    pub weights: Vec<f32>,
    /// Mean gradient.
    pub mean: Vec<f32>,
    /// Mean of the gradient's squares.
    pub square: Vec<f32>,
    /// Diagonal of the inverse of the Fisher information, where that was asked for.
    pub inverse: Option<Vec<f32>>,
}

/// A score for each weight, none negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saliency {
    /// `|w · ∂L/∂w|`. Blalock et al., MLSys 2020; as connection sensitivity SNIP, Lee et al., ICLR 2019,
    /// <https://arxiv.org/abs/1810.02340>.
    GradientTimesWeight,
    /// `(w · ∂L/∂w)²`, mean over batches. Molchanov et al., CVPR 2019, <https://arxiv.org/abs/1906.10771>.
    TaylorFo,
    /// `½ w² h` with the Fisher information for the curvature `h`. LeCun, Denker and Solla, NeurIPS 1989.
    Obd,
    /// `w² / 2[F⁻¹]`, with `F` in blocks. Kurtic et al., EMNLP 2022, <https://arxiv.org/abs/2203.07259>.
    Obert,
}

impl Saliency {
    /// What must be collected for it.
    pub fn needs(self) -> Fisher {
        match self {
            Self::GradientTimesWeight | Self::TaylorFo | Self::Obd => Fisher::Diagonal,
            Self::Obert => Fisher::Blocks { size: 50, damping: 1e-7 },
        }
    }

    /// A score for each element.
    pub fn scores(self, of: &WeightGradients) -> Vec<f32> {
        let WeightGradients { weights, mean, square, inverse, .. } = of;
        let by = |second: &[f32], score: fn(f32, f32) -> f32| {
            weights.iter().zip(second).map(|(&w, &v)| score(w, v)).collect()
        };
        match (self, inverse) {
            (Self::GradientTimesWeight, _) => by(mean, |w, g| (w * g).abs()),
            (Self::TaylorFo, _) => by(square, |w, square| w * w * square),
            // Without blocks the inverse of the diagonal is one over it, up to the damping.
            (Self::Obd, _) | (Self::Obert, None) => by(square, |w, square| 0.5 * w * w * square),
            (Self::Obert, Some(inverse)) => by(inverse, |w, inverse| 0.5 * w * w / inverse),
        }
    }
}

struct Sums {
    mean: Vec<f64>,
    square: Vec<f64>,
    blocks: Option<Blocks>,
}

/// Inverses along the diagonal, block after block, each row by row.
struct Blocks {
    size: usize,
    inverse: Vec<f64>,
}

impl Blocks {
    fn new(len: usize, size: usize, damping: f64) -> Self {
        let mut inverse = vec![0.0; len.div_ceil(size) * size * size];
        for block in inverse.chunks_exact_mut(size * size) {
            block.iter_mut().step_by(size + 1).for_each(|v| *v = 1.0 / damping);
        }
        Self { size, inverse }
    }

    /// Adds `g gᵀ / count`. Sherman and Morrison, 1950: `F⁻¹ −= (F⁻¹g)(F⁻¹g)ᵀ / (count + gᵀF⁻¹g)`.
    fn add(&mut self, gradient: &[f32], count: usize) {
        let size = self.size;
        let update = |(inverse, g): (&mut [f64], &[f32])| {
            let product: Vec<f64> = inverse
                .chunks_exact(size)
                .map(|row| row.iter().zip(g).map(|(f, &g)| f * f64::from(g)).sum())
                .collect();
            let along: f64 = product.iter().zip(g).map(|(p, &g)| p * f64::from(g)).sum();
            let scale = 1.0 / (count as f64 + along);
            for (row, &p) in inverse.chunks_exact_mut(size).zip(&product) {
                row.iter_mut().zip(&product).for_each(|(f, q)| *f -= scale * p * q);
            }
        };
        self.inverse.par_chunks_mut(size * size).zip(gradient.par_chunks(size)).for_each(update);
    }

    fn diagonal(&self, len: usize) -> Vec<f32> {
        let blocks = self.inverse.chunks_exact(self.size * self.size);
        blocks.flat_map(|block| block.iter().step_by(self.size + 1)).take(len).map(|&v| v as f32).collect()
    }
}

/// Runs the samples, `size` at a time, and gives what is known of the gradients of `weights`, which must be f32. Weights that the
/// loss does not depend on are left out.
///
/// # Errors
/// When an operator has no gradient, or samples do not fit.
pub fn collect(
    graph: &Graph,
    data: &dyn Data,
    terms: &[Term],
    weights: &[ValueId],
    fisher: Fisher,
    size: usize,
    threads: Option<usize>,
) -> Result<HashMap<ValueId, WeightGradients>, FineTuneError> {
    if data.is_empty() {
        return Err(FineTuneError::NoSamples);
    }
    let size = size.clamp(1, data.len());
    let all: Vec<usize> = (0..data.len()).collect();
    let batch = |samples: &[usize]| data.batch(samples).map_err(FineTuneError::Data);
    let weights = crate::finetune::step::reached(graph, weights, terms, &batch(&all[..size])?)?;
    // In inference form: what is pruned runs with the statistics that it has.
    let step = Step::new(graph, &weights, terms, &batch(&all[..size])?, false, threads)?;
    let dense = |&id: &ValueId| -> Result<Tensor, FineTuneError> {
        let dense = graph.weight(id).and_then(|weight| weight.to_dense().ok());
        dense.filter(|dense| dense.as_slice::<f32>().is_ok()).ok_or_else(|| FineTuneError::NoWeights {
            reason: format!("{:?} cannot be read as f32", graph.value(id).name),
        })
    };
    let tensors = weights.iter().map(dense).collect::<Result<Vec<_>, _>>()?;
    let shapes: Vec<Vec<usize>> = tensors.iter().map(|tensor| tensor.shape().to_vec()).collect();
    let values: Vec<Vec<f32>> =
        tensors.iter().map(|tensor| tensor.as_slice::<f32>().unwrap_or_default().to_vec()).collect();
    let mut gradients: Vec<Vec<f32>> = values.iter().map(|v| vec![0.0; v.len()]).collect();
    let sums = |values: &Vec<f32>| Sums {
        mean: vec![0.0; values.len()],
        square: vec![0.0; values.len()],
        blocks: match fisher {
            Fisher::Diagonal => None,
            Fisher::Blocks { size, damping } => Some(Blocks::new(values.len(), size.max(1), damping)),
        },
    };
    let mut sums: Vec<Sums> = values.iter().map(sums).collect();
    let batches = data.len() / size;
    for samples in all.chunks_exact(size) {
        step.run(&batch(samples)?, &shapes, &values, &mut gradients)?;
        for (sums, gradient) in sums.iter_mut().zip(&gradients) {
            let of = sums.mean.par_iter_mut().zip(sums.square.par_iter_mut()).zip(gradient);
            of.for_each(|((mean, square), &g)| {
                *mean += f64::from(g);
                *square += f64::from(g) * f64::from(g);
            });
            if let Some(blocks) = &mut sums.blocks {
                blocks.add(gradient, batches);
            }
        }
    }
    let mean = |values: Vec<f64>| values.into_iter().map(|v| (v / batches as f64) as f32).collect();
    let finish = |((id, weights), sums): ((ValueId, Vec<f32>), Sums)| {
        let inverse = sums.blocks.map(|blocks| blocks.diagonal(weights.len()));
        let (mean, square) = (mean(sums.mean), mean(sums.square));
        (id, WeightGradients { batches, weights, mean, square, inverse })
    };
    Ok(weights.into_iter().zip(values).zip(sums).map(finish).collect())
}

#[cfg(test)]
mod tests {
    use poda_formats::op::Op;
    use poda_formats::{DataType, Dim};

    use super::*;
    use crate::finetune::{Batch, DataError};
    use crate::gradients::loss::Loss;

    /// `y = x · w` against 0 by squared error: the gradient of a sample is `2y x`.
    struct Rows(Vec<[f32; 3]>);

    impl Data for Rows {
        fn len(&self) -> usize {
            self.0.len()
        }

        fn batch(&self, samples: &[usize]) -> Result<Batch, DataError> {
            let x: Vec<f32> = samples.iter().flat_map(|&i| self.0[i]).collect();
            let x = Tensor::from_slice(&[samples.len(), 3], &x);
            let zeros = Tensor::from_slice(&[samples.len(), 1], &vec![0.0_f32; samples.len()]);
            Ok(Batch { feeds: vec![("x".to_owned(), x)], targets: vec![zeros] })
        }
    }

    fn collected(rows: &[[f32; 3]], fisher: Fisher) -> WeightGradients {
        let mut graph = Graph::default();
        let x = graph.add_input("x", DataType::F32, vec![Dim::Symbol("batch".into()), Dim::Fixed(3)]);
        let w = graph.add_weight("w", Tensor::from_slice(&[3, 1], &[0.5_f32, -1.0, 2.0]));
        let y = graph.add_node(Op::MatMul, &[x, w], "y");
        graph.outputs.push(y);
        let terms = [Term { loss: Loss::Mse, output: y, factor: 1.0 }];
        let mut found = collect(&graph, &Rows(rows.to_vec()), &terms, &[w], fisher, 1, Some(1)).unwrap();
        found.remove(&w).unwrap()
    }

    const ROWS: [[f32; 3]; 4] = [[1.0, 0.5, -0.5], [0.0, 1.0, 1.0], [2.0, -1.0, 0.25], [-1.0, 0.5, 0.75]];

    /// Of each sample.
    fn gradients() -> Vec<[f64; 3]> {
        let y = |x: &[f32; 3]| f64::from(0.5 * x[0] - x[1] + 2.0 * x[2]);
        ROWS.iter().map(|x| x.map(|v| 2.0 * y(x) * f64::from(v))).collect()
    }

    fn assert_close(found: &[f32], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!(
                (f64::from(*found) - expected).abs() < 1e-4 * (1.0 + expected.abs()),
                "{found} {expected}"
            );
        }
    }

    #[test]
    fn scores_are_those_of_the_papers() {
        let found = collected(&ROWS, Fisher::Diagonal);
        let (w, g) = ([0.5, -1.0, 2.0], gradients());
        let mean = |f: &dyn Fn(f64) -> f64| [0, 1, 2].map(|i| g.iter().map(|g| f(g[i])).sum::<f64>() / 4.0);
        let (first, second) = (mean(&|g| g), mean(&|g| g * g));
        let expected = |f: &dyn Fn(usize) -> f64| [0, 1, 2].map(f);
        let scores = |saliency: Saliency| saliency.scores(&found);
        assert_close(&scores(Saliency::GradientTimesWeight), &expected(&|i| (w[i] * first[i]).abs()));
        assert_close(&scores(Saliency::TaylorFo), &expected(&|i| w[i] * w[i] * second[i]));
        assert_close(&scores(Saliency::Obd), &expected(&|i| 0.5 * w[i] * w[i] * second[i]));
    }

    #[test]
    fn blocks_are_inverted() {
        const DAMPING: f64 = 0.1;
        let found = collected(&ROWS, Fisher::Blocks { size: 2, damping: DAMPING });
        let g = gradients();
        let f = |i: usize, j: usize| {
            g.iter().map(|g| g[i] * g[j]).sum::<f64>() / 4.0 + if i == j { DAMPING } else { 0.0 }
        };
        // Two weights in the first block, one in the last.
        let determinant = f(0, 0) * f(1, 1) - f(0, 1) * f(1, 0);
        let inverse = [f(1, 1) / determinant, f(0, 0) / determinant, 1.0 / f(2, 2)];
        assert_close(found.inverse.as_ref().unwrap(), &inverse);
        let w = [0.5_f64, -1.0, 2.0];
        let expected = [0, 1, 2].map(|i| 0.5 * w[i] * w[i] / inverse[i]);
        assert_close(&Saliency::Obert.scores(&found), &expected);
    }
}
