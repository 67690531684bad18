//! `poda compare`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use poda::compare::compare;
use poda::dataset::Dataset;
use poda::score::{Distance, DistanceSum};
use poda::{Graph, feeds};
use poda_formats::Weight;
use poda_runtime::{Executable, Model};
use serde::Serialize;

use crate::progress;
use crate::runtime_args::RuntimeArgs;
use crate::shape_args::ShapeArgs;
use crate::table::{self, count, percent, print, print_json};

/// Show what differs between two models: operators, weights, and what comes out
///
/// Weights are matched by name. Outputs are those of the samples of --data, or of one made-up input.
///
/// Examples:
///   poda compare dense.onnx pruned.safetensors
///   poda compare dense.onnx pruned.onnx --data test.npz
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// ONNX file or Poda artifact: the reference
    a: PathBuf,
    /// The other
    b: PathBuf,
    /// Samples to compare outputs on; see `poda eval --help`
    #[arg(long, value_name = "FILE.npz", conflicts_with_all = ["shape"])]
    data: Option<PathBuf>,
    #[command(flatten)]
    shapes: ShapeArgs,
    #[command(flatten)]
    runtime: RuntimeArgs,
    /// List weights that are the same, too
    #[arg(long)]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Comparison {
    operators: BTreeMap<String, [usize; 2]>,
    weights: Vec<Row>,
    /// Weights of which every element is the same.
    same: usize,
    outputs: Vec<Output>,
    /// Why outputs were not compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

#[derive(Serialize)]
struct Output {
    output: String,
    distance: Distance,
}

#[derive(Serialize)]
struct Row {
    name: String,
    a: Option<Side>,
    b: Option<Side>,
    /// ‖b − a‖ / ‖a‖, where the shapes are the same.
    relative_difference: Option<f64>,
    /// Elements that are zero in b and not in a.
    zeroed: Option<u64>,
}

#[derive(Serialize)]
struct Side {
    shape: Vec<usize>,
    nnz: usize,
    dtype: String,
    layout: String,
    bytes: usize,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let (a, b) = (Model::open(&args.a)?, Model::open(&args.b)?);
    let weights = weights(a.graph(), b.graph(), args.all)?;
    let (outputs, note) = match outputs(args, [&a, &b]) {
        Ok(outputs) => (outputs, None),
        // What was asked for must be had; what is made up need not.
        Err(error) if args.data.is_some() => return Err(error),
        Err(error) => (Vec::new(), Some(format!("outputs were not compared: {error:#}"))),
    };
    let comparison = Comparison {
        operators: operators(a.graph(), b.graph()),
        same: weights.1,
        weights: weights.0,
        outputs: outputs.into_iter().map(|(output, distance)| Output { output, distance }).collect(),
        note,
    };
    if args.json { print_json(&comparison) } else { show(args, &comparison) }
}

/// Operators of which there are not as many in both.
fn operators(a: &Graph, b: &Graph) -> BTreeMap<String, [usize; 2]> {
    let mut counts: BTreeMap<String, [usize; 2]> = BTreeMap::new();
    for (side, graph) in [a, b].into_iter().enumerate() {
        for node in graph.with_bodies().into_iter().flat_map(|graph| &graph.nodes) {
            counts.entry(node.op.name().to_owned()).or_default()[side] += 1;
        }
    }
    counts.retain(|_, [a, b]| a != b);
    counts
}

/// Rows of weights that differ, or of all; and how many are the same.
fn weights(a: &Graph, b: &Graph, all: bool) -> Result<(Vec<Row>, usize)> {
    let named = |graph: &Graph| -> BTreeMap<String, Weight> {
        let values = graph.with_bodies().into_iter().flat_map(|graph| &graph.values);
        values.filter_map(|value| Some((value.name.clone(), value.weight.clone()?))).collect()
    };
    let (a, b) = (named(a), named(b));
    let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let (mut rows, mut same) = (Vec::new(), 0);
    for name in names {
        let pair = (a.get(name), b.get(name));
        let (relative_difference, zeroed) = match pair {
            (Some(a), Some(b)) if a.shape() == b.shape() => difference(a, b)?,
            _ => (None, None),
        };
        let layouts = |(a, b): (Option<&Weight>, Option<&Weight>)| Some(a?.layout() == b?.layout());
        let unchanged = relative_difference == Some(0.0) && layouts(pair) == Some(true);
        same += usize::from(relative_difference == Some(0.0));
        if all || !unchanged {
            let side = |weight: &Weight| Side {
                shape: weight.shape().to_vec(),
                nnz: weight.nnz(),
                dtype: weight.values_type().to_string(),
                layout: weight.layout().into_owned(),
                bytes: weight.bytes(),
            };
            let (a, b) = (pair.0.map(side), pair.1.map(side));
            rows.push(Row { name: name.clone(), a, b, relative_difference, zeroed });
        }
    }
    Ok((rows, same))
}

