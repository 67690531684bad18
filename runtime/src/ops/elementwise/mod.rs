//! Functions of single elements, with broadcasting between inputs.

pub(super) mod binary;
pub(super) mod broadcast;
pub(crate) mod chain;
pub(super) mod choose;
mod power;
pub(super) mod unary;
mod unary_float;
pub(super) mod variadic;
pub(super) mod wide;
