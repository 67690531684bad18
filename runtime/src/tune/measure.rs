//! Times candidates: each for a few milliseconds, and those that are close in turns.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use poda_formats::storage::{AlignedBytes, give_back};

use super::rank::{Rank, micros};
use super::{Candidate, Prefer};
use crate::kernels::{Call, Epilogue, Kernel, KernelError, Packed, Problem, Source, X};
use crate::packing::ConvGeometry;
use crate::threads::Threads;

/// Time for each candidate, once it has run twice.
const BUDGET: Duration = Duration::from_millis(2);
/// The best sparse kernel and the best dense one are timed once more, in turns, unless they are this many times apart.
const APART: f64 = 2.0;
/// Turns of each at least.
const TURNS: usize = 3;

/// Held while something is timed: two at once would measure each other.
static MEASURING: Mutex<()> = Mutex::new(());

/// Waits until nothing else is timed; nothing is until the guard goes.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    MEASURING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Times every variant of every kernel on a weight `[m, k]`.
///
/// # Errors
/// When memory does not hold a weight that must be widened.
pub(super) fn time(
    kernels: &[&'static Kernel],
    source: &Source<'_>,
    [m, k]: [usize; 2],
    problem: &Problem,
    threads: &Threads,
    rank: &Rank,
) -> Result<Vec<Candidate>, KernelError> {
    let _alone = alone();
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
        x.with_right(packed.tile(), |x| packed.run(Call { n, x, y, y_layout, epilogue, threads }));
        start.elapsed()
    };
    let rounded = |micros: f64| (micros * 1e3).round() / 1e3;
    let mut timed = Vec::new();
    for &kernel in kernels {
        for params in kernel.variants(source.stored(), problem, threads) {
            let packed = kernel.pack(source, problem, params)?;
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
            timed.push(Candidate {
                kernel: kernel.name.to_owned(),
                params,
                micros: Some(rounded(best.as_secs_f64() * 1e6)),
                // One packing at a time, so that choosing takes little more memory than the largest.
                bytes: Some(packed.bytes()),
            });
        }
    }
    rank.sort(&mut timed);
    // A shared machine is not as fast now as it was a few candidates ago, so what is close is compared in turns.
    let firsts = [true, false].map(|dense| timed.iter().position(|candidate| candidate.is_dense() == dense));
    if let [Some(dense), Some(sparse)] = firsts
        && rank.prefer == Prefer::Latency
        && (1.0 / APART..APART).contains(&(micros(&timed[dense]) / micros(&timed[sparse])))
    {
        let pack = |i: usize| {
            let kernel = timed[i].row().expect("timed above");
            kernel.pack(source, problem, timed[i].params)
        };
        let packed = [pack(dense)?, pack(sparse)?];
        // The other's run has taken the weight out of the caches, so the second and the third run count; a long product
        // does not find it there anyway.
        let again = micros(&timed[dense]) < 10.0 * BUDGET.as_secs_f64() * 1e6;
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
        timed[dense].micros = Some(rounded(dense_time));
        timed[sparse].micros = Some(rounded(dense_time * ratio));
    }
    give_back();
    Ok(timed)
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
