//! How a run gets to its target.

use crate::recipe::Recipe;

/// Greatest share that a run without a target sparsity may reach.
const FARTHEST: f64 = 0.95;

/// The shares to try, ascending: one shot when the target is a share, small steps when it is to be found, or when somebody
/// `judges` each.
pub fn steps(recipe: &Recipe, judges: bool) -> Vec<f64> {
    let implied = recipe.implied_sparsity();
    let share = implied.or(recipe.sparsity);
    let last = share.unwrap_or(FARTHEST);
    let judges = judges && share.is_some() && implied.is_none();
    if recipe.target_macs.is_none() && recipe.max_drop.is_none() && !judges {
        return if share.is_some() { vec![last] } else { Vec::new() };
    }
    let count = recipe.steps.max(1);
    (1..=count).map(|step| last * step as f64 / count as f64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_shot_or_small_steps() {
        let recipe = Recipe { sparsity: Some(0.5), ..Recipe::default() };
        assert_eq!(steps(&recipe, false), [0.5]);
        assert_eq!(steps(&Recipe { max_drop: Some(0.1), steps: 2, ..recipe.clone() }, false), [0.25, 0.5]);
        assert_eq!(steps(&Recipe { steps: 2, ..recipe }, true), [0.25, 0.5]);
        assert_eq!(steps(&Recipe { remove_dead: true, ..Recipe::default() }, true), [0.0; 0]);
    }
}
