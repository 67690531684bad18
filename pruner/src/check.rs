//! The check at the end: a pruned model computes what its reference does, at every size that the reference takes.
//!
//! Differences are judged for each channel of an output by itself, because outputs of one layer may differ in scale by orders
//! of magnitude. How far rounding alone moves a channel is measured where it matters: the reference is run once more
//! without fusion, with inputs moved by 2⁻²⁰ of themselves and weights of products by one unit in the last place, and as much
//! difference is forgiven. (Weights tell what inputs do not: how much is left of terms that cancel whatever the input is.)

use std::collections::BTreeMap;
use std::fmt;

use poda_formats::{Graph, GraphError, Tensor, Weight};
use poda_runtime::random_feeds::{RandomFeedError, random_feeds};
use poda_runtime::{Executable, Model, Options, Passes, PrepareError, RunError};
use serde::{Deserialize, Serialize};

use crate::criterion::float_values;
use crate::recipe::Recipe;
use crate::settings::Shapes;
use crate::unstructured::{float_tensor, prunable_weights};

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

/// Runs at least, of each model: what a channel's scale and noise are is judged from so many.
const LEAST_RUNS: usize = 3;

/// How many times the noise that was measured is forgiven: it is a sample, and so is the difference.
const NOISE: f64 = 8.0;

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
    // (One executable at a time: each may hold as much as the model.)
    let mut wanted = Vec::new();
    let reference = prepare(expected, Passes::all()).map_err(CheckError::Reference)?;
    let again = std::iter::repeat_n(&runs[0], LEAST_RUNS.saturating_sub(runs.len()));
    for (number, shapes) in runs.iter().chain(again).enumerate() {
        let feeds = random_feeds(expected, shapes, seed.wrapping_add(number as u64))?;
        match run(&reference, &feeds) {
            Ok(outputs) => wanted.push((shapes, feeds, outputs)),
            Err(failure) if number == 0 => return Err(CheckError::Reference(failure)),
            Err(_) => {}
        }
    }
    drop(reference);
    let failed = |shapes: &Shapes| {
        let shapes = List(shapes).to_string();
        move |failure| CheckError::Pruned { shapes, failure }
    };
    let pruned = prepare(found, Passes::all()).map_err(failed(&runs[0]))?;
    let mut pairs = Vec::new();
    for (shapes, feeds, want) in wanted {
        let got = run(&pruned, &feeds).map_err(failed(shapes))?;
        for ((output, a), (_, b)) in want.iter().zip(&got) {
            if a.shape() != b.shape() || a.dtype() != b.dtype() {
                let text = |t: &Tensor| format!("{} {:?}", t.dtype(), t.shape());
                let (output, shapes) = (output.clone(), List(shapes).to_string());
                return Err(CheckError::Shape { output, shapes, expected: text(a), found: text(b) });
            }
        }
        pairs.push((feeds, want, got));
    }
    drop(pruned);
    let mut found = compare(&pairs, &[]);
    if found.relative > NEGLIGIBLE {
        let otherwise = prepare(&weights_moved(expected), Passes::none()).map_err(CheckError::Reference)?;
        // A reference that runs one way only gives no measure of its noise.
        let noise = pairs.iter().map(|(feeds, ..)| {
            let moved = |(name, tensor): &(String, Tensor)| (name.clone(), moved(tensor, 8.0 * f32::EPSILON));
            let feeds: Vec<_> = feeds.iter().map(moved).collect();
            run(&otherwise, &feeds).ok()
        });
        found = compare(&pairs, &noise.collect::<Vec<_>>());
    }
    let mut shapes: Vec<&Shapes> = runs.iter().collect();
    shapes.truncate(pairs.len());
    Ok(Difference { runs: shapes.len(), ..found })
}

type Tensors = Vec<(String, Tensor)>;

