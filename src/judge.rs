//! Measures candidates of a pruning: accuracy on labels, closeness to the dense model, latency on this machine.

use std::cell::OnceCell;
use std::time::Instant;

use poda_formats::Graph;
use poda_pruner::judge::{Fidelity, Judge, JudgeError};
use poda_runtime::{Executable, Model, Options};

use crate::compare::compare;
use crate::dataset::Dataset;
use crate::feeds;
use crate::score::Distance;
use crate::shapes::Shapes;

/// Samples a run where a model leaves that open.
const BATCH: usize = 32;

/// Seconds of runs that a latency is the median of, and their least number.
const SECONDS: f64 = 0.4;
const LEAST_RUNS: usize = 9;

/// A judge with samples, perhaps labels, and the clock of this machine.
pub struct DataJudge<'a> {
    dense: &'a Graph,
    /// The dense model, once it was asked for.
    reference: OnceCell<Executable>,
    data: Option<&'a Dataset>,
    shapes: Shapes,
    options: Options,
}

impl<'a> DataJudge<'a> {
    /// Compares candidates with `dense` on `data`, and times them at these shapes of their inputs. `options` are those that
    /// the pruned model is to run with.
    pub fn new(dense: &'a Graph, data: Option<&'a Dataset>, shapes: Shapes, options: Options) -> Self {
        Self { dense, reference: OnceCell::new(), data, shapes, options }
    }

    fn reference(&self) -> Result<&Executable, JudgeError> {
        if let Some(reference) = self.reference.get() {
            return Ok(reference);
        }
        let reference = prepare(self.dense, Options { tune: false, ..self.options.clone() })?;
        Ok(self.reference.get_or_init(|| reference))
    }

    fn data(&self, measure: &'static str) -> Result<&'a Dataset, JudgeError> {
        self.data.ok_or(JudgeError::Needs { what: "validation data", measure })
    }

    /// How far each output is from the dense model's.
    ///
    /// # Errors
    /// When there are no samples, or the model does not run.
    pub fn distances(&self, graph: &Graph) -> Result<Vec<(String, Distance)>, JudgeError> {
        let data = self.data("closeness to the dense model")?;
        let executable = prepare(graph, Options { tune: false, ..self.options.clone() })?;
        let ours = data.bind(graph).map_err(JudgeError::failed)?;
        let theirs = data.bind(self.dense).map_err(JudgeError::failed)?;
        compare([(&ours, &executable), (&theirs, self.reference()?)], BATCH, &mut |_| ())
            .map_err(JudgeError::failed)
    }
}

fn prepare(graph: &Graph, options: Options) -> Result<Executable, JudgeError> {
    let model = Model::from_graph(graph.clone()).map_err(JudgeError::failed)?;
    model.prepare(options).map_err(JudgeError::failed)
}

impl Judge for DataJudge<'_> {
    /// Top-1 accuracy.
    fn score(&self, graph: &Graph) -> Result<f64, JudgeError> {
        let data = self.data("a score")?;
        let executable = prepare(graph, Options { tune: false, ..self.options.clone() })?;
        let samples = data.bind(graph).map_err(JudgeError::failed)?;
        samples.accuracy(&executable, BATCH, None).map(|accuracy| accuracy.top1).map_err(JudgeError::failed)
    }

    fn fidelity(&self, graph: &Graph) -> Result<Fidelity, JudgeError> {
        let distances = self.distances(graph)?;
        let all = distances.iter().map(|(_, distance)| distance);
        let compared = all.filter(|distance| distance.elements > 0);
        let fold = |f: fn(f64, f64) -> f64, of: fn(&Distance) -> f64| compared.clone().map(of).reduce(f);
        let nothing =
            JudgeError::Needs { what: "outputs that are finite", measure: "closeness to the dense model" };
        Ok(Fidelity {
            samples: compared.clone().map(|distance| distance.samples).max().ok_or(nothing)?,
            mean_cosine: fold(f64::min, |d| d.mean_cosine).unwrap_or_default(),
            worst_cosine: fold(f64::min, |d| d.worst_cosine).unwrap_or_default(),
            relative_error: fold(f64::max, |d| d.relative_error).unwrap_or_default(),
        })
    }

    fn latency(&self, graph: &Graph) -> Result<f64, JudgeError> {
        let executable = prepare(graph, self.options.clone())?;
        let feeds = feeds::random(graph, &self.shapes, 0).map_err(JudgeError::failed)?;
        let feeds = feeds::views(&feeds);
        let run = || -> Result<f64, JudgeError> {
            let begun = Instant::now();
            executable.run(&feeds).map_err(JudgeError::failed)?;
            Ok(begun.elapsed().as_secs_f64())
        };
        // Plans, packs, chooses kernels, and warms caches.
        (0..3).try_for_each(|_| run().map(|_| ()))?;
        let mut times = Vec::new();
        while times.len() < LEAST_RUNS || times.iter().sum::<f64>() < SECONDS {
            times.push(run()?);
        }
        times.sort_by(f64::total_cmp);
        Ok(times[times.len() / 2] * 1e3)
    }
}
