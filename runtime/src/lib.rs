//! Poda's sparse inference runtime.
//!
//! [`Model`] holds a graph, [`Model::prepare`] makes an [`Executable`] of it, and [`Executable::run`] runs it, from any
//! number of threads at once:
//!
//! ```
//! use poda_formats::{DataType, Dim, Graph, Op, Tensor};
//! use poda_runtime::{Model, Options};
//!
//! // A model is usually `Model::open("model.onnx")?`; here is one with a weight that is mostly zero.
//! let mut graph = Graph::default();
//! let x = graph.add_input("x", DataType::F32, vec![Dim::Symbol("batch".into()), Dim::Fixed(3)]);
//! let w = graph.add_weight("w", Tensor::from_slice(&[3, 2], &[0.0_f32, 2.0, 0.0, 0.0, 1.0, 0.0]));
//! let y = graph.add_node(Op::MatMul, &[x, w], "y");
//! graph.outputs.push(y);
//!
//! let executable = Model::from_graph(graph)?.prepare(Options { threads: Some(1), ..Options::default() })?;
//! let x = Tensor::from_slice(&[1, 3], &[1.0_f32, 2.0, 3.0]);
//! let outputs = executable.run(&[("x", x.view())])?;
//! assert_eq!(outputs[0].0, "y");
//! assert_eq!(outputs[0].1.as_slice::<f32>()?, [3.0, 2.0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A model is optimised once ([`optimize`]). What follows from the shapes of a run's inputs is decided once and kept ([`plan`]):
//! constants fold, nodes fuse, weights are packed for the kernel that suits them ([`kernels`], [`tune`]), and activations share one arena. What a run does
//! and how long it takes, node by node, is in its [`Profile`]. [`analyze`] tells types, shapes and constants without
//! running anything.
//!
//! With feature `tracing`, whoever listens through that crate is told of loading, preparing, planning and running.
//!
//! It does not train, does not run on accelerators, and knows nothing of pruning: a weight that holds zeros is a sparse
//! weight, whoever put them there.

pub mod analysis;
mod cgroup;
pub mod executable;
pub mod feeds;
pub mod info;
pub mod kernels;
mod memory;
pub mod model;
pub mod ops;
pub mod optimize;
pub mod options;
pub mod output;
pub mod packing;
pub mod plan;
pub mod profile;
pub mod random_feeds;
pub mod shapes;
pub mod simd;
pub mod threads;
mod trace;
pub mod tune;

pub use analysis::{Analysis, analyze};
pub use executable::{Executable, KeptPackings, PrepareError, RunError};
pub use info::Info;
pub use model::{LoadError, Model, Port};
pub use optimize::{PASSES, Passes};
pub use options::{Options, Prefer, RunOptions, Stop};
pub use output::Output;
pub use profile::{NodeProfile, Profile, WeightProfile};
pub use threads::Threads;
