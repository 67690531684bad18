//! Rewrites of the graph before it is lowered.

mod passes;

pub(crate) use passes::transposes::rewrite as sink_transposes;
