//! Random networks, random units removed: the masked model and the compacted model give the same outputs.

use poda_formats::Graph;
use poda_pruner::allocation::keep_enough_of_each;
use poda_pruner::canonical::canonical;
use poda_pruner::check::difference;
use poda_pruner::compact::compact;
use poda_pruner::dead::{Proof, remove_dead};
use poda_pruner::dependency::{DependencyGraph, Removal};
use poda_pruner::mask::masked;
use poda_pruner::settings::Shapes;
use proptest::prelude::*;

use crate::networks::{Block, Head, Layer, network, plant_zeros, transformer};

/// Removes about `share` of all units at random; gives how many went and how far masked and compacted differ.
fn prune_at_random(dense: &Graph, given: &Shapes, share: f64, seed: u64) -> (usize, f64) {
    let (graph, settings) = canonical(dense, given, &|_| false);
    let dependencies = DependencyGraph::new(&graph, settings.facts());
    let mut state = seed | 1;
    let mut random = || {
        // SplitMix64.
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z >> 11) as f64 / (1_u64 << 53) as f64
    };
    let scores: Vec<f64> = (0..dependencies.unit_count()).map(|_| random()).collect();
    let mut removal = Removal::none(&dependencies);
    for unit in 0..dependencies.unit_count() {
        if random() < share {
            removal.remove(unit);
        }
    }
    keep_enough_of_each(&dependencies, &scores, &mut removal);
    let compacted = compact(&graph, &dependencies, settings.facts(), &removal).expect("it compacts");
    let masked = masked(dense, &graph, &dependencies, settings.facts(), &removal);
    let found = difference(&masked, &compacted, &settings.runs(), seed).expect("both run");
    (removal.len(), found.relative)
}

/// Sizes that suit layers which bind them.
fn images() -> Shapes {
    Shapes::from([("x".to_owned(), vec![3, 3, 6, 6])])
}

fn layer() -> impl Strategy<Value = Layer> {
    prop_oneof![
        4 => (1_usize..24, any::<bool>(), any::<bool>()).prop_map(|(out, wide, bias)| Layer::Conv { out, wide, bias }),
        2 => Just(Layer::Depthwise),
        2 => (1_usize..5, 1_usize..5).prop_map(|(groups, each)| Layer::Grouped { groups, each }),
        2 => Just(Layer::BatchNorm),
        3 => (0_usize..7).prop_map(Layer::Activation),
        1 => Just(Layer::Save),
        2 => Just(Layer::Add),
        2 => Just(Layer::Concat),
        2 => any::<bool>().prop_map(|both| Layer::Split { both }),
        1 => (0_usize..3, 1_usize..3).prop_map(|(start, step)| Layer::Slice { start, step }),
        1 => (2_usize..4).prop_map(|groups| Layer::Shuffle { groups }),
        1 => Just(Layer::SqueezeExcite),
        1 => any::<bool>().prop_map(|max| Layer::Pool { max }),
        1 => (1_usize..4).prop_map(|groups| Layer::GroupNorm { groups }),
        1 => Just(Layer::InstanceNorm),
        1 => Just(Layer::ResponseNorm),
        1 => (1_usize..4, 1_usize..5).prop_map(|(groups, each)| Layer::Deconvolution { groups, each }),
        1 => Just(Layer::Resize),
        1 => (0_usize..5).prop_map(|rank| Layer::Scale { rank }),
        1 => Just(Layer::Gate),
        1 => (0_usize..4).prop_map(|how| Layer::Divide { how }),
        1 => (1_usize..12).prop_map(|out| Layer::WeightNorm { out }),
        1 => Just(Layer::DivideByConv),
    ]
}

fn block() -> impl Strategy<Value = Block> {
    let attention = (1_usize..4, 1_usize..3, 1_usize..4, 0_usize..4, any::<bool>());
    prop_oneof![
        3 => attention.prop_map(|(kv_heads, repeat, half_head, fused, rotary)| Block::Attention {
            kv_heads,
            repeat,
            head: 2 * half_head,
            fused,
            rotary,
        }),
        3 => (1_usize..12, any::<bool>()).prop_map(|(hidden, gated)| Block::FeedForward { hidden, gated }),
        2 => any::<bool>().prop_map(|mean| Block::Norm { mean }),
        1 => Just(Block::MixTokens),
        1 => Just(Block::RootMeanSquare),
        1 => (0_usize..3, 1_usize..6, any::<bool>())
            .prop_map(|(kind, hidden, both)| Block::Recurrent { kind, hidden, both }),
        1 => (1_usize..6).prop_map(|hidden| Block::Einsum { hidden }),
    ]
}

