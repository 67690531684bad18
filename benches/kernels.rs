//! Every kernel that fits, over shapes and sparsities, against dense.
//!
//!     cargo bench -p poda-runtime --bench kernels                              # criterion, over all kernels
//!     cargo bench -p poda-runtime --bench kernels -- product 3072x768x128 80,95 avx512
//!     cargo bench -p poda-runtime --bench kernels -- product 768x768x16 80 avx512 block:4x1,nm:1:4   # and by patterns
//!     cargo bench -p poda-runtime --bench kernels -- pointwise avx512          # EfficientNet-Lite0's 1×1 layers
//!     cargo bench -p poda-runtime --bench kernels -- depthwise                 # and its depthwise ones
//!
//! `THREADS=2` takes two threads, `ROUNDS=21` more turns, `PARAMS=4x128x768x2x1,…` tries measures of panels, and
//! `VALUES=bf16,f16,int8` adds the kernels that read weights stored so.
//!
//! Variants take turns in one process; each line gives the median, GFLOP/s of the *kept* weights, the fraction of the FMA roof
//! measured in this process, and the speed-up over `rten-gemm` with a prepacked weight and over Poda's own dense kernel.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use poda_formats::{CsrMatrix, NarrowMatrix, Pattern, StructuredMatrix, Tensor, ValueType, Values};
use poda_runtime::Threads;
use poda_runtime::kernels::{
    Activation, Depthwise, Epilogue, KERNELS, Kernel, Layout, Level, PackedWeight, Params, Problem,
    WeightMatrix, X,
};
use poda_runtime::packing::ConvGeometry;
use rten_gemm::{GemmExecutor, GemmInputA, GemmInputB, GemmOptions};
use rten_tensor::NdTensorView;

struct Variant<'a> {
    name: String,
    run: Box<dyn FnMut() + 'a>,
    seconds: Vec<f64>,
}

impl<'a> Variant<'a> {
    fn new(name: impl Into<String>, run: impl FnMut() + 'a) -> Self {
        Self { name: name.into(), run: Box::new(run), seconds: Vec::new() }
    }

    fn median(&self) -> f64 {
        let mut sorted = self.seconds.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    }
}

/// Time that this thread has run, so that other processes on the machine disturb less; with `THREADS` above 1 it is wall time.
fn now() -> f64 {
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
fn time(variants: &mut [Variant<'_>]) {
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
            (v.run)();
            let start = now();
            for _ in 0..repeats {
                (v.run)();
            }
            v.seconds.push((now() - start) / repeats as f64);
        }
    }
}

/// GFLOP/s of independent multiply-adds on one thread.
fn roof() -> f64 {
    fn chains(a: &mut [[f32; 16]; 20], steps: usize) {
        for _ in 0..steps {
            for a in a.iter_mut() {
                for a in a.iter_mut() {
                    *a = a.mul_add(1.000_000_1, 1e-9);
                }
            }
        }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,fma")]
    unsafe fn wide(a: &mut [[f32; 16]; 20], steps: usize) {
        use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_storeu_ps};
        // SAFETY: rows are 16 floats.
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
        #[cfg(target_arch = "x86_64")]
        if Level::Avx512.available() {
            // SAFETY: the CPU has AVX-512.
            unsafe { wide(&mut a, steps) };
            black_box(a);
            best = best.max(steps as f64 * 640.0 / (now() - start) * 1e-9);
            continue;
        }
        chains(&mut a, steps);
        black_box(a);
        best = best.max(steps as f64 * 640.0 / (now() - start) * 1e-9);
    }
    best
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    }

    fn values(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.next()).collect()
    }
}

fn aligned(values: &[f32]) -> Tensor {
    Tensor::from_slice(&[values.len()], values)
}

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

