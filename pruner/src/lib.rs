//! Poda's pruner: importance, dependency graph, removal.
//!
//! [`prune()`] follows a [`Recipe`] through the textbook's loop: *evaluate importance → rank → remove the least important →
//! ask the termination condition*.
//!
//! ```
//! use poda_formats::{DataType, Dim, Graph, Op, Tensor};
//! use poda_pruner::{Granularity, Recipe, prune};
//!
//! // A product to 8 hidden units, and one from these to 2 outputs.
//! let mut graph = Graph::default();
//! let x = graph.add_input("x", DataType::F32, vec![Dim::Symbol("batch".into()), Dim::Fixed(4)]);
//! let weights = |n: usize| (0..n).map(|i| (i as f32).sin()).collect::<Vec<f32>>();
//! let a = graph.add_weight("a", Tensor::from_slice(&[4, 8], &weights(32)));
//! let b = graph.add_weight("b", Tensor::from_slice(&[8, 2], &weights(16)));
//! let hidden = graph.add_node(Op::MatMul, &[x, a], "hidden");
//! let y = graph.add_node(Op::MatMul, &[hidden, b], "y");
//! graph.outputs.push(y);
//!
//! let recipe = Recipe { granularity: Granularity::Channel, sparsity: Some(0.5), ..Recipe::default() };
//! let (pruned, report) = prune(&graph, &recipe, &Default::default(), &mut |_| (), None)?;
//! let shapes: Vec<_> = report.layers.iter().map(|layer| &layer.shape_after).collect();
//! assert_eq!(shapes, [&[4, 4], &[4, 2]]);
//! assert_eq!(pruned.outputs.len(), 1);
//! # Ok::<(), poda_pruner::PruneError>(())
//! ```
//!
//! Where to find what:
//! * [`dependency`]: which weights must shrink together, and what must stay, with the reason;
//! * [`stages`]: recipes of several stages, which prune and train in turn;
//! * [`criterion`], [`allocation`], [`schedule`], [`termination`]: what matters, how much goes where, in which steps, until
//!   when;
//! * [`calibration`], [`update`]: what flows through a model on data, and what weights that stay become by it;
//! * [`canonical`], [`settings`]: the form in which a graph is pruned, and which of its sizes are open;
//! * [`mask`], [`compact`]: the masked model and the smaller one that computes the same; [`masks`]: files of what stays;
//! * [`depth`]: whole residual blocks; [`gates`]: what becomes of a loss without a unit;
//! * [`dead`]: units that go at no cost; [`unstructured`]: single weights; [`structured`]: blocks and N:M;
//! * [`values`], [`names`]: what is checked before: numbers that are none, patterns that fit nothing;
//! * [`observer`]: who is told how far a run is, and may end it or judge its steps;
//! * [`gradients`], [`finetune`]: gradients as nodes of the graph, and training what is left;
//! * [`fingerprint`]: what tells files, and states of a training, from others;
//! * [`check`], [`report`]: the numerical check at the end, and what was done.
//!
//! It changes graphs, and neither reads data from files nor stores zeros as nothing: see `poda::calibration` and
//! [`Graph::store_sparse`](poda_formats::Graph::store_sparse).

pub mod allocation;
pub mod calibration;
pub mod canonical;
pub mod check;
pub mod compact;
pub mod criterion;
mod cut;
pub mod dead;
mod defaults;
pub mod dependency;
pub mod depth;
pub mod finetune;
pub mod fingerprint;
pub mod gates;
pub mod goal;
pub mod gradients;
pub mod judge;
pub mod mask;
pub mod masks;
pub mod names;
pub mod observer;
pub mod prune;
mod quantised;
pub mod recipe;
pub mod report;
pub mod schedule;
pub mod settings;
mod slice;
mod solve;
pub mod stages;
pub mod structured;
pub mod submodule;
pub mod termination;
pub mod unstructured;
pub mod update;
pub mod values;
pub mod vocabulary;

pub use dependency::DependencyGraph;
pub use observer::Observer;
pub use prune::{Data, Progress, PruneError, prune, prune_with, scores};
pub use recipe::{Granularity, Recipe, RecipeError};
pub use report::Report;
