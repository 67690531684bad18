//! When to stop: measures of a candidate, each beside a bound that the user set.
//!
//! A [`Measure`] is a number that can be told of a pruned model: its work, its bytes, its latency on this machine, what is
//! left of its score. A recipe bounds measures in two ways: `until`, what is to be reached, and `keep`, what must not be given
//! up for it. The loop asks after every step ([`Conditions::ask`]): a candidate that breaks what is to be kept is taken back,
//! one that reaches its targets ends the run.

mod effort;
mod quality;
mod size;
mod speed;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Instant;

use poda_formats::Graph;
use serde::{Deserialize, Serialize};

use crate::judge::{Fidelity, Judge, JudgeError};
use crate::recipe::Recipe;
use crate::report::Totals;

pub use quality::{Scored, ScoredError};

/// Something that can be told of a candidate as one number.
pub struct Measure {
    /// As given on the command line and in recipes.
    pub name: &'static str,
    /// One line for help texts.
    pub description: &'static str,
    /// Of what kind the number is.
    pub unit: Unit,
    /// Which numbers are good.
    pub good: Good,
    /// The number of a candidate; an error when it cannot be measured, for want of data, labels or a clock, or because the
    /// model does not run.
    pub of: fn(&Candidate<'_>) -> Result<f64, JudgeError>,
}

impl fmt::Debug for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Measure {
    /// Whether it goes by how much is left where, and not by the values of what is left.
    pub fn of_size_or_speed(&self) -> bool {
        let all = [
            size::NONZEROS,
            size::PARAMETERS,
            size::MACS,
            size::BYTES,
            size::FILE_BYTES,
            speed::LATENCY,
            speed::SPEEDUP,
        ];
        all.iter().any(|measure| measure.name == self.name)
    }
}

/// What kind of number a measure is, which says how it is read and printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A share or a score, also written in per cent.
    Share,
    /// A number of things.
    Count,
    /// Bytes, also written in KiB, MiB and GiB.
    Bytes,
    /// Milliseconds, also written in µs, s, min and h.
    Milliseconds,
    /// How many times.
    Ratio,
}

/// Which numbers of a measure are good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Good {
    /// At most the bound.
    Small,
    /// At least the bound.
    Large,
    /// Neither: what is spent, and at the bound ends the run with what was found by then.
    Spent,
}

/// Every measure.
pub static MEASURES: &[Measure] = &[
    size::SPARSITY,
    size::NONZEROS,
    size::PARAMETERS,
    size::MACS,
    size::BYTES,
    size::FILE_BYTES,
    speed::LATENCY,
    speed::SPEEDUP,
    quality::DROP,
    quality::SCORE,
    quality::COSINE,
    quality::WORST_COSINE,
    quality::RELATIVE_ERROR,
    quality::AGREEMENT,
    quality::PEARSON,
    quality::SPEARMAN,
    effort::ROUNDS,
    effort::TIME,
];

/// The measure with this name.
pub fn find(name: &str) -> Option<&'static Measure> {
    MEASURES.iter().find(|measure| measure.name == name)
}

/// A model that pruning came to, and what is needed to measure it.
pub struct Candidate<'a> {
    /// As it would be written: zeros stored as nothing, values in their type.
    pub graph: &'a Graph,
    /// Sums over it, of one sample.
    pub totals: Totals,
    /// Sums over the dense model, of one sample.
    pub dense: Totals,
    /// Share removed, in the terms of the recipe's `sparsity`.
    pub sparsity: f64,
    /// The dense model's own score, where it was measured.
    pub baseline: Baseline,
    /// Candidates tried before this one, and when the run began.
    pub rounds: usize,
    /// When the run began.
    pub begun: Instant,
    /// What only the caller can measure.
    pub judge: Option<&'a dyn Judge>,
}

/// Figures of the dense model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// What candidates are scored by.
    pub scored: Scored,
    /// The dense model's score, where something bounds how far it drops.
    pub score: Option<f64>,
}

