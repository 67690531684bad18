//! `poda eval`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use poda_runtime::Model;
use serde_json::json;

use crate::dataset::{self, Dataset};
use crate::progress;
use crate::runtime_args::RuntimeArgs;
use crate::score::{DistanceSum, floats};
use crate::table::{percent, print, print_json};

/// Score a model on samples: accuracy against labels, or distance from another model's outputs
///
/// FILE.npz holds an array for each input of the model, under its name, samples along the first axis;
/// with an array "labels" of class numbers, top-1 and top-5 accuracy of the first output are printed.
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
    let options = args.runtime.options()?;
    let model = Model::open(&args.model)?;
    let data = Dataset::open(&args.data, model.graph())?;
    if data.labels().is_none() && args.reference.is_none() {
        bail!(
            "{}: nothing to compare with: add an array named \"labels\", or say --reference MODEL",
            args.data.display()
        );
    }
    let executable = model.prepare(options.clone()).with_context(|| args.model.display().to_string())?;
    let accuracy = data.labels().is_some().then(|| data.accuracy(&executable, args.batch)).transpose()?;
    let mut distances = Vec::new();
    if let Some(path) = &args.reference {
        let reference = Model::open(path)?;
        let theirs = reference.prepare(options).with_context(|| path.display().to_string())?;
        let batch = data.batch_size(executable.graph(), args.batch)?;
        ensure!(
            batch == data.batch_size(theirs.graph(), args.batch)?,
            "the two models take batches of different sizes"
        );
        let fixed = dataset::is_fixed(executable.graph()) || dataset::is_fixed(theirs.graph());
        let mut expected = Vec::new();
        data.run(&theirs, batch, fixed, |_, _, outputs| {
            expected.push(outputs);
            Ok(())
        })?;
        let mut expected = expected.into_iter();
        let mut sums: Vec<(String, DistanceSum)> = Vec::new();
        let bar = progress::bar(data.len() as u64, "comparing");
        data.run(&executable, batch, fixed, |start, end, outputs| {
            let expected = expected.next().context("a batch of the reference")?;
            ensure!(outputs.len() == expected.len(), "the two models have different numbers of outputs");
            for (index, ((name, ours), (_, theirs))) in outputs.iter().zip(&expected).enumerate() {
                ensure!(
                    ours.shape() == theirs.shape(),
                    "output {name:?} has shape {:?}, the reference {:?}",
                    ours.shape(),
                    theirs.shape()
                );
                if sums.len() == index {
                    sums.push((name.clone(), DistanceSum::default()));
                }
                sums[index].1.add(&floats(ours)?, &floats(theirs)?)?;
            }
            bar.inc((end - start) as u64);
            Ok(())
        })?;
        bar.finish_and_clear();
        distances = sums.into_iter().map(|(name, sum)| (name, sum.finish())).collect();
    }
    if args.json {
        let distances: Vec<_> =
            distances.iter().map(|(name, d)| json!({"output": name, "distance": d})).collect();
        return print_json(&json!({"samples": data.len(), "accuracy": accuracy, "reference": distances}));
    }
    print(format!("{} samples", data.len()))?;
    if let Some(accuracy) = accuracy {
        print(format!("top-1 {}, top-5 {}", percent(accuracy.top1), percent(accuracy.top5)))?;
    }
    for (name, d) in distances {
        print(format!(
            "{name}: cosine {:.6}, MSE {:.3e}, largest difference {:.3e}",
            d.cosine, d.mse, d.max_abs
        ))?;
    }
    Ok(())
}
