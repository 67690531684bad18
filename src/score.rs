//! Scores of a model's outputs: accuracy against labels, distance from another model's outputs.

use poda_formats::tensor::TensorError;
use poda_formats::{DataType, Tensor};
use serde::Serialize;

/// Why outputs cannot be scored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum ScoreError {
    #[error("{scores} scores cannot belong to {labels} labels")]
    Count { scores: usize, labels: usize },
    #[error("label {label} is not one of {classes} classes")]
    Label { label: i64, classes: usize },
    #[error("expected integers, found {dtype}")]
    Integers { dtype: DataType },
    #[error("{value} is too large for a class number")]
    TooLarge { value: u64 },
    #[error("{ours} outputs, {reference} reference outputs")]
    Length { ours: usize, reference: usize },
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

/// Accuracy over samples.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Accuracy {
    /// The output that was scored.
    pub output: String,
    /// Samples scored.
    pub samples: u64,
    /// Share of samples whose label has the greatest score.
    pub top1: f64,
    /// Share of samples whose label is among the five greatest scores; `None` where there are no more classes than that.
    pub top5: Option<f64>,
}

/// Sums up accuracy, batch by batch.
#[derive(Debug, Default)]
pub struct AccuracySum {
    samples: u64,
    top1: u64,
    top5: u64,
    classes: usize,
}

impl AccuracySum {
    /// Adds scores `[n, classes]`, or class numbers `[n]`, and labels `[n]`. Among equal scores the earlier class ranks
    /// first; a NaN is the score of no class.
    ///
    /// # Errors
    /// When there are not as many scores of every sample, or a label is no class.
    pub fn add(&mut self, scores: &Tensor, labels: &[i64]) -> Result<(), ScoreError> {
        if labels.is_empty() || scores.is_empty() || !scores.len().is_multiple_of(labels.len()) {
            return Err(ScoreError::Count { scores: scores.len(), labels: labels.len() });
        }
        let classes = scores.len() / labels.len();
        self.samples += labels.len() as u64;
        self.classes = classes;
        if classes == 1 {
            let right = integers(scores)?.iter().zip(labels).filter(|(class, label)| class == label).count();
            self.top1 += right as u64;
            return Ok(());
        }
        for (scores, &label) in numbers(scores)?.chunks_exact(classes).zip(labels) {
            let index = usize::try_from(label).ok().filter(|&i| i < classes);
            let index = index.ok_or(ScoreError::Label { label, classes })?;
            let right = scores[index];
            if right.is_nan() {
                continue;
            }
            let before = |(i, &s): (usize, &f64)| s > right || (s == right && i < index);
            let rank = scores.iter().enumerate().filter(|&x| before(x)).count();
            self.top1 += u64::from(rank == 0);
            self.top5 += u64::from(rank < 5);
        }
        Ok(())
    }

    /// The fractions so far, of the output of that name.
    pub fn finish(&self, output: String) -> Accuracy {
        let of = |n: u64| n as f64 / self.samples.max(1) as f64;
        let top5 = (self.classes > 5).then(|| of(self.top5));
        Accuracy { output, samples: self.samples, top1: of(self.top1), top5 }
    }
}

/// How far outputs are from a reference.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Distance {
    /// Elements compared: those that are finite in both.
    pub elements: u64,
    /// Elements that are not finite, and the same in both.
    pub alike: u64,
    /// Elements that are finite in one only, or differ otherwise beyond numbers; in no other figure.
    pub unlike: u64,
    /// Mean squared difference.
    pub mse: f64,
    /// Greatest difference.
    pub max_abs: f64,
    /// Cosine of the angle between all outputs and all reference outputs, as two vectors.
    pub cosine: f64,
    /// Samples compared.
    pub samples: u64,
    /// Mean over samples of the cosine of the angle between both outputs of a sample.
    pub mean_cosine: f64,
    /// The least of these cosines.
    pub worst_cosine: f64,
    /// The sample that has it, by number.
    pub worst_sample: u64,
    /// Mean over samples of ‖ours − reference‖ / ‖reference‖.
    pub relative_error: f64,
    /// Share of samples whose greatest element is the reference's: of a classifier, those that keep their class.
    pub agreement: f64,
}

/// Sums up distance, batch by batch, in f64.
#[derive(Debug, Default)]
pub struct DistanceSum {
    all: Pair,
    alike: u64,
    unlike: u64,
    max_abs: f64,
    samples: u64,
    cosines: f64,
    /// The least cosine, and whose it is.
    worst: Option<(f64, u64)>,
    errors: f64,
    agreed: u64,
}

/// Sums over two vectors.
#[derive(Debug, Default, Clone, Copy)]
struct Pair {
    elements: u64,
    squares: f64,
    dot: f64,
    norms: [f64; 2],
}

