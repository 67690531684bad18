//! `poda eval`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use poda::compare::compare;
use poda::dataset::Dataset;
use poda::score::Distance;
use poda_runtime::Model;
use serde_json::json;

use crate::progress;
use crate::runtime_args::RuntimeArgs;
use crate::table::{percent, print, print_json};

/// Score a model on samples: accuracy against labels, or distance from another model's outputs
///
/// FILE.npz holds an array for each input of the model, under its name, samples along the first axis, wherever
/// the model has its batch; with an array "labels" of class numbers, the accuracy of the first output that
/// holds scores [samples, classes], or class numbers [samples], is printed. Every sample is scored.
///
/// Examples:
///   poda eval pruned.safetensors --data test.npz
///   poda eval pruned.onnx --data test.npz --reference dense.onnx
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// ONNX file or Poda artifact
    model: PathBuf,
    /// Samples, and perhaps labels
    #[arg(long, value_name = "FILE.npz")]
    data: PathBuf,
    /// Compare outputs with those of this model on the same samples
    #[arg(long, value_name = "MODEL")]
    reference: Option<PathBuf>,
    /// Output that holds the scores, where the first that could is another
    #[arg(long, value_name = "OUTPUT")]
    scores: Option<String>,
    /// Samples per run, where the model leaves the batch open
    #[arg(long, default_value_t = 64)]
    batch: usize,
    #[command(flatten)]
    runtime: RuntimeArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(args.batch > 0, "--batch must be at least 1");
    let options = args.runtime.options()?;
    let model = Model::open(&args.model)?;
    let (of, at) = (|| args.data.display().to_string(), |path: &Path| path.display().to_string());
    let data = Dataset::open(&args.data)?;
    let samples = data.bind(model.graph()).with_context(of)?;
    if samples.labels().is_none() && args.reference.is_none() {
        bail!("{}: nothing to compare with: add an array named \"labels\", or say --reference MODEL", of());
    }
    let executable = model.prepare(options.clone()).with_context(|| at(&args.model))?;
    let mut reference_accuracy = None;
    let accuracy = match samples.labels() {
        Some(_) => {
            let accuracy = samples.accuracy(&executable, args.batch, args.scores.as_deref());
            Some(accuracy.with_context(|| at(&args.model))?)
        }
        None => None,
    };
    let distances = match &args.reference {
        Some(path) => {
            let reference = Model::open(path)?;
            let theirs = reference.prepare(options).with_context(|| at(path))?;
            let expected = data.bind(reference.graph()).with_context(of)?;
            if expected.labels().is_some() {
                let accuracy = expected.accuracy(&theirs, args.batch, args.scores.as_deref());
                reference_accuracy = Some(accuracy.with_context(|| at(path))?);
            }
            let bar = progress::bar(samples.len() as u64, "comparing");
            let sides = [(&samples, &executable), (&expected, &theirs)];
            let distances =
                compare(sides, args.batch, &mut |count| bar.inc(count as u64)).with_context(|| at(path))?;
            bar.finish_and_clear();
            distances
        }
        None => Vec::new(),
    };
    if args.json {
        let distances: Vec<_> =
            distances.iter().map(|(name, d)| json!({"output": name, "distance": d})).collect();
        let scores = json!({
            "samples": samples.len(),
            "accuracy": accuracy,
            "reference_accuracy": reference_accuracy,
            "reference": distances,
            "unused_arrays": samples.unused(),
        });
        return print_json(&scores);
    }
    print(format!("{} samples", samples.len()))?;
    for (accuracy, whose) in [(accuracy, ""), (reference_accuracy, ", the reference")] {
        let Some(accuracy) = accuracy else { continue };
        let top5 = accuracy.top5.map(|share| format!(", top-5 {}", percent(share))).unwrap_or_default();
        print(format!("{}{whose}: top-1 {}{top5}", accuracy.output, percent(accuracy.top1)))?;
    }
    for (name, distance) in &distances {
        show(name, distance)?;
    }
    match samples.unused() {
        [] => Ok(()),
        unused => print(format!("note: no input takes the arrays {unused:?}")),
    }
}

fn show(name: &str, d: &Distance) -> Result<()> {
    let line = match d.elements {
        0 => format!("{name}: nothing to compare"),
        _ => {
            format!(
                "{name}: cosine {:.6} (mean of samples {:.6}, worst {:.6} of sample {})\n  MSE {:.3e}, largest \
                 difference {:.3e}, relative error {:.3e}",
                d.cosine, d.mean_cosine, d.worst_cosine, d.worst_sample, d.mse, d.max_abs, d.relative_error
            )
        }
    };
    let left_out = |count: u64, where_: &str| match count {
        0 => String::new(),
        _ => format!("; {count} elements are infinite or NaN in {where_}, and not counted"),
    };
    print(format!("{line}{}{}", left_out(d.alike, "both"), left_out(d.unlike, "one of them")))
}
