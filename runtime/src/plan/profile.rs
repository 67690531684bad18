//! What a profile says of a plan's steps.

use std::time::Duration;

use super::batch::Split;
use super::{Operand, Plan, Step};
use crate::profile::{NodeProfile, Profile};

impl Plan {
    /// The profile of some runs, of which `times` gives how long each step took.
    pub(crate) fn profile(&self, times: &[Vec<Duration>]) -> Profile {
        let shapes = |operands: &[Option<Operand>]| {
            operands.iter().map(|o| o.as_ref().map_or_else(Vec::new, |o| o.shape.clone())).collect()
        };
        let parts = self.parts();
        let nodes = self.steps().iter().enumerate().map(|(index, step)| {
            let mut ms: Vec<f64> = times.iter().map(|run| run[index].as_secs_f64() * 1e3).collect();
            ms.sort_by(f64::total_cmp);
            let bytes = touched(step);
            let kernel = step.call.explain();
            NodeProfile {
                name: step.name.clone(),
                op: step.op.clone(),
                kernel: kernel.name,
                reason: kernel.reason,
                inputs: shapes(&step.inputs),
                outputs: shapes(&step.outputs),
                ms: ms[ms.len() / 2],
                macs: kernel.macs * parts as u64,
                macs_nonzero: kernel.macs_nonzero * parts as u64,
                bytes: (bytes + kernel.weight_bytes) * parts,
                weight: kernel.weight,
            }
        });
        Profile {
            nodes: nodes.collect(),
            arena_bytes: self.arena_bytes,
            runs: times.len(),
            batch: self.split.as_ref().map(Split::note),
        }
    }
}

/// Bytes of activations that a step reads and writes. Of a table that is looked up only the rows that it takes are read.
fn touched(step: &Step) -> usize {
    let size = |o: &Operand| o.shape.iter().product::<usize>() * o.dtype.size();
    let of = |operands: &[Option<Operand>]| operands.iter().flatten().map(size).sum::<usize>();
    let written = of(&step.outputs);
    match step.inputs.split_first() {
        Some((Some(table), others)) if step.call.looks_up() => {
            written + size(table).min(written) + of(others)
        }
        _ => written + of(&step.inputs),
    }
}
