//! Every kernel that fits, over shapes and sparsities, against dense.
//!
//!     cargo bench -p poda-runtime --bench kernels                              # criterion, over all kernels
//!     cargo bench -p poda-runtime --bench kernels -- product 3072x768x128 80,95 avx512
//!     cargo bench -p poda-runtime --bench kernels -- product 768x768x16 80 avx512 block:4x1,nm:1:4   # and by patterns
//!     cargo bench -p poda-runtime --bench kernels -- choice                    # is what the tuner chooses ever slower than dense?
//!     cargo bench -p poda-runtime --bench kernels -- choice 768x768x1,768x768x17 0,10,50,99 uneven
//!     THREADS=2 cargo bench -p poda-runtime --bench kernels -- scaling 3072x768x128 0,50,90   # over one thread
//!     cargo bench -p poda-runtime --bench kernels -- pointwise avx512          # EfficientNet-Lite0's 1×1 layers
//!     cargo bench -p poda-runtime --bench kernels -- conv                      # dense layers of ResNet-50, one after another
//!     cargo bench -p poda-runtime --bench kernels -- depthwise                 # and its depthwise ones
//!     cargo bench -p poda-runtime --bench kernels -- attention                 # of encoders, decoders, and over a long cache
//!     cargo bench -p poda-runtime --bench kernels -- activation                # GELU over a layer's output
//!
//! `THREADS=2` takes two threads, `ROUNDS=21` more turns; of a product, `MASK=uneven` chooses the mask, `PARAMS=4x128x768x2x1,…`
//! tries measures of panels, and `VALUES=bf16,f16,int8` adds the kernels that read weights stored so.
//!
//! Variants take turns in one process; each line gives the median, GFLOP/s of the *kept* weights, the fraction of the FMA roof
//! measured in this process, and the speed-up over `rten-gemm` with a prepacked weight and over Poda's own dense kernel.

mod activation;
mod attention;
mod choice;
mod conv;
mod depthwise;
mod product;
mod scaling;
mod timing;
mod weights;

use activation::activation;
use attention::attention;
use choice::{Tally, choice};
use conv::conv;
use criterion::{Criterion, Throughput};
use depthwise::depthwise;
use poda_formats::{CsrMatrix, Pattern};
use poda_runtime::Threads;
use poda_runtime::kernels::{self, Epilogue, Kernel, Layout, Level, Problem, WeightMatrix, X};
use poda_runtime::tune::{PackedWeight, TuneOptions, Tuner};
use product::product;
use scaling::scaling;
use timing::roof;
use weights::{MASKS, Mask, Random, pruned};

/// All kernels of the widest vectors by criterion.
fn by_criterion(threads: &Threads) {
    let mut criterion = Criterion::default().configure_from_args();
    for [m, k, n] in [[768, 768, 1], [768, 768, 16], [768, 768, 128], [3072, 768, 128]] {
        for percent in [0, 50, 80, 90, 95] {
            let w = pruned([m, k], percent as f32 / 100.0, MASKS[0].1);
            let weight = WeightMatrix::Csr(CsrMatrix::from_dense(m, k, &w));
            let x = Random(5).values(k * n);
            let layout = Layout::TokenMajor;
            let problem = Problem::matrix(n, layout, layout);
            let mut group = criterion.benchmark_group(format!("{m}x{k}x{n} {percent}%"));
            group.throughput(Throughput::Elements(2 * (weight.nnz() * n) as u64));
            let best = |kernel: &&Kernel| kernel.level == Level::best() && kernel.takes(&weight, &problem);
            for kernel in kernels::all().filter(best) {
                let params = kernel.guess(&weight, &problem, threads);
                let packed = PackedWeight::with_kernel(&weight, &problem, kernel, params).unwrap();
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

/// For `choice` without arguments.
const SHAPES: &str = "100x300x1,768x768x1,4096x4096x1,768x768x4,768x768x17,3072x768x128,64x576x196";
const SPARSITIES: &str = "0,10,20,30,40,50,60,70,80,90,95,99";

/// `MxKxN`.
fn shape(text: &str) -> [usize; 3] {
    let numbers: Vec<usize> = text.split('x').map(|v| v.parse().expect("MxKxN")).collect();
    numbers.try_into().expect("MxKxN")
}

fn mask(name: &str) -> (&'static str, Mask) {
    *MASKS.iter().find(|(known, _)| *known == name).expect("masks are uniform, uneven and clustered")
}

fn percentage(text: &str) -> f32 {
    text.parse::<f32>().expect("a percentage") / 100.0
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let threads = std::env::var("THREADS").map_or(1, |t| t.parse().expect("THREADS is a number"));
    let threads = Threads::new(threads).unwrap();
    // With one thread in rayon's global pool `rten-gemm` runs on the caller.
    rayon::ThreadPoolBuilder::new().num_threads(1).build_global().expect("nothing has used rayon yet");
    let roof = roof();
    println!("FMA roof, one thread: {roof:.1} GFLOP/s; threads: {}", threads.count());
    let argument = |i: usize, default| arguments.get(i).map_or(default, String::as_str);
    match argument(0, "") {
        "conv" => conv(&threads),
        "depthwise" => depthwise(&threads, roof),
        "attention" => attention(&threads, roof),
        "activation" => activation(&threads),
        "pointwise" => {
            for shape in POINTWISE {
                product(shape, 0.0, MASKS[0].1, &threads, roof, arguments.get(1).map(String::as_str), &[]);
            }
        }
        "choice" => {
            let masks: Vec<_> = match arguments.get(3) {
                None => MASKS.to_vec(),
                Some(names) => names.split(',').map(mask).collect(),
            };
            let mut tally = Tally::default();
            for shape in argument(1, SHAPES).split(',').map(shape) {
                for sparsity in argument(2, SPARSITIES).split(',').map(percentage) {
                    for &mask in &masks {
                        choice(shape, sparsity, mask, &threads, &mut tally);
                    }
                }
            }
            tally.print();
        }
        "scaling" => {
            let tuner = Tuner::new(TuneOptions { cache: None, ..TuneOptions::default() });
            for shape in argument(1, "3072x768x128").split(',').map(shape) {
                for sparsity in argument(2, "0,50,80,90,95").split(',').map(percentage) {
                    scaling(shape, sparsity, &threads, &tuner);
                }
            }
        }
        "product" => {
            let (_, mask) = mask(&std::env::var("MASK").unwrap_or("uniform".to_owned()));
            for sparsity in arguments[2].split(',').map(percentage) {
                let only = arguments.get(3).map(String::as_str);
                let patterns =
                    arguments.get(4).map_or("", String::as_str).split(',').filter(|p| !p.is_empty());
                let patterns: Vec<Pattern> = patterns.map(|p| p.parse().expect("a pattern")).collect();
                product(shape(&arguments[1]), sparsity, mask, &threads, roof, only, &patterns);
            }
        }
        _ => by_criterion(&threads),
    }
}
