//! Optimisers: from gradients to new weights, element by element, the same bits for any number of threads.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// How gradients change weights.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "name")]
pub enum Optimizer {
    /// `v ← momentum · v + g; w ← w − rate · v`, with `g + momentum · v` in place of `v` if Nesterov's; weight decay is part
    /// of `g`. Sutskever et al., ICML 2013.
    Sgd {
        /// Share of the last step that goes on.
        momentum: f32,
        /// Look ahead.
        nesterov: bool,
        /// Factor of the weights in their own gradient.
        weight_decay: f32,
    },
    /// Loshchilov and Hutter, ICLR 2019, <https://arxiv.org/abs/1711.05101>.
    AdamW {
        /// Decay of the mean of gradients, and of their squares.
        betas: [f32; 2],
        /// What keeps the division finite.
        epsilon: f32,
        /// Share of the weights that goes in each step, times the rate.
        weight_decay: f32,
    },
}

impl Optimizer {
    /// SGD with Nesterov's momentum of 0.9.
    pub const SGD: Self = Self::Sgd { momentum: 0.9, nesterov: true, weight_decay: 0.0 };
    /// AdamW without decay.
    pub const ADAMW: Self = Self::AdamW { betas: [0.9, 0.999], epsilon: 1e-8, weight_decay: 0.0 };

    /// With another weight decay.
    #[must_use]
    pub fn with_weight_decay(mut self, decay: f32) -> Self {
        match &mut self {
            Self::Sgd { weight_decay, .. } | Self::AdamW { weight_decay, .. } => *weight_decay = decay,
        }
        self
    }

    /// Vectors as long as the weights that it keeps from step to step.
    pub(super) fn moments(&self) -> usize {
        match self {
            Self::Sgd { .. } => 1,
            Self::AdamW { .. } => 2,
        }
    }

    /// Takes step number `step`, counted from 1; where `keep` is false the weight stays 0.
    pub(super) fn step(
        &self,
        step: u64,
        rate: f32,
        weights: &mut [f32],
        gradients: &[f32],
        moments: &mut [Vec<f32>],
        keep: Option<&[bool]>,
    ) {
        const PART: usize = 1 << 14;
        let [first, rest @ ..] = moments else { return };
        let kept = |part: usize, i: usize| keep.is_none_or(|keep| keep[part * PART + i]);
        match *self {
            Self::Sgd { momentum, nesterov, weight_decay } => {
                let parts = weights.par_chunks_mut(PART).zip(first.par_chunks_mut(PART));
                parts.zip(gradients.par_chunks(PART)).enumerate().for_each(|(part, ((w, v), g))| {
                    for (i, ((w, v), &g)) in w.iter_mut().zip(v).zip(g).enumerate() {
                        let g = g + weight_decay * *w;
                        *v = momentum * *v + g;
                        *w -= rate * if nesterov { g + momentum * *v } else { *v };
                        if !kept(part, i) {
                            (*w, *v) = (0.0, 0.0);
                        }
                    }
                });
            }
            Self::AdamW { betas: [mean, square], epsilon, weight_decay } => {
                let Some(second) = rest.first_mut() else { return };
                let unbiased = |beta: f32| (1.0 - f64::from(beta).powf(step as f64)) as f32;
                let (mean_bias, square_bias) = (unbiased(mean), unbiased(square));
                let parts = weights.par_chunks_mut(PART).zip(first.par_chunks_mut(PART));
                let parts = parts.zip(second.par_chunks_mut(PART)).zip(gradients.par_chunks(PART));
                parts.enumerate().for_each(|(part, (((w, m), v), g))| {
                    for (i, (((w, m), v), &g)) in w.iter_mut().zip(m).zip(v).zip(g).enumerate() {
                        *m = mean * *m + (1.0 - mean) * g;
                        *v = square * *v + (1.0 - square) * g * g;
                        let change = *m / mean_bias / ((*v / square_bias).sqrt() + epsilon);
                        *w -= rate * (change + weight_decay * *w);
                        if !kept(part, i) {
                            (*w, *m, *v) = (0.0, 0.0, 0.0);
                        }
                    }
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Minimises `Σ (w − target)²` and gives the weights.
    fn minimise(optimizer: Optimizer, rate: f32, steps: u64) -> Vec<f32> {
        let target = [3.0_f32, -2.0, 1.0];
        let (mut w, mut moments) = (vec![0.0_f32; 3], vec![vec![0.0_f32; 3]; optimizer.moments()]);
        for step in 1..=steps {
            let g: Vec<f32> = w.iter().zip(target).map(|(w, t)| 2.0 * (w - t)).collect();
            optimizer.step(step, rate, &mut w, &g, &mut moments, Some(&[true, true, false]));
        }
        w
    }

    #[test]
    fn each_goes_to_the_minimum_and_keeps_zeros() {
        for (optimizer, rate) in [(Optimizer::SGD, 0.02), (Optimizer::ADAMW, 0.05)] {
            let w = minimise(optimizer, rate, 400);
            assert!((w[0] - 3.0).abs() < 1e-2 && (w[1] + 2.0).abs() < 1e-2, "{optimizer:?} {w:?}");
            assert_eq!(w[2], 0.0);
        }
    }

    #[test]
    fn first_steps_are_those_of_the_papers() {
        let plain = Optimizer::Sgd { momentum: 0.5, nesterov: false, weight_decay: 0.0 };
        let w = minimise(plain, 0.1, 2);
        // v = −6, w = 0.6; then g = −4.8, v = −7.8, w = 1.38.
        assert!((w[0] - 1.38).abs() < 1e-6, "{w:?}");
        let w = minimise(Optimizer::ADAMW, 0.1, 1);
        // The first step is the rate in the direction of the gradient.
        assert!((w[0] - 0.1).abs() < 1e-6 && (w[1] + 0.1).abs() < 1e-6, "{w:?}");
        let decayed = minimise(Optimizer::ADAMW.with_weight_decay(0.5), 0.1, 2);
        assert!(decayed[0] < minimise(Optimizer::ADAMW, 0.1, 2)[0]);
    }
}
