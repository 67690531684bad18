//! `poda finetune`.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use poda::dataset::Dataset;
use poda::finetuning::{FineTuner, Named};
use poda_formats::{FileFormat, WriteOptions};
use poda_pruner::finetune::{
    Checkpoint, Distillation, FineTuning, OptimizerName, Progress, RateShape, Report,
};
use poda_runtime::Model;

use crate::progress;
use crate::table::{self, count, percent, print, print_json};

/// Train what pruning left: weights that are zero stay zero
///
/// FILE.npz holds an array for each input of the model, under its name, samples along the first
/// axis, and either "labels" of class numbers (cross-entropy), "targets" of the first output's shape
/// (squared error), or neither, with --teacher: then the model learns to do what the teacher does,
/// and needs no labels. With both, half of the loss is each one's.
///
/// A tenth of the samples (or --validation) is kept aside; the state that scores best on it, the start
/// among them, is written: by accuracy where there are labels, else by cosine to what outputs are held
/// against. Where the model has learnt these samples before, its start looks better on them than it is:
/// give --validation, or --hold-out 0, which takes the state after the last epoch.
///
/// A run that was interrupted, however, goes on when it is started again in the same way, and comes to
/// the same weights: OUT.checkpoint holds its state until then.
///
/// Examples:
///   poda finetune sparse.safetensors --data train.npz -o tuned.safetensors
///   poda finetune sparse.safetensors --data texts.npz --teacher dense.onnx -o tuned.safetensors
///   poda finetune small.onnx --data train.npz --optimizer sgd --rate 0.01 --epochs 20 -o tuned.onnx
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// ONNX file or Poda artifact
    model: PathBuf,
    /// Training samples
    #[arg(long, value_name = "FILE.npz")]
    data: PathBuf,
    /// File to write, .onnx or .safetensors
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// Samples to score states on, in place of --hold-out
    #[arg(long, value_name = "FILE.npz", conflicts_with = "hold_out")]
    validation: Option<PathBuf>,
    /// Learn from this model's outputs, usually the dense model's
    #[arg(long, value_name = "DENSE")]
    teacher: Option<PathBuf>,
    /// How outputs are held against the teacher's: squared difference, KL divergence of their softmax, or cosine
    #[arg(long, value_enum, default_value = "mse", requires = "teacher")]
    distill: Distill,
    /// Of the softmax in --distill kl
    #[arg(long, value_name = "T", default_value_t = 2.0)]
    temperature: f64,
    /// Also hold this inner value against the teacher's of the same name; may be repeated
    #[arg(long, value_name = "VALUE", requires = "teacher")]
    hidden: Vec<String>,
    /// Value that holds the scores of classes, where the first output that could is another
    #[arg(long, value_name = "VALUE")]
    scores: Option<String>,
    /// Share of the samples kept aside for validation; 0 for none
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    hold_out: f64,
    /// Passes over the samples
    #[arg(long, default_value_t = 5)]
    epochs: u64,
    /// Samples in a step
    #[arg(long, default_value_t = 32)]
    batch: usize,
    /// How gradients change weights
    #[arg(long, value_enum, default_value = "adamw")]
    optimizer: OptimizerArg,
    /// Greatest learning rate; by default 0.0003 with adamw, 0.01 with sgd
    #[arg(long)]
    rate: Option<f64>,
    /// How the rate falls after the warm-up
    #[arg(long, value_enum, default_value = "cosine")]
    schedule: ShapeArg,
    /// Share of the run over which the rate rises from 0
    #[arg(long, value_name = "SHARE", default_value_t = 0.05)]
    warm_up: f64,
    /// Share of the weights that goes in each step, times the rate
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    weight_decay: f64,
    /// Shorten gradients whose norm is greater than this
    #[arg(long, value_name = "NORM")]
    clip: Option<f64>,
    /// Penalty on the absolute values of weights, which makes more of them small
    #[arg(long, value_name = "FACTOR", default_value_t = 0.0)]
    l1: f64,
    /// Leave weights alone whose name fits, such as 'embeddings.*'; may be repeated
    #[arg(long, value_name = "PATTERN")]
    freeze: Vec<String>,
    /// Batch normalisation keeps the statistics that it has
    #[arg(long)]
    keep_statistics: bool,
    /// Seed of the order of samples
    #[arg(long, default_value_t = 0)]
    seed: u32,
    /// Seconds between checkpoints
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    checkpoint_every: u64,
    /// Threads; by default as many as this container may use
    #[arg(long)]
    threads: Option<usize>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Distill {
    Mse,
    Kl,
    Cosine,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OptimizerArg {
    Adamw,
    Sgd,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ShapeArg {
    Cosine,
    Step,
    Constant,
}

impl Args {
    fn how(&self) -> FineTuning {
        FineTuning {
            epochs: self.epochs,
            batch: self.batch,
            optimizer: match self.optimizer {
                OptimizerArg::Adamw => OptimizerName::Adamw,
                OptimizerArg::Sgd => OptimizerName::Sgd,
            },
            rate: self.rate,
            schedule: match self.schedule {
                ShapeArg::Cosine => RateShape::Cosine,
                ShapeArg::Step => RateShape::Step,
                ShapeArg::Constant => RateShape::Constant,
            },
            warm_up: self.warm_up,
            weight_decay: self.weight_decay,
            clip: self.clip,
            l1: self.l1,
            freeze: self.freeze.clone(),
            keep_statistics: self.keep_statistics,
            seed: self.seed.into(),
            hold_out: self.hold_out,
            scores: self.scores.clone(),
            teacher: self.teacher.is_some(),
            distill: match self.distill {
                Distill::Mse => Distillation::Mse,
                Distill::Kl => Distillation::Kl,
                Distill::Cosine => Distillation::Cosine,
            },
            temperature: self.temperature,
            hidden: self.hidden.clone(),
        }
    }

    /// Beside the file that is written.
    fn checkpoint(&self) -> Checkpoint {
        let mut name = self.output.clone().into_os_string();
        name.push(".checkpoint");
        Checkpoint::new(name, Duration::from_secs(self.checkpoint_every))
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(args.batch > 0, "--batch must be at least 1");
    ensure!(args.threads != Some(0), "--threads must be at least 1");
    ensure!(
        (0.0..1.0).contains(&args.hold_out),
        "--hold-out is a share of the samples, from 0 to less than 1"
    );
    let format = FileFormat::of_name(&args.output);
    let format =
        format.with_context(|| format!("{}: name it .onnx or .safetensors", args.output.display()))?;
    let at = |path: &Path| path.display().to_string();
    let graph = poda_formats::open(&args.model)?;
    let data = Dataset::open(&args.data)?;
    let validation = args.validation.as_ref().map(Dataset::open).transpose()?;
    let (name, others) = (at(&args.data), args.validation.as_deref().map(at));
    let named = validation.as_ref().zip(others.as_deref()).map(|(data, name)| Named { name, data });
    let mut tuner = FineTuner::new(Named { name: &name, data: &data }, named, args.threads);
    if let Some(path) = &args.teacher {
        let teacher = Model::open(path).with_context(|| at(path))?;
        tuner = tuner.with_teacher(&teacher).with_context(|| at(path))?;
    }
    let labelled = tuner.labelled(&graph)?;
    let checkpoint = args.checkpoint();

    let bar = progress::bar(1, "planning");
    let mut observe = |progress: &Progress| {
        bar.set_length(progress.steps);
        bar.set_position(progress.step);
        let best = progress.best.map(|best| format!(", best {best:.4}")).unwrap_or_default();
        bar.set_message(format!("loss {:.4}{best}", progress.loss));
        ControlFlow::Continue(())
    };
    let (mut tuned, report) = tuner.finetune(&graph, &args.how(), Some(&checkpoint), &mut observe)?;
    bar.finish_and_clear();
    tuned.drop_packings();
    if format == FileFormat::Artifact {
        tuned.store_sparse();
    }
    poda_formats::write(&tuned, &args.output, &WriteOptions::default())?;
    checkpoint.remove().with_context(|| at(checkpoint.path()))?;
    if args.json { print_json(&report) } else { show(args, &report, labelled) }
}

fn show(args: &Args, report: &Report, labelled: bool) -> Result<()> {
    let score = |score: f64| if labelled { percent(score) } else { format!("{score:.4}") };
    let mut rows = table::table(&["epoch", "loss", if labelled { "right" } else { "cosine" }], 3);
    if let Some(before) = report.before {
        rows.add_row(["0".to_owned(), String::new(), score(before)]);
    }
    for (index, epoch) in report.epochs.iter().enumerate() {
        let scored = epoch.score.map(score).unwrap_or_default();
        rows.add_row([(index + 1).to_string(), format!("{:.4}", epoch.loss), scored]);
    }
    print(format!("{rows}\n"))?;
    let (trained, zeros) = (count(report.parameters as u64), count(report.zeros as u64));
    print(format!(
        "trained  {trained} parameters in {} weights; {zeros} zeros stayed",
        report.trained.len()
    ))?;
    let on = if args.validation.is_some() { "validation samples" } else { "samples kept aside" };
    let best = report.best.map(|best| format!(", {} on {on}", score(best))).unwrap_or_default();
    print(format!("written  {}: the state after epoch {}{best}", args.output.display(), report.best_epoch))?;
    report.notes.iter().try_for_each(|note| print(format!("note: {note}")))?;
    if let Some(step) = report.resumed {
        print(format!("note: continued from step {step} of an earlier run"))?;
    }
    report.stopped.iter().try_for_each(|why| print(format!("note: ended early: {why}")))
}
