//! The scales of batch normalisation. Liu et al., "Network Slimming", ICCV 2017, <https://arxiv.org/abs/1708.06519>.

use super::{Criterion, Normalize, OfUnits};
use crate::allocation::Scope;

/// `|γ|` of the normalisation that a channel passes; layers compete.
#[derive(Debug)]
pub struct BatchNormScale;

impl Criterion for BatchNormScale {
    fn name(&self) -> &'static str {
        "batch-norm"
    }

    fn description(&self) -> &'static str {
        "size of a channel's scale in batch normalisation; layers compete"
    }

    fn scope(&self) -> Scope {
        Scope::Global
    }

    fn of_units(&self) -> Option<OfUnits<'_>> {
        Some(OfUnits::Scales)
    }

    fn normalize(&self) -> Normalize {
        Normalize::None
    }
}
