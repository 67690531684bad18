//! Poda's sparse inference runtime.

pub mod info;
pub mod ops;
pub mod output;

pub use info::Info;
pub use output::Output;
