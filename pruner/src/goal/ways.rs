//! Ways of pruning that a goal tries.

use std::num::NonZero;

use poda_formats::{Pattern, ValueType};

use super::Goal;
use crate::allocation::Scope;
use crate::recipe::{Granularity, Recipe};
use crate::submodule::Extent;
use crate::update::{Bias, LeastSquares, Reconstruction, WeightUpdate};

/// A way of pruning.
#[derive(Debug, Clone, Copy)]
pub struct Way {
    /// In tables.
    pub name: &'static str,
    /// Its name with submodules trained once layers are fitted, for ways of which that is worth its time.
    pub(super) trained: Option<&'static str>,
    /// The share that is tried first: where the way usually begins to pay, and often still holds.
    pub(super) first: f64,
    /// More than this is tried only once something holds.
    pub(super) most: f64,
    granularity: Granularity,
    scope: Scope,
    values: Option<ValueType>,
    goals: &'static [Goal],
    trains: bool,
}

const BOTH: &[Goal] = &[Goal::Faster, Goal::Smaller];

/// What is tried, in this order: what usually gives most comes first, since time may run out.
pub static WAYS: &[Way] = &[
    Way {
        name: "weights",
        trained: Some("weights, submodules trained"),
        first: 0.75,
        most: 0.92,
        granularity: Granularity::Unstructured,
        scope: Scope::Auto,
        values: None,
        goals: BOTH,
        trains: false,
    },
    Way {
        name: "weights, layers compete",
        trained: Some("weights, layers compete, submodules trained"),
        first: 0.75,
        most: 0.92,
        granularity: Granularity::Unstructured,
        scope: Scope::Global,
        values: None,
        goals: BOTH,
        trains: false,
    },
    Way {
        name: "weights in int8",
        trained: Some("weights in int8, submodules trained"),
        first: 0.75,
        most: 0.92,
        granularity: Granularity::Unstructured,
        scope: Scope::Auto,
        values: Some(ValueType::Int8),
        goals: &[Goal::Smaller],
        trains: false,
    },
    Way {
        name: "channels",
        trained: Some("channels, submodules trained"),
        first: 0.25,
        most: 0.75,
        granularity: Granularity::Channel,
        scope: Scope::Auto,
        values: None,
        goals: BOTH,
        trains: false,
    },
    Way {
        name: "channels, layers compete",
        trained: Some("channels, layers compete, submodules trained"),
        first: 0.25,
        most: 0.75,
        granularity: Granularity::Channel,
        scope: Scope::Global,
        values: None,
        goals: BOTH,
        trains: false,
    },
    Way {
        name: "whole residual blocks",
        trained: None,
        first: 0.1,
        most: 0.35,
        granularity: Granularity::Depth,
        scope: Scope::Auto,
        values: None,
        goals: BOTH,
        trains: false,
    },
    Way {
        name: "blocks of 4x1",
        trained: Some("blocks of 4x1, submodules trained"),
        first: 0.7,
        most: 0.88,
        granularity: Granularity::Pattern(Pattern::Block {
            rows: NonZero::new(4).expect("not zero"),
            cols: NonZero::<u8>::MIN,
        }),
        scope: Scope::Auto,
        values: None,
        goals: &[Goal::Faster],
        trains: false,
    },
];

impl Way {
    pub(super) fn serves(&self, goal: Goal) -> bool {
        self.goals.contains(&goal)
    }

    /// The way that trains submodules as well.
    pub(super) fn with_training(&self) -> Option<Self> {
        Some(Self { name: self.trained?, trained: None, trains: true, ..*self })
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
