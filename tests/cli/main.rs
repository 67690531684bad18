//! The command `poda` as a person or a script uses it.

mod criteria;
mod errors;
mod figures;
mod finetune;
mod program;
#[cfg(feature = "serve")]
mod serve;
mod shown;
mod similarities;
mod stages;
mod sweep;
mod targets;
mod workflow;
