//! What a run gives: tensors of its own, or the caller's buffers filled.

use poda_formats::storage::{AlignedBytes, Storage};
use poda_formats::{Tensor, TensorView, TensorViewMut};
use smallvec::{SmallVec, smallvec};

use super::{Executable, RunError};
use crate::memory;
use crate::plan::{Between, Buffers, Operand, Place, Plan, PlanError};

impl Executable {
    /// Runs a plan and gives its results, in the order of `plan.outputs`. Those that share a buffer share the memory.
    pub(super) fn results(
        &self,
        plan: &Plan,
        feeds: &[TensorView<'_>],
        between: &mut Between<'_>,
    ) -> Result<Vec<Tensor>, RunError> {
        let no_memory = || PlanError::Memory { limit: memory::limit() };
        let buffer = |&len: &usize| AlignedBytes::try_zeroed(len).ok_or_else(no_memory);
        let mut buffers = plan.buffers.iter().map(buffer).collect::<Result<Vec<_>, _>>()?;
        let others: Vec<Option<Tensor>> = {
            let places = buffers.iter_mut().map(|buffer| &mut buffer[..]).collect();
            let mut run = Self::begin(plan, feeds, places)?;
            self.steps(&mut run, plan, between).map_err(|halt| Self::error(plan, halt))?;
            plan.outputs.iter().map(|wanted| run.tensor(&wanted.operand)).collect()
        };
        let buffers: Vec<Storage> = buffers.into_iter().map(Storage::owned).collect();
        let result = |(other, operand): (Option<Tensor>, &Operand)| {
            other.unwrap_or_else(|| {
                let Place::Output(i) = operand.place else { unreachable!("results have buffers") };
                let storage = buffers[i].clone();
                Tensor::new(operand.dtype, operand.shape.clone(), storage).expect("sized for it")
            })
        };
        Ok(others.into_iter().zip(plan.outputs.iter().map(|wanted| &wanted.operand)).map(result).collect())
    }

    /// Runs a plan and leaves its results in the caller's buffers. The first result that has a buffer of the plan is written in place,
    /// others that share it are copied.
    pub(super) fn results_into(
        &self,
        plan: &Plan,
        feeds: &[TensorView<'_>],
        outputs: &mut [(&str, TensorViewMut<'_>)],
    ) -> Result<(), RunError> {
        let name = |at: usize| self.graph.value(plan.outputs[at].id).name.as_str();
        let named = |at: usize, given: &str| name(at) == given;
        for (i, (given, _)) in outputs.iter().enumerate() {
            if !(0..plan.outputs.len()).any(|at| named(at, given)) {
                let outputs = (0..plan.outputs.len()).map(|at| name(at).to_owned()).collect();
                return Err(RunError::UnknownOutput { name: (*given).to_owned(), outputs });
            }
            if outputs[..i].iter().any(|(other, _)| other == given) {
                return Err(RunError::DuplicateOutput { name: (*given).to_owned() });
            }
        }
        // For each of the plan's buffers who gives it, and for the others what is copied there.
        let mut giver: SmallVec<[Option<usize>; 4]> = smallvec![None; plan.buffers.len()];
        let mut copied: SmallVec<[(usize, usize); 4]> = SmallVec::new();
        for (at, wanted) in plan.outputs.iter().enumerate() {
            let Some(i) = outputs.iter().position(|(given, _)| named(at, given)) else {
                return Err(RunError::MissingOutput { name: name(at).to_owned() });
            };
            let operand = &wanted.operand;
            if !matches!(operand.place, Place::Heap(_)) {
                check_buffer(name(at), (operand.dtype, &operand.shape), &outputs[i].1)?;
            }
            match operand.place {
                Place::Output(buffer) if giver[buffer].is_none() => giver[buffer] = Some(i),
                Place::Output(buffer) if giver[buffer] == Some(i) => {}
                _ => copied.push((at, i)),
            }
        }
        let mut own: SmallVec<[Option<&mut [u8]>; 8]> = SmallVec::new();
        let mut shapes: SmallVec<[(poda_formats::DataType, &[usize]); 8]> = SmallVec::new();
        for (_, view) in outputs.iter_mut() {
            shapes.push((view.dtype(), view.shape()));
            own.push(Some(view.bytes_mut()));
        }
        let taken =
            giver.iter().map(|i| i.and_then(|i| own[i].take()).expect("every buffer is some output's"));
        let buffers: Buffers<'_> = taken.collect();
        let mut run = Self::begin(plan, feeds, buffers)?;
        self.steps(&mut run, plan, &mut Between::default()).map_err(|halt| Self::error(plan, halt))?;
        for (at, i) in copied {
            let value = run.value(&plan.outputs[at].operand).expect("it has been made");
            let found = shapes[i];
            if (value.dtype(), value.shape()) != found {
                let expected = (value.dtype(), value.shape().to_vec());
                return Err(RunError::Buffer {
                    name: name(at).to_owned(),
                    expected,
                    found: (found.0, found.1.to_vec()),
                });
            }
            if let Some(to) = &mut own[i] {
                to.copy_from_slice(value.bytes());
            }
        }
        Ok(())
    }
}

fn check_buffer(
    name: &str,
    (dtype, shape): (poda_formats::DataType, &[usize]),
    view: &TensorViewMut<'_>,
) -> Result<(), RunError> {
    if (view.dtype(), view.shape()) == (dtype, shape) {
        return Ok(());
    }
    let found = (view.dtype(), view.shape().to_vec());
    Err(RunError::Buffer { name: name.to_owned(), expected: (dtype, shape.to_vec()), found })
}
