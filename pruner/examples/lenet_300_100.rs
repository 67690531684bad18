//! LeNet-300-100 on Fashion-MNIST, pruned by every criterion at several compression ratios, before and after fine-tuning.
//!
//! ```text
//! cargo run --release -p poda-pruner --example lenet_300_100 -- DATA_DIR [SEEDS [EPOCHS [RATIO,…]]]
//! ```
//!
//! `DATA_DIR` as in `train_fashion_mnist.rs`. Every method of a seed starts from the same trained network. Compression is that
//! of Blalock et al. (MLSys 2020): all parameters, biases too, over those that are not zero. Prints a table in Markdown:
//! accuracy on the 10,000 test images, mean ± standard deviation over the seeds. Han et al., NeurIPS 2015, report 12× without
//! loss for this network (on MNIST).

use std::collections::BTreeMap;
use std::error::Error;
use std::ops::ControlFlow;
use std::path::Path;

use poda_formats::Graph;
use poda_pruner::allocation::Scope;
use poda_pruner::finetune::{Options, Rate, RateShape, Term, finetune};
use poda_pruner::gradients::loss::Loss;
use poda_pruner::{Recipe, prune};
use rand::SeedableRng;
use rand::rngs::StdRng;

use fashion_mnist::{Samples, accuracy, load, network};

mod fashion_mnist;

const WIDTHS: [usize; 4] = [784, 300, 100, 10];
const METHODS: [(&str, Scope); 4] = [
    ("random", Scope::Global),
    ("random", Scope::Layer),
    ("magnitude-l1", Scope::Layer),
    ("magnitude-l1", Scope::Global),
];

fn train(graph: &Graph, train: &Samples, epochs: u64, peak: f32, seed: u64) -> Result<Graph, Box<dyn Error>> {
    let rate = Rate { peak, shape: RateShape::Cosine, warm_up: 0.0 };
    let options = Options { epochs, batch: 128, rate, seed, ..Options::default() };
    let terms = [Term { loss: Loss::CrossEntropy, output: graph.outputs[0], factor: 1.0 }];
    let mut go_on = |_: &poda_pruner::finetune::Progress| ControlFlow::Continue(());
    Ok(finetune(graph, train, &terms, &options, None, None, &mut go_on)?.0)
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some(data) = args.first().map(Path::new) else {
        return Err("usage: lenet_300_100 DATA_DIR [SEEDS [EPOCHS [RATIO,…]]]".into());
    };
    let number = |at: usize, usual: u64| args.get(at).map_or(Ok(usual), |text| text.parse());
    let (seeds, epochs) = (number(1, 3)?, number(2, 10)?);
    let ratios: Vec<f64> = args
        .get(3)
        .map_or("2,4,8,12,16,32", String::as_str)
        .split(',')
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let (samples, test) = (load(data, "train")?, load(data, "t10k")?);
    let score = |graph: &Graph| accuracy(graph, &test).map_err(|error| error.to_string());
    let mut scores: BTreeMap<(usize, usize), Vec<[f64; 2]>> = BTreeMap::new();
    let mut dense = Vec::new();
    let weights: usize = WIDTHS.windows(2).map(|pair| pair[0] * pair[1]).sum();
    let biases: usize = WIDTHS[1..].iter().sum();
    for seed in 0..seeds {
        let start = network(&WIDTHS, &mut StdRng::seed_from_u64(seed));
        let trained = train(&start, &samples, epochs, 1e-3, seed)?;
        dense.push(score(&trained)?);
        eprintln!("seed {seed}: dense {:.4}", dense[dense.len() - 1]);
        for (m, &(criterion, scope)) in METHODS.iter().enumerate() {
            for (r, ratio) in ratios.iter().enumerate() {
                let kept = ((weights + biases) as f64 / ratio - biases as f64) / weights as f64;
                let recipe = Recipe {
                    sparsity: Some(1.0 - kept),
                    criterion: criterion.to_owned(),
                    scope,
                    seed,
                    check: false,
                    ..Recipe::default()
                };
                let (pruned, _) = prune(&trained, &recipe, &BTreeMap::new(), &mut |_| (), None)?;
                let before = score(&pruned)?;
                let after = score(&train(&pruned, &samples, epochs, 1e-3, seed)?)?;
                eprintln!("seed {seed}: {criterion} {scope:?} {ratio}×: {before:.4} {after:.4}");
                scores.entry((m, r)).or_default().push([before, after]);
            }
        }
    }
    let shown = |values: &[f64]| {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let variance =
            values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (values.len().max(2) - 1) as f64;
        format!("{:.1} ± {:.1}", 100.0 * mean, 100.0 * variance.sqrt())
    };
    println!("Dense: {} %, {seeds} seeds, {epochs} epochs before pruning and after.\n", shown(&dense));
    let header: Vec<String> = ratios.iter().map(|ratio| format!(" {ratio}× |")).collect();
    println!("| | |{}\n|---|---|{}", header.concat(), "---|".repeat(ratios.len()));
    for (m, (criterion, scope)) in METHODS.iter().enumerate() {
        for (which, when) in ["pruned", "fine-tuned"].iter().enumerate() {
            let cells: Vec<String> = (0..ratios.len())
                .map(|r| {
                    let values: Vec<f64> = scores[&(m, r)].iter().map(|pair| pair[which]).collect();
                    format!(" {} |", shown(&values))
                })
                .collect();
            let name =
                if which == 0 { format!("{criterion}, {scope:?}").to_lowercase() } else { String::new() };
            println!("| {name} | {when} |{}", cells.concat());
        }
    }
    Ok(())
}
