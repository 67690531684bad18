//! Recipes of several stages: prune, train what is left, prune more.
//!
//! A [`Stage`] does up to four things, in this order, once in each of its rounds: it prunes, as far as its [`Schedule`] has come;
//! sets the weights that stay back to what they were at the start; estimates the statistics of batch normalisation again; and
//! fine-tunes. What was zero stays zero. After each round the model is measured, beside the stage's bounds: a round that breaks
//! what must be kept is taken back, and ends the stage.
//!
//! ```toml
//! [[stage]]
//! rounds = 5
//! schedule = "cubic"
//! keep = ["drop=0.02"]
//! [stage.prune]
//! sparsity = 0.9
//! scope = "global"
//! [stage.finetune]
//! epochs = 1
//!
//! [[stage]]
//! [stage.finetune]
//! epochs = 5
//! ```
//!
//! Lottery tickets (Frankle and Carbin, ICLR 2019, <https://arxiv.org/abs/1803.03635>) are a stage that trains, and one that
//! prunes geometrically with `rewind = true` and trains again.

mod round;
mod run;
mod state;
#[cfg(test)]
mod tests;

use poda_formats::Graph;
use serde::{Deserialize, Serialize};

use crate::finetune::{self, Checkpoint, DataError, FineTuning};
use crate::recipe::{self, Granularity, Recipe, RecipeError};
use crate::schedule::Schedule;
use crate::termination::{Answer, Bound, Conditions};

pub use run::{Given, Observe, Progress, StagesError, Work, follow, score};
pub use state::{StateError, StateFolder};

/// Stages, one after the other.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stages {
    /// In the order in which they are done.
    #[serde(rename = "stage")]
    pub stages: Vec<Stage>,
}

/// A stage: what is done in each of its rounds, and when it ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Stage {
    /// For reports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How often.
    pub rounds: usize,
    /// How much has gone after each round.
    pub schedule: Schedule,
    /// The share that has gone before the first, in the terms of the pruning's `sparsity`.
    pub from: f64,
    /// Whether weights that stay go back to what they were at the start, after each pruning.
    pub rewind: bool,
    /// Whether the statistics of batch normalisation are estimated again from training samples. Fine-tuning does so by itself.
    pub reestimate: bool,
    /// What ends the stage once a round has reached it.
    pub until: Vec<Bound>,
    /// Whether all of `until` must be reached, not any.
    pub until_all: bool,
    /// What must not be given up: a round that breaks it is taken back, and ends the stage.
    pub keep: Vec<Bound>,
    /// What is pruned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prune: Option<Recipe>,
    /// How what is left is trained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finetune: Option<FineTuning>,
}

impl Default for Stage {
    fn default() -> Self {
        Self {
            name: None,
            rounds: 1,
            schedule: Schedule::default(),
            from: 0.0,
            rewind: false,
            reestimate: false,
            until: Vec::new(),
            until_all: false,
            keep: Vec::new(),
            prune: None,
            finetune: None,
        }
    }
}

/// What trains models: it has the samples.
pub trait Trainer {
    /// Fine-tunes a model.
    ///
    /// # Errors
    /// When samples do not fit, or training fails.
    fn finetune(
        &self,
        graph: &Graph,
        how: &FineTuning,
        checkpoint: Option<&Checkpoint>,
        observe: &mut dyn FnMut(&finetune::Progress) -> std::ops::ControlFlow<()>,
    ) -> Result<(Graph, finetune::Report), DataError>;

    /// Estimates the statistics of a model's batch normalisation again.
    ///
    /// # Errors
    /// When samples do not fit, or a run fails.
    fn reestimated(&self, graph: &Graph) -> Result<Graph, DataError>;
}

/// What a round came to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Round {
    /// Counted from 1.
    pub stage: usize,
    /// Counted from 1.
    pub round: usize,
    /// Share that was to have gone by then.
    pub sparsity: Option<f64>,
    /// Parameters that are not zero.
    pub nnz: u64,
    /// Multiply-accumulates on them.
    pub nonzero_macs: u64,
    /// What scores are: accuracy (`score`), or the mean cosine to the dense outputs (`cosine`).
    pub measure: Option<String>,
    /// Score once pruned.
    pub pruned: Option<f64>,
    /// Score in the end, once trained where it was.
    pub score: Option<f64>,
    /// What fine-tuning did.
    pub finetuned: Option<finetune::Report>,
    /// What was measured beside the stage's bounds, and what followed.
    pub answer: Option<Answer>,
    /// What it took.
    pub seconds: f64,
}

impl From<Recipe> for Stages {
    fn from(recipe: Recipe) -> Self {
        Self { stages: vec![Stage { prune: Some(recipe), ..Stage::default() }] }
    }
}

impl Stages {
    /// Stages from TOML, or the one stage of a plain recipe. Something else, such as flags, may yet complete them: values are
    /// not checked.
    ///
    /// # Errors
    /// When it is no TOML or has unknown fields.
    pub fn parse(text: &str) -> Result<Self, RecipeError> {
        let keys: toml::Table = recipe::parse(text)?;
        if keys.contains_key("stage") { recipe::parse(text) } else { Recipe::parse(text).map(Self::from) }
    }

