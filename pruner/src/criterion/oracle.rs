//! The oracle: what becomes of the loss without a unit, found out by leaving it out. Molchanov et al., ICLR 2017,
//! <https://arxiv.org/abs/1611.06440>.

use super::{Criterion, Normalize, OfBlocks, OfUnits};
use crate::allocation::Scope;

/// `|L(without) − L|`, on 128 samples at most.
#[derive(Debug)]
pub struct Oracle;

impl Criterion for Oracle {
    fn name(&self) -> &'static str {
        "oracle"
    }

    fn description(&self) -> &'static str {
        "change of the loss without a unit or block, each left out in turn (slow); layers compete"
    }

    fn scope(&self) -> Scope {
        Scope::Global
    }

    fn of_units(&self) -> Option<OfUnits<'_>> {
        Some(OfUnits::Ablation)
    }

    fn of_blocks(&self) -> Option<OfBlocks> {
        Some(OfBlocks::Ablation)
    }

    fn normalize(&self) -> Normalize {
        Normalize::None
    }
}
