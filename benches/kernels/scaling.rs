//! What a second thread gains.

use poda_formats::{CsrMatrix, Tensor};
use poda_runtime::Threads;
use poda_runtime::kernels::{Epilogue, Layout, Problem, WeightMatrix, X};
use poda_runtime::tune::PackedWeight;
use poda_runtime::tune::Tuner;

use crate::timing::{Variant, time};
use crate::weights::{MASKS, Random, aligned, pruned};

/// Times one product in turns on one thread and on all, each with the kernel that the tuner chooses for it.
pub(crate) fn scaling([m, k, n]: [usize; 3], sparsity: f32, threads: &Threads, tuner: &Tuner) {
    assert!(threads.count() > 1, "scaling compares one thread with THREADS=2 or more");
    let w = pruned([m, k], sparsity, MASKS[0].1);
    let weight = if sparsity > 0.0 {
        WeightMatrix::Csr(CsrMatrix::from_dense(m, k, &w))
    } else {
        WeightMatrix::Dense(Tensor::from_slice(&[m, k], &w))
    };
    let mut random = Random(5);
    let (x, bias) = (aligned(&random.values(k * n)), random.values(m));
    let data: &[f32] = x.as_slice().expect("f32");
    let layout = Layout::TokenMajor;
    let problem = Problem::matrix(n, layout, layout);
    let single = Threads::single();
    let all = [&single, threads];
    let packed = all.map(|threads| PackedWeight::prepare(&weight, &problem, tuner, threads).expect("f32"));
    let mut ys = [(); 2].map(|()| vec![f32::NAN; m * n]);
    let epilogue = Epilogue { bias: Some(&bias), ..Epilogue::default() };
    let runs = packed.iter().zip(all).zip(&mut ys);
    let mut variants: Vec<_> = runs
        .map(|((packed, threads), y)| {
            let input = X::Matrix { data, layout };
            Variant::new(packed.kernel(), threads, move || {
                packed.run(n, input, y, layout, &epilogue, threads);
            })
        })
        .collect();
    time(&mut variants);
    // Neighbours on the machine slow single turns, so the best of each count beside the medians.
    let [one, many] = [&variants[0], &variants[1]].map(|v| [v.median(), v.least()]);
    println!(
        "{m}x{k}x{n} {:4.1}% {:<28} {:9.2} us  {:<28} {:9.2} us on {}  x{:.2} (least times: x{:.2})",
        sparsity * 100.0,
        variants[0].name,
        one[0] * 1e6,
        variants[1].name,
        many[0] * 1e6,
        threads.count(),
        one[0] / many[0],
        one[1] / many[1]
    );
}
