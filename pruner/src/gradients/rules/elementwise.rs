//! Elementwise functions of several inputs: each gradient is summed over what its input was broadcast along.

use poda_formats::ValueId;
use poda_formats::op::{Binary, Op, Unary, Variadic};

use super::{Call, Inputs};
use crate::gradients::{Emit, Refusal};

/// The gradient of an input from one of the shape of the result.
fn back(e: &mut Emit, gradient: ValueId, input: ValueId) -> Result<Option<ValueId>, Refusal> {
    let shape = e.shape(input)?;
    e.sum_to(gradient, &shape).map(Some)
}

pub(super) fn binary(e: &mut Emit, call: &Call<'_>) -> Inputs {
    let Op::Binary(function) = call.node.op else { return Err(Refusal::NoRule) };
    let (a, b, y) = (call.input(0)?, call.input(1)?, call.output()?);
    let wants = [a, b].map(|id| e.wants(Some(id)));
    let mut gradients = [None, None];
    let flows = match function {
        Binary::Add | Binary::Sub | Binary::Mul | Binary::Div | Binary::Pow | Binary::PRelu => true,
        Binary::Mod { .. } => {
            if wants[1] {
                return Err(Refusal::Unsupported("it flows into a divisor"));
            }
            true
        }
        Binary::And
        | Binary::Or
        | Binary::Xor
        | Binary::BitwiseAnd
        | Binary::BitwiseOr
        | Binary::BitwiseXor
        | Binary::BitShift { .. }
        | Binary::Equal
        | Binary::Greater
        | Binary::GreaterOrEqual
        | Binary::Less
        | Binary::LessOrEqual => false,
    };
    if !flows {
        return Ok(Vec::new());
    }
    let g = call.gradient()?;
    if wants[0] {
        gradients[0] = Some(match function {
            Binary::Mul => e.mul(g, b)?,
            Binary::Div => e.div(g, b)?,
            Binary::Pow => {
                // b · a^(b − 1)
                let exponent = e.shift(b, -1.0)?;
                let power = e.node(Op::Binary(Binary::Pow), &[a, exponent])?;
                let slope = e.mul(b, power)?;
                e.mul(g, slope)?
            }
            Binary::PRelu => {
                let (zero, other) = (e.number(0.0, a)?, e.mul(g, b)?);
                let positive = e.node(Op::Binary(Binary::GreaterOrEqual), &[a, zero])?;
                e.choose(positive, g, other)?
            }
            _ => g,
        });
    }
    if wants[1] {
        gradients[1] = Some(match function {
            Binary::Sub => e.unary(Unary::Neg, g)?,
            Binary::Mul => e.mul(g, a)?,
            Binary::Div => {
                // −y / b
                let slope = e.div(y, b)?;
                let slope = e.mul(g, slope)?;
                e.unary(Unary::Neg, slope)?
            }
            Binary::Pow => {
                // y · ln a
                let logarithm = e.unary(Unary::Log, a)?;
                let slope = e.mul(y, logarithm)?;
                e.mul(g, slope)?
            }
            Binary::PRelu => {
                let product = e.mul(g, a)?;
                e.keep_where(product, a, Binary::Less, 0.0)?
            }
            _ => g,
        });
    }
    let mut made = Vec::with_capacity(2);
    for (gradient, input) in gradients.into_iter().zip([a, b]) {
        made.push(match gradient {
            Some(gradient) => back(e, gradient, input)?,
            None => None,
        });
    }
    Ok(made)
}

/// Of equal greatest (or least) elements each gets the whole gradient.
pub(super) fn variadic(e: &mut Emit, call: &Call<'_>) -> Inputs {
    let Op::Variadic(function) = call.node.op else { return Err(Refusal::NoRule) };
    let (y, g) = (call.output()?, call.gradient()?);
    let mut made = Vec::with_capacity(call.node.inputs.len());
    for &input in &call.node.inputs {
        let Some(input) = input.filter(|&input| e.wants(Some(input))) else {
            made.push(None);
            continue;
        };
        let gradient = match function {
            Variadic::Sum => g,
            Variadic::Mean => e.scale(g, 1.0 / call.node.inputs.len() as f64)?,
            Variadic::Max | Variadic::Min => where_equal(e, g, input, y)?,
        };
        made.push(back(e, gradient, input)?);
    }
    Ok(made)
}

/// `g` where `x = y`, 0 elsewhere.
fn where_equal(e: &mut Emit, g: ValueId, x: ValueId, y: ValueId) -> Result<ValueId, Refusal> {
    let zero = e.number(0.0, g)?;
    let equal = e.node(Op::Binary(Binary::Equal), &[x, y])?;
    e.choose(equal, g, zero)
}

pub(super) fn clip(e: &mut Emit, call: &Call<'_>) -> Inputs {
    if e.wants(call.node.input(1)) || e.wants(call.node.input(2)) {
        return Err(Refusal::Unsupported("it flows into a bound"));
    }
    let (x, y, g) = (call.input(0)?, call.output()?, call.gradient()?);
    Ok(vec![Some(where_equal(e, g, x, y)?)])
}

pub(super) fn choose(e: &mut Emit, call: &Call<'_>) -> Inputs {
    let (condition, x, y, g) = (call.input(0)?, call.input(1)?, call.input(2)?, call.gradient()?);
    let zero = e.number(0.0, g)?;
    let mut made = vec![None; 3];
    if e.wants(Some(x)) {
        let gradient = e.choose(condition, g, zero)?;
        made[1] = back(e, gradient, x)?;
    }
    if e.wants(Some(y)) {
        let gradient = e.choose(condition, zero, g)?;
        made[2] = back(e, gradient, y)?;
    }
    Ok(made)
}

pub(super) fn cast(e: &mut Emit, call: &Call<'_>) -> Inputs {
    let to = e.dtype(call.input(0)?)?;
    Ok(vec![Some(e.node(Op::Cast { to }, &[call.gradient()?])?)])
}
