//! Pruning from unlabelled samples.

use poda_formats::{DataType, Dim, Graph, Tensor, Weight};
use poda_pruner::calibration::{Feeds, Samples, SamplesError};
use poda_pruner::criterion::CRITERIA;
use poda_pruner::recipe::Inputs;
use poda_pruner::report::Reconstructed;
use poda_pruner::settings::Shapes;
use poda_pruner::update::UPDATES;
use poda_pruner::{Data, Granularity, PruneError, Recipe, Report, prune_with};
use poda_runtime::{Model, Options};

use crate::networks::{Block, Head, Layer, network, transformer};

/// Batches of made-up samples, every fourth kept aside.
pub(crate) struct MadeUp(Vec<Feeds>);

impl MadeUp {
    pub(crate) fn new(graph: &Graph, batches: usize, shape: &dyn Fn(&str) -> Vec<usize>) -> Self {
        let mut state = 1_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as f32 / (1_u64 << 24) as f32
        };
        let mut feed = |name: &str, dtype: DataType| {
            let shape = shape(name);
            let len: usize = shape.iter().product();
            if dtype.is_float() {
                // (With a mean, as activations have.)
                return Tensor::from_slice(
                    &shape,
                    &(0..len).map(|_| next() * 2.0 - 0.7).collect::<Vec<f32>>(),
                );
            }
            Tensor::from_slice(&shape, &(0..len).map(|_| (next() * 5.0) as i64).collect::<Vec<i64>>())
        };
        let inputs: Vec<_> = graph.inputs.iter().map(|&id| graph.value(id).clone()).collect();
        let batch = |_| inputs.iter().map(|v| (v.name.clone(), feed(&v.name, v.dtype.unwrap()))).collect();
        Self((0..batches).map(batch).collect())
    }
}

impl Samples for MadeUp {
    fn batches(&self) -> usize {
        self.0.len()
    }

    fn feeds(&self, batch: usize) -> Result<Feeds, SamplesError> {
        Ok(self.0[batch].clone())
    }

    fn held_out(&self, batch: usize) -> bool {
        batch % 4 == 3
    }
}

pub(crate) fn small() -> (Graph, MadeUp) {
    let layers = [
        Layer::Conv { out: 16, wide: true, bias: true },
        Layer::Activation(0),
        Layer::Conv { out: 20, wide: true, bias: true },
        Layer::Activation(0),
    ];
    let graph = network(&layers, Head::Pool, false, 11);
    let dims: Vec<usize> = graph
        .value(graph.inputs[0])
        .shape
        .as_ref()
        .unwrap()
        .iter()
        .map(|dim| dim.to_string().parse().unwrap_or(6))
        .collect();
    let samples = MadeUp::new(&graph, 8, &|_| dims.clone());
    (graph, samples)
}

pub(crate) fn run(
    graph: &Graph,
    samples: &dyn Samples,
    recipe: &Recipe,
) -> Result<(Graph, Report), PruneError> {
    let data = Data { samples: Some(samples), ..Data::default() };
    prune_with(graph, recipe, &Shapes::new(), &mut |_| (), data)
}

/// Mean squared difference of outputs on what was kept aside.
pub(crate) fn distance(a: &Graph, b: &Graph, samples: &MadeUp) -> f64 {
    let options = || Options { threads: Some(1), tune: false, ..Options::default() };
    let run = |graph: &Graph, feeds: &Feeds| -> Vec<f32> {
        let executable = Model::from_graph(graph.clone()).unwrap().prepare(options()).unwrap();
        let feeds: Vec<_> = feeds.iter().map(|(name, tensor)| (name.as_str(), tensor.view())).collect();
        executable
            .run(&feeds)
            .unwrap()
            .iter()
            .flat_map(|(_, t)| t.as_slice::<f32>().unwrap().to_vec())
            .collect()
    };
    let held_out = samples.0.iter().skip(3).step_by(4);
    held_out
        .flat_map(|feeds| run(a, feeds).into_iter().zip(run(b, feeds)))
        .map(|(x, y)| f64::from(x - y).powi(2))
        .sum()
}

