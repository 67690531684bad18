//! Whole prunings by recipe.

use std::cell::Cell;

use poda_formats::op::{Binary, Unary};
use poda_formats::{DataType, Dim, Graph, Op, Tensor};
use poda_pruner::allocation::Scope;
use poda_pruner::settings::Shapes;
use poda_pruner::{Granularity, Progress, PruneError, Recipe, Report, plan, prune};

use crate::networks::{Block, Layer, network, transformer};

fn small() -> Graph {
    let layers = [
        Layer::Conv { out: 16, wide: true, bias: true },
        Layer::Activation(0),
        Layer::Conv { out: 20, wide: true, bias: true },
        Layer::Activation(0),
    ];
    network(&layers, false, 11)
}

fn channel(sparsity: f64) -> Recipe {
    Recipe {
        granularity: Granularity::Channel,
        sparsity: Some(sparsity),
        round_to: Some(1),
        ..Recipe::default()
    }
}

fn run(graph: &Graph, recipe: &Recipe) -> Result<(Graph, Report), PruneError> {
    prune(graph, recipe, &Shapes::new(), &mut |_| (), None)
}

fn removed(report: &Report) -> Vec<(usize, usize)> {
    report.groups.iter().map(|g| (g.removed, g.units)).collect()
}

#[test]
fn every_layer_loses_its_share_and_the_report_says_so() {
    let (pruned, report) = run(&small(), &channel(0.5)).unwrap();
    assert_eq!(removed(&report), [(6, 12), (8, 16), (10, 20)]);
    let shapes: Vec<_> =
        report.layers.iter().map(|l| (l.shape_before.clone(), l.shape_after.clone())).collect();
    let want = [
        (vec![12, 3, 3, 3], vec![6, 3, 3, 3]),
        (vec![16, 12, 3, 3], vec![8, 6, 3, 3]),
        (vec![20, 16, 3, 3], vec![10, 8, 3, 3]),
        (vec![20, 5], vec![10, 5]),
    ];
    assert_eq!(shapes, want);
    assert!(report.check.as_ref().unwrap().relative < 1e-5);
    assert!(report.after.macs < report.before.macs / 2 && report.after.bytes < report.before.bytes);
    let elements: usize = pruned
        .values
        .iter()
        .filter_map(|v| v.weight.as_ref())
        .filter(|w| w.dtype().is_float())
        .map(poda_formats::Weight::len)
        .sum();
    assert_eq!(report.after.parameters, elements as u64);
    let json = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
    let (header, rows) = report.table();
    assert!(rows.iter().all(|row| row.len() == header.len()) && rows.len() == 5, "{rows:?}");
}

#[test]
fn the_same_seed_gives_the_same_model_and_excluded_layers_stay() {
    let recipe = Recipe { criterion: "random".into(), seed: 5, ..channel(0.3) };
    let (a, report) = run(&small(), &recipe).unwrap();
    let (b, _) = run(&small(), &recipe).unwrap();
    assert_eq!(a, b);
    let first = report.layers[0].weight.clone();
    let (_, report) = run(&small(), &Recipe { exclude: vec![first], ..recipe }).unwrap();
    assert_eq!(removed(&report)[0].0, 0);
    assert!(removed(&report)[1].0 > 0);
}

#[test]
fn a_global_ranking_takes_its_share_of_all_units() {
    let (_, report) = run(&small(), &Recipe { scope: Scope::Global, ..channel(0.5) }).unwrap();
    let total: usize = report.groups.iter().map(|g| g.removed).sum();
    assert_eq!(total, 24);
}

#[test]
fn steps_end_at_the_target_of_work() {
    let recipe = Recipe { sparsity: None, target_macs: Some(0.5), ..channel(0.0) };
    let mut steps = 0;
    let count = &mut |p: Progress| steps += usize::from(matches!(p, Progress::Step { .. }));
    let (_, report) = prune(&small(), &recipe, &Shapes::new(), count, None).unwrap();
    let share = report.after.macs as f64 / report.before.macs as f64;
    assert!(share <= 0.5 && share > 0.3, "{share}");
    assert!(steps > 1 && steps < 20, "{steps}");
}

#[test]
fn a_step_that_costs_too_much_is_taken_back() {
    // A score that falls by a tenth with each step.
    let asked = Cell::new(0);
    let score = |_: &Graph| -> Result<f64, Box<dyn std::error::Error + Send + Sync>> {
        asked.set(asked.get() + 1);
        Ok(1.0 - 0.1 * f64::from(asked.get() - 1))
    };
    let recipe = Recipe { max_drop: Some(0.25), sparsity: Some(0.5), steps: 5, ..channel(0.0) };
    let (_, report) = prune(&small(), &recipe, &Shapes::new(), &mut |_| (), Some(&score)).unwrap();
    // Steps of a tenth: 0.1 and 0.2 hold, 0.3 does not.
    assert_eq!(asked.get(), 4);
    assert_eq!(removed(&report), [(2, 12), (3, 16), (4, 20)]);
    assert!(matches!(run(&small(), &recipe), Err(PruneError::Recipe(_))), "without validation");
}

