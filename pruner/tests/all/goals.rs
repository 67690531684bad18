//! What a goal tries, by a judge whose clock counts weights.

use std::time::Duration;

use poda_formats::op::{Binary, Unary};
use poda_formats::{DataType, Dim, Graph, Op};
use poda_pruner::goal::{Attempt, Goal, Tried, reach};
use poda_pruner::judge::{Judge, JudgeError};
use poda_pruner::settings::Shapes;
use poda_pruner::{Data, Recipe};

use crate::calibrated::{MadeUp, distance, run, small};
use crate::networks::Builder;

/// A model is as fast as it has few weights that are not zero, and as good as it is near to the dense one.
struct Counting<'a> {
    dense: &'a Graph,
    samples: &'a MadeUp,
}

impl Counting<'_> {
    fn nonzero(graph: &Graph) -> f64 {
        let weights = graph.values.iter().filter_map(|value| value.weight.as_ref());
        weights.filter(|weight| weight.shape().len() > 1).map(|weight| weight.nnz() as f64).sum()
    }
}

impl Judge for Counting<'_> {
    fn score(&self, graph: &Graph) -> Result<f64, JudgeError> {
        Ok(-distance(self.dense, graph, self.samples))
    }

    fn latency(&self, graph: &Graph) -> Result<f64, JudgeError> {
        Ok(Self::nonzero(graph))
    }

    fn speedup(&self, graph: &Graph) -> Result<f64, JudgeError> {
        Ok(Self::nonzero(self.dense) / Self::nonzero(graph))
    }
}

/// One submodule of two layers: what it gives is what the model gives.
fn feed_forward() -> (Graph, MadeUp) {
    let mut b = Builder::new(5);
    let x = b.graph.add_input("x", DataType::F32, vec![Dim::Fixed(24), Dim::Fixed(16)]);
    let (up, down) = (b.weight(&[16, 32]), b.weight(&[32, 16]));
    let h = b.node(Op::MatMul, &[x, up]);
    let h = b.unary(Unary::Relu, h);
    let h = b.node(Op::MatMul, &[h, down]);
    let y = b.binary(Binary::Add, x, h);
    b.graph.outputs.push(y);
    let samples = MadeUp::new(&b.graph, 8, &|_| vec![24, 16]);
    (b.graph, samples)
}

const HOUR: Duration = Duration::from_hours(1);

fn faster(graph: &Graph, samples: &MadeUp, base: &Recipe, time: Duration) -> Tried {
    let judge = Counting { dense: graph, samples };
    let data = Data { judge: Some(&judge), samples: Some(samples), ..Data::default() };
    reach(graph, base, Goal::Faster, &Shapes::new(), &mut |_| (), data, time).unwrap().1
}

fn updates(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// What is lost by weights that were fitted at the share which is tried first, and with submodules trained.
fn losses(graph: &Graph, samples: &MadeUp) -> [f64; 2] {
    let of = |names: &[&str]| {
        let recipe = Recipe { sparsity: Some(0.75), update: Some(updates(names)), ..Recipe::default() };
        distance(graph, &run(graph, samples, &recipe).unwrap().0, samples)
    };
    [of(&["bias", "least-squares"]), of(&["bias", "least-squares", "reconstruction"])]
}

#[test]
fn with_submodules_trained_a_goal_goes_on_from_what_was_too_much() {
    let (graph, samples) = feed_forward();
    let [fitted, trained] = losses(&graph, &samples);
    assert!(trained < fitted, "{trained} {fitted}");
    let base = Recipe { max_drop: Some(fitted.midpoint(trained)), ..Recipe::default() };
    let found = faster(&graph, &samples, &base, HOUR);
    let trains = |attempt: &&Attempt| attempt.way.ends_with(", submodules trained");
    let first = found.attempts.iter().position(|attempt| trains(&attempt)).unwrap();
    let (cheap, dear) = found.attempts.split_at(first);
    // What is cheap comes first, and all that was dear is where the same way gave up too much without.
    assert!(dear.iter().all(|attempt| trains(&attempt)), "{found:?}");
    for way in ["weights", "blocks of 4x1"] {
        let of = |attempts: &[Attempt], name: &str| -> Vec<(f64, bool)> {
            let those = attempts.iter().filter(|attempt| attempt.way == name && attempt.result.is_some());
            those.map(|attempt| (attempt.sparsity, attempt.holds)).collect()
        };
        let (before, after) = (of(cheap, way), of(dear, &format!("{way}, submodules trained")));
        let broken = before.iter().filter(|(_, holds)| !holds).map(|(share, _)| *share).reduce(f64::min);
        assert!(after.first().is_none_or(|(share, _)| Some(*share) >= broken), "{before:?} {after:?}");
    }
    let best = &found.attempts[found.best.unwrap()];
    let without =
        faster(&graph, &samples, &Recipe { update: Some(updates(&["bias", "least-squares"])), ..base }, HOUR);
    assert!(without.attempts.iter().all(|attempt| !trains(&attempt)));
    let speedup = |attempt: &Attempt| attempt.result.unwrap().speedup;
    let best_without = without.best.map_or(1.0, |best| speedup(&without.attempts[best]));
    assert!(trains(&best) && speedup(best) > best_without, "{best:?} {best_without}");
}

#[test]
fn a_chain_of_layers_has_no_submodules_to_train() {
    let (graph, samples) = small();
    let base = Recipe { max_drop: Some(losses(&graph, &samples)[1]), ..Recipe::default() };
    let found = faster(&graph, &samples, &base, HOUR);
    assert!(!found.attempts.is_empty());
    assert!(found.attempts.iter().all(|attempt| !attempt.way.contains("trained")), "{found:?}");
    assert!(found.not_tried.iter().all(|way| !way.contains("trained")), "{found:?}");
}
