//! How a run gets to its target: how much has gone after each of several rounds, and how a share that is not known is found.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::recipe::Recipe;
use crate::termination::Verdict;

/// How much has gone after each of several rounds. Of one round, all of it, whatever the schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Schedule {
    /// Everything in the first round; what comes after it only trains.
    OneShot,
    /// The same number of weights or units in each round. Molchanov et al., ICLR 2017, <https://arxiv.org/abs/1611.06440>.
    Linear,
    /// Much at first, ever less: what is missing falls with the third power. Zhu and Gupta, 2017,
    /// <https://arxiv.org/abs/1710.01878>.
    #[default]
    Cubic,
    /// The same share of what is left in each round. Frankle and Carbin, "The Lottery Ticket Hypothesis", ICLR 2019,
    /// <https://arxiv.org/abs/1803.03635>.
    Geometric,
}

/// A text that is no schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is no schedule; there are {}", Schedule::NAMES.join(", "))]
pub struct ScheduleError {
    /// The text.
    pub found: String,
}

impl Schedule {
    /// Every schedule.
    pub const ALL: [Self; 4] = [Self::OneShot, Self::Linear, Self::Cubic, Self::Geometric];
    const NAMES: [&str; 4] = ["one-shot", "linear", "cubic", "geometric"];

    /// As written in recipes.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// One line for help texts.
    pub fn description(self) -> &'static str {
        match self {
            Self::OneShot => "all in the first round; the others train",
            Self::Linear => "the same number in each round",
            Self::Cubic => "much at first, ever less (Zhu and Gupta)",
            Self::Geometric => "the same share of what is left in each round (lottery tickets)",
        }
    }

    /// The share that has gone once `along` of the rounds are over, from 0 to 1: `from` at their start, `to` at their end.
    pub fn share(self, from: f64, to: f64, along: f64) -> f64 {
        if along >= 1.0 {
            return to;
        }
        match self {
            Self::OneShot if along > 0.0 => to,
            Self::OneShot => from,
            Self::Linear => from + (to - from) * along,
            Self::Cubic => to + (from - to) * (1.0 - along).powi(3),
            Self::Geometric => 1.0 - (1.0 - from) * ((1.0 - to) / (1.0 - from)).powf(along),
        }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Schedule {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        let found = Self::ALL.into_iter().find(|schedule| schedule.name() == text);
        found.ok_or_else(|| ScheduleError { found: text.to_owned() })
    }
}

impl TryFrom<String> for Schedule {
    type Error = ScheduleError;

    fn try_from(text: String) -> Result<Self, ScheduleError> {
        text.parse()
    }
}

impl From<Schedule> for String {
    fn from(schedule: Schedule) -> Self {
        schedule.name().to_owned()
    }
}

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
    /// The step to look at first, where somebody guessed it.
    guess: Option<usize>,
    /// Steps tried.
    tried: usize,
}

impl Search {
    /// Over the shares of a recipe; `None` where it bounds nothing, and nobody `judges` steps.
    pub fn of(recipe: &Recipe, judges: bool) -> Option<Self> {
        let asked = judges && recipe.sparsity.is_some() && recipe.implied_sparsity().is_none();
        let steps = recipe.steps.max(1);
        let last = recipe.sparsity.unwrap_or(FARTHEST);
        let search = Self { last, steps, start: 1, end: steps + 1, ascending: judges, guess: None, tried: 0 };
        (recipe.searches() || asked).then_some(search)
    }

    /// Looks first where a share was guessed, and at its neighbour.
    pub fn guess(&mut self, share: f64) {
        let step = (share / self.last * self.steps as f64).round().max(1.0) as usize;
        self.guess = (!self.ascending && step <= self.steps).then_some(step);
    }

