//! Runs the steps of a plan.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use poda_formats::storage::AlignedBytes;
use poda_formats::{Tensor, TensorView};
use smallvec::SmallVec;

use super::arena::{Need, Parts};
use super::{Operand, Place, Plan, Step};
use crate::ops::{OpError, guard};
use crate::options::Stop;
use crate::output::Output;
use crate::threads::Threads;

/// A run of a plan: what it holds besides it.
pub(crate) struct Run<'a> {
    plan: &'a Plan,
    feeds: &'a [TensorView<'a>],
    arena: AlignedBytes,
    /// Where the results go that have a place before the run; see [`Plan::buffers`].
    buffers: Buffers<'a>,
    heap: Vec<Option<Tensor>>,
}

/// One for each of [`Plan::buffers`], of that length, aligned for its elements.
pub(crate) type Buffers<'a> = SmallVec<[&'a mut [u8]; 4]>;

/// Shown the tapped values as they arise, by index in the request; breaks off the run.
pub(crate) type Show<'a> = dyn FnMut(usize, TensorView<'_>) -> ControlFlow<()> + 'a;

/// What happens between the steps of a run.
#[derive(Default)]
pub(crate) struct Between<'a> {
    /// How long each step took is added here.
    pub(crate) times: Option<&'a mut [Duration]>,
    /// What ends the run early.
    pub(crate) stop: Stop<'a>,
    /// Who sees the values that the plan taps.
    pub(crate) show: Option<&'a mut Show<'a>>,
}

/// Why a run ended before its last step.
#[derive(Debug)]
pub(crate) enum Halt {
    /// A step failed.
    Failed { step: usize, source: OpError },
    /// [`Between::stop`] said so, before that step.
    Stopped { step: usize },
    /// [`Between::show`] broke it off.
    Shown,
}

