//! Who watches a pruning: is told how far it is, may end it, and may be asked after each step whether to go on.

use std::ops::ControlFlow;

use crate::prune::Progress;
use crate::termination::{State, Verdict};

/// Watches a pruning. A closure that takes a [`Progress`] is one that never interferes.
pub trait Observer {
    /// Is told how far the run is; a break ends it with [`PruneError::Stopped`](crate::PruneError::Stopped).
    fn progress(&mut self, progress: Progress) -> ControlFlow<()>;

    /// Whether [`Observer::verdict`] has anything to say. A run to a given share then goes there in the recipe's steps,
    /// where it would take it at once.
    fn judges(&self) -> bool {
        false
    }

    /// The termination condition of the user: asked after each step, beside those of the recipe.
    fn verdict(&mut self, _state: &State) -> Verdict {
        Verdict::Continue
    }
}

impl<F: FnMut(Progress)> Observer for F {
    fn progress(&mut self, progress: Progress) -> ControlFlow<()> {
        self(progress);
        ControlFlow::Continue(())
    }
}
