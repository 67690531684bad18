//! `poda bench`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use poda::batching::Batching;
use poda::feeds::{self, Feeds};
use poda_runtime::{Executable, Model};
use serde::Serialize;

use crate::memory;
use crate::progress;
use crate::runtime_args::RuntimeArgs;
use crate::shape_args::ShapeArgs;
use crate::table::{self, print, print_json};
use crate::timing::{self, Contestant, Footprint, Latency};

/// Time models against each other: latency, throughput, load time, memory, file size
///
/// All models run in one process, taking turns (A B A B …), on made-up inputs that stay valid; load time and
/// memory are those of a process of their own. The ratio to the first model is the median over turns, with quartiles.
///
/// Examples:
///   poda bench model.onnx
///   poda bench dense.onnx pruned.safetensors --threads 2 --shape input_ids=1x128 --shape attention_mask=1x128
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// ONNX files or Poda artifacts
    #[arg(required = true)]
    models: Vec<PathBuf>,
    #[command(flatten)]
    shapes: ShapeArgs,
    #[command(flatten)]
    runtime: RuntimeArgs,
    /// Seconds for each model
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Load one model, run it, and print what that took: what a process of its own does for `bench`
    #[arg(long, hide = true)]
    footprint: bool,
}

#[derive(Serialize)]
struct Bench {
    models: Vec<Row>,
    threads: usize,
    /// Samples of a run, of the first model.
    batch: usize,
    cpu: String,
    notes: Vec<String>,
}

#[derive(Serialize)]
struct Row {
    path: PathBuf,
    latency_ms: Latency,
    /// Samples of a run: the size of the model's batch axis, whichever way it came about.
    batch: usize,
    /// From the median latency.
    samples_per_second: f64,
    runs: usize,
    speedup_over_first: f64,
    speedup_quartiles: [f64; 2],
    load_ms: f64,
    rss_mb: Rss,
    file_bytes: u64,
}

#[derive(Serialize)]
struct Rss {
    loaded: f64,
    peak: f64,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!((0.0..=86_400.0).contains(&args.seconds), "--seconds must be from 0 to 86400");
    if args.footprint {
        return print_json(&measure_footprint(args)?);
    }
    let spinner = progress::spinner("loading");
    let footprints = args
        .models
        .iter()
        .map(|path| timing::footprint(path, &child_flags(args)))
        .collect::<Result<Vec<Footprint>>>()?;
    let loaded = args.models.iter().map(|path| load(path, args)).collect::<Result<Vec<_>>>()?;
    spinner.finish_and_clear();

    let contestants: Vec<_> = loaded
        .iter()
        .map(|loaded| Contestant { executable: &loaded.executable, feeds: feeds::views(&loaded.feeds) })
        .collect();
    let bar = progress::bar(100, "timing");
    let timings = timing::alternate(&contestants, args.seconds, &bar)?;
    bar.finish_and_clear();

    let rows = loaded.iter().zip(timings).zip(footprints).map(|((loaded, timing), footprint)| {
        Ok(Row {
            path: loaded.path.clone(),
            batch: loaded.batch,
            samples_per_second: loaded.batch as f64 * 1e3 / timing.latency.p50,
            latency_ms: timing.latency,
            runs: timing.runs,
            speedup_over_first: timing.speedup,
            speedup_quartiles: timing.spread,
            load_ms: footprint.load_ms,
            rss_mb: Rss { loaded: mib(footprint.loaded), peak: mib(footprint.peak) },
            file_bytes: poda_formats::file_bytes(&loaded.path)?,
        })
    });
    let bench = Bench {
        models: rows.collect::<Result<_>>()?,
        threads: loaded[0].executable.threads(),
        batch: loaded[0].batch,
        cpu: cpu_name(),
        notes: notes(args, &loaded),
    };
    if args.json { print_json(&bench) } else { show(&bench) }
}

/// A model that is ready to run, and what it is fed.
struct Loaded {
    path: PathBuf,
    executable: Executable,
    feeds: Feeds,
    batch: usize,
    assumed: Option<String>,
}

fn load(path: &Path, args: &Args) -> Result<Loaded> {
    let model = Model::open(path)?;
    let at = || path.display().to_string();
    let resolved = args.shapes.resolve(model.graph()).with_context(at)?;
    let feeds = feeds::random(model.graph(), &resolved.shapes, 0).with_context(at)?;
    let options = args.runtime.options()?;
    let batch = Batching::of(model.graph(), &resolved.shapes).samples(model.graph(), &resolved.shapes);
    let executable = model.prepare(options).with_context(at)?;
    Ok(Loaded { path: path.to_owned(), executable, feeds, batch, assumed: resolved.note() })
}

/// What a reader of the figures should know.
fn notes(args: &Args, loaded: &[Loaded]) -> Vec<String> {
    let mut notes: Vec<String> = Vec::new();
    for loaded in loaded {
        notes.extend(loaded.assumed.clone().filter(|note| !notes.contains(note)));
    }
    let batch = args.shapes.batch;
    if batch != 1 && loaded.iter().any(|loaded| loaded.batch != batch) {
        notes.push(format!("--batch {batch} is not the batch of every model: samples are counted as they were run"));
    }
    if loaded.iter().any(|other| other.batch != loaded[0].batch) {
        notes.push("the models run batches of different sizes: compare samples a second".to_owned());
    }
    notes
}

fn measure_footprint(args: &Args) -> Result<Footprint> {
    let start = Instant::now();
    let path = &args.models[0];
    let model = Model::open(path)?;
    let options = args.runtime.options()?;
    let executable = model.prepare(options).with_context(|| path.display().to_string())?;
    let load_ms = start.elapsed().as_secs_f64() * 1e3;
    let shapes = args.shapes.resolve(model.graph()).with_context(|| path.display().to_string())?.shapes;
    let feeds = feeds::random(model.graph(), &shapes, 0).with_context(|| path.display().to_string())?;
    drop(model);
    for _ in 0..3 {
        executable.run(&feeds::views(&feeds))?;
    }
    let resident = memory::resident();
    Ok(Footprint { load_ms, loaded: resident.now, peak: resident.peak })
}

/// The options that shape the measured process' work, as flags again.
fn child_flags(args: &Args) -> Vec<String> {
    [args.shapes.flags(), args.runtime.flags()].concat()
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// The CPU's name for itself.
pub(crate) fn cpu_name() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split_once(':'));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}

fn show(bench: &Bench) -> Result<()> {
    print(format!("{}, {} threads, batch {}", bench.cpu, bench.threads, bench.batch))?;
    let header = [
        "model",
        "p50 ms",
        "p90",
        "p99",
        "min",
        "samples/s",
        "× first",
        "(quartiles)",
        "load ms",
        "RSS MiB",
        "peak",
        "file",
    ];
    let mut rows = table::table(&header, 1);
    for row in &bench.models {
        let [low, high] = row.speedup_quartiles;
        rows.add_row([
            row.path.display().to_string(),
            table::ms(row.latency_ms.p50),
            table::ms(row.latency_ms.p90),
            table::ms(row.latency_ms.p99),
            table::ms(row.latency_ms.min),
            format!("{:.0}", row.samples_per_second),
            format!("{:.2}", row.speedup_over_first),
            format!("{low:.2}–{high:.2}"),
            table::ms(row.load_ms),
            format!("{:.1}", row.rss_mb.loaded),
            format!("{:.1}", row.rss_mb.peak),
            table::bytes(row.file_bytes),
        ]);
    }
    print(rows)?;
    bench.notes.iter().try_for_each(|note| print(format!("note: {note}")))
}
