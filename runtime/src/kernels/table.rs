//! The table of kernels. Selection, tests, benches and profiles all read it; a kernel is added by a file and a row.

use std::cell::OnceCell;

#[cfg(feature = "narrow")]
use half::{bf16, f16};
use poda_formats::tensor::TensorError;
use poda_formats::{DataType, Tensor};

use super::{KernelError, Packed, Problem, Sums, WeightMatrix, csr, gemm, spmm, spmv};
#[cfg(all(target_arch = "x86_64", feature = "avx512", feature = "quantized"))]
use crate::simd::Avx512Vnni;
#[cfg(all(target_arch = "x86_64", feature = "quantized"))]
use crate::simd::{AvxVnni, ByteProducts};
use crate::simd::{Level, Supported, Value};
use crate::threads::{MOST_THREADS, Threads};

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

impl Params {
    /// Whether a kernel that has a choice can be packed so: tiles that it has code for, panels of `X` within reach of its
    /// offsets (64 KiB at 16 lanes), blocks of rows, threads that can be.
    fn possible(self) -> bool {
        let Self { vectors, depth, rows, sets, parts } = self;
        (1..=6).contains(&vectors)
            && (1..=1024 / vectors).contains(&depth)
            && (1..=1 << 16).contains(&rows)
            && (1..=2).contains(&sets)
            && (1..=MOST_THREADS).contains(&parts)
    }
}

/// A way to compute a product.
pub struct Kernel {
    /// Operation, value type, layout, instruction set.
    pub name: &'static str,
    /// The instructions it needs.
    pub level: Level,
    /// The type of the values that it reads; f32 ones also take a weight that is widened for them.
    pub values: DataType,
    /// Whether it multiplies pruned weights too.
    pub dense: bool,
    /// Whether it sums integers.
    pub integer: bool,
    /// Whether it takes such a weight for such a problem.
    pub(crate) fits: fn(&WeightMatrix, &Problem) -> bool,
    /// Estimated time in cycles, for choosing without timing.
    pub(crate) cost: fn(&WeightMatrix, &Problem) -> f64,
    /// Measures worth trying with a level's registers, the best guess first; none when there is nothing to choose.
    pub(crate) variants: fn(&WeightMatrix, &Problem, Level) -> Vec<Params>,
    /// Packs the weight.
    pub(crate) prepare: fn(&WeightMatrix, &Problem, Supported, Params) -> Box<dyn Packed>,
    /// Takes back what [`Packed::arrays`] gave, of kernels whose packings a file may keep.
    pub(crate) restore: Option<Restore>,
}

/// From arrays of a file to the packing of a weight `[m, k]`; `None` where they are not sound.
type Restore = fn([usize; 2], &[Tensor], Supported, Params) -> Option<Box<dyn Packed>>;

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Kernel {
    /// Whether this CPU has the instructions and the kernel takes the weight.
    pub fn takes(&self, weight: &WeightMatrix, problem: &Problem) -> bool {
        let reads = self.values == DataType::F32 || self.values == weight.stored();
        let sums = self.integer || problem.sums != Sums::Integer;
        reads && sums && self.level.available() && (self.fits)(weight, problem)
    }

    /// Measures worth trying for so many threads, the best guess first.
    pub fn variants(&self, weight: &WeightMatrix, problem: &Problem, threads: &Threads) -> Vec<Params> {
        let mut variants = (self.variants)(weight, problem, self.level);
        if variants.is_empty() {
            variants.push(Params::default());
        }
        variants.iter_mut().for_each(|params| params.parts = threads.count());
        variants
    }

    /// The first of [`Kernel::variants`].
    pub fn guess(&self, weight: &WeightMatrix, problem: &Problem, threads: &Threads) -> Params {
        self.variants(weight, problem, threads)[0]
    }

    /// Packs a weight that the kernel takes. Measures of a kernel without a choice are not looked at.
    ///
    /// # Errors
    /// When this CPU lacks the instructions, when the measures are none that the kernel can have, and when memory does not
    /// hold a weight that must be widened.
    pub(crate) fn pack(
        &self,
        source: &Source<'_>,
        problem: &Problem,
        params: Params,
    ) -> Result<Box<dyn Packed>, KernelError> {
        let refused = || KernelError::Refused { name: self.name.to_owned() };
        let level = self.level.supported().ok_or_else(refused)?;
        let weight = source.weight(self.values)?;
        if !(self.variants)(weight, problem, self.level).is_empty() && !params.possible() {
            return Err(KernelError::Params { name: self.name.to_owned(), params });
        }
        Ok((self.prepare)(weight, problem, level, params))
    }

    /// The packing of a weight `[m, k]` with measures of [`Kernel::variants`] that a file keeps in these arrays, where they are sound.
    pub(crate) fn restore(
        &self,
        size: [usize; 2],
        arrays: &[Tensor],
        params: Params,
    ) -> Option<Box<dyn Packed>> {
        (self.restore?)(size, arrays, self.level.supported()?, params)
    }
}

