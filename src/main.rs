//! Poda.
fn main() {}
