//! The check at the end: a pruned model computes what its reference does, at every size that the reference takes.
//!
//! Differences are judged for each channel of an output by itself, because outputs of one layer may differ in scale by orders
//! of magnitude. How far rounding alone moves a channel is measured where it matters: the reference is run once more
//! without fusion and with inputs moved by 2⁻²⁰ of themselves, and as much difference is forgiven.

use std::fmt;

use poda_formats::{Graph, GraphError, Tensor};
use poda_runtime::random_feeds::{RandomFeedError, random_feeds};
use poda_runtime::{Executable, Model, Options, PrepareError, RunError};
use serde::{Deserialize, Serialize};

use crate::criterion::float_values;
use crate::settings::Shapes;
use crate::unstructured::float_tensor;

/// Greatest difference allowed, relative to the greatest element of a channel.
pub const TOLERANCE: f64 = 1e-3;

/// A difference up to which no noise need be measured.
const NEGLIGIBLE: f64 = 1e-6;

/// How much two models differ on the same random inputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// The output with the greatest difference.
    pub output: String,
    /// Greatest absolute difference in a channel, divided by the greatest absolute element of that channel.
    pub relative: f64,
    /// Sets of input shapes at which both models ran.
    pub runs: usize,
    /// Elements of outputs that were compared.
    pub compared: u64,
    /// Elements that are infinite or NaN in both models alike, which says nothing.
    pub not_finite: u64,
}

/// Why two models cannot be compared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum CheckError {
    #[error(transparent)]
    Feeds(#[from] RandomFeedError),
    #[error("it does not run: {0}")]
    Reference(Failure),
    #[error("it does not run for {shapes}, where the dense one does: {failure}")]
    Pruned { shapes: String, failure: Failure },
    #[error("for {shapes} its output {output:?} is {found}, that of the dense one {expected}")]
    Shape { output: String, shapes: String, expected: String, found: String },
}

/// Why a model does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum Failure {
    #[error(transparent)]
    Graph(#[from] GraphError),
    #[error(transparent)]
    Prepare(Box<PrepareError>),
    #[error(transparent)]
    Run(Box<RunError>),
}

impl From<PrepareError> for Failure {
    fn from(error: PrepareError) -> Self {
        Self::Prepare(Box::new(error))
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        Self::Run(Box::new(error))
    }
}

/// Runs both models on the same seeded random inputs of each of `runs`, valid for `expected`. Of the shapes after the first,
/// those that `expected` does not take are left out.
///
/// # Errors
/// When `expected` does not run at the first shapes, `found` does not run where `expected` does, or outputs have other
/// shapes.
pub fn difference(
    expected: &Graph,
    found: &Graph,
    runs: &[Shapes],
    seed: u64,
) -> Result<Difference, CheckError> {
    let describe = |shapes: &Shapes| List(shapes).to_string();
    let mut wanted = Vec::new();
    let reference = prepare(expected, true).map_err(CheckError::Reference)?;
    for (number, shapes) in runs.iter().enumerate() {
        let feeds = random_feeds(expected, shapes, seed)?;
        match run(&reference, &feeds) {
            Ok(outputs) => wanted.push((shapes, feeds, outputs)),
            Err(failure) if number == 0 => return Err(CheckError::Reference(failure)),
            Err(_) => {}
        }
    }
    // (One executable at a time: each may hold as much as the model.)
    drop(reference);
    let failed = |shapes: &Shapes| {
        let shapes = describe(shapes);
        move |failure| CheckError::Pruned { shapes, failure }
    };
    let pruned = prepare(found, true).map_err(failed(&wanted[0].0.clone()))?;
    let mut pairs = Vec::new();
    for (shapes, feeds, want) in wanted {
        let got = run(&pruned, &feeds).map_err(failed(shapes))?;
        for ((output, a), (_, b)) in want.iter().zip(&got) {
            if a.shape() != b.shape() || a.dtype() != b.dtype() {
                let text = |t: &Tensor| format!("{} {:?}", t.dtype(), t.shape());
                let (output, shapes) = (output.clone(), describe(shapes));
                return Err(CheckError::Shape { output, shapes, expected: text(a), found: text(b) });
            }
        }
        pairs.push((feeds, want, got));
    }
    drop(pruned);
    let mut worst =
        Difference { output: String::new(), relative: 0.0, runs: pairs.len(), compared: 0, not_finite: 0 };
    let mut otherwise = None;
    for (feeds, want, got) in &pairs {
        let compare = |noise: Option<&[(String, Tensor)]>| -> Vec<Comparison> {
            let noise = |at: usize| noise.and_then(|n| n.get(at)).map(|n| &n.1);
            let noise = |at: usize, a: &Tensor| noise(at).filter(|n| n.shape() == a.shape());
            let pairs = want.iter().zip(got).enumerate();
            pairs.map(|(at, ((_, a), (_, b)))| Comparison::of(a, b, noise(at, a))).collect()
        };
        let mut found = compare(None);
        if found.iter().any(|comparison| comparison.relative > NEGLIGIBLE) {
            if otherwise.is_none() {
                otherwise = Some(prepare(expected, false).map_err(CheckError::Reference)?);
            }
            let feeds: Vec<_> = feeds.iter().map(|(name, t)| (name.clone(), moved(t))).collect();
            // A reference that runs one way only gives no measure of its noise.
            let noise = otherwise.as_ref().and_then(|executable| run(executable, &feeds).ok());
            found = compare(noise.as_deref());
        }
        for ((output, _), comparison) in want.iter().zip(found) {
            worst.compared += comparison.compared;
            worst.not_finite += comparison.not_finite;
            if comparison.relative > worst.relative || worst.output.is_empty() {
                worst.output.clone_from(output);
                worst.relative = comparison.relative;
            }
        }
    }
    Ok(worst)
}

