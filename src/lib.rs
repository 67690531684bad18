//! Prune neural networks, and run what is left with SIMD sparse kernels.
//!
//! A pruned model in a program of yours (`poda = { version = "0.1", default-features = false, features = ["full"] }`):
//!
//! ```no_run
//! use poda::{Model, Options, Tensor};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let model = Model::open("sparse.safetensors")?;
//! let executable = model.prepare(Options { threads: Some(2), ..Options::default() })?;
//! let image = Tensor::from_slice(&[1, 784], &[0.0_f32; 784]);
//! for (name, scores) in executable.run(&[("image", image.view())])? {
//!     println!("{name}: {:?}", scores.as_slice::<f32>()?);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! And how it gets there, with feature `prune` as well:
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
//! # Main types
//!
//! * [`Graph`] is the network that everything shares, with its weights; [`formats::open`] and [`formats::write`] read and
//!   write it as ONNX or as Poda's artifact.
//! * [`Model`] is a graph that is to run: from a file, mapped or copied ([`formats::Load`]), or from bytes. It tells its inputs and
//!   outputs ([`Port`]: name, type, shape with names for open dimensions) and the metadata of the file.
//! * [`Executable`] is made of it by [`Model::prepare`] with [`Options`], as often as wanted: all share the weights. Its
//!   [`run`](Executable::run) may be called from many threads at once; [`run_into`](Executable::run_into) fills buffers of yours,
//!   [`warm`](Executable::warm) does ahead what a first run would do, [`run_with`](Executable::run_with) takes a deadline or
//!   a flag that ends it ([`Stop`]), [`profile`](Executable::profile) tells where the time goes.
//! * [`Tensor`], [`TensorView`], [`TensorViewMut`] are arrays: owned, read where they lie, filled where they lie.
//! * [`pruner::prune()`] removes what matters least, as a [`pruner::Recipe`] says, and tells what it did; an
//!   [`pruner::Observer`] is told how far it is, and may end it or judge its steps. [`pruning`] stores the result.
//!
//! Around them: [`arrays`] reads and writes `.npy` and `.npz`; [`feeds`] and [`shapes`] find arrays and sizes for a model's inputs;
//! [`batching`] proves which axes count samples; [`dataset`] runs a model over samples, [`score`] scores what comes out, [`similarity`] by
//! pairs of samples, with [`correlation`];
//! [`calibration`] finds the samples that weights are fitted to, and [`training`] makes batches of them for
//! [`pruner::finetune`], which [`finetuning`] runs; [`sweep`] compares methods at many ratios; [`fingerprint`] tells files from
//! others; [`mod@compare`] puts two models side by side, and [`judge`] measures candidates of a pruning.
//! [`inspection`], [`conversion`], [`kernels`], [`benchmark`], [`profiling`] are what the commands of these names do.
//!
//! Errors are enums with the values in them, and say what kind they are: [`runtime::PrepareError::is_unsupported`],
//! [`runtime::RunError::is_input`], `is_stopped`, `is_memory`.
//!
//! # What it does not do
//!
//! * Train from nothing: [`pruner::finetune`] goes on from weights that are there.
//! * Use GPUs, or integers for arithmetic: quantised models run as floats, with the same numbers.
//! * Run every operator: one outside its set is refused by name when a model is prepared.
//! * Use the network, start threads that outlive their executable, or spin between runs.
//!
//! # Features
//!
//! `full` is what most programs want: whatever the command runs. Without any feature it is the library that runs artifacts
//! (`.safetensors`) of MLPs and CNNs, of 52 crates with itself, for programs that must be small; what is left out is refused by the
//! name of the feature. How large programs get with each is in `docs/embedding.md`.
//!
//! * `full`: `onnx`, `kernels` and `operators`.
//! * `kernels`: `avx512` (without it such CPUs run what is for AVX2), `narrow` (weights of bf16, f16 and int8 are multiplied as they
//!   are stored; without it they become f32 when a model is prepared), `structured` (blocks and N:M patterns are made use of).
//! * `operators`: `control-flow` (If, Loop), `images` (Resize, GridSample, RoiAlign, NonMaxSuppression), `quantized` (QuantizeLinear,
//!   products of integers), `selection` (TopK, ArgMax, NonZero, Scatter, OneHot and the like), `sequences` (recurrent layers,
//!   attention, Einsum, CumSum), `training` (losses, gradients of convolutions), `types` (elements of f64, i16, u16, u32, u64).
//! * `onnx`: ONNX is read and written, with `prost`. Without it an ONNX file is refused, with the way out.
//! * `prune`: [`pruner`] and what scores its candidates, with `faer` for solving and `rayon`. Without it models are run, not made.
//! * `sprs`: CSR weights to and from the types of that crate.
//! * `tracing`: spans `load`, `prepare`, `plan` and `run` for whoever listens through that crate.
//! * `cli` (default; takes `full` and `prune`): the command `poda`, with what it needs for arguments, tables and progress.
//! * `serve` (default; takes `cli`): `poda serve`, HTTP and gRPC, with `tokio`.

pub mod arrays;
pub mod batching;
pub mod benchmark;
#[cfg(feature = "prune")]
pub mod calibration;
pub mod compare;
pub mod conversion;
pub mod correlation;
pub mod dataset;
pub mod feeds;
#[cfg(feature = "prune")]
pub mod finetuning;
pub mod inspection;
#[cfg(feature = "cli")]
pub mod json_lines;
#[cfg(feature = "prune")]
pub mod judge;
pub mod kernels;
pub mod machine;
pub mod memory;
pub mod profiling;
#[cfg(feature = "prune")]
pub mod pruning;
pub mod score;
#[cfg(feature = "prune")]
pub mod similarity;
#[cfg(feature = "prune")]
pub mod sweep;
pub mod timing;
#[cfg(feature = "prune")]
pub mod training;

pub use poda_formats as formats;
#[cfg(feature = "prune")]
pub use poda_pruner as pruner;
#[cfg(feature = "prune")]
pub use poda_pruner::fingerprint;
pub use poda_runtime as runtime;
pub use poda_runtime::shapes;

pub use poda_formats::{DataType, Graph, Tensor, TensorView, TensorViewMut};
pub use poda_runtime::{Executable, Model, Options, Passes, Port, Prefer, RunOptions, Stop};
