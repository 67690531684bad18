//! Runs the steps of a plan.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use poda_formats::storage::{AlignedBytes, Storage};
use poda_formats::{Tensor, TensorView};
use smallvec::SmallVec;

use super::arena::Parts;
use super::{Call, Operand, Place, Plan, Step, guard};
use crate::ops::{self, OpError};
use crate::output::Output;
use crate::threads::Threads;

/// What a run holds besides the plan.
struct State<'a> {
    feeds: &'a [TensorView<'a>],
    arena: AlignedBytes,
    buffers: Vec<AlignedBytes>,
    heap: Vec<Option<Tensor>>,
}

/// Why a step failed.
#[derive(Debug)]
pub(crate) struct StepError {
    /// Index of the step.
    pub(crate) step: usize,
    pub(crate) source: OpError,
}

impl Plan {
    /// Runs every step and gives the results in the order of `self.outputs`. With `times`, adds how long each step took.
    ///
    /// # Errors
    /// When a step fails.
    pub(crate) fn run(
        &self,
        feeds: &[TensorView<'_>],
        threads: &Threads,
        mut times: Option<&mut [Duration]>,
    ) -> Result<Vec<Tensor>, StepError> {
        let no_memory = |len: usize| StepError {
            step: 0,
            source: OpError::TooLarge { dtype: poda_formats::DataType::U8, shape: vec![len] },
        };
        let buffer = |len: usize| AlignedBytes::try_zeroed(len).ok_or_else(|| no_memory(len));
        let kept = self.arenas.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let arena = kept.map_or_else(|| buffer(self.arena_bytes), Ok)?;
        let buffers = self.buffers.iter().map(|&len| buffer(len)).collect::<Result<Vec<_>, _>>()?;
        let mut state = State { feeds, arena, buffers, heap: vec![None; self.heap] };
        for (index, step) in self.steps.iter().enumerate() {
            let start = times.is_some().then(Instant::now);
            state.step(self, step, threads).map_err(|source| StepError { step: index, source })?;
            if let (Some(start), Some(times)) = (start, times.as_deref_mut()) {
                times[index] += start.elapsed();
            }
        }
        let results = state.results(self);
        self.arenas.lock().unwrap_or_else(PoisonError::into_inner).push(state.arena);
        Ok(results)
    }
}

impl State<'_> {
    fn step(&mut self, plan: &Plan, step: &Step, threads: &Threads) -> Result<(), OpError> {
        let Self { feeds, arena, buffers, heap } = self;
        // Buffers that this step writes are taken out while it reads others.
        let mut taken: SmallVec<[(usize, AlignedBytes); 2]> = SmallVec::new();
        for output in step.outputs.iter().flatten() {
            if let Place::Output(i) = output.place {
                taken.push((i, std::mem::replace(&mut buffers[i], AlignedBytes::zeroed(0))));
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
            guard(|| match &step.call {
                Call::Op(op) => ops::run(op, &inputs, &mut outputs),
                Call::Product(product) => {
                    let input = |i: usize| inputs.get(i).copied().flatten();
                    let x = input(0).ok_or(OpError::MissingInput { index: 0 })?.as_slice()?;
                    let residual = input(1).map(|view| view.as_slice()).transpose()?;
                    product.run(x, residual, planned(&mut outputs), threads);
                    Ok(())
                }
                Call::Attention(attention) => attention.run(&inputs, planned(&mut outputs)),
            })?;
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

    /// What the run gives. A buffer is handed out to the first result that it belongs to; others are copied.
    fn results(&mut self, plan: &Plan) -> Vec<Tensor> {
        let mut results = Vec::with_capacity(plan.outputs.len());
        let mut made: Vec<Option<Tensor>> = vec![None; self.buffers.len()];
        for wanted in &plan.outputs {
            let Operand { place, dtype, shape } = &wanted.operand;
            let tensor = match *place {
                Place::Output(i) => {
                    let tensor = made[i].get_or_insert_with(|| {
                        let buffer = std::mem::replace(&mut self.buffers[i], AlignedBytes::zeroed(0));
                        Tensor::new(*dtype, shape.clone(), Storage::owned(buffer)).expect("sized for it")
                    });
                    tensor.reshaped(shape.clone()).expect("as many elements")
                }
                Place::Heap(i) => self.heap[i].clone().expect("made by a step"),
                Place::Constant(i) => plan.constants[i].reshaped(shape.clone()).expect("as many elements"),
                Place::Feed(i) => {
                    self.feeds[i].to_tensor().reshaped(shape.clone()).expect("as many elements")
                }
                Place::Arena { .. } => unreachable!("results have buffers"),
            };
            results.push(tensor);
        }
        results
    }
}

fn view<'a>(
    operand: &'a Operand,
    plan: &'a Plan,
    feeds: &[TensorView<'a>],
    buffers: &'a [AlignedBytes],
    heap: &'a [Option<Tensor>],
    parts: &Parts<'a>,
) -> Result<TensorView<'a>, OpError> {
    let bytes = match operand.place {
        Place::Heap(i) => return Ok(heap[i].as_ref().expect("made by an earlier step").view()),
        Place::Feed(i) => feeds[i].bytes(),
        Place::Constant(i) => plan.constants[i].bytes(),
        Place::Output(i) => &buffers[i],
        Place::Arena { offset, len } => parts.read(offset, len),
    };
    Ok(TensorView::from_bytes(operand.dtype, &operand.shape, bytes)?)
}

/// The elements of the one output of a step whose shapes are known.
fn planned<'a>(outputs: &'a mut [Output<'_>]) -> &'a mut [f32] {
    match outputs {
        [Output::Planned { bytes, .. }] => bytemuck::cast_slice_mut(bytes),
        other => unreachable!("{other:?} is not one planned output"),
    }
}
