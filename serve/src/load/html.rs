//! A report as a page by itself.

use std::fmt::Write;

use super::report::Report;

/// Width and height of the drawing.
const SIZE: [f64; 2] = [720.0, 220.0];

/// The report with its histogram drawn.
pub fn page(report: &Report) -> String {
    let latency = &report.latency_ms;
    let mut rows = String::new();
    let mut row = |name: &str, value: String| {
        // (Writing to a string does not fail.)
        let _ = write!(rows, "<tr><th>{}</th><td>{}</td></tr>", escaped(name), escaped(&value));
    };
    row("arrivals", report.arrivals.clone());
    row("answered", format!("{} in {:.1} s", report.answered, report.seconds));
    row("requests/s", format!("{:.1}", report.requests_per_second));
    row("samples/s", format!("{:.1}", report.samples_per_second));
    for (name, value) in [
        ("mean", latency.mean),
        ("p50", latency.p50),
        ("p90", latency.p90),
        ("p99", latency.p99),
        ("p99.9", latency.p999),
        ("max", latency.max),
    ] {
        row(name, format!("{value:.3} ms"));
    }
    for (kind, count) in &report.errors {
        row(&format!("failed: {kind}"), count.to_string());
    }
    let title = escaped(&format!("poda load: {}", report.model));
    let style = "body{font:15px system-ui,sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem}\
                 th{text-align:left;font-weight:normal;padding-right:2rem}td{font-variant-numeric:tabular-nums}\
                 svg rect{fill:#3a7d44}svg text{font-size:11px;fill:currentColor}:root{color-scheme:light dark}";
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title><style>{style}</style>\
         <h1>{title}</h1>{}<p>Latency from when a request was due to its whole answer, in ms.</p><table>{rows}</table></html>\n",
        drawing(report)
    )
}

fn drawing(report: &Report) -> String {
    let [width, height] = SIZE;
    let bars = &report.histogram;
    let most = bars.iter().map(|(_, count)| *count).max().unwrap_or(0).max(1) as f64;
    let step = width / bars.len().max(1) as f64;
    let every = bars.len().div_ceil(10).max(1);
    let mut drawing =
        format!("<svg viewBox=\"0 0 {width} {}\" role=\"img\" aria-label=\"Histogram\">", height + 20.0);
    for (at, (bound, count)) in bars.iter().enumerate() {
        let (x, tall) = (at as f64 * step, *count as f64 / most * height);
        let _ = write!(
            drawing,
            "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{tall:.1}\"><title>up to {bound:.3} ms: {count}</title></rect>",
            height - tall,
            (step - 1.0).max(0.5),
        );
        if at % every == 0 {
            let _ = write!(drawing, "<text x=\"{x:.1}\" y=\"{}\">{bound:.3}</text>", height + 15.0);
        }
    }
    drawing + "</svg>"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Arrivals;
    use super::super::report::{Outcome, Recorder};
    use super::*;

    #[test]
    fn names_are_words_and_bars_are_drawn() {
        let mut recorder = Recorder::default();
        for ms in 1..=50 {
            recorder.record(Duration::from_millis(ms), Duration::ZERO, Outcome::Answered { samples: 1 });
        }
        let load = super::super::tests::load(Arrivals::Closed(1));
        let report = recorder.report("<script>", &load, Duration::from_secs(1));
        let page = page(&report);
        assert!(page.contains("&lt;script&gt;") && !page.contains("<script>"), "{page}");
        assert!(page.matches("<rect").count() > 10, "{page}");
        assert!(page.contains("closed, 1 at a time"));
    }
}
