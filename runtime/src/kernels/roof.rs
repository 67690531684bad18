//! What this CPU can do at most, measured: fused multiply-adds a second, and bytes read a second from each level of memory.
//!
//! Williams, Waterman, Patterson: "Roofline: an insightful visual performance model", CACM 2009. A step of a run that
//! multiplies `f` numbers and moves `b` bytes takes at least `max(f / gflops, b / bandwidth)`; [`Roofs::fraction`] says how
//! near it came.

use std::hint::black_box;
use std::time::{Duration, Instant};

use rten_simd::ops::{BitOps, NumOps};
use serde::Serialize;

use crate::simd::{Simd, Supported, Vectorized, splat};

/// How often each figure is measured; the best counts, for others may be at work on the machine.
const TIMES: usize = 6;
/// And how long each time.
const MEASURED: Duration = Duration::from_millis(3);
/// Bytes that each thread reads over and over: within the first cache, the second, the third, and beyond.
const SIZES: [usize; 4] = [16 << 10, 256 << 10, 4 << 20, 64 << 20];

/// The most that some threads of this CPU can do.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Roofs {
    /// f32 multiplications and additions a second, in 10⁹.
    pub gflops: f64,
    /// 10⁹ bytes a second that are read where the threads read so many bytes over and over, from few to many.
    pub bandwidth: Vec<Bandwidth>,
}

/// Speed of memory.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Bandwidth {
    /// Of all threads together.
    pub bytes: usize,
    /// 10⁹ bytes a second.
    pub gb_per_second: f64,
}

impl Roofs {
    /// Measures; takes about a tenth of a second. The threads are started for it, so that no pool is kept from its work.
    pub fn measure(threads: usize) -> Self {
        let level = Supported::best();
        let sum = |rate: &(dyn Fn() -> f64 + Sync)| -> f64 {
            std::thread::scope(|scope| {
                let workers: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(rate)).collect();
                workers.into_iter().map(|worker| worker.join().unwrap_or(0.0)).sum()
            })
        };
        let gflops = sum(&|| rate(|| level.run(MultiplyAdd)) / 1e9);
        let bandwidth = SIZES.map(|size| {
            let per_second = sum(&|| {
                // Written, so that its pages are its own.
                let data: Vec<f32> = (0..size / 4).map(|i| (i % 7) as f32).collect();
                rate(|| level.run(Read(&data)))
            });
            Bandwidth { bytes: size * threads.max(1), gb_per_second: per_second / 1e9 }
        });
        Self { gflops, bandwidth: bandwidth.to_vec() }
    }

    /// The share of what is possible that a step reached: the greater of its share of the arithmetic and of the memory.
    pub fn fraction(&self, macs: u64, bytes: usize, ms: f64) -> f64 {
        let arithmetic = 2.0 * macs as f64 / 1e6 / self.gflops;
        let level = self.bandwidth.iter().find(|level| bytes <= level.bytes).or(self.bandwidth.last());
        let memory = level.map_or(0.0, |level| bytes as f64 / 1e6 / level.gb_per_second);
        arithmetic.max(memory) / ms
    }
}

/// The most work done a second; `work` does some and tells how much.
fn rate(mut work: impl FnMut() -> f64) -> f64 {
    work();
    let mut once = || {
        let begun = Instant::now();
        let mut done = 0.0;
        while begun.elapsed() < MEASURED {
            done += work();
        }
        done / begun.elapsed().as_secs_f64()
    };
    (0..TIMES).map(|_| once()).fold(0.0, f64::max)
}

/// Sums that do not wait for each other: enough to fill the pipelines of two units, and few enough for 16 registers.
const SUMS: usize = 12;

struct MultiplyAdd;

impl Vectorized for MultiplyAdd {
    type Output = f64;

    #[inline(always)]
    fn eval<S: Simd>(self, simd: S) -> f64 {
        const STEPS: usize = 4096;
        let ops = simd.f32();
        let (factor, shift) = (black_box(splat(simd, 0.5)), black_box(splat(simd, 0.5)));
        let mut sums = [splat(simd, 1.0); SUMS];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = ops.mul_add(*sum, factor, shift);
            }
        }
        black_box(sums);
        (2 * SUMS * STEPS * S::LANES) as f64
    }
}

struct Read<'a>(&'a [f32]);

impl Vectorized for Read<'_> {
    type Output = f64;

    #[inline(always)]
    fn eval<S: Simd>(self, simd: S) -> f64 {
        let ops = simd.f32();
        let mut sums = [splat(simd, 0.0); 8];
        for block in self.0.chunks_exact(8 * S::LANES) {
            for (sum, values) in sums.iter_mut().zip(block.chunks_exact(S::LANES)) {
                *sum = ops.add(*sum, ops.load(values));
            }
        }
        black_box(sums);
        size_of_val(self.0) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fraction_is_of_the_nearer_roof() {
        let level = |bytes, gb_per_second| Bandwidth { bytes, gb_per_second };
        let roofs = Roofs { gflops: 100.0, bandwidth: vec![level(1000, 500.0), level(1_000_000, 10.0)] };
        // 50 Mflop in a ms are half of 100 GFLOP/s.
        assert!((roofs.fraction(25_000_000, 100, 1.0) - 0.5).abs() < 1e-9);
        // 1 MB in a ms is a tenth of 10 GB/s, whatever lies beyond the last level.
        assert!((roofs.fraction(0, 1_000_000, 1.0) - 0.1).abs() < 1e-9);
        assert!((roofs.fraction(0, 2_000_000, 1.0) - 0.2).abs() < 1e-9);
    }

    #[test]
    fn what_is_measured_is_there() {
        let roofs = Roofs::measure(1);
        assert!(roofs.gflops > 0.0 && roofs.gflops.is_finite());
        assert_eq!(roofs.bandwidth.len(), SIZES.len());
        assert!(roofs.bandwidth.iter().all(|level| level.gb_per_second > 0.0));
    }
}
