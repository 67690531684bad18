//! Batches whose samples can be computed apart run as parts of one or a few samples.
//!
//! The activations of one image stay in a core's cache, those of sixteen pass through memory at every layer; and threads that
//! have an image each never wait for each other. On the other hand weights serve several samples at once, which is what
//! counts where a sample has few columns. What is fastest depends on the network and the CPU, so a few ways are
//! timed once a shape, and remembered as the kernels are. The graph for a part is proved to compute the same as the whole ([`proof`]).

mod proof;
mod rules;
mod run;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use poda_formats::storage::AlignedBytes;
use poda_formats::{DataType, Graph, Op, TensorView, ValueId};

use super::{Between, Buffers, Context, Place, Plan, PlanError, Request, Run, Wanted, Wants, build};
use crate::analysis::{self, Analysis};
use crate::threads::Pace;
use crate::tune;

/// The name of the whole batch among the ways to run it.
const WHOLE: &str = "whole";
/// Samples in a part at most, in powers of two from 1.
const MOST: usize = 8;
/// Columns that a product needs for its weight to be used well.
const COLUMNS: u128 = 32;
/// Share of the multiplications that must have as many columns, for parts to be worth timing.
const SHARE: f64 = 0.9;
/// Timed runs of each way.
const RUNS: usize = 2;
/// Parts of twice as many samples are timed as long as each doubling takes less than this share of the time before.
const GAIN: f64 = 0.97;

/// The parts of a batch.
#[derive(Debug)]
pub(crate) struct Split {
    /// One for most parts, and perhaps one for the samples that are left.
    plans: Vec<Plan>,
    parts: Vec<Part>,
    samples: usize,
    /// By input: whether it is split; the others are fed whole.
    inputs: Vec<bool>,
    way: Way,
    /// What was timed.
    timings: Vec<(String, Duration)>,
}

/// Some samples.
#[derive(Debug, Clone, Copy)]
struct Part {
    plan: usize,
    first: usize,
    count: usize,
}

/// How the parts of a batch share the threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Each thread runs parts of its own.
    Beside,
    /// All threads run one part after another.
    InTurn,
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Beside => "on each thread",
            Self::InTurn => "in turn",
        })
    }
}

/// Makes the plan for a request: of the whole batch, or of parts of it where that is faster.
///
/// # Errors
/// As [`build::build`].
pub(crate) fn plan(context: &Context<'_>, request: &Request) -> Result<Plan, PlanError> {
    let whole = !context.split || request.wanted != Wants::Results(Vec::new());
    let samples = proof::samples(request).filter(|&samples| samples > 1 && !whole);
    let Some(samples) = samples else { return build::build(context, request) };
    let batch = Batch::new(context, request, samples);
    let first = batch.sizes().find(|&size| batch.worth_timing(size));
    let known = first.and_then(|_| context.weights.tuner().batch(&batch.key()));
    if let Some(plan) = known.and_then(|timed| batch.remembered(&timed)) {
        return Ok(plan);
    }
    let mut timer = Timer::new(&batch);
    if let Some(first) = first {
        if context.threads.count() > 1 {
            timer.try_sizes(first, Way::Beside);
        }
        if !timer.try_sizes(first, Way::InTurn) {
            // Larger parts are no better, and the whole is the largest; or there are no parts.
            return timer.fastest().map_or_else(|| build::build(context, request), Ok);
        }
    }
    match build::build(context, request) {
        Ok(whole) if first.is_none() => Ok(whole),
        Ok(whole) => {
            timer.try_plan(WHOLE.to_owned(), whole);
            timer.fastest().map_or_else(|| build::build(context, request), Ok)
        }
        Err(error @ PlanError::Memory { .. }) => {
            // A part may fit.
            timer.fastest().or_else(|| batch.apart(1, Way::InTurn)).ok_or(error)
        }
        Err(error) => Err(error),
    }
}

/// Whether the results of a request are those of its samples alone, one after another along the first dimension: every input has as
/// many, and nothing within looks across them. The graph for one sample is the graph as it is.
pub(crate) fn is_apart(graph: &Graph, request: &Request) -> bool {
    let Some(samples) = proof::samples(request).filter(|&samples| samples > 0) else { return false };
    let whole = analysis::analyze(graph, &build::named_shapes(graph, request));
    let same = |part: &proof::Separated<'_>| matches!(part.graph, Cow::Borrowed(_));
    let part = proof::separate(graph, &whole, request, [samples, 1]);
    part.is_some_and(|part| same(&part) && part.split.iter().all(|&split| split))
}

/// A request whose samples may be computed apart.
struct Batch<'a> {
    context: &'a Context<'a>,
    request: &'a Request,
    whole: Analysis,
    samples: usize,
}

impl<'a> Batch<'a> {
    fn new(context: &'a Context<'a>, request: &'a Request, samples: usize) -> Self {
        let whole = analysis::analyze(context.graph, &build::named_shapes(context.graph, request));
        Self { context, request, whole, samples }
    }

