//! Makes a plan: gives every value of a draft its place.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use poda_formats::tensor::checked_bytes;
use poda_formats::{DataType, Graph, Op, Tensor, ValueId, Weight};

use super::arena::{self, Allocator, Arenas};
use super::draft::{Draft, DraftNode, Kind};
use super::lower::{Call, General, Preparation, lower};
use super::weights::Weights;
use super::{Operand, Place, Plan, PlanError, Step, Tap, Wanted, inline};
use crate::analysis::{self, Analysis};
use crate::info::Info;
use crate::ops::OpError;
use crate::optimize::{self, Log, Passes};
use crate::threads::{self, Pace, Threads};

/// What a plan is made for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Request {
    /// Shape of each input of the graph.
    pub(crate) shapes: Vec<Vec<usize>>,
    pub(crate) wanted: Wants,
}

/// What a run is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Wants {
    /// The graph's outputs, and these values.
    Results(Vec<ValueId>),
    /// These values as they arise, and nothing else.
    Taps(Vec<ValueId>),
}

/// What plans of one executable share.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) graph: &'a Graph,
    pub(crate) weights: &'a Weights,
    pub(crate) arenas: &'a Arc<Arenas>,
    pub(crate) threads: &'a Threads,
    /// Most bytes that one run may take.
    pub(crate) limit: usize,
    /// Which passes to apply.
    pub(crate) passes: Passes,
    /// Whether those of the graph ask for what only shapes tell, and so are applied again.
    pub(crate) open: bool,
    /// Whether a batch may be run in parts, if that is measured to be faster.
    pub(crate) split: bool,
}

/// Makes a plan.
///
/// # Errors
/// When a node does not fit its inputs or is not supported, or when the activations need more bytes than the limit.
pub(crate) fn build(context: &Context<'_>, request: &Request) -> Result<Plan, PlanError> {
    let mut log = Log::new(context.passes);
    let (graph, analysis) = at_shapes(context.graph, request, (context.passes, context.open), &mut log)?;
    let draft = lowered(&graph, analysis, request, context.passes, &mut log);
    Builder::new(context, &draft).build(matches!(request.wanted, Wants::Taps(_)))
}

/// The graph as it is best at the shapes of a request, and what follows from these. `open` says that its passes asked for
/// shapes.
///
/// # Errors
/// When a node does not fit its inputs or is not supported.
pub(super) fn at_shapes<'a>(
    graph: &'a Graph,
    request: &Request,
    (passes, open): (Passes, bool),
    log: &mut Log,
) -> Result<(Cow<'a, Graph>, Analysis), PlanError> {
    let (mut graph, mut analysis) = analyze(graph, request);
    if let Some((index, source)) = analysis.failures.first() {
        return Err(node_error(&graph, *index, source.clone()));
    }
    let (Wants::Results(kept) | Wants::Taps(kept)) = &request.wanted;
    // Branches have taken the places of their nodes.
    let mut open = open || matches!(graph, Cow::Owned(_));
    if passes.has("transposes")
        && let Some(better) = optimize::sink_transposes(&graph, &analysis, kept)
    {
        let again = analysis::analyze(&better, &named_shapes(&better, request));
        if again.failures.is_empty() {
            let nodes = [&*graph, &better].map(|graph| optimize::live_nodes(graph, kept));
            log.add("transposes", nodes[0].abs_diff(nodes[1]).max(1), nodes);
            (graph, analysis, open) = (Cow::Owned(better), again, true);
        }
    }
    if open && passes != Passes::none() {
        let unchanged = optimize::again(graph.to_mut(), analysis, kept, passes, log);
        analysis = unchanged.unwrap_or_else(|| analysis::analyze(&graph, &named_shapes(&graph, request)));
    }
    Ok((graph, analysis))
}

/// What the nodes become at these shapes.
pub(super) fn lowered<'a>(
    graph: &'a Graph,
    analysis: Analysis,
    request: &Request,
    passes: Passes,
    log: &mut Log,
) -> Draft<'a> {
    let wanted = match &request.wanted {
        Wants::Results(extra) => graph.outputs.iter().chain(extra).copied().collect(),
        Wants::Taps(taps) => taps.clone(),
    };
    let mut draft = Draft::new(graph, analysis, wanted);
    lower(&mut draft, passes, log);
    draft
}

/// Looks for operators that are not supported, whatever the shapes turn out to be, without packing any weight.
///
/// # Errors
/// The first such operator.
pub(crate) fn check(graph: &Graph, request: &Request) -> Result<(), PlanError> {
    let (graph, analysis) = analyze(graph, request);
    let unsupported = |(_, error): &&(usize, OpError)| matches!(error, OpError::Unsupported { .. });
    match analysis.failures.iter().find(unsupported) {
        Some((index, source)) => Err(node_error(&graph, *index, source.clone())),
        None => Ok(()),
    }
}