impl<'a> Run<'a> {
    /// Begins a run; `None` where memory does not hold the activations.
    ///
    /// # Panics
    /// When the buffers have not the lengths that the plan gives them.
    pub(crate) fn new(plan: &'a Plan, feeds: &'a [TensorView<'a>], buffers: Buffers<'a>) -> Option<Self> {
        assert!(buffers.iter().map(|buffer| buffer.len()).eq(plan.buffers.iter().copied()), "buffers");
        let arena = plan.arena.as_ref().map_or_else(|| Some(AlignedBytes::zeroed(0)), Need::take)?;
        Some(Self { plan, feeds, arena, buffers, heap: vec![None; plan.heap] })
    }

    /// Runs every step.
    ///
    /// # Errors
    /// When a step fails, or the run is ended early.
    pub(crate) fn steps(&mut self, threads: &Threads, between: &mut Between<'_>) -> Result<(), Halt> {
        let plan = self.plan;
        if let Some(split) = &plan.split {
            return split.run(self.feeds, &mut self.buffers, threads, between);
        }
        let mut taps = plan.taps.iter().peekable();
        for index in 0..=plan.steps.len() {
            while let Some(tap) = taps.next_if(|tap| tap.after == index) {
                if let Some(show) = &mut between.show {
                    let view = self.value(&tap.operand);
                    let view = view.map_err(|source| Halt::Failed { step: index, source })?;
                    if show(tap.index, view).is_break() {
                        return Err(Halt::Shown);
                    }
                }
            }
            let Some(step) = plan.steps.get(index) else { break };
            if between.stop.reached() {
                return Err(Halt::Stopped { step: index });
            }
            let start = between.times.is_some().then(Instant::now);
            self.step(step, threads).map_err(|source| Halt::Failed { step: index, source })?;
            if let (Some(start), Some(times)) = (start, between.times.as_deref_mut()) {
                times[index] += start.elapsed();
            }
        }
        Ok(())
    }

    /// A value that a step has made, or that was there before.
    ///
    /// # Errors
    /// When its shape is that of no tensor.
    ///
    /// # Panics
    /// When no step has made it yet.
    pub(crate) fn value<'s>(&'s self, operand: &'s Operand) -> Result<TensorView<'s>, OpError> {
        let bytes = match operand.place {
            Place::Heap(i) => return Ok(self.heap[i].as_ref().expect("made by a step").view()),
            Place::Feed(i) => self.feeds[i].bytes(),
            Place::Constant(i) => self.plan.constants[i].bytes(),
            Place::Output(i) => &*self.buffers[i],
            Place::Arena { offset, len } => &self.arena[offset..][..len],
        };
        Ok(TensorView::from_bytes(operand.dtype, &operand.shape, bytes)?)
    }

    /// A result that has no buffer, as a tensor: shares memory with what holds it, except for feeds.
    pub(crate) fn tensor(&self, operand: &Operand) -> Option<Tensor> {
        let Operand { place, shape, .. } = operand;
        let reshaped = |tensor: &Tensor| tensor.reshaped(shape.clone()).expect("as many elements");
        match *place {
            Place::Heap(i) => Some(self.heap[i].clone().expect("made by a step")),
            Place::Constant(i) => Some(reshaped(&self.plan.constants[i])),
            Place::Feed(i) => Some(reshaped(&self.feeds[i].to_tensor())),
            Place::Output(_) | Place::Arena { .. } => None,
        }
    }

    fn step(&mut self, step: &Step, threads: &Threads) -> Result<(), OpError> {
        let Self { plan, feeds, arena, buffers, heap } = self;
        // Buffers that this step writes are taken out while it reads others.
        let mut taken: SmallVec<[(usize, &mut [u8]); 4]> = SmallVec::new();
        for output in step.outputs.iter().flatten() {
            if let Place::Output(i) = output.place {
                taken.push((i, std::mem::take(&mut buffers[i])));
            }
        }
        let fresh: SmallVec<[(usize, Tensor); 2]> = {
            let mut parts = Parts::cut(arena, &step.segments);
            let inputs: SmallVec<[Option<TensorView<'_>>; 8]> = step
                .inputs
                .iter()
                .map(|input| input.as_ref().map(|o| view(o, plan, feeds, buffers, heap, &parts)).transpose())
                .collect::<Result<_, OpError>>()?;
            let mut outputs: SmallVec<[Output<'_>; 4]> = SmallVec::new();
            let mut own = taken.iter_mut();
            for output in &step.outputs {
                outputs.push(match output {
                    None => Output::Unused,
                    Some(Operand { place, dtype, shape }) => match *place {
                        Place::Arena { offset, len } => {
                            Output::Planned { dtype: *dtype, shape, bytes: parts.write(offset, len) }
                        }
                        Place::Output(_) => {
                            let (_, buffer) = own.next().expect("taken above");
                            Output::Planned { dtype: *dtype, shape, bytes: buffer }
                        }
                        Place::Heap(_) => Output::Fresh(None),
                        Place::Feed(_) | Place::Constant(_) => unreachable!("no step writes {place:?}"),
                    },
                });
            }
            guard(|| step.call.run(&inputs, &mut outputs, threads))?;
            outputs
                .into_iter()
                .zip(&step.outputs)
                .filter_map(|(output, operand)| match operand.as_ref()?.place {
                    Place::Heap(i) => Some(output.into_tensor().map(|tensor| (i, tensor))),
                    _ => None,
                })
                .collect::<Result<_, _>>()?
        };
        for (i, tensor) in fresh {
            heap[i] = Some(tensor);
        }
        for (i, buffer) in taken {
            buffers[i] = buffer;
        }
        Ok(())
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        // What it holds does not matter: steps write before they read.
        if let Some(need) = &self.plan.arena {
            need.give(std::mem::replace(&mut self.arena, AlignedBytes::zeroed(0)));
        }
    }
}

fn view<'a>(
    operand: &'a Operand,
    plan: &'a Plan,
    feeds: &[TensorView<'a>],
    buffers: &'a [&mut [u8]],
    heap: &'a [Option<Tensor>],
    parts: &Parts<'a>,
) -> Result<TensorView<'a>, OpError> {
    let bytes = match operand.place {
        Place::Heap(i) => return Ok(heap[i].as_ref().expect("made by an earlier step").view()),
        Place::Feed(i) => feeds[i].bytes(),
        Place::Constant(i) => plan.constants[i].bytes(),
        Place::Output(i) => &*buffers[i],
        Place::Arena { offset, len } => parts.read(offset, len),
    };
    Ok(TensorView::from_bytes(operand.dtype, &operand.shape, bytes)?)
}
