//! Stages of `poda prune`: flags that build them, and following them.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::builder::PossibleValue;
use poda::dataset::Dataset;
use poda::finetuning::{FineTuner, Named};
use poda::fingerprint::Fingerprint;
use poda::shapes::Shapes;
use poda_formats::Graph;
use poda_pruner::finetune::{self, FineTuning};
use poda_pruner::prune;
use poda_pruner::schedule::Schedule;
use poda_pruner::stages::{self, Given, Progress, Round, Stage, Stages, StateFolder, Work};
use poda_pruner::termination::{Bound, Verdict};
use poda_pruner::{Data, Report};
use poda_runtime::Model;

use crate::table::{self, count, percent, print};

/// How a pruning is spread over rounds, and what is trained between them
#[derive(clap::Args, Clone)]
pub(crate) struct StageArgs {
    /// Go to --sparsity in so many rounds: prune, train where --finetune-epochs says so, prune more. --until, --keep and
    /// --max-drop are asked after each; one that gives up too much is taken back
    #[arg(long, value_name = "N", help_heading = "Rounds and training")]
    rounds: Option<usize>,
    /// How much has gone after each round
    #[arg(long, requires = "rounds", value_parser = schedules(), help_heading = "Rounds and training")]
    schedule: Option<String>,
    /// After each pruning, set weights that stay back to what they are in MODEL, or in this file (lottery tickets)
    #[arg(long, value_name = "START", num_args = 0..=1, help_heading = "Rounds and training")]
    #[expect(clippy::option_option, reason = "a flag that may have a value")]
    rewind: Option<Option<PathBuf>>,
    /// Training samples, as for `poda finetune`
    #[arg(long, value_name = "FILE.npz", help_heading = "Rounds and training")]
    train: Option<PathBuf>,
    /// Fine-tune for so many passes over --train after each round, and take the state that scores best on --validation, or on a
    /// tenth of --train; a recipe says more than flags do
    #[arg(long, value_name = "N", requires = "train", help_heading = "Rounds and training")]
    finetune_epochs: Option<u64>,
    /// Greatest learning rate; by default 0.0003
    #[arg(long, value_name = "RATE", requires = "finetune_epochs", help_heading = "Rounds and training")]
    finetune_rate: Option<f64>,
    /// Learn from the outputs of MODEL: then --train needs no labels
    #[arg(long, requires = "finetune_epochs", help_heading = "Rounds and training")]
    distill: bool,
    /// Estimate the statistics of batch normalisation again from --train, after each pruning
    #[arg(long, requires = "train", help_heading = "Rounds and training")]
    reestimate: bool,
}

/// What to say of training samples that nothing uses.
pub(super) const NOTHING_TRAINS: &str =
    "nothing trains on --train: add --finetune-epochs, --reestimate, or a recipe with [stage.finetune]";

/// What `--schedule` takes, with what each is.
fn schedules() -> clap::builder::PossibleValuesParser {
    let all =
        Schedule::ALL.iter().map(|schedule| PossibleValue::new(schedule.name()).help(schedule.description()));
    clap::builder::PossibleValuesParser::new(all)
}

impl StageArgs {
    /// The training samples.
    pub(crate) fn train(&self) -> Option<&PathBuf> {
        self.train.as_ref()
    }

    /// The fine-tuning that flags ask for.
    pub(crate) fn finetuning(&self) -> Option<FineTuning> {
        let epochs = self.finetune_epochs?;
        let (rate, teacher) = (self.finetune_rate, self.distill);
        Some(FineTuning { epochs, rate, teacher, ..FineTuning::default() })
    }

    /// `stages` with the flags on top.
    pub(crate) fn on_top(&self, mut stages: Stages, seed: Option<u64>) -> Result<Stages> {
        let finetune = self.finetuning();
        let asks = self.rounds.is_some() || self.rewind.is_some() || self.reestimate || finetune.is_some();
        if asks {
            let [stage] = &mut stages.stages[..] else {
                bail!("the recipe has several stages: say in it what each does, rather than by flags");
            };
            stage.rounds = self.rounds.unwrap_or(stage.rounds);
            stage.rewind |= self.rewind.is_some();
            stage.reestimate |= self.reestimate;
            stage.finetune = finetune.or(stage.finetune.take());
            if let Some(schedule) = &self.schedule {
                stage.schedule = schedule.parse()?;
            }
            bounds_after_rounds(stage)?;
        }
        if let Some(seed) = seed {
            stages
                .stages
                .iter_mut()
                .filter_map(|stage| stage.finetune.as_mut())
                .for_each(|how| how.seed = seed);
        }
        Ok(stages)
    }

    /// Files that decide what comes out.
    fn files(&self) -> impl Iterator<Item = &Path> {
        let start = self.rewind.iter().flatten();
        self.train.iter().chain(start).map(PathBuf::as_path)
    }
}

/// Where a sparsity says how much goes, the other bounds are asked once a round is over, after training.
fn bounds_after_rounds(stage: &mut Stage) -> Result<()> {
    let Some(recipe) = stage.prune.as_mut().filter(|recipe| recipe.share().is_some()) else { return Ok(()) };
    stage.until.append(&mut recipe.until);
    stage.until_all |= std::mem::take(&mut recipe.until_all);
    stage.keep.append(&mut recipe.keep);
    if let Some(macs) = recipe.target_macs.take() {
        stage.until.push(format!("macs={macs}").parse::<Bound>()?);
    }
    if let Some(drop) = recipe.max_drop.take() {
        stage.keep.push(format!("drop={drop}").parse::<Bound>()?);
    }
    Ok(())
}

