//! The report of a pruning as one HTML page that needs nothing else: tables, and charts as inline SVG.

pub(crate) mod sweep;

use std::fmt::Write;

use poda::machine::Machine;
use poda_pruner::Report;
use poda_pruner::report::{Fit, Histogram, Layer, Search};
use poda_pruner::stages::Round;
use poda_pruner::termination::{self, Unit, Verdict};

use crate::table::{bytes, count, percent};

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1d2733;--soft:#66758a;--line:#d8dee6;--bar:#2f6fb3;--lost:#dfe6ee;--paper:#fff}\
@media(prefers-color-scheme:dark){:root{--ink:#e6ebf1;--soft:#97a5b7;--line:#37424f;--bar:#6aa7e4;--lost:#2a3440;--paper:#161c23}}\
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:60rem;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}\
th,td{padding:.25rem .6rem;text-align:right;border-bottom:1px solid var(--line)}th:first-child,td:first-child{text-align:left;\
overflow-wrap:anywhere}th{font-weight:600;color:var(--soft)}.note{color:var(--soft)}svg{width:100%;height:auto}\
svg text{fill:var(--soft);font:12px system-ui,sans-serif}.axis{stroke:var(--line)}.curve{fill:none;stroke:var(--bar);stroke-width:2}\
.point{fill:var(--bar)}.broken{fill:var(--paper);stroke:var(--bar);stroke-width:2}.kept{fill:var(--bar)}.lost{fill:var(--lost)}\
pre{overflow:auto;padding:.8rem;border:1px solid var(--line)}";

/// The page.
pub(crate) fn page(model: &str, recipe: &str, report: &Report) -> String {
    let mut page = String::new();
    let title = format!("{} pruned", escaped(model));
    let _ = write!(
        page,
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{title}</title><style>{STYLE}</style><h1>{title}</h1><p class=\"note\">{}</p>",
        escaped(&Machine::this().to_string())
    );
    totals(&mut page, report);
    if let Some(search) = &report.search {
        trials(&mut page, search);
    }
    if !report.rounds.is_empty() {
        rounds(&mut page, &report.rounds);
    }
    layers(&mut page, &report.layers);
    if !report.groups.is_empty() {
        groups(&mut page, report);
    }
    histograms(&mut page, &report.histograms);
    if !report.fits.is_empty() {
        fits(&mut page, &report.fits);
    }
    if !report.notes.is_empty() {
        page.push_str("<h2>Notes</h2><ul>");
        for note in &report.notes {
            let _ = write!(page, "<li>{}</li>", escaped(note));
        }
        page.push_str("</ul>");
    }
    let _ = write!(page, "<h2>Recipe</h2><pre>{}</pre>", escaped(recipe));
    page.push_str("</html>\n");
    page
}

fn totals(page: &mut String, report: &Report) {
    type Show = fn(u64) -> String;
    let (before, after) = (&report.before, &report.after);
    let mut rows: Vec<(&str, [u64; 2], Show)> = vec![
        ("parameters", [before.parameters, after.parameters], count),
        ("parameters that are not zero (ratio: compression)", [before.nnz, after.nnz], count),
        ("multiply-accumulates", [before.macs, after.macs], count),
        (
            "of them on what is not zero (ratio: theoretical speed-up)",
            [before.nonzero_macs, after.nonzero_macs],
            count,
        ),
        ("bytes of the weights", [before.bytes, after.bytes], bytes),
    ];
    rows.extend(report.file.map(|file| ("bytes of the file", [file.before, file.after], bytes as Show)));
    page.push_str("<table><tr><th></th><th>before</th><th>after</th><th>ratio</th></tr>");
    for (what, [before, after], show) in rows {
        let ratio = before as f64 / after.max(1) as f64;
        let (before, after) = (show(before), show(after));
        let _ =
            write!(page, "<tr><td>{what}</td><td>{before}</td><td>{after}</td><td>{ratio:.2} ×</td></tr>");
    }
    page.push_str("</table>");
}

/// What was measured against what was removed, one chart for each measure.
fn trials(page: &mut String, search: &Search) {
    let _ = write!(page, "<h2>What was tried</h2><p>Stopped: {}</p>", escaped(&search.stopped));
    let mut names: Vec<&String> =
        search.trials.iter().flat_map(|trial| trial.answer.measured.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        let Some(measure) = termination::find(name).filter(|measure| measure.name != "sparsity") else {
            continue;
        };
        let dense = search.dense.get(name).map(|&number| (0.0, number, true));
        let tried = search.trials.iter().filter_map(|trial| {
            let kept = trial.answer.verdict != termination::Verdict::RollBack;
            Some((trial.sparsity, *trial.answer.measured.get(name)?, kept))
        });
        let mut points: Vec<(f64, f64, bool)> = dense.into_iter().chain(tried).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let _ = write!(page, "<h3>{}</h3>", escaped(measure.description));
        curve(page, &points, measure.unit);
    }
    page.push_str("<p class=\"note\">Hollow points gave up more than was allowed.</p>");
}

/// Scores against what has gone, after each round, and a row for each.
fn rounds(page: &mut String, rounds: &[Round]) {
    page.push_str("<h2>Rounds</h2>");
    let kept = |round: &Round| round.answer.as_ref().is_none_or(|answer| answer.verdict != Verdict::RollBack);
    let points: Vec<(f64, f64, bool)> =
        rounds.iter().filter_map(|round| Some((round.sparsity?, round.score?, kept(round)))).collect();
    if !points.is_empty() {
        curve(page, &points, Unit::Share);
    }
    page.push_str(
        "<table><tr><th>stage</th><th>round</th><th>removed</th><th>parameters left</th><th>epochs</th><th>pruned</th>         <th>in the end</th><th></th></tr>",
    );
    let score = |score: Option<f64>| score.map(|score| format!("{score:.4}")).unwrap_or_default();
    for round in rounds {
        let _ = write!(
            page,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            round.stage,
            round.round,
            round.sparsity.map(percent).unwrap_or_default(),
            count(round.nnz),
            round.finetuned.as_ref().map_or(0, |tuned| tuned.epochs.len()),
            score(round.pruned),
            score(round.score),
            if kept(round) { "" } else { "taken back" }
        );
    }
    page.push_str("</table>");
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 200.0;
const LEFT: f64 = 80.0;
const BOTTOM: f64 = 24.0;

/// Points (share removed, number, whether it was kept) with a line through them.
fn curve(page: &mut String, points: &[(f64, f64, bool)], unit: Unit) {
    let numbers = || points.iter().map(|&(_, y, _)| y);
    let (least, most) =
        (numbers().fold(f64::INFINITY, f64::min), numbers().fold(f64::NEG_INFINITY, f64::max));
    let span = if most > least { most - least } else { 1.0 };
    let x = |share: f64| LEFT + share * (WIDTH - LEFT - 10.0);
    let y = |number: f64| HEIGHT - BOTTOM - 10.0 - (number - least) / span * (HEIGHT - BOTTOM - 24.0);
    let _ = write!(page, "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">");
    for share in [0.0, 0.25, 0.5, 0.75, 1.0] {
        let (x, end) = (x(share), HEIGHT - BOTTOM);
        let _ = write!(
            page,
            "<line class=\"axis\" x1=\"{x:.1}\" y1=\"6\" x2=\"{x:.1}\" y2=\"{end:.1}\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{:.0} %</text>",
            HEIGHT - 6.0,
            share * 100.0
        );
    }
    for number in [least, most] {
        let _ = write!(
            page,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 10.0,
            y(number) + 4.0,
            escaped(&termination::shown(unit, number))
        );
    }
    let path: Vec<String> =
        points.iter().map(|&(share, number, _)| format!("{:.1},{:.1}", x(share), y(number))).collect();
    let _ = write!(page, "<polyline class=\"curve\" points=\"{}\"/>", path.join(" "));
    for &(share, number, kept) in points {
        let _ = write!(
            page,
            "<circle class=\"{}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\"><title>{} removed: {}</title></circle>",
            if kept { "point" } else { "broken" },
            x(share),
            y(number),
            percent(share),
            escaped(&termination::shown(unit, number))
        );
    }
    page.push_str("</svg>");
}

/// A bar for each layer: what is kept of its weights.
fn layers(page: &mut String, layers: &[Layer]) {
    page.push_str(
        "<h2>Layers</h2><table><tr><th>layer</th><th>operator</th><th>before</th><th>after</th><th>kept</th>\
         <th style=\"width:30%\"></th></tr>",
    );
    for layer in layers {
        let kept = layer.nnz_after as f64 / layer.nnz_before.max(1) as f64;
        let after = match &layer.shape_after {
            shape if *shape == layer.shape_before => "same".to_owned(),
            shape if shape.is_empty() => "gone".to_owned(),
            shape => format!("{shape:?}"),
        };
        let _ = write!(
            page,
            "<tr><td>{}</td><td>{}</td><td>{:?}</td><td>{after}</td><td>{}</td><td><svg viewBox=\"0 0 200 12\">\
             <rect class=\"lost\" width=\"200\" height=\"12\"/><rect class=\"kept\" width=\"{:.1}\" height=\"12\"/></svg></td></tr>",
            escaped(&layer.weight),
            escaped(&layer.op),
            layer.shape_before,
            percent(kept),
            kept.min(1.0) * 200.0
        );
    }
    page.push_str("</table>");
}

/// Bars of what stayed, over bars of what went.
fn histograms(page: &mut String, histograms: &[Histogram]) {
    let Some(first) = histograms.first() else { return };
    let of = escaped(&first.of);
    let _ = write!(
        page,
        "<h2>Importance</h2><p class=\"note\">How many, by {of}: what stayed in colour, what went in grey.</p><table>"
    );
    for Histogram { name, range, stayed, went, .. } in histograms {
        let most = stayed.iter().zip(went).map(|(a, b)| a + b).max().unwrap_or(1).max(1) as f64;
        let wide = 400.0 / stayed.len().max(1) as f64;
        let _ = write!(
            page,
            "<tr><td>{}</td><td style=\"width:60%\"><svg viewBox=\"0 0 400 44\">",
            escaped(name)
        );
        for (bar, (&stayed, &went)) in stayed.iter().zip(went).enumerate() {
            let (x, above, below) =
                (bar as f64 * wide, 40.0 * stayed as f64 / most, 40.0 * went as f64 / most);
            let _ = write!(
                page,
                "<rect class=\"lost\" x=\"{x:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{below:.1}\"/>\
                 <rect class=\"kept\" x=\"{x:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{above:.1}\"/>",
                42.0 - below,
                wide - 1.0,
                42.0 - below - above,
                wide - 1.0
            );
        }
        let _ = write!(page, "</svg></td><td>{:.3} – {:.3}</td></tr>", range[0], range[1]);
    }
    page.push_str("</table>");
}

/// Errors of layers that were fitted to data.
fn fits(page: &mut String, fits: &[Fit]) {
    page.push_str(
        "<h2>Fitted to data</h2><p class=\"note\">Errors of outputs, squared, as a share of the dense ones' squared, on rows that were \
         kept aside.</p><table><tr><th>layer</th><th>rows</th><th>kept aside</th><th>error, cut</th><th>and fitted</th></tr>",
    );
    let error = |error: Option<f64>| error.map_or_else(|| "?".to_owned(), |error| format!("{error:.2e}"));
    for fit in fits {
        let _ = write!(
            page,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            escaped(&fit.weight),
            count(fit.rows),
            count(fit.held_out_rows),
            error(fit.error_before),
            error(fit.error_after)
        );
    }
    page.push_str("</table>");
}

/// Widths before and after.
fn groups(page: &mut String, report: &Report) {
    page.push_str("<h2>Widths</h2><table><tr><th>units of</th><th>before</th><th>after</th></tr>");
    for group in &report.groups {
        let (name, units, left) = (escaped(&group.name), group.units, group.units - group.removed);
        let _ = write!(page, "<tr><td>{name}</td><td>{units}</td><td>{left}</td></tr>");
    }
    page.push_str("</table>");
}

/// Names come from files of strangers.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_be_markup() {
        assert_eq!(escaped("<script>\"&"), "&lt;script&gt;&quot;&amp;");
        let mut page = String::new();
        curve(&mut page, &[(0.0, 1.0, true), (0.5, 1.0, true), (0.9, 0.2, false)], Unit::Share);
        assert_eq!(page.matches("<circle").count(), 3);
        assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
    }
}
