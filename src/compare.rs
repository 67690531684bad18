//! Two models on the same samples: how far the outputs of one are from the other's.

use std::ops::Range;

use poda_formats::Tensor;
use poda_runtime::Executable;

use crate::dataset::{DatasetError, Samples};
use crate::score::{Distance, DistanceSum, ScoreError};

/// Why two models cannot be compared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum CompareError {
    #[error("the two models make {ours} and {theirs} samples of these arrays")]
    Samples { ours: usize, theirs: usize },
    #[error("the two models have different numbers of outputs: {ours} and {theirs}")]
    Outputs { ours: usize, theirs: usize },
    #[error("output {output:?} of samples {samples:?} has shape {ours:?}, the reference {theirs:?}")]
    Shape { output: String, samples: Range<usize>, ours: Vec<usize>, theirs: Vec<usize> },
    #[error(
        "output {output:?} is one for a whole batch, and the two models take batches of {ours} and {theirs}"
    )]
    Whole { output: String, ours: usize, theirs: usize },
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    #[error(transparent)]
    Score(#[from] ScoreError),
}

/// How far each output of the first is from that of the second, the reference, over all samples. Both run the same samples,
/// in batches that each takes, `wanted` where they leave that open. `done` is told of samples as they are compared.
///
/// # Errors
/// When the outputs cannot be compared, or a run fails.
pub fn compare(
    [(ours, executable), (theirs, reference)]: [(&Samples<'_>, &Executable); 2],
    wanted: usize,
    done: &mut dyn FnMut(usize),
) -> Result<Vec<(String, Distance)>, CompareError> {
    if ours.len() != theirs.len() {
        return Err(CompareError::Samples { ours: ours.len(), theirs: theirs.len() });
    }
    let batches = [ours.batch_size(wanted)?, theirs.batch_size(wanted)?];
    let step = batches[0].max(batches[1]);
    let mut sums: Vec<(String, DistanceSum)> = Vec::new();
    for start in (0..ours.len()).step_by(step) {
        let range = start..(start + step).min(ours.len());
        let expected = theirs.outputs(reference, batches[1], range.clone())?;
        let found = ours.outputs(executable, batches[0], range.clone())?;
        if found.len() != expected.len() {
            return Err(CompareError::Outputs { ours: found.len(), theirs: expected.len() });
        }
        for (index, ((name, is), (_, should))) in found.iter().zip(&expected).enumerate() {
            let split = ours.splits(index) && theirs.splits(index);
            fits(name, [is, should], &range, batches, split)?;
            if sums.len() == index {
                sums.push((name.clone(), DistanceSum::default()));
            }
            // Where samples cannot be told apart, a run is one.
            let samples = if split { range.len() } else { is.shape()[0] };
            sums[index].1.add(is, should, samples)?;
        }
        done(range.len());
    }
    Ok(sums.into_iter().map(|(name, sum)| (name, sum.finish())).collect())
}

fn fits(
    name: &str,
    [ours, theirs]: [&Tensor; 2],
    samples: &Range<usize>,
    batches: [usize; 2],
    split: bool,
) -> Result<(), CompareError> {
    let output = || name.to_owned();
    if ours.shape() != theirs.shape() {
        let (ours, theirs) = (ours.shape().to_vec(), theirs.shape().to_vec());
        return Err(CompareError::Shape { output: output(), samples: samples.clone(), ours, theirs });
    }
    if batches[0] != batches[1] && !split {
        return Err(CompareError::Whole { output: output(), ours: batches[0], theirs: batches[1] });
    }
    Ok(())
}
