//! Why a model cannot be pruned as asked.

use poda_formats::GraphError;
use poda_formats::weight::RoundWeightError;
use poda_formats::weight::SparseError;

use crate::calibration::CalibrationError;
use crate::check::{CheckError, TOLERANCE};
use crate::compact::CompactError;
use crate::finetune::FineTuneError;
use crate::gradients::objective::ObjectiveError;
use crate::judge::JudgeError;
use crate::masks::MasksError;
use crate::names::NamesError;
use crate::recipe::RecipeError;
use crate::update::UpdateError;
use crate::values::ValuesError;
use crate::vocabulary::VocabularyError;

/// Why a model cannot be pruned as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum PruneError {
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    #[error(transparent)]
    Graph(#[from] GraphError),
    #[error(transparent)]
    Compact(#[from] CompactError),
    #[error(transparent)]
    Round(#[from] RoundWeightError),
    #[error("a sparse weight cannot be read: {0}")]
    Weight(#[from] SparseError),
    #[error(transparent)]
    Judge(#[from] JudgeError),
    #[error("the dense model itself does not keep what is to be kept: {0}")]
    NotKept(String),
    #[error(transparent)]
    Names(#[from] NamesError),
    #[error(transparent)]
    Masks(#[from] MasksError),
    #[error(transparent)]
    Values(#[from] ValuesError),
    #[error(transparent)]
    Vocabulary(#[from] VocabularyError),
    #[error(
        "the pruned model differs from the masked one: a channel of output {output:?} by {relative:.2e} of its greatest \
         element (allowed: {TOLERANCE:e}); please report this model"
    )]
    Differs { output: String, relative: f64 },
    #[error("the pruned model is wrong: {0}; please report this model")]
    Wrong(CheckError),
    #[error(
        "the pruned model cannot be checked against the dense one: {0}; give shapes that the model takes, or do without the \
         check (check = false in the recipe, --no-check)"
    )]
    NotChecked(CheckError),
    #[error("nothing can be removed: {reason}")]
    NothingToRemove { reason: String },
    #[error("no weight can be pruned: no product has a float matrix that is not excluded")]
    NoWeights,
    #[error(transparent)]
    Calibration(#[from] CalibrationError),
    #[error(transparent)]
    Objective(#[from] ObjectiveError),
    #[error(
        "criterion {criterion:?} needs labels: class numbers in an array \"labels\" beside the samples (--data)"
    )]
    NoLabels { criterion: &'static str },
    #[error("weight {weight:?}: {source}")]
    Update { weight: String, source: UpdateError },
    #[error(
        "nothing says what weight {weight:?} is multiplied with, so that it cannot be fitted to data; leave it alone (exclude)"
    )]
    NoInputs { weight: String },
    #[error("a submodule cannot be trained: {0}")]
    Training(Box<FineTuneError>),
    #[error("stopped: whoever watched the pruning ended it")]
    Stopped,
}
