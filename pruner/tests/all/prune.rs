//! Whole prunings by recipe.

use std::cell::Cell;
use std::ops::ControlFlow;

use poda_formats::op::{Binary, Unary};
use poda_formats::{DataType, Dim, Graph, Op, Tensor};
use poda_pruner::allocation::Scope;
use poda_pruner::settings::Shapes;
use poda_pruner::termination::{State, Verdict};
use poda_pruner::{Granularity, Observer, Progress, PruneError, Recipe, Report, prune};
use poda_runtime::{Model, Options};

use crate::networks::{Block, Head, Layer, network, transformer};

fn small() -> Graph {
    let layers = [
        Layer::Conv { out: 16, wide: true, bias: true },
        Layer::Activation(0),
        Layer::Conv { out: 20, wide: true, bias: true },
        Layer::Activation(0),
    ];
    network(&layers, Head::Pool, false, 11)
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
    assert!((2..=8).contains(&steps), "{steps}");
}

/// A score that falls as parameters do.
#[expect(clippy::unnecessary_wraps, reason = "it is what a measure gives")]
fn share_of_parameters(graph: &Graph) -> Result<f64, Box<dyn std::error::Error + Send + Sync>> {
    Ok(graph.parameters().count as f64 / small().parameters().count as f64)
}

/// Takes back the third step, or breaks off there.
struct Third {
    steps: usize,
    breaks: bool,
}