#[test]
fn a_plan_changes_nothing_and_lists_what_must_stay() {
    let report = plan(&small(), &channel(0.5), &Shapes::new()).unwrap();
    assert_eq!(removed(&report), [(6, 12), (8, 16), (10, 20)]);
    assert_eq!(report.before, report.after);
    let reasons = report.refused_by_reason();
    assert!(reasons.keys().any(|r| r.contains("output of the model")), "{reasons:?}");
}

#[test]
fn weights_become_zero_exactly_as_many_as_asked_for() {
    for scope in [Scope::Global, Scope::Layer] {
        let recipe = Recipe { sparsity: Some(0.75), scope, ..Recipe::default() };
        let (pruned, report) = run(&small(), &recipe).unwrap();
        let (mut zeros, mut all) = (0, 0);
        for layer in &report.layers {
            let weight = pruned.weight(pruned.find(&layer.weight).unwrap()).unwrap();
            zeros += weight.len() - weight.nnz();
            all += weight.len();
            if scope == Scope::Layer {
                assert_eq!(weight.nnz(), weight.len() / 4);
            }
        }
        assert_eq!(zeros, all * 3 / 4);
        assert_eq!(report.before.parameters, report.after.parameters);
    }
}

/// A network whose middle layer has: a unit with no way in, one with no way out, one that ReLU keeps at zero, and one
/// that is alive.
fn with_dead_units() -> Graph {
    let mut graph = Graph::default();
    let dims = vec![Dim::Symbol("batch".into()), Dim::Fixed(2)];
    let x = graph.add_input("x", DataType::F32, dims);
    let mut weight = |name: &str, shape: &[usize], values: &[f32]| {
        graph.add_weight(name, Tensor::from_slice(shape, values))
    };
    let tiny = 1e-33;
    let a = weight("a", &[2, 4], &[0.0, 1.0, 0.1, 1.0, tiny, 2.0, -0.1, -1.0]);
    let bias = weight("bias", &[4], &[0.7, 0.1, -1.0, 0.2]);
    let b = weight("b", &[4, 2], &[3.0, -1.0, tiny, 0.0, 1.0, 2.0, 0.5, 0.25]);
    let x = graph.add_node(Op::Unary(Unary::Tanh), &[x], "bounded");
    let x = graph.add_node(Op::MatMul, &[x, a], "first");
    let x = graph.add_node(Op::Binary(Binary::Add), &[x, bias], "biased");
    let x = graph.add_node(Op::Unary(Unary::Relu), &[x], "rectified");
    let y = graph.add_node(Op::MatMul, &[x, b], "second");
    graph.outputs.push(y);
    graph
}

#[test]
fn dead_units_go_at_no_cost() {
    let recipe = Recipe { remove_dead: true, ..Recipe::default() };
    let (pruned, report) = run(&with_dead_units(), &recipe).unwrap();
    let dead: Vec<_> = report.dead.iter().map(|d| (d.name.as_str(), d.dead, d.units)).collect();
    // The third is within -1 ± 0.2 only if its input is known to be bounded: tanh has no range without one of x.
    assert_eq!(dead, [("a[1]", 2, 4)]);
    assert!(report.check.unwrap().relative < 1e-6);
    let a = pruned.weight(pruned.find("a").unwrap()).unwrap();
    assert_eq!(a.shape(), [2, 2]);
}

#[test]
fn nothing_to_remove_says_why() {
    let mut graph = Graph::default();
    let x = graph.add_input("x", DataType::F32, vec![Dim::Fixed(1), Dim::Fixed(3)]);
    let w = graph.add_weight("w", Tensor::from_slice(&[3, 2], &[1.0_f32; 6]));
    let y = graph.add_node(Op::MatMul, &[x, w], "y");
    graph.outputs.push(y);
    let error = run(&graph, &channel(0.5)).unwrap_err().to_string();
    assert_eq!(error, "nothing can be removed: 3 units of w[0]: it is an input of the model");
    let none = Recipe { exclude: vec!["*".into()], sparsity: Some(0.5), ..Recipe::default() };
    assert!(matches!(run(&graph, &none), Err(PruneError::NoWeights)));
}

#[test]
fn deep_networks_take_time_in_proportion() {
    let time = |depth: usize| {
        let blocks = vec![Block::FeedForward { hidden: 4, gated: false }; depth];
        let graph = transformer(&blocks, 4, 1);
        let start = std::time::Instant::now();
        let (_, report) = run(&graph, &Recipe { check: false, ..channel(0.5) }).unwrap();
        assert_eq!(report.groups.len(), depth + 1);
        start.elapsed().as_secs_f64()
    };
    let (short, long) = (time(500), time(2000));
    // Four times the work; far from the sixteen times of quadratic behaviour even on a busy machine.
    assert!(long < 0.5 + 10.0 * short, "{short} s and {long} s");
}
