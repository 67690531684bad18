//! Variants that take turns.

use std::hint::black_box;

use poda_runtime::Threads;
use poda_runtime::kernels::Level;

pub(crate) struct Variant<'a> {
    pub(crate) name: String,
    threads: &'a Threads,
    run: Box<dyn FnMut() + 'a>,
    seconds: Vec<f64>,
}

impl<'a> Variant<'a> {
    /// Something to time, with those threads awake as within an inference.
    pub(crate) fn new(name: impl Into<String>, threads: &'a Threads, run: impl FnMut() + 'a) -> Self {
        Self { name: name.into(), threads, run: Box::new(run), seconds: Vec::new() }
    }

    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.seconds.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    }

    pub(crate) fn least(&self) -> f64 {
        self.seconds.iter().copied().fold(f64::INFINITY, f64::min)
    }
}

/// Time that this thread has run, so that other processes on the machine disturb less; with `THREADS` above 1 it is wall time.
pub(crate) fn now() -> f64 {
    let clock = if std::env::var_os("THREADS").is_some() {
        libc::CLOCK_MONOTONIC
    } else {
        libc::CLOCK_THREAD_CPUTIME_ID
    };
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a local; the clocks exist on Linux.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Times variants in turns: A B C A B C …
pub(crate) fn time(variants: &mut [Variant<'_>]) {
    let rounds: usize = std::env::var("ROUNDS").map_or(11, |r| r.parse().expect("ROUNDS is a number"));
    let mut repeats = Vec::new();
    for v in variants.iter_mut() {
        (v.run)();
        let start = now();
        (v.run)();
        repeats.push((0.002 / (now() - start).max(1e-9)).clamp(1.0, 1e5) as usize);
    }
    for _ in 0..rounds {
        for (v, &repeats) in variants.iter_mut().zip(&repeats) {
            v.threads.install(|| {
                (v.run)();
                let start = now();
                for _ in 0..repeats {
                    (v.run)();
                }
                v.seconds.push((now() - start) / repeats as f64);
            });
        }
    }
}

/// GFLOP/s of independent multiply-adds on one thread.
pub(crate) fn roof() -> f64 {
    type Chains = [[f32; 16]; 20];
    fn portable(a: &mut Chains, steps: usize) {
        for _ in 0..steps {
            for a in a.iter_mut() {
                for a in a.iter_mut() {
                    *a = *a * 1.000_000_1 + 1e-9;
                }
            }
        }
    }
    /// Ten chains of two halves of a line: what 16 registers hold.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2(a: &mut Chains, steps: usize) {
        use std::arch::x86_64::{_mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_storeu_ps};
        // SAFETY: lines are 16 floats.
        unsafe {
            let (x, y) = (_mm256_set1_ps(1.000_000_1), _mm256_set1_ps(1e-9));
            for lines in a.chunks_exact_mut(10) {
                let mut v: [_; 10] = std::array::from_fn(|i| _mm256_loadu_ps(lines[i].as_ptr()));
                for _ in 0..2 * steps {
                    for v in &mut v {
                        *v = _mm256_fmadd_ps(*v, x, y);
                    }
                }
                for (line, v) in lines.iter_mut().zip(v) {
                    _mm256_storeu_ps(line.as_mut_ptr(), v);
                }
            }
        }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,fma")]
    unsafe fn avx512(a: &mut Chains, steps: usize) {
        use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_storeu_ps};
        // SAFETY: lines are 16 floats.
        unsafe {
            let mut v = a.map(|a| _mm512_loadu_ps(a.as_ptr()));
            let (x, y) = (_mm512_set1_ps(1.000_000_1), _mm512_set1_ps(1e-9));
            for _ in 0..steps {
                for v in &mut v {
                    *v = _mm512_fmadd_ps(*v, x, y);
                }
            }
            for (a, v) in a.iter_mut().zip(v) {
                _mm512_storeu_ps(a.as_mut_ptr(), v);
            }
        }
    }
    let steps = 1_000_000;
    let mut best = 0.0_f64;
    for _ in 0..5 {
        let mut a = black_box([[1.0; 16]; 20]);
        let start = now();
        match Level::best() {
            // SAFETY: the CPU has these instructions.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { avx512(&mut a, steps) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { avx2(&mut a, steps) },
            _ => portable(&mut a, steps),
        }
        black_box(a);
        // 20 lines of 16 lanes, two operations each.
        best = best.max(steps as f64 * 640.0 / (now() - start) * 1e-9);
    }
    best
}
