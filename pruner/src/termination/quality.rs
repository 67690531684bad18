//! Measures of what a pruned model still knows: its score against labels, its outputs beside the dense model's.

use super::{Good, Measure, Unit};

pub(super) const SCORE: Measure = Measure {
    name: "score",
    description: "score on the labels of the validation data: top-1 accuracy",
    unit: Unit::Share,
    good: Good::Large,
    of: |candidate| candidate.judge("score")?.score(candidate.graph),
};

pub(super) const DROP: Measure = Measure {
    name: "drop",
    description: "how far that score is below the dense model's",
    unit: Unit::Share,
    good: Good::Small,
    of: |candidate| {
        let score = candidate.judge("drop")?.score(candidate.graph)?;
        Ok(candidate.baseline.score.unwrap_or(score) - score)
    },
};

pub(super) const COSINE: Measure = Measure {
    name: "cosine",
    description: "mean over samples of the cosine between its outputs and the dense model's; needs no labels",
    unit: Unit::Share,
    good: Good::Large,
    of: |candidate| Ok(candidate.fidelity("cosine")?.mean_cosine),
};

pub(super) const WORST_COSINE: Measure = Measure {
    name: "worst-cosine",
    description: "that cosine of the worst sample",
    unit: Unit::Share,
    good: Good::Large,
    of: |candidate| Ok(candidate.fidelity("worst-cosine")?.worst_cosine),
};

pub(super) const RELATIVE_ERROR: Measure = Measure {
    name: "relative-error",
    description: "mean over samples of the distance between both outputs, as a share of the dense one's length",
    unit: Unit::Share,
    good: Good::Small,
    of: |candidate| Ok(candidate.fidelity("relative-error")?.relative_error),
};