#[test]
fn every_criterion_and_every_update_gives_the_sparsity_asked_for() {
    let (graph, samples) = small();
    let names = |update: &str| vec![update.to_owned()];
    let of_weights = CRITERIA.iter().filter(|c| c.scores(Granularity::Unstructured));
    let recipes =
        of_weights.map(|c| (c.name(), None)).chain(UPDATES.iter().map(|u| ("wanda", Some(names(u.name())))));
    for (criterion, update) in recipes {
        for inputs in [Inputs::Pruned, Inputs::Dense] {
            let recipe = Recipe {
                sparsity: Some(0.5),
                criterion: criterion.into(),
                update: update.clone(),
                inputs,
                ..Recipe::default()
            };
            let (_, report) =
                run(&graph, &samples, &recipe).unwrap_or_else(|error| panic!("{recipe:?}: {error}"));
            let [before, after] = [0, 1]
                .map(|of| report.layers.iter().map(|l| [l.nnz_before, l.nnz_after][of]).sum::<u64>() as f64);
            // (Of rows of odd lengths, half is one more or less.)
            assert!((after / before - 0.5).abs() < 0.02, "{recipe:?}: {after} of {before}");
            assert_eq!(report.fits.len(), report.layers.len());
            for fit in &report.fits {
                let [cut, fitted] = [fit.error_before.unwrap(), fit.error_after.unwrap()];
                assert!(cut.is_finite() && fitted.is_finite() && fit.held_out_rows > 0, "{fit:?}");
            }
        }
    }
}

#[test]
fn fitted_weights_come_nearer_to_the_dense_outputs_at_every_granularity() {
    let (graph, samples) = small();
    let granularities = [
        Granularity::Unstructured,
        "nm:2:4".parse().unwrap(),
        "block:2x1".parse().unwrap(),
        Granularity::Channel,
    ];
    for granularity in granularities {
        let pruned = |update: &[&str]| {
            let update = Some(update.iter().map(|&name| name.to_owned()).collect());
            let sparsity = (granularity.to_string() != "nm:2:4").then_some(0.5);
            let recipe = Recipe { granularity, sparsity, update, round_to: Some(1), ..Recipe::default() };
            let (pruned, report) = run(&graph, &samples, &recipe).unwrap();
            assert!(report.check.unwrap().relative < 1e-3);
            distance(&graph, &pruned, &samples)
        };
        let (cut, bias, fitted) = (pruned(&["none"]), pruned(&["bias"]), pruned(&["bias", "least-squares"]));
        assert!(bias < cut && fitted < bias, "{granularity}: {cut} {bias} {fitted}");
    }
}

#[test]
fn a_transformer_is_fitted_layer_by_layer() {
    let (graph, samples) = small_transformer();
    let of = |update: &str| {
        let update = Some(vec![update.to_owned()]);
        let recipe = Recipe { sparsity: Some(0.5), update, ..Recipe::default() };
        let (pruned, report) = run(&graph, &samples, &recipe).unwrap();
        assert!(report.notes.iter().all(|note| !note.contains("left as they are")), "{:?}", report.notes);
        (distance(&graph, &pruned, &samples), report)
    };
    let ((cut, _), (fitted, report)) = (of("none"), of("least-squares"));
    assert!(fitted < cut, "{cut} {fitted}");
    assert!(
        report.fits.iter().all(|fit| fit.error_after.unwrap() <= fit.error_before.unwrap() * 1.2),
        "{:?}",
        report.fits
    );
}

/// Attention and a feed-forward network, each with its residual addition, and samples for them.
fn small_transformer() -> (Graph, MadeUp) {
    let blocks = [
        Block::Norm { mean: true },
        Block::Attention { kv_heads: 2, repeat: 1, head: 4, fused: 0, rotary: false },
        Block::FeedForward { hidden: 24, gated: false },
    ];
    let graph = transformer(&blocks, 16, 3);
    let dims = |name: &str| {
        let id = graph.find(name).unwrap();
        let sizes = graph.value(id).shape.clone().unwrap();
        let size = |(axis, dim): (usize, &Dim)| dim.to_string().parse().unwrap_or([4, 6][axis.min(1)]);
        sizes.iter().enumerate().map(size).collect()
    };
    let samples = MadeUp::new(&graph, 8, &dims);
    (graph, samples)
}

