//! `poda prune`.

mod goal;
pub(crate) mod stages;

use std::collections::BTreeMap;
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
use poda_formats::storage::check_regular;
use poda_formats::{FileFormat, Graph, ValueType};
use poda_pruner::allocation::{Allocate, LayerShare, Scope};
use poda_pruner::calibration::Samples;
use poda_pruner::criterion::{Aggregate, CRITERIA, Normalize};
use poda_pruner::goal::{Goal, reach};
use poda_pruner::judge::Judge;
use poda_pruner::masks::Masks;
use poda_pruner::recipe::Inputs;
use poda_pruner::report::{Fit, Layer, Likeness, Reconstructed, Search, Totals};
use poda_pruner::stages::Stages;
use poda_pruner::termination::{self, Bound, BoundError, MEASURES, Scored, Verdict};
use poda_pruner::update::UPDATES;
use poda_pruner::vocabulary::KeptIds;
use poda_pruner::{Data, Granularity, Progress, Recipe, Report};
use poda_runtime::Options;

use crate::table::{self, count, percent, print, print_json};
use crate::values;
use crate::{page, progress};

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
    let mut plan = plan(args)?;
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
                goal::show(&tried)?;
                few.iter().try_for_each(|few| print(format!("note: {few}")))?;
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
    if args.json { print_json(&report) } else { show(args, &report) }
}

/// The recipe file, if there is one, with the flags on top.
fn plan(args: &Args) -> Result<Stages> {
    let mut stages = match &args.recipe {
        Some(path) => {
            let at = || path.display().to_string();
            // Of a pipe or a device, reading may not end.
            let regular = fs::metadata(path).and_then(|metadata| check_regular(&metadata));
            let text = regular.and_then(|()| fs::read_to_string(path)).with_context(at)?;
            Stages::parse(&text).with_context(at)?
        }
        None => Recipe::default().into(),
    };
    for recipe in stages.stages.iter_mut().filter_map(|stage| stage.prune.as_mut()) {
        put_on_top(args, recipe);
    }
    // Rows go once.
    if let Some(recipe) = stages.stages.iter_mut().find_map(|stage| stage.prune.as_mut()) {
        for text in &args.keep_ids {
            recipe.keep_ids.push(kept_ids(text, args.unknown_id)?);
        }
    }
    args.stages.on_top(stages, args.seed)
}

/// The ids of a vocabulary that stay, from `TABLE=FILE`.
fn kept_ids(text: &str, unknown: Option<u64>) -> Result<KeptIds> {
    // Names may have an equals sign; paths seldom do.
    let (table, path) = text.rsplit_once('=').context("--keep-ids: expected TABLE=FILE")?;
    let unknown = unknown.context("--keep-ids: say what ids that went are taken for (--unknown-id)")?;
    let list = fs::metadata(path).and_then(|metadata| check_regular(&metadata));
    let list = list.and_then(|()| fs::read_to_string(path)).with_context(|| path.to_owned())?;
    let mut ids = Vec::new();
    for (number, line) in list.lines().enumerate() {
        let between = |c: char| c.is_whitespace() || matches!(c, ',' | '[' | ']');
        for word in line.split(between).filter(|word| !word.is_empty()) {
            let failed =
                || format!("{path}, line {}: {word:?} is no id; expected a whole number", number + 1);
            ids.push(word.parse().with_context(failed)?);
        }
    }
    ensure!(!ids.is_empty(), "{path}: no ids");
    Ok(KeptIds { table: table.to_owned(), unknown, ids })
}

