//! How much goes from each layer, found by trying: of a few levels of each layer one is chosen, such that what they cost together stays
//! within a budget and the whole model's loss is least.
//!
//! * [`Levels::spdy`]: a dynamic programme over scaled errors of layers, and a search for the scales by the loss. Frantar and
//!   Alistarh, "SPDY", ICML 2022, <https://arxiv.org/abs/2201.13096>.
//! * [`Levels::evopress`]: exchanges of levels between layers, of which the best of each generation stays. Sieberling et al.,
//!   "EvoPress", 2024, <https://arxiv.org/abs/2410.14649>.
//! * [`Levels::sensitivity`]: every layer as far as the loss with it alone pruned stays under one bound. Li et al., ICLR 2017,
//!   <https://arxiv.org/abs/1608.08710>; Han et al., NIPS 2015.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

/// How the share of each layer is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Allocate {
    /// By the scope.
    #[default]
    Scope,
    /// See [`Levels::sensitivity`].
    Sensitivity,
    /// See [`Levels::spdy`].
    Spdy,
    /// See [`Levels::evopress`].
    Evopress,
}

impl Allocate {
    /// As given on the command line and in recipes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scope => "scope",
            Self::Sensitivity => "sensitivity",
            Self::Spdy => "spdy",
            Self::Evopress => "evopress",
        }
    }

    /// The one with this name.
    pub fn find(name: &str) -> Option<Self> {
        [Self::Scope, Self::Sensitivity, Self::Spdy, Self::Evopress].into_iter().find(|of| of.name() == name)
    }
}

/// What each layer costs, and what it gets wrong, at each of its levels, `[layer][level]`; levels go from dense to sparse.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub struct Levels {
    pub costs: Vec<Vec<f64>>,
    pub errors: Vec<Vec<f64>>,
}

/// A level for each layer.
pub type Choice = Vec<usize>;

/// The loss of a model at a choice; roughly, by few samples, where the flag says so.
pub type Loss<'l, E> = &'l mut dyn FnMut(&[usize], bool) -> Result<f64, E>;

/// Parts that a budget is divided into.
const BUCKETS: usize = 10_000;

impl Levels {
    /// What a choice costs.
    pub fn cost(&self, choice: &[usize]) -> f64 {
        self.costs.iter().zip(choice).map(|(costs, &level)| costs[level]).sum()
    }

    /// The cheapest level of each layer.
    fn cheapest(&self) -> Choice {
        let of =
            |costs: &Vec<f64>| (0..costs.len()).min_by(|&a, &b| costs[a].total_cmp(&costs[b])).unwrap_or(0);
        self.costs.iter().map(of).collect()
    }

    /// The choice of least `Σ scale · error` within the budget; `None` where even the cheapest levels cost more. Costs are rounded
    /// up to ten-thousandths of the budget.
    pub fn least_error(&self, scales: &[f64], budget: f64) -> Option<Choice> {
        let unit = budget / BUCKETS as f64;
        let parts = |cost: f64| {
            if unit > 0.0 { (cost / unit).ceil() as usize } else { usize::from(cost > 0.0) * (BUCKETS + 1) }
        };
        // Least error by the budget that is used, and the levels that it took.
        let mut least = vec![f64::INFINITY; BUCKETS + 1];
        least[0] = 0.0;
        let mut taken: Vec<Vec<u16>> = Vec::new();
        for ((costs, errors), &scale) in self.costs.iter().zip(&self.errors).zip(scales) {
            let mut next = vec![f64::INFINITY; BUCKETS + 1];
            let mut levels = vec![0_u16; BUCKETS + 1];
            for (level, (&cost, &error)) in costs.iter().zip(errors).enumerate() {
                let cost = parts(cost);
                for used in cost..=BUCKETS {
                    let error = least[used - cost] + scale * error;
                    if error < next[used] {
                        (next[used], levels[used]) = (error, level as u16);
                    }
                }
            }
            least = next;
            taken.push(levels);
        }
        let best = (0..=BUCKETS).min_by(|&a, &b| least[a].total_cmp(&least[b]))?;
        if least[best].is_infinite() {
            let cheapest = self.cheapest();
            // (Rounding up may be all that is too much.)
            return (self.cost(&cheapest) <= budget).then_some(cheapest);
        }
        let mut used = best;
        let mut choice = vec![0; taken.len()];
        for (layer, levels) in taken.iter().enumerate().rev() {
            choice[layer] = usize::from(levels[used]);
            used -= parts(self.costs[layer][choice[layer]]);
        }
        Some(choice)
    }

