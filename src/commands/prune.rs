//! `poda prune`.

mod goal;
mod plan;
mod show;
pub(crate) mod stages;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::builder::{PossibleValue, PossibleValuesParser};
use poda::calibration::Calibration;
use poda::dataset::Dataset;
use poda::judge::DataJudge;
use poda::pruning;
use poda::shapes::{NamedShape, Shapes, Sizes};
use poda_formats::{FileFormat, Graph, ValueType};
use poda_pruner::allocation::LayerShare;
use poda_pruner::calibration::Samples;
use poda_pruner::criterion::CRITERIA;
use poda_pruner::goal::{Goal, reach};
use poda_pruner::judge::Judge;
use poda_pruner::masks::Masks;
use poda_pruner::termination::{self, Bound, BoundError, MEASURES, Scored};
use poda_pruner::update::UPDATES;
use poda_pruner::{Data, Granularity, Progress, Recipe};
use poda_runtime::Options;

use crate::table::{percent, print_json};
use crate::{page, progress, values};

/// Remove what matters least: weights, or whole channels with everything coupled to them
///
/// The format of OUT follows from its extension: .onnx, which other engines load too, or .safetensors, where the
/// zeros take no space. The pruned model is compared with the masked dense one before it is written.
///
/// Examples:
///   poda prune model.onnx -o sparse.safetensors --sparsity 0.9
///   poda prune model.onnx -o small.onnx --granularity channel --sparsity 0.3
///   poda prune model.onnx -o blocks.safetensors --granularity block:4x1 --sparsity 0.8
///   poda prune model.onnx -o half.safetensors --granularity nm:2:4
///   poda prune model.onnx -o alive.onnx --remove-dead
///   poda prune model.onnx -o tiny.safetensors --sparsity 0.9 --values int8
///   poda prune model.onnx -o small.onnx --granularity channel --max-drop 0.01 --data test.npz
///   poda prune model.onnx -o fast.safetensors --latency 2ms --keep cosine=0.99 --data samples.npz
///   poda prune model.onnx -o sparse.safetensors --sparsity 0.6 --data samples.npz
///   poda prune model.onnx -o trained.safetensors --sparsity 0.9 --rounds 5 --finetune-epochs 1 --train train.npz
///   poda prune model.onnx -o fast.safetensors --goal faster --max-drop 0.01 --data test.npz
///   poda prune encoder.onnx -o fast.safetensors --goal faster --measure pearson --max-drop 0.01 --data texts.npz
///   poda prune encoder.onnx -o german.onnx --keep-ids 'embeddings.word*=ids.txt' --unknown-id 100
///   poda prune model.onnx --granularity channel --sparsity 0.5 --dry-run
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line say nothing of each other")]
pub(crate) struct Args {
    /// ONNX file or Poda artifact
    model: PathBuf,
    /// File to write, .onnx or .safetensors
    #[arg(short, long, value_name = "OUT", required_unless_present = "dry_run")]
    output: Option<PathBuf>,
    /// Share to remove, 0 to 1: of the weights or blocks, or of the channels of each layer
    #[arg(long, value_name = "SHARE")]
    sparsity: Option<f64>,
    /// Remove until the multiply-accumulates are at most this share of the dense model's
    #[arg(long, value_name = "SHARE")]
    target_macs: Option<f64>,
    /// Remove as much as possible while top-1 accuracy, or what --measure says, on --validation, or --data, drops by at most this,
    /// such as 0.01
    #[arg(long, value_name = "DROP")]
    max_drop: Option<f64>,
    /// What --max-drop is the drop of; without labels: agreement of a classifier's classes with the dense model's, pearson of
    /// the similarities of embeddings
    #[arg(long, value_parser = scored())]
    measure: Option<String>,
    /// Remove until a run takes at most this on this machine, such as 2ms: at --batch, --shape and --threads
    #[arg(long, value_name = "TIME", value_parser = latency)]
    latency: Option<Bound>,
    /// Remove until this is reached, such as macs=0.5, file-bytes=2MiB or speedup=3; may be repeated: the first that
    /// is reached ends it
    #[arg(long, value_name = "MEASURE=VALUE", long_help = measures("Remove until this is reached, such as macs=0.5, \
        file-bytes=2MiB or speedup=3; may be repeated: the first that is reached ends it"))]
    until: Vec<Bound>,
    /// Go on until all of --until are reached
    #[arg(long, requires = "until")]
    until_all: bool,
    /// Do not give this up for it, such as cosine=0.99 (needs no labels) or drop=0.01; may be repeated
    #[arg(long, value_name = "MEASURE=VALUE")]
    keep: Vec<Bound>,
    /// Samples, which need no labels (array "labels" of class numbers, or "similarities" [samples, samples] of embeddings, if there are any): weights go by what flows through the model, and those that stay are fitted to its
    /// outputs. A few hundred do. FILE.npz as for `poda eval`, a folder of .npz or .npy files, or lines of JSON, such as
    /// {"input_ids": [101, 2023, 102]}. They are also what --keep and --max-drop (with labels) measure by
    #[arg(long, value_name = "DATA")]
    data: Option<PathBuf>,
    /// Samples to judge by, where they are not to be those of --data that weights are fitted to
    #[arg(long, value_name = "DATA")]
    validation: Option<PathBuf>,
    /// Try ways of pruning, and keep the one that is fastest on this machine, or smallest on disk, and gives up no more than
    /// --max-drop or --keep (by default 1 % of the score where there are labels or a --measure, else a cosine of 0.99)
    #[arg(long, value_parser = ["faster", "smaller"], conflicts_with_all = ["sparsity", "target_macs", "until", "latency"])]
    goal: Option<String>,
    /// Time for --goal, such as 10min; then it ends, and what is under way is given up
    #[arg(long, value_name = "TIME", default_value = "10min", value_parser = time)]
    time: Duration,
    /// What is removed at a time: single weights (unstructured), channels (also heads and hidden units), blocks of
    /// outputs × inputs (block:4x1, block:1x4), all but N of each M inputs (nm:2:4, which says how much by itself), or
    /// whole residual blocks (depth)
    #[arg(long, value_name = "WHAT")]
    granularity: Option<Granularity>,
    /// What tells which matter least
    #[arg(long, value_parser = criteria())]
    criterion: Option<String>,
    /// How weights that stay change, one after the other, such as sparse-swaps,least-squares; by default least-squares
    /// where there are data, none where there are not
    #[arg(long, value_name = "UPDATE,...", value_delimiter = ',', value_parser = updates())]
    update: Option<Vec<String>>,
    /// Added to the diagonal of what updates solve, as a share of its mean: more trusts the data less
    #[arg(long, value_name = "SHARE")]
    damping: Option<f64>,
    /// On whose activations layers are fitted: of the model as pruned so far, of the dense one, or on the former to what the
    /// dense model makes of the latter
    #[arg(long, value_parser = ["both", "pruned", "dense"])]
    inputs: Option<String>,
    /// Whether each output of a layer loses the same share (row), each layer, small layers less (erdos-renyi), or layers
    /// compete (global)
    #[arg(long, value_parser = ["auto", "row", "layer", "erdos-renyi", "global"])]
    scope: Option<String>,
    /// Find what goes of each layer by trying levels of each on --data: SPDY's dynamic programme, EvoPress's search, or every
    /// layer to the same loss (sensitivity); within the time that layers take at equal shares, measured on this machine
    #[arg(long, value_parser = ["scope", "sensitivity", "spdy", "evopress"])]
    allocate: Option<String>,
    /// How scores of layers that compete, or of groups of units, are made comparable: divided by their mean (mean), by
    /// their Euclidean norm (l2), standardised (standard), or not at all (none)
    #[arg(long, value_parser = ["auto", "none", "mean", "l2", "standard"])]
    normalize: Option<String>,
    /// How the scores of a channel or head in several matrices become one
    #[arg(long, value_parser = ["mean", "max", "sum"])]
    aggregate: Option<String>,
    /// Taken from the score of a channel for each million multiply-accumulates that it takes, such as 0.001
    #[arg(long, value_name = "FACTOR")]
    flops_penalty: Option<f64>,
    /// Share of its own for layers whose name fits, such as 'encoder.*.ffn*=0.8'; may be repeated, the last that fits
    /// counts
    #[arg(long, value_name = "PATTERN=SHARE")]
    layer: Vec<LayerShare>,
    /// Share that must stay of layers whose name fits, such as 'head.*=0.5'; may be repeated, the last that fits counts
    #[arg(long, value_name = "PATTERN=SHARE")]
    floor: Vec<LayerShare>,
    /// Leave weights and nodes alone whose name fits, such as 'head.*'; * is any text, ? any character; may be repeated
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Keep widths at multiples of this; by default of this CPU's vector width
    #[arg(long, value_name = "N")]
    round_to: Option<usize>,
    /// Store the weights of products and convolutions in this type; what that loses is printed. An .onnx file
    /// holds the rounded values as f32
    #[arg(long, value_name = "TYPE", value_parser = values::parser())]
    values: Option<ValueType>,
    /// Cut a vocabulary: of the table of this name, in which ids are looked up, keep the rows of the ids in FILE (whole numbers, one a
    /// line or as JSON). The model is fed the same ids as before; those that went are taken for --unknown-id. May be repeated
    #[arg(long, value_name = "TABLE=FILE", requires = "unknown_id", conflicts_with_all = ["goal", "masks"])]
    keep_ids: Vec<String>,
    /// The id of a vocabulary, one that stays, that ids that went are taken for
    #[arg(long, value_name = "ID", requires = "keep_ids")]
    unknown_id: Option<u64>,
    /// First remove units that are constant or that nothing uses, without changing the outputs
    #[arg(long)]
    remove_dead: bool,
    /// Seed of whatever is random
    #[arg(long)]
    seed: Option<u64>,
    /// Read the recipe from a TOML file; flags come on top
    #[arg(long, value_name = "FILE.toml")]
    recipe: Option<PathBuf>,
    /// Do not compare the result with the masked model: for models that Poda itself cannot run
    #[arg(long)]
    no_check: bool,
    /// Do everything but write the result: print what would go and be left, and what cannot go and why
    #[arg(long)]
    dry_run: bool,
    /// Shape of an input, such as ids=1x128, or size of an open dimension, such as sequence=128; may be repeated
    #[arg(long, value_name = "NAME=DIMS")]
    shape: Vec<NamedShape>,
    /// Size of open dimensions that are named like a batch, for --latency
    #[arg(long, default_value_t = 1, value_name = "N")]
    batch: usize,
    /// Threads that the pruned model is to run with; by default as many as this container may use
    #[arg(long)]
    threads: Option<usize>,
    #[command(flatten)]
    stages: stages::StageArgs,
    /// Prune by the masks in this file, as --save-masks writes them, or PyTorch's: 0 where a weight of that name goes
    #[arg(long, value_name = "FILE.safetensors", conflicts_with_all = ["sparsity", "target_macs", "max_drop", "latency", "until",
        "keep", "goal", "recipe", "granularity", "criterion", "scope", "layer", "remove_dead", "rounds", "finetune_epochs"])]
    masks: Option<PathBuf>,
    /// Write a mask of each weight, and the indices of what stays where units went, to this file
    #[arg(long, value_name = "FILE.safetensors")]
    save_masks: Option<PathBuf>,
    /// Also write the report to this file: a page to look at (.html), or JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Write the recipe that the flags stand for to this file
    #[arg(long, value_name = "FILE.toml")]
    save_recipe: Option<PathBuf>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut plan = plan::plan(args)?;
    if args.goal.is_none() && args.masks.is_none() {
        plan.validate()?;
    }
    let staged = plan.plain().is_none();
    ensure!(staged || args.stages.train().is_none(), stages::NOTHING_TRAINS);
    ensure!(
        !staged || args.goal.is_none(),
        "--goal tries ways of its own: do without rounds, training and stages"
    );
    let graph = poda_formats::open(&args.model)?;
    let masks = args.masks.as_ref().map(|path| Masks::read(path, &graph)).transpose()?;
    if masks.as_ref().is_some_and(Masks::removes_units) {
        plan =
            Recipe { granularity: Granularity::Channel, ..plan.plain().cloned().unwrap_or_default() }.into();
    }
    let shapes = Sizes { given: args.shape.clone(), ..Sizes::default() }.resolve_given(&graph)?;
    let calibration = args.data.as_ref().map(|path| Calibration::open(path, &graph)).transpose()?;
    // What does not fit is known before anything is pruned.
    let samples = calibration.as_ref().map(|calibration| calibration.bind(&graph)).transpose()?;
    let searches = plan.searches() || args.goal.is_some() || staged;
    let judged_by = args.validation.as_ref().or(args.data.as_ref()).filter(|_| searches);
    let validation = args.validation.as_ref().filter(|_| searches);
    let validation = validation.map(|path| Calibration::open(path, &graph)).transpose()?;
    let judged = validation.as_ref().or(calibration.as_ref()).filter(|_| searches);
    let sets = judged.map_or(&[][..], Calibration::sets);
    let mut labelled = !sets.is_empty();
    for (set, path) in sets.iter().zip(judged_by.iter().cycle()) {
        labelled &= set.bind(&graph).with_context(|| path.display().to_string())?.are_labelled();
    }
    ensure!(args.threads != Some(0), "--threads must be at least 1");
    let judge = judge(args, &graph, sets, &shapes);
    let judge = searches.then_some(&judge as &dyn Judge);

    let bar = progress::spinner("analyzing");
    let mut trying = String::new();
    let mut show_progress = |progress: Progress| {
        let what = match progress {
            Progress::Analyzing => "analyzing".to_owned(),
            Progress::Scoring => "scoring".to_owned(),
            Progress::Checking => "comparing with the masked model".to_owned(),
            Progress::Layer { layer, of } => format!("layer {layer} of {of}"),
            Progress::Submodule { submodule, of } => format!("training submodule {submodule} of {of}"),
            Progress::Unit { unit, of } => format!("without unit {unit} of {of}"),
            Progress::Step { step, of, sparsity, drop } => {
                let drop = drop.map(|d| format!(", score down by {d:.4}")).unwrap_or_default();
                format!("step {step} of {of}: {} removed{drop}", percent(sparsity))
            }
            Progress::Trying { way, sparsity, attempt } => {
                trying = format!("attempt {attempt}, {way}, {}: ", percent(sparsity));
                "analyzing".to_owned()
            }
        };
        bar.set_message(format!("{trying}{what}"));
    };
    let samples_given = samples.as_ref().map(|samples| samples as &dyn Samples);
    let given = Data { judge, samples: samples_given, masks: masks.as_ref() };
    let mut state = None;
    let (pruned, mut report) = match args.goal.as_deref() {
        None if staged => {
            let command = stages::Command {
                args: &args.stages,
                model: &args.model,
                output: args.output.as_deref().filter(|_| !args.dry_run),
                data: [args.data.as_deref(), args.validation.as_deref()],
                validation: validation.as_ref().map_or(&[], Calibration::sets),
                threads: args.threads,
            };
            let mut tell = |what| bar.set_message(what);
            let (pruned, report, folder) = command.follow(&graph, &plan, &shapes, given, &mut tell)?;
            state = folder;
            (pruned, report)
        }
        None => {
            let recipe = plan.plain().context("no recipe")?;
            poda_pruner::prune_with(&graph, recipe, &shapes, &mut show_progress, given)?
        }
        Some(goal) => {
            let mut recipe = plan.plain().context("no recipe")?.clone();
            goal::with_something_kept(&mut recipe, sets, labelled)?;
            let few = goal::too_few(&recipe, &graph, sets)?;
            let goal = if goal == "smaller" { Goal::Smaller } else { Goal::Faster };
            let (best, tried) = reach(&graph, &recipe, goal, &shapes, &mut show_progress, given, args.time)?;
            let Some((pruned, by, mut report)) = best else {
                bar.finish_and_clear();
                goal::show_in_vain(&tried, few, args.json)?;
                bail!(
                    "no way of pruning is better than the dense model and keeps that much; nothing is written"
                );
            };
            plan = by.into();
            report.goal = Some(tried);
            report.notes.extend(few);
            (pruned, report)
        }
    };
    if searches && args.validation.is_none() && report.fits.iter().any(|fit| !fit.updates.is_empty()) {
        report
            .notes
            .push("judged by the samples that weights were fitted to; --validation takes others".to_owned());
    }
    if let Some(samples) = &samples {
        bar.set_message("comparing outputs with the dense model's");
        let likeness = samples.likeness(&graph, &pruned).map_err(|error| anyhow!(error))?;
        report.likeness = Some(likeness);
    }
    bar.finish_and_clear();

    let left = if args.save_masks.is_some() {
        Masks::between(&graph, &pruned, &report.kept)?
    } else {
        Masks::default()
    };
    let format = args.output.as_deref().and_then(FileFormat::of_name);
    let mut pruned = pruning::stored(pruned, report.granularity, format, &mut report);
    if !args.dry_run {
        let output = args.output.as_deref().context("no output file")?;
        let files = [args.data.as_ref(), args.stages.train(), args.masks.as_ref()];
        let files: Vec<&Path> = files.into_iter().flatten().map(PathBuf::as_path).collect();
        pruning::note_provenance(&mut pruned, &plan.to_toml(), &args.model, &files)?;
        pruning::write(&pruned, output, Some(&args.model), &mut report)?;
    }
    if let Some(state) = state {
        state.remove().with_context(|| state.path().display().to_string())?;
    }
    if let Some(path) = &args.save_masks {
        left.write(path)?;
    }
    if let Some(path) = &args.save_recipe {
        fs::write(path, plan.to_toml()).with_context(|| path.display().to_string())?;
    }
    if let Some(path) = &args.report {
        let name = args.model.file_name().unwrap_or_default().to_string_lossy();
        let text = match path.extension().and_then(|extension| extension.to_str()) {
            Some("html" | "htm") => page::page(&name, &plan.to_toml(), &report).into_bytes(),
            _ => serde_json::to_vec_pretty(&report)?,
        };
        fs::write(path, text).with_context(|| path.display().to_string())?;
    }
    if args.json { print_json(&report) } else { show::show(args, &report) }
}