    /// What ways to run it are remembered by: its shapes and operators, how much is stored of the weights, and the threads.
    fn key(&self) -> String {
        let mut hasher = DefaultHasher::new();
        // Checks of a debug build cost sparse kernels more than dense ones.
        cfg!(debug_assertions).hash(&mut hasher);
        for node in &self.context.graph.nodes {
            node.op.name().hash(&mut hasher);
            for id in node.inputs.iter().flatten().chain(node.outputs.iter().flatten()) {
                self.whole.shape(*id).hash(&mut hasher);
                let weight = self.context.graph.value(*id).weight.as_ref();
                weight.map(|weight| (weight.layout(), weight.bytes())).hash(&mut hasher);
            }
        }
        let threads = self.context.threads.count();
        format!("{} samples, {threads} threads, {:016x}", self.samples, hasher.finish())
    }

    /// The plan of the fastest way, if it is one of those that could be timed now.
    fn remembered(&self, timed: &[(String, f64)]) -> Option<Plan> {
        let micros = |micros: f64| Duration::try_from_secs_f64(micros * 1e-6).ok();
        let timings = timed.iter().map(|(name, took)| Some((name.clone(), micros(*took)?)));
        let timings = timings.collect::<Option<Vec<_>>>()?;
        let (fastest, _) = timings.iter().min_by_key(|(_, took)| *took)?;
        if fastest == WHOLE {
            return build::build(self.context, self.request).ok();
        }
        let ways = [Way::Beside, Way::InTurn].into_iter();
        let mut ways = ways.flat_map(|way| self.sizes().map(move |size| (size, way)));
        let (size, way) = ways.find(|&(size, way)| *fastest == name(size, way))?;
        let mut plan = self.apart(size, way)?;
        plan.split.as_mut()?.timings = timings;
        Some(plan)
    }

    /// Samples in a part.
    fn sizes(&self) -> impl Iterator<Item = usize> + use<> {
        let samples = self.samples;
        (0..).map(|i| 1 << i).take_while(move |&size| size <= MOST && size < samples)
    }

    /// Whether the products of a part have the columns that they need.
    fn worth_timing(&self, size: usize) -> bool {
        let (mut all, mut wide) = (0, 0);
        for node in &self.context.graph.nodes {
            let shape = |id: Option<ValueId>| id.and_then(|id| self.whole.shape(id)).unwrap_or_default();
            let len = |shape: &[usize]| shape.iter().map(|&dim| dim as u128).product::<u128>();
            let (y, w) = (shape(node.output(0)), shape(node.input(1)));
            // Multiply-adds, and columns in the whole batch; a convolution has one product for each image.
            let (macs, columns) = match (&node.op, y, w) {
                (Op::Conv(_) | Op::ConvInteger(_), _, [_, w @ ..]) => (len(y) * len(w), u128::MAX),
                (Op::MatMul | Op::MatMulInteger, [rows @ .., _], [.., k, _]) => {
                    (len(y) * *k as u128, len(rows))
                }
                (Op::Gemm { trans_b, .. }, [rows, _], [a, b]) => {
                    (len(y) * if *trans_b { *b } else { *a } as u128, *rows as u128)
                }
                _ => continue,
            };
            all += macs;
            let enough = COLUMNS * self.samples as u128;
            wide += if columns.saturating_mul(size as u128) >= enough { macs } else { 0 };
        }
        wide as f64 >= SHARE * all as f64
    }

    /// The plan of parts of `size` samples, if they can be computed apart and memory holds them.
    fn apart(&self, size: usize, way: Way) -> Option<Plan> {
        let Self { context, request, whole, samples } = self;
        let mut plans = Vec::new();
        let mut inputs = Vec::new();
        for size in [size, samples % size].into_iter().filter(|&size| size > 0) {
            let part = proof::separate(context.graph, whole, request, [*samples, size])?;
            let plan = build::build(&Context { graph: &part.graph, ..**context }, &part.request).ok()?;
            // Each result has a buffer of its own that the part writes.
            let apart = |(i, wanted): (usize, &Wanted)| wanted.operand.place == Place::Output(i);
            if !plan.outputs.iter().enumerate().all(apart) {
                return None;
            }
            plans.push(plan);
            inputs = part.split;
        }
        let part = |first: usize| Part {
            plan: usize::from(first + size > *samples),
            first,
            count: size.min(samples - first),
        };
        let parts: Vec<Part> = (0..*samples).step_by(size).map(part).collect();

        let main = &plans[0];
        let together = if way == Way::Beside { context.threads.count().min(parts.len()) } else { 1 };
        let buffers = main.buffers.iter().map(|&bytes| Some(bytes.checked_mul(*samples)? / size));
        let buffers = buffers.collect::<Option<Vec<usize>>>()?;
        let arenas = main.arena_bytes.checked_mul(together)?;
        let bytes = buffers.iter().try_fold(arenas, |sum, &bytes| sum.checked_add(bytes));
        bytes.filter(|&bytes| bytes <= context.limit)?;
        let outputs = main.outputs.iter().map(|wanted| {
            let mut operand = wanted.operand.clone();
            operand.shape[0] = operand.shape[0] / size * samples;
            Wanted { id: wanted.id, operand }
        });
        Some(Plan {
            steps: Vec::new(),
            constants: Vec::new(),
            outputs: outputs.collect(),
            taps: Vec::new(),
            buffers,
            heap: 0,
            arena_bytes: arenas,
            arena: None,
            pace: Pace::new(main.pace.estimate().saturating_mul(parts.len() as u32)),
            split: Some(Split { plans, parts, samples: *samples, inputs, way, timings: Vec::new() }),
        })
    }
}