    /// The choice of least loss that some scales of the layers' errors give: `tries` random ones, then so many in which a tenth of
    /// the scales of the best, later fewer, are changed. `None` where the budget holds no choice.
    ///
    /// # Errors
    /// Those of the loss.
    pub fn spdy<E>(
        &self,
        budget: f64,
        tries: usize,
        seed: u64,
        loss: Loss<'_, E>,
    ) -> Result<Option<Choice>, E> {
        let mut random = SmallRng::seed_from_u64(seed);
        let layers = self.costs.len();
        if layers == 0 {
            return Ok(None);
        }
        let Some(first) = self.least_error(&vec![1.0; layers], budget) else { return Ok(None) };
        let mut best = (loss(&first, true)?, vec![1.0; layers], first);
        let mut tried = vec![best.2.clone()];
        for attempt in 0..2 * tries {
            let mut scales = best.1.clone();
            if attempt < tries {
                scales.iter_mut().for_each(|scale| *scale = random.random());
            } else {
                let left = (2 * tries - attempt) as f64 / tries as f64;
                let changed = ((layers as f64 * 0.1 * left).ceil() as usize).max(1);
                (0..changed).for_each(|_| scales[random.random_range(0..layers)] = random.random());
            }
            let Some(choice) = self.least_error(&scales, budget) else { continue };
            if tried.contains(&choice) {
                continue;
            }
            let found = loss(&choice, true)?;
            tried.push(choice.clone());
            if found < best.0 {
                best = (found, scales, choice);
            }
        }
        Ok(Some(best.2))
    }

    /// The choice that `generations` of exchanges lead to: each offspring takes one layer a level up and others down until the budget
    /// is kept, once to three times; all are judged roughly, the best two and the parent well.
    /// `None` where the budget holds no choice.
    ///
    /// # Errors
    /// Those of the loss.
    pub fn evopress<E>(
        &self,
        budget: f64,
        generations: usize,
        seed: u64,
        loss: Loss<'_, E>,
    ) -> Result<Option<Choice>, E> {
        const OFFSPRING: usize = 8;
        if self.costs.is_empty() {
            return Ok(None);
        }
        let mut random = SmallRng::seed_from_u64(seed);
        let most = self.costs.iter().map(Vec::len).max().unwrap_or(0);
        let uniform =
            |level: usize| -> Choice { self.costs.iter().map(|of| level.min(of.len() - 1)).collect() };
        let start =
            (0..most).map(uniform).chain([self.cheapest()]).find(|choice| self.cost(choice) <= budget);
        let Some(mut parent) = start else { return Ok(None) };
        let mut score = loss(&parent, false)?;
        for _ in 0..generations {
            let mut offspring: Vec<(f64, Choice)> = Vec::new();
            for _ in 0..OFFSPRING {
                let child = self.mutated(&parent, budget, &mut random);
                if child != parent && !offspring.iter().any(|(_, other)| *other == child) {
                    offspring.push((loss(&child, true)?, child));
                }
            }
            offspring.sort_by(|a, b| a.0.total_cmp(&b.0));
            for (_, child) in offspring.into_iter().take(2) {
                let found = loss(&child, false)?;
                if found < score {
                    (score, parent) = (found, child);
                }
            }
        }
        Ok(Some(parent))
    }

    /// A choice with some layers denser and others sparser, within the budget.
    fn mutated(&self, parent: &[usize], budget: f64, random: &mut SmallRng) -> Choice {
        let layers = parent.len();
        let mut child = parent.to_vec();
        let swaps = random.random_range(1..4_usize).min(random.random_range(1..4_usize));
        for _ in 0..swaps {
            let mut next = child.clone();
            let denser = random.random_range(0..layers);
            next[denser] = next[denser].saturating_sub(1);
            for _ in 0..4 * layers {
                if self.cost(&next) <= budget {
                    child = next;
                    break;
                }
                let sparser = random.random_range(0..layers);
                if sparser != denser {
                    next[sparser] = (next[sparser] + 1).min(self.costs[sparser].len() - 1);
                }
            }
        }
        child
    }

