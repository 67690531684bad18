//! Importance: which weights, and which units, matter least.
//!
//! A [`Criterion`] scores the elements of a weight. The score of a unit (a channel, a head) is taken from its slices of
//! every matrix that has it: in each matrix the criterion reduces the slice's scores to one number, which is divided by
//! the mean over the units of the group; the unit's score is the mean of these over the matrices. Scores of different
//! groups can thus be compared. Fang et al., "DepGraph", CVPR 2023, <https://arxiv.org/abs/2301.12900>.

mod magnitude;
mod random;
mod score;

pub use magnitude::{L1, L2};
pub use random::Random;
pub(crate) use score::random_for;
pub use score::{float_values, unit_scores, weight_scores};

use rand::rngs::SmallRng;

/// A way to score weights. Low scores go first.
pub trait Criterion: std::fmt::Debug + Sync {
    /// As given on the command line and in recipes.
    fn name(&self) -> &'static str;

    /// One line for help texts.
    fn description(&self) -> &'static str;

    /// Scores of the elements of a weight, none negative. Whatever is random comes from `random`.
    fn elements(&self, values: &[f32], random: &mut SmallRng) -> Vec<f32>;

    /// The score of a slice from the sum of its elements' scores.
    fn slice(&self, sum: f64, random: &mut SmallRng) -> f64;
}

/// Every criterion.
pub static CRITERIA: &[&dyn Criterion] = &[&L1, &L2, &Random];

/// The criterion with this name.
pub fn find(name: &str) -> Option<&'static dyn Criterion> {
    CRITERIA.iter().copied().find(|criterion| criterion.name() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        for (i, criterion) in CRITERIA.iter().enumerate() {
            assert!(!CRITERIA[..i].iter().any(|other| other.name() == criterion.name()));
            assert_eq!(find(criterion.name()).unwrap().name(), criterion.name());
        }
    }
}
