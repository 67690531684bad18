//! Figures of a sweep: means over seeds, with their standard deviations.

use serde::Serialize;

use super::Done;

/// A mean over seeds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// The standard deviation of the sample (over n − 1); 0 of one number.
    pub deviation: f64,
}

impl Spread {
    /// Of numbers; `None` of none.
    pub fn of(numbers: &[f64]) -> Option<Self> {
        let count = numbers.len() as f64;
        let mean = numbers.iter().sum::<f64>() / count;
        let squares: f64 = numbers.iter().map(|number| (number - mean).powi(2)).sum();
        let deviation = if numbers.len() > 1 { (squares / (count - 1.0)).sqrt() } else { 0.0 };
        (!numbers.is_empty()).then_some(Self { mean, deviation })
    }
}

/// A method at a ratio, over its seeds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    /// The method.
    pub method: String,
    /// The compression that was asked for.
    pub ratio: f64,
    /// Runs with a result.
    pub seeds: usize,
    /// Score once pruned.
    pub before: Option<Spread>,
    /// Score in the end.
    pub after: Option<Spread>,
    /// The compression that it came to: mean.
    pub compression: f64,
    /// Multiply-accumulates of the dense model over those that are left: mean.
    pub speedup: f64,
    /// Trainings, over all seeds, of which the start was kept, as no epoch scored better.
    pub kept_starts: u64,
    /// Why runs have no result; the first reason.
    pub failed: Option<String>,
}

/// The figures of each method at each ratio, in the order in which they were first done.
pub fn figures(done: &[Done]) -> Vec<Figure> {
    let mut keys: Vec<(&str, f64)> = Vec::new();
    let mut methods: Vec<&str> = Vec::new();
    for run in done {
        if !methods.contains(&run.method.as_str()) {
            methods.push(&run.method);
        }
        if !keys.contains(&(&run.method, run.ratio)) {
            keys.push((&run.method, run.ratio));
        }
    }
    let place = |method: &str| methods.iter().position(|&other| other == method);
    keys.sort_by(|a, b| place(a.0).cmp(&place(b.0)).then(a.1.total_cmp(&b.1)));
    let of = |(method, ratio): (&str, f64)| {
        let runs = || done.iter().filter(move |run| run.method == method && run.ratio == ratio);
        let good: Vec<&Done> = runs().filter(|run| run.failed.is_none()).collect();
        let scores =
            |of: fn(&Done) -> Option<f64>| -> Vec<f64> { good.iter().filter_map(|run| of(run)).collect() };
        let mean =
            |of: fn(&Done) -> f64| good.iter().map(|run| of(run)).sum::<f64>() / good.len().max(1) as f64;
        Figure {
            method: method.to_owned(),
            ratio,
            seeds: good.len(),
            before: Spread::of(&scores(|run| run.before)),
            after: Spread::of(&scores(|run| run.after)),
            compression: mean(|run| run.compression),
            speedup: mean(|run| run.speedup),
            kept_starts: good.iter().map(|run| run.kept_starts).sum(),
            failed: runs().find_map(|run| run.failed.clone()),
        }
    };
    keys.into_iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads_are_those_of_the_sample() {
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[2.0]), Some(Spread { mean: 2.0, deviation: 0.0 }));
        // NumPy: std([1, 2, 4], ddof=1) = 1.5275252316519468
        let spread = Spread::of(&[1.0, 2.0, 4.0]).unwrap();
        assert!(
            (spread.mean - 7.0 / 3.0).abs() < 1e-12
                && (spread.deviation - 1.527_525_231_651_946_8).abs() < 1e-12
        );
    }
}