impl Candidate<'_> {
    /// What an observer is told, beside what was measured.
    pub fn state(&self, measured: &Measured) -> State {
        let macs = self.totals.nonzero_macs as f64 / self.dense.nonzero_macs.max(1) as f64;
        let macs = (self.dense.nonzero_macs > 0).then_some(macs);
        State { sparsity: self.sparsity, macs, drop: measured.get("drop").copied() }
    }

    fn judge(&self, measure: &'static str) -> Result<&dyn Judge, JudgeError> {
        self.judge.ok_or(JudgeError::Needs { what: "validation data", measure })
    }

    fn fidelity(&self, measure: &'static str) -> Result<Fidelity, JudgeError> {
        self.judge(measure)?.fidelity(self.graph)
    }
}

/// A bound on a measure. Written `latency=2ms`; recipes hold it so, with the number in the measure's own unit.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Bound {
    /// What is bounded.
    pub measure: &'static Measure,
    /// The most, or the least, that is good.
    pub value: f64,
}

impl Bound {
    /// Whether a number is within the bound; NaN never is.
    pub fn holds(&self, number: f64) -> bool {
        match self.measure.good {
            Good::Small => number <= self.value,
            Good::Large | Good::Spent => number >= self.value,
        }
    }

    /// By how much a number is beyond the bound: of shares the difference, of others as a share of the bound; infinite for NaN.
    pub fn excess(&self, number: f64) -> f64 {
        let beyond = match self.measure.good {
            Good::Small => number - self.value,
            Good::Large | Good::Spent => self.value - number,
        };
        let scale = if self.measure.unit == Unit::Share { 1.0 } else { self.value.max(f64::MIN_POSITIVE) };
        if beyond.is_nan() { f64::INFINITY } else { (beyond / scale).max(0.0) }
    }

    /// The tightest value of three digits after the point by which a number would be within the bound.
    pub fn loosened(&self, number: f64) -> f64 {
        const DIGITS: f64 = 1000.0;
        match self.measure.good {
            Good::Small => (number * DIGITS).ceil() / DIGITS,
            Good::Large | Good::Spent => (number * DIGITS).floor() / DIGITS,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.measure.good {
            Good::Small => "at most",
            Good::Large => "at least",
            Good::Spent => "spent, all of",
        };
        write!(f, "{} {sign} {}", self.measure.name, shown(self.measure.unit, self.value))
    }
}

/// A number with its unit.
pub fn shown(unit: Unit, number: f64) -> String {
    const KIB: f64 = 1024.0;
    match unit {
        Unit::Share => format!("{number:.4}"),
        Unit::Count => format!("{number:.0}"),
        Unit::Bytes if number < KIB * KIB => format!("{:.1} KiB", number / KIB),
        Unit::Bytes => format!("{:.2} MiB", number / (KIB * KIB)),
        Unit::Milliseconds if number >= 60_000.0 => format!("{:.1} min", number / 60_000.0),
        Unit::Milliseconds if number >= 1_000.0 => format!("{:.1} s", number / 1_000.0),
        Unit::Milliseconds => format!("{number:.3} ms"),
        Unit::Ratio => format!("{number:.2} x"),
    }
}

/// Why a text is no bound on a measure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum BoundError {
    #[error("{text:?} is no bound; write MEASURE=VALUE, such as latency=2ms or cosine=0.99")]
    Syntax { text: String },
    #[error("there is no measure {name:?}; there are {known}")]
    Unknown { name: String, known: String },
    #[error("{name}={text}: expected {expected}")]
    Number { name: &'static str, text: String, expected: &'static str },
}

