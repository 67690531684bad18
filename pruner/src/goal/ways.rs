//! Ways of pruning that a goal tries.

use std::num::NonZero;

use poda_formats::{Pattern, ValueType};

use super::Goal;
use crate::allocation::Scope;
use crate::recipe::{Granularity, Recipe};

/// A way of pruning.
#[derive(Debug, Clone, Copy)]
pub struct Way {
    /// In tables.
    pub name: &'static str,
    /// The share that is tried first: where the way usually begins to pay, and often still holds.
    pub(super) first: f64,
    /// More than this is tried only once something holds.
    pub(super) most: f64,
    granularity: Granularity,
    scope: Scope,
    values: Option<ValueType>,
    goals: &'static [Goal],
}

const BOTH: &[Goal] = &[Goal::Faster, Goal::Smaller];

/// What is tried, in this order: what usually gives most comes first, since time may run out.
pub static WAYS: &[Way] = &[
    Way {
        name: "weights",
        first: 0.75,
        most: 0.92,
        granularity: Granularity::Unstructured,
        scope: Scope::Auto,
        values: None,
        goals: BOTH,
    },
    Way {
        name: "weights, layers compete",
        first: 0.75,
        most: 0.92,
        granularity: Granularity::Unstructured,
        scope: Scope::Global,
        values: None,
        goals: BOTH,
    },
    Way {
        name: "weights in int8",
        first: 0.75,
        most: 0.92,
        granularity: Granularity::Unstructured,
        scope: Scope::Auto,
        values: Some(ValueType::Int8),
        goals: &[Goal::Smaller],
    },
    Way {
        name: "channels",
        first: 0.25,
        most: 0.5,
        granularity: Granularity::Channel,
        scope: Scope::Auto,
        values: None,
        goals: BOTH,
    },
    Way {
        name: "channels, layers compete",
        first: 0.25,
        most: 0.5,
        granularity: Granularity::Channel,
        scope: Scope::Global,
        values: None,
        goals: BOTH,
    },
    Way {
        name: "whole residual blocks",
        first: 0.1,
        most: 0.35,
        granularity: Granularity::Depth,
        scope: Scope::Auto,
        values: None,
        goals: BOTH,
    },
    Way {
        name: "blocks of 4x1",
        first: 0.7,
        most: 0.88,
        granularity: Granularity::Pattern(Pattern::Block {
            rows: NonZero::new(4).expect("not zero"),
            cols: NonZero::<u8>::MIN,
        }),
        scope: Scope::Auto,
        values: None,
        goals: &[Goal::Faster],
    },
];

impl Way {
    pub(super) fn serves(&self, goal: Goal) -> bool {
        self.goals.contains(&goal)
    }

    /// What prunes so, this share; `base` says what is not the way's to choose.
    pub(super) fn recipe(&self, base: &Recipe, share: f64) -> Recipe {
        let Self { granularity, scope, values, .. } = *self;
        let (keep, max_drop) = (Vec::new(), None);
        let sparsity = Some(share);
        Recipe { granularity, sparsity, max_drop, keep, scope, values, ..base.clone() }
    }
}
