//! Poda's pruner: importance, dependency graph, removal.

pub mod allocation;
pub mod canonical;
pub mod check;
pub mod compact;
pub mod criterion;
pub mod dead;
pub mod dependency;
pub mod mask;
pub mod prune;
pub mod recipe;
pub mod report;
pub mod schedule;
pub mod settings;
mod slice;
pub mod termination;
pub mod unstructured;

pub use dependency::DependencyGraph;
pub use prune::{Progress, PruneError, plan, prune};
pub use recipe::{Granularity, Recipe, RecipeError};
pub use report::Report;