impl Pair {
    fn add(&mut self, a: f64, b: f64) {
        self.elements += 1;
        self.squares += (a - b) * (a - b);
        self.dot += a * b;
        self.norms[0] += a * a;
        self.norms[1] += b * b;
    }

    fn merge(&mut self, other: Self) {
        self.elements += other.elements;
        self.squares += other.squares;
        self.dot += other.dot;
        self.norms[0] += other.norms[0];
        self.norms[1] += other.norms[1];
    }

    /// Two zero vectors point the same way, one alone points nowhere.
    fn cosine(&self) -> f64 {
        let [a, b] = self.norms;
        let cosine = if a == 0.0 && b == 0.0 { 1.0 } else { self.dot / (a.sqrt() * b.sqrt()) };
        if cosine.is_finite() { cosine } else { 0.0 }
    }

    /// The length of the difference, as a share of the second's; of a zero vector as it is.
    fn relative(&self) -> f64 {
        let length = self.norms[1].sqrt();
        self.squares.sqrt() / if length > 0.0 { length } else { 1.0 }
    }
}

impl DistanceSum {
    /// Adds outputs of `samples` samples, one after the other, and the reference for them.
    ///
    /// # Errors
    /// When there are not as many.
    ///
    /// # Panics
    /// When the elements are no multiple of the samples.
    pub fn add(&mut self, ours: &Tensor, reference: &Tensor, samples: usize) -> Result<(), ScoreError> {
        if ours.len() != reference.len() {
            return Err(ScoreError::Length { ours: ours.len(), reference: reference.len() });
        }
        assert!(ours.len().is_multiple_of(samples.max(1)), "{samples} samples of {} elements", ours.len());
        let (ours, reference) = (numbers(ours)?, numbers(reference)?);
        let row = (ours.len() / samples.max(1)).max(1);
        for (ours, reference) in ours.chunks(row).zip(reference.chunks(row)) {
            self.add_sample(ours, reference);
        }
        Ok(())
    }

    fn add_sample(&mut self, ours: &[f64], reference: &[f64]) {
        let mut pair = Pair::default();
        for (&a, &b) in ours.iter().zip(reference) {
            if a.is_finite() && b.is_finite() {
                pair.add(a, b);
                self.max_abs = self.max_abs.max((a - b).abs());
            } else if a == b || (a.is_nan() && b.is_nan()) {
                self.alike += 1;
            } else {
                self.unlike += 1;
            }
        }
        let cosine = pair.cosine();
        if self.worst.is_none_or(|(worst, _)| cosine < worst) {
            self.worst = Some((cosine, self.samples));
        }
        self.samples += 1;
        self.cosines += cosine;
        self.errors += pair.relative();
        self.agreed += u64::from(greatest(ours) == greatest(reference));
        self.all.merge(pair);
    }

    /// The figures so far.
    pub fn finish(&self) -> Distance {
        let mean = |sum: f64| sum / self.samples.max(1) as f64;
        let (worst_cosine, worst_sample) = self.worst.unwrap_or((1.0, 0));
        Distance {
            elements: self.all.elements,
            alike: self.alike,
            unlike: self.unlike,
            mse: self.all.squares / self.all.elements.max(1) as f64,
            max_abs: self.max_abs,
            cosine: self.all.cosine(),
            samples: self.samples,
            mean_cosine: mean(self.cosines),
            worst_cosine,
            worst_sample,
            relative_error: mean(self.errors),
            agreement: mean(self.agreed as f64),
        }
    }
}

/// The place of the greatest number, the first of equal ones; NaN is none.
fn greatest(values: &[f64]) -> Option<usize> {
    let numbers = values.iter().enumerate().filter(|(_, v)| !v.is_nan());
    numbers.reduce(|a, b| if b.1 > a.1 { b } else { a }).map(|(at, _)| at)
}

/// Elements of any number type as `f64`.
///
/// # Errors
/// When the tensor is damaged.
pub fn numbers(tensor: &Tensor) -> Result<Vec<f64>, ScoreError> {
    Ok(match tensor.dtype() {
        DataType::F32 => tensor.as_slice::<f32>()?.iter().map(|&v| v.into()).collect(),
        DataType::F64 => tensor.as_slice::<f64>()?.to_vec(),
        DataType::F16 => tensor.as_slice::<half::f16>()?.iter().map(|v| v.to_f64()).collect(),
        DataType::BF16 => tensor.as_slice::<half::bf16>()?.iter().map(|v| v.to_f64()).collect(),
        DataType::U64 => tensor.as_slice::<u64>()?.iter().map(|&v| v as f64).collect(),
        _ => integers(tensor)?.into_iter().map(|v| v as f64).collect(),
    })
}

