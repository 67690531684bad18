//! Chooses the kernel for a weight: times the candidates on this machine, so that sparse is never slower than dense.
//!
//! Answers are kept in memory and in a file of the user's cache directory, keyed by the CPU, the version of the kernels, the
//! shape, sparsity, unevenness and layout of the product, and the number of threads. A file that is damaged, of another CPU or
//! version, or cannot be written is ignored; [`Tuner::cache_note`] says so.

mod cache;

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use poda_formats::DataType;
use poda_formats::storage::{AlignedBytes, give_back};
use serde::{Deserialize, Serialize};

use crate::kernels::{
    Call, Epilogue, KERNELS, Kernel, KernelError, Layout, Level, Packed, Params, Problem, Source,
    WeightMatrix, X,
};
use crate::packing::ConvGeometry;
use crate::threads::Threads;
use cache::Cache;

/// Time for each candidate, once it has run twice.
const BUDGET: Duration = Duration::from_millis(2);
/// A sparse kernel must beat dense by this factor: less is noise.
const MARGIN: f64 = 1.05;
/// The best sparse kernel and the best dense one are timed once more, in turns, unless they are this many times apart.
const APART: f64 = 2.0;
/// Turns of each at least.
const TURNS: usize = 3;
/// Kernels whose estimate is beyond this many times the least are not timed.
const HOPELESS: f64 = 6.0;
/// Bytes that every packing may take beside its weights.
const OVERHEAD: usize = 4096;

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
    /// Whether the kernel multiplies pruned weights too.
    pub fn is_dense(&self) -> bool {
        KERNELS.iter().any(|kernel| kernel.dense && kernel.name == self.kernel)
    }
}

