//! Which runs of a model have a plan, so that a serving thread never makes one, and what they take.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

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
    planned: Vec<Planned>,
    /// Batches that somebody plans, or that cannot be had.
    asked: HashSet<Form>,
}

#[derive(Debug)]
struct Planned {
    form: Form,
    /// What a run takes, as a moving mean, once there was one.
    time: Option<Duration>,
}

impl State {
    /// Where the plan is, which then counts as the one used last.
    fn find(&mut self, form: &[Vec<usize>]) -> Option<&mut Planned> {
        let at = self.planned.iter().rposition(|planned| planned.form == form)?;
        self.planned[at..].rotate_left(1);
        self.planned.last_mut()
    }
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
        self.lock().find(form).is_some()
    }

    /// A plan has been made.
    pub(crate) fn add(&self, form: Form) {
        let mut state = self.lock();
        state.asked.remove(&form);
        if state.find(&form).is_none() {
            if state.planned.len() >= self.most {
                state.planned.remove(0);
            }
            state.planned.push(Planned { form, time: None });
        }
    }

    /// A run took so long.
    pub(crate) fn took(&self, form: &[Vec<usize>], time: Duration) {
        if let Some(planned) = self.lock().find(form) {
            planned.time = Some(planned.time.map_or(time, |mean| (mean * 7 + time) / 8));
        }
    }

    /// Whether runs are known to take less than `time`.
    pub(crate) fn is_shorter(&self, form: &[Vec<usize>], time: Duration) -> bool {
        self.lock().find(form).and_then(|planned| planned.time).is_some_and(|mean| mean < time)
    }

    /// Whether nobody has asked for this plan so far.
    pub(crate) fn ask(&self, form: &Form) -> bool {
        let mut state = self.lock();
        if state.asked.len() >= 4 * self.most {
            state.asked.clear();
        }
        state.planned.iter().all(|planned| planned.form != *form) && state.asked.insert(form.clone())
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

    #[test]
    fn what_runs_take_is_known_by_form() {
        let (plans, form, ms) = (Plans::new(2), |n: usize| vec![vec![n]], Duration::from_millis);
        plans.add(form(1));
        plans.add(form(2));
        assert!(!plans.is_shorter(&form(1), ms(100)), "there was no run");
        plans.took(&form(1), ms(2));
        assert!(plans.is_shorter(&form(1), ms(3)) && !plans.is_shorter(&form(2), ms(3)));
        plans.took(&form(1), ms(100));
        assert!(!plans.is_shorter(&form(1), ms(10)), "one long run is enough");
        (0..20).for_each(|_| plans.took(&form(1), ms(2)));
        assert!(plans.is_shorter(&form(1), ms(4)));
        plans.took(&form(3), ms(1));
        assert!(!plans.is_shorter(&form(3), ms(4)), "there is no plan");
    }
}