impl Observer for Third {
    fn progress(&mut self, progress: Progress) -> ControlFlow<()> {
        self.steps += usize::from(matches!(progress, Progress::Step { .. }));
        if self.breaks && self.steps == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn judges(&self) -> bool {
        true
    }

    fn verdict(&mut self, state: &State) -> Verdict {
        assert!((state.sparsity - 0.1 * self.steps as f64).abs() < 1e-9, "{state:?}");
        if self.steps == 3 { Verdict::RollBack } else { Verdict::Continue }
    }
}

#[test]
fn the_user_is_asked_after_each_step_and_may_break_off() {
    let recipe = Recipe { sparsity: Some(0.5), steps: 5, ..channel(0.0) };
    let mut third = Third { steps: 0, breaks: false };
    let (_, report) = prune(&small(), &recipe, &Shapes::new(), &mut third, None).unwrap();
    assert_eq!((third.steps, removed(&report)), (3, vec![(2, 12), (3, 16), (4, 20)]));
    let mut third = Third { steps: 0, breaks: true };
    let error = prune(&small(), &recipe, &Shapes::new(), &mut third, None).unwrap_err();
    assert!(matches!(error, PruneError::Stopped));
}

#[test]
fn what_costs_too_much_is_taken_back() {
    let asked = Cell::new(0);
    let score = |graph: &Graph| {
        asked.set(asked.get() + 1);
        share_of_parameters(graph)
    };
    let recipe = Recipe { max_drop: Some(0.4), sparsity: Some(0.5), ..channel(0.0) };
    let (pruned, report) = prune(&small(), &recipe, &Shapes::new(), &mut |_| (), Some(&score)).unwrap();
    let left = share_of_parameters(&pruned).unwrap();
    assert!((0.6..0.7).contains(&left), "{left}");
    let search = report.search.unwrap();
    assert_eq!(asked.get(), search.trials.len() + 2, "each candidate once, and the dense model");
    assert!(search.trials.len() <= 8);
    let taken = &search.trials[search.taken.unwrap()];
    assert_eq!(taken.answer.verdict, Verdict::Continue);
    assert!((taken.answer.measured["drop"] - (1.0 - left)).abs() < 1e-9);
    assert!(search.stopped.contains("drop at most 0.4000, found"), "{}", search.stopped);
    // A share that holds is found at once.
    let recipe = Recipe { max_drop: Some(0.9), ..recipe };
    let (_, report) = prune(&small(), &recipe, &Shapes::new(), &mut |_| (), Some(&score)).unwrap();
    assert_eq!(report.search.unwrap().trials.len(), 1);
    let error = run(&small(), &recipe).unwrap_err();
    assert_eq!(error.to_string(), "drop needs validation data");
}

#[test]
fn targets_are_reached_with_as_little_as_possible_or_said_to_be_missed() {
    let bound = |text: &str| vec![text.parse().unwrap()];
    let found = |recipe: &Recipe| {
        let (pruned, report) =
            prune(&small(), recipe, &Shapes::new(), &mut |_| (), Some(&share_of_parameters)).unwrap();
        (share_of_parameters(&pruned).unwrap(), report)
    };
    let recipe = Recipe { until: bound("parameters=1000"), sparsity: None, ..channel(0.0) };
    let (pruned, report) = found(&recipe);
    assert!(report.after.parameters <= 1000, "{pruned}");
    let search = report.search.as_ref().unwrap();
    let taken = &search.trials[search.taken.unwrap()];
    let less = search.trials.iter().filter(|trial| trial.sparsity < taken.sparsity);
    assert!(less.clone().count() > 0 && less.into_iter().all(|t| t.answer.measured["parameters"] > 1000.0));
    // What must be kept comes first.
    let (left, report) = found(&Recipe { keep: bound("score=0.8"), ..recipe.clone() });
    assert!(left >= 0.8 && report.after.parameters > 1000);
    let note = report.notes.iter().find(|note| note.contains("was not reached")).unwrap();
    assert!(note.starts_with("parameters at most 1000 was not reached, parameters is"), "{note}");
    assert!(note.contains("would break score at least 0.8000, found 0."), "{note}");
    // Nothing is removed where nothing has to be, and nothing can be kept that the dense model has not.
    let (left, report) = found(&Recipe { until: bound("macs=1"), ..recipe.clone() });
    assert!(left == 1.0 && report.notes[0].contains("the dense model already has it"), "{:?}", report.notes);
    let recipe = Recipe { keep: bound("score=1.5"), ..recipe };
    let error =
        prune(&small(), &recipe, &Shapes::new(), &mut |_| (), Some(&share_of_parameters)).unwrap_err();
    assert!(error.to_string().starts_with("the dense model itself does not keep"), "{error}");
}

#[test]
fn what_must_stay_is_listed_with_its_reason() {
    let (_, report) = run(&small(), &channel(0.5)).unwrap();
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
    // The third is within -1 ± 0.2 because tanh is bounded whatever it is given.
    assert_eq!(dead, [("a[1]", 3, 4)]);
    assert!(report.check.unwrap().relative < 1e-6);
    let a = pruned.weight(pruned.find("a").unwrap()).unwrap();
    assert_eq!(a.shape(), [2, 1]);
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

/// Seconds that this thread has had a CPU, which neighbours do not change; where the system does not say, those of the clock.
fn thread_seconds(begun: std::time::Instant) -> f64 {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds = told.and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
    nanoseconds.map_or_else(|| begun.elapsed().as_secs_f64(), |ns| ns * 1e-9)
}

#[test]
fn deep_networks_take_time_in_proportion() {
    let begun = std::time::Instant::now();
    let time = |depth: usize| {
        let blocks = vec![Block::FeedForward { hidden: 4, gated: false }; depth];
        let graph = transformer(&blocks, 4, 1);
        let start = thread_seconds(begun);
        let (_, report) = run(&graph, &Recipe { check: false, ..channel(0.5) }).unwrap();
        assert_eq!(report.groups.len(), depth + 1);
        thread_seconds(begun) - start
    };
    let (short, long) = (time(500), time(2000));
    // Four times the work; far from the sixteen times of quadratic behaviour.
    assert!(long < 0.5 + 10.0 * short, "{short} s and {long} s");
}

/// `relu(x · a) · b` with these weights, `[inputs, hidden]` and `[hidden, outputs]`.
fn two_products(a: (&[usize], &[f32]), b: (&[usize], &[f32])) -> Graph {
    let mut graph = Graph::default();
    let dims = vec![Dim::Symbol("batch".into()), Dim::Fixed(a.0[0])];
    let x = graph.add_input("x", DataType::F32, dims);
    let (a, b) = (graph.add_weight("a", Tensor::from_slice(a.0, a.1)), Tensor::from_slice(b.0, b.1));
    let b = graph.add_weight("b", b);
    let x = graph.add_node(Op::MatMul, &[x, a], "first");
    let x = graph.add_node(Op::Unary(Unary::Relu), &[x], "rectified");
    let y = graph.add_node(Op::MatMul, &[x, b], "second");
    graph.outputs.push(y);
    graph
}

#[test]
fn small_weights_are_not_dead_where_they_are_all_there_is() {
    // The last two units make the second output alone, at 10⁻⁹ of the first's scale.
    let waves: Vec<f32> = (0..12).map(|i| (i as f32 + 1.0).sin()).collect();
    let scales = [1e5, 0.0, 2e5, 0.0, 0.0, 1e-4, 0.0, 3e-4];
    let graph = two_products((&[3, 4], &waves), (&[4, 2], &scales));
    let dead = Recipe { remove_dead: true, ..Recipe::default() };
    let (pruned, report) = run(&graph, &dead).unwrap();
    assert!(report.dead.is_empty() && report.looked_for_dead);
    assert_eq!(pruned.weight(pruned.find("b").unwrap()).unwrap().shape(), [4, 2]);
    // Weights that nothing fitting f32 makes felt are.
    let decayed = [1e5, 0.0, 2e5, 0.0, 1.4e-38, 0.0, 0.0, 3e-4];
    let mut small = waves.clone();
    (0..3).for_each(|i| small[i * 4 + 2] = 1.4e-38);
    let (pruned, report) = run(&two_products((&[3, 4], &small), (&[4, 2], &decayed)), &dead).unwrap();
    assert_eq!(report.dead[0].dead, 1);
    assert_eq!(pruned.weight(pruned.find("b").unwrap()).unwrap().shape(), [3, 2]);
}

#[test]
fn patterns_that_fit_nothing_or_everything_are_refused() {
    let exclude = |patterns: &[&str], recipe: Recipe| {
        let exclude = patterns.iter().map(|&p| p.to_owned()).collect();
        run(&with_dead_units(), &Recipe { exclude, ..recipe }).map_err(|error| error.to_string())
    };
    let single = Recipe { sparsity: Some(0.5), ..Recipe::default() };
    for recipe in [channel(0.5), single] {
        let message = exclude(&["A"], recipe.clone()).unwrap_err();
        assert!(message.contains("\"A\"; there is \"a\""), "{message}");
        let message = exclude(&["*"], recipe).unwrap_err();
        assert!(message.contains("excluded"), "{message}");
    }
    let message = exclude(&["second"], channel(0.5)).unwrap_err();
    assert!(message.contains("every layer that has units to lose is excluded"), "{message}");
}

#[test]
fn weights_that_are_no_numbers_are_named_before_anything_is_cut() {
    let graph = two_products((&[1, 2], &[f32::NAN, 1.0]), (&[2, 2], &[1.0, f32::INFINITY, 2.0, 3.0]));
    let single = Recipe { sparsity: Some(0.5), ..Recipe::default() };
    let dead = Recipe { remove_dead: true, ..Recipe::default() };
    for recipe in [channel(0.5), single.clone(), dead] {
        let message = run(&graph, &recipe).unwrap_err().to_string();
        assert!(message.starts_with("weight \"a\" has 1 NaN and 0 infinite elements of 2"), "{message}");
    }
    let message = run(&graph, &Recipe { exclude: vec!["a".into()], ..single }).unwrap_err().to_string();
    assert!(message.starts_with("weight \"b\" has 0 NaN and 1 infinite elements of 4"), "{message}");
}

#[test]
fn a_layer_that_loses_its_last_weight_keeps_its_shape_in_the_report() {
    let waves: Vec<f32> = (0..8).map(|i| (i as f32 + 1.0).sin()).collect();
    let small: Vec<f32> = waves.iter().map(|w| w * 1e-3).collect();
    let graph = two_products((&[2, 4], &waves), (&[4, 2], &small));
    let recipe = Recipe { sparsity: Some(0.5), scope: Scope::Global, ..Recipe::default() };
    let (_, report) = run(&graph, &recipe).unwrap();
    assert!(report.layers.iter().all(|layer| layer.shape_before == layer.shape_after));
    assert_eq!(report.emptied().map(|layer| layer.weight.as_str()).collect::<Vec<_>>(), ["b"]);
}

#[test]
fn open_sizes_stay_open() {
    // `[batch, length, width]` in heads and back, where the width is open in name only.
    let waves = |n: usize| (0..n).map(|i| (i as f32 + 0.5).sin()).collect::<Vec<f32>>();
    let mut graph = Graph::default();
    let dims = ["b", "l", "c"].map(|name| Dim::Symbol(name.into())).to_vec();
    let x = graph.add_input("x", DataType::F32, dims);
    let mut weight = |name: &str, shape: &[usize]| {
        let values = waves(shape.iter().product());
        graph.add_weight(name, Tensor::from_slice(shape, &values))
    };
    let (w, out) = (weight("w", &[8, 16]), weight("out", &[16, 3]));
    let split = graph.add_weight("split", Tensor::from_slice(&[4], &[0_i64, 0, 4, 4]));
    let join = graph.add_weight("join", Tensor::from_slice(&[3], &[0_i64, -1, 16]));
    let y = graph.add_node(Op::MatMul, &[x, w], "product");
    let y = graph.add_node(Op::Reshape { allow_zero: false }, &[y, split], "heads");
    let y = graph.add_node(Op::Unary(Unary::Tanh), &[y], "bounded");
    let y = graph.add_node(Op::Reshape { allow_zero: false }, &[y, join], "joined");
    let y = graph.add_node(Op::MatMul, &[y, out], "y");
    graph.outputs.push(y);
    let given = Shapes::from([("x".to_owned(), vec![2, 5, 8])]);
    let (pruned, report) = prune(&graph, &channel(0.5), &given, &mut |_| (), None).unwrap();
    assert!(report.groups.iter().any(|group| group.removed > 0), "{:?}", report.groups);
    assert!(report.check.as_ref().unwrap().runs >= 3, "{:?}", report.check);
    let executable = Model::from_graph(pruned).unwrap().prepare(Options::default()).unwrap();
    for shape in [[2, 5, 8], [4, 5, 8], [2, 7, 8], [1, 1, 8]] {
        let x = Tensor::from_slice(&shape, &waves(shape.iter().product()));
        let y = executable.run(&[("x", x.view())]).unwrap().remove(0).1;
        assert_eq!(y.shape(), [shape[0], shape[1], 3]);
    }
}

#[test]
fn what_is_infinite_in_both_models_is_said_and_not_compared() {
    let waves: Vec<f32> = (0..16).map(|i| (i as f32 + 1.0).sin()).collect();
    let mut graph = two_products((&[2, 8], &waves), (&[8, 2], &waves));
    let mask = graph.add_weight("mask", Tensor::from_slice(&[2], &[0.0, f32::NEG_INFINITY]));
    let y = graph.add_node(Op::Binary(Binary::Add), &[graph.outputs[0], mask], "y");
    graph.outputs[0] = y;
    let (_, report) = run(&graph, &channel(0.5)).unwrap();
    let check = report.check.as_ref().unwrap();
    assert!(check.relative < 1e-5 && check.not_finite == check.compared, "{check:?}");
    assert!(report.notes.iter().any(|note| note.contains("infinite or NaN in both")), "{:?}", report.notes);
}

#[test]
fn two_targets_are_refused() {
    let error = run(&small(), &Recipe { target_macs: Some(0.5), ..channel(0.5) }).unwrap_err().to_string();
    assert!(error.contains("sparsity and target_macs both say"), "{error}");
}
