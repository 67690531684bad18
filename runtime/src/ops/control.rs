//! Control flow: If and Loop. Bodies are run node by node.

mod body;

use poda_formats::dtype::Boolean;
use poda_formats::storage::{AlignedBytes, Storage};
use poda_formats::tensor::checked_bytes;
use poda_formats::{DataType, Graph, Tensor, TensorView};

use super::args::{Infos, integers, optional, required};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;
use body::{Body, Slot, infer_body};

/// Iterations after which a Loop counts as one that never ends.
const MOST_ITERATIONS: i64 = 10_000_000;

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

pub(super) fn if_else(
    then_branch: &Graph,
    else_branch: &Graph,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let branch = if truth(required(inputs, 0)?, 0)? { then_branch } else { else_branch };
    let captures = inputs[1..].iter().map(|view| view.map(Slot::View)).collect();
    let results = Body::new(branch)?.run(captures, outputs.len())?;
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

pub(super) fn infer_loop_body(
    body: &Graph,
    carried: usize,
    inputs: &Infos<'_>,
    outputs: usize,
) -> Result<Vec<Info>, OpError> {
    check_loop(body, carried, inputs.len(), outputs)?;
    let mut infos: Vec<Option<Info>> = inputs.iter().map(|info| info.cloned()).collect();
    infos[0] = Some(Info::new(DataType::I64, vec![]));
    infos[1] = Some(Info::new(DataType::Bool, vec![]));
    for info in infos[2..2 + carried].iter_mut().flatten() {
        info.value = None;
    }
    // A carried value whose shape changes has none; that can make others change, at most each once.
    for _ in 0..=carried {
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
            let carried_infos = infos[2..2 + carried].iter().flatten().cloned();
            let scans = results[1 + carried..].iter().map(|info| Info::dynamic(info.dtype));
            return Ok(carried_infos.chain(scans).collect());
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
    fn push(&mut self, tensor: &Tensor) -> Result<(), OpError> {
        let found = (tensor.dtype(), tensor.shape());
        if self.bytes.is_empty() {
            (self.dtype, self.shape) = (found.0, found.1.to_vec());
        } else if found != (self.dtype, &self.shape[..]) {
            return Err(OpError::Invalid(format!(
                "a scan output of a Loop was {} {:?} and became {} {:?}",
                self.dtype, self.shape, found.0, found.1
            )));
        }
        if self.bytes.len() + tensor.bytes().len() > crate::memory::limit() {
            return Err(OpError::TooLarge { dtype: self.dtype, shape: self.shape.clone() });
        }
        self.bytes.extend_from_slice(tensor.bytes());
        Ok(())
    }

    fn into_tensor(self, iterations: usize) -> Result<Tensor, OpError> {
        let shape = [&[iterations], &self.shape[..]].concat();
        let expected = checked_bytes(self.dtype, &shape);
        if expected != Some(self.bytes.len()) {
            return Err(OpError::TooLarge { dtype: self.dtype, shape });
        }
        Ok(Tensor::new(self.dtype, shape, Storage::owned(AlignedBytes::copy_of(&self.bytes)))?)
    }
}

pub(super) fn loop_body(
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
    let runner = Body::new(body)?;
    let mut state = Vec::with_capacity(carried);
    for index in 2..2 + carried {
        state.push(required(inputs, index)?.to_tensor());
    }
    let mut scans = scans(body, carried, inputs)?;
    let mut iteration = 0;
    while going && trips.is_none_or(|trips| iteration < trips) {
        if iteration == MOST_ITERATIONS {
            return Err(OpError::OutOfRange { name: "iteration", value: iteration, bound: MOST_ITERATIONS });
        }
        let (number, condition) = (Tensor::scalar(iteration), Tensor::scalar(Boolean::from(going)));
        let mut args = vec![Some(Slot::Owned(number)), Some(Slot::Owned(condition))];
        args.extend(state.drain(..).map(|tensor| Some(Slot::Owned(tensor))));
        args.extend(inputs[2 + carried..].iter().map(|view| view.map(Slot::View)));
        let mut results = runner.run(args, outputs.len() + 1)?.into_iter();
        going = results.next().map_or(Ok(false), |tensor| truth(tensor.view(), 1))?;
        state.extend(results.by_ref().take(carried));
        scans.iter_mut().zip(results).try_for_each(|(scan, tensor)| scan.push(&tensor))?;
        iteration += 1;
    }
    let (values, rest) = outputs.split_at_mut(carried);
    values.iter_mut().zip(&state).try_for_each(|(output, tensor)| give(output, tensor))?;
    for (output, scan) in rest.iter_mut().zip(scans) {
        give(output, &scan.into_tensor(iteration as usize)?)?;
    }
    Ok(())
}

/// Empty scan outputs, of the types and shapes that the body's results are expected to have.
fn scans(body: &Graph, carried: usize, inputs: &Inputs<'_>) -> Result<Vec<Scan>, OpError> {
    let mut infos: Vec<Option<Info>> =
        inputs.iter().map(|view| view.map(|view| Info::new(view.dtype(), view.shape().to_vec()))).collect();
    infos[0] = Some(Info::new(DataType::I64, vec![]));
    infos[1] = Some(Info::new(DataType::Bool, vec![]));
    let scan =
        |info: Info| Scan { dtype: info.dtype, shape: info.shape.unwrap_or_default(), bytes: Vec::new() };
    let results = infer_body(body, infos, body.outputs.len())?;
    Ok(results.into_iter().skip(1 + carried).map(scan).collect())
}

#[cfg(test)]
mod tests;