fn head() -> impl Strategy<Value = Head> {
    prop_oneof![Just(Head::Flatten), Just(Head::Pool), Just(Head::Squeeze)]
}

/// Removes dead units from a network with zeros in it; gives how many there were and how far the outputs moved.
fn remove_planted(mut graph: Graph, given: &Shapes, share: f64, seed: u64) -> (usize, f64) {
    plant_zeros(&mut graph, share, seed);
    let (start, settings) = canonical(&graph, given, &|_| false);
    let (lean, dead, _) = remove_dead(&start, given, Proof::Exact).expect("it compacts");
    let found = difference(&graph, &lean, &settings.runs(), seed).expect("both run");
    (dead.iter().map(|d| d.dead).sum(), found.relative)
}

proptest! {
    #[test]
    fn dead_units_of_convolutional_networks(
        layers in prop::collection::vec(layer(), 1..14),
        head in head(),
        open in any::<bool>(),
        share in 0.1_f64..0.6,
        seed in any::<u64>(),
    ) {
        let (_, difference) = remove_planted(network(&layers, head, open, seed), &images(), share, seed);
        prop_assert!(difference < 1e-4, "they differ by {difference:e}");
    }

    #[test]
    fn dead_units_of_transformers(
        blocks in prop::collection::vec(block(), 1..7),
        width in 1_usize..7,
        share in 0.1_f64..0.6,
        seed in any::<u64>(),
    ) {
        let (_, difference) = remove_planted(transformer(&blocks, 2 * width, seed), &Shapes::new(), share, seed);
        prop_assert!(difference < 1e-4, "they differ by {difference:e}");
    }

    #[test]
    fn convolutional_networks(
        layers in prop::collection::vec(layer(), 1..14),
        head in head(),
        open in any::<bool>(),
        share in 0.1_f64..0.9,
        seed in any::<u64>(),
    ) {
        let graph = network(&layers, head, open, seed);
        let (_, difference) = prune_at_random(&graph, &images(), share, seed);
        prop_assert!(difference < 1e-4, "they differ by {difference:e}");
    }

    #[test]
    fn transformers(
        blocks in prop::collection::vec(block(), 1..7),
        width in 1_usize..7,
        share in 0.1_f64..0.7,
        seed in any::<u64>(),
    ) {
        let graph = transformer(&blocks, 2 * width, seed);
        let (_, difference) = prune_at_random(&graph, &Shapes::new(), share, seed);
        prop_assert!(difference < 1e-4, "they differ by {difference:e}");
    }
}

#[test]
fn units_do_go() {
    // That nothing is removed would make the tests above pass.
    let layers = [
        Layer::Conv { out: 12, wide: true, bias: true },
        Layer::BatchNorm,
        Layer::Activation(0),
        Layer::Save,
        Layer::Conv { out: 12, wide: false, bias: false },
        Layer::Add,
        Layer::Concat,
        Layer::Shuffle { groups: 2 },
        Layer::Split { both: true },
        Layer::Depthwise,
        Layer::SqueezeExcite,
        Layer::Conv { out: 8, wide: true, bias: false },
        Layer::ResponseNorm,
    ];
    let (removed, difference) =
        prune_at_random(&network(&layers, Head::Flatten, false, 7), &images(), 0.5, 7);
    assert!(removed >= 12 && difference < 1e-4, "{removed} {difference:e}");
    let (dead, difference) = remove_planted(network(&layers, Head::Pool, true, 7), &images(), 0.4, 7);
    assert!(dead >= 4 && difference < 1e-4, "{dead} {difference:e}");
    let blocks = [
        Block::Norm { mean: false },
        Block::Attention { kv_heads: 2, repeat: 2, head: 4, fused: 0, rotary: true },
        Block::FeedForward { hidden: 10, gated: true },
    ];
    let (removed, difference) = prune_at_random(&transformer(&blocks, 8, 3), &Shapes::new(), 0.5, 3);
    assert!(removed >= 8 && difference < 1e-4, "{removed} {difference:e}");
}
