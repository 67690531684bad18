//! `poda demo`: the whole of Poda on one small trained network.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use poda::dataset::Dataset;
use poda::machine::Machine;
use poda::shapes::Shapes;
use poda::timing::{self, Contestant, Latency};
use poda::{arrays, feeds};
use poda_formats::{Graph, WriteOptions};
use poda_pruner::allocation::Scope;
use poda_pruner::{Granularity, Recipe};
use poda_runtime::{Executable, Model, Options};
use serde::Serialize;

use crate::table::{self, count, percent, print, print_json};
use crate::{footprint, progress};

/// 784-768-512-10, ReLU, trained by `pruner/examples/train_fashion_mnist.rs`, which also writes the samples.
const MODEL: &[u8] = include_bytes!("fashion_mnist.onnx");
/// The first 2,000 images of Fashion-MNIST's test split, with labels.
const SAMPLES: &[u8] = include_bytes!("fashion_mnist_test.npz");

/// Prune a small network trained on Fashion-MNIST in three ways, and compare: no arguments, no network
///
/// Removes dead neurons (the function stays the same), half of the neurons that are left, and 95 % of the
/// weights; prints accuracy on 2,000 test images, bytes, memory and latency at batch 1 of each beside dense.
///
/// Examples:
///   poda demo
///   poda demo --keep models     then: poda inspect models/weights.safetensors
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// Keep the dense and pruned models, and the samples, in this folder
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Threads; by default as many as this container may use
    #[arg(long)]
    threads: Option<usize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Row {
    name: &'static str,
    file: String,
    parameters: u64,
    accuracy: f64,
    file_bytes: u64,
    load_ms: f64,
    resident_bytes: u64,
    latency_ms: Latency,
    speedup: f64,
    speedup_quartiles: [f64; 2],
}

#[derive(Serialize)]
struct Demo {
    samples: usize,
    threads: usize,
    #[serde(flatten)]
    machine: Machine,
    rows: Vec<Row>,
}

/// The dense network and three ways to prune it.
fn variants() -> [(&'static str, &'static str, Option<Recipe>); 4] {
    let recipe = Recipe { remove_dead: true, ..Recipe::default() };
    let channels = Recipe { granularity: Granularity::Channel, sparsity: Some(0.5), ..recipe.clone() };
    let weights = Recipe { remove_dead: false, sparsity: Some(0.95), scope: Scope::Global, ..recipe.clone() };
    [
        ("dense", "dense.safetensors", None),
        ("dead neurons removed", "alive.safetensors", Some(recipe)),
        ("and half of the others", "channels.safetensors", Some(channels)),
        ("95 % of the weights", "weights.safetensors", Some(weights)),
    ]
}