/// A weight to pack, widened to f32 at most once.
pub(crate) struct Source<'a> {
    stored: &'a WeightMatrix,
    wide: OnceCell<WeightMatrix>,
}

impl<'a> Source<'a> {
    /// Nothing is widened yet.
    pub(crate) fn new(stored: &'a WeightMatrix) -> Self {
        Self { stored, wide: OnceCell::new() }
    }

    /// The weight as it is stored.
    pub(crate) fn stored(&self) -> &'a WeightMatrix {
        self.stored
    }

    /// The weight with values of that type, which is its own or f32.
    fn weight(&self, values: DataType) -> Result<&WeightMatrix, TensorError> {
        if values == self.stored.stored() {
            return Ok(self.stored);
        }
        if self.wide.get().is_none() {
            let _ = self.wide.set(self.stored.widened()?);
        }
        Ok(self.wide.get().expect("set above"))
    }
}

/// Vectors that so many elements fill.
fn filled(elements: usize) -> f64 {
    elements as f64 / Level::best().lanes() as f64
}

/// Multiply-adds of a vector's width in a product of `weights` weights with `n` columns.
fn vectors(weights: usize, n: usize) -> f64 {
    filled(weights * n.next_multiple_of(Level::best().lanes()))
}

const fn dense(name: &'static str, level: Level) -> Kernel {
    let cost = |weight: &WeightMatrix, problem: &Problem| {
        let [m, k] = weight.shape().unwrap_or_default();
        // Two multiply-adds a cycle; few columns wait for the weights, half a vector a cycle.
        filled(m * k * problem.n) / 1.9_f64.min(problem.n as f64 / 2.0)
    };
    Kernel {
        name,
        level,
        values: DataType::F32,
        dense: true,
        integer: false,
        fits: |_, _| true,
        cost,
        variants: |_, _, _| Vec::new(),
        prepare: gemm::prepare,
        restore: None,
    }
}

/// The dense kernel for feature-major outputs whose columns fill vectors badly.
const fn turned(name: &'static str, level: Level) -> Kernel {
    Kernel { fits: gemm::fits_turned, prepare: gemm::prepare_turned, ..dense(name, level) }
}

/// The dense kernel for 3×3 convolutions.
const fn winograd(name: &'static str, level: Level) -> Kernel {
    let (fits, cost, prepare) = (gemm::winograd::fits, gemm::winograd::cost, gemm::winograd::prepare);
    Kernel { fits, cost, prepare, ..dense(name, level) }
}

/// The dense kernel for weights and inputs of 8 bits.
#[cfg(all(target_arch = "x86_64", feature = "quantized"))]
const fn quads<B: ByteProducts + 'static>(name: &'static str, level: Level) -> Kernel {
    // A fourth of the instructions, and the packing of X.
    let cost = |weight: &WeightMatrix, problem: &Problem| {
        let [m, k] = weight.shape().unwrap_or_default();
        filled(m * k * problem.n) / 7.6_f64.min(2.0 * problem.n as f64) + 4.0 * vectors(k, problem.n)
    };
    let (fits, prepare) = (gemm::quads::fits::<B>, gemm::quads::prepare::<B>);
    Kernel { integer: true, fits, cost, prepare, ..dense(name, level) }
}