fn prepare(graph: &Graph, fuse: bool) -> Result<Executable, Failure> {
    let options = Options { tune: false, fuse, ..Options::default() };
    Ok(Model::from_graph(graph.clone())?.prepare(options)?)
}

fn run(executable: &Executable, feeds: &[(String, Tensor)]) -> Result<Vec<(String, Tensor)>, Failure> {
    let feeds: Vec<_> = feeds.iter().map(|(name, tensor)| (name.as_str(), tensor.view())).collect();
    Ok(executable.run(&feeds)?)
}

/// A float tensor with its elements moved by 2⁻²⁰ of themselves, up and down in turn.
fn moved(tensor: &Tensor) -> Tensor {
    let Some(mut values) = float_values(tensor) else { return tensor.clone() };
    let step = f32::EPSILON * 8.0;
    for (i, value) in values.iter_mut().enumerate() {
        *value *= if i % 2 == 0 { 1.0 + step } else { 1.0 - step };
    }
    float_tensor(tensor.dtype(), tensor.shape(), &values).unwrap_or_else(|| tensor.clone())
}

/// Shapes as a person gives them: `x=2x3, y=4`.
struct List<'a>(&'a Shapes);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (name, shape)) in self.0.iter().enumerate() {
            let dims: Vec<String> = shape.iter().map(ToString::to_string).collect();
            write!(f, "{}{name}={}", if i == 0 { "" } else { ", " }, dims.join("x"))?;
        }
        Ok(())
    }
}

/// What one output shows.
#[derive(Debug, Default, PartialEq)]
struct Comparison {
    relative: f64,
    compared: u64,
    not_finite: u64,
}

/// Greatest absolute values in a channel.
#[derive(Clone, Default)]
struct Greatest {
    element: f64,
    difference: f64,
    noise: f64,
}

impl Comparison {
    /// `relative` is infinite when one has a NaN or an infinity that the other lacks, or integers differ; where `noise`, the
    /// reference run otherwise, has so too, nothing is said.
    fn of(expected: &Tensor, found: &Tensor, noise: Option<&Tensor>) -> Self {
        let len = expected.len() as u64;
        let (Some(a), Some(b)) = (float_values(expected), float_values(found)) else {
            return Self { relative: integers_differ(expected, found, noise), compared: len, not_finite: 0 };
        };
        let noise = noise.and_then(float_values);
        let noise = |i: usize| noise.as_ref().map_or(a[i], |n| n[i]);
        let alike = |x: f32, y: f32| x == y || x.is_nan() && y.is_nan();
        let mut this = Self::default();
        for (stride, size) in channels(expected.shape()) {
            let mut greatest = vec![Greatest::default(); size];
            (this.compared, this.not_finite) = (0, 0);
            for i in 0..a.len() {
                let (x, y, z) = (a[i], b[i], noise(i));
                let greatest = &mut greatest[i / stride % size];
                if x.is_finite() && y.is_finite() && z.is_finite() {
                    this.compared += 1;
                    greatest.element = greatest.element.max(f64::from(x).abs());
                    greatest.difference = greatest.difference.max((f64::from(x) - f64::from(y)).abs());
                    greatest.noise = greatest.noise.max((f64::from(x) - f64::from(z)).abs());
                } else if alike(x, y) || !alike(x, z) {
                    this.not_finite += 1;
                } else {
                    this.relative = f64::INFINITY;
                }
            }
            for Greatest { element, difference, noise } in greatest {
                let beyond = (difference - noise).max(0.0);
                if beyond > 0.0 {
                    this.relative = this.relative.max(beyond / element.max(f64::MIN_POSITIVE));
                }
            }
        }
        this
    }
}

