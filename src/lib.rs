//! Prune neural networks, and run what is left with SIMD sparse kernels.
//!
//! ```no_run
//! use poda::{Model, Options};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let executable = Model::open("pruned.safetensors")?.prepare(Options::default())?;
//! let image = poda::arrays::read("image.npy")?.remove("").ok_or("an .npz file")?;
//! for (name, tensor) in executable.run(&[("image", image.view())])? {
//!     println!("{name}: {:?}", tensor.as_slice::<f32>()?);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! [`Graph`] is the network that everything shares. [`formats`] reads and writes it, [`pruner`] removes what matters
//! least, [`runtime`] runs what is left.

pub mod arrays;
pub mod batching;
pub mod dataset;
pub mod feeds;
pub mod score;
pub mod shapes;

pub use poda_formats as formats;
pub use poda_pruner as pruner;
pub use poda_runtime as runtime;

pub use poda_formats::{DataType, Graph, Tensor, TensorView};
pub use poda_runtime::{Executable, Model, Options, Prefer};