const fn panels(name: &'static str, level: Level) -> Kernel {
    let fits = |weight: &WeightMatrix, _: &Problem| weight.is_sparse();
    // Measured on Zen 5: 1.3 multiply-adds a cycle, and the packing and writing of X and Y.
    let cost = |weight: &WeightMatrix, problem: &Problem| {
        let [m, k] = weight.shape().unwrap_or_default();
        vectors(weight.nnz(), problem.n) / 1.3 + 4.0 * vectors(m + k, problem.n)
    };
    let (variants, prepare, restore) = (spmm::variants, spmm::prepare, Some(spmm::restore as Restore));
    Kernel { variants, restore, ..few::<f32>(name, level, fits, cost, prepare) }
}

#[cfg(feature = "structured")]
const fn blocks(name: &'static str, level: Level) -> Kernel {
    // Measured on Zen 3: 1.7 multiply-adds a cycle of blocks of 4 rows and more.
    let cost = |weight: &WeightMatrix, problem: &Problem| {
        let [m, k] = weight.shape().unwrap_or_default();
        vectors(weight.nnz(), problem.n) / 1.7 + 4.0 * vectors(m + k, problem.n)
    };
    let (fits, variants, prepare) = (spmm::block::fits, spmm::block::variants, spmm::block::prepare);
    Kernel { variants, ..few::<f32>(name, level, fits, cost, prepare) }
}

/// A kernel for few columns that reads values `V`. Costs are of Zen 5, weights in its L2.
const fn few<V: Value>(
    name: &'static str,
    level: Level,
    fits: fn(&WeightMatrix, &Problem) -> bool,
    cost: fn(&WeightMatrix, &Problem) -> f64,
    prepare: fn(&WeightMatrix, &Problem, Supported, Params) -> Box<dyn Packed>,
) -> Kernel {
    Kernel {
        name,
        level,
        values: V::DTYPE,
        dense: false,
        integer: false,
        fits,
        cost,
        variants: |_, _, _| Vec::new(),
        prepare,
        restore: None,
    }
}

const fn spmv_csr<V: Value>(name: &'static str, level: Level) -> Kernel {
    let cost = |weight: &WeightMatrix, problem: &Problem| 1.1 * (weight.nnz() * problem.n) as f64;
    few::<V>(name, level, spmv::csr::fits, cost, spmv::csr::prepare::<V>)
}

/// Measured on Zen 3, 8×1 of 768×768 with 1 and 4 columns.
#[cfg(feature = "structured")]
const fn spmv_tall(name: &'static str, level: Level) -> Kernel {
    let cost = |weight: &WeightMatrix, problem: &Problem| filled(weight.nnz() * (problem.n + 2));
    few::<f32>(name, level, spmv::block::fits_tall, cost, spmv::block::prepare_tall)
}

/// Measured on Zen 3, 1×4 of 768×768 with 1 and 4 columns.
#[cfg(feature = "structured")]
const fn spmv_wide(name: &'static str, level: Level) -> Kernel {
    let cost = |weight: &WeightMatrix, problem: &Problem| 1.3 * filled(weight.nnz() * (problem.n + 2));
    few::<f32>(name, level, spmv::block::fits_wide, cost, spmv::block::prepare_wide)
}

/// Measured on Zen 3, 2:4 of 768×768 with 1 to 128 columns.
#[cfg(all(target_arch = "x86_64", feature = "structured"))]
const fn n_of_m(name: &'static str, level: Level, fits: fn(&WeightMatrix, &Problem) -> bool) -> Kernel {
    let cost = |weight: &WeightMatrix, problem: &Problem| filled(weight.nnz() * (problem.n + 2)) / 0.9;
    few::<f32>(name, level, fits, cost, spmv::nm::prepare)
}

#[cfg(target_arch = "x86_64")]
const fn spmv_sell<V: Value>(
    name: &'static str,
    level: Level,
    prepare: fn(&WeightMatrix, &Problem, Supported, Params) -> Box<dyn Packed>,
) -> Kernel {
    let cost = |weight: &WeightMatrix, problem: &Problem| 0.7 * (weight.nnz() * problem.n) as f64;
    few::<V>(name, level, spmv::sell::fits, cost, prepare)
}

