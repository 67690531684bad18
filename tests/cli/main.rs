//! The command `poda` as a person or a script uses it.

mod errors;
mod program;
mod workflow;
