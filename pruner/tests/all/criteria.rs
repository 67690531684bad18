//! Every criterion through the public interface, at every granularity that it scores.

use poda_formats::{Graph, Tensor, ValueId};
use poda_pruner::calibration::{Example, Feeds, Samples, SamplesError};
use poda_pruner::criterion::{CRITERIA, Normalize};
use poda_pruner::settings::Shapes;
use poda_pruner::{Data, Granularity, PruneError, Recipe, Report, prune_with};
use poda_runtime::{Model, Options};

use crate::networks::{Block, Head, Layer, network, transformer};

/// Made-up samples with classes.
struct Labelled {
    feeds: Vec<Feeds>,
    classes: Option<i64>,
}

impl Labelled {
    fn new(graph: &Graph, batches: usize, classes: Option<i64>, open: [usize; 2]) -> Self {
        let mut state = 7_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as f32 / (1_u64 << 24) as f32
        };
        let mut feed = |id: &ValueId| {
            let value = graph.value(*id);
            let sizes = value.shape.iter().flatten().enumerate();
            let shape: Vec<usize> =
                sizes.map(|(axis, dim)| dim.to_string().parse().unwrap_or(open[axis.min(1)])).collect();
            let len = shape.iter().product();
            let tensor = if value.dtype.unwrap().is_float() {
                Tensor::from_slice(&shape, &(0..len).map(|_| next() * 2.0 - 0.7).collect::<Vec<f32>>())
            } else {
                Tensor::from_slice(&shape, &(0..len).map(|_| (next() * 5.0) as i64).collect::<Vec<i64>>())
            };
            (value.name.clone(), tensor)
        };
        let feeds = (0..batches).map(|_| graph.inputs.iter().map(&mut feed).collect()).collect();
        Self { feeds, classes }
    }
}

impl Samples for Labelled {
    fn batches(&self) -> usize {
        self.feeds.len()
    }

    fn feeds(&self, batch: usize) -> Result<Feeds, SamplesError> {
        Ok(self.feeds[batch].clone())
    }

    fn held_out(&self, batch: usize) -> bool {
        batch % 4 == 3
    }

    fn examples(&self, batch: usize, _: usize) -> Result<Vec<Example>, SamplesError> {
        let feeds = self.feeds(batch)?;
        let samples = feeds[0].1.shape()[0];
        let labels = self.classes.map(|classes| {
            let labels: Vec<i64> = (0..samples).map(|at| (batch * 3 + at) as i64 % classes).collect();
            Tensor::from_slice(&[samples], &labels)
        });
        Ok(vec![Example { feeds, labels }])
    }
}

fn convolutional() -> Graph {
    let layers = [
        Layer::Conv { out: 16, wide: true, bias: false },
        Layer::BatchNorm,
        Layer::Activation(0),
        Layer::Conv { out: 20, wide: true, bias: false },
        Layer::BatchNorm,
        Layer::Activation(0),
    ];
    network(&layers, Head::Pool, false, 11)
}

fn short() -> Graph {
    let blocks = [
        Block::Norm { mean: true },
        Block::Attention { kv_heads: 4, repeat: 1, head: 4, fused: 0, rotary: false },
        Block::Norm { mean: true },
        Block::FeedForward { hidden: 24, gated: false },
    ];
    transformer(&blocks, 16, 3)
}

fn run(graph: &Graph, samples: &dyn Samples, recipe: &Recipe) -> Result<(Graph, Report), PruneError> {
    let data = Data { samples: Some(samples), ..Data::default() };
    prune_with(graph, recipe, &Shapes::new(), &mut |_| (), data)
}

#[test]
fn every_criterion_takes_the_channels_asked_for_with_labels_and_without() {
    let graph = convolutional();
    for criterion in CRITERIA.iter().filter(|criterion| criterion.scores(Granularity::Channel)) {
        for classes in [Some(5), None] {
            let samples = Labelled::new(&graph, 8, classes, [2, 6]);
            let recipe = Recipe {
                granularity: Granularity::Channel,
                sparsity: Some(0.5),
                criterion: criterion.name().into(),
                round_to: Some(1),
                ..Recipe::default()
            };
            let result = run(&graph, &samples, &recipe);
            if criterion.name() == "mutual-information" && classes.is_none() {
                let error = result.unwrap_err().to_string();
                assert!(error.starts_with("criterion \"mutual-information\" needs labels"), "{error}");
                continue;
            }
            let (_, report) = result.unwrap_or_else(|error| panic!("{criterion:?}, {classes:?}: {error}"));
            let [removed, units] =
                [0, 1].map(|of| report.groups.iter().map(|g| [g.removed, g.units][of]).sum::<usize>());
            let seen = if criterion.name() == "batch-norm" { units - report.groups[0].units } else { units };
            let expected = seen as f64 / 2.0;
            assert!((removed as f64 - expected).abs() < 2.0, "{criterion:?}: {removed} of {seen}");
            assert!(report.check.unwrap().relative < 1e-3, "{criterion:?}");
        }
    }
}