/// ‖b − a‖ / ‖a‖, and the elements that are zero in b alone.
fn difference(a: &Weight, b: &Weight) -> Result<(Option<f64>, Option<u64>)> {
    let (a, b) = (a.to_dense()?, b.to_dense()?);
    if a.dtype() == b.dtype() && a.bytes() == b.bytes() {
        return Ok((Some(0.0), Some(0)));
    }
    let mut sum = DistanceSum::default();
    let (Ok(ours), Ok(theirs)) = (poda::score::numbers(&b), poda::score::numbers(&a)) else {
        return Ok((None, None));
    };
    sum.add(&b, &a, 1)?;
    let zeroed = ours.iter().zip(&theirs).filter(|&(&ours, &theirs)| ours == 0.0 && theirs != 0.0).count();
    Ok((Some(sum.finish().relative_error), Some(zeroed as u64)))
}

/// How far the outputs of the second are from those of the first.
fn outputs(args: &Args, [a, b]: [&Model; 2]) -> Result<Vec<(String, Distance)>> {
    let at = |path: &Path| path.display().to_string();
    let options = args.runtime.options()?;
    let reference = a.prepare(options.clone()).with_context(|| at(&args.a))?;
    let ours = b.prepare(options).with_context(|| at(&args.b))?;
    if let Some(path) = &args.data {
        let data = Dataset::open(path)?;
        let theirs = data.bind(a.graph()).with_context(|| at(path))?;
        let samples = data.bind(b.graph()).with_context(|| at(path))?;
        let bar = progress::bar(samples.len() as u64, "comparing");
        let sides = [(&samples, &ours), (&theirs, &reference)];
        let found = compare(sides, args.shapes.batch, &mut |count| bar.inc(count as u64))?;
        bar.finish_and_clear();
        return Ok(found);
    }
    let inputs = feeds::random(a.graph(), &args.shapes.resolve(a.graph())?.shapes, 0)?;
    let run = |executable: &Executable| executable.run(&feeds::views(&inputs));
    let (expected, found) = (run(&reference)?, run(&ours).with_context(|| at(&args.b))?);
    ensure!(expected.len() == found.len(), "they have {} and {} outputs", expected.len(), found.len());
    let mut distances = Vec::new();
    for ((name, should), (_, is)) in expected.iter().zip(&found) {
        ensure!(
            should.shape() == is.shape(),
            "output {name:?} has shape {:?} and {:?}",
            should.shape(),
            is.shape()
        );
        let mut sum = DistanceSum::default();
        sum.add(is, should, 1)?;
        distances.push((name.clone(), sum.finish()));
    }
    Ok(distances)
}

fn show(args: &Args, comparison: &Comparison) -> Result<()> {
    if !comparison.operators.is_empty() {
        let mut rows = table::table(&["operators", "first", "second"], 1);
        for (name, [a, b]) in &comparison.operators {
            rows.add_row([name.clone(), a.to_string(), b.to_string()]);
        }
        print(format!("{rows}\n"))?;
    }
    if !comparison.weights.is_empty() {
        let mut rows = table::table(&["weight", "first", "second", "stored", "kept", "difference"], 4);
        for row in &comparison.weights {
            rows.add_row(cells(row));
        }
        print(format!("{rows}\n"))?;
    }
    print(format!("{} weights are the same, element by element", count(comparison.same as u64)))?;
    for Output { output, distance: d } in &comparison.outputs {
        let samples = if args.data.is_some() { format!(" of {} samples", d.samples) } else { String::new() };
        print(format!(
            "{output}{samples}: cosine {:.6}, worst {:.6}, relative error {:.3e}, largest difference {:.3e}",
            d.mean_cosine, d.worst_cosine, d.relative_error, d.max_abs
        ))?;
    }
    comparison.note.iter().try_for_each(|note| print(format!("note: {note}")))
}

fn cells(row: &Row) -> [String; 6] {
    let shape =
        |side: &Option<Side>| side.as_ref().map_or("none".to_owned(), |side| format!("{:?}", side.shape));
    let same = row.a.as_ref().map(|a| &a.shape) == row.b.as_ref().map(|b| &b.shape);
    let kept = match (&row.a, &row.b) {
        (Some(a), Some(b)) => percent(b.nnz as f64 / a.nnz.max(1) as f64),
        _ => String::new(),
    };
    [
        row.name.clone(),
        shape(&row.a),
        if same { "same".to_owned() } else { shape(&row.b) },
        row.b.as_ref().map_or(String::new(), |b| format!("{} {}", b.dtype, b.layout)),
        kept,
        row.relative_difference.map_or(String::new(), |d| format!("{d:.2e}")),
    ]
}