    /// The only pruning, where nothing else is done.
    pub fn plain(&self) -> Option<&Recipe> {
        match &self.stages[..] {
            [stage] if Stage { prune: None, name: None, ..stage.clone() } == Stage::default() => {
                stage.prune.as_ref()
            }
            _ => None,
        }
    }

    /// As a TOML file: a plain recipe where that is all.
    pub fn to_toml(&self) -> String {
        match self.plain() {
            Some(recipe) => recipe.to_toml(),
            None => recipe::write(self),
        }
    }

    /// Checks every value.
    ///
    /// # Errors
    /// The first that is out of range, with the number of its stage where there are several.
    pub fn validate(&self) -> Result<(), RecipeError> {
        if let Some(recipe) = self.plain() {
            return recipe.validate();
        }
        if self.stages.is_empty() {
            return Err(RecipeError::NoTarget);
        }
        for (index, stage) in self.stages.iter().enumerate() {
            stage.validate().map_err(|problem| RecipeError::Stage { stage: index + 1, problem })?;
        }
        Ok(())
    }

    /// Whether some stage trains, or estimates statistics: then there must be a [`Trainer`].
    pub fn train(&self) -> bool {
        self.stages.iter().any(|stage| stage.finetune.is_some() || stage.reestimate)
    }

    /// Whether something is bounded that must be measured.
    pub fn searches(&self) -> bool {
        let of = |stage: &Stage| {
            !stage.conditions().is_empty() || stage.prune.as_ref().is_some_and(Recipe::searches)
        };
        self.stages.iter().any(of)
    }
}

impl Stage {
    fn validate(&self) -> Result<(), String> {
        if self.prune.is_none() && self.finetune.is_none() && !self.reestimate {
            return Err("nothing to do: add [stage.prune], [stage.finetune] or reestimate = true".to_owned());
        }
        if self.rounds == 0 {
            return Err("rounds is 0, expected at least 1".to_owned());
        }
        if let Some(how) = &self.finetune {
            how.validate().map_err(|error| error.to_string())?;
        }
        let Some(recipe) = &self.prune else {
            let unused = [("rewind", self.rewind), ("from", self.from != 0.0)];
            return match unused.iter().find(|(_, set)| *set) {
                Some((field, _)) => Err(format!("{field} needs a [stage.prune]")),
                None => Ok(()),
            };
        };
        recipe.validate().map_err(|error| error.to_string())?;
        if !(0.0..=recipe.share().unwrap_or(0.0)).contains(&self.from) {
            return Err(format!("from is {}, expected a number from 0 to the sparsity", self.from));
        }
        if self.rounds > 1 && (recipe.searches() || recipe.share().is_none()) {
            return Err(
                "rounds lead to a sparsity: give one, and put until and keep beside rounds".to_owned()
            );
        }
        if self.rounds > 1 && recipe.implied_sparsity().is_some() {
            return Err(format!("{} is reached in one round", recipe.granularity));
        }
        if self.rewind && !recipe.keep_ids.is_empty() {
            return Err("rewind needs tables that keep their rows: cut them in a stage of its own".to_owned());
        }
        if self.rewind && recipe.granularity == Granularity::Channel {
            return Err("rewind needs weights that keep their shapes, channels do not".to_owned());
        }
        Ok(())
    }

    /// What the stage bounds, beside its pruning.
    fn conditions(&self) -> Conditions {
        let Self { until, until_all, keep, prune, .. } = self.clone();
        let measure = prune.map(|recipe| recipe.measure).unwrap_or_default();
        Conditions::of(&Recipe { measure, until, until_all, keep, ..Recipe::default() })
    }

    /// What is pruned in a round, counted from 0; `None` where nothing is.
    fn recipe_of(&self, round: usize) -> Option<Recipe> {
        let mut recipe = self.prune.clone()?;
        // Narrower values come last, when nothing is trained any more.
        recipe.values = None;
        if self.rounds == 1 {
            return Some(recipe);
        }
        if round > 0 {
            // Rows that went are there no more.
            recipe.keep_ids.clear();
        }
        let along = |round: usize| round as f64 / self.rounds as f64;
        let channels = recipe.granularity == Granularity::Channel;
        let share = |from: f64, to: f64| {
            let [before, after] = [round, round + 1].map(|round| self.schedule.share(from, to, along(round)));
            // Channels that went are there no more: what goes is a share of the others.
            if channels { 1.0 - (1.0 - after) / (1.0 - before) } else { after }
        };
        recipe.sparsity = recipe.sparsity.map(|to| share(self.from, to));
        for layer in &mut recipe.layers {
            layer.share = share(self.from.min(layer.share), layer.share);
        }
        Some(recipe)
    }

    /// Share that is to have gone after a round, counted from 0.
    fn sparsity_after(&self, round: usize) -> Option<f64> {
        let recipe = self.prune.as_ref()?;
        let to = recipe.implied_sparsity().or(recipe.sparsity)?;
        Some(self.schedule.share(self.from, to, (round + 1) as f64 / self.rounds as f64))
    }
}