/// Compares outputs of runs, given as feeds, expected and found; `noise` has those of the reference run otherwise.
fn compare(pairs: &[(Tensors, Tensors, Tensors)], noise: &[Option<Tensors>]) -> Difference {
    let outputs = pairs.first().map_or(0, |(_, want, _)| want.len());
    let mut worst =
        Difference { output: String::new(), relative: 0.0, runs: pairs.len(), compared: 0, not_finite: 0 };
    for output in 0..outputs {
        let mut channels = Channels::default();
        for (run, (_, want, got)) in pairs.iter().enumerate() {
            let (a, b) = (&want[output].1, &got[output].1);
            let noise = noise.get(run).and_then(|n| n.as_ref()).and_then(|n| n.get(output)).map(|n| &n.1);
            channels.add(a, b, noise.filter(|n| n.shape() == a.shape()));
        }
        worst.compared += channels.compared;
        worst.not_finite += channels.not_finite;
        let relative = channels.relative();
        if relative > worst.relative || worst.output.is_empty() {
            worst.output.clone_from(&pairs[0].1[output].0);
            worst.relative = relative;
        }
    }
    worst
}

fn prepare(graph: &Graph, passes: Passes) -> Result<Executable, Failure> {
    let options = Options { tune: false, passes, ..Options::default() };
    Ok(Model::from_graph(graph.clone())?.prepare(options)?)
}

fn run(executable: &Executable, feeds: &[(String, Tensor)]) -> Result<Vec<(String, Tensor)>, Failure> {
    let feeds: Vec<_> = feeds.iter().map(|(name, tensor)| (name.as_str(), tensor.view())).collect();
    Ok(executable.run(&feeds)?)
}

/// The model with the weights of its products moved by one unit in the last place.
fn weights_moved(graph: &Graph) -> Graph {
    let mut otherwise = graph.clone();
    for id in prunable_weights(graph, &Recipe::default()) {
        if let Some(dense) = graph.weight(id).and_then(|weight| weight.to_dense().ok()) {
            otherwise.value_mut(id).weight = Some(Weight::Tensor(moved(&dense, f32::EPSILON)));
        }
    }
    otherwise
}

