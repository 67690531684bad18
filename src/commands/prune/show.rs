//! What `poda prune` prints of a pruning.

use std::collections::BTreeMap;

use anyhow::Result;
use poda_formats::FileFormat;
use poda_pruner::Report;
use poda_pruner::report::{Fit, Layer, Likeness, Reconstructed, Search, Totals};
use poda_pruner::termination::{self, Verdict};

use super::{Args, goal, stages};
use crate::table::{self, count, percent, print};
use crate::values;

pub(super) fn show(args: &Args, report: &Report) -> Result<()> {
    if args.dry_run && !report.groups.is_empty() {
        show_groups(report)?;
    }
    let changed = |l: &&Layer| (l.nnz_before, &l.shape_before) != (l.nnz_after, &l.shape_after);
    if report.layers.iter().any(|layer| changed(&layer)) {
        show_layers(report)?;
    }
    let Totals { parameters, nnz, nonzero_macs, bytes, .. } = report.before;
    let after = &report.after;
    show_fits(report)?;
    stages::show_rounds(&report.rounds)?;
    print(format!("granularity                   {}", report.granularity))?;
    print(format!("parameters                    {} -> {}", count(parameters), count(after.parameters)))?;
    print(format!("parameters that are not zero  {} -> {}", count(nnz), count(after.nnz)))?;
    print(format!("MACs on them                  {} -> {}", count(nonzero_macs), count(after.nonzero_macs)))?;
    print(format!("weights                       {} -> {}", table::bytes(bytes), table::bytes(after.bytes)))?;
    if let (Some(file), Some(output)) = (&report.file, &args.output) {
        let (was, is) = (table::bytes(file.before), table::bytes(file.after));
        print(format!("file                          {was} -> {is} ({})", output.display()))?;
    }
    for dead in &report.dead {
        print(format!("dead: {} of {} units of {}", dead.dead, dead.units, dead.name))?;
    }
    if report.looked_for_dead && report.dead.is_empty() {
        print("no dead units")?;
    }
    for layer in report.emptied() {
        print(format!("{} is all zero: no weight is left in the whole layer", layer.weight))?;
    }
    if let Some(tried) = &report.goal {
        goal::show(tried)?;
    }
    if let Some(search) = &report.search {
        show_search(search)?;
    }
    if let Some(check) = &report.check {
        print(format!(
            "check: agrees with the masked model to {:.1e} of each output channel, {} of shapes",
            check.relative,
            if check.runs == 1 { "at one set".to_owned() } else { format!("at {} sets", check.runs) }
        ))?;
    }
    show_refused(report)?;
    values::show(&report.rounded, args.output.as_deref().and_then(FileFormat::of_name))?;
    report.notes.iter().try_for_each(|note| print(format!("note: {note}")))?;
    report.likeness.as_ref().map_or(Ok(()), show_likeness)
}

/// Each layer that was fitted, with the error of its outputs before and after.
fn show_fits(report: &Report) -> Result<()> {
    let mut rows = table::table(&["fitted to data", "rows", "held out", "error, cut", "and fitted"], 1);
    let error = |error: Option<f64>| error.map_or_else(|| "?".to_owned(), |error| format!("{error:.2e}"));
    for fit in &report.fits {
        let (rows_fitted, held_out) = (count(fit.rows), count(fit.held_out_rows));
        rows.add_row([
            fit.weight.clone(),
            rows_fitted,
            held_out,
            error(fit.error_before),
            error(fit.error_after),
        ]);
    }
    if let Some(Fit { criterion, updates, .. }) = report.fits.first() {
        print(format!("{rows}\n"))?;
        let updates = if updates.is_empty() { "none".to_owned() } else { updates.join(", ") };
        print(format!("criterion                     {criterion}"))?;
        print(format!("update                        {updates}"))?;
    }
    show_submodules(&report.submodules)
}

