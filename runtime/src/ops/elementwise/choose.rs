//! Where.

use poda_formats::{Boolean, DataType};

use super::broadcast::Broadcast;
use crate::info::Info;
use crate::ops::args::{Infos, broadcast, broadcast_infos, one, required};
use crate::ops::number::with_width;
use crate::ops::{Inputs, OpError};
use crate::output::Output;
use crate::threads::share::cost;

fn check_types(condition: DataType, x: DataType, y: DataType) -> Result<(), OpError> {
    if condition != DataType::Bool {
        return Err(OpError::InputType { index: 0, expected: "bool", found: condition });
    }
    if x == y { Ok(()) } else { Err(OpError::InputType { index: 2, expected: x.name(), found: y }) }
}

pub(in crate::ops) fn infer_choose(inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let (condition, x, y) = (required(inputs, 0)?, required(inputs, 1)?, required(inputs, 2)?);
    check_types(condition.dtype, x.dtype, y.dtype)?;
    Ok(one(x.dtype, broadcast_infos(&[condition, x, y])?))
}

pub(in crate::ops) fn choose(inputs: &Inputs<'_>, outputs: &mut [Output<'_>]) -> Result<(), OpError> {
    let (condition, x, y) = (required(inputs, 0)?, required(inputs, 1)?, required(inputs, 2)?);
    check_types(condition.dtype(), x.dtype(), y.dtype())?;
    let shape = broadcast(&broadcast(condition.shape(), x.shape())?, y.shape())?;
    let layout = Broadcast::new(&shape, [condition.shape(), x.shape(), y.shape()]);
    let conditions = condition.as_slice::<Boolean>()?;
    let bytes = outputs[0].alloc_bytes(x.dtype(), &shape)?;
    with_width!(x.dtype(), T => {
        let (x, y) = (bytemuck::cast_slice::<u8, T>(x.bytes()), bytemuck::cast_slice::<u8, T>(y.bytes()));
        layout.for_each(bytemuck::cast_slice_mut::<u8, T>(bytes), cost::ARITHMETIC, &|output, [condition, from_x, from_y]| {
            pick(output, &conditions[condition], &x[from_x], &y[from_y]);
        });
    });
    Ok(())
}

/// `output[i] = if condition[i] { x[i] } else { y[i] }`; slices of one element repeat.
fn pick<T: Copy>(output: &mut [T], condition: &[Boolean], x: &[T], y: &[T]) {
    match (condition, x, y) {
        (&[c], _, _) => match if c.get() { x } else { y } {
            &[one] => output.fill(one),
            many => output.copy_from_slice(many),
        },
        (c, &[x], &[y]) => {
            output.iter_mut().zip(c).for_each(|(to, c)| *to = if c.get() { x } else { y });
        }
        (c, x, &[y]) => {
            let from = c.iter().zip(x);
            output.iter_mut().zip(from).for_each(|(to, (c, &x))| *to = if c.get() { x } else { y });
        }
        (c, &[x], y) => {
            let from = c.iter().zip(y);
            output.iter_mut().zip(from).for_each(|(to, (c, &y))| *to = if c.get() { x } else { y });
        }
        (c, x, y) => {
            let from = c.iter().zip(x.iter().zip(y));
            output.iter_mut().zip(from).for_each(|(to, (c, (&x, &y)))| *to = if c.get() { x } else { y });
        }
    }
}
