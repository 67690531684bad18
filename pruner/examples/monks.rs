//! Optimal Brain Damage and Optimal Brain Surgeon where they were first compared: XOR and the three MONK's problems.
//!
//! ```text
//! cargo run --release -p poda-pruner --example monks -- [SEEDS]
//! ```
//!
//! LeCun, Denker and Solla, NIPS 1989; Hassibi and Stork, NIPS 1992; Thrun et al., "The MONK's Problems", 1991. The second
//! paper prunes networks of 58, 39 and 39 weights to 14, 15 and 4 by the surgeon; 9 weights of XOR to the 8 or fewer that it needs.
//! A network of sigmoids is trained, then loses one weight after the other, the least salient first:
//!
//! * magnitude: `abs(w)`;
//! * damage: `½ h w²`, h on the diagonal of the Hessian of the squared error, as the Gauss-Newton approximation has it;
//! * surgeon: `w² / 2[H⁻¹]`, and the others change by `−w / [H⁻¹]_qq · H⁻¹_q`.
//!
//! After each removal what is left is trained on; the first after which it no longer does as well on the training set as the network
//! that the paper starts from is taken back, and ends it: all right, but of MONK 3, with its wrong labels, 93.4 %. Training sets are
//! drawn at random, as many as published (124, 169, 122, of the last 5 % with the wrong label); scores are of all 432 cases.

use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

/// Added to the diagonal of the Hessian.
const ALPHA: f64 = 1e-4;
/// Steps of training at the start, and after each removal.
const STEPS: [usize; 2] = [200, 40];

#[derive(Clone)]
struct Sample {
    inputs: Vec<f64>,
    target: f64,
}

/// Inputs → hidden → 1, sigmoids, with biases. Weights of a hidden unit lie together, its bias last; then those of the output.
#[derive(Clone)]
struct Network {
    inputs: usize,
    hidden: usize,
    weights: Vec<f64>,
    kept: Vec<usize>,
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

impl Network {
    fn new(inputs: usize, hidden: usize, random: &mut SmallRng) -> Self {
        let count = hidden * (inputs + 1) + hidden + 1;
        let weights = (0..count).map(|_| random.random_range(-0.7..0.7)).collect();
        Self { inputs, hidden, weights, kept: (0..count).collect() }
    }

    /// The output, and its gradient by each weight.
    fn run(&self, inputs: &[f64]) -> (f64, Vec<f64>) {
        let row = self.inputs + 1;
        let with_bias = || inputs.iter().copied().chain([1.0]);
        let of = |weights: &[f64]| weights.iter().zip(with_bias()).map(|(w, x)| w * x).sum::<f64>();
        let hidden: Vec<f64> =
            self.weights[..self.hidden * row].chunks_exact(row).map(|weights| sigmoid(of(weights))).collect();
        let last = &self.weights[self.hidden * row..];
        let sum: f64 = last.iter().zip(hidden.iter().copied().chain([1.0])).map(|(w, h)| w * h).sum();
        let output = sigmoid(sum);
        let slope = output * (1.0 - output);
        let mut gradient = Vec::with_capacity(self.weights.len());
        for (unit, h) in hidden.iter().enumerate() {
            gradient.extend(with_bias().map(|x| slope * last[unit] * h * (1.0 - h) * x));
        }
        gradient.extend(hidden.iter().copied().chain([1.0]).map(|h| slope * h));
        (output, gradient)
    }

    fn right(&self, samples: &[Sample]) -> usize {
        samples.iter().filter(|sample| (self.run(&sample.inputs).0 > 0.5) == (sample.target > 0.5)).count()
    }

    /// Mean squared error, `JᵀJ` and `Jᵀ(target − output)`, each over the number of samples, of the weights that are kept.
    fn normal(&self, samples: &[Sample]) -> (f64, Vec<Vec<f64>>, Vec<f64>) {
        let size = self.kept.len();
        let (mut error, mut gram, mut pull) = (0.0, vec![vec![0.0; size]; size], vec![0.0; size]);
        let count = samples.len() as f64;
        for sample in samples {
            let (output, gradient) = self.run(&sample.inputs);
            let gradient: Vec<f64> = self.kept.iter().map(|&weight| gradient[weight]).collect();
            error += (sample.target - output).powi(2) / count;
            for (i, row) in gram.iter_mut().enumerate() {
                pull[i] += gradient[i] * (sample.target - output) / count;
                row.iter_mut().zip(&gradient).for_each(|(sum, g)| *sum += gradient[i] * g / count);
            }
        }
        (error, gram, pull)
    }