    /// Every layer as sparse as the loss with it alone pruned stays within a bound, which is the least that keeps to the budget.
    /// `None` where the budget holds no choice.
    ///
    /// # Errors
    /// Those of the loss.
    pub fn sensitivity<E>(&self, budget: f64, loss: Loss<'_, E>) -> Result<Option<Choice>, E> {
        let dense: Choice = vec![0; self.costs.len()];
        let mut curves: Vec<Vec<f64>> = Vec::new();
        for (layer, costs) in self.costs.iter().enumerate() {
            let mut curve = Vec::new();
            for level in 0..costs.len() {
                let mut choice = dense.clone();
                choice[layer] = level;
                // A sparser level is no better than what comes before.
                let before = curve.last().copied().unwrap_or(f64::NEG_INFINITY);
                curve.push(loss(&choice, true)?.max(before));
            }
            curves.push(curve);
        }
        let within = |bound: f64| -> Choice {
            let of =
                |curve: &Vec<f64>| curve.iter().take_while(|&&loss| loss <= bound).count().saturating_sub(1);
            curves.iter().map(of).collect()
        };
        let mut bounds: Vec<f64> = curves.iter().flatten().copied().collect();
        bounds.sort_by(f64::total_cmp);
        let kept = |choice: &Choice| self.cost(choice) <= budget;
        // (Not by halves: a sparser level may cost more.)
        Ok(bounds.into_iter().map(within).find(kept))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    /// Layers of three or four levels, whose costs fall and errors grow.
    fn levels(layers: usize) -> Levels {
        let of = |layer: usize| 3 + layer % 2;
        let cost = |layer: usize, level: usize| (7 + layer * 5 % 11) as f64 / (1.0 + level as f64);
        let error = |layer: usize, level: usize| (level * level) as f64 * (1 + layer * 7 % 5) as f64;
        let table = |f: &dyn Fn(usize, usize) -> f64| {
            (0..layers).map(|layer| (0..of(layer)).map(|level| f(layer, level)).collect()).collect()
        };
        Levels { costs: table(&cost), errors: table(&error) }
    }

    /// Every choice.
    fn all(levels: &Levels) -> Vec<Choice> {
        levels.costs.iter().fold(vec![Vec::new()], |all, costs| {
            let with = |choice: &Choice| {
                (0..costs.len()).map(|level| [&choice[..], &[level]].concat()).collect::<Vec<_>>()
            };
            all.iter().flat_map(with).collect()
        })
    }

    /// Errors that depend on neighbours, so that no sum of layers' errors is the loss.
    fn loss(levels: &Levels, choice: &[usize]) -> f64 {
        let error = |layer: usize| levels.errors[layer][choice[layer]];
        (0..choice.len())
            .map(|layer| error(layer) * (1.0 + if layer > 0 { error(layer - 1) } else { 2.0 }))
            .sum()
    }

    #[test]
    fn the_dynamic_programme_finds_the_least_error() {
        let levels = levels(6);
        let scales = [1.0, 0.5, 2.0, 0.1, 1.5, 0.7];
        for budget in [20.0, 25.0, 33.0, 60.0, 200.0] {
            let error = |choice: &Choice| -> f64 {
                (0..6).map(|layer| scales[layer] * levels.errors[layer][choice[layer]]).sum()
            };
            // Within the rounding of the costs.
            let fits = |choice: &Choice| levels.cost(choice) <= budget * (1.0 - 6.0 / BUCKETS as f64);
            let best =
                all(&levels).into_iter().filter(fits).map(|choice| error(&choice)).min_by(f64::total_cmp);
            let found = levels.least_error(&scales, budget);
            assert!(found.as_ref().is_none_or(|choice| levels.cost(choice) <= budget + 1e-9));
            match (best, found) {
                (Some(best), Some(found)) => assert!(error(&found) <= best + 1e-12, "{budget}: {found:?}"),
                (best, found) => assert!(best.is_none() && found.is_none(), "{budget}: {best:?} {found:?}"),
            }
        }
        assert_eq!(levels.least_error(&scales, 1.0), None);
    }

    #[test]
    fn searches_keep_to_the_budget_and_come_near_the_best() {
        let levels = levels(6);
        let budget = 30.0;
        let of = |choice: &Choice| loss(&levels, choice);
        let fits = |choice: &Choice| levels.cost(choice) <= budget;
        let best =
            all(&levels).into_iter().filter(fits).map(|choice| of(&choice)).min_by(f64::total_cmp).unwrap();
        let uniform = (0..3).map(|level| vec![level; 6]).find(fits).map(|choice| of(&choice)).unwrap();
        let mut measure = |choice: &[usize], _: bool| Ok::<_, Infallible>(loss(&levels, choice));
        for (name, found) in [
            ("spdy", levels.spdy(budget, 40, 1, &mut measure)),
            ("evopress", levels.evopress(budget, 20, 1, &mut measure)),
        ] {
            let Ok(Some(found)) = found else { panic!("{name} found none") };
            assert!(fits(&found), "{name}: {found:?}");
            assert!(
                of(&found) <= best + 0.1 * (uniform - best),
                "{name}: {} of {best} {uniform}",
                of(&found)
            );
        }
        assert_eq!(levels.spdy(1.0, 4, 1, &mut measure), Ok(None));
        let none = Levels { costs: Vec::new(), errors: Vec::new() };
        assert_eq!(none.spdy(1.0, 4, 1, &mut |_, _| Ok::<_, Infallible>(0.0)), Ok(None));
        assert_eq!(none.evopress(1.0, 4, 1, &mut |_, _| Ok::<_, Infallible>(0.0)), Ok(None));
        assert_eq!(levels.evopress(1.0, 4, 1, &mut measure), Ok(None));
    }

    #[test]
    fn sensitivity_holds_every_layer_under_one_bound() {
        let levels = levels(6);
        let alone = |layer: usize, level: usize| {
            let mut choice = vec![0; 6];
            choice[layer] = level;
            loss(&levels, &choice)
        };
        let mut measure = |choice: &[usize], _: bool| Ok::<_, Infallible>(loss(&levels, choice));
        let Ok(Some(found)) = levels.sensitivity(30.0, &mut measure) else { panic!("a choice") };
        assert!(levels.cost(&found) <= 30.0);
        let bound = (0..6).map(|layer| alone(layer, found[layer])).fold(0.0, f64::max);
        for layer in 0..6 {
            let next = found[layer] + 1;
            assert!(next == levels.costs[layer].len() || alone(layer, next) > bound, "{layer} of {found:?}");
        }
        assert_eq!(levels.sensitivity(1.0, &mut measure), Ok(None));
    }
}
