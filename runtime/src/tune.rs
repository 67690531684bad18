//! Chooses the kernel for a weight.

use crate::kernels::{KERNELS, Kernel, Problem, WeightMatrix};
use crate::threads::Threads;

/// Chooses kernels.
#[derive(Debug, Default)]
pub struct Tuner {}

/// A kernel and why.
#[derive(Debug)]
pub struct Choice {
    /// The kernel.
    pub kernel: &'static Kernel,
    /// Why.
    pub reason: String,
}

impl Tuner {
    /// The kernel for a weight.
    pub fn choose(&self, weight: &WeightMatrix, problem: &Problem, _: &Threads) -> Choice {
        let fits = |kernel: &&Kernel| kernel.takes(weight, problem);
        let kernel = KERNELS
            .iter()
            .filter(fits)
            .max_by_key(|kernel| kernel.level)
            .expect("the dense kernel takes every weight");
        Choice { kernel, reason: "widest vectors".to_owned() }
    }
}