    /// Levenberg and Marquardt, with a little weight decay.
    fn train(&mut self, samples: &[Sample], steps: usize) {
        const DECAY: f64 = 1e-4;
        let mut damping = 1e-2;
        for _ in 0..steps {
            let (error, mut gram, mut pull) = self.normal(samples);
            let penalty = |network: &Self| DECAY * network.weights.iter().map(|w| w * w).sum::<f64>();
            let before = error + penalty(self);
            for (i, &weight) in self.kept.iter().enumerate() {
                gram[i][i] += damping + DECAY;
                pull[i] -= DECAY * self.weights[weight];
            }
            let inverse = inverted(gram);
            let mut next = self.clone();
            for (i, &weight) in self.kept.iter().enumerate() {
                next.weights[weight] += inverse[i].iter().zip(&pull).map(|(a, b)| a * b).sum::<f64>();
            }
            let after = next.normal(samples).0 + penalty(&next);
            if after < before {
                *self = next;
                damping = (damping * 0.5_f64).max(1e-8);
            } else {
                damping = (damping * 4.0_f64).min(1e6);
            }
        }
    }
}

/// The inverse of a positive definite matrix, by elimination.
fn inverted(mut matrix: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    let size = matrix.len();
    for (i, row) in matrix.iter_mut().enumerate() {
        row.extend((0..size).map(|j| f64::from(u8::from(i == j))));
    }
    for pivot in 0..size {
        let by = matrix[pivot][pivot];
        matrix[pivot].iter_mut().for_each(|v| *v /= by);
        let taken = matrix[pivot].clone();
        for (_, row) in matrix.iter_mut().enumerate().filter(|(i, _)| *i != pivot) {
            let factor = row[pivot];
            row.iter_mut().zip(&taken).for_each(|(v, p)| *v -= factor * p);
        }
    }
    matrix.into_iter().map(|row| row[size..].to_vec()).collect()
}

#[derive(Clone, Copy, Debug)]
enum Method {
    Magnitude,
    Damage,
    Surgeon,
}

impl Method {
    /// Removes the least salient weight.
    fn remove(self, network: &mut Network, samples: &[Sample]) {
        let (_, mut hessian, _) = network.normal(samples);
        (0..hessian.len()).for_each(|i| hessian[i][i] += ALPHA);
        let diagonal: Vec<f64> = (0..hessian.len()).map(|i| hessian[i][i]).collect();
        let inverse = if matches!(self, Self::Surgeon) { inverted(hessian) } else { Vec::new() };
        let saliency = |i: usize| {
            let w = network.weights[network.kept[i]];
            match self {
                Self::Magnitude => w.abs(),
                Self::Damage => 0.5 * diagonal[i] * w * w,
                Self::Surgeon => w * w / (2.0 * inverse[i][i]),
            }
        };
        let least = (0..network.kept.len()).min_by(|&a, &b| saliency(a).total_cmp(&saliency(b)));
        let Some(least) = least else { return };
        if let Self::Surgeon = self {
            let step = network.weights[network.kept[least]] / inverse[least][least];
            for (i, &weight) in network.kept.iter().enumerate() {
                network.weights[weight] -= step * inverse[i][least];
            }
        }
        let gone = network.kept.remove(least);
        network.weights[gone] = 0.0;
    }