/// Windows of `16 · T` columns, bursts of `B` steps.
#[cfg(target_arch = "x86_64")]
const fn spmv_wsell<V: Value, const T: usize, const B: usize>(name: &'static str) -> Kernel {
    let cost = |weight: &WeightMatrix, problem: &Problem| {
        0.1 * (weight.nnz() * (problem.n + 1)) as f64
            + vectors(weight.shape().unwrap_or_default()[1], problem.n)
    };
    let (fits, prepare) = (spmv::wsell::fits::<V, T, B>, spmv::wsell::prepare::<V, T, B>);
    few::<V>(name, Level::Avx512, fits, cost, prepare)
}

#[cfg(target_arch = "x86_64")]
const fn spmv_bitmap<V: Value>(name: &'static str, level: Level) -> Kernel {
    let cost = |weight: &WeightMatrix, problem: &Problem| {
        let [m, k] = weight.shape().unwrap_or_default();
        // Bits are expanded anew for every four columns.
        filled(m * k) * (1.8 * problem.n.div_ceil(4) as f64 + 0.5 * problem.n as f64)
    };
    // Also for many columns, where nothing else is as small.
    let fits = |weight: &WeightMatrix, _: &Problem| weight.is_sparse();
    few::<V>(name, level, fits, cost, spmv::bitmap::prepare::<V>)
}

/// Dense rows of narrow values.
#[cfg(feature = "narrow")]
const fn rows<V: Value>(name: &'static str, level: Level) -> Kernel {
    let fits = |weight: &WeightMatrix, _: &Problem| !matches!(weight, WeightMatrix::Dense(_));
    let cost = |weight: &WeightMatrix, problem: &Problem| {
        let [m, k] = weight.shape().unwrap_or_default();
        (m * k * problem.n.max(2)) as f64 / 24.0
    };
    Kernel { dense: true, ..few::<V>(name, level, fits, cost, spmv::rows::prepare::<V>) }
}

/// Kernels for few columns that read weights stored as `$values`.
macro_rules! few_columns {
    ($values:ty, $name:literal) => {
        &[
            spmv_csr::<$values>(concat!("spmv_", $name, "_csr_portable"), Level::Portable),
            spmv_csr::<$values>(concat!("spmv_", $name, "_csr_avx2"), Level::Avx2),
            spmv_csr::<$values>(concat!("spmv_", $name, "_csr_avx512"), Level::Avx512),
            #[cfg(target_arch = "x86_64")]
            spmv_sell::<$values>(
                concat!("spmv_", $name, "_sell8_insert_avx2"),
                Level::Avx2,
                spmv::sell::prepare8::<$values, false>,
            ),
            #[cfg(target_arch = "x86_64")]
            spmv_sell::<$values>(
                concat!("spmv_", $name, "_sell8_insert_avx512"),
                Level::Avx512,
                spmv::sell::prepare8::<$values, false>,
            ),
            #[cfg(target_arch = "x86_64")]
            spmv_sell::<$values>(
                concat!("spmv_", $name, "_sell16_gather_avx512"),
                Level::Avx512,
                spmv::sell::prepare16::<$values>,
            ),
            #[cfg(target_arch = "x86_64")]
            spmv_bitmap::<$values>(concat!("spmv_", $name, "_bitmap_avx2"), Level::Avx2),
            #[cfg(target_arch = "x86_64")]
            spmv_bitmap::<$values>(concat!("spmv_", $name, "_bitmap_avx512"), Level::Avx512),
            #[cfg(target_arch = "x86_64")]
            spmv_wsell::<$values, 8, 4>(concat!("spmv_", $name, "_wsell128x4_avx512")),
            #[cfg(target_arch = "x86_64")]
            spmv_wsell::<$values, 4, 2>(concat!("spmv_", $name, "_wsell64x2_avx512")),
            #[cfg(target_arch = "x86_64")]
            spmv_wsell::<$values, 4, 4>(concat!("spmv_", $name, "_wsell64x4_avx512")),
        ]
    };
}

