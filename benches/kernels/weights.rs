//! Random weights: how they are pruned, and how they are stored.

use poda_formats::{CsrMatrix, DenseMatrix, Pattern, Tensor, ValueType, Values};
use poda_runtime::kernels::WeightMatrix;

pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    }

    /// From 0 to 1.
    pub(crate) fn fraction(&mut self) -> f32 {
        f32::midpoint(self.next(), 1.0)
    }

    /// Log-normal, near enough: the exponential of a sum of four uniform numbers, of deviation 1.5.
    fn uneven(&mut self) -> f32 {
        ((0..4).map(|_| self.next()).sum::<f32>() * 1.3).exp()
    }

    pub(crate) fn values(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.next()).collect()
    }
}

/// Which weights `[m, k]` are kept.
pub(crate) type Mask = fn(&mut Random, [usize; 2], f32) -> Vec<bool>;

/// The masks by name.
pub(crate) const MASKS: [(&str, Mask); 3] =
    [("uniform", uniform), ("uneven", uneven), ("clustered", clustered)];

/// Each weight by itself.
fn uniform(random: &mut Random, [m, k]: [usize; 2], sparsity: f32) -> Vec<bool> {
    (0..m * k).map(|_| random.fraction() >= sparsity).collect()
}

/// Rows of very uneven density, a tenth of the rows and of the columns empty.
fn uneven(random: &mut Random, [m, k]: [usize; 2], sparsity: f32) -> Vec<bool> {
    let full: Vec<bool> = (0..k).map(|_| random.fraction() >= 0.1).collect();
    let rows = (0..m).map(|_| if random.fraction() >= 0.1 { random.uneven() } else { 0.0 }).collect();
    let density = scaled(rows, (1.0 - sparsity) / 0.9);
    let keep = |i: usize, random: &mut Random| random.fraction() < density[i / k] && full[i % k];
    (0..m * k).map(|i| keep(i, random)).collect()
}

/// Squares of 32×32 are dense, thin or nearly empty.
fn clustered(random: &mut Random, [m, k]: [usize; 2], sparsity: f32) -> Vec<bool> {
    let across = k.div_ceil(32);
    let squares = (0..m.div_ceil(32) * across).map(|_| random.uneven()).collect();
    let density = scaled(squares, 1.0 - sparsity);
    (0..m * k).map(|i| random.fraction() < density[i / k / 32 * across + i % k / 32]).collect()
}

/// Densities of that mean, none above 1 unless the mean asks for it.
fn scaled(mut densities: Vec<f32>, mean: f32) -> Vec<f32> {
    for _ in 0..50 {
        let sum: f32 = densities.iter().map(|density| density.min(1.0)).sum();
        let times = mean * densities.len() as f32 / sum.max(f32::MIN_POSITIVE);
        densities.iter_mut().for_each(|density| *density *= times);
    }
    densities
}

/// A random matrix `[m, k]`, pruned.
pub(crate) fn pruned([m, k]: [usize; 2], sparsity: f32, mask: Mask) -> Vec<f32> {
    let mut random = Random(7);
    let w = random.values(m * k);
    let keep = mask(&mut random, [m, k], sparsity);
    w.into_iter().zip(keep).map(|(w, keep)| if keep { w } else { 0.0 }).collect()
}

pub(crate) fn aligned(values: &[f32]) -> Tensor {
    Tensor::from_slice(&[values.len()], values)
}

/// A weight in every form that some kernel reads as it is stored, with the values that it stands for: f32, and the types
/// in `VALUES`.
pub(crate) fn forms([m, k]: [usize; 2], w: &[f32], sparse: bool) -> Vec<(WeightMatrix, Vec<f32>)> {
    let first = if sparse {
        WeightMatrix::Csr(CsrMatrix::from_dense(m, k, w))
    } else {
        WeightMatrix::Dense(Tensor::from_slice(&[m, k], w))
    };
    let mut forms = vec![(first, w.to_vec())];
    let Ok(list) = std::env::var("VALUES") else { return forms };
    for name in list.split(',') {
        let to = ValueType::named(name).expect("VALUES are bf16, f16, int8");
        let narrow = DenseMatrix::new(m, k, Values::round(w, [m, k], to).expect("finite")).expect("[m, k]");
        let wide = narrow.to_tensor().expect("memory");
        let wide = wide.as_slice::<f32>().expect("f32");
        if sparse {
            forms.push((WeightMatrix::Csr(narrow.to_csr()), wide.to_vec()));
        }
        forms.push((WeightMatrix::Narrow(narrow), wide.to_vec()));
    }
    forms
}

/// A random matrix `[m, k]` that keeps to a pattern, dense and as it is stored.
pub(crate) fn structured([m, k]: [usize; 2], pattern: Pattern, sparsity: f32) -> (Vec<f32>, WeightMatrix) {
    let mut random = Random(11);
    let mut w = random.values(m * k);
    let [a, b] = pattern.numbers();
    match pattern {
        Pattern::Block { .. } => {
            let across = k.div_ceil(b);
            let gone: Vec<bool> = (0..m.div_ceil(a) * across).map(|_| random.fraction() < sparsity).collect();
            for (i, w) in w.iter_mut().enumerate() {
                if gone[i / k / a * across + i % k / b] {
                    *w = 0.0;
                }
            }
        }
        // The largest of each group stay.
        Pattern::NofM { .. } => {
            for group in w.chunks_mut(k).flat_map(|row| row.chunks_mut(b)) {
                let mut sizes: Vec<f32> = group.iter().map(|w| w.abs()).collect();
                sizes.sort_by(f32::total_cmp);
                let least = sizes[sizes.len().saturating_sub(a)];
                group.iter_mut().filter(|w| w.abs() < least).for_each(|w| *w = 0.0);
            }
        }
    }
    let csr = CsrMatrix::from_dense(m, k, &w);
    let stored = csr.by_pattern(pattern).expect("w keeps to the pattern");
    (w, stored.into())
}
