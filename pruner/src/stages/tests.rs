//! Stages prune and train in turn; what was zero stays zero; what breaks a bound is taken back; a run goes on where it was.

use std::ops::ControlFlow;
use std::time::Duration;

use poda_formats::Graph;

use super::*;
use crate::finetune::tests::{Stripes, accuracy, network, terms, values};
use crate::finetune::{finetune, reestimated};
use crate::prune::Data;
use crate::report::Report;
use crate::settings::Shapes;
use crate::termination::Verdict;

struct Stripe;

impl Trainer for Stripe {
    fn finetune(
        &self,
        graph: &Graph,
        how: &FineTuning,
        checkpoint: Option<&Checkpoint>,
        observe: &mut dyn FnMut(&finetune::Progress) -> ControlFlow<()>,
    ) -> Result<(Graph, finetune::Report), DataError> {
        let options = how.options(Some(1));
        Ok(finetune(graph, &Stripes(200), &terms(graph), &options, Some(&accuracy), checkpoint, observe)?)
    }

    fn reestimated(&self, graph: &Graph) -> Result<Graph, DataError> {
        Ok(reestimated(graph, &Stripes(200), 16, Some(1))?)
    }
}

fn stages(text: &str) -> Stages {
    let stages = Stages::parse(text).unwrap();
    stages.validate().unwrap();
    // What is written is what was read.
    assert_eq!(Stages::parse(&stages.to_toml()).unwrap(), stages);
    stages
}

fn run(
    graph: &Graph,
    stages: &Stages,
    state: Option<&StateFolder>,
    stop: usize,
) -> Result<(Graph, Report), StagesError> {
    let judge = |graph: &Graph| accuracy(graph);
    let given = Given {
        data: Data { judge: Some(&judge), ..Data::default() },
        trainer: Some(&Stripe),
        start: None,
        state,
    };
    let mut steps = 0;
    let mut observe = |progress: &Progress| {
        steps += usize::from(matches!(progress.work, Work::Training(_)));
        if steps == stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    follow(graph, stages, &Shapes::new(), given, &mut observe)
}

const TRAINED: &str = "[[stage]]\n[stage.finetune]\nepochs = 4\nrate = 0.03\nbatch = 16\n";

fn zeros(graph: &Graph) -> Vec<bool> {
    ["conv.weight", "head.weight"].iter().flat_map(|name| values(graph, name)).map(|v| v == 0.0).collect()
}

#[test]
fn rounds_follow_the_schedule_and_zeros_stay() {
    let text = format!(
        "{TRAINED}[[stage]]\nrounds = 3\nschedule = \"linear\"\n[stage.prune]\nsparsity = 0.75\nscope = \"global\"\n\
         [stage.finetune]\nepochs = 2\nrate = 0.01\nbatch = 16\n"
    );
    let graph = network();
    let (pruned, report) = run(&graph, &stages(&text), None, usize::MAX).unwrap();
    let asked: Vec<_> = report.rounds.iter().map(|round| round.sparsity).collect();
    assert_eq!(asked, [None, Some(0.25), Some(0.5), Some(0.75)]);
    // Of 72 + 16 weights; 32 scales, biases and statistics and 2 biases stay.
    let left: Vec<u64> = report.rounds[1..].iter().map(|round| round.nnz - 34).collect();
    assert_eq!(left, [66, 44, 22]);
    assert_eq!(zeros(&pruned).iter().filter(|zero| **zero).count(), 66);
    let round = &report.rounds[3];
    assert_eq!(round.measure.as_deref(), Some("score"));
    assert!(round.score.unwrap() > 0.85 && round.score >= round.pruned, "{round:?}");
    assert_eq!(report.after.nnz, round.nnz);
    assert_eq!((report.before.nnz, report.layers.len()), (graph.parameters().nonzero, 2));
}

#[test]
fn lottery_tickets_start_again_from_their_first_weights() {
    let text = format!(
        "{TRAINED}[[stage]]\nrounds = 2\nschedule = \"geometric\"\nrewind = true\n[stage.prune]\nsparsity = 0.75\n"
    );
    let graph = network();
    let (ticket, report) = run(&graph, &stages(&text), None, usize::MAX).unwrap();
    let asked: Vec<_> = report.rounds.iter().filter_map(|round| round.sparsity).collect();
    assert!((asked[0] - 0.5).abs() < 1e-12 && asked[1] == 0.75, "{asked:?}");
    for name in ["conv.weight", "head.weight"] {
        let (first, now) = (values(&graph, name), values(&ticket, name));
        assert!(now.iter().zip(&first).all(|(&now, &first)| now == 0.0 || now == first), "{name}");
        assert_eq!(now.iter().filter(|&&v| v == 0.0).count(), now.len() * 3 / 4);
    }
    assert_eq!(values(&ticket, "head.bias"), values(&graph, "head.bias"));
}

#[test]
fn a_round_that_breaks_a_bound_is_taken_back() {
    let text = format!(
        "{TRAINED}[[stage]]\nrounds = 4\nschedule = \"linear\"\nkeep = [\"score=0.9\"]\n[stage.prune]\nsparsity = 0.98\n\
         scope = \"global\"\n[[stage]]\nreestimate = true\n"
    );
    let (pruned, report) = run(&network(), &stages(&text), None, usize::MAX).unwrap();
    let broken = report
        .rounds
        .iter()
        .position(|round| round.answer.as_ref().is_some_and(|answer| answer.verdict == Verdict::RollBack));
    let broken = broken.expect("98 % is too much");
    assert_eq!(report.rounds.len(), broken + 2, "the stage has ended, the next goes on");
    assert!(accuracy(&pruned).unwrap() >= 0.85, "{report:?}");
    assert_eq!(report.after.nnz, report.rounds[broken - 1].nnz);
    assert!(report.notes.iter().any(|note| note.contains("taken back: it breaks score at least 0.9")));
    // Statistics are of what is left.
    assert_ne!(values(&pruned, "variance"), values(&network(), "variance"));
}

#[test]
fn an_interrupted_run_comes_to_the_same_bits() {
    let text = format!(
        "{TRAINED}[[stage]]\nrounds = 2\n[stage.prune]\nsparsity = 0.75\n[stage.finetune]\nepochs = 1\nbatch = 16\n"
    );
    let stages = stages(&text);
    let folder = tempfile::tempdir().unwrap();
    let state =
        |name: &str, identity: &str| StateFolder::new(folder.path().join(name), identity, Duration::ZERO);
    let graph = network();
    let whole = state("whole", "a");
    let (expected, report) = run(&graph, &stages, Some(&whole), usize::MAX).unwrap();
    whole.remove().unwrap();
    let state = |identity: &str| state("again", identity);
    // Within the first training, within the next rounds, and once more.
    for stop in [5, 60, 7] {
        assert!(run(&graph, &stages, Some(&state("a")), stop).is_err());
    }
    let (found, again) = run(&graph, &stages, Some(&state("a")), usize::MAX).unwrap();
    for name in ["conv.weight", "head.weight", "head.bias", "mean", "variance"] {
        let bits = |graph: &Graph| values(graph, name).iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&found), bits(&expected), "{name}");
    }
    let scores = |report: &Report| report.rounds.iter().map(|round| round.score).collect::<Vec<_>>();
    assert_eq!(scores(&again), scores(&report));
    for (identity, text, what) in [("b", text.as_str(), "model or data"), ("a", TRAINED, "recipe")] {
        let error = run(&graph, &super::tests::stages(text), Some(&state(identity)), 1).unwrap_err();
        assert!(error.to_string().contains(&format!("another run (with another {what})")), "{error}");
    }
}

