//! Measures candidates of a pruning: accuracy on labels, closeness to the dense model, latency on this machine.

use std::cell::OnceCell;
use std::ops::ControlFlow;

use poda_formats::Graph;
use poda_pruner::judge::{Correlation, Fidelity, Judge, JudgeError};
use poda_runtime::{Executable, Model, Options};

use crate::compare::compare;
use crate::dataset::Dataset;
use crate::feeds;
use crate::score::Distance;
use crate::shapes::Shapes;
use crate::similarity::{self, Reference};
use crate::timing::{Contestant, Timing, alternate};

/// Samples a run where a model leaves that open.
const BATCH: usize = 32;

/// Seconds of runs of each model that a latency is the median of.
const SECONDS: f64 = 0.4;

/// A judge with samples, perhaps labels, and the clock of this machine.
pub struct DataJudge<'a> {
    dense: &'a Graph,
    /// The dense model, once it was asked for.
    reference: OnceCell<Executable>,
    /// The same as it is timed, with the fastest kernels.
    timed: OnceCell<Executable>,
    /// Similarities of the dense model's embeddings, once they were asked for.
    similarities: OnceCell<Vec<f64>>,
    /// Of one shape each.
    data: &'a [Dataset],
    shapes: Shapes,
    options: Options,
}

impl<'a> DataJudge<'a> {
    /// Compares candidates with `dense` on the samples of `data`, of which each set has its own shapes, and times them at
    /// these shapes of their inputs. `options` are those that the pruned model is to run with.
    pub fn new(dense: &'a Graph, data: &'a [Dataset], shapes: Shapes, options: Options) -> Self {
        let (reference, timed, similarities) = (OnceCell::new(), OnceCell::new(), OnceCell::new());
        Self { dense, reference, timed, similarities, data, shapes, options }
    }

    fn reference(&self) -> Result<&Executable, JudgeError> {
        self.once(&self.reference, Options { tune: false, ..self.options.clone() })
    }

    /// The dense model, prepared when it is first asked for.
    fn once<'c>(
        &self,
        cell: &'c OnceCell<Executable>,
        options: Options,
    ) -> Result<&'c Executable, JudgeError> {
        if let Some(executable) = cell.get() {
            return Ok(executable);
        }
        let executable = prepare(self.dense, options)?;
        Ok(cell.get_or_init(|| executable))
    }

    /// Latencies of executables at the shapes of the inputs, in turns.
    fn time(&self, executables: &[&Executable]) -> Result<Vec<Timing>, JudgeError> {
        let feeds = feeds::random(self.dense, &self.shapes, 0).map_err(JudgeError::failed)?;
        let contestants: Vec<Contestant<'_>> = executables
            .iter()
            .map(|executable| Contestant { executable, feeds: feeds::views(&feeds) })
            .collect();
        // Plans, packs, chooses kernels, and warms caches.
        for contestant in &contestants {
            for _ in 0..3 {
                contestant.executable.run(&contestant.feeds).map_err(JudgeError::failed)?;
            }
        }
        alternate(&contestants, SECONDS, 1, &mut |_| ControlFlow::Continue(())).map_err(JudgeError::failed)
    }

    fn data(&self, measure: &'static str) -> Result<&'a [Dataset], JudgeError> {
        match self.data {
            [] => Err(JudgeError::Needs { what: "validation data", measure }),
            data => Ok(data),
        }
    }

    /// Similarities of the embeddings of all samples.
    fn similarities(&self, graph: &Graph, executable: &Executable) -> Result<Vec<f64>, JudgeError> {
        let mut vectors = Vec::new();
        for set in self.data {
            let samples = set.bind(graph).map_err(JudgeError::failed)?;
            let found = similarity::embeddings(&samples, executable, BATCH, None);
            vectors.append(&mut found.map_err(JudgeError::failed)?.vectors);
        }
        similarity::cosines(&vectors).map_err(JudgeError::failed)
    }

    /// What the data say of the similarities of samples.
    fn given(&self, graph: &Graph) -> Result<Option<Vec<f64>>, JudgeError> {
        for set in self.data {
            let samples = set.bind(graph).map_err(JudgeError::failed)?;
            if let Some(similarities) = samples.similarities() {
                if self.data.len() > 1 {
                    let what = "samples of one shape, of padded texts, where the data hold similarities";
                    return Err(JudgeError::Needs { what, measure: "correlation of similarities" });
                }
                return Ok(Some(similarities.to_vec()));
            }
        }
        Ok(None)
    }

    /// How far each output is from the dense model's, on each set of samples.
    ///
    /// # Errors
    /// When there are no samples, or the model does not run.
    pub fn distances(&self, graph: &Graph) -> Result<Vec<Vec<(String, Distance)>>, JudgeError> {
        let data = self.data("closeness to the dense model")?;
        let executable = prepare(graph, Options { tune: false, ..self.options.clone() })?;
        let of = |set: &Dataset| {
            let ours = set.bind(graph).map_err(JudgeError::failed)?;
            let theirs = set.bind(self.dense).map_err(JudgeError::failed)?;
            let sides = [(&ours, &executable), (&theirs, self.reference()?)];
            compare(sides, BATCH, &mut |_| ()).map_err(JudgeError::failed)
        };
        data.iter().map(of).collect()
    }
}

