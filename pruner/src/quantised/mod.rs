//! Quantised models, pruned like any other: while they are, integers are the real numbers that they stand for.
//!
//! [`separate`] takes the integers out of a graph. Weights become f32; what is quantised on the way becomes a Clip to what its type
//! can hold, without its rounding, in which a pruned model need not agree with the masked one; products of integers become those of floats. Values keep
//! their names and ids. What the pruner knows, it knows of that graph, whether it was written with QuantizeLinear and
//! DequantizeLinear around each operator, with operators on integers, or is quantised in each run (DynamicQuantizeLinear).
//!
//! [`Quantised::restore`] puts the integers back into what has become of it. A weight that went is its zero point, one that
//! stays as it was is the integer that it was, at the scale that it had; what was fitted to data is rounded to new steps.
//!
//! Left as they are, and then as opaque as before: weights in blocks of one scale each, scales that are not f32 or not constant, integers
//! that an operator takes which floats cannot take over, and those in bodies of control flow.

mod floats;
mod groups;
mod restore;
mod steps;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use poda_formats::{DataType, Op, Tensor};

pub(crate) use floats::separate;
use steps::Steps;

/// What a graph was quantised to, by names.
#[derive(Debug, Default)]
pub(crate) struct Quantised {
    groups: Vec<Was>,
    /// By value: its group.
    members: HashMap<String, usize>,
    weights: HashMap<String, Stored>,
    /// By what a node makes.
    made: HashMap<String, Made>,
    /// By value, names of the node that dequantised it and of its result.
    floats: HashMap<String, (String, String)>,
}

/// Integers in the same steps.
#[derive(Debug)]
struct Was {
    dtype: DataType,
    /// Names of scale and zero point.
    names: [Option<String>; 2],
    /// The steps, or what DynamicQuantizeLinear makes with them.
    steps: Result<Steps, String>,
}

/// A weight as it was stored.
#[derive(Debug)]
struct Stored {
    tensor: Tensor,
    steps: Steps,
}

/// What the node was that makes a value now.
#[derive(Debug)]
enum Made {
    /// A Clip that was QuantizeLinear.
    Quantised(Op),
    /// An Identity that was DynamicQuantizeLinear.
    Dynamic,
    /// An Identity that was DequantizeLinear.
    Dequantised(Op),
    /// A Clip after a product: both were one operator on integers.
    Whole,
    /// A product that was one of integers, to be scaled.
    Integers,
    /// An Identity that scaled it: which input was the product, and the name of both scales' product.
    Scaled { product: usize, scales: String },
}
