//! The table of kernels. Selection, tests, benches and profiles all read it; a kernel is added by a file and a row.

use super::simd::Level;
use super::{Packed, Problem, WeightMatrix, csr, gemm, spmm, spmv};

/// Measures of a packing, for the kernels that have a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
pub struct Params {
    /// Vectors in the width of a tile.
    pub vectors: usize,
    /// Rows of `X` in a panel, at 16 lanes.
    pub depth: usize,
    /// Most rows in a block.
    pub rows: usize,
    /// Sets of accumulators.
    pub sets: usize,
    /// Threads that will share the blocks.
    pub parts: usize,
}

/// A way to compute a product.
pub struct Kernel {
    /// Operation, value type, layout, instruction set.
    pub name: &'static str,
    /// The instructions it needs.
    pub level: Level,
    /// Whether it multiplies pruned weights too.
    pub dense: bool,
    /// Whether it takes such a weight for such a problem.
    pub(crate) fits: fn(&WeightMatrix, &Problem) -> bool,
    /// Estimated time in cycles, for choosing without timing.
    pub(crate) cost: fn(&WeightMatrix, &Problem) -> f64,
    /// Measures worth trying, the best guess first; none when there is nothing to choose.
    pub(crate) variants: fn(&WeightMatrix, &Problem) -> Vec<Params>,
    /// Packs the weight.
    pub(crate) prepare: fn(&WeightMatrix, &Problem, Level, Params) -> Box<dyn Packed>,
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Kernel {
    /// Whether this CPU has the instructions and the kernel takes the weight.
    pub fn takes(&self, weight: &WeightMatrix, problem: &Problem) -> bool {
        self.level.available() && (self.fits)(weight, problem)
    }
}

/// Multiply-adds of a vector's width in a product of `rows` weights each with `n` columns.
fn vectors(weights: usize, n: usize) -> f64 {
    (weights * n.next_multiple_of(16)) as f64 / 16.0
}

const fn dense(name: &'static str, level: Level) -> Kernel {
    let cost = |weight: &WeightMatrix, problem: &Problem| {
        let [m, k] = weight.shape().unwrap_or_default();
        // Two multiply-adds a cycle; few columns wait for the weights, at 32 bytes a cycle.
        (m * k * problem.n) as f64 / 16.0 / 1.9_f64.min(problem.n as f64 / 2.0)
    };
    Kernel {
        name,
        level,
        dense: true,
        fits: |_, _| true,
        cost,
        variants: |_, _| Vec::new(),
        prepare: gemm::prepare,
    }
}

const fn panels(name: &'static str, level: Level) -> Kernel {
    let fits = |weight: &WeightMatrix, _: &Problem| matches!(weight, WeightMatrix::Csr(_));
    // Measured on Zen 5: 1.3 multiply-adds a cycle, and the packing and writing of X and Y.
    let cost = |weight: &WeightMatrix, problem: &Problem| {
        let [m, k] = weight.shape().unwrap_or_default();
        vectors(weight.nnz(), problem.n) / 1.3 + 4.0 * vectors(m + k, problem.n)
    };
    Kernel { name, level, dense: false, fits, cost, variants: spmm::variants, prepare: spmm::prepare }
}

/// A kernel for few columns. Costs are of Zen 5, weights in its L2.
const fn few(
    name: &'static str,
    level: Level,
    fits: fn(&WeightMatrix, &Problem) -> bool,
    cost: fn(&WeightMatrix, &Problem) -> f64,
    prepare: fn(&WeightMatrix, &Problem, Level, Params) -> Box<dyn Packed>,
) -> Kernel {
    Kernel { name, level, dense: false, fits, cost, variants: |_, _| Vec::new(), prepare }
}

const fn spmv_csr(name: &'static str, level: Level) -> Kernel {
    let cost = |weight: &WeightMatrix, problem: &Problem| 1.1 * (weight.nnz() * problem.n) as f64;
    few(name, level, spmv::csr::fits, cost, spmv::csr::prepare)
}

#[cfg(target_arch = "x86_64")]
const fn spmv_sell(
    name: &'static str,
    level: Level,
    prepare: fn(&WeightMatrix, &Problem, Level, Params) -> Box<dyn Packed>,
) -> Kernel {
    let cost = |weight: &WeightMatrix, problem: &Problem| 0.7 * (weight.nnz() * problem.n) as f64;
    few(name, level, spmv::sell::fits, cost, prepare)
}

/// Windows of `16 · T` columns, bursts of `B` steps.
#[cfg(target_arch = "x86_64")]
const fn spmv_wsell<const T: usize, const B: usize>(name: &'static str) -> Kernel {
    let cost = |weight: &WeightMatrix, problem: &Problem| {
        0.1 * (weight.nnz() * (problem.n + 1)) as f64
            + vectors(weight.shape().unwrap_or_default()[1], problem.n)
    };
    few(name, Level::Avx512, spmv::wsell::fits::<T, B>, cost, spmv::wsell::prepare::<T, B>)
}

#[cfg(target_arch = "x86_64")]
const fn spmv_bitmap(name: &'static str) -> Kernel {
    let cost = |weight: &WeightMatrix, problem: &Problem| {
        let [m, k] = weight.shape().unwrap_or_default();
        // Bits are expanded anew for every four columns.
        (m * k) as f64 * (0.11 * problem.n.div_ceil(4) as f64 + 0.03 * problem.n as f64)
    };
    // Also for many columns, where nothing else is as small.
    let fits = |weight: &WeightMatrix, _: &Problem| matches!(weight, WeightMatrix::Csr(_));
    few(name, Level::Avx512, fits, cost, spmv::bitmap::prepare)
}

/// Every kernel.
pub static KERNELS: &[Kernel] = &[
    dense("gemm_f32_portable", Level::Portable),
    dense("gemm_f32_avx2", Level::Avx2),
    dense("gemm_f32_avx512", Level::Avx512),
    Kernel {
        name: "spmm_f32_csr_portable",
        level: Level::Portable,
        dense: false,
        fits: |weight, _| matches!(weight, WeightMatrix::Csr(_)),
        cost: |weight, problem| vectors(weight.nnz(), problem.n) * 8.0,
        variants: |_, _| Vec::new(),
        prepare: csr::prepare,
    },
    panels("spmm_f32_panel_portable", Level::Portable),
    panels("spmm_f32_panel_avx2", Level::Avx2),
    panels("spmm_f32_panel_avx512", Level::Avx512),
    spmv_csr("spmv_f32_csr_portable", Level::Portable),
    spmv_csr("spmv_f32_csr_avx2", Level::Avx2),
    spmv_csr("spmv_f32_csr_avx512", Level::Avx512),
    #[cfg(target_arch = "x86_64")]
    spmv_sell("spmv_f32_sell8_insert_avx2", Level::Avx2, spmv::sell::prepare8::<false>),
    #[cfg(target_arch = "x86_64")]
    spmv_sell("spmv_f32_sell8_gather_avx2", Level::Avx2, spmv::sell::prepare8::<true>),
    #[cfg(target_arch = "x86_64")]
    spmv_sell("spmv_f32_sell8_insert_avx512", Level::Avx512, spmv::sell::prepare8::<false>),
    #[cfg(target_arch = "x86_64")]
    spmv_sell("spmv_f32_sell16_gather_avx512", Level::Avx512, spmv::sell::prepare16),
    #[cfg(target_arch = "x86_64")]
    spmv_bitmap("spmv_f32_bitmap_avx512"),
    #[cfg(target_arch = "x86_64")]
    spmv_wsell::<8, 4>("spmv_f32_wsell128x4_avx512"),
    #[cfg(target_arch = "x86_64")]
    spmv_wsell::<4, 2>("spmv_f32_wsell64x2_avx512"),
    #[cfg(target_arch = "x86_64")]
    spmv_wsell::<4, 4>("spmv_f32_wsell64x4_avx512"),
];