/// A number of this unit: `0.5`, `50%`, `2ms`, `10MiB`, `3x`.
pub fn parse_number(unit: Unit, text: &str) -> Option<f64> {
    let at = text.find(|c: char| !(c.is_ascii_digit() || ".+-eE_".contains(c))).unwrap_or(text.len());
    let (number, suffix) = text.split_at(at);
    let number: f64 = number.replace('_', "").parse().ok()?;
    let factor = match (unit, suffix.trim()) {
        (_, "") | (Unit::Milliseconds, "ms") | (Unit::Bytes, "B") | (Unit::Ratio, "x" | "×") => 1.0,
        (Unit::Share, "%") => 0.01,
        (Unit::Milliseconds, "us" | "µs") => 1e-3,
        (Unit::Milliseconds, "s") | (Unit::Bytes, "kB") | (Unit::Count, "k") => 1e3,
        (Unit::Milliseconds, "min" | "m") => 6e4,
        (Unit::Milliseconds, "h") => 3.6e6,
        (Unit::Bytes, "KiB" | "K") => 1024.0,
        (Unit::Bytes, "MiB" | "M") => 1024.0 * 1024.0,
        (Unit::Bytes, "GiB" | "G") => 1024.0 * 1024.0 * 1024.0,
        (Unit::Bytes, "MB") | (Unit::Count, "M") => 1e6,
        (Unit::Bytes, "GB") | (Unit::Count, "G") => 1e9,
        _ => return None,
    };
    let number = number * factor;
    (number.is_finite() && number >= 0.0).then_some(number)
}

impl FromStr for Bound {
    type Err = BoundError;

    fn from_str(text: &str) -> Result<Self, BoundError> {
        let syntax = || BoundError::Syntax { text: text.to_owned() };
        let (name, number) = text.split_once('=').ok_or_else(syntax)?;
        let measure = find(name).ok_or_else(|| {
            let names: Vec<&str> = MEASURES.iter().map(|measure| measure.name).collect();
            BoundError::Unknown { name: name.to_owned(), known: names.join(", ") }
        })?;
        let value = parse_number(measure.unit, number).ok_or(BoundError::Number {
            name: measure.name,
            text: number.to_owned(),
            expected: match measure.unit {
                Unit::Share => "a share such as 0.5 or 50%",
                Unit::Count => "a count such as 100000 or 1.5M",
                Unit::Bytes => "bytes such as 500000 or 12MiB",
                Unit::Milliseconds => "a time such as 2ms, 1.5s or 10min",
                Unit::Ratio => "a ratio such as 3 or 2.5x",
            },
        })?;
        Ok(Self { measure, value })
    }
}

impl TryFrom<String> for Bound {
    type Error = BoundError;

    fn try_from(text: String) -> Result<Self, BoundError> {
        text.parse()
    }
}

impl From<Bound> for String {
    fn from(bound: Bound) -> Self {
        format!("{}={}", bound.measure.name, bound.value)
    }
}

impl PartialEq for Bound {
    fn eq(&self, other: &Self) -> bool {
        (self.measure.name, self.value) == (other.measure.name, other.value)
    }
}

/// Numbers of measures, by name.
pub type Measured = BTreeMap<String, f64>;

/// What follows from a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Everything is kept and targets are not reached: go on.
    Continue,
    /// The targets are reached.
    Stop,
    /// Something that must be kept is not.
    RollBack,
}

impl Verdict {
    /// What follows from two verdicts: rolling back comes first, then stopping.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::RollBack, _) | (_, Self::RollBack) => Self::RollBack,
            (Self::Stop, _) | (_, Self::Stop) => Self::Stop,
            (Self::Continue, Self::Continue) => Self::Continue,
        }
    }
}

/// What an observer is told of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct State {
    /// Share removed so far, in the terms of the recipe's `sparsity`.
    pub sparsity: f64,
    /// Multiply-accumulates, as a share of the dense model's; `None` when they are not known.
    pub macs: Option<f64>,
    /// How far the score has dropped on validation data, where that was measured.
    pub drop: Option<f64>,
}

/// The conditions of a recipe.
#[derive(Debug, Clone, Default)]
pub struct Conditions {
    until: Vec<Bound>,
    keep: Vec<Bound>,
    all: bool,
    scored: Scored,
}