/// What was chosen, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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

    fn lock(&self) -> std::sync::MutexGuard<'_, Cache> {
        // Answers are inserted whole, so a panic elsewhere leaves them valid.
        self.cache.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Chooses a kernel and packs the weight for it.
    ///
    /// # Errors
    /// When the weight is not an f32 matrix.
    pub(crate) fn prepare(
        &self,
        weight: &WeightMatrix,
        problem: &Problem,
        threads: &Threads,
    ) -> Result<(&'static Kernel, Choice, Box<dyn Packed>), KernelError> {
        let shape = weight.shape()?;
        let stored = weight.stored();
        // Kernels for few columns run over any number, if slowly; what they read stays narrow.
        let few = Problem { n: problem.n.min(1), ..problem.clone() };
        let keeps = self.options.prefer == Prefer::Memory && stored != DataType::F32;
        let takes = |kernel: &Kernel| {
            kernel.takes(weight, problem) || keeps && kernel.values == stored && kernel.takes(weight, &few)
        };
        let mut kernels: Vec<&'static Kernel> =
            KERNELS.iter().filter(|kernel| kernel.level == Level::best() && takes(kernel)).collect();
        if keeps && kernels.iter().any(|kernel| kernel.values == stored) {
            kernels.retain(|kernel| kernel.values == stored);
        }
        let source = Source::new(weight);
        if kernels.is_empty() {
            kernels.extend(KERNELS.iter().filter(|kernel| kernel.takes(weight, problem)));
        }
        if let [kernel] = kernels[..] {
            let reason = "the only kernel for such weights".to_owned();
            return pack(kernel, &source, problem, Params::default(), reason);
        }
        if !self.options.timing {
            let cost = |kernel: &&&Kernel| (kernel.cost)(weight, problem);
            let kernel = kernels.iter().min_by(|a, b| cost(a).total_cmp(&cost(b))).expect("dense takes all");
            let params = kernel.guess(weight, problem, threads);
            let reason = "chosen by the cost model, not timed".to_owned();
            return pack(kernel, &source, problem, params, reason);
        }
        if self.options.prefer == Prefer::Latency {
            let cost = |kernel: &&Kernel| (kernel.cost)(weight, problem);
            let least = kernels.iter().map(cost).fold(f64::INFINITY, f64::min);
            kernels.retain(|kernel| kernel.dense || cost(kernel) <= HOPELESS * least);
        }
        let key = key(weight, shape, problem, threads, self.options.prefer);
        let known = self.lock().get(&key);
        if let Some(choice) = known {
            let winner = &choice.candidates[0];
            if let Some(kernel) = kernels.iter().find(|kernel| kernel.name == winner.kernel) {
                let packed = kernel.pack(&source, problem, winner.params)?;
                return Ok((kernel, choice, packed));
            }
        }
        let (kernel, choice, packed) = self.time(&kernels, weight, shape, problem, threads)?;
        self.lock().insert(key, choice.clone());
        Ok((kernel, choice, packed))
    }

    /// Times every variant of every kernel.
    fn time(
        &self,
        kernels: &[&'static Kernel],
        weight: &WeightMatrix,
        [m, k]: [usize; 2],
        problem: &Problem,
        threads: &Threads,
    ) -> Result<(&'static Kernel, Choice, Box<dyn Packed>), KernelError> {
        let source = Source::new(weight);
        let n = problem.n.max(1);
        // Written before they are read: untouched pages would all be one page of zeros.
        let x = written(problem.conv.as_ref().map_or(k * n, ConvGeometry::image_len), 1.0);
        let mut y = written(m * n, 0.0);
        let y: &mut [f32] = bytemuck::cast_slice_mut(&mut y);
        let data: &[f32] = bytemuck::cast_slice(&x);
        let x = match &problem.conv {
            Some(geometry) => X::Image { data, geometry },
            None => X::Matrix { data, layout: problem.x_layout },
        };
        let mut run = |packed: &dyn Packed| {
            let start = Instant::now();
            let (y, y_layout, epilogue) = (&mut *y, problem.y_layout, &Epilogue::default());
            x.with_right(|x| packed.run(Call { n, x, y, y_layout, epilogue, threads }));
            start.elapsed()
        };
        let rounded = |micros: f64| (micros * 1e3).round() / 1e3;
        let mut timed = Vec::new();
        for &kernel in kernels {
            for params in kernel.variants(weight, problem, threads) {
                let packed = kernel.pack(&source, problem, params)?;
                // As within an inference: the other threads are awake.
                let best = threads.install(|| {
                    run(&*packed);
                    let mut best = run(&*packed);
                    let begun = Instant::now();
                    while begun.elapsed() < BUDGET {
                        best = best.min(run(&*packed));
                    }
                    best
                });
                let candidate = Candidate {
                    kernel: kernel.name.to_owned(),
                    params,
                    micros: Some(rounded(best.as_secs_f64() * 1e6)),
                    bytes: Some(packed.bytes()),
                };
                // One packing at a time, so that choosing takes little more memory than the largest.
                drop(packed);
                timed.push((kernel, candidate));
            }
        }
        let micros = |candidate: &Candidate| candidate.micros.expect("timed above");
        // Dense wins at parity.
        let handicap = |kernel: &Kernel| if kernel.dense { 1.0 } else { MARGIN };
        let bytes = |candidate: &Candidate| candidate.bytes.expect("packed above");
        // How many times the smallest lossless format a sparse kernel may take. For speed, narrow values may be widened.
        let (times, values) = match self.options.prefer {
            Prefer::Latency => (1.6, DataType::F32),
            Prefer::Memory => (1.1, weight.stored()),
        };
        let limit = (weight.smallest_bytes_of(values) as f64 * times) as usize + OVERHEAD;
        // Those that take too many bytes come last. For memory dense is no exception, and the smallest is best where all do.
        let excess = |kernel: &Kernel, candidate: &Candidate| match self.options.prefer {
            Prefer::Latency if kernel.dense => 0,
            _ => bytes(candidate).saturating_sub(limit),
        };
        let by_rank = |a: &(&'static Kernel, Candidate), b: &(&'static Kernel, Candidate)| {
            let time = (micros(&a.1) * handicap(a.0)).total_cmp(&(micros(&b.1) * handicap(b.0)));
            excess(a.0, &a.1).cmp(&excess(b.0, &b.1)).then(time)
        };
        timed.sort_by(by_rank);
        // A shared machine is not as fast now as it was a few candidates ago, so what is close is compared in turns.
        let firsts = [true, false].map(|dense| timed.iter().position(|(kernel, _)| kernel.dense == dense));
        if let [Some(dense), Some(sparse)] = firsts
            && self.options.prefer == Prefer::Latency
            && (1.0 / APART..APART).contains(&(micros(&timed[dense].1) / micros(&timed[sparse].1)))
        {
            let pack = |i: usize| timed[i].0.pack(&source, problem, timed[i].1.params);
            let packed = [pack(dense)?, pack(sparse)?];
            // The other's run has taken the weight out of the caches, so the second and the third run count; a long product
            // does not find it there anyway.
            let again = micros(&timed[dense].1) < 10.0 * BUDGET.as_secs_f64() * 1e6;
            let mut time = |packed: &dyn Packed| {
                let first = run(packed);
                (if again { run(packed).min(run(packed)) } else { first }).as_secs_f64() * 1e6
            };
            let mut turns = Vec::new();
            threads.install(|| {
                let begun = Instant::now();
                while turns.len() < TURNS || begun.elapsed() < 4 * BUDGET {
                    turns.push(packed.each_ref().map(|packed| time(&**packed)));
                }
            });
            // Neighbours come and go within milliseconds and slow some kernels more than others, so neighbouring turns are
            // compared, and no least times, of which one may have met a quiet moment and the other not.
            let dense_time = median(turns.iter().map(|[dense, _]| *dense).collect());
            let ratio = median(turns.iter().map(|[dense, sparse]| sparse / dense).collect());
            timed[dense].1.micros = Some(rounded(dense_time));
            timed[sparse].1.micros = Some(rounded(dense_time * ratio));
            timed.sort_by(by_rank);
        }
        let candidates: Vec<Candidate> = timed.iter().map(|(_, candidate)| candidate.clone()).collect();
        let (kernel, winner) = timed.swap_remove(0);
        give_back();
        let packed = kernel.pack(&source, problem, winner.params)?;
        let dense = candidates.iter().find(|c| c.is_dense());
        let sparse = candidates.iter().find(|c| !c.is_dense());
        let density = weight.nnz() as f64 / (m * k).max(1) as f64;
        let reason = match (dense, sparse, self.options.prefer) {
            (Some(dense), _, Prefer::Memory) => format!(
                "{:.2}× the bytes of the smallest format, {:.2}× the speed of dense",
                bytes(&winner) as f64 / weight.smallest_bytes().max(1) as f64,
                micros(dense) / micros(&winner)
            ),
            (Some(dense), Some(sparse), Prefer::Latency) if kernel.dense => {
                // A sparse kernel takes time in proportion to what is kept.
                let even = 1.0 - density * micros(dense) / micros(sparse);
                format!(
                    "stayed dense: {:.0} % is below this CPU's break-even of about {:.0} %",
                    (1.0 - density) * 100.0,
                    even.clamp(0.0, 1.0) * 100.0
                )
            }
            (Some(dense), _, Prefer::Latency) => {
                format!("{:.2}× the speed of dense", micros(dense) / micros(&winner))
            }
            (None, _, Prefer::Memory) => format!(
                "{:.2}× the bytes of the smallest format",
                bytes(&winner) as f64 / weight.smallest_bytes().max(1) as f64
            ),
            (None, _, _) => "the fastest".to_owned(),
        };
        Ok((kernel, Choice { candidates, reason }, packed))
    }
}