    /// The next step to try, and its share; `None` when the place is found.
    pub fn next(&self) -> Option<(usize, f64)> {
        if self.start >= self.end {
            return None;
        }
        // A share that was asked for is tried first: where it holds, nothing is left to find.
        let whole = (self.start, self.end) == (1, self.steps + 1);
        let step = match self.guess.filter(|_| self.tried < 2) {
            _ if self.ascending => self.start,
            // A step that did not reach the target is followed by the next, one that did by the one before.
            Some(guess) => guess.clamp(self.start, self.end - 1),
            None if whole => self.steps,
            None => self.start.midpoint(self.end),
        };
        Some((step, self.last * step as f64 / self.steps as f64))
    }

    /// Takes in what followed from a step.
    pub fn learn(&mut self, step: usize, verdict: Verdict) {
        self.tried += 1;
        match verdict {
            Verdict::Continue => self.start = step + 1,
            Verdict::Stop | Verdict::RollBack => self.end = step,
        }
    }

    /// Candidates that are tried at most.
    pub fn most(&self) -> usize {
        let guessed = if self.guess.is_some() { 2 } else { 0 };
        if self.ascending { self.steps } else { self.steps.ilog2() as usize + 2 + guessed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_begin_and_end_where_they_should() {
        for schedule in Schedule::ALL {
            assert_eq!(schedule.name().parse(), Ok(schedule));
            for (from, to) in [(0.0, 0.9), (0.7, 0.9), (0.5, 0.5)] {
                assert!((schedule.share(from, to, 0.0) - from).abs() < 1e-12, "{schedule}");
                assert_eq!(schedule.share(from, to, 1.0), to);
                let shares: Vec<f64> =
                    (0..=10).map(|i| schedule.share(from, to, f64::from(i) / 10.0)).collect();
                assert!(shares.is_sorted(), "{schedule}: {shares:?}");
            }
        }
        assert_eq!(Schedule::OneShot.share(0.0, 0.9, 0.1), 0.9);
        assert!((Schedule::Linear.share(0.1, 0.9, 0.25) - 0.3).abs() < 1e-12);
        // s_f + (s_i - s_f)(1 - 1/4)³
        assert!((Schedule::Cubic.share(0.1, 0.9, 0.25) - 0.5625).abs() < 1e-12);
        // A fifth of the rest in each round: 0.8ⁿ is kept.
        let to = 1.0 - 0.8_f64.powi(7);
        for round in 1..=7 {
            let share = Schedule::Geometric.share(0.0, to, f64::from(round) / 7.0);
            assert!((1.0 - share - 0.8_f64.powi(round)).abs() < 1e-12);
        }
        let error = "cubical".parse::<Schedule>().unwrap_err().to_string();
        assert_eq!(error, "\"cubical\" is no schedule; there are one-shot, linear, cubic, geometric");
    }

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
                for (verdict, guess) in [
                    (Verdict::Stop, None),
                    (Verdict::RollBack, None),
                    (Verdict::Stop, Some(place)),
                    (Verdict::Stop, Some(1)),
                    (Verdict::RollBack, Some(steps)),
                ] {
                    let recipe = Recipe { max_drop: Some(0.1), steps, ..Recipe::default() };
                    let mut search = Search::of(&recipe, false).unwrap();
                    if let Some(guess) = guess {
                        search.guess(0.98 * guess as f64 / steps as f64);
                    }
                    let mut asked = Vec::new();
                    while let Some((step, _)) = search.next() {
                        asked.push(step);
                        search.learn(step, if step >= place { verdict } else { Verdict::Continue });
                    }
                    assert!(asked.len() <= search.most(), "{steps} {place}: {asked:?}");
                    // Both sides of the place were measured.
                    assert!(place > steps || asked.contains(&place), "{steps} {place}: {asked:?}");
                    assert!(place == 1 || asked.contains(&(place - 1)), "{steps} {place}: {asked:?}");
                    // A guess that is right is all that it takes.
                    assert!(guess != Some(place) || asked.len() <= 2, "{steps} {place}: {asked:?}");
                }
            }
        }
    }
}
