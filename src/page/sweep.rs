//! A sweep as one HTML page: curves, the table, and the checklist of Blalock et al.

use std::fmt::Write;

use poda::machine::Machine;
use poda::sweep::{Figure, Header, Spread, Sweep};

use super::{STYLE, escaped};
use crate::table::{count, percent};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 10.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 40.0;

/// Colours that stay apart for those who see red and green alike (Okabe and Ito), told apart by dashes where they end.
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f"];
const DASHES: [&str; 3] = ["", "6 3", "2 3"];

/// A score of a figure, and where it lies along an axis.
type Score = fn(&Figure) -> Option<Spread>;
type Along = fn(&Figure) -> f64;

/// The page.
pub(crate) fn page(header: &Header, figures: &[Figure], sweep: &Sweep, of: usize) -> String {
    let mut page = String::new();
    let title = format!("Ways to prune {}", escaped(&header.model));
    let trained = figures.iter().any(|figure| figure.before != figure.after);
    let measure = if header.dense.measure == "score" { "accuracy" } else { "cosine to the dense outputs" };
    let _ = write!(
        page,
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{title}</title><style>{STYLE}\
         .series{{fill:none;stroke-width:2}}.spread{{stroke-width:1}}.dense{{stroke:var(--soft);stroke-dasharray:4 4}}\
         .key{{display:inline-block;margin-right:1.2em;white-space:nowrap}}.key svg{{width:2.4em;height:.8em}}</style>\
         <h1>{title}</h1><p class=\"note\">{}. {} of {of} runs are over.</p>\
         <p>The dense model: {measure} {}, {} parameters, {} multiply-accumulates.</p>",
        escaped(&Machine::this().to_string()),
        figures.iter().map(|figure| figure.seeds).sum::<usize>(),
        percent(header.dense.score),
        count(header.dense.totals.parameters),
        count(header.dense.totals.macs),
    );
    keys(&mut page, figures);
    let phases: [(&str, Score); 2] =
        [("Once pruned", |figure| figure.before), ("In the end, after training", |figure| figure.after)];
    let axes: [(&str, Along); 2] = [
        ("compression: all parameters over those that are not zero", |figure| figure.compression),
        ("multiply-accumulates of the dense model over those that are left", |figure| figure.speedup),
    ];
    for (phase, score) in phases.into_iter().take(if trained { 2 } else { 1 }) {
        for (axis, along) in axes {
            let _ = write!(page, "<h2>{phase}: {measure} against {axis}</h2>");
            chart(&mut page, figures, header.dense.score, along, score);
        }
    }
    page.push_str("<p class=\"note\">Means over seeds; bars are the standard deviation.</p>");
    table(&mut page, figures, trained);
    checklist(&mut page, header, figures, sweep);
    let _ = writeln!(page, "<h2>The plan</h2><pre>{}</pre></html>", escaped(&header.plan));
    page
}

/// Methods in order.
fn methods(figures: &[Figure]) -> Vec<&str> {
    let mut methods: Vec<&str> = figures.iter().map(|figure| figure.method.as_str()).collect();
    methods.dedup();
    methods
}

fn pen(method: usize) -> String {
    let dash = DASHES[method / COLOURS.len() % DASHES.len()];
    format!("stroke=\"{}\" stroke-dasharray=\"{dash}\"", COLOURS[method % COLOURS.len()])
}

fn keys(page: &mut String, figures: &[Figure]) {
    page.push_str("<p>");
    for (number, method) in methods(figures).into_iter().enumerate() {
        let _ = write!(
            page,
            "<span class=\"key\"><svg viewBox=\"0 0 24 8\"><line x1=\"0\" y1=\"4\" x2=\"24\" y2=\"4\" stroke-width=\"2\" \
             {}/></svg> {}</span>",
            pen(number),
            escaped(method)
        );
    }
    page.push_str("</p>");
}

