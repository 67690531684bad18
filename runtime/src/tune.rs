//! Chooses the kernel for a weight: times the candidates on this machine, so that sparse is never slower than dense.
//!
//! Answers are kept in memory and in a file of the user's cache directory, keyed by the CPU, the version of the kernels, the
//! shape, sparsity, unevenness and layout of the product, and the number of threads. A file that is damaged, of another CPU or
//! version, or cannot be written is ignored; [`Tuner::cache_note`] says so. What an answer says is taken for times only: a
//! candidate counts if its kernel takes the weight and offers those measures, and the best is found anew.

mod cache;
mod measure;
mod packed_weight;
mod rank;

use std::path::PathBuf;
use std::sync::Mutex;

use poda_formats::DataType;
use serde::{Deserialize, Serialize};

use crate::kernels::{self, Kernel, KernelError, Layout, Level, Params, Problem, Source, Sums, WeightMatrix};
use crate::threads::Threads;
use cache::Cache;
use rank::Rank;

pub(crate) use cache::VERSION;
pub(crate) use measure::alone;
pub use packed_weight::PackedWeight;

/// Kernels whose estimate is beyond this many times the least are not timed.
const HOPELESS: f64 = 6.0;

/// What to prefer where the fastest kernel is not the smallest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum Prefer {
    /// The fastest.
    #[default]
    Latency,
    /// The one with the fewest bytes.
    Memory,
}

/// How to choose kernels.
#[derive(Debug, Clone)]
pub struct TuneOptions {
    /// Time candidates; otherwise a cost model chooses.
    pub timing: bool,
    /// What to prefer.
    pub prefer: Prefer,
    /// Where answers are kept; `None` keeps them in memory only.
    pub cache: Option<PathBuf>,
}

impl Default for TuneOptions {
    fn default() -> Self {
        Self { timing: true, prefer: Prefer::Latency, cache: cache::default_path() }
    }
}

/// One kernel that was considered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Name of the kernel.
    pub kernel: String,
    /// Its measures.
    pub params: Params,
    /// Time of one product, in microseconds; `None` where a model chose.
    pub micros: Option<f64>,
    /// Bytes of the packed weight; `None` where it was not packed.
    pub bytes: Option<usize>,
}

impl Candidate {
    /// The row of the table.
    fn row(&self) -> Option<&'static Kernel> {
        kernels::all().find(|kernel| kernel.name == self.kernel)
    }

    /// Whether the kernel multiplies pruned weights too.
    pub fn is_dense(&self) -> bool {
        self.row().is_some_and(|kernel| kernel.dense)
    }
}

/// What was chosen, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// Everything considered, the winner first.
    pub candidates: Vec<Candidate>,
    /// Why, in words.
    pub reason: String,
}

/// Chooses kernels and remembers.
#[derive(Debug)]
pub struct Tuner {
    options: TuneOptions,
    cache: Mutex<Cache>,
}

impl Default for Tuner {
    fn default() -> Self {
        Self::new(TuneOptions::default())
    }
}

impl Tuner {
    /// A tuner; reads the cache.
    pub fn new(options: TuneOptions) -> Self {
        let cache = Mutex::new(Cache::open(options.cache.clone()));
        Self { options, cache }
    }

    /// The same, for a model that keeps these answers ([`Tuner::answers`]); those of another CPU or version are passed over.
    pub(crate) fn with_kept(options: TuneOptions, answers: Option<&str>) -> Self {
        let tuner = Self::new(options);
        answers.into_iter().for_each(|answers| tuner.lock().keep(answers));
        tuner
    }

    /// Whether the model keeps answers for this CPU.
    pub(crate) fn keeps(&self) -> bool {
        self.lock().keeps()
    }

    /// The answers that were asked for, and those kept, for a model to keep.
    pub(crate) fn answers(&self) -> String {
        self.lock().answers()
    }

    /// A tuner that measures nothing and keeps nothing.
    pub fn by_model() -> Self {
        Self::new(TuneOptions { timing: false, prefer: Prefer::Latency, cache: None })
    }

