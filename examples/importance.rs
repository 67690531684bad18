//! How criteria rank the channels and hidden units of a model, held against the oracle, which leaves out each in turn: Spearman's
//! rank correlation as in Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient Inference", ICLR 2017.
//!
//!     cargo run --release --example importance -- MODEL SAMPLES.npz [CRITERION…]
//!
//! SAMPLES with labels are judged by their cross-entropy. Columns: mean over layers of the correlation in one; over all units, by
//! scores as they are; over all, by scores divided by the Euclidean norm of their layer's.

use std::error::Error;

use poda::calibration::Calibration;
use poda::correlation::spearman;
use poda::pruner::criterion::{CRITERIA, Normalize};
use poda::pruner::{Data, Granularity, Recipe, scores};
use poda::shapes::Sizes;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, samples, chosen @ ..] = &args[..] else {
        return Err("usage: importance MODEL SAMPLES.npz [CRITERION…]".into());
    };
    let graph = poda::formats::open(model)?;
    let shapes = Sizes::default().resolve_given(&graph)?;
    let calibration = Calibration::open(samples, &graph)?;
    let samples = calibration.bind(&graph)?;
    let of = |criterion: &str, normalize: Normalize| {
        let recipe = Recipe {
            criterion: criterion.to_owned(),
            granularity: Granularity::Channel,
            sparsity: Some(0.5),
            normalize,
            ..Recipe::default()
        };
        scores(&graph, &recipe, &shapes, &mut |_| (), Data { samples: Some(&samples), ..Data::default() })
    };
    let oracle = of("oracle", Normalize::None)?;
    let all = |groups: &[(String, Vec<f64>)]| -> Vec<f64> {
        groups.iter().flat_map(|(_, scores)| scores.clone()).collect()
    };
    println!("{} units in {} layers\n", all(&oracle).len(), oracle.len());
    println!("| criterion | per layer | all layers | all, L2 |\n|---|---|---|---|");
    for criterion in CRITERIA.iter().filter(|criterion| criterion.of_units().is_some()) {
        let name = criterion.name();
        if name == "oracle" || !(chosen.is_empty() || chosen.iter().any(|chosen| chosen == name)) {
            continue;
        }
        let (plain, scaled) = match (of(name, Normalize::None), of(name, Normalize::L2)) {
            (Ok(plain), Ok(scaled)) => (plain, scaled),
            (Err(error), _) | (_, Err(error)) => {
                println!("| {name} | {error} | | |");
                continue;
            }
        };
        let layers = plain.iter().zip(&oracle).map(|((_, ours), (_, theirs))| spearman(ours, theirs));
        println!(
            "| {name} | {:.2} | {:.2} | {:.2} |",
            layers.sum::<f64>() / oracle.len() as f64,
            spearman(&all(&plain), &all(&oracle)),
            spearman(&all(&scaled), &all(&oracle)),
        );
    }
    Ok(())
}
