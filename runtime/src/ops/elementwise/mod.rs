//! Functions of single elements, with broadcasting between inputs.

pub(super) mod binary;
pub(super) mod choose;
pub(super) mod unary;
pub(super) mod variadic;
