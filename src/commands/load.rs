//! `poda load`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use poda::shapes::NamedShape;
use poda_serve::Config;
use poda_serve::load::{self, Arrivals, Latency, Load, Report};

use crate::progress;
use crate::table::{self, escaped, print, print_json};

/// Load a server with requests: throughput, latency, errors, the greatest rate it stands
///
/// Sends random tensors that fit the model, over HTTP. Latency counts from when a request was due, whether or not the
/// server was ready for it. A model file in place of a URL is served on this machine for as long as it takes.
///
/// Examples:
///   poda load http://127.0.0.1:8080 --rate 200 --duration 30
///   poda load http://127.0.0.1:8080 --model minilm --shape input_ids=1x64 --clients 8
///   poda load model.safetensors --batches 1,4 --rate 100 --poisson --html report.html
///   poda load http://127.0.0.1:8080 --find-rate 20ms
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(crate) struct Args {
    /// http://HOST:PORT of a server of the Open Inference Protocol, or a model file
    target: String,
    /// Which model, where the server has several
    #[arg(long)]
    model: Option<String>,
    /// Requests a second, sent when they are due (an open loop)
    #[arg(long, conflicts_with = "clients")]
    rate: Option<f64>,
    /// At random times, on average --rate a second
    #[arg(long, requires = "rate")]
    poisson: bool,
    /// So many clients that each send the next request when the last is answered (a closed loop) [default: 1]
    #[arg(long)]
    clients: Option<usize>,
    /// Find the greatest rate at which p99 is at most so long, and nothing fails
    #[arg(long, value_name = "TIME", value_parser = super::serve::millis, conflicts_with = "clients")]
    find_rate: Option<f64>,
    /// Seconds; with --find-rate of each try
    #[arg(long, value_name = "SECONDS", value_parser = super::serve::seconds, default_value = "10")]
    duration: f64,
    /// Seconds before counting starts
    #[arg(long, value_name = "SECONDS", value_parser = super::serve::seconds, default_value = "1")]
    warmup: f64,
    /// Requests under way at most, in an open loop
    #[arg(long, default_value_t = 256)]
    connections: usize,
    /// Samples in a request; of several sizes they take turns
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_value = "1")]
    batches: Vec<usize>,
    /// Shape of an input, such as input_ids=1x64; may be repeated. Other open dimensions are 128
    #[arg(long, value_name = "NAME=DIMS")]
    shape: Vec<NamedShape>,
    /// Send and ask for tensors as JSON instead of bytes
    #[arg(long)]
    json_data: bool,
    /// Count an answer that differs from the first for the same request as failed
    #[arg(long)]
    check: bool,
    /// Seconds after which a request counts as failed
    #[arg(long, value_name = "SECONDS", value_parser = super::serve::seconds, default_value = "60")]
    timeout: f64,
    /// File that holds a bearer token; or PODA_TOKEN does
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Write a page with the histogram
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    fn load(&self, url: String) -> Result<Load> {
        let rate = self.rate.unwrap_or(10.0);
        ensure!(rate > 0.0 && rate <= 1e6, "--rate is {rate}, which must be above 0 and at most 1000000");
        ensure!(
            self.duration > 0.0 && self.duration <= 86_400.0,
            "--duration must be above 0 and at most a day"
        );
        ensure!((0.0..=86_400.0).contains(&self.warmup), "--warmup must be at most a day");
        ensure!(
            self.timeout > 0.0 && self.timeout <= 86_400.0,
            "--timeout must be above 0 and at most a day"
        );
        let clients = self.clients.unwrap_or(1);
        ensure!((1..=65_536).contains(&clients), "--clients is {clients}, which must be 1 to 65536");
        ensure!((1..=65_536).contains(&self.connections), "--connections must be 1 to 65536");
        ensure!(self.batches.iter().all(|&batch| batch > 0), "--batches must be at least 1");
        let open = self.rate.is_some() || self.find_rate.is_some();
        let arrivals = match (open, self.poisson) {
            (false, _) => Arrivals::Closed(clients),
            (true, false) => Arrivals::Constant(rate),
            (true, true) => Arrivals::Poisson(rate),
        };
        let token = match &self.token_file {
            Some(path) => {
                let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
                text.lines()
                    .map(str::trim)
                    .find(|line| !line.is_empty() && !line.starts_with('#'))
                    .map(str::to_owned)
            }
            None => std::env::var("PODA_TOKEN").ok(),
        };
        Ok(Load {
            url,
            model: self.model.clone(),
            arrivals,
            duration: Duration::from_secs_f64(self.duration),
            warmup: Duration::from_secs_f64(self.warmup),
            connections: self.connections,
            batches: self.batches.clone(),
            shapes: self.shape.clone(),
            json: self.json_data,
            check: self.check,
            token,
            timeout: Duration::from_secs_f64(self.timeout),
        })
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let is_url = args.target.contains("://");
    let server = if is_url { None } else { Some(load::serve(config(args))?) };
    let url = server.as_ref().map_or_else(|| args.target.clone(), |(_, address)| format!("http://{address}"));
    let load = args.load(url)?;
    let (report, found) = match args.find_rate {
        None => (load::run(&load)?, None),
        Some(limit) => {
            let bar = progress::spinner("the first rate");
            let found = load::greatest_rate(&load, Duration::from_secs_f64(limit / 1e3), |step| {
                bar.set_message(format!("{:.0} requests/s: p99 {:.2} ms", step.rate, step.p99_ms));
            });
            bar.finish_and_clear();
            let found = found?;
            (found.report.clone(), Some(found))
        }
    };
    if let Some(path) = &args.html {
        fs::write(path, load::html::page(&report)).with_context(|| path.display().to_string())?;
    }
    match (&found, args.json) {
        (Some(found), true) => print_json(found),
        (None, true) => print_json(&report),
        (found, false) => {
            if let Some(found) = found {
                let mut rows = table::table(&["requests/s", "p99 ms", "failed", "held"], 0);
                for step in &found.steps {
                    let held = if step.held { "yes" } else { "no" };
                    rows.add_row([
                        format!("{:.1}", step.rate),
                        table::ms(step.p99_ms),
                        step.failed.to_string(),
                        held.into(),
                    ]);
                }
                print(rows)?;
                let limit = table::ms(found.limit_ms);
                print(format!(
                    "greatest rate with p99 at most {limit} ms: {:.1} requests/s\n",
                    found.greatest_rate
                ))?;
            }
            show(&report)
        }
    }
}