fn put_on_top(args: &Args, recipe: &mut Recipe) {
    recipe.sparsity = args.sparsity.or(recipe.sparsity);
    recipe.target_macs = args.target_macs.or(recipe.target_macs);
    recipe.max_drop = args.max_drop.or(recipe.max_drop);
    if let Some(scored) = args.measure.as_deref().and_then(|name| name.parse().ok()) {
        recipe.measure = scored;
    }
    recipe.until.extend(args.latency.iter().chain(&args.until));
    recipe.until_all |= args.until_all;
    recipe.keep.extend(&args.keep);
    recipe.values = args.values.or(recipe.values);
    recipe.round_to = args.round_to.or(recipe.round_to);
    recipe.seed = args.seed.unwrap_or(recipe.seed);
    recipe.remove_dead |= args.remove_dead;
    recipe.check &= !args.no_check;
    recipe.exclude.extend(args.exclude.iter().cloned());
    recipe.layers.extend(args.layer.iter().cloned());
    recipe.floors.extend(args.floor.iter().cloned());
    if let Some(criterion) = &args.criterion {
        recipe.criterion.clone_from(criterion);
    }
    recipe.granularity = args.granularity.unwrap_or(recipe.granularity);
    recipe.update = args.update.clone().or(recipe.update.take());
    recipe.damping = args.damping.unwrap_or(recipe.damping);
    recipe.inputs = match args.inputs.as_deref() {
        Some("dense") => Inputs::Dense,
        Some("pruned") => Inputs::Pruned,
        Some(_) => Inputs::Both,
        None => recipe.inputs,
    };
    recipe.flops_penalty = args.flops_penalty.unwrap_or(recipe.flops_penalty);
    recipe.normalize = match args.normalize.as_deref() {
        Some("none") => Normalize::None,
        Some("mean") => Normalize::Mean,
        Some("l2") => Normalize::L2,
        Some("standard") => Normalize::Standard,
        Some(_) => Normalize::Auto,
        None => recipe.normalize,
    };
    recipe.aggregate = match args.aggregate.as_deref() {
        Some("max") => Aggregate::Max,
        Some("sum") => Aggregate::Sum,
        Some(_) => Aggregate::Mean,
        None => recipe.aggregate,
    };
    recipe.allocate = args.allocate.as_deref().and_then(Allocate::find).unwrap_or(recipe.allocate);
    recipe.scope = match args.scope.as_deref() {
        Some("global") => Scope::Global,
        Some("layer") => Scope::Layer,
        Some("row") => Scope::Row,
        Some("erdos-renyi") => Scope::ErdosRenyi,
        Some(_) => Scope::Auto,
        None => recipe.scope,
    };
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

fn show(args: &Args, report: &Report) -> Result<()> {
    if args.dry_run && !report.groups.is_empty() {
        show_groups(report)?;
    }
    let changed = |l: &&Layer| (l.nnz_before, &l.shape_before) != (l.nnz_after, &l.shape_after);
    if report.layers.iter().any(|layer| changed(&layer)) {
        show_layers(report)?;
    }
    let Totals { parameters, nnz, nonzero_macs, bytes, .. } = report.before;
    let after = &report.after;
    show_fits(report)?;
    stages::show_rounds(&report.rounds)?;
    print(format!("granularity                   {}", report.granularity))?;
    print(format!("parameters                    {} -> {}", count(parameters), count(after.parameters)))?;
    print(format!("parameters that are not zero  {} -> {}", count(nnz), count(after.nnz)))?;
    print(format!("MACs on them                  {} -> {}", count(nonzero_macs), count(after.nonzero_macs)))?;
    print(format!("weights                       {} -> {}", table::bytes(bytes), table::bytes(after.bytes)))?;
    if let (Some(file), Some(output)) = (&report.file, &args.output) {
        let (was, is) = (table::bytes(file.before), table::bytes(file.after));
        print(format!("file                          {was} -> {is} ({})", output.display()))?;
    }
    for dead in &report.dead {
        print(format!("dead: {} of {} units of {}", dead.dead, dead.units, dead.name))?;
    }
    if report.looked_for_dead && report.dead.is_empty() {
        print("no dead units")?;
    }
    for layer in report.emptied() {
        print(format!("{} is all zero: no weight is left in the whole layer", layer.weight))?;
    }
    if let Some(tried) = &report.goal {
        goal::show(tried)?;
    }
    if let Some(search) = &report.search {
        show_search(search)?;
    }
    if let Some(check) = &report.check {
        print(format!(
            "check: agrees with the masked model to {:.1e} of each output channel, {} of shapes",
            check.relative,
            if check.runs == 1 { "at one set".to_owned() } else { format!("at {} sets", check.runs) }
        ))?;
    }
    show_refused(report)?;
    values::show(&report.rounded, args.output.as_deref().and_then(FileFormat::of_name))?;
    report.notes.iter().try_for_each(|note| print(format!("note: {note}")))?;
    report.likeness.as_ref().map_or(Ok(()), show_likeness)
}

/// Each layer that was fitted, with the error of its outputs before and after.
fn show_fits(report: &Report) -> Result<()> {
    let mut rows = table::table(&["fitted to data", "rows", "held out", "error, cut", "and fitted"], 1);
    let error = |error: Option<f64>| error.map_or_else(|| "?".to_owned(), |error| format!("{error:.2e}"));
    for fit in &report.fits {
        let (rows_fitted, held_out) = (count(fit.rows), count(fit.held_out_rows));
        rows.add_row([
            fit.weight.clone(),
            rows_fitted,
            held_out,
            error(fit.error_before),
            error(fit.error_after),
        ]);
    }
    if let Some(Fit { criterion, updates, .. }) = report.fits.first() {
        print(format!("{rows}\n"))?;
        let updates = if updates.is_empty() { "none".to_owned() } else { updates.join(", ") };
        print(format!("criterion                     {criterion}"))?;
        print(format!("update                        {updates}"))?;
    }
    show_submodules(&report.submodules)
}

/// Submodules that were trained, with the error of their outputs before and after.
fn show_submodules(submodules: &[Reconstructed]) -> Result<()> {
    if submodules.is_empty() {
        return Ok(());
    }
    let mut rows =
        table::table(&["trained up to", "weights", "error, fitted", "and trained", "left because"], 1);
    let error = |error: Option<f64>| error.map_or_else(|| "?".to_owned(), |error| format!("{error:.2e}"));
    for submodule in submodules {
        rows.add_row([
            submodule.outputs.join(", "),
            submodule.weights.to_string(),
            error(submodule.error_before),
            error(submodule.error_after),
            submodule.left.clone().unwrap_or_default(),
        ]);
    }
    print(format!("\n{rows}\n"))
}

fn show_likeness(likeness: &Likeness) -> Result<()> {
    let Likeness { samples, held_out, mean, worst } = likeness;
    let which =
        if *held_out { "samples kept aside" } else { "samples (there were too few to keep any aside)" };
    print(format!("outputs beside the dense model's, {samples} {which}: cosine {mean:.4}, worst {worst:.4}"))
}

/// What was tried, and why it ended.
fn show_search(search: &Search) -> Result<()> {
    let mut names: Vec<&String> = search.dense.keys().collect();
    let others = search.trials.iter().flat_map(|trial| trial.answer.measured.keys());
    others.for_each(|name| {
        if !names.contains(&name) {
            names.push(name);
        }
    });
    names.retain(|name| *name != "sparsity");
    let header: Vec<&str> =
        ["removed"].into_iter().chain(names.iter().map(|name| name.as_str())).chain(["then"]).collect();
    let mut rows = table::table(&header, 0);
    let number =
        |name: &str, measured: &termination::Measured| match (termination::find(name), measured.get(name)) {
            (Some(measure), Some(&number)) => termination::shown(measure.unit, number),
            _ => String::new(),
        };
    let mut row = |removed: String, measured: &termination::Measured, then: &str| {
        let numbers = names.iter().map(|name| number(name, measured));
        rows.add_row(std::iter::once(removed).chain(numbers).chain([then.to_owned()]).collect::<Vec<_>>());
    };
    row("dense".to_owned(), &search.dense, "");
    for (index, trial) in search.trials.iter().enumerate() {
        let then = match trial.answer.verdict {
            _ if search.taken == Some(index) => "taken",
            Verdict::Continue => "not enough",
            Verdict::Stop => "enough",
            Verdict::RollBack => "too much",
        };
        row(percent(trial.sparsity), &trial.answer.measured, then);
    }
    print(format!("\n{rows}\nstopped: {}\n", search.stopped))
}

fn show_layers(report: &Report) -> Result<()> {
    let mut rows = table::table(&["layer", "op", "shape", "pruned", "kept", "MACs", "on nonzeros"], 4);
    for layer in &report.layers {
        rows.add_row([
            layer.weight.clone(),
            layer.op.clone(),
            format!("{:?}", layer.shape_before),
            match &layer.shape_after {
                shape if *shape == layer.shape_before => "same".into(),
                shape if shape.is_empty() => "gone".into(),
                shape => format!("{shape:?}"),
            },
            percent(layer.nnz_after as f64 / layer.nnz_before.max(1) as f64),
            count(layer.macs_before),
            count(layer.macs_after),
        ]);
    }
    print(format!("{rows}\n"))
}

fn show_groups(report: &Report) -> Result<()> {
    let mut rows = table::table(&["units of", "there are", "would go", "weights that shrink"], 1);
    for group in &report.groups {
        let weights = match &group.weights[..] {
            [first, second, third, rest @ ..] if !rest.is_empty() => {
                format!("{first}, {second}, {third} and {} more", rest.len())
            }
            weights => weights.join(", "),
        };
        rows.add_row([group.name.clone(), group.units.to_string(), group.removed.to_string(), weights]);
    }
    print(format!("{rows}\n"))
}

/// Groups that must stay, gathered by reason.
fn show_refused(report: &Report) -> Result<()> {
    let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for refused in &report.refused {
        reasons.entry(&refused.reason).or_default().push(&refused.name);
    }
    for (reason, names) in reasons {
        let shown = names.iter().take(4).copied().collect::<Vec<_>>().join(", ");
        let more = if names.len() > 4 { format!(" and {} more", names.len() - 4) } else { String::new() };
        print(format!("must stay: {shown}{more}: {reason}"))?;
    }
    Ok(())
}
