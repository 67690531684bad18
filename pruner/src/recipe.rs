//! What to prune, how much, and by what: a [`Recipe`], read from TOML or built from the command line.

mod granularity;

use poda_formats::{Pattern, PatternError, ValueType};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::allocation::{Allocate, LayerShare, Scope};
use crate::criterion::{self, Aggregate, CRITERIA, Criterion, Normalize};
use crate::names;
use crate::termination::{Bound, Conditions, Scored};
use crate::update::{self, Bias, LeastSquares, UPDATES, WeightUpdate};
use crate::vocabulary::KeptIds;

pub use granularity::Granularity;

/// On whose activations layers are fitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Inputs {
    /// Of the model whose layers before are pruned already, with the outputs of the dense one to be fitted to.
    #[default]
    Both,
    /// Of the model whose layers before are pruned already, with the layer's own dense outputs on them to be fitted to.
    Pruned,
    /// Of the dense model.
    Dense,
}

/// The criterion of a recipe that leaves the choice.
const AUTO: &str = "auto";

/// A pruning, described. Every field has a default; at least one of `sparsity`, `target_macs`, `max_drop`, `until`,
/// `keep`, `keep_ids` and `remove_dead` must be set; N:M says by itself how much.
///
/// ```toml
/// granularity = "channel"
/// sparsity = 0.3
/// exclude = ["head.*"]
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recipe {
    /// What is removed at a time.
    pub granularity: Granularity,
    /// Share to remove, 0 to 1: of the weights that may go (unstructured), of the blocks, or of the units of each group (channel;
    /// of all units for the scope `global`). A share s of the channels of every layer takes about 1 − (1 − s)² of the
    /// parameters of coupled layers; where most parameters are in layers that must keep their width on one side
    /// (transformers), it takes about s. See `least_parameters`.
    pub sparsity: Option<f64>,
    /// Stop when the multiply-accumulates are at most this share of the dense model's, 0 to 1.
    pub target_macs: Option<f64>,
    /// Stop before the score on validation data drops by more than this.
    pub max_drop: Option<f64>,
    /// What that score is: `score` on labels, or what needs none: `agreement` of classes, `pearson` or `spearman` of embeddings'
    /// similarities, `cosine`, `worst-cosine`.
    pub measure: Scored,
    /// What is to be reached, such as `latency=2ms`; the least that reaches it is taken.
    pub until: Vec<Bound>,
    /// Whether all of `until` must be reached, not any.
    pub until_all: bool,
    /// What must not be given up for it, such as `cosine=0.99`: what breaks it is taken back.
    pub keep: Vec<Bound>,
    /// Name of the [`Criterion`]; `auto` for [`Criterion`]s that do best: `wanda` with calibration data, `magnitude-l2` without.
    pub criterion: String,
    /// Names of the [updates](crate::update) of weights that stay, one after the other; by default `bias` and `least-squares`
    /// with calibration data, and none without.
    pub update: Option<Vec<String>>,
    /// What is added to the diagonal of the matrices that updates solve with, as a share of its mean.
    pub damping: f64,
    /// On whose activations layers are fitted: of the model as it is pruned so far, or of the dense one.
    pub inputs: Inputs,
    /// How scores of layers, or of groups of units, are made comparable; `standard` of units only.
    pub normalize: Normalize,
    /// How the scores of a unit in several matrices become one.
    pub aggregate: Aggregate,
    /// Units: what is taken from a score for each million multiply-accumulates that a unit takes. Molchanov et al., ICLR 2017,
    /// <https://arxiv.org/abs/1611.06440>, take 0.001.
    pub flops_penalty: f64,
    /// Among what units or weights compete.
    pub scope: Scope,
    /// How shares of layers are found where not by the scope: by trying levels of each on samples, within the time that layers
    /// take at equal shares, measured on this machine; of single weights and blocks.
    pub allocate: Allocate,
    /// Shares of their own for layers by name, such as `encoder.*=0.8`; the last that fits counts.
    pub layers: Vec<LayerShare>,
    /// What must stay of layers by name, such as `head.*=0.5`; the last that fits counts. Where layers compete, others make up for
    /// it.
    pub floors: Vec<LayerShare>,
    /// Patterns of weight or node names to leave alone; `*` is any text, `?` any character.
    pub exclude: Vec<String>,
    /// Keep widths at multiples of this many elements where that costs little; 1 for any width. By default the f32 lanes
    /// of this CPU's vectors.
    pub round_to: Option<usize>,
    /// Channel granularity: when a share `sparsity` of the units that may go holds less than this part of it in
    /// parameters (embedding tables aside), take a larger share of them, and say so. 0, the default, for never.
    pub least_parameters: f64,
    /// Store the weights of products and convolutions as this in the end, such as `int8`; `None` keeps what is there. The
    /// score on validation data counts it in.
    pub values: Option<ValueType>,
    /// First cut tables that ids are looked up in to the rows of these ids.
    pub keep_ids: Vec<KeptIds>,
    /// First remove units that are constant or that nobody listens to; the model computes the same function.
    pub remove_dead: bool,
    /// For whatever is random: the criterion, and the inputs of the final check.
    pub seed: u64,
    /// Into how many steps the way to a target is divided: how near to it the result comes.
    pub steps: usize,
    /// Compare the pruned model with the masked one on random inputs in the end.
    pub check: bool,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            granularity: Granularity::default(),
            sparsity: None,
            target_macs: None,
            max_drop: None,
            measure: Scored::default(),
            until: Vec::new(),
            until_all: false,
            keep: Vec::new(),
            criterion: AUTO.to_owned(),
            update: None,
            damping: 0.01,
            inputs: Inputs::default(),
            normalize: Normalize::default(),
            aggregate: Aggregate::default(),
            flops_penalty: 0.0,
            scope: Scope::default(),
            allocate: Allocate::default(),
            layers: Vec::new(),
            floors: Vec::new(),
            exclude: Vec::new(),
            round_to: None,
            least_parameters: 0.0,
            values: None,
            keep_ids: Vec::new(),
            remove_dead: false,
            seed: 0,
            steps: 64,
            check: true,
        }
    }
}

