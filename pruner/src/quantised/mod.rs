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
mod names;
mod restore;
mod steps;
#[cfg(test)]
mod tests;

pub(crate) use floats::separate;
pub(crate) use restore::Quantised;