/// What measures candidates.
fn judge<'a>(args: &Args, graph: &'a Graph, data: &'a [Dataset], given: &Shapes) -> DataJudge<'a> {
    let sizes = Sizes { batch: args.batch, given: args.shape.clone() };
    // Where sizes are not known, timing says which are missing, and nothing else needs them.
    let shapes = sizes.resolve(graph).map_or_else(|_| given.clone(), |resolved| resolved.shapes);
    let options = Options { threads: args.threads, ..Options::default() };
    DataJudge::new(graph, data, shapes, options)
}

/// A time for `--time`.
fn time(text: &str) -> Result<Duration, String> {
    let ms = termination::parse_number(termination::Unit::Milliseconds, text);
    ms.map(|ms| Duration::from_secs_f64(ms / 1e3))
        .ok_or_else(|| "expected a time such as 90s or 10min".to_owned())
}

/// A bound on the latency.
fn latency(text: &str) -> Result<Bound, BoundError> {
    format!("latency={text}").parse()
}

/// A help text with the table of measures.
fn measures(what: &str) -> String {
    let rows = MEASURES.iter().map(|measure| format!("\n  {:<15} {}", measure.name, measure.description));
    format!("{what}\n\nMeasures:{}", rows.collect::<String>())
}

/// What `--measure` takes, with what each is.
fn scored() -> PossibleValuesParser {
    PossibleValuesParser::new(
        Scored::ALL.map(|measure| PossibleValue::new(measure.name).help(measure.description)),
    )
}

/// What `--criterion` takes, with what each is.
fn criteria() -> PossibleValuesParser {
    let auto = PossibleValue::new("auto")
        .help("wanda where there are data, else magnitude-l2; block-influence for whole blocks");
    let all =
        CRITERIA.iter().map(|criterion| PossibleValue::new(criterion.name()).help(criterion.description()));
    PossibleValuesParser::new(std::iter::once(auto).chain(all))
}

/// What `--update` takes, with what each is.
fn updates() -> PossibleValuesParser {
    let none = PossibleValue::new("none").help("weights that stay keep their values");
    let all = UPDATES.iter().map(|update| PossibleValue::new(update.name()).help(update.description()));
    PossibleValuesParser::new(std::iter::once(none).chain(all))
}