/// Scores along a logarithmic axis, a line for each method.
fn chart(
    page: &mut String,
    figures: &[Figure],
    dense: f64,
    along: fn(&Figure) -> f64,
    score: fn(&Figure) -> Option<Spread>,
) {
    let points = || figures.iter().filter_map(|figure| Some((figure, along(figure), score(figure)?)));
    let far = points().map(|(_, x, _)| x).fold(2.0, f64::max);
    let lows = points().map(|(_, _, y)| y.mean - y.deviation);
    let highs = points().map(|(_, _, y)| y.mean + y.deviation);
    let (low, high) = (lows.fold(dense, f64::min), highs.fold(dense, f64::max));
    let span = if high > low { high - low } else { 1.0 };
    let x = |ratio: f64| LEFT + ratio.max(1.0).log2() / far.log2() * (WIDTH - LEFT - RIGHT);
    let y = |score: f64| HEIGHT - BOTTOM - (score - low) / span * (HEIGHT - BOTTOM - TOP);
    let _ = write!(page, "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">");
    for power in 0..=far.log2().floor() as u32 {
        let (ratio, end) = (f64::from(1_u32 << power.min(30)), HEIGHT - BOTTOM);
        let at = x(ratio);
        let _ = write!(
            page,
            "<line class=\"axis\" x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{end:.1}\"/>\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{ratio}×</text>",
            HEIGHT - BOTTOM + 18.0
        );
    }
    for part in 0..=4 {
        let number = low + span * f64::from(part) / 4.0;
        let at = y(number);
        let _ = write!(
            page,
            "<line class=\"axis\" x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{WIDTH}\" y2=\"{at:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{:.1} %</text>",
            LEFT - 8.0,
            at + 4.0,
            100.0 * number
        );
    }
    let at = y(dense);
    let _ =
        write!(page, "<line class=\"dense\" x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{WIDTH}\" y2=\"{at:.1}\"/>");
    for (number, method) in methods(figures).into_iter().enumerate() {
        let of_method = || points().filter(|(figure, ..)| figure.method == method);
        let path: Vec<String> =
            of_method().map(|(_, at, to)| format!("{:.1},{:.1}", x(at), y(to.mean))).collect();
        let pen = pen(number);
        let _ = write!(page, "<polyline class=\"series\" {pen} points=\"{}\"/>", path.join(" "));
        for (figure, ratio, Spread { mean, deviation }) in of_method() {
            let (at, up, down) = (x(ratio), y(mean + deviation), y(mean - deviation));
            let colour = COLOURS[number % COLOURS.len()];
            let _ = write!(
                page,
                "<line class=\"spread\" stroke=\"{colour}\" x1=\"{at:.1}\" y1=\"{up:.1}\" x2=\"{at:.1}\" y2=\"{down:.1}\"/>\
                 <circle fill=\"{colour}\" cx=\"{at:.1}\" cy=\"{:.1}\" r=\"3.5\"><title>{} at {:.2}×: {}</title></circle>",
                y(mean),
                escaped(&figure.method),
                ratio,
                shown(Some(Spread { mean, deviation }))
            );
        }
    }
    page.push_str("</svg>");
}

/// A mean and its deviation, in per cent.
pub(crate) fn shown(spread: Option<Spread>) -> String {
    spread.map_or_else(String::new, |Spread { mean, deviation }| {
        format!("{:.1} ± {:.1}", 100.0 * mean, 100.0 * deviation)
    })
}

fn table(page: &mut String, figures: &[Figure], trained: bool) {
    page.push_str("<h2>Figures</h2><table><tr><th>method</th><th>ratio</th><th>compression</th><th>work</th><th>pruned, %</th>");
    if trained {
        page.push_str("<th>trained, %</th>");
    }
    page.push_str("<th>seeds</th></tr>");
    for figure in figures {
        let _ = write!(
            page,
            "<tr><td>{}</td><td>{}</td><td>{:.2}×</td><td>{:.2}×</td><td>{}</td>",
            escaped(&figure.method),
            figure.ratio,
            figure.compression,
            figure.speedup,
            shown(figure.before)
        );
        if trained {
            let _ = write!(page, "<td>{}</td>", shown(figure.after));
        }
        let failed = figure.failed.as_deref().map(|why| format!(" ({})", escaped(why))).unwrap_or_default();
        let _ = write!(page, "<td>{}{failed}</td></tr>", figure.seeds);
    }
    page.push_str("</table>");
}

/// What Blalock et al. ask of whoever reports on pruning (MLSys 2020, appendix B), filled in by what was run.
fn checklist(page: &mut String, header: &Header, figures: &[Figure], sweep: &Sweep) {
    let criteria = |name: &str, scope: &str| {
        sweep.methods.iter().filter_map(|method| method.prune.as_ref()).any(|recipe| {
            recipe.criterion.starts_with(name) && scope.contains(&format!("{:?}", recipe.scope))
        })
    };
    let kinds = [
        ("random, over the whole model", criteria("random", "Global")),
        ("random, the same share of each layer", criteria("random", "Layer Auto")),
        ("magnitude, over the whole model", criteria("magnitude", "Global")),
        ("magnitude, layer by layer", criteria("magnitude", "Layer Auto")),
        ("gradients, over the whole model", criteria("gradient", "Global")),
        ("gradients, layer by layer", criteria("gradient", "Layer Auto")),
    ];
    let seeds = figures.iter().map(|figure| figure.seeds).min().unwrap_or(0);
    let ratios = sweep.ratios.iter().map(|ratio| format!("{ratio}×")).collect::<Vec<_>>().join(", ");
    let file = |(what, name): &(String, String)| format!("{what}: {name}");
    let data = header.data.iter().map(file).collect::<Vec<_>>().join("; ");
    let collapse = figures
        .iter()
        .filter_map(|figure| figure.after)
        .any(|spread| spread.mean < 0.75 * header.dense.score);
    let trains = sweep.train();
    let mut items: Vec<(bool, String)> = vec![
        (true, "every method starts from the same trained model".to_owned()),
        (sweep.ratios.len() >= 5, format!("operating points: {ratios} (five at least)")),
        (collapse, "the range reaches to where scores collapse (below three quarters of the dense one)".to_owned()),
        (seeds >= 3, format!("{seeds} seeds a point, mean and standard deviation (three at least)")),
        (true, "raw scores at every point, and the dense model's own".to_owned()),
        (true, "both compression (of all parameters) and multiply-accumulates".to_owned()),
        (trains, "scores before and after fine-tuning".to_owned()),
        (true, format!("model, data and their fingerprint: {}; {data}; {}", header.model, header.identity)),
        (true, "every hyper-parameter: the plan below".to_owned()),
        (true, format!("library and hardware: Poda {}; {}", header.version, Machine::this())),
        (
            false,
            "three pairs of model and data set, and competitors' own figures: a sweep is one pair; see what others measured"
                .to_owned(),
        ),
    ];
    items.extend(kinds.into_iter().map(|(kind, there)| (there, format!("baseline: {kind}"))));
    page.push_str("<h2>Checklist of Blalock et al. (2020)</h2><ul>");
    for (done, item) in items {
        let _ = write!(page, "<li>{} {}</li>", if done { "☑" } else { "☐" }, escaped(&item));
    }
    page.push_str("</ul>");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charts_hold_every_point_and_no_markup_of_strangers() {
        let figure = |method: &str, ratio: f64, score: f64| Figure {
            method: method.to_owned(),
            ratio,
            seeds: 3,
            before: Spread::of(&[score, score]),
            after: Spread::of(&[score]),
            compression: ratio,
            speedup: ratio,
            kept_starts: 0,
            failed: None,
        };
        let figures = [figure("a<b", 2.0, 0.9), figure("a<b", 32.0, 0.9), figure("c", 2.0, 0.9)];
        let mut page = String::new();
        chart(&mut page, &figures, 0.9, |figure| figure.compression, |figure| figure.after);
        assert_eq!((page.matches("<circle").count(), page.matches("<polyline").count()), (3, 2));
        assert!(!page.contains("NaN") && !page.contains("inf") && !page.contains("a<b"), "{page}");
        assert_eq!(shown(Spread::of(&[0.5, 0.6])), "55.0 ± 7.1");
    }
}
