//! `poda sweep`.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use poda::calibration::Calibration;
use poda::dataset::Dataset;
use poda::finetuning::{FineTuner, Named};
use poda::fingerprint::Fingerprint;
use poda::judge::DataJudge;
use poda::shapes::{NamedShape, Sizes};
use poda::sweep::{Bench, Figure, Header, Journal, Shard, Sweep, Under, figures, method};
use poda_pruner::Granularity;
use poda_pruner::calibration::Samples;
use poda_pruner::stages::{Stage, Stages, Trainer};
use poda_runtime::{Model, Options};
use serde::Serialize;

use super::prune::stages::{StageArgs, said};
use crate::page::sweep::shown;
use crate::table::{self, percent, print, print_json};
use crate::{page, progress};

/// Compare ways to prune: each at every compression ratio with every seed, before and after training
///
/// Compression is all parameters over those that are not zero. Each run that is over is a line in a
/// journal in FOLDER: started again, a sweep goes on where it was, however it ended. --shard 1/4 does a
/// quarter of the runs, on as many machines as share the folder.
///
/// A METHOD is CRITERION:SCOPE:UPDATE+UPDATE, such as magnitude-l1:global or wanda:row:bias+least-squares;
/// `poda prune --help` lists them. By default the baselines, which change no weight that stays: random
/// and magnitude (with --data gradients too), global and layer by layer; and with --data what poda
/// prune would do by itself. A plan says more:
///
///   ratios = [2, 8, 32]
///   seeds = [0, 1, 2]
///   [[method]]
///   name = "magnitude, cubic"
///   rounds = 5
///   [method.prune]
///   criterion = "magnitude-l1"
///   [method.finetune]
///   epochs = 1
///
/// Examples:
///   poda sweep model.onnx --folder sweep --data samples.npz --test test.npz --report sweep.html
///   poda sweep model.onnx --folder sweep --train train.npz --finetune-epochs 3 --test test.npz
///   poda sweep model.onnx --folder /shared/sweep --plan plan.toml --test test.npz --shard 2/8
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// ONNX file or Poda artifact, where every run starts
    model: PathBuf,
    /// Where the journal is
    #[arg(long, value_name = "FOLDER")]
    folder: PathBuf,
    /// Methods, ratios and seeds, as TOML
    #[arg(long, value_name = "FILE.toml")]
    plan: Option<PathBuf>,
    /// A way to prune; may be repeated
    #[arg(long, value_name = "METHOD", value_parser = method)]
    method: Vec<Stage>,
    /// Compression ratios
    #[arg(long, value_name = "RATIO,...", value_delimiter = ',')]
    ratios: Vec<f64>,
    /// How many seeds
    #[arg(long, value_name = "N")]
    seeds: Option<u64>,
    /// What is removed at a time, by methods of flags
    #[arg(long, value_name = "WHAT")]
    granularity: Option<Granularity>,
    /// Leave weights and nodes alone whose name fits, in every method; may be repeated
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Samples for methods that look at what flows through the model
    #[arg(long, value_name = "DATA")]
    data: Option<PathBuf>,
    /// Samples to score on: accuracy where they have labels, else the cosine to the dense outputs; by default --data
    #[arg(long, value_name = "DATA")]
    test: Option<PathBuf>,
    /// Do this part of the runs
    #[arg(long, value_name = "I/N", default_value_t)]
    shard: Shard,
    #[command(flatten)]
    stages: StageArgs,
    /// Shape of an input, such as ids=1x128, or size of an open dimension, such as sequence=128; may be repeated
    #[arg(long, value_name = "NAME=DIMS")]
    shape: Vec<NamedShape>,
    /// Threads; by default as many as this container may use
    #[arg(long)]
    threads: Option<usize>,
    /// Also write a page to look at (.html), or the figures as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Write the plan that the flags stand for to this file
    #[arg(long, value_name = "FILE.toml")]
    save_plan: Option<PathBuf>,
    /// Print the figures as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Found<'a> {
    #[serde(flatten)]
    header: &'a Header,
    figures: &'a [Figure],
}

pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(args.threads != Some(0), "--threads must be at least 1");
    let at = |path: &Path| path.display().to_string();
    let sweep = plan(args)?;
    sweep.validate()?;
    if let Some(path) = &args.save_plan {
        fs::write(path, sweep.to_toml()).with_context(|| at(path))?;
    }
    let graph = poda_formats::open(&args.model)?;
    let shapes = Sizes { given: args.shape.clone(), ..Sizes::default() }.resolve_given(&graph)?;
    let open = |path: &PathBuf| Calibration::open(path, &graph);
    let calibration = args.data.as_ref().map(open).transpose()?;
    let samples = calibration.as_ref().map(|calibration| calibration.bind(&graph)).transpose()?;
    let test = args.test.as_ref().map(open).transpose()?;
    let judged = test.as_ref().or(calibration.as_ref());
    let judged =
        judged.context("there is nothing to score by: give samples, with labels or without (--test)")?;
    judged.bind(&graph)?;
    let options = Options { threads: args.threads, ..Options::default() };
    let judge = DataJudge::new(&graph, judged.sets(), shapes.clone(), options);

    let train = args.stages.train();
    let trains = train.map(Dataset::open).transpose()?;
    let name = train.map(|path| at(path));
    let named = trains.as_ref().zip(name.as_deref()).map(|(data, name)| Named { name, data });
    let taught = |stage: &Stage| stage.finetune.as_ref().is_some_and(|how| how.teacher);
    let mut tuner = None;
    if let Some(named) = named {
        ensure!(
            sweep.train(),
            "nothing trains on --train: add --finetune-epochs, or a plan with [method.finetune]"
        );
        let made = FineTuner::new(named, None, args.threads);
        made.labelled(&graph)?;
        tuner = Some(if sweep.methods.iter().any(taught) {
            made.with_teacher(&Model::from_graph(graph.clone())?)?
        } else {
            made
        });
    }
    ensure!(
        tuner.is_some() || !sweep.train(),
        "a method trains and there are no training samples: give some (--train)"
    );
    let bench = Bench {
        model: &graph,
        shapes: &shapes,
        judge: &judge,
        samples: samples.as_ref().map(|samples| samples as &dyn Samples),
        trainer: tuner.as_ref().map(|tuner| tuner as &dyn Trainer),
    };
    let bar = progress::spinner("scoring the dense model");
    let header = header(args, &sweep, &bench)?;
    let mut journal = Journal::open(&args.folder, args.shard, header)?;
    let mut observe = |under: &Under<'_>| {
        let progress = under.progress.map(|progress| format!(": {}", said(progress))).unwrap_or_default();
        bar.set_message(format!("run {} of {}, {}{progress}", under.done + 1, under.of, under.what));
        ControlFlow::Continue(())
    };
    sweep.run(&bench, &mut journal, args.shard, &mut observe)?;
    bar.finish_and_clear();

    let found = figures(journal.done());
    let of = sweep.methods.len() * sweep.ratios.len() * sweep.seeds.len();
    let all = Found { header: journal.header(), figures: &found };
    if let Some(path) = &args.report {
        let text = match path.extension().and_then(|extension| extension.to_str()) {
            Some("html" | "htm") => page::sweep::page(journal.header(), &found, &sweep, of).into_bytes(),
            _ => serde_json::to_vec_pretty(&all)?,
        };
        fs::write(path, text).with_context(|| at(path))?;
    }
    if args.json { print_json(&all) } else { show(journal.header(), &found, of) }
}

/// The plan's file, if there is one, with the flags on top.
fn plan(args: &Args) -> Result<Sweep> {
    let mut sweep = match &args.plan {
        Some(path) => {
            let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
            Sweep::parse(&text).with_context(|| path.display().to_string())?
        }
        None => Sweep::default(),
    };
    let mut methods = args.method.clone();
    if methods.is_empty() && sweep.methods.is_empty() {
        methods = defaults(args.data.is_some()).map_err(anyhow::Error::msg)?;
    }
    for mut stage in methods {
        if let Some(recipe) = &mut stage.prune {
            recipe.granularity = args.granularity.unwrap_or(recipe.granularity);
        }
        let stages = args.stages.on_top(Stages { stages: vec![stage] }, None)?;
        sweep.methods.extend(stages.stages);
    }
    for recipe in sweep.methods.iter_mut().filter_map(|stage| stage.prune.as_mut()) {
        recipe.exclude.extend(args.exclude.iter().cloned());
    }
    if !args.ratios.is_empty() {
        sweep.ratios.clone_from(&args.ratios);
    }
    if let Some(seeds) = args.seeds {
        sweep.seeds = (0..seeds).collect();
    }
    Ok(sweep)
}

