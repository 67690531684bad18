//! Measures of speed on this machine.

use super::{Good, Measure, Unit};

pub(super) const LATENCY: Measure = Measure {
    name: "latency",
    description: "median milliseconds of a run on this machine, at the batch and threads that were said",
    unit: Unit::Milliseconds,
    good: Good::Small,
    of: |candidate| candidate.judge("latency")?.latency(candidate.graph),
};

pub(super) const SPEEDUP: Measure = Measure {
    name: "speedup",
    description: "times faster than the dense model on this machine",
    unit: Unit::Ratio,
    good: Good::Large,
    of: |candidate| candidate.judge("speedup")?.speedup(candidate.graph),
};
