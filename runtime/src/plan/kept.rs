//! Packings that a file keeps beside its weights: found where everything is as it was when they were made, and made anew otherwise.

use std::sync::atomic::{AtomicUsize, Ordering};

use poda_formats::Weight;

use super::weights::{Identity, PackingKey};
use crate::kernels::{Kernel, Packing};
use crate::tune;

/// What became of the packings that a file keeps.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    found: AtomicUsize,
    made: AtomicUsize,
}

impl Kept {
    /// How many were found.
    pub(crate) fn found(&self) -> usize {
        self.found.load(Ordering::Relaxed)
    }

    /// How many were made of weights whose packings are none of those asked for.
    pub(crate) fn made(&self) -> usize {
        self.made.load(Ordering::Relaxed)
    }

    /// The packing of `weight`, a matrix of that size, for `kernel`, if it is kept.
    pub(super) fn find(
        &self,
        key: &PackingKey,
        kernel: &Kernel,
        weight: &Weight,
        size: [usize; 2],
    ) -> Option<Packing> {
        if weight.packings().is_empty() || kernel.restore.is_none() {
            return None;
        }
        let label = label(key, weight)?;
        let kept = weight.packings().iter().find(|packing| packing.label == label);
        let found = kept.and_then(|packing| kernel.restore(size, &packing.arrays, key.params));
        let count = if found.is_some() { &self.found } else { &self.made };
        count.fetch_add(1, Ordering::Relaxed);
        found
    }
}

/// What a file may keep of a packing, if it is worth it.
pub(super) fn to_keep(key: &PackingKey, packing: &Packing, weight: &Weight) -> Option<poda_formats::Packing> {
    Some(poda_formats::Packing { arrays: packing.arrays()?, label: label(key, weight)? })
}

/// All that a packing depends on: version and kernel (and with it the CPU's instructions), its measures, how the matrix lies in the
/// weight and what for, and the weight's elements.
fn label(key: &PackingKey, weight: &Weight) -> Option<String> {
    let Weight::Matrix(matrix) = weight else { return None };
    let PackingKey { identity, group, kernel, params, few } = key;
    let Identity { value: _, form, scale, parts, layouts, window, sums, grid, depthwise } = &**identity;
    // (FNV-1a, by words.)
    let fold = |sum: u64, &bits: &u32| (sum ^ u64::from(bits)).wrapping_mul(0x0000_0100_0000_01b3);
    let scale = scale.as_ref().map(|scale| scale.iter().fold(0xcbf2_9ce4_8422_2325, fold));
    let uses = (form, scale, parts, group, layouts, window, sums, grid, depthwise, few);
    Some(format!("{} {kernel} {params:?} {uses:?} {:016x}", tune::VERSION, matrix.checksum()))
}