/// The baselines of Blalock et al., and where there are samples what `poda prune` would do by itself.
fn defaults(data: bool) -> Result<Vec<Stage>, String> {
    let without = ["random:global", "random:layer", "magnitude-l1:global", "magnitude-l1:layer"];
    let with = ["gradient:global", "gradient:layer"].into_iter().filter(|_| data);
    // With samples weights that stay would be fitted to them, which is no part of a baseline.
    let baseline = |name: &str| {
        let mut stage = method(name)?;
        stage.prune.iter_mut().for_each(|recipe| recipe.update = Some(Vec::new()));
        Ok(stage)
    };
    without.into_iter().chain(with).map(baseline).chain(data.then(|| method("auto"))).collect()
}

fn header(args: &Args, sweep: &Sweep, bench: &Bench<'_>) -> Result<Header> {
    let mut identity = Fingerprint::default();
    let files = [("model", Some(&args.model)), ("data", args.data.as_ref()), ("test", args.test.as_ref())];
    let mut data = Vec::new();
    for (what, path) in files.into_iter().chain([("train", args.stages.train())]) {
        let Some(path) = path else { continue };
        identity.add_file(path).with_context(|| path.display().to_string())?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        data.extend((what != "model").then(|| (what.to_owned(), name)));
    }
    Ok(Header {
        identity: identity.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        model: args.model.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        dense: Sweep::dense(bench)?,
        plan: sweep.to_toml(),
        data,
    })
}

fn show(header: &Header, figures: &[Figure], of: usize) -> Result<()> {
    let mut ratios: Vec<f64> = figures.iter().map(|figure| figure.ratio).collect();
    ratios.sort_by(f64::total_cmp);
    ratios.dedup();
    let columns: Vec<String> = ratios.iter().map(|ratio| format!("{ratio}×")).collect();
    let trained = figures.iter().any(|figure| figure.before != figure.after);
    for after in [false, true].into_iter().take(if trained { 2 } else { 1 }) {
        let what = if after { "trained" } else { "pruned" };
        let heads: Vec<&str> = std::iter::once(what).chain(columns.iter().map(String::as_str)).collect();
        let mut rows = table::table(&heads, 1);
        let mut methods: Vec<&str> = figures.iter().map(|figure| figure.method.as_str()).collect();
        methods.dedup();
        for method in methods {
            let cell = |ratio: &f64| {
                let found = figures.iter().find(|figure| figure.method == method && figure.ratio == *ratio);
                found.map_or_else(String::new, |figure| {
                    match if after { figure.after } else { figure.before } {
                        None => "failed".to_owned(),
                        spread => shown(spread),
                    }
                })
            };
            rows.add_row(std::iter::once(method.to_owned()).chain(ratios.iter().map(cell)));
        }
        print(format!("{rows}\n"))?;
    }
    let measure = if header.dense.measure == "score" { "accuracy" } else { "cosine to the dense outputs" };
    print(format!(
        "{measure} in per cent, mean ± standard deviation over seeds; dense {}",
        percent(header.dense.score)
    ))?;
    let over: usize = figures.iter().map(|figure| figure.seeds).sum();
    print(format!("{over} of {of} runs are over"))?;
    let kept: u64 = figures.iter().map(|figure| figure.kept_starts).sum();
    if kept > 0 {
        print(format!(
            "note: of {kept} trainings nothing was kept, as no epoch scored better than the start on the samples kept aside; where \
             MODEL has learnt --train before, its start looks better there than it is: hold_out = 0.0 in a plan keeps the last \
             state"
        ))?;
    }
    let failed = figures.iter().filter_map(|figure| Some((figure, figure.failed.as_ref()?)));
    failed.into_iter().try_for_each(|(figure, why)| {
        print(format!("note: {} at {}× failed: {why}", figure.method, figure.ratio))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn baselines_change_no_weight_that_stays() {
        let updates = |data| -> Vec<Option<usize>> {
            let recipes = defaults(data).unwrap().into_iter().map(|stage| stage.prune.unwrap());
            recipes.map(|recipe| recipe.update.map(|updates| updates.len())).collect()
        };
        assert_eq!(updates(false), [Some(0); 4]);
        assert_eq!(
            updates(true),
            [&[Some(0); 6][..], &[None]].concat(),
            "the last is what poda prune would do"
        );
    }
}
