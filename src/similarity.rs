//! Pairwise similarities of embeddings, and how those of one model go with those of another, or with what people said.
//!
//! An embedding is a vector for each sample, `[samples, d]`, or one for each of its tokens, `[samples, tokens, d]`, of which the mean
//! is taken: over those that an input `attention_mask` `[samples, tokens]` counts, where there is one (mean pooling: Reimers and
//! Gurevych, "Sentence-BERT", EMNLP 2019, <https://arxiv.org/abs/1908.10084>). The similarity of two samples is the cosine of
//! their embeddings. Pairs are in the order (0, 1), (0, 2), …, (1, 2), …

use std::fmt;

use poda_formats::Tensor;
use poda_pruner::judge::Correlation;
use poda_runtime::Executable;

use crate::correlation::{is_constant, pearson, spearman};
use crate::dataset::{DatasetError, Samples};
use crate::score::{ScoreError, numbers};

/// Fewer samples have pairs too few to correlate.
const FEWEST: usize = 3;

/// More samples have pairs too many to hold.
const MOST: usize = 4096;

/// Whose similarities a model's are compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reference {
    /// Those of the data: what people said.
    Data,
    /// Another model's.
    Model,
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Data => "the similarities in the data",
            Self::Model => "the reference model's similarities",
        })
    }
}

/// Why there is no correlation of similarities.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum SimilarityError {
    #[error(
        "{samples} samples have too few pairs to correlate; give at least {FEWEST}, better a few hundred"
    )]
    TooFew { samples: usize },
    #[error("{samples} samples have too many pairs; give at most {MOST}")]
    TooMany { samples: usize },
    #[error("only {pairs} pairs have a similarity in the data that is a number; give at least {FEWEST}")]
    Pairs { pairs: usize },
    #[error("{reference} are all alike, so that nothing correlates with them; give samples that differ more")]
    Constant { reference: Reference },
    #[error("{ours} pairs of samples cannot be compared with {theirs}")]
    Count { ours: usize, theirs: usize },
    #[error(
        "no output holds embeddings, which are [samples, d] or [samples, tokens, d] of floats: {outputs}; a classifier's \
         outputs are compared by accuracy or agreement, others by cosine"
    )]
    NotVectors { outputs: String },
    #[error("attention_mask has shape {found:?}, expected {expected:?} for output {output:?}")]
    Mask { output: String, found: Vec<usize>, expected: Vec<usize> },
    #[error("attention_mask counts no token of sample {sample}")]
    NoTokens { sample: usize },
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    #[error(transparent)]
    Score(#[from] ScoreError),
}

/// Embeddings of samples.
#[derive(Debug)]
pub struct Embeddings {
    /// The output that holds them.
    pub output: String,
    /// Of each sample.
    pub vectors: Vec<Vec<f64>>,
}

/// The embeddings in the output `name`, or in the first that holds some, `wanted` samples a run where the model leaves that open.
///
/// # Errors
/// When no output holds any, the mask does not fit, or a run fails.
pub fn embeddings(
    samples: &Samples<'_>,
    executable: &Executable,
    wanted: usize,
    name: Option<&str>,
) -> Result<Embeddings, SimilarityError> {
    let batch = samples.batch_size(wanted)?;
    let mask = samples.input("attention_mask");
    let counts = mask.map(numbers).transpose()?;
    let mut found = Embeddings { output: String::new(), vectors: Vec::new() };
    let mut place = None;
    for start in (0..samples.len()).step_by(batch) {
        let range = start..(start + batch).min(samples.len());
        let outputs = samples.outputs(executable, batch, range.clone())?;
        let index = match place {
            Some(index) => index,
            None => *place.insert(place_of(samples, &outputs, range.len(), name)?),
        };
        let (output, tensor) = &outputs[index];
        found.output.clone_from(output);
        let (values, shape) = (numbers(tensor)?, sizes(tensor));
        let &[.., width] = &shape[..] else { unreachable!("vectors, which the output was chosen for") };
        let tokens = if shape.len() > 1 { shape[0] } else { 1 };
        for (sample, values) in range.zip(values.chunks_exact(tokens * width)) {
            let counted = match (mask, &counts) {
                (Some(mask), Some(counts)) if shape.len() > 1 => {
                    let expected = vec![samples.len(), tokens];
                    if mask.shape() != expected {
                        let (output, found) = (output.clone(), mask.shape().to_vec());
                        return Err(SimilarityError::Mask { output, found, expected });
                    }
                    Some(&counts[sample * tokens..][..tokens])
                }
                _ => None,
            };
            found.vectors.push(mean(values, width, counted).ok_or(SimilarityError::NoTokens { sample })?);
        }
    }
    Ok(found)
}

/// Sizes of an output but that of the samples, without those of 1.
fn sizes(tensor: &Tensor) -> Vec<usize> {
    tensor.shape().iter().skip(1).copied().filter(|&size| size != 1).collect()
}

/// The output that holds embeddings of `count` samples.
fn place_of(
    samples: &Samples<'_>,
    outputs: &[(String, Tensor)],
    count: usize,
    name: Option<&str>,
) -> Result<usize, SimilarityError> {
    if let Some(name) = name.filter(|name| outputs.iter().all(|(output, _)| output != name)) {
        return Err(DatasetError::NoSuchOutput { name: name.to_owned() }.into());
    }
    let fits = |index: &usize| {
        let (output, tensor) = &outputs[*index];
        name.is_none_or(|name| output == name)
            && samples.splits(*index)
            && tensor.dtype().is_float()
            && !tensor.shape().contains(&0)
            && tensor.shape().first() == Some(&count)
            && matches!(sizes(tensor).len(), 1 | 2)
    };
    (0..outputs.len()).find(fits).ok_or_else(|| {
        let shown = outputs.iter().map(|(name, t)| format!("{name:?} is {} {:?}", t.dtype(), t.shape()));
        SimilarityError::NotVectors { outputs: shown.collect::<Vec<_>>().join(", ") }
    })
}