/// Submodules that were trained, with the error of their outputs before and after.
fn show_submodules(submodules: &[Reconstructed]) -> Result<()> {
    if submodules.is_empty() {
        return Ok(());
    }
    let mut rows = table::table(&["trained up to", "weights", "error, fitted", "and trained"], 1);
    let error = |error: Option<f64>| error.map_or_else(|| "?".to_owned(), |error| format!("{error:.2e}"));
    for submodule in submodules {
        rows.add_row([
            submodule.outputs.join(", "),
            submodule.weights.to_string(),
            error(submodule.error_before),
            error(submodule.error_after),
        ]);
    }
    print(format!("\n{rows}"))?;
    for submodule in submodules {
        if let Some(reason) = &submodule.left {
            print(format!("left as it was fitted: {}: {reason}", submodule.outputs.join(", ")))?;
        }
    }
    print("")
}

fn show_likeness(likeness: &Likeness) -> Result<()> {
    let Likeness { samples, held_out, mean, worst } = likeness;
    let which =
        if *held_out { "samples kept aside" } else { "samples (there were too few to keep any aside)" };
    print(format!("outputs beside the dense model's, {samples} {which}: cosine {mean:.4}, worst {worst:.4}"))
}

/// What was tried, and why it ended.
fn show_search(search: &Search) -> Result<()> {
    let mut names: Vec<&String> = search.dense.keys().collect();
    let others = search.trials.iter().flat_map(|trial| trial.answer.measured.keys());
    others.for_each(|name| {
        if !names.contains(&name) {
            names.push(name);
        }
    });
    names.retain(|name| *name != "sparsity");
    let header: Vec<&str> =
        ["removed"].into_iter().chain(names.iter().map(|name| name.as_str())).chain(["then"]).collect();
    let mut rows = table::table(&header, 0);
    let number =
        |name: &str, measured: &termination::Measured| match (termination::find(name), measured.get(name)) {
            (Some(measure), Some(&number)) => termination::shown(measure.unit, number),
            _ => String::new(),
        };
    let mut row = |removed: String, measured: &termination::Measured, then: &str| {
        let numbers = names.iter().map(|name| number(name, measured));
        rows.add_row(std::iter::once(removed).chain(numbers).chain([then.to_owned()]).collect::<Vec<_>>());
    };
    row("dense".to_owned(), &search.dense, "");
    for (index, trial) in search.trials.iter().enumerate() {
        let then = match trial.answer.verdict {
            _ if search.taken == Some(index) => "taken",
            Verdict::Continue => "not enough",
            Verdict::Stop => "enough",
            Verdict::RollBack => "too much",
        };
        row(percent(trial.sparsity), &trial.answer.measured, then);
    }
    print(format!("\n{rows}\nstopped: {}\n", search.stopped))
}

fn show_layers(report: &Report) -> Result<()> {
    let mut rows = table::table(&["layer", "op", "shape", "pruned", "kept", "MACs", "on nonzeros"], 4);
    for layer in &report.layers {
        rows.add_row([
            layer.weight.clone(),
            layer.op.clone(),
            format!("{:?}", layer.shape_before),
            match &layer.shape_after {
                shape if *shape == layer.shape_before => "same".into(),
                shape if shape.is_empty() => "gone".into(),
                shape => format!("{shape:?}"),
            },
            percent(layer.nnz_after as f64 / layer.nnz_before.max(1) as f64),
            count(layer.macs_before),
            count(layer.macs_after),
        ]);
    }
    print(format!("{rows}\n"))
}

fn show_groups(report: &Report) -> Result<()> {
    let mut rows = table::table(&["units of", "there are", "would go", "weights that shrink"], 1);
    for group in &report.groups {
        let weights = match &group.weights[..] {
            [first, second, third, rest @ ..] if !rest.is_empty() => {
                format!("{first}, {second}, {third} and {} more", rest.len())
            }
            weights => weights.join(", "),
        };
        rows.add_row([group.name.clone(), group.units.to_string(), group.removed.to_string(), weights]);
    }
    print(format!("{rows}\n"))
}

/// Groups that must stay, gathered by reason.
fn show_refused(report: &Report) -> Result<()> {
    let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for refused in &report.refused {
        reasons.entry(&refused.reason).or_default().push(&refused.name);
    }
    for (reason, names) in reasons {
        let shown = names.iter().take(4).copied().collect::<Vec<_>>().join(", ");
        let more = if names.len() > 4 { format!(" and {} more", names.len() - 4) } else { String::new() };
        print(format!("must stay: {shown}{more}: {reason}"))?;
    }
    Ok(())
}
