//! Measures of what a pruned model still knows: its score against labels, its outputs beside the dense model's.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Good, Measure, Unit};

/// What `drop` is the drop of: a measure by name.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Scored(&'static Measure);

/// A measure that nothing can be the drop of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} cannot be what is scored; there are {}", Scored::names().join(", "))]
pub struct ScoredError {
    name: String,
}

impl Scored {
    /// Every measure that candidates can be scored by.
    pub const ALL: [&'static Measure; 6] = [&SCORE, &AGREEMENT, &COSINE, &WORST_COSINE, &PEARSON, &SPEARMAN];

    /// The measure.
    pub fn measure(self) -> &'static Measure {
        self.0
    }

    fn names() -> Vec<&'static str> {
        Self::ALL.iter().map(|measure| measure.name).collect()
    }
}

impl Default for Scored {
    fn default() -> Self {
        Self(&SCORE)
    }
}

impl PartialEq for Scored {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}

impl FromStr for Scored {
    type Err = ScoredError;

    fn from_str(name: &str) -> Result<Self, ScoredError> {
        let found = Self::ALL.into_iter().find(|measure| measure.name == name);
        found.map(Self).ok_or_else(|| ScoredError { name: name.to_owned() })
    }
}

impl TryFrom<String> for Scored {
    type Error = ScoredError;

    fn try_from(name: String) -> Result<Self, ScoredError> {
        name.parse()
    }
}

impl From<Scored> for String {
    fn from(scored: Scored) -> Self {
        scored.0.name.to_owned()
    }
}

pub(super) const SCORE: Measure = Measure {
    name: "score",
    description: "score on the labels of the validation data: top-1 accuracy, or pearson where they are similarities",
    unit: Unit::Share,
    good: Good::Large,
    of: |candidate| candidate.judge("score")?.score(candidate.graph),
};

pub(super) const DROP: Measure = Measure {
    name: "drop",
    description: "how far that score, or what --measure says, is below the dense model's",
    unit: Unit::Share,
    good: Good::Small,
    of: |candidate| {
        let score = (candidate.baseline.scored.measure().of)(candidate)?;
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

pub(super) const AGREEMENT: Measure = Measure {
    name: "agreement",
    description: "share of samples whose greatest output is the dense model's too, of classifiers; needs no labels",
    unit: Unit::Share,
    good: Good::Large,
    of: |candidate| Ok(candidate.fidelity("agreement")?.agreement),
};

pub(super) const PEARSON: Measure = Measure {
    name: "pearson",
    description: "of embeddings: Pearson's correlation of the cosines of all pairs of samples with an array \"similarities\" in \
                  the data, or without one with the dense model's",
    unit: Unit::Share,
    good: Good::Large,
    of: |candidate| Ok(candidate.judge("pearson")?.similarity(candidate.graph)?.pearson),
};

pub(super) const SPEARMAN: Measure = Measure {
    name: "spearman",
    description: "the same of their ranks: Spearman's correlation",
    unit: Unit::Share,
    good: Good::Large,
    of: |candidate| Ok(candidate.judge("spearman")?.similarity(candidate.graph)?.spearman),
};
