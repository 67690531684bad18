//! A model ready to run, from any number of threads at once.

mod kept;
mod plans;
mod results;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use poda_formats::graph::Node;
use poda_formats::storage::AlignedBytes;
use poda_formats::tensor::TensorError;
use poda_formats::{DataType, Graph, GraphError, Op, Tensor, TensorView, TensorViewMut, ValueId};
use smallvec::SmallVec;

use crate::analysis;
use crate::feeds::{self, FeedError};
use crate::memory;
use crate::ops::OpError;
use crate::optimize::{Log, Optimized, Passes};
use crate::options::{Options, RunOptions};
use crate::plan::{self, Arenas, Between, Halt, Plan, PlanError, Request, Run, Wants, Weights};
use crate::profile::Profile;
use crate::threads::{Threads, ThreadsError};
use crate::trace::span;
use crate::tune::{TuneOptions, Tuner};
use plans::Plans;

pub use kept::KeptPackings;

/// A model ready to run. [`Executable::run`] and its like may be called from many threads at once.
#[derive(Debug)]
pub struct Executable {
    graph: Arc<Graph>,
    /// The graph with passes applied.
    optimized: Optimized,
    options: Options,
    threads: Threads,
    weights: Weights,
    arenas: Arc<Arenas>,
    plans: Plans,
    /// The same model with these weights as inputs, for runs that are fed something else in their place.
    overridden: Mutex<HashMap<Vec<ValueId>, Arc<Self>>>,
}

