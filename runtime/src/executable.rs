//! A model ready to run, from any number of threads at once.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use poda_formats::storage::AlignedBytes;
use poda_formats::tensor::TensorError;
use poda_formats::{Graph, Tensor, TensorView, ValueId};

use crate::analysis;
use crate::feeds::{self, FeedError};
use crate::memory;
use crate::model::PrepareError;
use crate::ops::OpError;
use crate::options::Options;
use crate::plan::{self, Plan, PlanError, Request, Weights};
use crate::profile::Profile;
use crate::threads::Threads;
use crate::tune::{TuneOptions, Tuner};

/// A model ready to run. [`Executable::run`] may be called from many threads at once.
#[derive(Debug)]
pub struct Executable {
    graph: Arc<Graph>,
    options: Options,
    threads: Threads,
    weights: Weights,
    /// The most recently used last.
    plans: Mutex<Vec<(Request, Arc<Plan>)>>,
}

/// Why a run failed. The executable stays usable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum RunError {
    #[error(transparent)]
    Feed(#[from] FeedError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error("value number {index} does not exist (the graph has {count})")]
    NoSuchValue { index: usize, count: usize },
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

/// Size that symbols not named like a batch are given where operators are checked before any run.
const PROBE: usize = 16;

impl Executable {
    pub(crate) fn new(graph: Arc<Graph>, options: Options) -> Result<Self, PrepareError> {
        let threads = Threads::new(options.threads.unwrap_or(0))?;
        // Constants that hold for any shapes of the inputs: their packed form serves every plan.
        let free = analysis::analyze_with(&graph, &|_| None);
        let stable = free.infos.iter().map(|info| info.as_ref().is_some_and(|i| i.value.is_some()));
        let tuner = TuneOptions { timing: options.tune, prefer: options.prefer, ..TuneOptions::default() };
        let weights = Weights::new(Tuner::new(tuner), stable.collect());
        let executable = Self { graph, options, threads, weights, plans: Mutex::new(Vec::new()) };
        executable.plan_ahead()?;
        Ok(executable)
    }

    /// Plans for the declared shapes, with batches of one. Where other sizes are open, nothing is packed yet, for which
    /// kernels suit depends on them; but operators that are not supported are found.
    fn plan_ahead(&self) -> Result<(), PlanError> {
        let graph = &self.graph;
        if graph.inputs.iter().any(|&id| graph.value(id).shape.is_none()) {
            return Ok(());
        }
        let shape = |&id: &ValueId| analysis::probe_shape(graph, id, PROBE);
        let request = Request { shapes: graph.inputs.iter().map(shape).collect(), extra: Vec::new() };
        if analysis::default_shapes(graph, 1).is_err() {
            return plan::check(graph, &request);
        }
        let fixed = graph.inputs.iter().all(|&id| analysis::fixed_shape(graph, id).is_some());
        match self.plan(request) {
            Err(error @ PlanError::Node { source: OpError::Unsupported { .. }, .. }) => Err(error),
            Err(error) if fixed => Err(error),
            // Another batch may do better.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// The graph that runs.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// What chooses the kernels; [`Tuner::cache_note`] says whether its file is used.
    pub fn tuner(&self) -> &Tuner {
        self.weights.tuner()
    }

    /// Number of threads that a run uses.
    pub fn threads(&self) -> usize {
        self.threads.count()
    }

    /// Runs the model on named inputs; gives named outputs, in the order of the graph.
    ///
    /// # Errors
    /// When feeds do not fit the inputs, or a node does not fit what it is given.
    pub fn run(&self, inputs: &[(&str, TensorView<'_>)]) -> Result<Vec<(String, Tensor)>, RunError> {
        self.run_with(inputs, &[])
    }

    /// As [`Executable::run`], and gives further values of the graph after the outputs.
    ///
    /// # Errors
    /// As [`Executable::run`].
    pub fn run_with(
        &self,
        inputs: &[(&str, TensorView<'_>)],
        extra: &[ValueId],
    ) -> Result<Vec<(String, Tensor)>, RunError> {
        let count = self.graph.values.len();
        if let Some(id) = extra.iter().find(|id| id.index() >= count) {
            return Err(RunError::NoSuchValue { index: id.index(), count });
        }
        self.with_feeds(inputs, extra, |plan, feeds| self.execute(plan, feeds, None))
    }

    /// Runs the model `runs` times, at least once, and tells where the time went.
    ///
    /// # Errors
    /// As [`Executable::run`].
    pub fn profile(&self, inputs: &[(&str, TensorView<'_>)], runs: usize) -> Result<Profile, RunError> {
        self.with_feeds(inputs, &[], |plan, feeds| {
            // The first run warms caches and is not counted.
            self.execute(plan, feeds, None)?;
            let mut all = Vec::with_capacity(runs.max(1));
            for _ in 0..runs.max(1) {
                let mut times = vec![Duration::ZERO; plan.steps.len()];
                self.execute(plan, feeds, Some(&mut times))?;
                all.push(times);
            }
            Ok(Profile::new(plan, &all))
        })
    }

    fn with_feeds<R>(
        &self,
        inputs: &[(&str, TensorView<'_>)],
        extra: &[ValueId],
        f: impl FnOnce(&Plan, &[TensorView<'_>]) -> Result<R, RunError>,
    ) -> Result<R, RunError> {
        let mut feeds = feeds::check(&self.graph, inputs)?;
        // Elements are read in place when aligned for their type, as those of any typed buffer are.
        let unaligned =
            |view: &TensorView<'_>| !(view.bytes().as_ptr() as usize).is_multiple_of(view.dtype().size());
        let copies: Vec<Option<AlignedBytes>> =
            feeds.iter().map(|v| unaligned(v).then(|| AlignedBytes::copy_of(v.bytes()))).collect();
        for (feed, copy) in feeds.iter_mut().zip(&copies) {
            if let Some(bytes) = copy {
                *feed = TensorView::from_bytes(feed.dtype(), feed.shape(), bytes)?;
            }
        }
        let shapes = feeds.iter().map(|v| v.shape().to_vec()).collect();
        let plan = self.plan(Request { shapes, extra: extra.to_vec() })?;
        f(&plan, &feeds)
    }

    fn execute(
        &self,
        plan: &Plan,
        feeds: &[TensorView<'_>],
        times: Option<&mut [Duration]>,
    ) -> Result<Vec<(String, Tensor)>, RunError> {
        let results = self.threads.run(&plan.pace, |threads| plan.run(feeds, threads, times));
        let results = results.map_err(|e| match plan.steps.get(e.step) {
            Some(step) => PlanError::Node { node: step.name.clone(), op: step.op.clone(), source: e.source },
            None => PlanError::Memory { limit: memory::limit() },
        })?;
        let names = plan.outputs.iter().map(|wanted| self.graph.value(wanted.id).name.clone());
        Ok(names.zip(results).collect())
    }

    /// The plan for a request, made now or kept from before.
    fn plan(&self, request: Request) -> Result<Arc<Plan>, PlanError> {
        let lock = || self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let mut plans = lock();
        if let Some(at) = plans.iter().rposition(|(made_for, _)| *made_for == request) {
            plans[at..].rotate_left(1);
            return Ok(Arc::clone(&plans.last().expect("just found").1));
        }
        drop(plans);
        let limit = self.options.memory_limit.unwrap_or_else(memory::limit);
        let context = plan::Context {
            graph: &self.graph,
            weights: &self.weights,
            threads: &self.threads,
            limit,
            fuse: self.options.fuse,
        };
        // With the threads awake, as kernels that are timed here will run.
        let plan = Arc::new(self.threads.install(|| plan::build(&context, &request))?);
        let mut plans = lock();
        if plans.len() >= self.options.plans.max(1) {
            plans.remove(0);
        }
        plans.push((request, Arc::clone(&plan)));
        Ok(plan)
    }
}