    /// Why the file of the cache is not used, if it is not.
    pub fn cache_note(&self) -> Option<String> {
        self.lock().note.clone()
    }

    /// The file that answers are kept in, if any.
    pub fn cache_path(&self) -> Option<PathBuf> {
        self.options.cache.clone()
    }

    /// Writes new answers to the file of the cache. Also done when the tuner is dropped.
    pub fn save(&self) {
        self.lock().save();
    }

    /// What ways to run a batch took, in microseconds, if they have been timed.
    pub(crate) fn batch(&self, key: &str) -> Option<Vec<(String, f64)>> {
        self.lock().batch(key)
    }

    /// Remembers what ways to run a batch take.
    pub(crate) fn keep_batch(&self, key: String, timed: Vec<(String, f64)>) {
        self.lock().insert_batch(key, timed);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Cache> {
        // Answers are inserted whole, so a panic elsewhere leaves them valid.
        self.cache.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Chooses a kernel for a weight, and its measures: those of the first candidate. Where these must be timed first, `may_time` says
    /// whether it may be done now.
    ///
    /// # Errors
    /// When the weight is not an f32 matrix, or would have to be timed.
    pub(crate) fn choose(
        &self,
        source: &Source<'_>,
        problem: &Problem,
        threads: &Threads,
        may_time: bool,
    ) -> Result<(&'static Kernel, Choice), KernelError> {
        let weight = source.stored();
        let shape = weight.shape()?;
        let kernels = self.kernels(weight, problem);
        if kernels.is_empty() {
            return Err(KernelError::Missing);
        }
        let untimed = |kernel: &'static Kernel, params: Params, reason: &str| {
            let candidate = Candidate { kernel: kernel.name.to_owned(), params, micros: None, bytes: None };
            Ok((kernel, Choice { candidates: vec![candidate], reason: reason.to_owned() }))
        };
        if let [kernel] = kernels[..] {
            return untimed(
                kernel,
                kernel.guess(weight, problem, threads),
                "the only kernel for such weights",
            );
        }
        let cost = |kernel: &&Kernel| (kernel.cost)(weight, problem);
        if !self.options.timing {
            let kernel = kernels.iter().copied().min_by(|a, b| cost(a).total_cmp(&cost(b)));
            let kernel = kernel.expect("there is one");
            let params = kernel.guess(weight, problem, threads);
            return untimed(kernel, params, "chosen by the cost model, not timed");
        }
        let bytes = kernels.iter().any(|kernel| kernel.integer);
        let key = key(weight, shape, (problem, bytes), threads, self.options.prefer);
        let known = self.lock().get(&key);
        let mut candidates = known.map_or_else(Vec::new, |mut candidates| {
            candidates.retain(|candidate| offered(candidate, &kernels, weight, problem, threads));
            candidates
        });
        let rank = Rank::new(weight, shape, self.options.prefer);
        if candidates.is_empty() {
            if !may_time {
                return Err(KernelError::Untimed);
            }
            let mut promising = kernels;
            if self.options.prefer == Prefer::Latency {
                let least = promising.iter().map(cost).fold(f64::INFINITY, f64::min);
                promising.retain(|kernel| kernel.dense || cost(kernel) <= HOPELESS * least);
            }
            candidates = measure::time(&promising, source, shape, problem, threads, &rank)?;
            self.lock().insert(key, candidates.clone());
        }
        rank.sort(&mut candidates);
        let kernel = candidates[0].row().expect("timed, or found among those offered");
        let reason = rank.reason(&candidates);
        Ok((kernel, Choice { candidates, reason }))
    }

    /// The kernels that may be chosen, at least one.
    fn kernels(&self, weight: &WeightMatrix, problem: &Problem) -> Vec<&'static Kernel> {
        let stored = weight.stored();
        // Kernels for few columns run over any number, if slowly; what they read stays narrow.
        let few = Problem { n: problem.n.min(1), ..problem.clone() };
        let keeps = self.options.prefer == Prefer::Memory && stored != DataType::F32;
        let takes = |kernel: &Kernel| {
            kernel.takes(weight, problem) || keeps && kernel.values == stored && kernel.takes(weight, &few)
        };
        let mut kernels: Vec<&'static Kernel> =
            kernels::all().filter(|kernel| kernel.level == Level::best() && takes(kernel)).collect();
        if keeps && kernels.iter().any(|kernel| kernel.values == stored) {
            kernels.retain(|kernel| kernel.values == stored);
        }
        if kernels.is_empty() {
            kernels.extend(kernels::all().filter(|kernel| kernel.takes(weight, problem)));
        }
        kernels
    }
}

