//! The pruner through its public interface.

mod networks;
mod prune;
mod random_graphs;
