//! How a run gets to its target.

use crate::recipe::Recipe;
use crate::termination::Verdict;

/// Greatest share that a run without a target sparsity may reach.
const FARTHEST: f64 = 0.98;

/// The share of a recipe that says one and bounds nothing: one shot. `judges`: somebody is asked after each step; where the
/// share is not implied, it is then gone to in steps.
pub fn one_shot(recipe: &Recipe, judges: bool) -> Option<f64> {
    let implied = recipe.implied_sparsity();
    let at_once = !recipe.searches() && (!judges || implied.is_some());
    implied.or(recipe.share()).filter(|_| at_once)
}

/// Shares to try, one after the other, where how much may go is to be found: over `steps` equal steps up to the recipe's
/// `sparsity`, by halves; step by step where somebody judges each.
///
/// Whatever is bounded is taken to go one way as more is removed. So each candidate halves what is left to look at: seven find
/// the place among sixty-four. What is returned was measured itself, whether or not that holds.
#[derive(Debug)]
pub struct Search {
    last: f64,
    steps: usize,
    /// Steps below this are known to be too few, steps from `end` on known to be too many or enough.
    start: usize,
    end: usize,
    ascending: bool,
}

impl Search {
    /// Over the shares of a recipe; `None` where it bounds nothing, and nobody `judges` steps.
    pub fn of(recipe: &Recipe, judges: bool) -> Option<Self> {
        let asked = judges && recipe.sparsity.is_some() && recipe.implied_sparsity().is_none();
        let steps = recipe.steps.max(1);
        let last = recipe.sparsity.unwrap_or(FARTHEST);
        let search = Self { last, steps, start: 1, end: steps + 1, ascending: judges };
        (recipe.searches() || asked).then_some(search)
    }

    /// The next step to try, and its share; `None` when the place is found.
    pub fn next(&self) -> Option<(usize, f64)> {
        // A share that was asked for is tried first: where it holds, nothing is left to find.
        let whole = (self.start, self.end) == (1, self.steps + 1);
        let step = match self.ascending {
            true => self.start,
            false if whole => self.steps,
            false => self.start.midpoint(self.end),
        };
        (self.start < self.end).then(|| (step, self.last * step as f64 / self.steps as f64))
    }

    /// Takes in what followed from a step.
    pub fn learn(&mut self, step: usize, verdict: Verdict) {
        match verdict {
            Verdict::Continue => self.start = step + 1,
            Verdict::Stop | Verdict::RollBack => self.end = step,
        }
    }

    /// Candidates that are tried at most.
    pub fn most(&self) -> usize {
        if self.ascending { self.steps } else { self.steps.ilog2() as usize + 2 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_shot_or_a_search() {
        let recipe = Recipe { sparsity: Some(0.5), ..Recipe::default() };
        assert_eq!(one_shot(&recipe, false), Some(0.5));
        assert!(Search::of(&recipe, false).is_none());
        assert_eq!((one_shot(&recipe, true), Search::of(&recipe, true).is_some()), (None, true));
        let bounded = Recipe { max_drop: Some(0.1), steps: 2, ..recipe };
        assert_eq!(one_shot(&bounded, false), None);
        assert_eq!(Search::of(&bounded, true).unwrap().next(), Some((1, 0.25)));
        assert_eq!(Search::of(&bounded, false).unwrap().next(), Some((2, 0.5)));
        assert_eq!(one_shot(&Recipe { remove_dead: true, ..Recipe::default() }, true), None);
    }

    /// Wherever the place is, it is found, in as few candidates as promised.
    #[test]
    fn every_place_is_found() {
        for steps in [1, 2, 5, 20, 64] {
            for place in 1..=steps + 1 {
                for verdict in [Verdict::Stop, Verdict::RollBack] {
                    let recipe = Recipe { max_drop: Some(0.1), steps, ..Recipe::default() };
                    let mut search = Search::of(&recipe, false).unwrap();
                    let mut asked = Vec::new();
                    while let Some((step, _)) = search.next() {
                        asked.push(step);
                        search.learn(step, if step >= place { verdict } else { Verdict::Continue });
                    }
                    assert!(asked.len() <= search.most(), "{steps} {place}: {asked:?}");
                    // Both sides of the place were measured.
                    assert!(place > steps || asked.contains(&place), "{steps} {place}: {asked:?}");
                    assert!(place == 1 || asked.contains(&(place - 1)), "{steps} {place}: {asked:?}");
                }
            }
        }
    }
}