/// A weight in every form that some kernel reads as it is stored, with the values that it stands for: f32, and the types
/// in `VALUES`.
fn forms([m, k]: [usize; 2], w: &[f32], sparse: bool) -> Vec<(WeightMatrix, Vec<f32>)> {
    let first = if sparse {
        WeightMatrix::Csr(CsrMatrix::from_dense(m, k, w))
    } else {
        WeightMatrix::Dense(Tensor::from_slice(&[m, k], w))
    };
    let mut forms = vec![(first, w.to_vec())];
    let Ok(list) = std::env::var("VALUES") else { return forms };
    for name in list.split(',') {
        let to = ValueType::named(name).expect("VALUES are bf16, f16, int8");
        let narrow = NarrowMatrix::new(m, k, Values::round(w, [m, k], to).expect("finite")).expect("[m, k]");
        let wide = narrow.to_dense().expect("memory");
        let wide = wide.as_slice::<f32>().expect("f32");
        if sparse {
            forms.push((WeightMatrix::Csr(narrow.to_csr().expect("32 bits")), wide.to_vec()));
        }
        forms.push((WeightMatrix::Narrow(narrow), wide.to_vec()));
    }
    forms
}

/// A random matrix `[m, k]` that keeps to a pattern, dense and as it is stored.
fn structured([m, k]: [usize; 2], pattern: Pattern, sparsity: f32) -> (Vec<f32>, WeightMatrix) {
    let mut random = Random(11);
    let mut w = random.values(m * k);
    let [a, b] = pattern.numbers();
    match pattern {
        Pattern::Block { .. } => {
            let across = k.div_ceil(b);
            let gone: Vec<bool> =
                (0..m.div_ceil(a) * across).map(|_| f32::midpoint(random.next(), 1.0) < sparsity).collect();
            for (i, w) in w.iter_mut().enumerate() {
                if gone[i / k / a * across + i % k / b] {
                    *w = 0.0;
                }
            }
        }
        // The largest of each group stay.
        Pattern::NofM { .. } => {
            for group in w.chunks_mut(k).flat_map(|row| row.chunks_mut(b)) {
                let mut sizes: Vec<f32> = group.iter().map(|w| w.abs()).collect();
                sizes.sort_by(f32::total_cmp);
                let least = sizes[sizes.len().saturating_sub(a)];
                group.iter_mut().filter(|w| w.abs() < least).for_each(|w| *w = 0.0);
            }
        }
    }
    let csr = CsrMatrix::from_dense(m, k, &w);
    let stored = StructuredMatrix::from_csr(csr.view().unwrap(), pattern).expect("w keeps to the pattern");
    (w, stored.into())
}