/// Why a model cannot be made ready to run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum PrepareError {
    #[error("node {node:?}: operator {op} (domain {domain:?}, opset {opset}) is not supported: {reason}")]
    Unsupported { node: String, op: String, domain: String, opset: i64, reason: String },
    #[error(transparent)]
    Graph(#[from] GraphError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Threads(#[from] ThreadsError),
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
    #[error("stopped before step {step} of {steps}: cancelled, or the time was over")]
    Stopped { step: usize, steps: usize },
    #[error("no output is named {name:?}; the model gives {outputs:?}")]
    UnknownOutput { name: String, outputs: Vec<String> },
    #[error("output {name:?} has no buffer")]
    MissingOutput { name: String },
    #[error("output {name:?} has two buffers")]
    DuplicateOutput { name: String },
    #[error("output {name:?} is {expected:?}, its buffer {found:?}")]
    Buffer { name: String, expected: (DataType, Vec<usize>), found: (DataType, Vec<usize>) },
    #[error(transparent)]
    Tensor(#[from] TensorError),
    #[error("with other values for some weights: {0}")]
    Prepare(#[source] Box<PrepareError>),
}

impl PrepareError {
    /// Whether the model needs an operator that Poda has not.
    pub fn is_unsupported(&self) -> bool {
        match self {
            Self::Unsupported { .. } => true,
            Self::Plan(plan) => plan.is_unsupported(),
            Self::Graph(_) | Self::Threads(_) => false,
        }
    }
}

impl RunError {
    /// Whether what was fed does not fit: names, types or shapes of the inputs, or shapes that a node cannot take.
    pub fn is_input(&self) -> bool {
        match self {
            Self::Feed(_) => true,
            Self::Plan(plan @ PlanError::Node { .. }) => !plan.is_unsupported(),
            _ => false,
        }
    }

    /// Whether the run was cancelled, or its time was over.
    pub fn is_stopped(&self) -> bool {
        matches!(self, Self::Stopped { .. })
    }

    /// Whether the run needs more memory than it may take.
    pub fn is_memory(&self) -> bool {
        matches!(self, Self::Plan(PlanError::Memory { .. }))
    }
}

/// Size that symbols not named like a batch are given where operators are checked before any run.
const PROBE: usize = 16;

impl Executable {
    /// Makes a graph ready to run; see [`crate::Model::prepare`].
    pub(crate) fn new(graph: Arc<Graph>, options: Options) -> Result<Self, PrepareError> {
        span!(INFO, "prepare", model = graph.name, nodes = graph.nodes.len());
        check_supported(&graph)?;
        let threads = Threads::new(options.threads.unwrap_or(0))?;
        let optimized = Optimized::new(&graph, options.passes, &mut Log::new(options.passes));
        let tuner = TuneOptions { timing: options.tune, prefer: options.prefer, ..TuneOptions::default() };
        // Constants that hold for any shapes of the inputs: their packed form serves every plan.
        let tuner = Tuner::with_kept(tuner, graph.metadata.get(Graph::KERNELS).map(String::as_str));
        let weights = Weights::new(tuner, optimized.constant.clone());
        let (plans, overridden) = (Plans::new(options.plans), Mutex::default());
        let executable =
            Self { graph, optimized, options, threads, weights, arenas: Arc::default(), plans, overridden };
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
        let shapes = graph.inputs.iter().map(shape).collect();
        let request = Request { shapes, wanted: Wants::Results(Vec::new()) };
        if analysis::default_shapes(graph, 1).is_err() {
            return plan::check(graph, &request);
        }
        let fixed = graph.inputs.iter().all(|&id| analysis::fixed_shape(graph, id).is_some());
        match self.planned(&request) {
            Err(error @ PlanError::Node { source: OpError::Unsupported { .. }, .. }) => Err(error),
            Err(error) if fixed => Err(error),
            // Another batch may do better.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// The graph of the model, as it was before any pass.
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

    /// Bytes of the packed weights of all plans.
    pub fn packed_bytes(&self) -> usize {
        self.weights.bytes()
    }

    /// Plans, packs and tunes for inputs of these shapes, so that the first run with them is as fast as the next.
    ///
    /// # Errors
    /// When shapes do not fit the inputs, or a node does not fit what it would be given.
    pub fn warm(&self, shapes: &[(&str, &[usize])]) -> Result<(), RunError> {
        let shapes = feeds::check_shapes(&self.graph, shapes)?;
        self.planned(&Request { shapes, wanted: Wants::Results(Vec::new()) })?;
        Ok(())
    }

    /// Whether the results for inputs of these shapes are those of their samples, taken one by one along the first dimension of every
    /// input, up to rounding: strangers' requests may then share a run. It is proved for these shapes; `false` means that no proof
    /// was found.
    ///
    /// # Errors
    /// When shapes do not fit the inputs.
    pub fn samples_apart(&self, shapes: &[(&str, &[usize])]) -> Result<bool, RunError> {
        let shapes = feeds::check_shapes(&self.graph, shapes)?;
        Ok(plan::is_apart(&self.graph, &Request { shapes, wanted: Wants::Results(Vec::new()) }))
    }

    /// Runs the model on named inputs; gives named outputs, in the order of the graph.
    ///
    /// # Errors
    /// When feeds do not fit the inputs, or a node does not fit what it is given.
    pub fn run(&self, inputs: &[(&str, TensorView<'_>)]) -> Result<Vec<(String, Tensor)>, RunError> {
        self.run_with(inputs, &RunOptions::default())
    }

    /// As [`Executable::run`], and gives further values of the graph after the outputs, or stops early.
    ///
    /// # Errors
    /// As [`Executable::run`], and [`RunError::Stopped`].
    pub fn run_with(
        &self,
        inputs: &[(&str, TensorView<'_>)],
        options: &RunOptions<'_>,
    ) -> Result<Vec<(String, Tensor)>, RunError> {
        self.check_values(options.extra)?;
        self.with_feeds(inputs, Want::Results(options.extra), |plan, feeds| {
            let mut between = Between { stop: options.stop, ..Between::default() };
            let results = self.results(plan, feeds, &mut between)?;
            let names = plan.outputs.iter().map(|wanted| self.graph.value(wanted.id).name.clone());
            Ok(names.zip(results).collect())
        })
    }

    /// As [`Executable::run`], with a buffer of the caller's for each output. Once it has run a few times with inputs of some
    /// shapes, nothing is allocated but what operators in their general form (all but products, convolutions and what is
    /// fused into them) need to work out shapes.
    ///
    /// # Errors
    /// As [`Executable::run`], and when the buffers are not one for each output, of its type and shape.
    pub fn run_into(
        &self,
        inputs: &[(&str, TensorView<'_>)],
        outputs: &mut [(&str, TensorViewMut<'_>)],
    ) -> Result<(), RunError> {
        self.with_feeds(inputs, Want::Results(&[]), |plan, feeds| self.results_into(plan, feeds, outputs))
    }

    /// Runs what the values `taps` need and shows each as it arises, by its index in `taps`: nothing is kept, so that the memory
    /// is that of a run, however many they are. Only these values are kept from being fused away. Ends with the last of them, or
    /// when `show` breaks it off.
    ///
    /// # Errors
    /// As [`Executable::run`].
    pub fn observe(
        &self,
        inputs: &[(&str, TensorView<'_>)],
        taps: &[ValueId],
        mut show: impl FnMut(usize, TensorView<'_>) -> ControlFlow<()>,
    ) -> Result<(), RunError> {
        self.check_values(taps)?;
        self.with_feeds(inputs, Want::Taps(taps), |plan, feeds| {
            let mut between = Between { show: Some(&mut show), ..Between::default() };
            let mut run = Self::begin(plan, feeds, SmallVec::new())?;
            match self.steps(&mut run, plan, &mut between) {
                Err(Halt::Shown) => Ok(()),
                other => other.map_err(|halt| Self::error(plan, halt)),
            }
        })
    }

    /// Runs the model `runs` times, at least once, and tells where the time went.
    ///
    /// # Errors
    /// As [`Executable::run`].
    pub fn profile(&self, inputs: &[(&str, TensorView<'_>)], runs: usize) -> Result<Profile, RunError> {
        self.with_feeds(inputs, Want::Results(&[]), |plan, feeds| {
            // The first run warms caches and is not counted.
            self.results(plan, feeds, &mut Between::default())?;
            let mut all = Vec::with_capacity(runs.max(1));
            for _ in 0..runs.max(1) {
                let mut times = vec![Duration::ZERO; plan.steps().len()];
                let mut between = Between { times: Some(&mut times), ..Between::default() };
                self.results(plan, feeds, &mut between)?;
                all.push(times);
            }
            Ok(plan.profile(&all))
        })
    }

    fn check_values(&self, values: &[ValueId]) -> Result<(), RunError> {
        let count = self.graph.values.len();
        match values.iter().find(|id| id.index() >= count) {
            Some(id) => Err(RunError::NoSuchValue { index: id.index(), count }),
            None => Ok(()),
        }
    }

    fn with_feeds<R>(
        &self,
        inputs: &[(&str, TensorView<'_>)],
        want: Want<'_>,
        f: impl FnOnce(&Plan, &[TensorView<'_>]) -> Result<R, RunError>,
    ) -> Result<R, RunError> {
        span!(TRACE, "run");
        let overridden = feeds::overridden(&self.graph, inputs);
        if !overridden.is_empty() {
            return self.overriding(overridden)?.with_feeds(inputs, want, f);
        }
        let checked = feeds::check(&self.graph, inputs)?;
        // Elements are read in place when aligned for their type, as those of any typed buffer are.
        let unaligned =
            |view: &TensorView<'_>| !(view.bytes().as_ptr() as usize).is_multiple_of(view.dtype().size());
        let copies: SmallVec<[Option<AlignedBytes>; 8]> =
            checked.iter().map(|v| unaligned(v).then(|| AlignedBytes::copy_of(v.bytes()))).collect();
        let mut feeds: feeds::Views<'_> = checked.iter().copied().collect();
        for (feed, copy) in feeds.iter_mut().zip(&copies) {
            if let Some(bytes) = copy {
                *feed = TensorView::from_bytes(feed.dtype(), feed.shape(), bytes)?;
            }
        }
        let fits = |request: &Request| {
            want.is(&request.wanted) && request.shapes.iter().eq(feeds.iter().map(TensorView::shape))
        };
        let request = || Request {
            shapes: feeds.iter().map(|feed| feed.shape().to_vec()).collect(),
            wanted: want.owned(),
        };
        let plan = self.plan(fits, request)?;
        f(&plan, &feeds)
    }

    /// The same model with `weights` as inputs, made now or kept from before.
    fn overriding(&self, weights: Vec<ValueId>) -> Result<Arc<Self>, RunError> {
        let mut all = self.overridden.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(executable) = all.get(&weights) {
            return Ok(Arc::clone(executable));
        }
        let mut graph = Graph::clone(&self.graph);
        for &weight in &weights {
            graph.make_input(weight);
        }
        let executable = Self::new(Arc::new(graph), self.options.clone());
        let executable = Arc::new(executable.map_err(|error| RunError::Prepare(Box::new(error)))?);
        all.insert(weights, Arc::clone(&executable));
        Ok(executable)
    }

    fn planned(&self, request: &Request) -> Result<Arc<Plan>, PlanError> {
        self.plan(|kept| kept == request, || request.clone())
    }

    /// The plan for a request, made now or kept from before.
    fn plan(
        &self,
        fits: impl Fn(&Request) -> bool,
        request: impl FnOnce() -> Request,
    ) -> Result<Arc<Plan>, PlanError> {
        let mut made = false;
        let plan = self.plans.get(fits, request, |request| {
            made = true;
            span!(DEBUG, "plan", shapes = ?request.shapes);
            let context = plan::Context {
                graph: &self.optimized.graph,
                weights: &self.weights,
                arenas: &self.arenas,
                threads: &self.threads,
                limit: self.options.memory_limit.unwrap_or_else(memory::limit),
                passes: self.options.passes,
                open: self.optimized.open,
                split: self.options.tune && self.options.passes != Passes::none(),
            };
            plan::plan(&context, request)
        })?;
        if made {
            // Made-up inputs, by which batches are timed, touch what inputs may never ask for, such as the whole of a table of
            // embeddings.
            self.optimized.graph.release();
            if let Some(limit) = self.options.packed_limit {
                self.plans.shrink(|| self.weights.bytes() > limit);
            }
        }
        Ok(plan)
    }

    fn begin<'a>(
        plan: &'a Plan,
        feeds: &'a [TensorView<'a>],
        buffers: plan::Buffers<'a>,
    ) -> Result<Run<'a>, RunError> {
        let no_memory = || PlanError::Memory { limit: memory::limit() };
        Ok(Run::new(plan, feeds, buffers).ok_or_else(no_memory)?)
    }

    fn steps(&self, run: &mut Run<'_>, plan: &Plan, between: &mut Between<'_>) -> Result<(), Halt> {
        self.threads.run(&plan.pace, |threads| run.steps(threads, between))
    }

    /// What a caller is told of a run that ended early.
    fn error(plan: &Plan, halt: Halt) -> RunError {
        match halt {
            Halt::Failed { step, source } => match plan.steps().get(step) {
                Some(step) => PlanError::Node { node: step.name.clone(), op: step.op.clone(), source }.into(),
                None => PlanError::Memory { limit: memory::limit() }.into(),
            },
            Halt::Stopped { step } => RunError::Stopped { step, steps: plan.steps().len() },
            Halt::Shown => unreachable!("nothing is shown but to `observe`"),
        }
    }
}

/// [`Wants`], borrowed.
#[derive(Clone, Copy)]
enum Want<'a> {
    Results(&'a [ValueId]),
    Taps(&'a [ValueId]),
}

impl Want<'_> {
    fn is(self, wants: &Wants) -> bool {
        match (self, wants) {
            (Self::Results(extra), Wants::Results(kept)) => extra == kept,
            (Self::Taps(taps), Wants::Taps(kept)) => taps == kept,
            _ => false,
        }
    }

    fn owned(self) -> Wants {
        match self {
            Self::Results(extra) => Wants::Results(extra.to_vec()),
            Self::Taps(taps) => Wants::Taps(taps.to_vec()),
        }
    }
}

/// Refuses the first operator outside the set, in bodies of control flow too.
fn check_supported(graph: &Graph) -> Result<(), PrepareError> {
    for Node { name, op, .. } in graph.with_bodies().iter().flat_map(|graph| &graph.nodes) {
        if let Op::Foreign(foreign) = op {
            let foreign = foreign.clone();
            return Err(PrepareError::Unsupported {
                node: name.clone(),
                op: foreign.op_type,
                domain: foreign.domain,
                opset: foreign.opset,
                reason: foreign.reason,
            });
        }
    }
    Ok(())
}
