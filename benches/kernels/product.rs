//! Every kernel at one product.

use poda_formats::Pattern;
use poda_runtime::Threads;
use poda_runtime::kernels::{self, Epilogue, Kernel, Layout, Params, Problem, X};
use poda_runtime::tune::PackedWeight;
use rten_gemm::{GemmExecutor, GemmInputA, GemmInputB, GemmOptions};
use rten_tensor::NdTensorView;

use crate::timing::{Variant, time};
use crate::weights::{Mask, Random, aligned, forms, pruned, structured};

/// Measures of panels to try, from `PARAMS=4x128x384x1x1,…` (vectors, depth, rows, sets, threads).
fn params() -> Vec<Option<Params>> {
    let Ok(list) = std::env::var("PARAMS") else { return vec![None] };
    let parse = |one: &str| {
        let numbers: Vec<usize> = one.split('x').map(|v| v.parse().expect("5 numbers")).collect();
        let [vectors, depth, rows, sets, parts] = numbers[..] else { panic!("5 numbers") };
        Some(Params { vectors, depth, rows, sets, parts })
    };
    list.split(',').map(parse).collect()
}

/// One shape at one sparsity: all kernels, both layouts. Of `patterns` only the kernels that are for them.
pub(crate) fn product(
    [m, k, n]: [usize; 3],
    sparsity: f32,
    mask: Mask,
    threads: &Threads,
    roof: f64,
    only: Option<&str>,
    patterns: &[Pattern],
) {
    let w = pruned([m, k], sparsity, mask);
    let mut random = Random(5);
    let x = aligned(&random.values(k * n));
    let x: &[f32] = x.as_slice().unwrap();
    let bias = random.values(m);
    let forms = forms([m, k], &w, sparsity > 0.0);
    let by_pattern: Vec<_> =
        patterns.iter().map(|&pattern| (pattern, structured([m, k], pattern, sparsity))).collect();
    // One column is the same in both layouts.
    let layouts = [Layout::TokenMajor, Layout::FeatureMajor];
    for layout in layouts.into_iter().take(if n == 1 { 1 } else { 2 }) {
        let problem = Problem::matrix(n, layout, layout);
        let epilogue = Epilogue { bias: Some(&bias), ..Epilogue::default() };
        let gemm = GemmExecutor::<f32>::new();
        let theirs_w = NdTensorView::from_data([m, k], &w[..]);
        let mut theirs = vec![0.0_f32; m * n];
        let (packed_a, packed_b);
        let mut variants = Vec::new();
        if layout == Layout::FeatureMajor {
            packed_a = gemm.prepack_a(theirs_w);
            let xm = NdTensorView::from_data([k, n], x);
            let (gemm, a, theirs) = (&gemm, &packed_a, &mut theirs);
            variants.push(Variant::new("rten-gemm", threads, move || {
                let options = GemmOptions::default();
                threads
                    .install(|| gemm.gemm(theirs, GemmInputA::Packed(a), GemmInputB::Unpacked(xm), options))
                    .unwrap();
            }));
        } else {
            packed_b = gemm.prepack_b(theirs_w.transposed());
            let xm = NdTensorView::from_data([n, k], x);
            let (gemm, b, theirs) = (&gemm, &packed_b, &mut theirs);
            variants.push(Variant::new("rten-gemm", threads, move || {
                let options = GemmOptions::default();
                threads
                    .install(|| gemm.gemm(theirs, GemmInputA::Unpacked(xm), GemmInputB::Packed(b), options))
                    .unwrap();
            }));
        }
        let mut bytes = vec![m * k * size_of::<f32>()];
        let reads = forms.iter().flat_map(|form| kernels::all().map(move |kernel| (kernel, form)));
        let reads = reads.filter(|(kernel, (weight, _))| {
            kernel.values == weight.stored() && kernel.takes(weight, &problem)
        });
        for (kernel, (weight, exact)) in reads {
            if only.is_some_and(|only| !kernel.name.contains(only)) {
                continue;
            }
            let tried = if kernel.name.contains("panel") { params() } else { vec![None] };
            for params in tried {
                let tried = params.unwrap_or_else(|| kernel.guess(weight, &problem, threads));
                let packed = PackedWeight::with_kernel(weight, &problem, kernel, tried).unwrap();
                let mut y = vec![f32::NAN; m * n];
                let input = X::Matrix { data: x, layout };
                packed.run(n, input, &mut y, layout, &epilogue, threads);
                verify(kernel.name, exact, [m, k, n], x, &y, &bias, layout);
                let name = params.map_or(kernel.name.to_owned(), |p| {
                    format!("panel {}x{}x{} sets {} {}t", p.vectors, p.depth, p.rows, p.sets, p.parts)
                });
                bytes.push(packed.bytes());
                variants.push(Variant::new(name, threads, move || {
                    packed.run(n, input, &mut y, layout, &epilogue, threads);
                }));
            }
        }
        let mut counts = vec![forms[0].0.nnz(); variants.len()];
        for (pattern, (w, weight)) in &by_pattern {
            let own = ["block", "tall", "wide", "nm"];
            let fits = |kernel: &&Kernel| {
                let name = kernel.name;
                kernel.takes(weight, &problem)
                    && only.is_none_or(|only| name.contains(only))
                    && own.iter().any(|own| name.contains(own))
            };
            for kernel in kernels::all().filter(fits) {
                for params in if kernel.name.contains("block") { params() } else { vec![None] } {
                    let tried = params.unwrap_or_else(|| kernel.guess(weight, &problem, threads));
                    let packed = PackedWeight::with_kernel(weight, &problem, kernel, tried).unwrap();
                    let mut y = vec![f32::NAN; m * n];
                    let input = X::Matrix { data: x, layout };
                    packed.run(n, input, &mut y, layout, &epilogue, threads);
                    verify(kernel.name, w, [m, k, n], x, &y, &bias, layout);
                    let params = params.map(|p| format!(" {}x{}x{}", p.vectors, p.depth, p.rows));
                    let name = format!("{pattern} {}{}", kernel.name, params.unwrap_or_default());
                    bytes.push(packed.bytes());
                    variants.push(Variant::new(name, threads, move || {
                        packed.run(n, input, &mut y, layout, &epilogue, threads);
                    }));
                    counts.push(weight.nnz());
                }
            }
        }
        time(&mut variants);
        let base = variants[0].median();
        let dense =
            variants.iter().filter(|v| v.name.starts_with("gemm_f32")).map(Variant::median).reduce(f64::min);
        for (v, (bytes, nnz)) in variants.iter().zip(bytes.into_iter().zip(counts)) {
            let t = v.median();
            let gflops = 2.0 * (nnz * n) as f64 / t * 1e-9;
            println!(
                "{m}x{k}x{n} {:2.0}% {layout:?} {:<34} {:9.2} us {gflops:7.1} GFLOP/s {:3.0}% of roof {:9.1} KiB  x{:.2} rten  x{:.2} dense",
                sparsity * 100.0,
                v.name,
                t * 1e6,
                gflops / roof * 100.0,
                bytes as f64 / 1024.0,
                base / t,
                dense.unwrap_or(base) / t,
            );
        }
    }
}

/// Compares some rows of a product with the reference loop.
fn verify(name: &str, w: &[f32], [m, k, n]: [usize; 3], x: &[f32], y: &[f32], bias: &[f32], layout: Layout) {
    for row in (0..m).step_by(m.div_ceil(16)) {
        for col in 0..n {
            // Distance of features in x, its first, and the element of y.
            let (step, first, at) = match layout {
                Layout::FeatureMajor => (n, col, row * n + col),
                Layout::TokenMajor => (1, col * k, col * m + row),
            };
            let products = (0..k).map(|i| f64::from(w[row * k + i]) * f64::from(x[first + i * step]));
            let expected = products.sum::<f64>() + f64::from(bias[row]);
            let found = f64::from(y[at]);
            assert!(
                (found - expected).abs() < 1e-4 * (k as f64).sqrt(),
                "{name}: {found}, expected {expected}"
            );
        }
    }
}
