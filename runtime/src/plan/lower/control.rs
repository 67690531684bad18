//! If and Loop whose bodies have plans of their own: constants folded, weights packed, nodes fused, once.
//!
//! What a body captures and what is constant outside of it is a constant inside. Where the shapes of a body's inputs are not
//! known before the run, or turn out otherwise, the body runs node by node, as in `ops::control`.

use poda_formats::storage::{AlignedBytes, Storage};
use poda_formats::{Graph, Op, Tensor, TensorView};

use super::call::{Call, General, Lowered, Preparation};
use super::{Rewrite, Rewriter};
use crate::info::Info;
use crate::ops::OpError;
use crate::ops::control::{Body, RunBody, Slot, carried_infos, if_else, loop_body};
use crate::optimize::{Log, Optimized};
use crate::output::Output;
use crate::plan::build::{self, Context, Request, Wants};
use crate::plan::draft::{Explanation, Kind};
use crate::plan::run::{Between, Halt, Run};
use crate::plan::{Place, Plan, Weights};
use crate::threads::Threads;

pub(super) fn rewrite(r: &mut Rewriter<'_, '_>, at: usize) -> Option<Rewrite> {
    let node = r.node(at);
    let op = node.op().filter(|op| !op.bodies().is_empty())?;
    Some(Rewrite::new(Kind::lowered(ControlNode { op: op.clone() }), node.inputs.clone()))
}

/// A node with bodies.
#[derive(Debug)]
struct ControlNode {
    op: Op,
}

/// A node some of whose bodies are planned.
#[derive(Debug)]
struct Control {
    op: Op,
    /// In the order of [`Op::bodies`]; `None` where one runs node by node.
    bodies: Vec<Option<PlannedBody>>,
}

#[derive(Debug)]
struct PlannedBody {
    plan: Plan,
    /// The inputs of the body that the plan is fed.
    feeds: Vec<usize>,
    /// Their shapes.
    shapes: Vec<Vec<usize>>,
    /// Keeps what is packed.
    _weights: Weights,
}

impl ControlNode {
    /// Plans the bodies as far as shapes are known; `None` where they are not at all.
    fn bodies(&self, with: &Preparation<'_>) -> Option<Vec<Option<PlannedBody>>> {
        let Preparation { context, draft, node } = with;
        let op = &self.op;
        let infos: Vec<Option<Info>> = node.inputs.iter().map(|id| draft.info((*id)?).cloned()).collect();
        // Facts about the formal inputs, and from which of them on they are the node's captures, at which of its inputs.
        let (formal, captures) = match op {
            Op::If { .. } => (infos.get(1..)?.to_vec(), [0, 1]),
            Op::Loop { body, carried } => {
                (carried_infos(body, *carried, &infos)?, [2 + carried, 2 + carried])
            }
            _ => return None,
        };
        let constant = |input: usize| {
            let id = node.input((input + captures[1]).checked_sub(captures[0])?)?;
            draft.weight(id).filter(|_| input >= captures[0])
        };
        let plan = |body: &&Graph| {
            let mut graph = (*body).clone();
            let mut feeds = Vec::new();
            for (index, id) in body.inputs.iter().enumerate() {
                match constant(index) {
                    Some(weight) => {
                        graph.inputs.retain(|input| input != id);
                        graph.value_mut(*id).weight = Some(weight);
                    }
                    None => feeds.push(index),
                }
            }
            PlannedBody::new(context, graph, feeds, &formal)
        };
        Some(op.bodies().iter().map(plan).collect())
    }
}

impl Lowered for ControlNode {
    fn prepare(&self, with: &Preparation<'_>) -> Result<Box<dyn Call>, OpError> {
        if !with.context.weights.timing() {
            // Whether kernels of the bodies have been timed, nobody knows before they are planned.
            return Err(OpError::Invalid("bodies are planned when kernels may be timed".to_owned()));
        }
        let op = self.op.clone();
        Ok(match self.bodies(with).filter(|bodies| bodies.iter().any(Option::is_some)) {
            Some(bodies) => Box::new(Control { op, bodies }),
            None => Box::new(General(op)),
        })
    }
}

impl Call for Control {
    fn explain(&self) -> Explanation {
        Explanation { name: self.op.name().to_owned(), ..Explanation::default() }
    }