/// The graph without branches that are known not to be taken, and what follows from the shapes of its inputs.
fn analyze<'a>(graph: &'a Graph, request: &Request) -> (Cow<'a, Graph>, Analysis) {
    let shapes = named_shapes(graph, request);
    let mut analysis = analysis::analyze(graph, &shapes);
    // Branches may hold further branches.
    let mut graph = Cow::Borrowed(graph);
    while let Some(inlined) = inline::branches(&graph, &analysis) {
        analysis = analysis::analyze(&inlined, &shapes);
        graph = Cow::Owned(inlined);
    }
    (graph, analysis)
}

/// Shapes of the inputs by name.
pub(super) fn named_shapes(graph: &Graph, request: &Request) -> BTreeMap<String, Vec<usize>> {
    let shapes = graph.inputs.iter().zip(&request.shapes);
    shapes.map(|(&id, shape)| (graph.value(id).name.clone(), shape.clone())).collect()
}

/// An error of a node, with its name, or that of its output where it has none.
fn node_error(graph: &Graph, index: usize, source: OpError) -> PlanError {
    PlanError::Node { node: node_name(graph, index), op: graph.nodes[index].op.name().to_owned(), source }
}

/// The name of a node, or of its first output where it has none.
fn node_name(graph: &Graph, index: usize) -> String {
    let node = &graph.nodes[index];
    match node.outputs.iter().flatten().next() {
        Some(&id) if node.name.is_empty() => graph.value(id).name.clone(),
        _ => node.name.clone(),
    }
}

struct Builder<'a> {
    context: &'a Context<'a>,
    draft: &'a Draft<'a>,
    /// By [`ValueId`]: the value whose elements it shares, itself if it shares none.
    roots: Vec<ValueId>,
    /// By [`ValueId`], of roots: the last step that reads it.
    last_use: Vec<usize>,
    places: Vec<Option<Place>>,
    constants: Vec<Tensor>,
    buffers: Vec<usize>,
    heap: usize,
    allocator: Allocator,
}

impl<'a> Builder<'a> {
    fn new(context: &'a Context<'a>, draft: &'a Draft<'a>) -> Self {
        let values = draft.infos.len();
        Self {
            context,
            draft,
            roots: (0..values as u32).map(ValueId).collect(),
            last_use: vec![0; values],
            places: vec![None; values],
            constants: Vec::new(),
            buffers: Vec::new(),
            heap: 0,
            allocator: Allocator::default(),
        }
    }

    /// With `taps`, what is wanted is shown as it arises and needs no buffer of its own.
    fn build(mut self, taps: bool) -> Result<Plan, PlanError> {
        for (position, id) in self.draft.graph.inputs.iter().enumerate() {
            self.places[id.index()] = Some(Place::Feed(position));
        }
        let mut nodes = Vec::with_capacity(self.draft.nodes.len());
        for node in &self.draft.nodes {
            match alias(self.draft, node) {
                Some((output, input)) => self.roots[output.index()] = self.roots[input.index()],
                None => nodes.push(node),
            }
        }
        for (at, node) in nodes.iter().enumerate() {
            for id in node.inputs.iter().chain(&node.outputs).flatten() {
                self.last_use[self.roots[id.index()].index()] = at;
            }
        }
        if !taps {
            self.place_outputs(&nodes)?;
        }
        let mut steps = Vec::with_capacity(nodes.len());
        for (at, (node, call)) in nodes.iter().zip(self.calls(&nodes)).enumerate() {
            steps.push(self.step(at, node, call)?);
        }
        let arena_bytes = self.allocator.size();
        let wanted = self.draft.wanted.iter().map(|&id| Ok(Wanted { id, operand: self.operand(id)? }));
        let wanted = wanted.collect::<Result<Vec<_>, PlanError>>()?;
        let (outputs, taps) =
            if taps { (Vec::new(), self.taps(&nodes, wanted)) } else { (wanted, Vec::new()) };
        let total = self.buffers.iter().try_fold(arena_bytes, |sum, &b| sum.checked_add(b));
        if total.is_none_or(|total| total > self.context.limit) {
            return Err(PlanError::Memory { limit: self.context.limit });
        }
        let estimate = Duration::from_nanos(steps.iter().map(estimate).sum());
        let Self { constants, buffers, heap, .. } = self;
        Ok(Plan {
            steps,
            constants,
            outputs,
            taps,
            buffers,
            heap,
            arena_bytes,
            arena: Some(self.context.arenas.need(arena_bytes)),
            pace: Pace::new(estimate),
            split: None,
        })
    }