#[test]
fn channels_go_round_by_round() {
    let text = "[[stage]]\nrounds = 2\nschedule = \"linear\"\n[stage.prune]\ngranularity = \"channel\"\nsparsity = 0.5\n\
                round_to = 1\n";
    let (pruned, report) = run(&network(), &stages(text), None, usize::MAX).unwrap();
    assert_eq!(values(&pruned, "scale").len(), 4);
    assert_eq!(report.layers[0].shape_before[0], 8);
    assert_eq!(report.layers[0].shape_after[0], 4);
}

#[test]
fn what_makes_no_sense_is_said() {
    for (text, message) in [
        (
            "[[stage]]\nrounds = 2",
            "stage 1: nothing to do: add [stage.prune], [stage.finetune] or reestimate = true",
        ),
        ("[[stage]]\nrounds = 0\n[stage.prune]\nsparsity = 0.5", "stage 1: rounds is 0, expected at least 1"),
        (
            "[[stage]]\nrounds = 2\n[stage.prune]\nmax_drop = 0.5",
            "stage 1: rounds lead to a sparsity: give one, and put until and keep beside rounds",
        ),
        (
            "[[stage]]\nrounds = 2\n[stage.prune]\ngranularity = \"nm:2:4\"",
            "stage 1: rounds lead to a sparsity",
        ),
        (
            "[[stage]]\nreestimate = true\n[[stage]]\nrewind = true\n[stage.finetune]",
            "stage 2: rewind needs a [stage.prune]",
        ),
        (
            "[[stage]]\nfrom = 0.9\n[stage.prune]\nsparsity = 0.5",
            "stage 1: from is 0.9, expected a number from 0",
        ),
        ("[[stage]]\n[stage.finetune]\nbatch = 0", "stage 1: a batch has at least one sample"),
        ("[[stage]]\n[stage.prune]\nsparsity = 2", "sparsity is 2, expected a number from 0"),
        ("stage = []", "nothing to do"),
    ] {
        let error = Stages::parse(text).and_then(|stages| stages.validate()).unwrap_err().to_string();
        assert!(error.starts_with(message), "{text}: {error}");
    }
    let error = Stages::parse("[[stage]]\n[stage.finetune]\nepoch = 1").unwrap_err().to_string();
    assert!(error.starts_with("line 3: unknown field `epoch`"), "{error}");
    let error = Stages::parse("[[stage]]\nschedule = \"square\"").unwrap_err().to_string();
    assert!(error.contains("\"square\" is no schedule; there are one-shot, linear"), "{error}");
    let plain = Stages::parse("sparsity = 0.5").unwrap();
    assert_eq!(plain.plain().and_then(|recipe| recipe.sparsity), Some(0.5));
    let given = Given::default();
    let trained = Stages::parse(TRAINED).unwrap();
    let error = follow(&network(), &trained, &Shapes::new(), given, &mut |_| ControlFlow::Continue(()));
    assert!(error.unwrap_err().to_string().starts_with("stage 1 trains and there are no training samples"));
}