impl Drop for Tuner {
    fn drop(&mut self) {
        self.save();
    }
}

/// A kernel that was chosen without timing.
fn pack(
    kernel: &'static Kernel,
    source: &Source<'_>,
    problem: &Problem,
    params: Params,
    reason: String,
) -> Result<(&'static Kernel, Choice, Box<dyn Packed>), KernelError> {
    let packed = kernel.pack(source, problem, params)?;
    let bytes = Some(packed.bytes());
    let candidate = Candidate { kernel: kernel.name.to_owned(), params, micros: None, bytes };
    Ok((kernel, Choice { candidates: vec![candidate], reason }, packed))
}

/// The middle one of some numbers.
fn median(mut numbers: Vec<f64>) -> f64 {
    let middle = numbers.len() / 2;
    *numbers.select_nth_unstable_by(middle, f64::total_cmp).1
}

/// A buffer whose pages are all written.
fn written(len: usize, scale: f32) -> AlignedBytes {
    let mut bytes = AlignedBytes::zeroed(len * size_of::<f32>());
    for (i, x) in bytemuck::cast_slice_mut::<_, f32>(&mut bytes).iter_mut().enumerate() {
        *x = scale * ((i % 127) as f32 / 63.5 - 1.0);
    }
    bytes
}

/// How uneven the rows of a weight are: their deviation in halves of their mean. Lanes that wait for the longest row make some
/// kernels slow, so an answer for even rows is none for uneven ones.
fn spread(weight: &WeightMatrix) -> u32 {
    let Some(csr) = weight.csr().filter(|csr| csr.nnz() > 0) else { return 0 };
    let mean = csr.nnz() as f64 / csr.rows() as f64;
    let far = |pair: &[u32]| (f64::from(pair[1] - pair[0]) - mean).powi(2);
    let variance = csr.row_offsets().windows(2).map(far).sum::<f64>() / csr.rows() as f64;
    (2.0 * variance.sqrt() / mean) as u32
}

/// What an answer depends on, beside the machine. Sparsity counts in whole percents.
fn key(
    weight: &WeightMatrix,
    [m, k]: [usize; 2],
    problem: &Problem,
    threads: &Threads,
    prefer: Prefer,
) -> String {
    let kept = (weight.nnz() as f64 / (m * k).max(1) as f64 * 100.0).round();
    let Problem { n, x_layout, y_layout, conv } = problem;
    let layout = |layout: &Layout| match layout {
        Layout::FeatureMajor => 'f',
        Layout::TokenMajor => 't',
    };
    let conv = conv.as_ref().map_or(String::new(), |g| {
        format!(" conv {:?} {:?} {:?} {:?} {:?}", g.input(), g.kernel(), g.stride(), g.dilation(), g.pads())
    });
    let pattern = weight.pattern().map_or(String::new(), |pattern| format!(" {pattern}"));
    format!(
        "{m}x{k}x{n} {} {kept}% ~{}{pattern} {}{} {}t {prefer:?}{conv}",
        weight.stored(),
        spread(weight),
        layout(x_layout),
        layout(y_layout),
        threads.count()
    )
}

#[cfg(test)]
mod tests {
    use poda_formats::CsrMatrix;

    use super::*;
    use crate::kernels::PackedWeight;

    fn weight(sparsity: usize) -> WeightMatrix {
        let dense: Vec<f32> =
            (0..64 * 256_usize).map(|i| if i * 7919 % 100 >= sparsity { 1.0 } else { 0.0 }).collect();
        WeightMatrix::Csr(CsrMatrix::from_dense(64, 256, &dense))
    }

    const PROBLEM: Problem =
        Problem { n: 64, x_layout: Layout::FeatureMajor, y_layout: Layout::FeatureMajor, conv: None };

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