/// The name of a way to run a batch.
fn name(size: usize, way: Way) -> String {
    format!("{size} {way}")
}

/// Times plans of one request on made-up inputs, and keeps the fastest.
struct Timer<'a> {
    batch: &'a Batch<'a>,
    feeds: Vec<(DataType, AlignedBytes)>,
    timings: Vec<(String, Duration)>,
    best: Option<(Plan, Duration)>,
}

impl<'a> Timer<'a> {
    fn new(batch: &'a Batch<'a>) -> Self {
        let Batch { context, request, .. } = batch;
        let feeds = context.graph.inputs.iter().zip(&request.shapes).map(|(&id, shape)| {
            let dtype = context.graph.value(id).dtype.unwrap_or(DataType::F32);
            let mut bytes = AlignedBytes::zeroed(shape.iter().product::<usize>() * dtype.size());
            if dtype == DataType::F32 {
                let values: &mut [f32] = bytemuck::cast_slice_mut(&mut bytes);
                values.iter_mut().enumerate().for_each(|(i, x)| *x = (i % 127) as f32 / 63.5 - 1.0);
            }
            (dtype, bytes)
        });
        Self { batch, feeds: feeds.collect(), timings: Vec::new(), best: None }
    }

    /// Times parts of `first` samples, and of twice as many as long as that is faster; gives whether the largest were.
    fn try_sizes(&mut self, first: usize, way: Way) -> bool {
        let threads = self.batch.context.threads.count();
        let mut fastest = Duration::MAX;
        for size in self.batch.sizes().filter(|&size| size >= first) {
            if way == Way::Beside && self.batch.samples.div_ceil(size) < threads {
                break;
            }
            let plan = self.batch.apart(size, way);
            let Some(took) = plan.and_then(|plan| self.try_plan(name(size, way), plan)) else {
                return false;
            };
            if took.as_secs_f64() > GAIN * fastest.as_secs_f64() {
                return false;
            }
            fastest = took;
        }
        true
    }

    /// Times a plan; gives how long a run takes, or `None` when it fails.
    fn try_plan(&mut self, name: String, plan: Plan) -> Option<Duration> {
        let took = self.time(&plan)?;
        self.timings.push((name, took));
        if self.best.as_ref().is_none_or(|(_, least)| took < *least) {
            self.best = Some((plan, took));
        }
        Some(took)
    }

    /// The fastest of what was timed, which is remembered.
    fn fastest(self) -> Option<Plan> {
        let (mut plan, _) = self.best?;
        let micros = |(name, took): &(String, Duration)| (name.clone(), took.as_secs_f64() * 1e6);
        let timed = self.timings.iter().map(micros).collect();
        self.batch.context.weights.tuner().keep_batch(self.batch.key(), timed);
        if let Some(split) = &mut plan.split {
            split.timings = self.timings;
        }
        Some(plan)
    }

    /// About how long a run takes. Of parts as many run as work at once.
    fn time(&self, plan: &Plan) -> Option<Duration> {
        let (shapes, threads) = (&self.batch.request.shapes, self.batch.context.threads);
        let views = self.feeds.iter().zip(shapes);
        let views = views.map(|((dtype, bytes), shape)| TensorView::from_bytes(*dtype, shape, bytes));
        let feeds: Vec<_> = views.collect::<Result<_, _>>().ok()?;
        let parts = plan.parts();
        let at_once = match plan.split.as_ref().map(|split| split.way) {
            Some(Way::Beside) => threads.count().min(parts),
            Some(Way::InTurn) | None => 1,
        };
        let mut buffers: Vec<_> = plan.buffers.iter().map(|&bytes| AlignedBytes::zeroed(bytes)).collect();
        let _alone = tune::alone();
        let mut least = Duration::MAX;
        // The first run warms caches and touches memory.
        for run in 0..=RUNS {
            let start = Instant::now();
            let mut buffers: Buffers<'_> = buffers.iter_mut().map(|bytes| &mut bytes[..]).collect();
            let between = &mut Between::default();
            // As within a run: the other threads are awake.
            let ran = threads.install(|| match &plan.split {
                Some(split) => split.run_parts(&feeds, &mut buffers, at_once, threads, between).ok(),
                None => Run::new(plan, &feeds, buffers)?.steps(threads, between).ok(),
            });
            ran?;
            least = if run == 0 { least } else { least.min(start.elapsed()) };
        }
        Some(least.mul_f64(parts as f64 / at_once as f64))
    }
}
