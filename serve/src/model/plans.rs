//! Which runs of a model have a plan, so that a serving thread never makes one.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The shape of each input of a run, in the order of the model.
pub(crate) type Form = Vec<Vec<usize>>;

/// The forms that are planned for, those used last at the end. The executable keeps at least twice as many plans.
#[derive(Debug)]
pub(crate) struct Plans {
    most: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    planned: Vec<Form>,
    /// Batches that somebody plans, or that cannot be had.
    asked: HashSet<Form>,
}

impl Plans {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is a plan, which counts as a use of it.
    pub(crate) fn has(&self, form: &[Vec<usize>]) -> bool {
        let planned = &mut self.lock().planned;
        let Some(at) = planned.iter().rposition(|known| known == form) else { return false };
        planned[at..].rotate_left(1);
        true
    }

    /// A plan has been made.
    pub(crate) fn add(&self, form: Form) {
        let mut state = self.lock();
        state.asked.remove(&form);
        if !state.planned.contains(&form) {
            if state.planned.len() >= self.most {
                state.planned.remove(0);
            }
            state.planned.push(form);
        }
    }

    /// Whether nobody has asked for this plan so far.
    pub(crate) fn ask(&self, form: &Form) -> bool {
        let mut state = self.lock();
        if state.asked.len() >= 4 * self.most {
            state.asked.clear();
        }
        !state.planned.contains(form) && state.asked.insert(form.clone())
    }

    /// Number of plans.
    pub(crate) fn len(&self) -> usize {
        self.lock().planned.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_unused_for_longest_goes_first() {
        let plans = Plans::new(2);
        let form = |n: usize| vec![vec![n]];
        plans.add(form(1));
        plans.add(form(2));
        assert!(plans.has(&form(1)));
        plans.add(form(3));
        assert!(!plans.has(&form(2)) && plans.has(&form(1)) && plans.has(&form(3)));
        assert_eq!(plans.len(), 2);
        assert!(plans.ask(&form(4)) && !plans.ask(&form(4)) && !plans.ask(&form(3)));
        plans.add(form(4));
        assert!(!plans.ask(&form(4)));
    }
}
