//! Poda's sparse inference runtime.

pub mod info;
pub mod kernels;
pub mod ops;
pub mod output;
pub mod packing;
pub mod threads;
pub mod tune;

pub use info::Info;
pub use output::Output;
pub use threads::Threads;