/// Infinite when integers or booleans differ where `noise` does not.
fn integers_differ(expected: &Tensor, found: &Tensor, noise: Option<&Tensor>) -> f64 {
    let size = expected.dtype().size();
    let (a, b) = (expected.bytes().chunks_exact(size), found.bytes().chunks_exact(size));
    let noise = noise.filter(|n| n.dtype() == expected.dtype());
    let mut noise = noise.unwrap_or(expected).bytes().chunks_exact(size);
    let differ = a.zip(b).any(|(x, y)| {
        let z = noise.next();
        x != y && z == Some(x)
    });
    if differ { f64::INFINITY } else { 0.0 }
}

/// Stride and size of the dimensions that may be an output's channels: the second and the last, or the only one.
fn channels(shape: &[usize]) -> Vec<(usize, usize)> {
    let stride = |dim: usize| shape[dim + 1..].iter().product::<usize>().max(1);
    match shape.len() {
        0 => vec![(1, 1)],
        1 => vec![(1, shape[0].max(1))],
        rank => {
            let dims = if rank == 2 { vec![1] } else { vec![1, rank - 1] };
            dims.into_iter().map(|dim| (stride(dim), shape[dim].max(1))).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(shape: &[usize], a: &[f32], b: &[f32], noise: Option<&[f32]>) -> Comparison {
        let tensor = |values: &[f32]| Tensor::from_slice(shape, values);
        Comparison::of(&tensor(a), &tensor(b), noise.map(tensor).as_ref())
    }

    #[test]
    fn differences_are_relative_to_the_channel() {
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        for (a, b, want) in [
            (&[1.0, 4.0][..], &[1.0, 3.0][..], 0.25),
            (&[1e6, 1e-6], &[1e6, 2e-6], 1.0),
            (&[nan, 2.0], &[nan, 2.0], 0.0),
            (&[nan], &[0.0], f64::INFINITY),
            (&[inf, -inf], &[inf, inf], f64::INFINITY),
            (&[], &[], 0.0),
        ] {
            let found = compare(&[a.len()], a, b, None).relative;
            assert!((found - want).abs() < 1e-6 || found == want, "{a:?} {b:?}: {found}");
        }
        // Columns of [2, 2], and both channels and columns of [1, 2, 2].
        let (a, b) = ([100.0, 1.0, 100.0, 1.0], [101.0, 1.0, 100.0, 1.5]);
        assert_eq!(compare(&[2, 2], &a, &b, None).relative, 0.5);
        assert_eq!(compare(&[1, 2, 2], &a, &b, None).relative, 0.5);
    }

    #[test]
    fn what_both_lack_alike_is_counted_and_noise_is_forgiven() {
        let inf = f32::INFINITY;
        let found = compare(&[3], &[-inf, 1.0, f32::NAN], &[-inf, 1.0, f32::NAN], None);
        assert_eq!(found, Comparison { relative: 0.0, compared: 1, not_finite: 2 });
        let cancelled = compare(&[2], &[1e-8, 1.0], &[2e-8, 1.0], Some(&[3e-8, 1.0]));
        assert_eq!(cancelled.relative, 0.0);
        assert_eq!(compare(&[1], &[inf], &[3.0], Some(&[3.0])).relative, 0.0);
        let (a, b, c) = ([1_i64, 2], [1_i64, 3], [1_i64, 4]);
        let ints = |v: &[i64]| Tensor::from_slice(&[2], v);
        assert_eq!(Comparison::of(&ints(&a), &ints(&b), None).relative, f64::INFINITY);
        assert_eq!(Comparison::of(&ints(&a), &ints(&b), Some(&ints(&c))).relative, 0.0);
        assert_eq!(Comparison::of(&ints(&a), &ints(&a), Some(&ints(&c))).relative, 0.0);
    }
}
