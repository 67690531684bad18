//! `poda bench`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use poda::Graph;
use poda::batching::Batching;
use poda::feeds::{self, Feeds, NamedFile};
use poda::shapes::Shapes;
use poda_runtime::kernels::roof::Roofs;
use poda_runtime::{Executable, Model};
use serde::Serialize;

use crate::machine::Machine;
use crate::profiling::{self, Profiled};
use crate::runtime_args::RuntimeArgs;
use crate::shape_args::{ShapeArgs, warn_of_conflicts};
use crate::table::{self, print, print_json};
use crate::timing::{self, Contestant, Footprint, Footprints, Latency, Timing};
use crate::{memory, progress};

/// Time models against each other: latency, throughput, load time, memory, file size
///
/// All models run in one process, taking turns (A B A B …). Inputs are made up and stay valid, or come from --input.
/// Load time and memory are those of processes of their own, until the first outputs are there: the first start on a
/// machine also times kernels, later ones find them chosen. The ratio to the first model is the median over turns,
/// with quartiles. Samples a second are counted by the clock, over all --streams.
///
/// Examples:
///   poda bench model.onnx
///   poda bench dense.onnx pruned.safetensors --threads 2 --shape sequence=128
///   poda bench model.onnx --input ids=tokens.npy --threads 1 --streams 2
///   poda bench pruned.safetensors --profile --trace steps.json
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// ONNX files or Poda artifacts
    #[arg(required = true)]
    models: Vec<PathBuf>,
    /// Input array, NAME=FILE.npy; or a FILE.npz with arrays named like the inputs; may be repeated
    #[arg(long, value_name = "NAME=FILE", conflicts_with_all = ["batch", "shape"])]
    input: Vec<NamedFile>,
    #[command(flatten)]
    shapes: ShapeArgs,
    #[command(flatten)]
    runtime: RuntimeArgs,
    /// Seconds for each model
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Runs of a model at once, each with --threads
    #[arg(long, default_value_t = 1, value_name = "N")]
    streams: usize,
    /// Print, for each step of each model, kernel, time, rate, and share of what this CPU can do
    #[arg(long)]
    profile: bool,
    /// Write the steps of a few runs to this file, for Perfetto or chrome://tracing
    #[arg(long, value_name = "FILE.json")]
    trace: Option<PathBuf>,
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
    #[serde(flatten)]
    machine: Machine,
    threads: usize,
    streams: usize,
    /// Samples of a run, of the first model.
    batch: usize,
    notes: Vec<String>,
}

#[derive(Serialize)]
struct Row {
    path: PathBuf,
    latency_ms: Latency,
    /// Samples of a run: the size of the model's batch axis, whichever way it came about.
    batch: usize,
    /// Of the inputs.
    shapes: Shapes,
    /// Of one stream, from the median latency.
    samples_per_second: f64,
    /// Samples that all streams finished in a second, by the clock.
    throughput: f64,
    runs: usize,
    speedup_over_first: f64,
    speedup_quartiles: [f64; 2],
    /// Distance of the quartiles of the turns' medians, as a share of their median.
    unrest: f64,
    /// Until the first outputs, where the kernels are chosen already.
    load_ms: f64,
    /// Until the first outputs, where they are not.
    first_load_ms: f64,
    rss_mb: Rss,
    file_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<Profiled>,
}

#[derive(Serialize)]
struct Rss {
    loaded: f64,
    peak: f64,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!((0.0..=86_400.0).contains(&args.seconds), "--seconds must be from 0 to 86400");
    ensure!((1..=4096).contains(&args.streams), "--streams must be from 1 to 4096");
    if args.footprint {
        return print_json(&measure_footprint(args)?);
    }
    let spinner = progress::spinner("loading each model in a process of its own");
    let flags = child_flags(args);
    let footprints =
        args.models.iter().map(|path| timing::footprints(path, &flags)).collect::<Result<Vec<_>>>()?;
    spinner.set_message("loading");
    let loaded = args.models.iter().map(|path| load(path, args)).collect::<Result<Vec<_>>>()?;
    spinner.finish_and_clear();