/// Elements of any integer type as `i64`.
///
/// # Errors
/// When they are no integers, or too large.
pub fn integers(tensor: &Tensor) -> Result<Vec<i64>, ScoreError> {
    Ok(match tensor.dtype() {
        DataType::I8 => tensor.as_slice::<i8>()?.iter().map(|&v| v.into()).collect(),
        DataType::I16 => tensor.as_slice::<i16>()?.iter().map(|&v| v.into()).collect(),
        DataType::I32 => tensor.as_slice::<i32>()?.iter().map(|&v| v.into()).collect(),
        DataType::I64 => tensor.as_slice::<i64>()?.to_vec(),
        DataType::U8 => tensor.as_slice::<u8>()?.iter().map(|&v| v.into()).collect(),
        DataType::U16 => tensor.as_slice::<u16>()?.iter().map(|&v| v.into()).collect(),
        DataType::U32 => tensor.as_slice::<u32>()?.iter().map(|&v| v.into()).collect(),
        DataType::U64 => {
            let small = |&value: &u64| i64::try_from(value).map_err(|_| ScoreError::TooLarge { value });
            tensor.as_slice::<u64>()?.iter().map(small).collect::<Result<_, _>>()?
        }
        DataType::Bool => tensor.bytes().iter().map(|&v| i64::from(v != 0)).collect(),
        dtype => return Err(ScoreError::Integers { dtype }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row<T: poda_formats::Element>(values: &[T]) -> Tensor {
        Tensor::from_slice(&[values.len()], values)
    }

    #[test]
    fn ranks_are_exact() {
        let mut sum = AccuracySum::default();
        sum.add(&row(&[0.1_f32, 0.9, 0.5, 0.5]), &[1, 1]).unwrap();
        // The second row is a tie, and class 0 comes first.
        let found = sum.finish(String::new());
        assert_eq!((found.samples, found.top1, found.top5), (2, 0.5, None));
        // NaN is never right, not even among others.
        sum.add(&row(&[f32::NAN, f32::NAN]), &[0]).unwrap();
        assert_eq!(sum.finish(String::new()).top1, 1.0 / 3.0);
        let refused = |scores: &[f32], labels: &[i64]| AccuracySum::default().add(&row(scores), labels);
        assert_eq!(refused(&[0.0, 0.0], &[2]), Err(ScoreError::Label { label: 2, classes: 2 }));
        assert_eq!(refused(&[0.0; 3], &[0, 0]), Err(ScoreError::Count { scores: 3, labels: 2 }));
        // One number that is no integer is no class.
        assert_eq!(refused(&[0.7], &[1]), Err(ScoreError::Integers { dtype: DataType::F32 }));
        let mut classes = AccuracySum::default();
        classes.add(&row(&[3_i64, 4]), &[3, 3]).unwrap();
        assert_eq!(classes.finish(String::new()).top1, 0.5);
        let mut six = AccuracySum::default();
        six.add(&row(&[6_u8, 5, 4, 3, 2, 1, 6, 5, 4, 3, 2, 1]), &[4, 5]).unwrap();
        assert_eq!(six.finish(String::new()).top5, Some(0.5));
    }

    #[test]
    fn distances_are_exact() {
        let mut sum = DistanceSum::default();
        sum.add(&row(&[1.0_f32, 0.0]), &row(&[0.0_f32, 1.0]), 1).unwrap();
        let same = Distance {
            elements: 2,
            mse: 1.0,
            max_abs: 1.0,
            samples: 1,
            relative_error: 2.0_f64.sqrt(),
            ..Distance::default()
        };
        assert_eq!(sum.finish(), same);
        // A mask of −∞ says nothing; a NaN in one alone is counted.
        let (ours, theirs) = ([f32::NEG_INFINITY, f32::NAN], [f32::NEG_INFINITY, 0.0]);
        sum.add(&row(&ours), &row(&theirs), 1).unwrap();
        let found = sum.finish();
        assert_eq!((found.alike, found.unlike, found.elements), (1, 1, 2));
        // Beyond the integers of f32.
        let mut large = DistanceSum::default();
        large.add(&row(&[(1_i64 << 24) + 1]), &row(&[1_i64 << 24]), 1).unwrap();
        assert_eq!(large.finish().max_abs, 1.0);
        assert!(large.add(&row(&[1_i64]), &row(&[1_i64, 2]), 1).is_err());
    }

    #[test]
    fn samples_count_alike_however_large_their_outputs_are() {
        let mut sum = DistanceSum::default();
        let (ours, theirs) = ([100.0_f32, 0.0, 0.0, 1.0], [100.0_f32, 0.0, 1.0, 0.0]);
        sum.add(&row(&ours), &row(&theirs), 2).unwrap();
        let found = sum.finish();
        assert_eq!((found.samples, found.mean_cosine, found.worst_cosine), (2, 0.5, 0.0));
        assert_eq!((found.worst_sample, found.relative_error), (1, 2.0_f64.sqrt() / 2.0));
        assert_eq!(found.agreement, 0.5);
        assert!(found.cosine > 0.9999);
    }
}
