//! The final check: a pruned model computes what the masked one does.

use poda_formats::{Graph, GraphError, Tensor};
use poda_runtime::random_feeds::{RandomFeedError, random_feeds};
use poda_runtime::{Executable, Model, Options, PrepareError, RunError};
use serde::{Deserialize, Serialize};

use crate::criterion::float_values;
use crate::settings::Shapes;

/// Greatest difference allowed, relative to the greatest element of the output.
pub const TOLERANCE: f64 = 1e-3;

/// How much two models differ on the same random inputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// The output with the greatest difference.
    pub output: String,
    /// Greatest absolute difference, divided by the greatest absolute element of that output.
    pub relative: f64,
}

/// Why two models cannot be compared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum CheckError {
    #[error(transparent)]
    Feeds(#[from] RandomFeedError),
    #[error(transparent)]
    Graph(#[from] GraphError),
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error("output {output:?} is {expected:?} in one model and {found:?} in the other")]
    Shape { output: String, expected: Vec<usize>, found: Vec<usize> },
}

/// Runs both models on the same seeded random inputs, valid for `expected`.
///
/// # Errors
/// When one of them does not run, or outputs have other shapes.
pub fn difference(
    expected: &Graph,
    found: &Graph,
    shapes: &Shapes,
    seed: u64,
) -> Result<Difference, CheckError> {
    let feeds = random_feeds(expected, shapes, seed)?;
    let outputs = |graph: &Graph| -> Result<Vec<(String, Tensor)>, CheckError> {
        let options = Options { tune: false, ..Options::default() };
        let executable: Executable = Model::from_graph(graph.clone())?.prepare(options)?;
        let feeds: Vec<_> = feeds.iter().map(|(name, tensor)| (name.as_str(), tensor.view())).collect();
        Ok(executable.run(&feeds)?)
    };
    let mut worst = Difference { output: String::new(), relative: 0.0 };
    for ((output, a), (_, b)) in outputs(expected)?.into_iter().zip(outputs(found)?) {
        if a.shape() != b.shape() || a.dtype() != b.dtype() {
            let (expected, found) = (a.shape().to_vec(), b.shape().to_vec());
            return Err(CheckError::Shape { output, expected, found });
        }
        let relative = match (float_values(&a), float_values(&b)) {
            (Some(a), Some(b)) => relative(&a, &b),
            _ => f64::from(u8::from(a != b)),
        };
        if relative > worst.relative || worst.output.is_empty() {
            worst = Difference { output, relative };
        }
    }
    Ok(worst)
}

/// Infinite when one has a NaN or an infinity that the other lacks, or nothing is finite.
fn relative(expected: &[f32], found: &[f32]) -> f64 {
    let (mut difference, mut greatest) = (0.0_f64, 0.0_f64);
    if !expected.is_empty() && !expected.iter().any(|a| a.is_finite()) {
        return f64::INFINITY;
    }
    for (&a, &b) in expected.iter().zip(found) {
        if a.is_finite() && b.is_finite() {
            difference = difference.max((f64::from(a) - f64::from(b)).abs());
            greatest = greatest.max(f64::from(a).abs());
        } else if !(a == b || a.is_nan() && b.is_nan()) {
            return f64::INFINITY;
        }
    }
    if difference == 0.0 { 0.0 } else { difference / greatest.max(f64::MIN_POSITIVE) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_relative_to_the_greatest_element() {
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        for (a, b, want) in [
            (&[1.0, 4.0][..], &[1.0, 3.0][..], 0.25),
            (&[nan, 2.0], &[nan, 2.0], 0.0),
            (&[nan], &[0.0], f64::INFINITY),
            (&[inf, -inf], &[inf, inf], f64::INFINITY),
            (&[], &[], 0.0),
        ] {
            assert_eq!(relative(a, b), want, "{a:?} {b:?}");
        }
    }
}