/// Kernels for dense rows of narrow values.
#[cfg(feature = "narrow")]
macro_rules! dense_rows {
    ($values:ty, $name:literal) => {
        &[
            rows::<$values>(concat!("gemv_", $name, "_rows_portable"), Level::Portable),
            rows::<$values>(concat!("gemv_", $name, "_rows_avx2"), Level::Avx2),
            rows::<$values>(concat!("gemv_", $name, "_rows_avx512"), Level::Avx512),
        ]
    };
}

/// Every kernel, by what they take.
static FAMILIES: &[&[Kernel]] = &[
    // f32, many columns.
    &[
        dense("gemm_f32_portable", Level::Portable),
        dense("gemm_f32_avx2", Level::Avx2),
        dense("gemm_f32_avx512", Level::Avx512),
        turned("gemm_f32_turned_portable", Level::Portable),
        turned("gemm_f32_turned_avx2", Level::Avx2),
        turned("gemm_f32_turned_avx512", Level::Avx512),
        winograd("winograd_f32_4x4_portable", Level::Portable),
        winograd("winograd_f32_4x4_avx2", Level::Avx2),
        winograd("winograd_f32_4x4_avx512", Level::Avx512),
        #[cfg(all(target_arch = "x86_64", feature = "quantized"))]
        quads::<AvxVnni>("gemm_u8i8_avx2", Level::Avx2),
        #[cfg(all(target_arch = "x86_64", feature = "avx512", feature = "quantized"))]
        quads::<Avx512Vnni>("gemm_u8i8_avx512", Level::Avx512),
        few::<f32>(
            "spmm_f32_csr_portable",
            Level::Portable,
            |weight, _| weight.is_sparse(),
            |weight, problem| vectors(weight.nnz(), problem.n) * 8.0,
            csr::prepare,
        ),
        panels("spmm_f32_panel_portable", Level::Portable),
        panels("spmm_f32_panel_avx2", Level::Avx2),
        panels("spmm_f32_panel_avx512", Level::Avx512),
    ],
    few_columns!(f32, "f32"),
    &[
        #[cfg(target_arch = "x86_64")]
        spmv_sell::<f32>("spmv_f32_sell8_gather_avx2", Level::Avx2, spmv::sell::prepare8::<f32, true>),
    ],
    #[cfg(feature = "structured")]
    &[
        blocks("spmm_f32_block_portable", Level::Portable),
        blocks("spmm_f32_block_avx2", Level::Avx2),
        blocks("spmm_f32_block_avx512", Level::Avx512),
        spmv_tall("spmv_f32_tall_portable", Level::Portable),
        spmv_tall("spmv_f32_tall_avx2", Level::Avx2),
        spmv_tall("spmv_f32_tall_avx512", Level::Avx512),
        spmv_wide("spmv_f32_wide_portable", Level::Portable),
        spmv_wide("spmv_f32_wide_avx2", Level::Avx2),
        spmv_wide("spmv_f32_wide_avx512", Level::Avx512),
        #[cfg(target_arch = "x86_64")]
        n_of_m("spmm_f32_nm_avx2", Level::Avx2, spmv::nm::fits8),
        #[cfg(target_arch = "x86_64")]
        n_of_m("spmm_f32_nm_avx512", Level::Avx512, spmv::nm::fits16),
    ],
    #[cfg(feature = "narrow")]
    dense_rows!(bf16, "bf16"),
    #[cfg(feature = "narrow")]
    few_columns!(bf16, "bf16"),
    #[cfg(feature = "narrow")]
    dense_rows!(f16, "f16"),
    #[cfg(feature = "narrow")]
    few_columns!(f16, "f16"),
    #[cfg(feature = "narrow")]
    dense_rows!(i8, "i8"),
    #[cfg(feature = "narrow")]
    few_columns!(i8, "i8"),
];

/// Every kernel of this build.
pub fn all() -> impl Iterator<Item = &'static Kernel> + Clone {
    FAMILIES.iter().copied().flatten()
}