/// A server of the model alone.
fn config(args: &Args) -> Config {
    // The clients have threads of their own; what they take is part of what is measured, as on any machine that runs both.
    let shape = args.shape.iter().map(ToString::to_string).collect();
    Config {
        models: vec![Path::new(&args.target).to_owned()],
        shape,
        warm: args.batches.clone(),
        ..Config::default()
    }
}

fn show(report: &Report) -> Result<()> {
    let latency = &report.latency_ms;
    print(format!("{}: {}", escaped(&report.model), report.arrivals))?;
    print(format!(
        "answered {} in {:.1} s: {:.1} requests/s, {:.1} samples/s",
        report.answered, report.seconds, report.requests_per_second, report.samples_per_second
    ))?;
    let mut rows = table::table(&["ms", "mean", "p50", "p90", "p99", "p99.9", "max"], 1);
    let mut row = |name: &str, latency: &Latency| {
        let times = [latency.mean, latency.p50, latency.p90, latency.p99, latency.p999, latency.max];
        rows.add_row(std::iter::once(name.to_owned()).chain(times.map(table::ms)));
    };
    row("latency", latency);
    if report.since_sent_ms != *latency {
        row("since sent", &report.since_sent_ms);
    }
    print(rows)?;
    for (kind, count) in &report.errors {
        print(format!("failed, {kind}: {count}"))?;
    }
    Ok(())
}