/// What was measured of a candidate, and what follows from it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Numbers of the measures that were asked for, by name.
    pub measured: Measured,
    /// What follows.
    pub verdict: Verdict,
    /// Why, where it is not to go on.
    pub because: Option<String>,
    /// Whether what may be spent is spent: no other candidate is to be tried, whatever follows from this one.
    #[serde(default)]
    pub over: bool,
}

impl Conditions {
    /// The conditions of a recipe.
    pub fn of(recipe: &Recipe) -> Self {
        let macs = recipe.target_macs.map(|value| Bound { measure: &size::MACS, value });
        let drop = recipe.max_drop.map(|value| Bound { measure: &quality::DROP, value });
        Self {
            until: recipe.until.iter().copied().chain(macs).collect(),
            keep: recipe.keep.iter().copied().chain(drop).collect(),
            all: recipe.until_all,
            scored: recipe.measure,
        }
    }

    /// Figures of the dense model that bounds need.
    ///
    /// # Errors
    /// When it cannot be scored.
    pub fn baseline(&self, dense: &Candidate<'_>) -> Result<Baseline, JudgeError> {
        if self.bounds("drop") {
            dense.judge("drop")?;
        }
        let score = self.bounds("drop").then(|| (self.scored.measure().of)(dense)).transpose()?;
        Ok(Baseline { scored: self.scored, score })
    }

    /// Whether something is to be measured at all.
    pub fn is_empty(&self) -> bool {
        self.until.is_empty() && self.keep.is_empty()
    }

    /// Targets to reach, without what may be spent on the way.
    pub fn targets(&self) -> impl Iterator<Item = &Bound> {
        self.until.iter().filter(|bound| bound.measure.good != Good::Spent)
    }

    /// What must be kept.
    pub fn keep(&self) -> &[Bound] {
        &self.keep
    }

    /// Every number of what must be kept, by name, whether or not it holds.
    ///
    /// # Errors
    /// When a measure cannot be taken.
    pub fn kept(&self, candidate: &Candidate<'_>) -> Result<Measured, JudgeError> {
        let number = |bound: &Bound| Ok((bound.measure.name.to_owned(), (bound.measure.of)(candidate)?));
        self.keep.iter().map(number).collect()
    }

    /// Whether some condition is on this measure.
    pub fn bounds(&self, name: &str) -> bool {
        self.until.iter().chain(&self.keep).any(|bound| bound.measure.name == name)
    }

    /// Measures a candidate and tells what follows: what is to be kept comes first, in the order that is cheap.
    ///
    /// # Errors
    /// When a measure cannot be taken.
    pub fn ask(&self, candidate: &Candidate<'_>) -> Result<Answer, JudgeError> {
        let mut measured = Measured::new();
        let mut number = |bound: &Bound| -> Result<f64, JudgeError> {
            let number = (bound.measure.of)(candidate)?;
            measured.insert(bound.measure.name.to_owned(), number);
            Ok(number)
        };
        for bound in &self.keep {
            let found = number(bound)?;
            if !bound.holds(found) {
                let because = format!("{bound}, found {}", shown(bound.measure.unit, found));
                let over = self.spent(candidate)?;
                return Ok(Answer { measured, verdict: Verdict::RollBack, because: Some(because), over });
            }
        }
        let mut reached = Vec::new();
        for bound in self.targets() {
            let found = number(bound)?;
            if bound.holds(found) {
                reached.push(format!("{bound}, found {}", shown(bound.measure.unit, found)));
            }
        }
        let targets = self.targets().count();
        let stop = targets > 0 && if self.all { reached.len() == targets } else { !reached.is_empty() };
        let verdict = if stop { Verdict::Stop } else { Verdict::Continue };
        let because = stop.then(|| reached.join("; "));
        Ok(Answer { measured, verdict, because, over: self.spent(candidate)? })
    }