#[test]
fn trained_submodules_come_nearer_to_the_dense_outputs_and_keep_zeros() {
    let (graph, samples) = small_transformer();
    for (granularity, inputs) in [
        ("unstructured", Inputs::Both),
        ("unstructured", Inputs::Pruned),
        ("unstructured", Inputs::Dense),
        ("nm:2:4", Inputs::Both),
        ("block:2x1", Inputs::Both),
    ] {
        let recipe = |update: &[&str]| Recipe {
            granularity: granularity.parse().unwrap(),
            sparsity: (granularity != "nm:2:4").then_some(0.5),
            update: Some(update.iter().map(|&name| name.to_owned()).collect()),
            inputs,
            ..Recipe::default()
        };
        let (fitted, _) = run(&graph, &samples, &recipe(&["bias", "least-squares"])).unwrap();
        let with = recipe(&["bias", "least-squares", "reconstruction"]);
        let (trained, report) = run(&graph, &samples, &with).unwrap();
        assert!(!report.submodules.is_empty());
        for submodule in &report.submodules {
            assert_eq!(submodule.left, None);
            assert!(
                submodule.weights > 0 && submodule.error_after <= submodule.error_before,
                "{submodule:?}"
            );
        }
        let sum =
            |of: fn(&Reconstructed) -> Option<f64>| report.submodules.iter().filter_map(of).sum::<f64>();
        assert!(sum(|s| s.error_after) < sum(|s| s.error_before), "{granularity}: {:?}", report.submodules);
        // The same zeros, bit by bit the same elements in another run.
        let (again, _) = run(&graph, &samples, &with).unwrap();
        for ((value, was), again) in trained.values.iter().zip(&fitted.values).zip(&again.values) {
            let elements = |weight: &Option<Weight>| {
                let tensor = weight.as_ref().filter(|w| w.dtype() == DataType::F32 && w.shape().len() > 1)?;
                Some(tensor.to_dense().unwrap().as_slice::<f32>().unwrap().to_vec())
            };
            let (now, was, again) = (elements(&value.weight), elements(&was.weight), elements(&again.weight));
            assert_eq!(now, again, "{}", value.name);
            let zeros =
                |values: Option<Vec<f32>>| values.map(|v| v.iter().map(|v| *v == 0.0).collect::<Vec<_>>());
            assert_eq!(zeros(now), zeros(was), "{}", value.name);
        }
    }
}

#[test]
fn layers_trained_by_themselves_come_towards_their_dense_outputs() {
    let (graph, samples) = small();
    let update = Some(vec!["adaprune".to_owned()]);
    let recipe = Recipe { sparsity: Some(0.5), update, inputs: Inputs::Dense, ..Recipe::default() };
    let report = run(&graph, &samples, &recipe).unwrap().1;
    assert_eq!(report.submodules.len(), report.layers.len());
    let mut nearer = 0;
    for layer in &report.submodules {
        let [before, after] = [layer.error_before.unwrap(), layer.error_after.unwrap()];
        // (A layer that is spared has nothing to learn.)
        assert!(after < before || before == 0.0, "{layer:?}");
        nearer += usize::from(after < before);
    }
    assert!(nearer > 0);
}

#[test]
fn data_that_do_not_do_are_refused_before_anything_is_cut() {
    let (graph, mut samples) = small();
    let recipe = |criterion: &str, update: Option<&str>| Recipe {
        sparsity: Some(0.5),
        criterion: criterion.into(),
        update: update.map(|name| vec![name.to_owned()]),
        ..Recipe::default()
    };
    let without = |recipe: &Recipe| {
        prune_with(&graph, recipe, &Shapes::new(), &mut |_| (), Data::default()).unwrap_err().to_string()
    };
    let message = "needs calibration data: give unlabelled samples (--data), or take another";
    assert_eq!(without(&recipe("wanda", None)), format!("criterion \"wanda\" {message}"));
    assert_eq!(without(&recipe("random", Some("admm"))), format!("update \"admm\" {message}"));
    assert!(
        without(&recipe("random", Some("magic")))
            .starts_with("update \"magic\" is not known; there are none, ")
    );
    let blocks =
        Recipe { granularity: "block:2x1".parse().unwrap(), ..recipe("wanda", Some("sparse-swaps")) };
    let error = run(&graph, &samples, &blocks).unwrap_err().to_string();
    assert!(error.ends_with("sparse-swaps moves single weights, but blocks stay or go whole"), "{error}");
    let (name, tensor) = samples.0[2][0].clone();
    let mut values = tensor.as_slice::<f32>().unwrap().to_vec();
    (values[3], values[5]) = (f32::NAN, f32::INFINITY);
    samples.0[2][0].1 = Tensor::from_slice(tensor.shape(), &values);
    let error = run(&graph, &samples, &recipe("wanda", None)).unwrap_err().to_string();
    let expected = format!(
        "calibration data: batch 2 of input {name:?} has 2 NaN or infinite elements of {}",
        values.len()
    );
    assert_eq!(error, expected);
    let none = MadeUp(Vec::new());
    assert_eq!(
        run(&graph, &none, &recipe("wanda", None)).unwrap_err().to_string(),
        "calibration data: no samples to fit weights to"
    );
}

#[test]
fn too_few_rows_are_told() {
    let (graph, samples) = small();
    let few = MadeUp(samples.0.into_iter().take(1).collect());
    let (_, report) = run(&graph, &few, &Recipe { sparsity: Some(0.5), ..Recipe::default() }).unwrap();
    let told = report.notes.iter().any(|note| note.contains("fewer than 16 rows for each input"));
    assert!(told, "{:?}", report.notes);
}
