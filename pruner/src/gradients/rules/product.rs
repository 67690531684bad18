//! Matrix products: `dA = dY · Bᵀ`, `dB = Aᵀ · dY`.

use poda_formats::ValueId;
use poda_formats::op::Op;
use poda_formats::op::einsum::Equation;

use super::{Call, Inputs};
use crate::gradients::{Emit, Refusal};

pub(super) fn matmul(e: &mut Emit, call: &Call<'_>) -> Inputs {
    let (a, b, g) = (call.input(0)?, call.input(1)?, call.gradient()?);
    let (a_shape, b_shape) = (e.shape(a)?, e.shape(b)?);
    let (wants_a, wants_b) = (e.wants(Some(a)), e.wants(Some(b)));
    // A vector is a matrix of one row on the left, of one column on the right.
    let rows = if a_shape.len() == 1 { [&[1], &a_shape[..]].concat() } else { a_shape.clone() };
    let columns = if b_shape.len() == 1 { [&b_shape[..], &[1]].concat() } else { b_shape.clone() };
    let (m, k, n) = (rows[rows.len() - 2], rows[rows.len() - 1], columns[columns.len() - 1]);
    if columns.len() == 2 {
        // The same matrix for the whole batch: one tall product.
        let tall: usize = rows[..rows.len() - 1].iter().product();
        let (flat_a, matrix, g) =
            (e.reshape(a, &[tall, k])?, e.reshape(b, &[k, n])?, e.reshape(g, &[tall, n])?);
        let mut gradients = vec![None, None];
        if wants_a {
            let gradient = e.gemm(g, false, matrix, true)?;
            gradients[0] = Some(e.reshape(gradient, &a_shape)?);
        }
        if wants_b {
            let gradient = e.gemm(flat_a, true, g, false)?;
            gradients[1] = Some(e.reshape(gradient, &b_shape)?);
        }
        return Ok(gradients);
    }
    let output = e.shape(g)?;
    let matrices = usize::from(a_shape.len() > 1) + usize::from(b_shape.len() > 1);
    let batch = &output[..output.len() - matrices];
    let (a2, b2, g) =
        (e.reshape(a, &rows)?, e.reshape(b, &columns)?, e.reshape(g, &[batch, &[m, n]].concat())?);
    let mut gradients = vec![None, None];
    if wants_a {
        let other = e.matrix_transpose(b2)?;
        let gradient = e.matmul(g, other)?;
        let gradient = e.sum_to(gradient, &rows)?;
        gradients[0] = Some(e.reshape(gradient, &a_shape)?);
    }
    if wants_b {
        let other = e.matrix_transpose(a2)?;
        let gradient = e.matmul(other, g)?;
        let gradient = e.sum_to(gradient, &columns)?;
        gradients[1] = Some(e.reshape(gradient, &b_shape)?);
    }
    Ok(gradients)
}

pub(super) fn gemm(e: &mut Emit, call: &Call<'_>) -> Inputs {
    let Op::Gemm { alpha, beta, trans_a, trans_b } = call.node.op else { return Err(Refusal::NoRule) };
    let (a, b, c, g) = (call.input(0)?, call.input(1)?, call.node.input(2), call.gradient()?);
    let mut gradients = vec![None; 3];
    if e.wants(Some(a)) {
        let gradient = if trans_a { e.gemm(b, trans_b, g, true)? } else { e.gemm(g, false, b, !trans_b)? };
        gradients[0] = Some(e.scale(gradient, alpha.into())?);
    }
    if e.wants(Some(b)) {
        let gradient = if trans_b { e.gemm(g, true, a, trans_a)? } else { e.gemm(a, !trans_a, g, false)? };
        gradients[1] = Some(e.scale(gradient, alpha.into())?);
    }
    if let Some(c) = c.filter(|&c| e.wants(Some(c))) {
        let shape = e.shape(c)?;
        let sum = e.sum_to(g, &shape)?;
        gradients[2] = Some(e.scale(sum, beta.into())?);
    }
    Ok(gradients)
}

/// The gradient of an operand is the einsum of the result's with all others, in the operand's letters.
pub(super) fn einsum(e: &mut Emit, call: &Call<'_>) -> Inputs {
    let Op::Einsum { equation } = &call.node.op else { return Err(Refusal::NoRule) };
    let parsed = Equation::parse(equation).map_err(|_| Refusal::Unsupported("its equation is damaged"))?;
    let all = parsed.inputs.iter().chain(&parsed.output);
    if all.clone().any(|term| term.after.is_some()) {
        return Err(Refusal::Unsupported("its equation has `...`"));
    }
    let terms: Vec<Vec<char>> = parsed.inputs.iter().map(|term| term.before.clone()).collect();
    let (output, g) = (parsed.output_letters(), call.gradient()?);
    let mut gradients = vec![None; terms.len()];
    for (index, term) in terms.iter().enumerate() {
        let id = call.input(index)?;
        if !e.wants(Some(id)) {
            continue;
        }
        if term.iter().enumerate().any(|(i, letter)| term[..i].contains(letter)) {
            return Err(Refusal::Unsupported("its equation takes a diagonal"));
        }
        let mut others: Vec<ValueId> = vec![g];
        let mut letters = vec![output.iter().collect::<String>()];
        for (i, other) in terms.iter().enumerate().filter(|&(i, _)| i != index) {
            others.push(call.input(i)?);
            letters.push(other.iter().collect());
        }
        // A letter that nothing else has was summed over alone.
        let given = |letter: &char| letters.iter().any(|term| term.contains(*letter));
        let kept: String = term.iter().filter(|letter| given(letter)).collect();
        let equation = format!("{}->{kept}", letters.join(","));
        let gradient = e.node(Op::Einsum { equation }, &others)?;
        let shape = e.shape(id)?;
        let kept: Vec<usize> =
            term.iter().zip(&shape).map(|(letter, &size)| if given(letter) { size } else { 1 }).collect();
        let gradient = e.reshape(gradient, &kept)?;
        gradients[index] = Some(e.expand(gradient, &shape)?);
    }
    Ok(gradients)
}