/// Why a recipe cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum RecipeError {
    #[error("{field} is {value}, expected a number from 0 to {most}")]
    Range { field: &'static str, value: String, most: &'static str },
    #[error("criterion {name:?} is not known; there are {known}")]
    Criterion { name: String, known: String },
    #[error("criterion {name:?} does not tell {what} apart; of {granularity} {these} do")]
    Unfit { name: String, what: &'static str, granularity: Granularity, these: String },
    #[error("{field} is for granularity {wanted}, not for {granularity}")]
    Granularities { field: &'static str, wanted: &'static str, granularity: Granularity },
    #[error("update {name:?} is not known; there are none, {known}")]
    Update { name: String, known: String },
    #[error("{kind} {name:?} needs calibration data: give unlabelled samples (--data), or take another")]
    NoData { kind: &'static str, name: &'static str },
    #[error(
        "{found:?} is no granularity; there are unstructured, channel, depth, block:ROWSxCOLS such as block:4x1, and \
         nm:N:M such as nm:2:4"
    )]
    Granularity { found: String },
    #[error(transparent)]
    Pattern(PatternError),
    #[error("{pattern} removes {implied} of the weights; {field} cannot say otherwise")]
    Implied { pattern: Pattern, implied: String, field: &'static str },
    #[error("sparsity and target_macs both say how much to remove; give one (max_drop may limit either)")]
    TwoTargets,
    #[error(
        "allocate, layers and the scopes global and erdos-renyi all say what goes of each layer; give one"
    )]
    TwoAllocations,
    #[error(
        "nothing to do: set sparsity, layers, target_macs, max_drop, until, keep, keep_ids or remove_dead"
    )]
    NoTarget,
    #[error("{measure} needs validation data")]
    NoValidation { measure: &'static str },
    #[error("stage {stage}: {problem}")]
    Stage { stage: usize, problem: String },
    #[error("{0}")]
    Toml(String),
}

