//! Random graphs, run in every way that a plan may take: with every pass, with none, with each pass alone and each left out,
//! on one thread and two, with dense weights and stored sparse; against their operators one by one.
//!
//! The graphs are the same at every run. `PODA_CASES` sets how many, `PODA_SEED` which:
//!
//!     PODA_CASES=20000 PODA_SEED=7 cargo test --release -p poda-runtime --test differential

mod choices;
mod grow;
mod moves;
mod reference;

use poda_formats::{Graph, Tensor};
use poda_runtime::optimize::optimize;
use poda_runtime::{Model, Options, PASSES, Passes};
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestError, TestRng, TestRunner};

use grow::Grown;

fn number(variable: &str, default: u64) -> u64 {
    let text = std::env::var(variable).ok();
    text.map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{variable} should be a number")))
}

/// Each pass alone, and each left out.
fn selections() -> impl Iterator<Item = Passes> {
    let switched = |start: Passes, on| {
        PASSES.iter().map(move |pass| start.with(pass.name, on).expect("a name of the table"))
    };
    switched(Passes::none(), true).chain(switched(Passes::all(), false))
}

/// Ways to run a graph with its weights as they are, or stored sparse.
fn ways(stored: bool) -> Vec<Options> {
    let base = Options { tune: false, ..Options::default() };
    let way = |passes, threads| Options { passes, threads: Some(threads), ..base.clone() };
    let mut ways = vec![way(Passes::none(), 1), way(Passes::all(), 1), way(Passes::all(), 2)];
    if !stored {
        ways.extend(selections().map(|passes| way(passes, 1)));
    }
    ways
}

/// What passes from graph to graph give computes the same, and is a valid model.
fn check_graphs(
    Grown { graph, feeds }: &Grown,
    agree: impl Fn(usize, &Tensor) -> Result<(), String>,
) -> Result<(), String> {
    for passes in selections().chain([Passes::all()]).filter(|passes| {
        // (What is done once a shape leaves the graph as it is.)
        PASSES.iter().any(|pass| !pass.is_lowering() && passes.has(pass.name))
    }) {
        let optimized = optimize(graph, passes);
        Model::from_graph(optimized.clone()).map_err(|e| format!("{passes:?}: {e}"))?;
        let found = reference::run(&optimized, feeds);
        for (i, id) in optimized.outputs.iter().enumerate() {
            agree(i, &found[id]).map_err(|e| format!("the graph with {passes:?}: output {i}: {e}"))?;
        }
    }
    Ok(())
}

/// Runs a graph in every way.
fn check(grown: &Grown) -> Result<(), String> {
    let Grown { graph, feeds } = grown;
    let plain = reference::run(graph, feeds);
    let wide: Vec<_> = feeds.iter().map(|(name, tensor)| (name.clone(), reference::wide(tensor))).collect();
    let exact = reference::run(&reference::widened(graph), &wide);
    check_graphs(grown, |i, found| {
        let id = &graph.outputs[i];
        reference::compare(found, &plain[id], &exact[id])
    })?;
    let mut stored = graph.clone();
    stored.store_sparse();
    for (graph, kind) in [(graph, "dense"), (&stored, "stored sparse")] {
        for options in ways(kind != "dense") {
            let how = format!("{kind}, {options:?}");
            let model = Model::from_graph(graph.clone()).map_err(|e| format!("{how}: {e}"))?;
            let executable = model.prepare(options).map_err(|e| format!("{how}: {e}"))?;
            let feeds: Vec<_> = feeds.iter().map(|(name, tensor)| (name.as_str(), tensor.view())).collect();
            // The second run finds memory as the first left it.
            for _ in 0..2 {
                let found = executable.run(&feeds).map_err(|e| format!("{how}: {e}"))?;
                for (id, (name, found)) in graph.outputs.iter().zip(&found) {
                    reference::compare(found, &plain[id], &exact[id])
                        .map_err(|e| format!("{how}: output {name}: {e}"))?;
                }
            }
        }
    }
    Ok(())
}

/// A graph to read in a failure.
fn describe(Grown { graph, feeds }: &Grown) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    let constant = |g: &Graph, i: usize| {
        let value = &g.values[i];
        value.weight.as_ref().map(|w| match w.to_dense() {
            Ok(tensor) if tensor.len() == 1 => match (tensor.as_slice::<f32>(), tensor.as_slice::<i64>()) {
                (Ok(v), _) => format!("{}={}{:?}", value.name, v[0], tensor.shape()),
                (_, Ok(v)) => format!("{}={}", value.name, v[0]),
                _ => value.name.clone(),
            },
            Ok(tensor) if tensor.as_slice::<i64>().is_ok() => {
                format!("{}={:?}", value.name, tensor.as_slice::<i64>().expect("just asked"))
            }
            _ => format!("{}:const{:?}", value.name, w.shape()),
        })
    };
    for (name, tensor) in feeds {
        let _ = writeln!(text, "  {name}: {} {:?}", tensor.dtype(), tensor.shape());
    }
    for node in &graph.nodes {
        let inputs: Vec<_> = node
            .inputs
            .iter()
            .flatten()
            .map(|id| constant(graph, id.index()).unwrap_or_else(|| graph.value(*id).name.clone()))
            .collect();
        let output = &graph.value(node.output(0).expect("one output")).name;
        let _ = writeln!(text, "  {output} = {:?} ({})", node.op, inputs.join(", "));
    }
    let outputs: Vec<_> = graph.outputs.iter().map(|&id| graph.value(id).name.as_str()).collect();
    let _ = writeln!(text, "  -> {}", outputs.join(", "));
    text
}

/// What graphs grow from, always the same.
fn runner(cases: u32) -> TestRunner {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&number("PODA_SEED", 0).to_le_bytes());
    let config = ProptestConfig {
        cases,
        failure_persistence: None,
        max_shrink_iters: 4000,
        ..ProptestConfig::default()
    };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed))
}

fn tapes() -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(any::<u32>(), 4..120)
}

#[test]
fn random_graphs_compute_what_their_operators_do() {
    let mut runner = runner(number("PODA_CASES", 300) as u32);
    let result = runner.run(&tapes(), |tape| check(&grow::grow(&tape)).map_err(TestCaseError::fail));
    if let Err(TestError::Fail(reason, tape)) = result {
        panic!("{reason}\n{}", describe(&grow::grow(&tape)));
    }
    assert!(result.is_ok(), "{result:?}");
}
