//! Pruning.

use std::ffi::c_char;

use poda::formats::FileFormat;
use poda::pruner::Recipe;
use poda::pruning;

use crate::error::{PodaError, PodaStatus, path};
use crate::guard::{guard, text};

/// Prunes the model in one file into another, .onnx or .safetensors, as a recipe in TOML says, such as "sparsity = 0.9". Recipes
/// that need data (max_drop) are refused.
///
/// # Safety
/// `input`, `output` and `recipe` are texts that end in NUL; `error` is NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poda_prune(
    input: *const c_char,
    output: *const c_char,
    recipe: *const c_char,
    error: *mut *mut PodaError,
) -> PodaStatus {
    let prune = || {
        // SAFETY: by the contract above.
        let (input, output, recipe) =
            unsafe { (path(text(input, "input")?), path(text(output, "output")?), text(recipe, "recipe")?) };
        let recipe = Recipe::from_toml(recipe).map_err(PodaError::argument)?;
        let Some(format) = FileFormat::of_name(&output) else {
            return Err(PodaError::argument("output ends neither in .onnx nor in .safetensors"));
        };
        let graph = poda::formats::open(&input)?;
        let (pruned, mut report) =
            poda::pruner::prune(&graph, &recipe, &poda::shapes::Shapes::new(), &mut |_| (), None)?;
        let pruned = pruning::stored(pruned, recipe.granularity, Some(format), &mut report);
        Ok(pruning::write(&pruned, &output, None, &mut report)?)
    };
    // SAFETY: by the contract above.
    unsafe { guard(error, prune) }
}