#[test]
fn heads_and_hidden_units_of_a_transformer_are_scored() {
    let graph = short();
    let samples = Labelled::new(&graph, 8, None, [3, 6]);
    for name in ["gradient", "taylor-fo", "taylor-2016", "oracle", "flap", "ziplm", "deviation", "obert"] {
        let recipe = Recipe {
            granularity: Granularity::Channel,
            sparsity: Some(0.5),
            criterion: name.into(),
            round_to: Some(1),
            ..Recipe::default()
        };
        let (_, report) = run(&graph, &samples, &recipe).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(report.groups.iter().any(|group| group.removed > 0), "{name}: {:?}", report.groups);
        assert!(report.check.unwrap().relative < 1e-3, "{name}");
    }
}

#[test]
fn blocks_and_n_of_m_go_by_gradients() {
    let graph = convolutional();
    let samples = Labelled::new(&graph, 8, Some(5), [2, 6]);
    for (granularity, sparsity) in [("block:2x1", Some(0.5)), ("nm:2:4", None)] {
        for criterion in ["gradient", "taylor-fo", "obd", "obert"] {
            let granularity = granularity.parse().unwrap();
            let recipe = Recipe { granularity, sparsity, criterion: criterion.into(), ..Recipe::default() };
            let (_, report) = run(&graph, &samples, &recipe).unwrap();
            let [before, after] = [0, 1]
                .map(|of| report.layers.iter().map(|l| [l.nnz_before, l.nnz_after][of]).sum::<u64>() as f64);
            assert!((after / before - 0.5).abs() < 0.05, "{granularity} {criterion}: {after} of {before}");
        }
    }
}

/// The outputs for one batch.
fn outputs(graph: &Graph, feeds: &Feeds) -> Vec<f32> {
    let options = Options { threads: Some(1), tune: false, ..Options::default() };
    let executable = Model::from_graph(graph.clone()).unwrap().prepare(options).unwrap();
    let feeds: Vec<_> = feeds.iter().map(|(name, tensor)| (name.as_str(), tensor.view())).collect();
    executable.run(&feeds).unwrap().iter().flat_map(|(_, t)| t.as_slice::<f32>().unwrap().to_vec()).collect()
}

#[test]
fn the_block_that_does_least_goes_whole() {
    let mut graph = short();
    let samples = Labelled::new(&graph, 8, None, [3, 6]);
    let depth = |share: f64, criterion: &str| Recipe {
        granularity: Granularity::Depth,
        sparsity: Some(share),
        criterion: criterion.into(),
        ..Recipe::default()
    };
    let (_, report) = run(&graph, &samples, &depth(0.0, "auto")).unwrap();
    let blocks = report.groups.clone();
    assert_eq!(blocks.len(), 2, "{blocks:?}");
    assert!(blocks.iter().all(|block| block.units == 1 && block.removed == 0 && !block.weights.is_empty()));
    // The last matrix and bias of a block are made small: leaving the block out changes next to nothing.
    for (at, block) in blocks.iter().enumerate() {
        let dense = graph.clone();
        let last = graph.find(block.weights.last().unwrap()).unwrap();
        let reads = |graph: &Graph, id: ValueId| {
            graph.nodes.iter().find(|node| node.inputs.contains(&Some(id))).unwrap().clone()
        };
        let product = reads(&graph, last).output(0).unwrap();
        let bias = reads(&graph, product).inputs.into_iter().flatten().find(|id| *id != product).unwrap();
        for id in [last, bias] {
            let weight = graph.weight(id).unwrap().to_dense().unwrap();
            let small: Vec<f32> = weight.as_slice::<f32>().unwrap().iter().map(|w| w * 1e-3).collect();
            graph.value_mut(id).weight = Some(Tensor::from_slice(weight.shape(), &small).into());
        }
        for criterion in ["oracle", "block-influence"] {
            let (pruned, report) = run(&graph, &samples, &depth(0.5, criterion)).unwrap();
            let removed: Vec<usize> = report.groups.iter().map(|block| block.removed).collect();
            assert_eq!(removed[at], 1, "{criterion}: {removed:?}");
            assert_eq!(removed.iter().sum::<usize>(), 1);
            assert!(report.check.unwrap().relative < 1e-5);
            assert!(report.after.parameters < report.before.parameters);
            for name in &block.weights {
                assert!(pruned.find(name).is_none(), "{name} is left");
            }
            // Far nearer to the dense outputs than without the other block.
            let other = Recipe { exclude: vec![block.name.clone()], ..depth(0.5, criterion) };
            let (other, report) = run(&graph, &samples, &other).unwrap();
            assert_eq!(report.groups.iter().map(|block| block.removed).sum::<usize>(), 1);
            let dense = outputs(&graph, &samples.feeds[3]);
            let [found, other] = [&pruned, &other].map(|model| {
                let pairs = dense.iter().zip(outputs(model, &samples.feeds[3]));
                pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>()
            });
            assert!(found < 0.1 * other, "{criterion}: {found} {other}");
        }
        graph = dense;
    }
    // All of them: the check compares with the branches at zero.
    let all = Recipe { sparsity: Some(0.99), ..depth(0.5, "auto") };
    let (_, report) = run(&graph, &samples, &all).unwrap();
    assert_eq!(report.groups.iter().map(|block| block.removed).sum::<usize>(), 2);
    assert!(report.check.unwrap().relative < 1e-5);
}