fn prepare(graph: &Graph, options: Options) -> Result<Executable, JudgeError> {
    let model = Model::from_graph(graph.clone()).map_err(JudgeError::failed)?;
    model.prepare(options).map_err(JudgeError::failed)
}

impl Judge for DataJudge<'_> {
    /// Top-1 accuracy; Pearson's correlation where labels are similarities.
    fn score(&self, graph: &Graph) -> Result<f64, JudgeError> {
        let data = self.data("a score")?;
        if self.given(graph)?.is_some() {
            return Ok(self.similarity(graph)?.pearson);
        }
        let executable = prepare(graph, Options { tune: false, ..self.options.clone() })?;
        let (mut right, mut all) = (0.0, 0);
        for set in data {
            let samples = set.bind(graph).map_err(JudgeError::failed)?;
            if samples.labels().is_none() {
                let what = "labels in the validation data, or a measure that needs none (--measure agreement of classes, \
                            pearson of embeddings)";
                return Err(JudgeError::Needs { what, measure: "a score" });
            }
            let accuracy = samples.accuracy(&executable, BATCH, None).map_err(JudgeError::failed)?;
            right += accuracy.top1 * accuracy.samples as f64;
            all += accuracy.samples;
        }
        Ok(right / all as f64)
    }

    fn fidelity(&self, graph: &Graph) -> Result<Fidelity, JudgeError> {
        let sets = self.distances(graph)?;
        let outputs = sets.iter().map(Vec::len).max().unwrap_or(0);
        // Of each output over all sets; then the farthest of them.
        let of = |output: usize| {
            let distances = sets.iter().filter_map(|set| set.get(output)).map(|(_, distance)| distance);
            let compared: Vec<&Distance> = distances.filter(|distance| distance.elements > 0).collect();
            let samples: u64 = compared.iter().map(|distance| distance.samples).sum();
            let mean = |of: fn(&Distance) -> f64| {
                compared.iter().map(|d| of(d) * d.samples as f64).sum::<f64>() / samples as f64
            };
            (samples > 0).then(|| Fidelity {
                samples,
                mean_cosine: mean(|d| d.mean_cosine),
                worst_cosine: compared.iter().map(|d| d.worst_cosine).fold(f64::INFINITY, f64::min),
                relative_error: mean(|d| d.relative_error),
                agreement: mean(|d| d.agreement),
            })
        };
        let farthest = |a: Fidelity, b: Fidelity| Fidelity {
            samples: a.samples.max(b.samples),
            mean_cosine: a.mean_cosine.min(b.mean_cosine),
            worst_cosine: a.worst_cosine.min(b.worst_cosine),
            relative_error: a.relative_error.max(b.relative_error),
            agreement: a.agreement.min(b.agreement),
        };
        let needs =
            JudgeError::Needs { what: "outputs that are finite", measure: "closeness to the dense model" };
        (0..outputs).filter_map(of).reduce(farthest).ok_or(needs)
    }

    fn similarity(&self, graph: &Graph) -> Result<Correlation, JudgeError> {
        self.data("correlation of similarities")?;
        let given = self.given(graph)?;
        let executable = prepare(graph, Options { tune: false, ..self.options.clone() })?;
        let ours = self.similarities(graph, &executable)?;
        let found = match (given, self.similarities.get()) {
            (Some(given), _) => similarity::correlation(&ours, &given, Reference::Data),
            (None, Some(dense)) => similarity::correlation(&ours, dense, Reference::Model),
            (None, None) => {
                let dense = self.similarities(self.dense, self.reference()?)?;
                similarity::correlation(&ours, self.similarities.get_or_init(|| dense), Reference::Model)
            }
        };
        found.map_err(JudgeError::failed)
    }

    fn latency(&self, graph: &Graph) -> Result<f64, JudgeError> {
        let executable = prepare(graph, self.options.clone())?;
        Ok(self.time(&[&executable])?[0].latency.p50)
    }

    fn speedup(&self, graph: &Graph) -> Result<f64, JudgeError> {
        let executable = prepare(graph, self.options.clone())?;
        let dense = self.once(&self.timed, self.options.clone())?;
        Ok(self.time(&[dense, &executable])?[1].speedup)
    }
}
