//! Goals of `poda prune`: what must be kept where nothing says so, and the table of what was tried.

use anyhow::{Result, ensure};
use poda::dataset::Dataset;
use poda_formats::Graph;
use poda_pruner::Recipe;
use poda_pruner::goal::{Attempt, Outcome, Tried};
use poda_pruner::termination::{self, Measured, Scored};

use crate::table::{self, percent, print};

/// What a goal keeps: what the recipe says, or 1 % of what is scored, or where nothing says how a cosine of 0.99.
pub(super) fn with_something_kept(recipe: &mut Recipe, sets: &[Dataset], labelled: bool) -> Result<()> {
    ensure!(!sets.is_empty(), "--goal needs samples to judge by: --data or --validation");
    if recipe.keep.is_empty() && recipe.max_drop.is_none() {
        let scored = labelled || recipe.measure != Scored::default();
        recipe.keep.push(if scored { "drop=0.01" } else { "cosine=0.99" }.parse()?);
    }
    Ok(())
}

/// What to say where there are too few samples to see as little as the drop that is allowed.
pub(super) fn too_few(recipe: &Recipe, graph: &Graph, sets: &[Dataset]) -> Result<Option<String>> {
    let Some(drop) = recipe.max_drop.filter(|drop| *drop > 0.0) else { return Ok(None) };
    let by_class = recipe.measure == Scored::default() || recipe.measure.measure().name == "agreement";
    let mut samples = 0;
    for set in sets {
        let bound = set.bind(graph)?;
        if !by_class || bound.similarities().is_some() {
            return Ok(None);
        }
        samples += bound.len();
    }
    let one = 1.0 / samples.max(1) as f64;
    Ok((one > drop).then(|| {
        format!(
            "{samples} samples to judge by cannot tell a drop of {drop}: one of them is {}, so that none may be lost; --measure \
             agreement judges by unlabelled ones, of which more can be had",
            percent(one)
        )
    }))
}

/// Ways that were tried where none holds, as a report would say it.
pub(super) fn show_in_vain(tried: &Tried, note: Option<String>, json: bool) -> Result<()> {
    let notes: Vec<String> = note.into_iter().collect();
    if json {
        return table::print_json(&serde_json::json!({ "goal": tried, "notes": notes }));
    }
    show(tried)?;
    notes.iter().try_for_each(|note| print(format!("note: {note}")))
}

/// Ways that were tried for a goal.
pub(super) fn show(tried: &Tried) -> Result<()> {
    let mut measures: Vec<&String> = Vec::new();
    for name in tried.attempts.iter().flat_map(|attempt| attempt.measured.keys()) {
        if !measures.contains(&name) {
            measures.push(name);
        }
    }
    let header = ["way", "removed", "p50 ms", "× dense", "file"].into_iter();
    let header: Vec<&str> =
        header.chain(measures.iter().map(|name| name.as_str())).chain(["took s", ""]).collect();
    let mut rows = table::table(&header, 1);
    let mut row =
        |way: &str, removed: String, outcome: Option<&Outcome>, numbers: &Measured, end: [String; 2]| {
            let number = |name: &&String| match (termination::find(name), numbers.get(*name)) {
                (Some(measure), Some(&number)) => termination::shown(measure.unit, number),
                _ => String::new(),
            };
            let of = |text: fn(&Outcome) -> String| outcome.map(text).unwrap_or_default();
            let measured = [
                of(|outcome| table::ms(outcome.latency_ms)),
                of(|outcome| table::ratio(outcome.speedup)),
                of(|outcome| table::bytes(outcome.file_bytes)),
            ];
            let cells =
                [way.to_owned(), removed].into_iter().chain(measured).chain(measures.iter().map(number));
            rows.add_row(cells.chain(end).collect::<Vec<_>>());
        };
    row("dense", String::new(), Some(&tried.dense), &Measured::new(), [String::new(), String::new()]);
    for (index, attempt) in tried.attempts.iter().enumerate() {
        let end = [format!("{:.0}", attempt.seconds), verdict(tried, index, attempt).to_owned()];
        row(&attempt.way, percent(attempt.sparsity), attempt.result.as_ref(), &attempt.measured, end);
    }
    print(format!("\n{rows}\nto be kept: {}", tried.kept.join("; ")))?;
    for attempt in tried.attempts.iter().filter(|attempt| attempt.result.is_none()) {
        if let Some(failed) = &attempt.failed {
            print(format!("{}, {}: {failed}", attempt.way, percent(attempt.sparsity)))?;
        }
    }
    if let Some(share) = tried.fitted_to.filter(|share| *share < 1.0) {
        print(format!(
            "fitted to {} of the samples, so that there is time for several tries",
            percent(share)
        ))?;
    }
    tried.not_tried.iter().try_for_each(|way| print(format!("not tried: {way}")))?;
    let Some(nearest) = &tried.nearest else { return Ok(()) };
    let Attempt { way, sparsity, result, .. } = &tried.attempts[nearest.attempt];
    let times = result.map(|outcome| table::ratio(outcome.speedup)).unwrap_or_default();
    print(format!(
        "nearest: {way}, {} removed, {times} times as fast as dense: {}; {} would take it",
        percent(*sparsity),
        nearest.breaks,
        nearest.asked
    ))
}

fn verdict(tried: &Tried, index: usize, attempt: &Attempt) -> &'static str {
    match attempt {
        _ if tried.best == Some(index) => "taken",
        Attempt { holds: true, .. } => "holds",
        Attempt { result: None, .. } => "let be",
        Attempt { measured, .. } if measured.is_empty() => "no faster or smaller",
        _ => "loses too much",
    }
}
