//! Poda's sparse inference runtime.
//!
//! [`Model`] holds a graph, [`Model::prepare`] makes an [`Executable`] of it, and [`Executable::run`] runs it.

pub mod analysis;
pub mod executable;
pub mod feeds;
pub mod info;
pub mod kernels;
mod memory;
pub mod model;
pub mod ops;
pub mod options;
pub mod output;
pub mod packing;
pub mod plan;
pub mod profile;
pub mod random_feeds;
pub mod threads;
pub mod tune;

pub use analysis::{Analysis, analyze};
pub use executable::{Executable, RunError};
pub use info::Info;
pub use model::{LoadError, Model, PrepareError};
pub use options::{Options, Prefer};
pub use output::Output;
pub use profile::Profile;
pub use threads::Threads;