    let contestants: Vec<_> = loaded
        .iter()
        .map(|loaded| Contestant { executable: &loaded.executable, feeds: feeds::views(&loaded.feeds) })
        .collect();
    let bar = progress::bar(100, "timing");
    let timings = timing::alternate(&contestants, args.seconds, args.streams, &bar)?;
    bar.finish_and_clear();

    let profiles = profiles(args, &loaded)?;
    let mut notes = notes(args, &loaded);
    notes.extend(unrest(&loaded, &timings));
    let rows = loaded.iter().zip(timings).zip(footprints).zip(profiles);
    let bench = Bench {
        models: rows.map(|(((l, t), f), p)| row(l, t, f, p)).collect::<Result<_>>()?,
        machine: Machine::this(),
        threads: loaded[0].executable.threads(),
        streams: args.streams,
        batch: loaded[0].batch,
        notes,
    };
    if args.json { print_json(&bench) } else { show(&bench, args) }
}

/// A model that is ready to run, and what it is fed.
struct Loaded {
    path: PathBuf,
    executable: Executable,
    feeds: Feeds,
    shapes: Shapes,
    batch: usize,
    assumed: Option<String>,
}

fn load(path: &Path, args: &Args) -> Result<Loaded> {
    let model = Model::open(path)?;
    let at = || path.display().to_string();
    let (feeds, assumed) = feed(model.graph(), args).with_context(at)?;
    warn_of_conflicts(model.graph(), &feeds);
    let shapes: Shapes = feeds.iter().map(|(name, tensor)| (name.clone(), tensor.shape().to_vec())).collect();
    let batch = Batching::of(model.graph(), &shapes).samples(model.graph(), &shapes);
    let executable = model.prepare(args.runtime.options()?).with_context(at)?;
    Ok(Loaded { path: path.to_owned(), executable, feeds, shapes, batch, assumed })
}

/// What a model is fed, and what was assumed for it.
fn feed(graph: &Graph, args: &Args) -> Result<(Feeds, Option<String>)> {
    if args.input.is_empty() {
        let resolved = args.shapes.resolve(graph)?;
        return Ok((feeds::random(graph, &resolved.shapes, 0)?, resolved.note()));
    }
    Ok((feeds::from_files(graph, &args.input)?, None))
}

fn row(loaded: &Loaded, timing: Timing, footprints: Footprints, profile: Option<Profiled>) -> Result<Row> {
    let Footprints { first, tuned } = footprints;
    Ok(Row {
        path: loaded.path.clone(),
        batch: loaded.batch,
        shapes: loaded.shapes.clone(),
        samples_per_second: loaded.batch as f64 * 1e3 / timing.latency.p50,
        throughput: loaded.batch as f64 * timing.runs_per_second,
        latency_ms: timing.latency,
        runs: timing.runs,
        speedup_over_first: timing.speedup,
        speedup_quartiles: timing.spread,
        unrest: timing.unrest,
        load_ms: tuned.load_ms,
        first_load_ms: first.load_ms,
        rss_mb: Rss { loaded: mib(tuned.loaded), peak: mib(tuned.peak) },
        file_bytes: poda_formats::file_bytes(&loaded.path)?,
        profile,
    })
}

/// Profiles where they are asked for, and the trace.
fn profiles(args: &Args, loaded: &[Loaded]) -> Result<Vec<Option<Profiled>>> {
    let names = table::short_names(loaded.iter().map(|loaded| &*loaded.path));
    if let Some(path) = &args.trace {
        let models: Vec<_> = loaded
            .iter()
            .zip(&names)
            .map(|(loaded, name)| (name.as_str(), &loaded.executable, feeds::views(&loaded.feeds)))
            .collect();
        profiling::write_trace(path, &models)?;
    }
    if !args.profile {
        return Ok(loaded.iter().map(|_| None).collect());
    }
    let spinner = progress::spinner("measuring what this CPU can do");
    let roofs = Roofs::measure(loaded[0].executable.threads());
    let profiles = loaded.iter().zip(names).map(|(loaded, name)| {
        spinner.set_message(format!("profiling {name}"));
        Ok(Some(profiling::profile(&loaded.executable, &feeds::views(&loaded.feeds), &roofs)?))
    });
    let profiles = profiles.collect();
    spinner.finish_and_clear();
    profiles
}

