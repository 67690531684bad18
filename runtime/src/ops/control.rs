//! Control flow: If and Loop. Bodies are run node by node here, and by plans of their own in `plan::lower::control`.

mod body;
mod limit;

use poda_formats::dtype::Boolean;
use poda_formats::{DataType, Graph, Tensor, TensorView};

use super::args::{Infos, integers, optional, required};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;
use body::infer_body;
pub(crate) use body::{Body, Once, RunBody, Slot};
use limit::Iterations;

/// Iterations that inferring shapes through one node of a body takes as long as.
const INFERENCE: usize = 10;

/// Writes a result of a body to an output.
fn give(output: &mut Output<'_>, tensor: &Tensor) -> Result<(), OpError> {
    if output.is_used() {
        output.alloc_bytes(tensor.dtype(), tensor.shape())?.copy_from_slice(tensor.bytes());
    }
    Ok(())
}

/// The single truth value that `view`, input `index`, holds.
fn truth(view: TensorView<'_>, index: usize) -> Result<bool, OpError> {
    let found = view.dtype();
    let values = view.as_slice::<Boolean>();
    let values = values.map_err(|_| OpError::InputType { index, expected: "bool", found })?;
    match values {
        [value] => Ok(value.get()),
        _ => Err(super::facts::bad_shape(index, view.shape(), "expected one element")),
    }
}

pub(super) fn infer_if_else(
    then_branch: &Graph,
    else_branch: &Graph,
    inputs: &Infos<'_>,
    outputs: usize,
) -> Result<Vec<Info>, OpError> {
    let condition = required(inputs, 0)?;
    let captures = || inputs[1..].iter().map(|info| info.cloned()).collect::<Vec<_>>();
    if let Some(value) = &condition.value {
        let branch = if truth(value.view(), 0)? { then_branch } else { else_branch };
        return infer_body(branch, captures(), outputs);
    }
    let branches =
        (infer_body(then_branch, captures(), outputs), infer_body(else_branch, captures(), outputs));
    let (a, b) = match branches {
        (Ok(a), Ok(b)) => (a, b),
        (Err(error @ OpError::Unsupported { .. }), _) | (_, Err(error @ OpError::Unsupported { .. })) => {
            return Err(error);
        }
        // A branch that does not fit these shapes is one that will not be taken.
        (Ok(only), Err(_)) | (Err(_), Ok(only)) => return Ok(only),
        (Err(error), Err(_)) => return Err(error),
    };
    a.into_iter()
        .zip(b)
        .map(|(a, b)| {
            if a.dtype != b.dtype {
                return Err(OpError::Invalid(format!("the branches give {} and {}", a.dtype, b.dtype)));
            }
            Ok(Info { dtype: a.dtype, shape: a.shape.filter(|s| Some(s) == b.shape.as_ref()), value: None })
        })
        .collect()
}

pub(crate) fn if_else(
    then_branch: &dyn RunBody,
    else_branch: &dyn RunBody,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let branch = if truth(required(inputs, 0)?, 0)? { then_branch } else { else_branch };
    let captures = inputs[1..].iter().map(|view| view.map(Slot::View)).collect();
    let results = branch.run(captures, outputs.len())?;
    outputs.iter_mut().zip(&results).try_for_each(|(output, result)| give(output, result))
}

/// The number of loop-carried values that fits both the node and its body.
fn check_loop(body: &Graph, carried: usize, inputs: usize, outputs: usize) -> Result<(), OpError> {
    let (formal, given) = (body.inputs.len(), body.outputs.len());
    if formal != inputs || given != outputs + 1 || carried.saturating_add(2) > inputs || carried > outputs {
        return Err(OpError::Invalid(format!(
            "a Loop with {inputs} inputs, {outputs} outputs and {carried} carried values does not fit its body with \
             {formal} inputs and {given} outputs"
        )));
    }
    Ok(())
}

/// Facts about the inputs of a body in every iteration, from facts about those of its Loop.
pub(crate) fn carried_infos(
    body: &Graph,
    carried: usize,
    inputs: &[Option<Info>],
) -> Option<Vec<Option<Info>>> {
    let outputs = body.outputs.len().checked_sub(1)?;
    check_loop(body, carried, inputs.len(), outputs).ok()?;
    settle(body, carried, inputs.to_vec(), outputs).ok().map(|(infos, _)| infos)
}

pub(super) fn infer_loop_body(
    body: &Graph,
    carried: usize,
    inputs: &Infos<'_>,
    outputs: usize,
) -> Result<Vec<Info>, OpError> {
    check_loop(body, carried, inputs.len(), outputs)?;
    let infos: Vec<Option<Info>> = inputs.iter().map(|info| info.cloned()).collect();
    let (infos, results) = settle(body, carried, infos, outputs)?;
    let carried_infos = infos[2..2 + carried].iter().flatten().cloned();
    let scans = results[1 + carried..].iter().map(|info| Info::dynamic(info.dtype));
    Ok(carried_infos.chain(scans).collect())
}