    /// What the nodes compute, of those that can be prepared side by side: all but those whose kernel must be timed first, or that
    /// cannot be prepared.
    fn calls(&self, nodes: &[&DraftNode]) -> Vec<Option<Box<dyn Call>>> {
        let weights = self.context.weights.untimed();
        let context = Context { weights: &weights, ..*self.context };
        let calls: Vec<OnceLock<Box<dyn Call>>> = nodes.iter().map(|_| OnceLock::new()).collect();
        self.context.threads.install(|| {
            threads::for_each(nodes.len(), 1, |at| {
                if let Kind::Lowered(operator) = &nodes[at].kind
                    && let Ok(call) = operator.prepare(&Preparation {
                        context: &context,
                        draft: self.draft,
                        node: nodes[at],
                    })
                {
                    let _ = calls[at].set(call);
                }
            });
        });
        calls.into_iter().map(OnceLock::into_inner).collect()
    }

    fn info(&self, id: ValueId) -> Result<&'a Info, PlanError> {
        self.draft.infos[id.index()].as_ref().ok_or_else(|| PlanError::Unknown { name: self.draft.name(id) })
    }

    /// Results that a step makes go straight into the buffer that is handed out.
    fn place_outputs(&mut self, nodes: &[&DraftNode]) -> Result<(), PlanError> {
        let made: HashSet<ValueId> = nodes.iter().flat_map(|n| n.outputs.iter().flatten().copied()).collect();
        for &id in &self.draft.wanted {
            let root = self.roots[id.index()];
            let info = self.info(root)?;
            if let (Some(shape), true, None) = (&info.shape, made.contains(&root), self.places[root.index()])
            {
                let bytes = self.bytes(info.dtype, shape)?;
                self.places[root.index()] = Some(Place::Output(self.buffers.len()));
                self.buffers.push(bytes);
            }
        }
        Ok(())
    }

    /// What is shown of a run, in order.
    fn taps(&self, nodes: &[&DraftNode], wanted: Vec<Wanted>) -> Vec<Tap> {
        // By root: the steps before it is there; none for inputs and constants.
        let mut after = vec![0; self.roots.len()];
        for (at, node) in nodes.iter().enumerate() {
            node.outputs.iter().flatten().for_each(|id| after[id.index()] = at + 1);
        }
        let tap = |(index, Wanted { id, operand })| Tap {
            after: after[self.roots[id.index()].index()],
            index,
            operand,
        };
        let mut taps: Vec<Tap> = wanted.into_iter().enumerate().map(tap).collect();
        taps.sort_by_key(|tap| tap.after);
        taps
    }

    fn bytes(&self, dtype: poda_formats::DataType, shape: &[usize]) -> Result<usize, PlanError> {
        let limit = self.context.limit;
        checked_bytes(dtype, shape).filter(|&b| b <= limit).ok_or(PlanError::Memory { limit })
    }

    /// The step of a node; `call` is what [`Builder::calls`] made.
    fn step(&mut self, at: usize, node: &DraftNode, call: Option<Box<dyn Call>>) -> Result<Step, PlanError> {
        let inputs = node.inputs.iter().map(|id| id.map(|id| self.operand(id)).transpose());
        let mut inputs = inputs.collect::<Result<Vec<_>, _>>()?;
        let taken = self.in_place(at, node)?;
        if let (Some(root), Some(output)) = (taken, node.output(0)) {
            self.places[output.index()] = self.places[root.index()];
            inputs[0] = None;
        }
        let mut outputs = Vec::with_capacity(node.outputs.len());
        for id in &node.outputs {
            outputs.push(id.map(|id| self.allocate(id)).transpose()?);
        }
        let range = |operand: &Operand| match operand.place {
            Place::Arena { offset, len } => Some(offset..offset + len),
            _ => None,
        };
        let reads: Vec<_> = inputs.iter().flatten().filter_map(range).collect();
        let writes: Vec<_> = outputs.iter().flatten().filter_map(range).collect();
        let segments = arena::segments(&reads, &writes);
        let mut touched: Vec<ValueId> =
            node.inputs.iter().chain(&node.outputs).flatten().map(|id| self.roots[id.index()]).collect();
        touched.sort_unstable();
        touched.dedup();
        for root in touched {
            if let (Some(Place::Arena { offset, len }), true) =
                (self.places[root.index()], self.last_use[root.index()] == at && taken != Some(root))
            {
                self.allocator.give(offset, len);
            }
        }
        let graph = self.draft.graph;
        let call: Box<dyn Call> = match (&node.kind, call) {
            (_, Some(call)) => call,
            (Kind::Op(op), None) => Box::new(General(op.clone())),
            (Kind::Lowered(operator), None) => {
                let with = Preparation { context: self.context, draft: self.draft, node };
                operator.prepare(&with).map_err(|error| node_error(graph, node.node, error))?
            }
        };
        let (name, op) = (node_name(graph, node.node), graph.nodes[node.node].op.name().to_owned());
        Ok(Step { name, op, call, inputs, outputs, segments })
    }

    /// The value whose place the output of a node may take: the first input of an operator that works in place, when nobody
    /// reads it any more.
    fn in_place(&self, at: usize, node: &DraftNode) -> Result<Option<ValueId>, PlanError> {
        let (Kind::Lowered(operator), Some(output), Some(input)) =
            (&node.kind, node.output(0), node.input(0))
        else {
            return Ok(None);
        };
        let root = self.roots[input.index()];
        let free = self.places[output.index()].is_none() && self.last_use[root.index()] == at;
        let others = node.inputs[1..].iter().flatten().any(|id| self.roots[id.index()] == root);
        let same = match (self.places[root.index()], &self.info(output)?.shape) {
            (Some(Place::Arena { len, .. }), Some(shape)) => self.bytes(DataType::F32, shape)? == len,
            _ => false,
        };
        Ok(Some(root).filter(|_| free && !others && same && operator.works_in_place()))
    }

    fn allocate(&mut self, id: ValueId) -> Result<Operand, PlanError> {
        let info = self.info(id)?;
        if self.places[id.index()].is_none() {
            let place = if let Some(shape) = &info.shape {
                let len = self.bytes(info.dtype, shape)?;
                let offset =
                    self.allocator.take(len).ok_or(PlanError::Memory { limit: self.context.limit })?;
                Place::Arena { offset, len }
            } else {
                self.heap += 1;
                Place::Heap(self.heap - 1)
            };
            self.places[id.index()] = Some(place);
        }
        self.operand(id)
    }

    /// How a step sees a value that has its place, or that is a constant.
    fn operand(&mut self, id: ValueId) -> Result<Operand, PlanError> {
        let root = self.roots[id.index()];
        let info = self.info(id)?;
        if self.places[root.index()].is_none() {
            let Some(weight) = self.draft.weight(root) else {
                return Err(PlanError::Unknown { name: self.draft.name(root) });
            };
            let tensor = dense(&weight, &self.draft.name(root))?;
            self.places[root.index()] = Some(Place::Constant(self.constants.len()));
            self.constants.push(tensor);
        }
        let place = self.places[root.index()].expect("set above");
        Ok(Operand { place, dtype: info.dtype, shape: info.shape.clone().unwrap_or_default() })
    }
}