impl Drop for Tuner {
    fn drop(&mut self) {
        self.save();
    }
}

/// Whether a remembered candidate is one of these kernels, with measures that it offers and a time that can be.
fn offered(
    candidate: &Candidate,
    kernels: &[&'static Kernel],
    weight: &WeightMatrix,
    problem: &Problem,
    threads: &Threads,
) -> bool {
    let Some(kernel) = kernels.iter().find(|kernel| kernel.name == candidate.kernel) else { return false };
    kernel.variants(weight, problem, threads).contains(&candidate.params)
        && candidate.micros.is_some_and(|micros| micros.is_finite() && micros >= 0.0)
        && candidate.bytes.is_some()
}

/// How uneven the rows of a weight are: their deviation in halves of their mean. Lanes that wait for the longest row make some
/// kernels slow, so an answer for even rows is none for uneven ones.
fn spread(weight: &WeightMatrix) -> u32 {
    let Some(starts) = weight.row_offsets().filter(|_| weight.nnz() > 0) else { return 0 };
    let rows = (starts.len() - 1) as f64;
    let mean = weight.nnz() as f64 / rows;
    let far = |pair: &[u32]| (f64::from(pair[1] - pair[0]) - mean).powi(2);
    let variance = starts.windows(2).map(far).sum::<f64>() / rows;
    (2.0 * variance.sqrt() / mean) as u32
}

/// What an answer depends on, beside the machine: also on whether a kernel of `bytes` takes the weight, which its elements tell.
/// Sparsity counts in whole percents.
fn key(
    weight: &WeightMatrix,
    [m, k]: [usize; 2],
    (problem, bytes): (&Problem, bool),
    threads: &Threads,
    prefer: Prefer,
) -> String {
    let kept = (weight.nnz() as f64 / (m * k).max(1) as f64 * 100.0).round();
    let Problem { n, x_layout, y_layout, conv, sums, grid: _ } = problem;
    let layout = |layout: &Layout| match layout {
        Layout::FeatureMajor => 'f',
        Layout::TokenMajor => 't',
    };
    let conv = conv.as_ref().map_or(String::new(), |g| {
        format!(" conv {:?} {:?} {:?} {:?} {:?}", g.input(), g.kernel(), g.stride(), g.dilation(), g.pads())
    });
    let sums = match sums {
        Sums::Near => "",
        Sums::Whole => " exact",
        Sums::Integer => " integer",
    };
    let bytes = if bytes { " bytes" } else { "" };
    let pattern = weight.pattern().map_or(String::new(), |pattern| format!(" {pattern}"));
    // Checks of a debug build cost sparse kernels more than dense ones.
    let build = if cfg!(debug_assertions) { " checked" } else { "" };
    format!(
        "{m}x{k}x{n} {} {kept}% ~{}{pattern} {}{} {}t {prefer:?}{conv}{sums}{bytes}{build}",
        weight.stored(),
        spread(weight),
        layout(x_layout),
        layout(y_layout),
        threads.count()
    )
}

#[cfg(test)]
mod tests {
    use poda_formats::{CsrMatrix, Tensor};

    use super::rank::OVERHEAD;
    use super::*;
    use crate::kernels::{Epilogue, Grid, X, sums_bytes};

    fn weight(sparsity: usize) -> WeightMatrix {
        let dense: Vec<f32> =
            (0..64 * 256_usize).map(|i| if i * 7919 % 100 >= sparsity { 1.0 } else { 0.0 }).collect();
        WeightMatrix::Csr(CsrMatrix::from_dense(64, 256, &dense))
    }

    const PROBLEM: Problem = Problem::matrix(64, Layout::FeatureMajor, Layout::FeatureMajor);

    #[test]
    fn answers_are_remembered_on_disk() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cache/kernels.json");
        let options = TuneOptions { cache: Some(path.clone()), ..TuneOptions::default() };
        let threads = Threads::single();
        let first = Tuner::new(options.clone());
        let a = PackedWeight::prepare(&weight(95), &PROBLEM, &first, &threads).unwrap();
        assert!(a.choice().candidates.len() > 1);
        drop(first);
        let second = Tuner::new(options.clone());
        let b = PackedWeight::prepare(&weight(95), &PROBLEM, &second, &threads).unwrap();
        // The very same times: nothing was measured again.
        assert_eq!(a.choice(), b.choice());
        assert!(second.cache_note().is_none());

        std::fs::write(&path, "{ damaged").unwrap();
        let third = Tuner::new(options.clone());
        assert!(third.cache_note().is_some());
        PackedWeight::prepare(&weight(95), &PROBLEM, &third, &threads).unwrap();
        drop(third);
        assert!(Tuner::new(options).cache_note().is_none(), "a damaged file is replaced");

        let nowhere =
            Tuner::new(TuneOptions { cache: Some("/proc/no/such".into()), ..TuneOptions::default() });
        PackedWeight::prepare(&weight(95), &PROBLEM, &nowhere, &threads).unwrap();
        nowhere.save();
        assert!(nowhere.cache_note().is_some());
    }

    /// Weights of one shape, of which bytes hold one.
    #[test]
    fn a_weight_of_bytes_is_timed_by_itself() {
        let problem = Problem { grid: Grid::new(0.5, Some([0.0, 255.0])), ..PROBLEM };
        let tuner = Tuner::new(TuneOptions { cache: None, ..TuneOptions::default() });
        let found = |value: fn(usize) -> f32| {
            let values: Vec<f32> = (0..64 * 256).map(value).collect();
            let weight = WeightMatrix::Dense(Tensor::from_slice(&[64, 256], &values));
            let packed = PackedWeight::prepare(&weight, &problem, &tuner, &Threads::single()).unwrap();
            packed.choice().candidates.iter().any(|candidate| candidate.kernel.contains("u8i8"))
        };
        assert!(!found(|i| (i as f32).sin()));
        assert_eq!(found(|i| (i % 200) as f32 - 100.0), sums_bytes(256));
    }

    /// Times `weight(95)` into a file, changes what the file says, and prepares from it.
    fn from_changed_file(change: impl Fn(&mut serde_json::Value)) -> (Choice, Choice) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kernels.json");
        let options = TuneOptions { cache: Some(path.clone()), ..TuneOptions::default() };
        let prepare = || {
            let tuner = Tuner::new(options.clone());
            let packed = PackedWeight::prepare(&weight(95), &PROBLEM, &tuner, &Threads::single()).unwrap();
            // A packing that was not built for its measures would show here.
            let (x, mut y) = (vec![1.0; 256 * 64], vec![f32::NAN; 64 * 64]);
            let x = X::Matrix { data: &x, layout: Layout::FeatureMajor };
            packed.run(64, x, &mut y, Layout::FeatureMajor, &Epilogue::default(), &Threads::single());
            for (row, y) in y.chunks(64).enumerate() {
                let expected = (0..256).filter(|col| (row * 256 + col) * 7919 % 100 >= 95).count();
                assert!(y.iter().all(|&y| y == expected as f32), "row {row}");
            }
            packed.choice().clone()
        };
        let before = prepare();
        let mut file: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let timed = file["timed"].as_object_mut().unwrap();
        assert_eq!(timed.len(), 1);
        change(&mut timed.values_mut().next().unwrap()[0]);
        std::fs::write(&path, file.to_string()).unwrap();
        (before, prepare())
    }

    #[test]
    fn a_stale_or_hostile_file_chooses_only_what_kernels_offer() {
        if Level::best() == Level::Portable {
            // Fewer candidates than are taken away here.
            return;
        }
        let (before, after) = from_changed_file(|_| ());
        assert_eq!(before, after);
        let hostile: [(&str, serde_json::Value); 9] = [
            ("params", serde_json::json!({"vectors": 7, "depth": 96, "rows": 768, "sets": 1, "parts": 1})),
            ("params", serde_json::json!({"vectors": 1, "depth": 0, "rows": 0, "sets": 0, "parts": 1})),
            (
                "params",
                serde_json::json!({"vectors": 4, "depth": 96, "rows": 768, "sets": 1, "parts": u64::MAX}),
            ),
            ("kernel", serde_json::json!("spmv_f32_csr_portable")),
            ("kernel", serde_json::json!("spmv_i8_sell16_gather_avx512")),
            ("kernel", serde_json::json!("\u{1b}[2J")),
            ("micros", serde_json::json!(-1.0)),
            ("micros", serde_json::json!(null)),
            ("bytes", serde_json::json!(null)),
        ];
        for (field, value) in hostile {
            let (before, after) = from_changed_file(|candidate| candidate[field] = value.clone());
            // Taken out; the others stand. (Which was first in the file is a matter of time.)
            assert_eq!(after.candidates.len() + 1, before.candidates.len(), "{field}: {value}");
            let stands = |candidate| before.candidates.contains(candidate);
            assert!(after.candidates.iter().all(stands), "{field}: {value}: {after:?}");
        }
        // A claim to be fast changes the order, as a measurement would, and nothing else.
        let (before, after) = from_changed_file(|candidate| candidate["micros"] = serde_json::json!(1e9));
        assert_eq!(after.candidates.len(), before.candidates.len());
        assert_eq!(after.candidates.last().unwrap().micros, Some(1e9));
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_is_no_cache() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kernels.json");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let tuner = Tuner::new(TuneOptions { cache: Some(path), ..TuneOptions::default() });
        assert!(tuner.cache_note().unwrap().contains("not a regular file"));
    }

    #[test]
    fn weights_take_little_more_than_their_smallest_form() {
        if Level::best() == Level::Portable {
            // There is no bitmap kernel, and panels take more.
            return;
        }
        let (m, k) = (256, 1024);
        for (prefer, most) in [(Prefer::Latency, 1.6), (Prefer::Memory, 1.1)] {
            let tuner = Tuner::new(TuneOptions { prefer, cache: None, ..TuneOptions::default() });
            for zeros in [10, 30, 50, 70, 80, 90, 95, 98] {
                let kept = |i: usize| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) % 100 >= zeros;
                let dense: Vec<f32> = (0..m * k).map(|i| if kept(i) { 1.0 } else { 0.0 }).collect();
                let weight = WeightMatrix::Csr(CsrMatrix::from_dense(m, k, &dense));
                for n in [1, 16] {
                    let problem = Problem { n, ..PROBLEM };
                    let packed =
                        PackedWeight::prepare(&weight, &problem, &tuner, &Threads::single()).unwrap();
                    let dense = packed.choice().candidates[0].is_dense() && prefer == Prefer::Latency;
                    let limit =
                        if dense { m * k * 4 } else { (weight.smallest_bytes() as f64 * most) as usize };
                    let (bytes, kernel) = (packed.bytes(), packed.kernel());
                    assert!(
                        bytes <= (limit + OVERHEAD).min(m * k * 4 + OVERHEAD),
                        "{kernel}: {bytes} of {limit} bytes, {prefer:?}, {zeros} % zeros, n = {n}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_model_prefers_sparse_when_most_is_pruned() {
        let (tuner, threads) = (Tuner::by_model(), Threads::single());
        let kernel = |sparsity| {
            PackedWeight::prepare(&weight(sparsity), &PROBLEM, &tuner, &threads).unwrap().kernel().to_owned()
        };
        assert!(kernel(10).starts_with("gemm"));
        assert!(kernel(95).starts_with("spmm"));
    }
}
