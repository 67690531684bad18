//! Which of the kernels that were timed is best, and why, in words.

use poda_formats::DataType;

use super::{Candidate, Prefer};
use crate::kernels::WeightMatrix;

/// A sparse kernel must beat dense by this factor: less is noise.
const MARGIN: f64 = 1.05;
/// What a dense kernel must gain for each time that it takes the bytes of the weight once more.
const BYTES: f64 = 0.05;
/// Bytes that every packing may take beside its weights.
pub(super) const OVERHEAD: usize = 4096;

/// What ranks the candidates for one weight.
#[derive(Debug)]
pub(super) struct Rank {
    pub(super) prefer: Prefer,
    /// Bytes that a packing may take.
    limit: usize,
    smallest_bytes: usize,
    /// Bytes of every element.
    dense_bytes: usize,
    /// Fraction of values that are stored.
    density: f64,
}

/// Its time, in microseconds.
pub(super) fn micros(candidate: &Candidate) -> f64 {
    candidate.micros.expect("timed")
}

fn bytes(candidate: &Candidate) -> usize {
    candidate.bytes.expect("packed when timed")
}

impl Rank {
    pub(super) fn new(weight: &WeightMatrix, [m, k]: [usize; 2], prefer: Prefer) -> Self {
        // How many times the smallest lossless format a sparse kernel may take. For speed, narrow values may be widened.
        let (times, values) = match prefer {
            Prefer::Latency => (1.6, DataType::F32),
            Prefer::Memory => (1.1, weight.stored()),
        };
        Self {
            prefer,
            limit: (weight.smallest_bytes_of(values) as f64 * times) as usize + OVERHEAD,
            smallest_bytes: weight.smallest_bytes(),
            dense_bytes: m * k * size_of::<f32>(),
            density: weight.nnz() as f64 / (m * k).max(1) as f64,
        }
    }

    /// Puts the best first.
    pub(super) fn sort(&self, candidates: &mut [Candidate]) {
        // Dense wins at parity, and of two dense kernels the smaller.
        let more = |c: &Candidate| (bytes(c) as f64 / self.dense_bytes.max(1) as f64 - 1.0).max(0.0);
        let time = |c: &Candidate| micros(c) * if c.is_dense() { 1.0 + BYTES * more(c) } else { MARGIN };
        // Those that take too many bytes come last. For memory dense is no exception, and the smallest is best where all do.
        let excess = |c: &Candidate| match self.prefer {
            Prefer::Latency if c.is_dense() => 0,
            Prefer::Latency | Prefer::Memory => bytes(c).saturating_sub(self.limit),
        };
        candidates.sort_by(|a, b| excess(a).cmp(&excess(b)).then(time(a).total_cmp(&time(b))));
    }

    /// Why the first of ranked candidates is the best.
    pub(super) fn reason(&self, candidates: &[Candidate]) -> String {
        let winner = &candidates[0];
        let dense = candidates.iter().find(|c| c.is_dense());
        let sparse = candidates.iter().find(|c| !c.is_dense());
        let of_smallest = bytes(winner) as f64 / self.smallest_bytes.max(1) as f64;
        match (dense, sparse, self.prefer) {
            (Some(dense), _, Prefer::Memory) => format!(
                "{of_smallest:.2}× the bytes of the smallest format, {:.2}× the speed of dense",
                micros(dense) / micros(winner)
            ),
            (Some(dense), Some(sparse), Prefer::Latency) if winner.is_dense() => {
                // A sparse kernel takes time in proportion to what is kept.
                let even = 1.0 - self.density * micros(dense) / micros(sparse);
                format!(
                    "stayed dense: {:.0} % is below this CPU's break-even of about {:.0} %",
                    (1.0 - self.density) * 100.0,
                    even.clamp(0.0, 1.0) * 100.0
                )
            }
            (Some(_), None, Prefer::Latency) => match candidates.get(1) {
                Some(other) => {
                    format!("{:.2}× the speed of {}", micros(other) / micros(winner), other.kernel)
                }
                None => "the only dense kernel".to_owned(),
            },
            (Some(dense), _, Prefer::Latency) => {
                format!("{:.2}× the speed of dense", micros(dense) / micros(winner))
            }
            (None, _, Prefer::Memory) => format!("{of_smallest:.2}× the bytes of the smallest format"),
            (None, _, Prefer::Latency) => "the fastest".to_owned(),
        }
    }
}