#[test]
fn scores_are_made_comparable_as_the_recipe_says() {
    let graph = convolutional();
    let samples = Labelled::new(&graph, 8, Some(5), [2, 6]);
    let base = Recipe {
        granularity: Granularity::Channel,
        sparsity: Some(0.5),
        criterion: "magnitude-l1".into(),
        scope: poda_pruner::allocation::Scope::Global,
        round_to: Some(1),
        update: Some(Vec::new()),
        ..Recipe::default()
    };
    let removed = |recipe: &Recipe| -> Vec<usize> {
        let (_, report) = run(&graph, &samples, recipe).unwrap();
        report.groups.iter().map(|group| group.removed).collect()
    };
    // Sums over matrices of several sizes, as they are, and by their mean.
    let [none, mean] =
        [Normalize::None, Normalize::Mean].map(|normalize| removed(&Recipe { normalize, ..base.clone() }));
    assert_eq!(none.iter().sum::<usize>(), mean.iter().sum::<usize>());
    assert_ne!(none, mean);
    assert_eq!(removed(&base), mean);
    // What is taken off for work changes which groups lose most.
    assert_ne!(removed(&Recipe { flops_penalty: 1e9, ..base }), mean);
}

#[test]
fn what_a_criterion_cannot_do_is_refused_with_what_to_do() {
    let graph = convolutional();
    let samples = Labelled::new(&graph, 4, Some(9), [2, 6]);
    let refused = |text: &str| {
        let recipe = Recipe::from_toml(text);
        recipe.map_or_else(
            |error| error.to_string(),
            |recipe| run(&graph, &samples, &recipe).unwrap_err().to_string(),
        )
    };
    for (text, message) in [
        (
            "sparsity = 0.5\ncriterion = \"fpgm\"",
            "criterion \"fpgm\" does not tell single weights apart; of unstructured ",
        ),
        (
            "sparsity = 0.5\ncriterion = \"magnitude-l1\"\ngranularity = \"depth\"",
            "criterion \"magnitude-l1\" does not tell whole blocks apart; of depth oracle, block-influence do",
        ),
        (
            "sparsity = 0.5\nflops_penalty = 0.1",
            "flops_penalty is for granularity channel, not for unstructured",
        ),
        ("sparsity = 0.5\nflops_penalty = -1.0", "flops_penalty is -1"),
        (
            "sparsity = 0.5\ngranularity = \"depth\"\nupdate = [\"bias\"]",
            "update is for granularity any but depth, of which whole blocks go, not for depth",
        ),
        ("sparsity = 0.5\ngranularity = \"depth\"", "nothing can be removed: no residual block was found"),
        ("sparsity = 0.5\ncriterion = \"snip\"", "the label 6 is no class: "),
    ] {
        let error = refused(text);
        assert!(error.starts_with(message), "{error}");
    }
    let recipe = Recipe { sparsity: Some(0.5), criterion: "snip".into(), ..Recipe::default() };
    let error = prune_with(&graph, &recipe, &Shapes::new(), &mut |_| (), Data::default()).unwrap_err();
    assert!(error.to_string().starts_with("criterion \"snip\" needs calibration data"), "{error}");
}
