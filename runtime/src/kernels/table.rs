//! The table of kernels. Selection, tests, benches and profiles all read it; a kernel is added by a file and a row.

use super::simd::Level;
use super::{Packed, Problem, WeightMatrix, csr, gemm};

/// A way to compute a product.
pub struct Kernel {
    /// Operation, value type, layout, instruction set.
    pub name: &'static str,
    /// The instructions it needs.
    pub level: Level,
    /// Whether it takes such a weight for such a problem.
    pub(crate) fits: fn(&WeightMatrix, &Problem) -> bool,
    /// Packs the weight.
    pub(crate) prepare: fn(&WeightMatrix, &Problem, Level) -> Box<dyn Packed>,
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

const fn dense(name: &'static str, level: Level) -> Kernel {
    Kernel { name, level, fits: |_, _| true, prepare: gemm::prepare }
}

/// Every kernel.
pub static KERNELS: &[Kernel] = &[
    dense("gemm_f32_portable", Level::Portable),
    dense("gemm_f32_avx2", Level::Avx2),
    dense("gemm_f32_avx512", Level::Avx512),
    Kernel {
        name: "spmm_f32_csr_portable",
        level: Level::Portable,
        fits: |weight, _| matches!(weight, WeightMatrix::Csr(_)),
        prepare: csr::prepare,
    },
];
