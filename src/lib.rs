//! Prune neural networks, and run what is left with SIMD sparse kernels.
//!
//! ```standalone_crate
//! use poda::pruner::{Recipe, prune};
//! use poda::{DataType, Graph, Model, Options, Tensor, formats};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # std::env::set_current_dir(&folder)?;
//! # let mut graph = Graph::default();
//! # let x = graph.add_input("x", DataType::F32, vec![formats::Dim::Symbol("batch".into()), formats::Dim::Fixed(2)]);
//! # let w = graph.add_weight("w", Tensor::from_slice(&[2, 3], &[3.0_f32, 0.1, 0.2, 0.3, 2.0, 1.0]));
//! # let y = graph.add_node(formats::Op::MatMul, &[x, w], "y");
//! # graph.outputs.push(y);
//! # formats::write(&graph, "model.onnx", &Default::default())?;
//! // Half of the weights go; the zeros take no space in the artifact.
//! let dense = formats::open("model.onnx")?;
//! let recipe = Recipe { sparsity: Some(0.5), ..Recipe::default() };
//! let (mut pruned, report) = prune(&dense, &recipe, &Default::default(), &mut |_| (), None)?;
//! pruned.store_sparse();
//! formats::write(&pruned, "pruned.safetensors", &Default::default())?;
//!
//! let executable = Model::open("pruned.safetensors")?.prepare(Options::default())?;
//! let x = Tensor::from_slice(&[1, 2], &[1.0_f32, 1.0]);
//! let outputs = executable.run(&[("x", x.view())])?;
//! assert_eq!(outputs[0].1.as_slice::<f32>()?, [3.0, 2.0, 1.0]);
//! # assert_eq!(report.after.nnz, 3);
//! # Ok(())
//! # }
//! ```
//!
//! # What is where
//!
//! * [`Graph`] is the network that everything shares, with its weights; [`formats::open`] and [`formats::write`] read and
//!   write it as ONNX or as Poda's artifact.
//! * [`pruner::prune()`] removes what matters least, as a [`pruner::Recipe`] says, and tells what it did; an
//!   [`pruner::Observer`] is told how far it is, and may end it or judge its steps. [`pruning`] stores the result.
//! * [`Model::prepare`] makes an [`Executable`]; its `run` may be called from many threads at once. [`runtime`] says how.
//! * [`fingerprint`] tells files from others; [`arrays`] reads and writes `.npy` and `.npz`; [`feeds`] and [`shapes`] find arrays and sizes for a model's inputs;
//!   [`batching`] proves which axes count samples; [`calibration`] finds the samples that weights are fitted to; [`dataset`]
//!   runs a model over samples, [`score`] scores what comes out, and [`training`] makes batches of them for
//!   [`pruner::finetune`], which [`finetuning`] runs; [`mod@compare`] puts two models side by side, and [`judge`] measures candidates of a pruning.
//! * [`sweep`] compares methods at many ratios.
//! * [`inspection`], [`conversion`], [`kernels`], [`benchmark`], [`profiling`]: what the commands of these names do.
//!
//! Errors say what kind they are: [`runtime::PrepareError::is_unsupported`], [`runtime::RunError::is_input`],
//! `is_stopped`, `is_memory`.
//!
//! # What it does not do
//!
//! It does not train from nothing: [`pruner::finetune`] goes on from weights that are there. It does not use GPUs, nor the network. Operators outside its set are refused by name when a model is prepared.
//!
//! # Features
//!
//! * `cli` (on by default): the command `poda`, with what it needs for arguments, tables and progress. A program that embeds
//!   the library says `default-features = false`, and builds twenty crates fewer.

pub mod arrays;
pub mod batching;
pub mod benchmark;
pub mod calibration;
pub mod compare;
pub mod conversion;
pub mod dataset;
pub mod feeds;
pub mod finetuning;
pub mod fingerprint;
pub mod inspection;
#[cfg(feature = "cli")]
pub mod json_lines;
pub mod judge;
pub mod kernels;
pub mod machine;
pub mod memory;
pub mod profiling;
pub mod pruning;
pub mod score;
pub mod sweep;
pub mod timing;
pub mod training;

pub use poda_formats as formats;
pub use poda_pruner as pruner;
pub use poda_runtime as runtime;
pub use poda_runtime::shapes;

pub use poda_formats::{DataType, Graph, Tensor, TensorView, TensorViewMut};
pub use poda_runtime::{Executable, Model, Options, Passes, Port, Prefer, RunOptions, Stop};
