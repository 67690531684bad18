//! Scores of a model's outputs: accuracy against labels, distance from another model's outputs.

use anyhow::{Result, ensure};
use poda_formats::{DataType, Tensor};
use serde::Serialize;

/// Accuracy over samples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(crate) struct Accuracy {
    pub(crate) samples: u64,
    pub(crate) top1: f64,
    pub(crate) top5: f64,
}

/// Sums up accuracy, batch by batch.
#[derive(Debug, Default)]
pub(crate) struct AccuracySum {
    samples: u64,
    top1: u64,
    top5: u64,
}

impl AccuracySum {
    /// Adds scores `[n, classes]` and labels `[n]`. Among equal scores the earlier class ranks first; NaN ranks last.
    pub(crate) fn add(&mut self, scores: &[f32], labels: &[i64]) -> Result<()> {
        ensure!(
            !labels.is_empty() && scores.len().is_multiple_of(labels.len()),
            "{} scores cannot belong to {} labels",
            scores.len(),
            labels.len()
        );
        let classes = scores.len() / labels.len();
        for (scores, &label) in scores.chunks_exact(classes).zip(labels) {
            let index = usize::try_from(label).ok().filter(|&i| i < classes);
            let Some(index) = index else { anyhow::bail!("label {label} is not one of {classes} classes") };
            let right = scores[index];
            let before = |(i, &s): (usize, &f32)| {
                s > right || (right.is_nan() && !s.is_nan()) || (s == right && i < index)
            };
            let rank = scores.iter().enumerate().filter(|&x| before(x)).count();
            self.samples += 1;
            self.top1 += u64::from(rank == 0);
            self.top5 += u64::from(rank < 5);
        }
        Ok(())
    }

    /// The fractions so far.
    pub(crate) fn finish(&self) -> Accuracy {
        let of = |n: u64| n as f64 / self.samples.max(1) as f64;
        Accuracy { samples: self.samples, top1: of(self.top1), top5: of(self.top5) }
    }
}

/// How far outputs are from a reference.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(crate) struct Distance {
    pub(crate) elements: u64,
    /// Mean squared difference.
    pub(crate) mse: f64,
    pub(crate) max_abs: f64,
    /// Cosine of the angle between all outputs and all reference outputs, as two vectors.
    pub(crate) cosine: f64,
}

/// Sums up distance, batch by batch, in f64.
#[derive(Debug, Default)]
pub(crate) struct DistanceSum {
    elements: u64,
    squares: f64,
    max_abs: f64,
    dot: f64,
    norms: [f64; 2],
}

impl DistanceSum {
    /// Adds outputs and the reference for them.
    pub(crate) fn add(&mut self, ours: &[f32], reference: &[f32]) -> Result<()> {
        ensure!(
            ours.len() == reference.len(),
            "{} outputs, {} reference outputs",
            ours.len(),
            reference.len()
        );
        for (&a, &b) in ours.iter().zip(reference) {
            let (a, b) = (f64::from(a), f64::from(b));
            self.squares += (a - b) * (a - b);
            // `f64::max` would drop a NaN.
            if (a - b).is_nan() || (a - b).abs() > self.max_abs {
                self.max_abs = (a - b).abs();
            }
            self.dot += a * b;
            self.norms[0] += a * a;
            self.norms[1] += b * b;
        }
        self.elements += ours.len() as u64;
        Ok(())
    }

    /// The figures so far.
    pub(crate) fn finish(&self) -> Distance {
        let [a, b] = self.norms;
        // Two zero vectors point the same way, one alone points nowhere.
        let cosine = if a == 0.0 && b == 0.0 { 1.0 } else { self.dot / (a.sqrt() * b.sqrt()) };
        Distance {
            elements: self.elements,
            mse: self.squares / self.elements.max(1) as f64,
            max_abs: self.max_abs,
            cosine,
        }
    }
}

/// Elements of any number type as `f32`.
pub(crate) fn floats(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(match tensor.dtype() {
        DataType::F32 => tensor.as_slice::<f32>()?.to_vec(),
        DataType::F64 => tensor.as_slice::<f64>()?.iter().map(|&v| v as f32).collect(),
        DataType::F16 => tensor.as_slice::<half::f16>()?.iter().map(|v| v.to_f32()).collect(),
        DataType::BF16 => tensor.as_slice::<half::bf16>()?.iter().map(|v| v.to_f32()).collect(),
        _ => integers(tensor)?.into_iter().map(|v| v as f32).collect(),
    })
}

/// Elements of any integer type as `i64`.
pub(crate) fn integers(tensor: &Tensor) -> Result<Vec<i64>> {
    Ok(match tensor.dtype() {
        DataType::I8 => tensor.as_slice::<i8>()?.iter().map(|&v| v.into()).collect(),
        DataType::I16 => tensor.as_slice::<i16>()?.iter().map(|&v| v.into()).collect(),
        DataType::I32 => tensor.as_slice::<i32>()?.iter().map(|&v| v.into()).collect(),
        DataType::I64 => tensor.as_slice::<i64>()?.to_vec(),
        DataType::U8 => tensor.as_slice::<u8>()?.iter().map(|&v| v.into()).collect(),
        DataType::U16 => tensor.as_slice::<u16>()?.iter().map(|&v| v.into()).collect(),
        DataType::U32 => tensor.as_slice::<u32>()?.iter().map(|&v| v.into()).collect(),
        DataType::U64 => {
            tensor.as_slice::<u64>()?.iter().map(|&v| i64::try_from(v)).collect::<Result<_, _>>()?
        }
        DataType::Bool => tensor.bytes().iter().map(|&v| i64::from(v != 0)).collect(),
        dtype => anyhow::bail!("expected integers, found {dtype}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_exact() {
        let mut sum = AccuracySum::default();
        sum.add(&[0.1, 0.9, 0.5, 0.5], &[1, 1]).unwrap();
        // The second row is a tie, and class 0 comes first.
        assert_eq!(sum.finish(), Accuracy { samples: 2, top1: 0.5, top5: 1.0 });
        sum.add(&[f32::NAN, 0.0], &[0]).unwrap();
        assert_eq!(sum.finish().top1, 1.0 / 3.0);
        assert!(sum.add(&[0.0, 0.0], &[2]).is_err());
        assert!(sum.add(&[0.0; 3], &[0, 0]).is_err());
    }

    #[test]
    fn distances_are_exact() {
        let mut sum = DistanceSum::default();
        sum.add(&[1.0, 0.0], &[0.0, 1.0]).unwrap();
        assert_eq!(sum.finish(), Distance { elements: 2, mse: 1.0, max_abs: 1.0, cosine: 0.0 });
        sum.add(&[f32::NAN], &[0.0]).unwrap();
        assert!(sum.finish().max_abs.is_nan());
    }
}
