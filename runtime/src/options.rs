//! How a model is to be run.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::optimize::Passes;
pub use crate::tune::Prefer;

/// Options of [`Model::prepare`](crate::Model::prepare).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Threads that a run uses; `None` follows the CPUs that the process may use, container quota included.
    pub threads: Option<usize>,
    /// Speed or memory.
    pub prefer: Prefer,
    /// Whether to time the candidate kernels of each weight; otherwise a rule chooses.
    pub tune: bool,
    /// Which passes are applied; with none, every node runs on its own, which is for comparison.
    pub passes: Passes,
    /// Most bytes that the activations of one run may take; a plan beyond it is refused. `None` means what the
    /// process may have: its address space limit, the container's limit and the machine's memory.
    pub memory_limit: Option<usize>,
    /// Plans kept, one for each set of input shapes; the one unused for longest goes first.
    pub plans: usize,
    /// Most bytes that the packed weights of the plans kept may take together: beyond it plans go, but for the latest. `None`
    /// means no limit but the number of plans, which share most of them.
    pub packed_limit: Option<usize>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            threads: None,
            prefer: Prefer::default(),
            tune: true,
            passes: Passes::all(),
            memory_limit: None,
            plans: 8,
            packed_limit: None,
        }
    }
}

/// What ends a run before its last step. Looked at between steps.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stop<'a> {
    /// Set by another thread when the results are no longer wanted.
    pub cancelled: Option<&'a AtomicBool>,
    /// When the results are no longer wanted.
    pub deadline: Option<Instant>,
}

impl Stop<'_> {
    /// Whether the run should end.
    pub(crate) fn reached(&self) -> bool {
        self.cancelled.is_some_and(|flag| flag.load(Ordering::Relaxed))
            || self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }
}

/// How one run is to go, beside its inputs.
#[derive(Debug, Clone, Copy, Default)]
pub struct RunOptions<'a> {
    /// Values of the graph to give after its outputs.
    pub extra: &'a [poda_formats::ValueId],
    /// What ends it early.
    pub stop: Stop<'a>,
}
