//! What the flags of `poda prune` stand for: stages.

use std::fs;

use anyhow::{Context, Result, ensure};
use poda_formats::storage::check_regular;
use poda_pruner::Recipe;
use poda_pruner::allocation::{Allocate, Scope};
use poda_pruner::criterion::{Aggregate, Normalize};
use poda_pruner::recipe::Inputs;
use poda_pruner::stages::Stages;
use poda_pruner::vocabulary::KeptIds;

use super::Args;

/// The recipe file, if there is one, with the flags on top.
pub(super) fn plan(args: &Args) -> Result<Stages> {
    let mut stages = match &args.recipe {
        Some(path) => {
            let at = || path.display().to_string();
            // Of a pipe or a device, reading may not end.
            let regular = fs::metadata(path).and_then(|metadata| check_regular(&metadata));
            let text = regular.and_then(|()| fs::read_to_string(path)).with_context(at)?;
            Stages::parse(&text).with_context(at)?
        }
        None => Recipe::default().into(),
    };
    for recipe in stages.stages.iter_mut().filter_map(|stage| stage.prune.as_mut()) {
        put_on_top(args, recipe);
    }
    // Rows go once.
    if let Some(recipe) = stages.stages.iter_mut().find_map(|stage| stage.prune.as_mut()) {
        for text in &args.keep_ids {
            recipe.keep_ids.push(kept_ids(text, args.unknown_id)?);
        }
    }
    args.stages.on_top(stages, args.seed)
}

/// The ids of a vocabulary that stay, from `TABLE=FILE`.
fn kept_ids(text: &str, unknown: Option<u64>) -> Result<KeptIds> {
    // Names may have an equals sign; paths seldom do.
    let (table, path) = text.rsplit_once('=').context("--keep-ids: expected TABLE=FILE")?;
    let unknown = unknown.context("--keep-ids: say what ids that went are taken for (--unknown-id)")?;
    let list = fs::metadata(path).and_then(|metadata| check_regular(&metadata));
    let list = list.and_then(|()| fs::read_to_string(path)).with_context(|| path.to_owned())?;
    let mut ids = Vec::new();
    for (number, line) in list.lines().enumerate() {
        let between = |c: char| c.is_whitespace() || matches!(c, ',' | '[' | ']');
        for word in line.split(between).filter(|word| !word.is_empty()) {
            let failed =
                || format!("{path}, line {}: {word:?} is no id; expected a whole number", number + 1);
            ids.push(word.parse().with_context(failed)?);
        }
    }
    ensure!(!ids.is_empty(), "{path}: no ids");
    Ok(KeptIds { table: table.to_owned(), unknown, ids })
}

fn put_on_top(args: &Args, recipe: &mut Recipe) {
    recipe.sparsity = args.sparsity.or(recipe.sparsity);
    recipe.target_macs = args.target_macs.or(recipe.target_macs);
    recipe.max_drop = args.max_drop.or(recipe.max_drop);
    if let Some(scored) = args.measure.as_deref().and_then(|name| name.parse().ok()) {
        recipe.measure = scored;
    }
    recipe.until.extend(args.latency.iter().chain(&args.until));
    recipe.until_all |= args.until_all;
    recipe.keep.extend(&args.keep);
    recipe.values = args.values.or(recipe.values);
    recipe.round_to = args.round_to.or(recipe.round_to);
    recipe.seed = args.seed.unwrap_or(recipe.seed);
    recipe.remove_dead |= args.remove_dead;
    recipe.check &= !args.no_check;
    recipe.exclude.extend(args.exclude.iter().cloned());
    recipe.layers.extend(args.layer.iter().cloned());
    recipe.floors.extend(args.floor.iter().cloned());
    if let Some(criterion) = &args.criterion {
        recipe.criterion.clone_from(criterion);
    }
    recipe.granularity = args.granularity.unwrap_or(recipe.granularity);
    recipe.update = args.update.clone().or(recipe.update.take());
    recipe.damping = args.damping.unwrap_or(recipe.damping);
    recipe.inputs = match args.inputs.as_deref() {
        Some("dense") => Inputs::Dense,
        Some("pruned") => Inputs::Pruned,
        Some(_) => Inputs::Both,
        None => recipe.inputs,
    };
    recipe.flops_penalty = args.flops_penalty.unwrap_or(recipe.flops_penalty);
    recipe.normalize = match args.normalize.as_deref() {
        Some("none") => Normalize::None,
        Some("mean") => Normalize::Mean,
        Some("l2") => Normalize::L2,
        Some("standard") => Normalize::Standard,
        Some(_) => Normalize::Auto,
        None => recipe.normalize,
    };
    recipe.aggregate = match args.aggregate.as_deref() {
        Some("max") => Aggregate::Max,
        Some("sum") => Aggregate::Sum,
        Some(_) => Aggregate::Mean,
        None => recipe.aggregate,
    };
    recipe.allocate = args.allocate.as_deref().and_then(Allocate::find).unwrap_or(recipe.allocate);
    recipe.scope = match args.scope.as_deref() {
        Some("global") => Scope::Global,
        Some("layer") => Scope::Layer,
        Some("row") => Scope::Row,
        Some("erdos-renyi") => Scope::ErdosRenyi,
        Some(_) => Scope::Auto,
        None => recipe.scope,
    };
}