/// Output and input of a node that only renames: same elements, same order, known shapes.
pub(super) fn alias(draft: &Draft<'_>, node: &DraftNode) -> Option<(ValueId, ValueId)> {
    if !matches!(
        node.op()?,
        Op::Reshape { .. } | Op::Flatten { .. } | Op::Squeeze | Op::Unsqueeze | Op::Identity
    ) {
        return None;
    }
    let (output, input) = (node.outputs[0]?, node.inputs[0]?);
    let known = |id: ValueId| draft.shape(id).is_some();
    (known(output) && known(input)).then_some((output, input))
}

fn dense(weight: &Weight, name: &str) -> Result<Tensor, PlanError> {
    weight.to_dense().map_err(|e| PlanError::Node {
        node: name.to_owned(),
        op: "weight".into(),
        source: OpError::Invalid(e.to_string()),
    })
}

/// About the time of a step on one thread, in nanoseconds, or less: multiplications, weights from L2 and activations at Zen 5's
/// speed, and at least what the tuner measured, on all threads.
fn estimate(step: &Step) -> u64 {
    let len = |o: &Operand| o.shape.iter().map(|&d| d as u64).product::<u64>();
    let touched: u64 = step.inputs.iter().chain(&step.outputs).flatten().map(len).sum();
    let explanation = step.call.explain();
    let model = explanation.macs_nonzero / 110 + explanation.weight_bytes as u64 / 80 + touched / 8;
    let winner = explanation.weight.as_ref().and_then(|weight| weight.candidates.first());
    let measured = winner.and_then(|winner| winner.micros).map_or(0, |micros| (micros * 1e3) as u64);
    model.max(measured)
}