/// One shape at one sparsity: all kernels, both layouts. Of `patterns` only the kernels that are for them.
fn product(
    [m, k, n]: [usize; 3],
    sparsity: f32,
    threads: &Threads,
    roof: f64,
    only: Option<&str>,
    patterns: &[Pattern],
) {
    let mut random = Random(7);
    let mut w = random.values(m * k);
    for w in &mut w {
        if f32::midpoint(random.next(), 1.0) < sparsity {
            *w = 0.0;
        }
    }
    let x = aligned(&random.values(k * n));
    let x: &[f32] = x.as_slice().unwrap();
    let bias = random.values(m);
    let forms = forms([m, k], &w, sparsity > 0.0);
    let by_pattern: Vec<_> =
        patterns.iter().map(|&pattern| (pattern, structured([m, k], pattern, sparsity))).collect();
    // One column is the same in both layouts.
    let layouts = [Layout::TokenMajor, Layout::FeatureMajor];
    for layout in layouts.into_iter().take(if n == 1 { 1 } else { 2 }) {
        let problem = Problem { n, x_layout: layout, y_layout: layout, conv: None };
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
            variants.push(Variant::new("rten-gemm", move || {
                let options = GemmOptions::default();
                threads
                    .install(|| gemm.gemm(theirs, GemmInputA::Packed(a), GemmInputB::Unpacked(xm), options))
                    .unwrap();
            }));
        } else {
            packed_b = gemm.prepack_b(theirs_w.transposed());
            let xm = NdTensorView::from_data([n, k], x);
            let (gemm, b, theirs) = (&gemm, &packed_b, &mut theirs);
            variants.push(Variant::new("rten-gemm", move || {
                let options = GemmOptions::default();
                threads
                    .install(|| gemm.gemm(theirs, GemmInputA::Unpacked(xm), GemmInputB::Packed(b), options))
                    .unwrap();
            }));
        }
        let mut bytes = vec![m * k * size_of::<f32>()];
        let reads = forms.iter().flat_map(|form| KERNELS.iter().map(move |kernel| (kernel, form)));
        let reads = reads.filter(|(kernel, (weight, _))| {
            kernel.values == weight.stored() && kernel.takes(weight, &problem)
        });
        for (kernel, (weight, exact)) in reads {
            if only.is_some_and(|only| !kernel.name.contains(only)) {
                continue;
            }
            let tried = if kernel.name.contains("panel") { params() } else { vec![None] };
            for params in tried {
                let packed = PackedWeight::with_params(weight, &problem, kernel.name, params).unwrap();
                let mut y = vec![f32::NAN; m * n];
                let input = X::Matrix { data: x, layout };
                packed.run(n, input, &mut y, layout, &epilogue, threads);
                verify(kernel.name, exact, [m, k, n], x, &y, &bias, layout);
                let name = params.map_or(kernel.name.to_owned(), |p| {
                    format!("panel {}x{}x{} sets {} {}t", p.vectors, p.depth, p.rows, p.sets, p.parts)
                });
                bytes.push(packed.bytes());
                variants.push(Variant::new(name, move || {
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
            for kernel in KERNELS.iter().filter(fits) {
                for params in if kernel.name.contains("block") { params() } else { vec![None] } {
                    let packed = PackedWeight::with_params(weight, &problem, kernel.name, params).unwrap();
                    let mut y = vec![f32::NAN; m * n];
                    let input = X::Matrix { data: x, layout };
                    packed.run(n, input, &mut y, layout, &epilogue, threads);
                    verify(kernel.name, w, [m, k, n], x, &y, &bias, layout);
                    let params = params.map(|p| format!(" {}x{}x{}", p.vectors, p.depth, p.rows));
                    let name = format!("{pattern} {}{}", kernel.name, params.unwrap_or_default());
                    bytes.push(packed.bytes());
                    variants.push(Variant::new(name, move || {
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

/// All kernels of the widest vectors by criterion.
fn by_criterion(threads: &Threads) {
    let mut criterion = Criterion::default().configure_from_args();
    for [m, k, n] in [[768, 768, 1], [768, 768, 16], [768, 768, 128], [3072, 768, 128]] {
        for percent in [0, 50, 80, 90, 95] {
            let mut random = Random(7);
            let mut w = random.values(m * k);
            for w in &mut w {
                if f32::midpoint(random.next(), 1.0) < percent as f32 / 100.0 {
                    *w = 0.0;
                }
            }
            let weight = WeightMatrix::Csr(CsrMatrix::from_dense(m, k, &w));
            let x = random.values(k * n);
            let layout = Layout::TokenMajor;
            let problem = Problem { n, x_layout: layout, y_layout: layout, conv: None };
            let mut group = criterion.benchmark_group(format!("{m}x{k}x{n} {percent}%"));
            group.throughput(Throughput::Elements(2 * (weight.nnz() * n) as u64));
            let best = |kernel: &&Kernel| kernel.level == Level::best() && kernel.takes(&weight, &problem);
            for kernel in KERNELS.iter().filter(best) {
                let packed = PackedWeight::with_kernel(&weight, &problem, kernel.name).unwrap();
                let input = X::Matrix { data: &x, layout };
                let mut y = vec![0.0; m * n];
                let epilogue = Epilogue::default();
                group.bench_function(kernel.name, |b| {
                    b.iter(|| packed.run(n, input, &mut y, layout, &epilogue, threads));
                });
            }
        }
    }
    criterion.final_summary();
}

/// Depthwise layers of EfficientNet-Lite0: channels, input side, kernel, stride.
const DEPTHWISE: [[usize; 4]; 12] = [
    [32, 112, 3, 1],
    [96, 112, 3, 2],
    [144, 56, 3, 1],
    [144, 56, 5, 2],
    [240, 28, 5, 1],
    [240, 28, 3, 2],
    [480, 14, 3, 1],
    [480, 14, 5, 1],
    [672, 14, 5, 1],
    [672, 14, 5, 2],
    [1152, 7, 5, 1],
    [1152, 7, 3, 1],
];

fn depthwise(threads: &Threads, roof: f64) {
    let mut total = 0.0;
    for [channels, side, kernel, stride] in DEPTHWISE {
        let pad = kernel / 2;
        let g = ConvGeometry::new(channels, [side; 2], [kernel; 2], [stride; 2], [1; 2], [pad; 4]).unwrap();
        let mut random = Random(3);
        let packed = Depthwise::prepare(&random.values(channels * kernel * kernel), &g);
        let x = random.values(g.image_len());
        let bias = random.values(channels);
        let mut y = vec![0.0; channels * g.n()];
        let epilogue = Epilogue {
            bias: Some(&bias),
            activation: Activation::Clip { min: 0.0, max: 6.0 },
            ..Epilogue::default()
        };
        let mut v = [Variant::new("depthwise", || packed.run(&x, &g, &mut y, &epilogue, threads))];
        time(&mut v);
        let t = v[0].median();
        total += t;
        let gflops = 2.0 * (channels * g.n() * kernel * kernel) as f64 / t * 1e-9;
        println!(
            "depthwise {channels}x{side}x{side} {kernel}x{kernel} s{stride} {:8.2} us {gflops:6.1} GFLOP/s {:3.0}% of roof",
            t * 1e6,
            gflops / roof * 100.0
        );
    }
    println!("depthwise total {:.1} us", total * 1e6);
}

/// Pointwise layers of EfficientNet-Lite0: m, k, pixels.
const POINTWISE: [[usize; 3]; 16] = [
    [16, 32, 12544],
    [96, 16, 12544],
    [24, 96, 3136],
    [144, 24, 3136],
    [24, 144, 3136],
    [40, 144, 784],
    [240, 40, 784],
    [40, 240, 784],
    [80, 240, 196],
    [480, 80, 196],
    [112, 480, 196],
    [672, 112, 196],
    [192, 672, 49],
    [1152, 192, 49],
    [320, 1152, 49],
    [1280, 320, 49],
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let threads = std::env::var("THREADS").map_or(1, |t| t.parse().expect("THREADS is a number"));
    let threads = Threads::new(threads).unwrap();
    // With one thread in rayon's global pool `rten-gemm` runs on the caller.
    rayon::ThreadPoolBuilder::new().num_threads(1).build_global().expect("nothing has used rayon yet");
    let roof = roof();
    println!("FMA roof, one thread: {roof:.1} GFLOP/s; threads: {}", threads.count());
    match arguments.first().map_or("", String::as_str) {
        "depthwise" => depthwise(&threads, roof),
        "pointwise" => {
            for shape in POINTWISE {
                product(shape, 0.0, &threads, roof, arguments.get(1).map(String::as_str), &[]);
            }
        }
        "product" => {
            let shape: Vec<usize> = arguments[1].split('x').map(|v| v.parse().expect("MxKxN")).collect();
            for sparsity in arguments[2].split(',') {
                let sparsity: f32 = sparsity.parse().expect("a percentage");
                let only = arguments.get(3).map(String::as_str);
                let patterns =
                    arguments.get(4).map_or("", String::as_str).split(',').filter(|p| !p.is_empty());
                let patterns: Vec<Pattern> = patterns.map(|p| p.parse().expect("a pattern")).collect();
                let shape = [shape[0], shape[1], shape[2]];
                product(shape, sparsity / 100.0, &threads, roof, only, &patterns);
            }
        }
        _ => by_criterion(&threads),
    }
}
