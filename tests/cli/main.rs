//! The command `poda` as a person or a script uses it.

mod errors;
mod figures;
mod finetune;
mod program;
#[cfg(feature = "serve")]
mod serve;
mod shown;
mod stages;
mod sweep;
mod targets;
mod workflow;
