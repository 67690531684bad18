//! Pools. The greatest element of a window gets its gradient; an average hands it out evenly over its window, which is a
//! transposed convolution with ones.

use poda_formats::op::{Op, PoolAttributes, ScatterReduction};
use poda_formats::{Tensor, ValueId};
use poda_runtime::{Output, ops};

use super::convolution::{Axis, axes, image_gradient};
use super::reduction::share_of_equal;
use super::{Call, Inputs};
use crate::gradients::{Emit, Refusal};

pub(super) fn max(e: &mut Emit, call: &Call<'_>) -> Inputs {
    let Op::Pool(PoolAttributes { column_major, .. }) = &call.node.op else { return Err(Refusal::NoRule) };
    if *column_major {
        return Err(Refusal::Unsupported("its indices count in columns"));
    }
    let (x, g) = (call.input(0)?, call.gradient()?);
    let (shape, pooled) = (e.shape(x)?, e.shape(g)?);
    let indices = match call.node.output(1) {
        Some(indices) => indices,
        None => e.further_output(call.index, &pooled),
    };
    let (len, count) = (shape.iter().product(), pooled.iter().product());
    let zeros = e.zeros(&[len], x)?;
    let (indices, updates) = (e.reshape(indices, &[count])?, e.reshape(g, &[count])?);
    let scatter = Op::ScatterElements { axis: 0, reduction: ScatterReduction::Add };
    let sum = e.node(scatter, &[zeros, indices, updates])?;
    Ok(vec![Some(e.reshape(sum, &shape)?)])
}

pub(super) fn average(e: &mut Emit, call: &Call<'_>) -> Inputs {
    let Op::Pool(pool) = &call.node.op else { return Err(Refusal::NoRule) };
    let (x, g) = (call.input(0)?, call.gradient()?);
    let (shape, pooled) = (e.shape(x)?, e.shape(g)?);
    let slide = [&pool.strides[..], &pool.dilations];
    let axes = axes(&shape[2..], &pooled[2..], &pool.kernel, slide, &pool.padding);
    let shares = shares(pool, &axes)?;
    let shares = e.numbers(&shares, &[&[1, 1], &pooled[2..]].concat(), g)?;
    let g = e.mul(g, shares)?;
    // Each channel on its own: an image of one channel.
    let images = shape[0] * shape[1];
    let flat = e.reshape(g, &[&[images, 1], &pooled[2..]].concat())?;
    let ones = e.filled(1.0, &[&[1, 1], &pool.kernel[..]].concat(), x)?;
    let gradient = image_gradient(e, flat, ones, &axes, 1)?;
    Ok(vec![Some(e.reshape(gradient, &shape)?)])
}

/// Of each window what an element gets: one over the divisor, which is the count of elements over the average of ones.
fn shares(pool: &PoolAttributes, axes: &[Axis]) -> Result<Vec<f64>, Refusal> {
    let shape: Vec<usize> = [1, 1].into_iter().chain(axes.iter().map(|a| a.input)).collect();
    let ones = Tensor::from_slice(&shape, &vec![1.0_f64; shape.iter().product()]);
    let mut outputs = [Output::Fresh(None)];
    ops::run(&Op::Pool(pool.clone()), &[Some(ones.view())], &mut outputs)?;
    let [Output::Fresh(Some(average))] = outputs else { return Err(Refusal::NoRule) };
    let average = average.into_tensor();
    let average = average.as_slice::<f64>().map_err(ops::OpError::from)?;
    let inside = |axis: &Axis, at: usize| {
        let at = (at * axis.stride) as i64 - axis.begin;
        let taps = (0..axis.kernel).map(|tap| at + (tap * axis.dilation) as i64);
        taps.filter(|at| (0..axis.input as i64).contains(at)).count()
    };
    let counts = axes.iter().fold(vec![1], |counts, axis| {
        counts.iter().flat_map(|count| (0..axis.output).map(move |at| count * inside(axis, at))).collect()
    });
    let share = |(&average, &count): (&f64, &usize)| if count == 0 { 0.0 } else { average / count as f64 };
    Ok(average.iter().zip(&counts).map(share).collect())
}

fn pixels(e: &Emit, x: ValueId) -> Result<(Vec<usize>, Vec<usize>), Refusal> {
    let shape = e.shape(x)?;
    let axes = (2..shape.len()).collect();
    Ok((shape, axes))
}

pub(super) fn global_average(e: &mut Emit, call: &Call<'_>) -> Inputs {
    let (shape, _) = pixels(e, call.input(0)?)?;
    let count: usize = shape[2..].iter().product();
    let share = e.scale(call.gradient()?, 1.0 / count.max(1) as f64)?;
    Ok(vec![Some(e.expand(share, &shape)?)])
}

pub(super) fn global_max(e: &mut Emit, call: &Call<'_>) -> Inputs {
    let (x, y, g) = (call.input(0)?, call.output()?, call.gradient()?);
    let (_, axes) = pixels(e, x)?;
    Ok(vec![Some(share_of_equal(e, x, y, g, &axes)?)])
}
