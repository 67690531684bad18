//! `poda eval`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use poda::compare::compare;
use poda::dataset::{Dataset, Samples};
use poda::score::Distance;
use poda::similarity::{self, Reference, SimilarityError};
use poda_pruner::judge::Correlation;
use poda_runtime::{Executable, Model};
use serde_json::json;

use crate::progress;
use crate::runtime_args::RuntimeArgs;
use crate::table::{percent, print, print_json};

/// Score a model on samples: accuracy against labels, or distance from another model's outputs
///
/// FILE.npz holds an array for each input of the model, under its name, samples along the first axis, wherever
/// the model has its batch; with an array "labels" of class numbers, the accuracy of the first output that
/// holds scores [samples, classes], or class numbers [samples], is printed. Every sample is scored.
/// An array "similarities" [samples, samples] is for embeddings, [samples, d] or, averaged over the tokens that an input
/// attention_mask counts, [samples, tokens, d]: how the cosines of all pairs of samples correlate with it is printed.
///
/// Examples:
///   poda eval pruned.safetensors --data test.npz
///   poda eval pruned.onnx --data test.npz --reference dense.onnx
///   poda eval pruned.onnx --data sentences.npz --reference dense.onnx --similarities
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
    /// Also compare the similarities of all pairs of samples, of embeddings, with those of --reference
    #[arg(long, requires = "reference")]
    similarities: bool,
    /// Output that holds the scores or embeddings, where the first that could is another
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
    if !samples.are_labelled() && args.reference.is_none() {
        bail!(
            "{}: nothing to compare with: add an array named \"labels\", or \"similarities\" of embeddings, or say \
             --reference MODEL",
            of()
        );
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
    let embeddings = Embeddings { args, given: samples.similarities() };
    let cosines = embeddings.cosines(&samples, &executable).with_context(|| at(&args.model))?;
    let mut correlations = embeddings.with_data(cosines.as_ref()).with_context(of)?;
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
            if let Some((output, ours)) = &cosines {
                let theirs = embeddings.cosines(&expected, &theirs).with_context(|| at(path))?;
                let theirs = theirs.map(|(_, cosines)| cosines).unwrap_or_default();
                let found =
                    similarity::correlation(ours, &theirs, Reference::Model).with_context(|| at(path))?;
                correlations.push((output.clone(), "the reference's", found));
                if let Some(given) = embeddings.given {
                    let found = similarity::correlation(&theirs, given, Reference::Data).with_context(of)?;
                    correlations.push((format!("{output}, the reference"), "those in the data", found));
                }
            }
            distances
        }
        None => Vec::new(),
    };
    if args.json {
        let distances: Vec<_> =
            distances.iter().map(|(name, d)| json!({"output": name, "distance": d})).collect();
        let similarities: Vec<_> = correlations
            .iter()
            .map(|(output, with, found)| json!({"output": output, "with": with, "correlation": found}))
            .collect();
        let scores = json!({
            "samples": samples.len(),
            "accuracy": accuracy,
            "reference_accuracy": reference_accuracy,
            "reference": distances,
            "similarities": similarities,
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
    for (output, with, Correlation { pairs, pearson, spearman }) in &correlations {
        print(format!(
            "{output}: similarities of {pairs} pairs beside {with}: Pearson {pearson:.4}, Spearman {spearman:.4}"
        ))?;
    }
    for (name, distance) in &distances {
        show(name, distance)?;
    }
    match samples.unused() {
        [] => Ok(()),
        unused => print(format!("note: no input takes the arrays {unused:?}")),
    }
}

/// Which similarities of samples are compared.
struct Embeddings<'a> {
    args: &'a Args,
    /// Those in the data.
    given: Option<&'a [f64]>,
}

/// An output, and the cosines of all pairs of samples there.
type Cosines = (String, Vec<f64>);

impl Embeddings<'_> {
    /// Those of a model, where they are asked for.
    fn cosines(
        &self,
        samples: &Samples<'_>,
        executable: &Executable,
    ) -> Result<Option<Cosines>, SimilarityError> {
        if self.given.is_none() && !self.args.similarities {
            return Ok(None);
        }
        let name = self.args.scores.as_deref();
        let found = similarity::embeddings(samples, executable, self.args.batch, name)?;
        Ok(Some((found.output, similarity::cosines(&found.vectors)?)))
    }

    /// How they go with those in the data: the output, whose they are compared with, and how they correlate.
    fn with_data(
        &self,
        ours: Option<&Cosines>,
    ) -> Result<Vec<(String, &'static str, Correlation)>, SimilarityError> {
        let (Some((output, ours)), Some(given)) = (ours, self.given) else { return Ok(Vec::new()) };
        let found = similarity::correlation(ours, given, Reference::Data)?;
        Ok(vec![(output.clone(), "those in the data", found)])
    }
}

fn show(name: &str, d: &Distance) -> Result<()> {
    let line = match d.elements {
        0 => format!("{name}: nothing to compare"),
        _ => {
            format!(
                "{name}: cosine {:.6} (mean of samples {:.6}, worst {:.6} of sample {})\n  MSE {:.3e}, largest \
                 difference {:.3e}, relative error {:.3e}, greatest element the same {}",
                d.cosine,
                d.mean_cosine,
                d.worst_cosine,
                d.worst_sample,
                d.mse,
                d.max_abs,
                d.relative_error,
                percent(d.agreement)
            )
        }
    };
    let left_out = |count: u64, where_: &str| match count {
        0 => String::new(),
        _ => format!("; {count} elements are infinite or NaN in {where_}, and not counted"),
    };
    print(format!("{line}{}{}", left_out(d.alike, "both"), left_out(d.unlike, "one of them")))
}