/// What a reader of the figures should know.
fn notes(args: &Args, loaded: &[Loaded]) -> Vec<String> {
    let mut notes: Vec<String> = Vec::new();
    for loaded in loaded {
        notes.extend(loaded.assumed.clone().filter(|note| !notes.contains(note)));
    }
    let batch = args.shapes.batch;
    if batch != 1 && loaded.iter().any(|loaded| loaded.batch != batch) {
        notes.push(format!(
            "--batch {batch} is not the batch of every model: samples are counted as they were run"
        ));
    }
    if loaded.iter().any(|other| other.batch != loaded[0].batch) {
        notes.push("the models run batches of different sizes: compare samples a second".to_owned());
    }
    notes
}

/// A warning where the machine was not at rest.
fn unrest(loaded: &[Loaded], timings: &[Timing]) -> Option<String> {
    let names = table::short_names(loaded.iter().map(|loaded| &*loaded.path));
    let (name, why) = names.into_iter().zip(timings).find_map(|(name, t)| Some((name, t.disturbed()?)))?;
    Some(format!(
        "the machine was busy, or its clock changed: of {name}, {why}; trust ratios rather than times, and repeat"
    ))
}

fn measure_footprint(args: &Args) -> Result<Footprint> {
    let path = &args.models[0];
    let at = || path.display().to_string();
    // What a service has at hand before it loads a model.
    let (feeds, _) = feed(Model::open(path)?.graph(), args).with_context(at)?;
    let start = Instant::now();
    let executable = Model::open(path)?.prepare(args.runtime.options()?).with_context(at)?;
    executable.run(&feeds::views(&feeds))?;
    let load_ms = start.elapsed().as_secs_f64() * 1e3;
    for _ in 0..2 {
        executable.run(&feeds::views(&feeds))?;
    }
    let resident = memory::resident();
    Ok(Footprint { load_ms, loaded: resident.now, peak: resident.peak })
}

/// The options that shape the measured process' work, as flags again.
fn child_flags(args: &Args) -> Vec<String> {
    let inputs = args.input.iter().map(|file| format!("--input={file}"));
    let shapes = if args.input.is_empty() { args.shapes.flags() } else { Vec::new() };
    inputs.chain(shapes).chain(args.runtime.flags()).collect()
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn show(bench: &Bench, args: &Args) -> Result<()> {
    let streams = if bench.streams == 1 { String::new() } else { format!(", {} streams", bench.streams) };
    print(&bench.machine)?;
    print(format!("{} threads{streams}, batch {}\n", bench.threads, bench.batch))?;
    let names = table::short_names(bench.models.iter().map(|row| &*row.path));
    let header = ["model", "p50 ms", "mean", "p95", "p99", "samples/s", "runs", "× first", "(quartiles)"];
    let mut rows = table::table(&header, 1);
    for (row, name) in bench.models.iter().zip(&names) {
        let [low, high] = row.speedup_quartiles.map(table::ratio);
        rows.add_row([
            name.clone(),
            table::ms(row.latency_ms.p50),
            table::ms(row.latency_ms.mean),
            table::ms(row.latency_ms.p95),
            table::ms(row.latency_ms.p99),
            table::ratio(row.throughput),
            row.runs.to_string(),
            table::ratio(row.speedup_over_first),
            format!("{low}–{high}"),
        ]);
    }
    print(format!("{rows}\n"))?;
    let mut rows = table::table(&["model", "load ms", "first start", "RSS MiB", "peak", "file"], 1);
    for (row, name) in bench.models.iter().zip(&names) {
        rows.add_row([
            name.clone(),
            table::ms(row.load_ms),
            table::ms(row.first_load_ms),
            format!("{:.1}", row.rss_mb.loaded),
            format!("{:.1}", row.rss_mb.peak),
            table::bytes(row.file_bytes),
        ]);
    }
    print(rows)?;
    for (row, name) in bench.models.iter().zip(&names) {
        if let Some(profile) = &row.profile {
            print(format!("\n{name}"))?;
            profile.show()?;
        }
    }
    if let Some(path) = &args.trace {
        print(format!("trace written to {}", path.display()))?;
    }
    bench.notes.iter().try_for_each(|note| print(format!("note: {note}")))
}