    fn spent(&self, candidate: &Candidate<'_>) -> Result<bool, JudgeError> {
        for bound in self.until.iter().filter(|bound| bound.measure.good == Good::Spent) {
            if bound.holds((bound.measure.of)(candidate)?) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(graph: &Graph, macs: u64, nnz: u64) -> Candidate<'_> {
        let dense = Totals { nonzero_macs: 100, nnz: 50, parameters: 50, ..Totals::default() };
        let totals = Totals { nonzero_macs: macs, nnz, ..dense };
        Candidate {
            graph,
            totals,
            dense,
            sparsity: 0.5,
            baseline: Baseline::default(),
            rounds: 3,
            begun: Instant::now(),
            judge: None,
        }
    }

    #[test]
    fn names_are_unique_and_numbers_are_read_with_their_units() {
        for (i, measure) in MEASURES.iter().enumerate() {
            assert!(MEASURES[..i].iter().all(|other| other.name != measure.name));
        }
        for (text, number) in [
            ("latency=2ms", 2.0),
            ("latency=250us", 0.25),
            ("time=2min", 120_000.0),
            ("macs=50%", 0.5),
            ("file-bytes=1.5MiB", 1.5 * 1024.0 * 1024.0),
            ("speedup=3x", 3.0),
            ("nonzeros=1_000k", 1e6),
        ] {
            assert_eq!(text.parse::<Bound>().unwrap().value, number, "{text}");
        }
        for text in ["latency", "speed=2", "latency=2MiB", "latency=", "macs=-1", "macs=nan", "cosine=1e999"]
        {
            assert!(text.parse::<Bound>().is_err(), "{text}");
        }
    }

    #[test]
    fn how_far_a_number_is_beyond_a_bound() {
        let bound = |text: &str| text.parse::<Bound>().unwrap();
        assert!((bound("drop=0.01").excess(0.025) - 0.015).abs() < 1e-12);
        assert!((bound("cosine=0.99").excess(0.9) - 0.09).abs() < 1e-12);
        assert_eq!((bound("latency=2ms").excess(3.0), bound("drop=0.01").excess(0.0)), (0.5, 0.0));
        assert_eq!(bound("drop=0.01").excess(f64::NAN), f64::INFINITY);
        assert_eq!(
            (bound("drop=0.01").loosened(0.0151), bound("cosine=0.99").loosened(0.9139)),
            (0.016, 0.913)
        );
    }

    #[test]
    fn what_is_kept_comes_before_what_is_reached() {
        let graph = Graph::default();
        let bounds = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let recipe = |until: &[&str], keep: &[&str]| Recipe {
            until: bounds(until),
            keep: bounds(keep),
            ..Recipe::default()
        };
        let ask = |recipe: &Recipe, macs, nnz| {
            Conditions::of(recipe).ask(&candidate(&graph, macs, nnz)).unwrap().verdict
        };
        let any = recipe(&["macs=0.5", "nonzeros=10"], &[]);
        assert_eq!(ask(&any, 60, 20), Verdict::Continue);
        assert_eq!(ask(&any, 50, 20), Verdict::Stop);
        let all = Recipe { until_all: true, ..any };
        assert_eq!(ask(&all, 50, 20), Verdict::Continue);
        assert_eq!(ask(&all, 50, 10), Verdict::Stop);
        assert_eq!(ask(&recipe(&["macs=0.5"], &["parameters=2"]), 50, 10), Verdict::RollBack);
        // What is spent ends a run, and is no target.
        let spent = Conditions::of(&recipe(&["rounds=3"], &[])).ask(&candidate(&graph, 50, 10)).unwrap();
        assert_eq!((spent.verdict, spent.over), (Verdict::Continue, true));
        // What needs data says so.
        let blind = Conditions::of(&recipe(&[], &["cosine=0.9"]));
        let error = blind.ask(&candidate(&graph, 1, 1)).unwrap_err().to_string();
        assert_eq!(error, "cosine needs validation data");
    }
}
