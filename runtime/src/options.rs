//! How a model is to be run.

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
    /// Whether neighbouring operators are fused. Off, every node runs on its own, which is for comparison.
    pub fuse: bool,
    /// Most bytes that the activations of one run may take; a plan beyond it is refused. `None` means what the
    /// process's address space limit allows.
    pub memory_limit: Option<usize>,
    /// Plans kept, one for each set of input shapes; the one unused for longest goes first.
    pub plans: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            threads: None,
            prefer: Prefer::default(),
            tune: true,
            fuse: true,
            memory_limit: None,
            plans: 8,
        }
    }
}