    /// Removes weights as long as so many samples are right.
    fn prune(self, trained: &Network, samples: &[Sample], wanted: usize) -> Network {
        let mut network = trained.clone();
        while network.kept.len() > 1 {
            let mut next = network.clone();
            self.remove(&mut next, samples);
            next.train(samples, STEPS[1]);
            if next.right(samples) < wanted {
                break;
            }
            network = next;
        }
        network
    }
}

/// All cases of a MONK's problem, with its 17 inputs of 0 and 1.
fn monks(problem: usize) -> Vec<Sample> {
    const VALUES: [usize; 6] = [3, 3, 2, 3, 4, 2];
    let mut samples = Vec::new();
    for case in 0..VALUES.iter().product() {
        let mut rest: usize = case;
        let a: Vec<usize> = VALUES
            .iter()
            .map(|&values| {
                let value = rest % values;
                rest /= values;
                value + 1
            })
            .collect();
        let target = match problem {
            1 => a[0] == a[1] || a[4] == 1,
            2 => a.iter().filter(|&&value| value == 1).count() == 2,
            _ => (a[4] == 3 && a[3] == 1) || (a[4] != 4 && a[1] != 3),
        };
        let one_hot = |(&value, &values): (&usize, &usize)| {
            (1..=values).map(move |v| f64::from(u8::from(v == value))).collect::<Vec<_>>()
        };
        let inputs = a.iter().zip(&VALUES).flat_map(one_hot).collect();
        samples.push(Sample { inputs, target: f64::from(u8::from(target)) });
    }
    samples
}

fn xor() -> Vec<Sample> {
    let case = |a: u8, b: u8| Sample { inputs: vec![a.into(), b.into()], target: (a ^ b).into() };
    vec![case(0, 0), case(0, 1), case(1, 0), case(1, 1)]
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let seeds: u64 = std::env::args().nth(1).map_or(Ok(10), |seeds| seeds.parse())?;
    // Name, hidden units, training samples, share of wrong labels, share that must stay right, what the paper's surgeon leaves.
    let problems = [
        ("XOR", 2, 4, 0.0, 1.0, 8),
        ("MONK 1", 3, 124, 0.0, 1.0, 14),
        ("MONK 2", 2, 169, 0.0, 1.0, 15),
        ("MONK 3", 2, 122, 0.05, 0.934, 4),
    ];
    println!("Weights left, mean over {seeds} networks (fewest); right of all cases, before and after.\n");
    println!("| | weights | surgeon, 1992 | magnitude | damage | surgeon |\n|---|---|---|---|---|---|");
    for (number, (name, hidden, count, wrong, right, published)) in problems.into_iter().enumerate() {
        let all = if number == 0 { xor() } else { monks(number) };
        let mut left: [Vec<usize>; 3] = Default::default();
        let (mut before, mut after) = (0.0, [0.0; 3]);
        let mut weights = 0;
        for seed in 0..seeds {
            let mut random = SmallRng::seed_from_u64(seed);
            let mut order = all.clone();
            order.shuffle(&mut random);
            let mut samples = order[..count].to_vec();
            let flipped = (count as f64 * wrong).round() as usize;
            samples[..flipped].iter_mut().for_each(|sample| sample.target = 1.0 - sample.target);
            // The first network that learns what can be learned, of a few starts.
            let learned = samples.len() - flipped;
            let wanted = (right * count as f64).round() as usize;
            let start = (0..50).map(|_| {
                let mut network = Network::new(all[0].inputs.len(), hidden, &mut random);
                network.train(&samples, STEPS[0]);
                network
            });
            let Some(trained) = start.into_iter().find(|network| network.right(&samples) >= learned) else {
                eprintln!("{name}, seed {seed}: no start of fifty learns it");
                continue;
            };
            weights = trained.kept.len();
            let share = |network: &Network| network.right(&all) as f64 / all.len() as f64;
            before += share(&trained);
            for (m, method) in [Method::Magnitude, Method::Damage, Method::Surgeon].into_iter().enumerate() {
                let pruned = method.prune(&trained, &samples, wanted);
                left[m].push(pruned.kept.len());
                after[m] += share(&pruned);
            }
        }
        let runs = left[0].len().max(1) as f64;
        let cell = |m: usize| {
            let mean = left[m].iter().sum::<usize>() as f64 / runs;
            let fewest = left[m].iter().min().copied().unwrap_or_default();
            format!("{mean:.1} ({fewest}), {:.1} → {:.1} %", 100.0 * before / runs, 100.0 * after[m] / runs)
        };
        println!("| {name} | {weights} | {published} | {} | {} | {} |", cell(0), cell(1), cell(2));
    }
    Ok(())
}
