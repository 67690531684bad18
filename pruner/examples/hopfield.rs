//! Deletion of synapses in an associative memory, end to end: Chechik, Meilijson and Ruppin, "Synaptic Pruning in
//! Development: A Computational Account", Neural Computation 10(7), 1998.
//!
//! ```text
//! cargo run --release -p poda-pruner --example hopfield
//! ```
//!
//! Synapses are Hebbian, `W_ij = Σ_μ (ξ_i − p)(ξ_j − p)` over the patterns ξ of a network whose neurons are active with
//! probability p. How well a pattern is told from the others is the signal-to-noise ratio of the fields of its neurons: (mean field
//! of the active ones − of the silent ones)² / variance. What deletion leaves of it is what it leaves of the capacity.

use std::collections::BTreeMap;

use poda_formats::{DataType, Dim, Graph, Op, Tensor};
use poda_pruner::{Recipe, prune};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

const NEURONS: usize = 2000;
const PATTERNS: usize = 800;
/// (Of one half, synapses would be multiples of ½, and many zero already.)
const ACTIVE: f64 = 0.37;

/// Patterns `[PATTERNS, NEURONS]` of 0 and 1.
fn patterns(random: &mut SmallRng) -> Vec<f32> {
    (0..PATTERNS * NEURONS).map(|_| f32::from(u8::from(random.random::<f64>() < ACTIVE))).collect()
}

fn synapses(patterns: &[f32]) -> Vec<f32> {
    let mut weights = vec![0.0_f32; NEURONS * NEURONS];
    for pattern in patterns.chunks_exact(NEURONS) {
        let centred: Vec<f32> = pattern.iter().map(|xi| xi - ACTIVE as f32).collect();
        for (row, &a) in weights.chunks_exact_mut(NEURONS).zip(&centred) {
            row.iter_mut().zip(&centred).for_each(|(w, &b)| *w += a * b);
        }
    }
    // No neuron is its own neighbour.
    (0..NEURONS).for_each(|i| weights[i * NEURONS + i] = 0.0);
    weights
}

/// Signal-to-noise ratio of the fields, over all patterns.
fn ratio(weights: &[f32], patterns: &[f32]) -> f64 {
    let mut total = 0.0;
    for pattern in patterns.chunks_exact(NEURONS) {
        let fields: Vec<f64> = weights
            .chunks_exact(NEURONS)
            .map(|row| row.iter().zip(pattern).map(|(&w, &xi)| f64::from(w * (xi - ACTIVE as f32))).sum())
            .collect();
        let of = |active: bool| {
            let chosen: Vec<f64> = fields
                .iter()
                .zip(pattern)
                .filter(|(_, xi)| (**xi == 1.0) == active)
                .map(|(h, _)| *h)
                .collect();
            let mean = chosen.iter().sum::<f64>() / chosen.len() as f64;
            (mean, chosen.iter().map(|h| (h - mean).powi(2)).sum::<f64>() / chosen.len() as f64)
        };
        let ((on, a), (off, b)) = (of(true), of(false));
        total += (on - off).powi(2) / f64::midpoint(a, b);
    }
    total / PATTERNS as f64
}

fn deleted(weights: &[f32], criterion: &str, kept: f64) -> Vec<f32> {
    let mut graph = Graph::default();
    let x = graph.add_input("x", DataType::F32, vec![Dim::Symbol("batch".into()), Dim::Fixed(NEURONS)]);
    let w = graph.add_weight("w", Tensor::from_slice(&[NEURONS, NEURONS], weights));
    let y = graph.add_node(Op::MatMul, &[x, w], "y");
    graph.outputs.push(y);
    let recipe = Recipe {
        criterion: criterion.to_owned(),
        sparsity: Some(1.0 - kept),
        check: false,
        ..Recipe::default()
    };
    let (pruned, _) =
        prune(&graph, &recipe, &BTreeMap::default(), &mut |_| (), None).expect("a matrix is pruned");
    let weight = pruned.find("w").and_then(|id| pruned.weight(id)?.to_dense().ok()).expect("the matrix");
    weight.as_slice::<f32>().expect("f32").to_vec()
}

fn main() {
    let mut random = SmallRng::seed_from_u64(0);
    let patterns = patterns(&mut random);
    let weights = synapses(&patterns);
    let whole = ratio(&weights, &patterns);
    println!(
        "{NEURONS} neurons, {PATTERNS} patterns; signal to noise {whole:.2}. What deletion leaves of it:\n"
    );
    println!(
        "| kept | minimal-value | compressed | random | memories, as many synapses |\n|---|---|---|---|---|"
    );
    for percent in [50, 40, 30, 25, 21, 20, 15, 10] {
        let kept = f64::from(percent) / 100.0;
        let minimal = deleted(&weights, "magnitude-l1", kept);
        let least = minimal.iter().filter(|w| **w != 0.0).fold(f32::INFINITY, |least, w| least.min(w.abs()));
        let less: Vec<f32> =
            minimal.iter().map(|w| if *w == 0.0 { 0.0 } else { w - least * w.signum() }).collect();
        let share = |weights: &[f32]| ratio(weights, &patterns) / whole;
        let by_chance = share(&deleted(&weights, "random", kept));
        let (minimal, less) = (share(&minimal), share(&less));
        let gain = minimal / kept.sqrt();
        println!("| {percent} % | {minimal:.3} | {less:.3} | {by_chance:.3} | {gain:.3} |");
    }
}