/// What a TOML file holds.
///
/// # Errors
/// When it is something else; with the line.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T, RecipeError> {
    toml::from_str(text).map_err(|error| {
        let line = error.span().map(|span| text[..span.start].matches('\n').count() + 1);
        let at = line.map(|line| format!("line {line}: ")).unwrap_or_default();
        RecipeError::Toml(format!("{at}{}", error.message().replace('\n', " ")))
    })
}

/// A table of values as a TOML file.
///
/// # Panics
/// When it is no table.
pub fn write(table: &impl Serialize) -> String {
    toml::to_string(table).expect("a table of values")
}

impl Recipe {
    /// A recipe from TOML.
    ///
    /// # Errors
    /// When it is no TOML, has unknown fields, or a value is out of range.
    pub fn from_toml(text: &str) -> Result<Self, RecipeError> {
        let recipe = Self::parse(text)?;
        recipe.validate()?;
        Ok(recipe)
    }

    /// A recipe from TOML that something else, such as flags, may yet complete: values are not checked.
    ///
    /// # Errors
    /// When it is no TOML or has unknown fields.
    pub fn parse(text: &str) -> Result<Self, RecipeError> {
        parse(text)
    }

    /// Checks every value.
    ///
    /// # Errors
    /// The first that is out of range.
    pub fn validate(&self) -> Result<(), RecipeError> {
        let share = |field: &'static str, value: Option<f64>| match value {
            Some(v) if !(0.0..1.0).contains(&v) => {
                Err(RecipeError::Range { field, value: v.to_string(), most: "less than 1" })
            }
            _ => Ok(()),
        };
        share("sparsity", self.sparsity)?;
        share("target_macs", self.target_macs)?;
        share("least_parameters", Some(self.least_parameters))?;
        if let Some(drop) = self.max_drop.filter(|d| d.is_nan() || *d < 0.0) {
            return Err(RecipeError::Range { field: "max_drop", value: drop.to_string(), most: "any" });
        }
        if self.sparsity.is_some() && self.target_macs.is_some() {
            return Err(RecipeError::TwoTargets);
        }
        if let (Granularity::Pattern(pattern), Some(implied)) = (self.granularity, self.implied_sparsity()) {
            let others = [
                ("sparsity", self.sparsity.is_some_and(|sparsity| (sparsity - implied).abs() > 1e-6)),
                ("target_macs", self.target_macs.is_some()),
                ("max_drop", self.max_drop.is_some()),
                ("until", !self.until.is_empty()),
                ("keep", !self.keep.is_empty()),
                ("layers", !self.layers.is_empty()),
                ("floors", !self.floors.is_empty()),
                ("scope", matches!(self.scope, Scope::Row | Scope::ErdosRenyi | Scope::Global)),
            ];
            if let Some((field, _)) = others.into_iter().find(|(_, set)| *set) {
                let implied = implied.to_string();
                return Err(RecipeError::Implied { pattern, implied, field });
            }
        } else if self.share().is_none() && !self.searches() && !self.remove_dead && self.keep_ids.is_empty()
        {
            return Err(RecipeError::NoTarget);
        }
        if !self.damping.is_finite() || self.damping <= 0.0 {
            return Err(RecipeError::Range {
                field: "damping",
                value: self.damping.to_string(),
                most: "any, and not 0",
            });
        }
        if !self.flops_penalty.is_finite() || self.flops_penalty < 0.0 {
            return Err(RecipeError::Range {
                field: "flops_penalty",
                value: self.flops_penalty.to_string(),
                most: "any",
            });
        }
        let granularity = self.granularity;
        let only_units = [
            ("flops_penalty", self.flops_penalty > 0.0),
            ("aggregate", self.aggregate != Aggregate::default()),
            ("normalize = \"standard\"", self.normalize == Normalize::Standard),
        ];
        let not_blocks = [
            ("layers", !self.layers.is_empty()),
            ("floors", !self.floors.is_empty()),
            ("update", self.update.as_ref().is_some_and(|names| names.iter().any(|name| name != "none"))),
        ];
        if let (false, Some((field, _))) =
            (granularity == Granularity::Channel, only_units.into_iter().find(|(_, set)| *set))
        {
            return Err(RecipeError::Granularities { field, wanted: "channel", granularity });
        }
        if self.allocate != Allocate::Scope {
            let units = matches!(granularity, Granularity::Channel | Granularity::Depth);
            if units || self.implied_sparsity().is_some() {
                let wanted = "unstructured or block";
                return Err(RecipeError::Granularities { field: "allocate", wanted, granularity });
            }
            if !self.layers.is_empty() || matches!(self.scope, Scope::Global | Scope::ErdosRenyi) {
                return Err(RecipeError::TwoAllocations);
            }
        }
        if let (true, Some((field, _))) =
            (granularity == Granularity::Depth, not_blocks.into_iter().find(|(_, set)| *set))
        {
            let wanted = "any but depth, of which whole blocks go";
            return Err(RecipeError::Granularities { field, wanted, granularity });
        }
        self.criterion(false)?;
        self.updates(false)?;
        Ok(())
    }

    /// The criterion, given whether there are calibration data.
    ///
    /// # Errors
    /// When its name is not known.
    pub fn criterion(&self, data: bool) -> Result<&'static dyn Criterion, RecipeError> {
        let name = match &self.criterion[..] {
            AUTO if self.granularity == Granularity::Depth => "block-influence",
            AUTO if data => "wanda",
            AUTO => "magnitude-l2",
            name => name,
        };
        let names = |of: &dyn Fn(&dyn Criterion) -> bool| {
            CRITERIA.iter().filter(|c| of(**c)).map(|c| c.name()).collect::<Vec<_>>().join(", ")
        };
        let criterion = criterion::find(name).ok_or_else(|| {
            let known = format!("{AUTO}, {}", names(&|_| true));
            RecipeError::Criterion { name: self.criterion.clone(), known }
        })?;
        let granularity = self.granularity;
        if !criterion.scores(granularity) {
            let what = match granularity {
                Granularity::Unstructured | Granularity::Pattern(_) => "single weights",
                Granularity::Channel => "units",
                Granularity::Depth => "whole blocks",
            };
            let these = names(&|criterion| criterion.scores(granularity));
            return Err(RecipeError::Unfit { name: name.to_owned(), what, granularity, these });
        }
        Ok(criterion)
    }

    /// How scores are made comparable, by `criterion` where the recipe does not say.
    pub fn normalize(&self, criterion: &dyn Criterion) -> Normalize {
        match (self.normalize, self.granularity) {
            (Normalize::Auto, Granularity::Channel) => criterion.normalize(),
            (normalize, _) => normalize,
        }
    }

    /// The updates, given whether there are calibration data.
    ///
    /// # Errors
    /// When a name is not known.
    pub fn updates(&self, data: bool) -> Result<Vec<&'static dyn WeightUpdate>, RecipeError> {
        let find = |name: &str| {
            update::find(name).ok_or_else(|| {
                let known: Vec<&str> = UPDATES.iter().map(|update| update.name()).collect();
                RecipeError::Update { name: name.to_owned(), known: known.join(", ") }
            })
        };
        match &self.update {
            Some(names) => names.iter().filter(|name| *name != "none").map(|name| find(name)).collect(),
            None if data && self.granularity != Granularity::Depth => Ok(vec![&Bias, &LeastSquares]),
            None => Ok(Vec::new()),
        }
    }

    /// Among what units or weights compete, by `criterion` where the recipe does not say.
    pub fn scope(&self, criterion: &dyn Criterion) -> Scope {
        if self.scope == Scope::Auto { criterion.scope() } else { self.scope }
    }

    /// The share that the granularity removes by itself: 1 − N/M.
    pub fn implied_sparsity(&self) -> Option<f64> {
        match self.granularity {
            Granularity::Pattern(pattern @ Pattern::NofM { .. }) => {
                let [n, m] = pattern.numbers();
                Some(1.0 - n as f64 / m as f64)
            }
            _ => None,
        }
    }

    /// The share that goes where no layer has one of its own; none where only these lose anything.
    pub fn share(&self) -> Option<f64> {
        self.sparsity.or((!self.layers.is_empty()).then_some(0.0))
    }

    /// What prunes as much without data, in a moment, and comes to about the same speed and size; `None` where only data tell what
    /// goes. It keeps nothing, and checks nothing.
    pub(crate) fn sketch(&self) -> Option<Self> {
        let sketch = Self {
            criterion: "magnitude-l2".to_owned(),
            update: Some(Vec::new()),
            keep: Vec::new(),
            max_drop: None,
            allocate: Allocate::default(),
            keep_ids: Vec::new(),
            check: false,
            ..self.clone()
        };
        (self.granularity != Granularity::Depth).then_some(sketch)
    }

    /// The recipe as a TOML file.
    pub fn to_toml(&self) -> String {
        write(self)
    }

    /// Whether how much goes is to be found, by measuring.
    pub fn searches(&self) -> bool {
        !Conditions::of(self).is_empty()
    }

    /// Whether some pattern of `exclude` fits a name.
    pub fn excludes(&self, name: &str) -> bool {
        self.exclude.iter().any(|pattern| names::fits(pattern, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_is_read_and_checked() {
        let recipe = Recipe::from_toml(
            "granularity = \"channel\"\nsparsity = 0.3\nscope = \"global\"\nvalues = \"int8\"",
        )
        .unwrap();
        assert_eq!(
            (recipe.granularity, recipe.sparsity, recipe.scope, recipe.values),
            (Granularity::Channel, Some(0.3), Scope::Global, Some(ValueType::Int8))
        );
        let recipe = Recipe::from_toml("granularity = \"nm:2:4\"").unwrap();
        assert_eq!(recipe.implied_sparsity(), Some(0.5));
        assert!(Recipe::from_toml("granularity = \"nm:1:4\"\nsparsity = 0.75").is_ok());
        assert!(Recipe::from_toml("granularity = \"block:4x1\"\nsparsity = 0.75").is_ok());
        let keep_ids = vec![KeptIds { table: "words".to_owned(), unknown: 1, ids: vec![1, 3] }];
        let written = Recipe { keep_ids, ..recipe };
        let text = written.to_toml();
        assert!(text.contains("granularity = \"nm:2:4\""), "{text}");
        assert_eq!(Recipe::from_toml(&text).unwrap(), written);
        for (text, message) in [
            (
                "granularity = \"nm:2:4\"\nsparsity = 0.75",
                "nm:2:4 removes 0.5 of the weights; sparsity cannot say otherwise",
            ),
            (
                "granularity = \"nm:2:4\"\nscope = \"global\"",
                "nm:2:4 removes 0.5 of the weights; scope cannot say otherwise",
            ),
            (
                "granularity = \"block:4x1\"",
                "nothing to do: set sparsity, layers, target_macs, max_drop, until, keep, keep_ids or remove_dead",
            ),
            ("sparsity = 1.5", "sparsity is 1.5, expected a number from 0 to less than 1"),
            (
                "sparsity = 0.5\ncriterion = \"tailor\"",
                "criterion \"tailor\" is not known; there are auto, magnitude-l1, magnitude-l2, random, lamp, han, wanda, ria, \
                 activation, sparsegpt, gradient, snip, taylor-fo, obd, obert, taylor-2016, taylor-signed, mean-activation, \
                 deviation, apoz, mutual-information, fpgm, batch-norm, flap, ziplm, oracle, block-influence",
            ),
            (
                "",
                "nothing to do: set sparsity, layers, target_macs, max_drop, until, keep, keep_ids or remove_dead",
            ),
        ] {
            assert_eq!(Recipe::from_toml(text).unwrap_err().to_string(), message);
        }
        for (text, message) in [
            ("rows", "\"rows\" is no granularity; there are unstructured, channel"),
            ("nm:4:2", "nm:4:2: N is at least 1 and less than M"),
        ] {
            let error = text.parse::<Granularity>().unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
        let error = Recipe::from_toml("seed = 1\nsparsty = 0.5").unwrap_err().to_string();
        assert!(error.starts_with("line 2: unknown field `sparsty`"), "{error}");
    }
}
