//! Where the time of a run goes.

use serde::Serialize;

use crate::tune::Candidate;

/// Times of the steps of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Profile {
    /// In the order in which they run.
    pub nodes: Vec<NodeProfile>,
    /// Bytes of the arena that activations share.
    pub arena_bytes: usize,
    /// Number of runs that were timed.
    pub runs: usize,
    /// How the batch is run and why, where it is run in parts. Times are then those of all parts, over the threads that run them
    /// beside each other; shapes are those of one part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<String>,
}

/// One step of a run: a node, or several fused.
#[derive(Debug, Clone, Serialize)]
pub struct NodeProfile {
    /// Name of the node, or of its output where it has none; of a product its own, of other fused nodes the last.
    pub name: String,
    /// Operator.
    pub op: String,
    /// The kernel that computes it.
    pub kernel: String,
    /// Why that kernel, for weights.
    pub reason: String,
    /// Shapes of the inputs; empty for omitted ones and those known only during the run.
    pub inputs: Vec<Vec<usize>>,
    /// Shapes of the outputs; as for inputs.
    pub outputs: Vec<Vec<usize>>,
    /// Median time in ms.
    pub ms: f64,
    /// Multiply-accumulates as if dense.
    pub macs: u64,
    /// Multiply-accumulates whose weight is not zero.
    pub macs_nonzero: u64,
    /// Bytes read and written: activations, and weights as packed.
    pub bytes: usize,
    /// The constant weight of a product (of the first group, where there are several).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<WeightProfile>,
}

/// A weight, and the kernels that were considered for it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WeightProfile {
    /// Outputs, `m`.
    pub rows: usize,
    /// Inputs, `k`.
    pub cols: usize,
    /// Values that are not zero.
    pub nnz: usize,
    /// Matrices of this size that the layer has: the groups of a convolution.
    pub groups: usize,
    /// Resident bytes, as packed.
    pub bytes: usize,
    /// Bytes of the smallest lossless format: dense, a bitmap or CSR.
    pub smallest_bytes: usize,
    /// The winner first, then the others, the best before the worse.
    pub candidates: Vec<Candidate>,
}

impl WeightProfile {
    /// Time of the best dense kernel, in microseconds; `None` where it was not timed.
    pub fn dense_micros(&self) -> Option<f64> {
        self.candidates.iter().find(|c| c.is_dense()).and_then(|c| c.micros)
    }

    /// Fraction of zeros.
    pub fn sparsity(&self) -> f64 {
        1.0 - self.nnz as f64 / (self.rows * self.cols).max(1) as f64
    }
}

impl Profile {
    /// Sum of the medians, in ms.
    pub fn total_ms(&self) -> f64 {
        self.nodes.iter().map(|n| n.ms).sum()
    }
}
