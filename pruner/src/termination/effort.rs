//! Measures of the run itself, which end it.

use super::{Good, Measure, Unit};

pub(super) const ROUNDS: Measure = Measure {
    name: "rounds",
    description: "candidates tried",
    unit: Unit::Count,
    good: Good::Spent,
    of: |candidate| Ok(candidate.rounds as f64),
};

pub(super) const TIME: Measure = Measure {
    name: "time",
    description: "time since pruning began",
    unit: Unit::Milliseconds,
    good: Good::Spent,
    of: |candidate| Ok(candidate.begun.elapsed().as_secs_f64() * 1e3),
};
