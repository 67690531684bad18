//! What the tuner chooses, against dense.

use poda_formats::{CsrMatrix, Tensor};
use poda_runtime::Threads;
use poda_runtime::kernels::{Epilogue, Layout, Problem, WeightMatrix, X};
use poda_runtime::tune::PackedWeight;
use poda_runtime::tune::{TuneOptions, Tuner};

use crate::timing::{Variant, time};
use crate::weights::{Mask, Random, aligned, pruned};

/// Beyond this a choice is slower than dense, not noise.
const NOISE: f64 = 1.05;

/// What was found.
#[derive(Default)]
pub(crate) struct Tally {
    /// Products.
    cells: usize,
    /// Where another kernel than dense was chosen.
    sparse: usize,
    /// Where that is slower.
    lose: usize,
    /// How far dense is from itself where it was chosen: the noise.
    noise: Vec<f64>,
}

impl Tally {
    /// Prints the sums.
    pub(crate) fn print(mut self) {
        let Self { cells, sparse, lose, .. } = self;
        println!("{cells} products; another kernel than dense for {sparse}, more than 5 % slower in {lose}");
        self.noise.sort_by(f64::total_cmp);
        if let [.., most] = self.noise[..] {
            let [middle, high] = [50, 90].map(|part| self.noise[(self.noise.len() - 1) * part / 100]);
            println!(
                "dense timed against itself: {:.0} % apart in the median, {:.0} % in one of ten, {:.0} % at most",
                middle * 100.0,
                high * 100.0,
                most * 100.0
            );
        }
    }
}

/// Tunes one product from nothing, in both layouts, and times the choice in turns with dense.
pub(crate) fn choice(
    [m, k, n]: [usize; 3],
    sparsity: f32,
    (mask, keep): (&str, Mask),
    threads: &Threads,
    tally: &mut Tally,
) {
    let w = pruned([m, k], sparsity, keep);
    let csr = CsrMatrix::from_dense(m, k, &w);
    let zeros = 1.0 - csr.nnz() as f64 / (m * k) as f64;
    // As reading a model does: a matrix without zeros is dense.
    let dense = WeightMatrix::Dense(Tensor::from_slice(&[m, k], &w));
    let weight = if sparsity > 0.0 { WeightMatrix::Csr(csr) } else { dense.clone() };
    let mut random = Random(5);
    let (x, bias) = (aligned(&random.values(k * n)), random.values(m));
    let x: &[f32] = x.as_slice().expect("f32");
    let layouts = [Layout::TokenMajor, Layout::FeatureMajor];
    for layout in layouts.into_iter().take(if n == 1 { 1 } else { 2 }) {
        let problem = Problem::matrix(n, layout, layout);
        let tuner = Tuner::new(TuneOptions { cache: None, ..TuneOptions::default() });
        let chosen = PackedWeight::prepare(&weight, &problem, &tuner, threads).expect("f32");
        let rival = PackedWeight::prepare(&dense, &problem, &tuner, threads).expect("f32");
        let input = X::Matrix { data: x, layout };
        let epilogue = Epilogue { bias: Some(&bias), ..Epilogue::default() };
        let [mut ours, mut theirs] = [(); 2].map(|()| vec![f32::NAN; m * n]);
        let mut variants = [
            Variant::new(chosen.kernel(), threads, || {
                chosen.run(n, input, &mut ours, layout, &epilogue, threads);
            }),
            Variant::new(rival.kernel(), threads, || {
                rival.run(n, input, &mut theirs, layout, &epilogue, threads);
            }),
        ];
        time(&mut variants);
        let [own, dense] = [&variants[0], &variants[1]].map(Variant::median);
        let same = chosen.kernel() == rival.kernel();
        let slower = !same && own > dense * NOISE;
        tally.cells += 1;
        tally.sparse += usize::from(!same);
        tally.lose += usize::from(slower);
        if same {
            tally.noise.push((own / dense).max(dense / own) - 1.0);
        }
        let tuned = |dense: bool| {
            let all = &chosen.choice().candidates;
            all.iter()
                .find(|candidate| candidate.is_dense() == dense)
                .and_then(|c| c.micros)
                .unwrap_or(f64::NAN)
        };
        println!(
            "{m}x{k}x{n} {mask:<9} {:4.1}% {layout:?} {:<32} {:9.2} us  x{:.2} dense  {:.2} of the smallest bytes{}",
            zeros * 100.0,
            chosen.kernel(),
            own * 1e6,
            dense / own,
            chosen.bytes() as f64 / chosen.smallest_bytes() as f64,
            if slower {
                format!("  LOSES; tuned at {} us, dense at {}", tuned(false), tuned(true))
            } else {
                String::new()
            }
        );
    }
}