/// The mean of vectors of `width`, by how much each counts; `None` where none does.
fn mean(values: &[f64], width: usize, counts: Option<&[f64]>) -> Option<Vec<f64>> {
    let (mut sum, mut all) = (vec![0.0; width], 0.0);
    for (token, values) in values.chunks_exact(width).enumerate() {
        let count = counts.map_or(1.0, |counts| counts[token]);
        // What does not count may be anything, NaN too.
        if count != 0.0 {
            all += count;
            sum.iter_mut().zip(values).for_each(|(sum, v)| *sum += count * v);
        }
    }
    sum.iter_mut().for_each(|sum| *sum /= all);
    (all != 0.0).then_some(sum)
}

/// Cosines of all pairs of vectors; 0 with one that is zero or not finite.
///
/// # Errors
/// When there are too few vectors, or too many.
pub fn cosines(vectors: &[Vec<f64>]) -> Result<Vec<f64>, SimilarityError> {
    let samples = vectors.len();
    match samples {
        ..FEWEST => return Err(SimilarityError::TooFew { samples }),
        FEWEST..=MOST => {}
        _ => return Err(SimilarityError::TooMany { samples }),
    }
    let unit = |vector: &Vec<f64>| {
        let length = vector.iter().map(|v| v * v).sum::<f64>().sqrt();
        let usable = length > 0.0 && length.is_finite();
        vector.iter().map(|v| if usable { v / length } else { 0.0 }).collect::<Vec<f64>>()
    };
    let units: Vec<Vec<f64>> = vectors.iter().map(unit).collect();
    let mut cosines = Vec::with_capacity(samples * (samples - 1) / 2);
    for (index, a) in units.iter().enumerate() {
        cosines.extend(units[index + 1..].iter().map(|b| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>()));
    }
    Ok(cosines)
}

/// How similarities go with a reference, pair by pair; pairs whose reference is NaN are left out. 0 where ours are all alike:
/// they tell nothing.
///
/// # Errors
/// When there are not as many, or the reference is all alike.
pub fn correlation(
    ours: &[f64],
    theirs: &[f64],
    reference: Reference,
) -> Result<Correlation, SimilarityError> {
    if ours.len() != theirs.len() {
        return Err(SimilarityError::Count { ours: ours.len(), theirs: theirs.len() });
    }
    let pairs = ours.iter().zip(theirs).filter(|(_, theirs)| !theirs.is_nan());
    let (ours, theirs): (Vec<f64>, Vec<f64>) = pairs.unzip();
    if theirs.len() < FEWEST {
        return Err(SimilarityError::Pairs { pairs: theirs.len() });
    }
    if is_constant(&theirs) {
        return Err(SimilarityError::Constant { reference });
    }
    let (pearson, spearman) = (pearson(&ours, &theirs), spearman(&ours, &theirs));
    Ok(Correlation { pairs: theirs.len() as u64, pearson, spearman })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_that_nobody_judged_are_left_out() {
        let found = correlation(&[1.0, 2.0, 9.0, 3.0], &[0.0, 1.0, f64::NAN, 5.0], Reference::Data).unwrap();
        assert_eq!((found.pairs, found.spearman), (3, 1.0));
        assert!((found.pearson - 5.0 / 28.0_f64.sqrt()).abs() < 1e-12);
        assert_eq!(correlation(&[0.5; 3], &[1.0, 2.0, 3.0], Reference::Data).unwrap().pearson, 0.0);
    }

    #[test]
    fn cosines_of_pairs_are_in_order() {
        let vectors = [vec![1.0, 0.0], vec![1.0, 1.0], vec![0.0, -2.0], vec![0.0, 0.0]];
        let half = 0.5_f64.sqrt();
        let found = cosines(&vectors).unwrap();
        for (found, expected) in found.iter().zip([half, 0.0, 0.0, -half, 0.0, 0.0]) {
            assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        }
    }

    #[test]
    fn only_tokens_that_count_are_in_the_mean() {
        let values = [1.0, 2.0, 3.0, 6.0, f64::NAN, 0.0];
        assert_eq!(mean(&values, 2, Some(&[1.0, 1.0, 0.0])), Some(vec![2.0, 4.0]));
        assert_eq!(mean(&values[..4], 2, None), Some(vec![2.0, 4.0]));
        assert_eq!(mean(&values, 2, Some(&[0.0; 3])), None);
    }

    #[test]
    fn what_cannot_be_correlated_is_said() {
        let vectors = vec![vec![1.0, 0.0]; 2];
        assert!(matches!(cosines(&vectors), Err(SimilarityError::TooFew { samples: 2 })));
        let error = correlation(&[1.0, 2.0, 3.0], &[0.3; 3], Reference::Model).unwrap_err().to_string();
        assert!(error.starts_with("the reference model's similarities are all alike"), "{error}");
        let nan = [f64::NAN, 1.0, 2.0];
        let error = correlation(&[1.0, 2.0, 3.0], &nan, Reference::Data).unwrap_err().to_string();
        assert!(error.starts_with("only 2 pairs"), "{error}");
        assert!(matches!(
            correlation(&[1.0], &nan, Reference::Data),
            Err(SimilarityError::Count { ours: 1, theirs: 3 })
        ));
    }
}
