//! When to stop.

use crate::recipe::Recipe;

/// The state of a pruning run after a step.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct State {
    /// Share removed so far, in the terms of the recipe's `sparsity`.
    pub sparsity: f64,
    /// Multiply-accumulates, as a share of the dense model's; `None` when they are not known.
    pub macs: Option<f64>,
    /// How far the score has dropped on validation data, if there are any.
    pub drop: Option<f64>,
}

/// What follows from a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Continue,
    /// A target is reached.
    Stop,
    /// This step went too far: the one before it is the result.
    RollBack,
}

impl Verdict {
    /// What follows from two verdicts: rolling back comes first, then stopping.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::RollBack, _) | (_, Self::RollBack) => Self::RollBack,
            (Self::Stop, _) | (_, Self::Stop) => Self::Stop,
            (Self::Continue, Self::Continue) => Self::Continue,
        }
    }
}

/// Conditions of which any ends the run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Termination {
    /// This share is removed.
    Sparsity(f64),
    /// Multiply-accumulates are at most this share of the dense model's.
    Macs(f64),
    /// The score has dropped by more than this.
    Drop(f64),
}

impl Termination {
    /// The conditions of a recipe.
    pub fn of(recipe: &Recipe) -> Vec<Self> {
        let sparsity = recipe.sparsity.map(Self::Sparsity);
        let macs = recipe.target_macs.map(Self::Macs);
        sparsity.into_iter().chain(macs).chain(recipe.max_drop.map(Self::Drop)).collect()
    }

    /// Asks one condition.
    pub fn ask(self, state: &State) -> Verdict {
        let stop = |reached: bool| if reached { Verdict::Stop } else { Verdict::Continue };
        match self {
            Self::Sparsity(target) => stop(state.sparsity >= target),
            Self::Macs(target) => stop(state.macs.is_some_and(|macs| macs <= target)),
            Self::Drop(most) if state.drop.is_some_and(|drop| drop > most) => Verdict::RollBack,
            Self::Drop(_) => Verdict::Continue,
        }
    }

    /// Asks all conditions; see [`Verdict::and`].
    pub fn ask_any(conditions: &[Self], state: &State) -> Verdict {
        conditions.iter().map(|condition| condition.ask(state)).fold(Verdict::Continue, Verdict::and)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_condition_ends_the_run() {
        let all = [Termination::Sparsity(0.5), Termination::Macs(0.4), Termination::Drop(0.01)];
        let state = |sparsity, macs, drop| State { sparsity, macs: Some(macs), drop: Some(drop) };
        for (state, verdict) in [
            (state(0.3, 0.6, 0.0), Verdict::Continue),
            (state(0.5, 0.6, 0.0), Verdict::Stop),
            (state(0.3, 0.4, 0.01), Verdict::Stop),
            (state(0.5, 0.3, 0.02), Verdict::RollBack),
        ] {
            assert_eq!(Termination::ask_any(&all, &state), verdict, "{state:?}");
        }
    }
}
