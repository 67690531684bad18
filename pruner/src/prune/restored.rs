//! A judge of models as they were given.

use poda_formats::{Graph, Value};

use crate::defaults;
use crate::judge::{Correlation, Fidelity, Judge, JudgeError};

/// Judges graphs with the default values of inputs that were set apart.
pub(super) struct Restored<'a> {
    pub(super) judge: &'a dyn Judge,
    pub(super) defaults: &'a [Value],
}

impl Restored<'_> {
    fn whole(&self, graph: &Graph) -> Graph {
        let mut graph = graph.clone();
        defaults::restore(&mut graph, self.defaults);
        graph
    }
}

impl Judge for Restored<'_> {
    fn score(&self, graph: &Graph) -> Result<f64, JudgeError> {
        self.judge.score(&self.whole(graph))
    }

    fn fidelity(&self, graph: &Graph) -> Result<Fidelity, JudgeError> {
        self.judge.fidelity(&self.whole(graph))
    }

    fn similarity(&self, graph: &Graph) -> Result<Correlation, JudgeError> {
        self.judge.similarity(&self.whole(graph))
    }

    fn latency(&self, graph: &Graph) -> Result<f64, JudgeError> {
        self.judge.latency(&self.whole(graph))
    }

    fn speedup(&self, graph: &Graph) -> Result<f64, JudgeError> {
        self.judge.speedup(&self.whole(graph))
    }
}
