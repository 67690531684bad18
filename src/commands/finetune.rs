//! `poda finetune`.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use poda::dataset::Dataset;
use poda::training::{Teacher, Training};
use poda_formats::{FileFormat, Graph, WriteOptions};
use poda_pruner::finetune::{
    Checkpoint, FineTuneError, Optimizer, Options, Progress, Rate, RateShape, Report, finetune,
};
use poda_pruner::gradients::loss::Loss;
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
/// A tenth of the samples is kept aside; the state that scores best on it is written: by accuracy
/// where there are labels, else by cosine to what outputs are held against. A run that was
/// interrupted, however, goes on when it is started again in the same way, and comes to the same
/// weights: OUT.checkpoint holds its state until then.
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
    /// Learn from this model's outputs, usually the dense model's
    #[arg(long, value_name = "DENSE")]
    teacher: Option<PathBuf>,
    /// How outputs are held against the teacher's: squared difference, KL divergence of their softmax, or cosine
    #[arg(long, value_enum, default_value = "mse", requires = "teacher")]
    distill: Distill,
    /// Of the softmax in --distill kl
    #[arg(long, value_name = "T", default_value_t = 2.0)]
    temperature: f32,
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
    rate: Option<f32>,
    /// How the rate falls after the warm-up
    #[arg(long, value_enum, default_value = "cosine")]
    schedule: ShapeArg,
    /// Share of the run over which the rate rises from 0
    #[arg(long, value_name = "SHARE", default_value_t = 0.05)]
    warm_up: f64,
    /// Share of the weights that goes in each step, times the rate
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    weight_decay: f32,
    /// Shorten gradients whose norm is greater than this
    #[arg(long, value_name = "NORM")]
    clip: Option<f32>,
    /// Penalty on the absolute values of weights, which makes more of them small
    #[arg(long, value_name = "FACTOR", default_value_t = 0.0)]
    l1: f32,
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
    fn options(&self, batch: usize) -> Result<Options> {
        ensure!(self.threads != Some(0), "--threads must be at least 1");
        let (optimizer, usual) = match self.optimizer {
            OptimizerArg::Adamw => (Optimizer::ADAMW, 3e-4),
            OptimizerArg::Sgd => (Optimizer::SGD, 1e-2),
        };
        let shape = match self.schedule {
            ShapeArg::Cosine => RateShape::Cosine,
            ShapeArg::Step => RateShape::Step,
            ShapeArg::Constant => RateShape::Constant,
        };
        Ok(Options {
            epochs: self.epochs,
            batch,
            optimizer: optimizer.with_weight_decay(self.weight_decay),
            rate: Rate { peak: self.rate.unwrap_or(usual), shape, warm_up: self.warm_up },
            clip: self.clip,
            l1: self.l1,
            seed: self.seed.into(),
            freeze: self.freeze.clone(),
            batch_statistics: !self.keep_statistics,
            threads: self.threads,
        })
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
    ensure!(
        (0.0..1.0).contains(&args.hold_out),
        "--hold-out is a share of the samples, from 0 to less than 1"
    );
    let format = FileFormat::of_name(&args.output);
    let format =
        format.with_context(|| format!("{}: name it .onnx or .safetensors", args.output.display()))?;
    let graph = poda_formats::open(&args.model)?;
    let data = Dataset::open(&args.data)?;
    let of = || args.data.display().to_string();
    let samples = data.bind(&graph).with_context(of)?;
    let batch = samples.batch_size(args.batch).with_context(of)?;
    let labelled = samples.labels().is_some();
    let held_out = (samples.len() as f64 * args.hold_out).round() as usize;
    let mut training = Training::new(&graph, samples, held_out).with_context(of)?;
    let options = args.options(batch.min(training.samples()))?;

    let at = |path: &Path| path.display().to_string();
    let teacher =
        args.teacher.as_ref().map(|path| Model::open(path).with_context(|| at(path))).transpose()?;
    let teacher_options =
        poda_runtime::Options { threads: args.threads, tune: false, ..poda_runtime::Options::default() };
    let executable = teacher.as_ref().map(|teacher| teacher.prepare(teacher_options)).transpose()?;
    if let (Some(teacher), Some(executable)) = (&teacher, &executable) {
        let samples = data.bind(teacher.graph()).with_context(of)?;
        training = training.with_teacher(Teacher::new(executable, samples));
    }
    let targets = data.array("targets");
    let taught = executable.is_some();
    // Each of the two has its half.
    let share = if taught && (labelled || targets.is_some()) { 0.5 } else { 1.0 };
    let scores = args.scores.as_deref();
    if labelled {
        training.add_labels(scores, share).with_context(of)?;
    } else if let Some(targets) = targets {
        training.add_values(targets, scores, Loss::Mse, share).with_context(of)?;
    } else if !taught {
        bail!(
            "{}: nothing to learn from: add an array \"labels\" of class numbers or \"targets\" of the output's \
             shape, or say --teacher DENSE",
            of()
        );
    }
    if taught {
        let loss = match args.distill {
            Distill::Mse => Loss::Mse,
            Distill::Kl => Loss::Kl { temperature: args.temperature },
            Distill::Cosine => Loss::Cosine,
        };
        training.add_teacher(None, loss, share)?;
        if !args.hidden.is_empty() {
            training.add_teacher(Some(&args.hidden), Loss::Mse, share)?;
        }
    }
    let score = |graph: &Graph| training.score(graph, args.batch).map_err(Into::into);
    let validation = (held_out > 0).then_some(&score as poda_pruner::finetune::Validation<'_>);
    let checkpoint = args.checkpoint();

    let bar = progress::bar(1, "planning");
    let mut observe = |progress: &Progress| {
        bar.set_length(progress.steps);
        bar.set_position(progress.step);
        let best = progress.best.map(|best| format!(", best {best:.4}")).unwrap_or_default();
        bar.set_message(format!("loss {:.4}{best}", progress.loss));
        ControlFlow::Continue(())
    };
    let (mut tuned, report) =
        finetune(&graph, &training, training.terms(), &options, validation, Some(&checkpoint), &mut observe)
            .map_err(|error| explain(error, &args.data))?;
    bar.finish_and_clear();
    if format == FileFormat::Artifact {
        tuned.store_sparse();
    }
    poda_formats::write(&tuned, &args.output, &WriteOptions::default())?;
    checkpoint.remove().with_context(|| at(checkpoint.path()))?;
    if args.json { print_json(&report) } else { show(args, &report, labelled) }
}

/// With the file that is to blame.
fn explain(error: FineTuneError, data: &Path) -> anyhow::Error {
    match error {
        FineTuneError::Data(_) => anyhow::Error::new(error).context(data.display().to_string()),
        other => other.into(),
    }
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
    let best = report.best.map(|best| format!(", {} on samples kept aside", score(best))).unwrap_or_default();
    print(format!("written  {}: the state after epoch {}{best}", args.output.display(), report.best_epoch))?;
    if report.best_epoch == 0 {
        print("note: no epoch was better than the start; try another rate, more epochs or more samples")?;
    }
    if let Some(step) = report.resumed {
        print(format!("note: continued from step {step} of an earlier run"))?;
    }
    report.stopped.iter().try_for_each(|why| print(format!("note: ended early: {why}")))
}