/// Facts about the inputs of a body that hold in every iteration, and about its results.
fn settle(
    body: &Graph,
    carried: usize,
    mut infos: Vec<Option<Info>>,
    outputs: usize,
) -> Result<(Vec<Option<Info>>, Vec<Info>), OpError> {
    infos[0] = Some(Info::new(DataType::I64, vec![]));
    infos[1] = Some(Info::new(DataType::Bool, vec![]));
    for info in infos[2..2 + carried].iter_mut().flatten() {
        info.value = None;
    }
    // A carried value whose shape changes has none; that can make others change, at most each once.
    let _iterations = Iterations::start();
    for _ in 0..=carried {
        Iterations::count(INFERENCE * (1 + body.nodes.len()))?;
        let results = infer_body(body, infos.clone(), outputs + 1)?;
        let mut stable = true;
        for (index, (info, result)) in infos[2..].iter_mut().zip(&results[1..]).take(carried).enumerate() {
            let Some(info) = info else { return Err(OpError::MissingInput { index: 2 + index }) };
            if info.dtype != result.dtype {
                return Err(OpError::InputType {
                    index: 2 + index,
                    expected: result.dtype.name(),
                    found: info.dtype,
                });
            }
            if info.shape.is_some() && info.shape != result.shape {
                info.shape = None;
                stable = false;
            }
        }
        if stable {
            return Ok((infos, results));
        }
    }
    Err(OpError::Invalid("the shapes in a Loop never settle".to_owned()))
}

/// One result of a body from every iteration, one after the other.
struct Scan {
    dtype: DataType,
    /// Of one iteration.
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Scan {
    /// Appends the result of one more iteration to those of the iterations so far, if any.
    fn push(scan: &mut Option<Self>, tensor: &Tensor) -> Result<(), OpError> {
        let (dtype, shape) = (tensor.dtype(), tensor.shape());
        let scan = scan.get_or_insert_with(|| Self { dtype, shape: shape.to_vec(), bytes: Vec::new() });
        if (dtype, shape) != (scan.dtype, &scan.shape) {
            return Err(OpError::Invalid(format!(
                "a scan output of a Loop was {} {:?} and became {dtype} {shape:?}",
                scan.dtype, scan.shape
            )));
        }
        let bytes = tensor.bytes();
        let fits = scan.bytes.len() + bytes.len() <= crate::memory::limit();
        // What cannot be had is an error of this run, not the end of the process.
        if !fits || scan.bytes.try_reserve(bytes.len()).is_err() {
            return Err(OpError::TooLarge { dtype, shape: shape.to_vec() });
        }
        scan.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn give(&self, output: &mut Output<'_>, iterations: usize) -> Result<(), OpError> {
        if output.is_used() {
            let shape = [&[iterations], &self.shape[..]].concat();
            output.alloc_bytes(self.dtype, &shape)?.copy_from_slice(&self.bytes);
        }
        Ok(())
    }
}

pub(crate) fn loop_body(
    runner: &dyn RunBody,
    body: &Graph,
    carried: usize,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    check_loop(body, carried, inputs.len(), outputs.len())?;
    let trips = match optional(inputs, 0) {
        None => None,
        Some(view) => match integers(view, 0)?[..] {
            [count] => Some(count),
            _ => return Err(super::facts::bad_shape(0, view.shape(), "expected one element")),
        },
    };
    let mut going = optional(inputs, 1).map_or(Ok(true), |view| truth(view, 1))?;
    let mut state = Vec::with_capacity(carried);
    for index in 2..2 + carried {
        state.push(required(inputs, index)?.to_tensor());
    }
    let mut scans: Vec<Option<Scan>> = (carried..outputs.len()).map(|_| None).collect();
    let mut iteration = 0;
    let _iterations = Iterations::start();
    while going && trips.is_none_or(|trips| iteration < trips) {
        Iterations::count(1)?;
        let (number, condition) = (Tensor::scalar(iteration), Tensor::scalar(Boolean::from(going)));
        let mut args = vec![Some(Slot::Owned(number)), Some(Slot::Owned(condition))];
        args.extend(state.drain(..).map(|tensor| Some(Slot::Owned(tensor))));
        args.extend(inputs[2 + carried..].iter().map(|view| view.map(Slot::View)));
        let mut results = runner.run(args, outputs.len() + 1)?.into_iter();
        going = results.next().map_or(Ok(false), |tensor| truth(tensor.view(), 1))?;
        state.extend(results.by_ref().take(carried));
        scans.iter_mut().zip(results).try_for_each(|(scan, tensor)| Scan::push(scan, &tensor))?;
        iteration += 1;
    }
    let (values, rest) = outputs.split_at_mut(carried);
    values.iter_mut().zip(&state).try_for_each(|(output, tensor)| give(output, tensor))?;
    if iteration == 0 {
        scans = empty_scans(body, carried, inputs)?;
    }
    for (output, scan) in rest.iter_mut().zip(scans.iter().flatten()) {
        scan.give(output, iteration as usize)?;
    }
    Ok(())
}

/// The scan outputs of no iteration, of the types and shapes that the body's results would have.
fn empty_scans(body: &Graph, carried: usize, inputs: &Inputs<'_>) -> Result<Vec<Option<Scan>>, OpError> {
    let mut infos: Vec<Option<Info>> =
        inputs.iter().map(|view| view.map(|view| Info::new(view.dtype(), view.shape().to_vec()))).collect();
    infos[0] = Some(Info::new(DataType::I64, vec![]));
    infos[1] = Some(Info::new(DataType::Bool, vec![]));
    let scan = |info: Info| {
        Some(Scan { dtype: info.dtype, shape: info.shape.unwrap_or_default(), bytes: Vec::new() })
    };
    let results = infer_body(body, infos, body.outputs.len())?;
    Ok(results.into_iter().skip(1 + carried).map(scan).collect())
}

#[cfg(test)]
mod tests;
