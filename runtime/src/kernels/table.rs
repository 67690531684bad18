//! The table of kernels. Selection, tests, benches and profiles all read it; a kernel is added by a file and a row.

use super::{Packed, Problem, WeightMatrix, csr, dense};

/// A way to compute a product.
pub struct Kernel {
    /// What it does, in the order operation, value type, layout, instruction set.
    pub name: &'static str,
    /// Whether it takes such a weight for such a problem.
    pub(crate) fits: fn(&WeightMatrix, &Problem) -> bool,
    /// Packs the weight.
    pub(crate) prepare: fn(&WeightMatrix, &Problem) -> Box<dyn Packed>,
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Kernel {
    /// Whether this CPU has the instructions and the kernel takes the weight.
    pub fn takes(&self, weight: &WeightMatrix, problem: &Problem) -> bool {
        (self.fits)(weight, problem)
    }
}

/// Every kernel.
pub static KERNELS: &[Kernel] = &[
    Kernel { name: "gemm_f32", fits: |_, _| true, prepare: dense::prepare },
    Kernel {
        name: "spmm_f32_csr",
        fits: |weight, _| matches!(weight, WeightMatrix::Csr(_)),
        prepare: csr::prepare,
    },
];