/// What the stages of a command are given.
pub(super) struct Command<'a> {
    pub(super) args: &'a StageArgs,
    pub(super) model: &'a Path,
    pub(super) output: Option<&'a Path>,
    pub(super) data: [Option<&'a Path>; 2],
    /// The samples of the second, of one shape each.
    pub(super) validation: &'a [Dataset],
    pub(super) threads: Option<usize>,
}

impl Command<'_> {
    /// Follows the stages; the folder of their state is there until the result is written.
    pub(super) fn follow(
        &self,
        graph: &Graph,
        stages: &Stages,
        shapes: &Shapes,
        data: Data<'_>,
        tell: &mut dyn FnMut(String),
    ) -> Result<(Graph, Report, Option<StateFolder>)> {
        let at = |path: &Path| path.display().to_string();
        let train = self.args.train.as_ref();
        ensure!(train.is_none() || stages.train(), NOTHING_TRAINS);
        let samples = train.map(Dataset::open).transpose()?;
        let name = train.map(|path| at(path));
        let named = samples.as_ref().zip(name.as_deref()).map(|(data, name)| Named { name, data });
        let judged_by = self.data[1].map(at).unwrap_or_default();
        let validation = self.chooses(graph, stages)?.map(|data| Named { name: &judged_by, data });
        let mut tuner = named.map(|named| FineTuner::new(named, validation, self.threads));
        if let Some(made) = tuner.take() {
            made.labelled(graph)?;
            let taught = |stage: &Stage| stage.finetune.as_ref().is_some_and(|how| how.teacher);
            tuner = Some(if stages.stages.iter().any(taught) {
                made.with_teacher(&Model::from_graph(graph.clone())?)?
            } else {
                made
            });
        }
        let start = match &self.args.rewind {
            Some(Some(path)) => Some(poda_formats::open(path)?),
            _ => None,
        };
        let state = self.output.map(|output| self.state(output)).transpose()?;
        let given = Given {
            data,
            trainer: tuner.as_ref().map(|tuner| tuner as &dyn stages::Trainer),
            start: start.as_ref(),
            state: state.as_ref(),
        };
        let mut observe = |progress: &Progress| {
            tell(said(progress));
            ControlFlow::Continue(())
        };
        let (pruned, report) = stages::follow(graph, stages, shapes, given, &mut observe)?;
        Ok((pruned, report, state))
    }

    /// The validation samples that states of training are scored on: those of --validation where they are of one shape, and have
    /// labels or need none.
    fn chooses(&self, graph: &Graph, stages: &Stages) -> Result<Option<&Dataset>> {
        let [data] = self.validation else { return Ok(None) };
        let taught = stages.stages.iter().filter_map(|stage| stage.finetune.as_ref()).all(|how| how.teacher);
        Ok((taught || data.bind(graph)?.labels().is_some()).then_some(data))
    }

    /// Beside the file that is written.
    fn state(&self, output: &Path) -> Result<StateFolder> {
        let mut identity = Fingerprint::default();
        let data = self.data.iter().flatten().copied();
        for path in std::iter::once(self.model).chain(data).chain(self.args.files()) {
            identity.add_file(path).with_context(|| path.display().to_string())?;
        }
        let mut name = output.as_os_str().to_owned();
        name.push(".stages");
        Ok(StateFolder::new(name, identity.to_string(), Duration::from_secs(30)))
    }
}

/// How far a run is, in words.
pub(crate) fn said(progress: &Progress) -> String {
    let Progress { stage, stages, round, rounds, work } = progress;
    let work = match work {
        Work::Measuring => "measuring".to_owned(),
        Work::Pruning(prune::Progress::Layer { layer, of }) => format!("pruning, layer {layer} of {of}"),
        Work::Pruning(prune::Progress::Submodule { submodule, of }) => {
            format!("pruning, training submodule {submodule} of {of}")
        }
        Work::Pruning(_) => "pruning".to_owned(),
        Work::Training(training) => {
            format!("training, step {} of {}, loss {:.4}", training.step, training.steps, training.loss)
        }
    };
    let stage = if *stages > 1 { format!("stage {stage} of {stages}, ") } else { String::new() };
    let round = if *rounds > 1 { format!("round {round} of {rounds}, ") } else { String::new() };
    format!("{stage}{round}{work}")
}

/// What each round came to.
pub(super) fn show_rounds(rounds: &[Round]) -> Result<()> {
    if rounds.is_empty() {
        return Ok(());
    }
    let measure = rounds.iter().find_map(|round| round.measure.as_deref()).unwrap_or("score");
    let header = ["stage", "round", "removed", "not zero", "epochs", "loss", "pruned", measure, "took s", ""];
    let mut rows = table::table(&header, 0);
    let score = |score: Option<f64>| score.map(|score| format!("{score:.4}")).unwrap_or_default();
    for round in rounds {
        let tuned = round.finetuned.as_ref();
        let then = match round.answer.as_ref().map(|answer| answer.verdict) {
            Some(Verdict::RollBack) => "taken back",
            Some(Verdict::Stop) => "enough",
            Some(Verdict::Continue) | None if tuned.is_some_and(finetune::Report::kept_start) => "start kept",
            Some(Verdict::Continue) | None => "",
        };
        rows.add_row([
            round.stage.to_string(),
            round.round.to_string(),
            round.sparsity.map(percent).unwrap_or_default(),
            count(round.nnz),
            tuned.map(|tuned| tuned.epochs.len().to_string()).unwrap_or_default(),
            tuned.and_then(|t| t.epochs.last()).map(|epoch| format!("{:.4}", epoch.loss)).unwrap_or_default(),
            score(round.pruned),
            score(round.score.or_else(|| tuned.and_then(|tuned| tuned.best))),
            format!("{:.1}", round.seconds),
            then.to_owned(),
        ]);
    }
    print(format!("{rows}\n"))
}