/// A float tensor with its elements moved by `step` of themselves, up and down in turn.
fn moved(tensor: &Tensor, step: f32) -> Tensor {
    let Some(mut values) = float_values(tensor) else { return tensor.clone() };
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

/// What the runs show of one output.
#[derive(Debug, Default)]
struct Channels {
    /// By dimension and its size; a dimension that changes from run to run is none of channels, and is judged run by run.
    greatest: BTreeMap<(usize, usize), Vec<Greatest>>,
    /// Whether one has a NaN or an infinity that the other lacks, or integers differ.
    infinite: bool,
    compared: u64,
    not_finite: u64,
}

/// Greatest absolute values in a channel.
#[derive(Debug, Clone, Default)]
struct Greatest {
    element: f64,
    difference: f64,
    noise: f64,
}

impl Channels {
    /// Adds a run; where `noise`, the reference run otherwise, differs in kind, nothing is said.
    fn add(&mut self, expected: &Tensor, found: &Tensor, noise: Option<&Tensor>) {
        let (Some(a), Some(b)) = (float_values(expected), float_values(found)) else {
            self.infinite |= integers_differ(expected, found, noise);
            self.compared += expected.len() as u64;
            return;
        };
        let noise = noise.and_then(float_values);
        let noise = |i: usize| noise.as_ref().map_or(a[i], |n| n[i]);
        let alike = |x: f32, y: f32| x == y || x.is_nan() && y.is_nan();
        for (number, (dim, stride, size)) in channels(expected.shape()).into_iter().enumerate() {
            let all = self.greatest.entry((dim, size)).or_insert_with(|| vec![Greatest::default(); size]);
            for i in 0..a.len() {
                let (x, y, z) = (a[i], b[i], noise(i));
                let greatest = &mut all[i / stride % size];
                let finite = x.is_finite() && y.is_finite() && z.is_finite();
                if finite {
                    greatest.element = greatest.element.max(f64::from(x).abs());
                    greatest.difference = greatest.difference.max((f64::from(x) - f64::from(y)).abs());
                    greatest.noise = greatest.noise.max((f64::from(x) - f64::from(z)).abs());
                } else {
                    self.infinite |= !alike(x, y) && alike(x, z);
                }
                if number == 0 {
                    self.compared += u64::from(finite);
                    self.not_finite += u64::from(!finite);
                }
            }
        }
    }

    /// The greatest difference beyond noise, relative to its channel; infinite where there is one of kind.
    fn relative(&self) -> f64 {
        if self.infinite {
            return f64::INFINITY;
        }
        let relative = |&Greatest { element, difference, noise }: &Greatest| {
            let beyond = (difference - NOISE * noise).max(0.0);
            if beyond > 0.0 { beyond / element.max(f64::MIN_POSITIVE) } else { 0.0 }
        };
        self.greatest.values().flatten().map(relative).fold(0.0, f64::max)
    }
}

/// Whether integers or booleans differ where `noise` does not.
fn integers_differ(expected: &Tensor, found: &Tensor, noise: Option<&Tensor>) -> bool {
    let size = expected.dtype().size();
    let (a, b) = (expected.bytes().chunks_exact(size), found.bytes().chunks_exact(size));
    let noise = noise.filter(|n| n.dtype() == expected.dtype()).unwrap_or(expected);
    let mut triples = a.zip(b).zip(noise.bytes().chunks_exact(size));
    triples.any(|((x, y), z)| x != y && x == z)
}

/// Number, stride and size of the dimensions that may be an output's channels: the second and the last, or the only one.
fn channels(shape: &[usize]) -> Vec<(usize, usize, usize)> {
    let stride = |dim: usize| shape[dim + 1..].iter().product::<usize>().max(1);
    match shape.len() {
        0 => vec![(0, 1, 1)],
        1 => vec![(0, 1, shape[0].max(1))],
        rank => {
            let dims = if rank == 2 { vec![1] } else { vec![1, rank - 1] };
            dims.into_iter().map(|dim| (dim, stride(dim), shape[dim].max(1))).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(shape: &[usize], a: &[f32], b: &[f32], noise: Option<&[f32]>) -> Channels {
        let tensor = |values: &[f32]| Tensor::from_slice(shape, values);
        let mut channels = Channels::default();
        channels.add(&tensor(a), &tensor(b), noise.map(tensor).as_ref());
        channels
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
            let found = compare(&[a.len()], a, b, None).relative();
            assert!((found - want).abs() < 1e-6 || found == want, "{a:?} {b:?}: {found}");
        }
        // Columns of [2, 2], and both channels and columns of [1, 2, 2].
        let (a, b) = ([100.0, 1.0, 100.0, 1.0], [101.0, 1.0, 100.0, 1.5]);
        assert_eq!(compare(&[2, 2], &a, &b, None).relative(), 0.5);
        assert_eq!(compare(&[1, 2, 2], &a, &b, None).relative(), 0.5);
        // A later run shows the scale of the channel.
        let mut runs = compare(&[1, 2], &[1e-9, 1.0], &[2e-9, 1.0], None);
        runs.add(
            &Tensor::from_slice(&[1, 2], &[1.0_f32, 1.0]),
            &Tensor::from_slice(&[1, 2], &[1.0_f32, 1.0]),
            None,
        );
        assert!(runs.relative() < 1e-8);
    }

    #[test]
    fn what_both_lack_alike_is_counted_and_noise_is_forgiven() {
        let inf = f32::INFINITY;
        let found = compare(&[3], &[-inf, 1.0, f32::NAN], &[-inf, 1.0, f32::NAN], None);
        assert_eq!((found.relative(), found.compared, found.not_finite), (0.0, 1, 2));
        let cancelled = compare(&[2], &[1e-8, 1.0], &[2e-8, 1.0], Some(&[3e-8, 1.0]));
        assert_eq!(cancelled.relative(), 0.0);
        assert_eq!(compare(&[1], &[inf], &[3.0], Some(&[3.0])).relative(), 0.0);
        let ints = |values: &[i64]| Tensor::from_slice(&[2], values);
        let (a, b, c) = (ints(&[1, 2]), ints(&[1, 3]), ints(&[1, 4]));
        assert!(integers_differ(&a, &b, None));
        assert!(!integers_differ(&a, &b, Some(&c)) && !integers_differ(&a, &a, Some(&c)));
    }
}