pub(crate) fn run(args: &Args) -> Result<()> {
    anyhow::ensure!(args.threads != Some(0), "--threads must be at least 1");
    let temporary = tempfile::tempdir().context("no temporary folder")?;
    let folder = args.keep.as_deref().unwrap_or(temporary.path());
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    if args.keep.is_some() {
        let path = folder.join("fashion_mnist_test.npz");
        std::fs::write(&path, SAMPLES).with_context(|| path.display().to_string())?;
    }
    let spinner = progress::spinner("pruning");
    let dense = poda_formats::read_bytes(MODEL)?;
    let data = Dataset::new(arrays::read_npz(SAMPLES)?);
    let data = data.bind(&dense)?;
    let models = variants()
        .into_iter()
        .map(|(name, file, recipe)| {
            Variant::make(name, folder.join(file), &dense, recipe.as_ref(), args.threads)
        })
        .collect::<Result<Vec<_>>>()?;

    spinner.set_message("scoring");
    let accuracies = models
        .iter()
        .map(|model| Ok(data.accuracy(&model.executable, 100, None)?.top1))
        .collect::<Result<Vec<_>>>()?;
    spinner.set_message("measuring memory");
    let flags: Vec<String> = args.threads.iter().map(|n| format!("--threads={n}")).collect();
    let footprints =
        models.iter().map(|m| footprint::footprints(&m.path, &flags)).collect::<Result<Vec<_>>>()?;
    spinner.finish_and_clear();

    let feeds = data.feeds(0, 1)?;
    let contestants: Vec<_> = models
        .iter()
        .map(|model| Contestant { executable: &model.executable, feeds: feeds::views(&feeds) })
        .collect();
    let bar = progress::bar(100, "timing");
    let timings = timing::alternate(&contestants, 1.5, 1, &mut |share| {
        bar.set_position((100.0 * share) as u64);
        ControlFlow::Continue(())
    })?;
    bar.finish_and_clear();

    let rows = models.iter().zip(accuracies).zip(footprints).zip(timings);
    let rows = rows.map(|(((model, accuracy), footprint), timing)| {
        Ok(Row {
            name: model.name,
            file: model.path.display().to_string(),
            parameters: model.parameters,
            accuracy,
            file_bytes: poda_formats::file_bytes(&model.path)?,
            load_ms: footprint.tuned.load_ms,
            resident_bytes: footprint.tuned.loaded,
            latency_ms: timing.latency,
            speedup: timing.speedup,
            speedup_quartiles: timing.spread,
        })
    });
    let demo = Demo {
        samples: data.len(),
        threads: models[0].executable.threads(),
        machine: Machine::this(),
        rows: rows.collect::<Result<_>>()?,
    };
    if args.json { print_json(&demo) } else { show(&demo, args.keep.as_deref()) }
}

struct Variant {
    name: &'static str,
    path: PathBuf,
    parameters: u64,
    executable: Executable,
}

impl Variant {
    /// Prunes, writes the artifact, and opens it as a user would.
    fn make(
        name: &'static str,
        path: PathBuf,
        dense: &Graph,
        recipe: Option<&Recipe>,
        threads: Option<usize>,
    ) -> Result<Self> {
        let mut graph = match recipe {
            Some(recipe) => poda_pruner::prune(dense, recipe, &Shapes::new(), &mut |_| (), None)?.0,
            None => dense.clone(),
        };
        graph.store_sparse();
        poda_formats::write(&graph, &path, &WriteOptions::default())?;
        let parameters = graph.values.iter().filter_map(|v| v.weight.as_ref()).map(|w| w.nnz() as u64).sum();
        let executable = Model::open(&path)?.prepare(Options { threads, ..Options::default() })?;
        Ok(Self { name, path, parameters, executable })
    }
}

fn show(demo: &Demo, kept: Option<&Path>) -> Result<()> {
    print(format!(
        "Fashion-MNIST, a 784-768-512-10 MLP, {} test images; batch 1, {} threads",
        demo.samples, demo.threads
    ))?;
    print(format!("{}\n", demo.machine))?;
    let header =
        ["network", "weights", "right", "file", "memory", "load ms", "µs", "p99", "× dense", "(quartiles)"];
    let mut rows = table::table(&header, 1);
    for row in &demo.rows {
        let [low, high] = row.speedup_quartiles;
        rows.add_row([
            row.name.to_owned(),
            count(row.parameters),
            percent(row.accuracy),
            table::bytes(row.file_bytes),
            table::bytes(row.resident_bytes),
            table::ms(row.load_ms),
            table::ms(row.latency_ms.p50 * 1e3),
            table::ms(row.latency_ms.p99 * 1e3),
            table::ratio(row.speedup),
            format!("{}–{}", table::ratio(low), table::ratio(high)),
        ]);
    }
    print(rows)?;
    print("\nMemory is all that a process holds after loading and running the model, Poda itself included.")?;
    if let Some(folder) = kept {
        print(format!("The models are in {0}; try: poda inspect {0}/weights.safetensors", folder.display()))?;
    }
    Ok(())
}
