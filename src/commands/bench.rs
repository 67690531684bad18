//! `poda bench`.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use poda::benchmark::{self, Bench, Contender, Loading, Rss};
use poda::feeds::{self, Feeds, NamedFile};
use poda::profiling::{self, Profiled};
use poda::{Graph, memory};
use poda_runtime::Model;
use poda_runtime::kernels::roof::Roofs;

use crate::footprint::{self, Footprint, Footprints};
use crate::runtime_args::RuntimeArgs;
use crate::shape_args::{ShapeArgs, warn_of_conflicts};
use crate::table::{self, print, print_json};
use crate::{profile_table, progress};

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

pub(crate) fn run(args: &Args) -> Result<()> {
    benchmark::check(args.seconds, args.streams)?;
    if args.footprint {
        return print_json(&measure_footprint(args)?);
    }
    let spinner = progress::spinner("loading each model in a process of its own");
    let flags = child_flags(args);
    let footprints =
        args.models.iter().map(|path| footprint::footprints(path, &flags)).collect::<Result<Vec<_>>>()?;
    spinner.set_message("loading");
    let loaded = args.models.iter().map(|path| load(path, args)).collect::<Result<Vec<_>>>()?;
    spinner.finish_and_clear();

    let bar = progress::bar(100, "timing");
    let mut show_progress = |share: f64| {
        bar.set_position((100.0 * share) as u64);
        ControlFlow::Continue(())
    };
    let mut bench = benchmark::bench(&loaded, args.seconds, args.streams, &mut show_progress)?;
    bar.finish_and_clear();
    let profiles = profiles(args, &loaded)?;
    for ((row, Footprints { first, tuned }), profile) in bench.models.iter_mut().zip(footprints).zip(profiles)
    {
        let rss_mb = Rss { loaded: mib(tuned.loaded), peak: mib(tuned.peak) };
        row.footprint = Some(Loading { load_ms: tuned.load_ms, first_load_ms: first.load_ms, rss_mb });
        row.file_bytes = Some(poda_formats::file_bytes(&row.path)?);
        row.profile = profile;
    }
    bench.notes.splice(0..0, note(args, &loaded));
    if args.json { print_json(&bench) } else { show(&bench, args) }
}

fn load(path: &Path, args: &Args) -> Result<Contender> {
    let model = Model::open(path)?;
    let at = || path.display().to_string();
    let given = given(model.graph(), args).with_context(at)?;
    let sizes = args.shapes.sizes();
    let contender = Contender::new(path, &model, given, &sizes, args.runtime.options()?).with_context(at)?;
    warn_of_conflicts(model.graph(), &contender.feeds);
    Ok(contender)
}

/// Arrays from files, where there are some.
fn given(graph: &Graph, args: &Args) -> Result<Option<Feeds>> {
    Ok(if args.input.is_empty() { None } else { Some(feeds::from_files(graph, &args.input)?) })
}

/// Profiles where they are asked for, and the trace.
fn profiles(args: &Args, loaded: &[Contender]) -> Result<Vec<Option<Profiled>>> {
    let names = table::short_names(loaded.iter().map(|loaded| &*loaded.path));
    if let Some(path) = &args.trace {
        let models: Vec<_> = loaded
            .iter()
            .zip(&names)
            .map(|(loaded, name)| (name.as_str(), &loaded.executable, loaded.views()))
            .collect();
        let trace = serde_json::to_vec(&profiling::trace(&models)?)?;
        std::fs::write(path, trace).with_context(|| path.display().to_string())?;
    }
    if !args.profile {
        return Ok(loaded.iter().map(|_| None).collect());
    }
    let spinner = progress::spinner("measuring what this CPU can do");
    let roofs = Roofs::measure(loaded[0].executable.threads());
    let profiles = loaded.iter().zip(names).map(|(loaded, name)| {
        spinner.set_message(format!("profiling {name}"));
        Ok(Some(profiling::profile(&loaded.executable, &loaded.views(), &roofs)?))
    });
    let profiles = profiles.collect();
    spinner.finish_and_clear();
    profiles
}

/// What a reader of the figures should know of --batch.
fn note(args: &Args, loaded: &[Contender]) -> Option<String> {
    let batch = args.shapes.batch;
    let other = batch != 1 && loaded.iter().any(|loaded| loaded.batch != batch);
    other.then(|| {
        format!("--batch {batch} is not the batch of every model: samples are counted as they were run")
    })
}

fn measure_footprint(args: &Args) -> Result<Footprint> {
    let path = &args.models[0];
    let at = || path.display().to_string();
    // What a service has at hand before it loads a model.
    let model = Model::open(path)?;
    let feeds = match given(model.graph(), args).with_context(at)? {
        Some(feeds) => feeds,
        None => {
            feeds::random(model.graph(), &args.shapes.resolve(model.graph()).with_context(at)?.shapes, 0)?
        }
    };
    drop(model);
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
        let Some(Loading { load_ms, first_load_ms, rss_mb }) = &row.footprint else { continue };
        rows.add_row([
            name.clone(),
            table::ms(*load_ms),
            table::ms(*first_load_ms),
            format!("{:.1}", rss_mb.loaded),
            format!("{:.1}", rss_mb.peak),
            row.file_bytes.map_or_else(String::new, table::bytes),
        ]);
    }
    print(rows)?;
    for (row, name) in bench.models.iter().zip(&names) {
        if let Some(profile) = &row.profile {
            print(format!("\n{name}"))?;
            profile_table::show(profile)?;
        }
    }
    if let Some(path) = &args.trace {
        print(format!("trace written to {}", path.display()))?;
    }
    bench.notes.iter().try_for_each(|note| print(format!("note: {note}")))
}