    fn run(
        &self,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [Output<'_>],
        threads: &Threads,
    ) -> Result<(), OpError> {
        let body = |index: usize, graph| Ready { planned: self.bodies[index].as_ref(), graph, threads };
        match &self.op {
            Op::If { then_branch, else_branch } => {
                if_else(&body(0, then_branch), &body(1, else_branch), inputs, outputs)
            }
            Op::Loop { body: graph, carried } => loop_body(&body(0, graph), graph, *carried, inputs, outputs),
            _ => unreachable!("made for nodes with bodies"),
        }
    }
}

impl PlannedBody {
    /// `None` where the body cannot be planned: a run says why, if it comes to that.
    fn new(context: &Context<'_>, graph: Graph, feeds: Vec<usize>, formal: &[Option<Info>]) -> Option<Self> {
        let shapes: Vec<Vec<usize>> =
            feeds.iter().map(|&i| formal.get(i)?.as_ref()?.shape.clone()).collect::<Option<_>>()?;
        let mut graph = graph;
        for (&id, &feed) in graph.inputs.clone().iter().zip(&feeds) {
            let dtype = formal[feed].as_ref().map(|info| info.dtype);
            graph.value_mut(id).dtype = dtype;
        }
        let Optimized { graph, constant, open } =
            Optimized::new(&graph, context.passes, &mut Log::new(context.passes));
        let weights = context.weights.of_body(constant);
        let inner = Context { graph: &graph, weights: &weights, open, ..*context };
        let request = Request { shapes: shapes.clone(), wanted: Wants::Results(Vec::new()) };
        let plan = build::build(&inner, &request).ok()?;
        Some(Self { plan, feeds, shapes, _weights: weights })
    }

    /// The results for feeds of the planned shapes.
    fn run(&self, feeds: &[TensorView<'_>], threads: &Threads) -> Result<Vec<Tensor>, OpError> {
        let too_large =
            |len: &usize| OpError::TooLarge { dtype: poda_formats::DataType::U8, shape: vec![*len] };
        let buffer = |len: &usize| AlignedBytes::try_zeroed(*len).ok_or_else(|| too_large(len));
        let mut buffers = self.plan.buffers.iter().map(buffer).collect::<Result<Vec<_>, _>>()?;
        let mut results = {
            let slices = buffers.iter_mut().map(|buffer| &mut buffer[..]).collect();
            let run = Run::new(&self.plan, feeds, slices);
            let mut run = run.ok_or_else(|| too_large(&self.plan.arena_bytes))?;
            run.steps(threads, &mut Between::default()).map_err(|halt| match halt {
                Halt::Failed { step, source } => {
                    let name = self.plan.steps.get(step).map_or("", |step| &step.name);
                    OpError::Invalid(format!("node {name:?} of a body: {source}"))
                }
                Halt::Stopped { .. } | Halt::Shown => unreachable!("nothing ends the run of a body"),
            })?;
            self.plan.outputs.iter().map(|wanted| run.tensor(&wanted.operand)).collect::<Vec<_>>()
        };
        let made: Vec<Storage> = buffers.into_iter().map(Storage::owned).collect();
        for (result, wanted) in results.iter_mut().zip(&self.plan.outputs) {
            if let Place::Output(i) = wanted.operand.place {
                let (dtype, shape) = (wanted.operand.dtype, wanted.operand.shape.clone());
                *result = Some(Tensor::new(dtype, shape, made[i].clone())?);
            }
        }
        let missing = || OpError::Invalid("a body left a result unwritten".into());
        results.into_iter().map(|result| result.ok_or_else(missing)).collect()
    }
}

/// A body during a run of its node.
struct Ready<'a> {
    planned: Option<&'a PlannedBody>,
    graph: &'a Graph,
    threads: &'a Threads,
}

impl RunBody for Ready<'_> {
    fn run(&self, inputs: Vec<Option<Slot<'_>>>, outputs: usize) -> Result<Vec<Tensor>, OpError> {
        if let Some(planned) = self.planned {
            let views: Option<Vec<TensorView<'_>>> =
                planned.feeds.iter().map(|&i| inputs.get(i)?.as_ref().map(Slot::view)).collect();
            if let Some(views) = views.filter(|views| {
                views.iter().map(TensorView::shape).eq(planned.shapes.iter().map(Vec::as_slice))
            }) {
                return planned.run(&views, self.threads);
            }
        }
        Body::new(self.graph)?.run(inputs, outputs)
    }
}
