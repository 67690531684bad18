//! The pruner through its public interface.

mod calibrated;
mod chechik;
mod criteria;
mod goals;
mod gradients;
mod networks;
mod prune;
mod random_graphs;
