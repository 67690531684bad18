//! Ways of pruning that a goal tries.

use std::fmt;
use std::num::NonZero;

use poda_formats::{Pattern, ValueType};
use serde::{Serialize, Serializer};

use super::Goal;
use crate::allocation::Scope;
use crate::recipe::{Granularity, Recipe};
use crate::submodule::Extent;
use crate::update::{Bias, LeastSquares, Reconstruction, WeightUpdate};

/// A way of pruning; shown by its name.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Way {
    name: &'static str,
    /// The share that is tried first: where the way usually begins to pay, and often still holds.
    pub(super) first: f64,
    /// More than this is tried only once something holds.
    pub(super) most: f64,
    granularity: Granularity,
    scope: Scope,
    values: Option<ValueType>,
    goals: &'static [Goal],
    /// Whether submodules are trained once layers are fitted.
    trains: bool,
}

const WEIGHTS: Way = Way {
    name: "weights",
    first: 0.75,
    most: 0.92,
    granularity: Granularity::Unstructured,
    scope: Scope::Auto,
    values: None,
    goals: &[Goal::Faster, Goal::Smaller],
    trains: false,
};

const CHANNELS: Way =
    Way { name: "channels", first: 0.25, most: 0.75, granularity: Granularity::Channel, ..WEIGHTS };

/// What is tried, in this order: what usually gives most comes first, since time may run out.
pub static WAYS: &[Way] = &[
    WEIGHTS,
    Way { name: "weights, layers compete", scope: Scope::Global, ..WEIGHTS },
    Way { name: "weights in int8", values: Some(ValueType::Int8), goals: &[Goal::Smaller], ..WEIGHTS },
    CHANNELS,
    Way { name: "channels, layers compete", scope: Scope::Global, ..CHANNELS },
    Way { name: "whole residual blocks", first: 0.1, most: 0.35, granularity: Granularity::Depth, ..WEIGHTS },
    Way {
        name: "blocks of 4x1",
        first: 0.7,
        most: 0.88,
        granularity: Granularity::Pattern(Pattern::Block {
            rows: NonZero::new(4).expect("not zero"),
            cols: NonZero::<u8>::MIN,
        }),
        goals: &[Goal::Faster],
        ..WEIGHTS
    },
];

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.name, if self.trains { ", submodules trained" } else { "" })
    }
}

impl Serialize for Way {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Way {
    pub(super) fn serves(&self, goal: Goal) -> bool {
        self.goals.contains(&goal)
    }

    /// The way that trains submodules as well, where there is one: nothing is fitted once whole blocks have gone.
    pub(super) fn with_training(&self) -> Option<Self> {
        let more = !self.trains && self.granularity != Granularity::Depth;
        more.then_some(Self { trains: true, ..*self })
    }

    /// What prunes so, this share; `base` says what is not the way's to choose.
    pub(super) fn recipe(&self, base: &Recipe, share: f64) -> Recipe {
        let Self { granularity, scope, values, trains, .. } = *self;
        let (keep, max_drop) = (Vec::new(), None);
        let sparsity = Some(share);
        let update = if trains {
            let updates: [&dyn WeightUpdate; 3] = [&Bias, &LeastSquares, &Reconstruction(Extent::Submodule)];
            Some(updates.map(|update| update.name().to_owned()).to_vec())
        } else {
            base.update.clone()
        };
        Recipe { granularity, sparsity, max_drop, keep, update, scope, values, ..base.clone() }
    }
}
