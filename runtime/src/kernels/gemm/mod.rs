//! Dense product, one or many columns, with the weight packed once.
//!
//! The contiguous side of the output runs along the vector lanes. Token-major outputs have their features there, so the
//! weight is packed as vectors, and elements of `X` are broadcast ([`Lanes::Features`]); this also serves few columns, down
//! to a matrix × vector product that streams the weight once. Feature-major outputs with many columns have those along the
//! lanes: vectors of `X`, broadcast weights ([`Lanes::Columns`]). Where columns fill vectors badly they are computed token-major and
//! transposed (`gemm_f32_turned_*`), and 3×3 convolutions have a way of their own with the same tiles ([`winograd`]).
//!
//! Blocking: Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", TOMS 2008, with sums in registers
//! for up to [`DEPTH`] steps.

mod matmul;
mod part;
#[cfg(all(target_arch = "x86_64", feature = "quantized"))]
pub(super) mod quads;
mod tile;
pub(super) mod winograd;

use std::borrow::Cow;
use std::ops::Range;

use poda_formats::storage::AlignedBytes;

use super::{Call, Epilogue, Layout, Packed, Params, Problem, Right, WeightMatrix};
use crate::packing::scratch::Scratch;
use crate::packing::transpose::transpose;
use crate::simd::{Simd, Supported, Vectorized};
use crate::threads::{self, Split, SyncPtr, shares};
pub(crate) use matmul::{Mat, matmul};
use part::{Elements, Job, Part};
use tile::Floats;

/// Multiply-adds below which another thread does not pay: half a microsecond, of which dealing out takes 0.2.
const PARALLEL: usize = 1 << 16;
/// Columns that take as long as reading a weight that is not in L1.
const READING: usize = 3;
/// Rows of a weight, or columns of `X`, that are worth packing the other matrix' part for once more.
const REPACK: [usize; 2] = [1024, 128];

/// Elements that another thread may transpose: as many as pay for dealing them out.
const TURNED: usize = 1 << 13;

/// What runs along the vector lanes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Lanes {
    Features,
    Columns,
}

impl Lanes {
    fn of(problem: &Problem, level: Supported) -> Self {
        let few = problem.n < 4 * level.lanes();
        if problem.y_layout == Layout::FeatureMajor && !few { Self::Columns } else { Self::Features }
    }
}

/// A dense weight `[m, k]` that was packed for all runs.
struct Gemm {
    m: usize,
    k: usize,
    level: Supported,
    lanes: Lanes,
    panels: AlignedBytes,
    starts: Vec<usize>,
}

/// The left matrix `[m, k]` of a product, packed.
#[derive(Clone, Copy)]
struct Left<'a> {
    m: usize,
    k: usize,
    level: Supported,
    lanes: Lanes,
    /// `Features`: panels of a tile's width, each `[k][width]`, zeros beyond `m`.
    /// `Columns`: panels of up to a tile's rows, each `[k][rows]`.
    panels: &'a [f32],
    /// First row of each panel, and `m`.
    starts: &'a [usize],
}

/// Packs a weight for `level`.
pub(super) fn prepare(
    weight: &WeightMatrix,
    problem: &Problem,
    level: Supported,
    _: Params,
) -> Box<dyn Packed> {
    pack(weight, Lanes::of(problem, level), level)
}

/// Packs a weight for feature-major outputs that are computed token-major and transposed, however many columns there are.
pub(super) fn prepare_turned(
    weight: &WeightMatrix,
    _: &Problem,
    level: Supported,
    _: Params,
) -> Box<dyn Packed> {
    pack(weight, Lanes::Features, level)
}

/// Whether columns do not fill vectors along the lanes, or do not divide among threads: 196 columns are 12 vectors of 16 and a quarter.
/// Of more than some hundred the transpose costs more than that.
pub(super) fn fits_turned(_: &WeightMatrix, problem: &Problem) -> bool {
    let lanes = Supported::best().lanes();
    problem.y_layout == Layout::FeatureMajor
        && (4 * lanes..32 * lanes).contains(&problem.n)
        && !problem.n.is_multiple_of(4 * lanes)
}

fn pack(weight: &WeightMatrix, lanes: Lanes, level: Supported) -> Box<dyn Packed> {
    struct Pack<'a>(&'a [f32], [usize; 2], Lanes, Supported);
    impl Vectorized for Pack<'_> {
        type Output = Gemm;

        #[inline(always)]
        fn eval<S: Simd>(self, simd: S) -> Gemm {
            let Self(weight, shape, lanes, level) = self;
            Gemm::pack(simd, weight, shape, lanes, level)
        }
    }
    let shape = weight.shape().expect("checked by PackedWeight");
    Box::new(level.run(Pack(&dense_values(weight), shape, lanes, level)))
}

/// Every element of a weight of f32, `[m, k]`.
fn dense_values(weight: &WeightMatrix) -> Cow<'_, [f32]> {
    match (weight, weight.csr()) {
        (WeightMatrix::Dense(tensor), _) => tensor.as_slice().expect("checked by PackedWeight").into(),
        (_, csr) => csr.expect("widened by the table").to_dense().expect("checked by PackedWeight").into(),
    }
}

impl Gemm {
    #[inline(always)]
    fn pack<S: Simd>(simd: S, weight: &[f32], [m, k]: [usize; 2], lanes: Lanes, level: Supported) -> Self {
        let width = S::TILE_VECTORS * S::LANES;
        let starts: Vec<usize> = match lanes {
            Lanes::Features => (0..m).step_by(width).chain([m]).collect(),
            Lanes::Columns => cuts(m, S::TILE_ROWS).map(|cut| cut.start).chain([m]).collect(),
        };
        let len = match lanes {
            Lanes::Features => m.next_multiple_of(width) * k,
            Lanes::Columns => m * k,
        };
        let mut panels = AlignedBytes::zeroed(len * size_of::<f32>());
        let out: &mut [f32] = bytemuck::cast_slice_mut(&mut panels);
        for range in starts.windows(2) {
            let (start, rows) = (range[0], range[1] - range[0]);
            let stride = if lanes == Lanes::Features { width } else { rows };
            let (src, dst) = (&weight[start * k..][..rows * k], &mut out[start * k..][..stride * k]);
            // SAFETY: `src` holds `rows` rows of `k`, `dst` `k` rows of `stride >= rows`.
            unsafe { transpose(simd, src.as_ptr(), k, [rows, k], dst.as_mut_ptr(), stride) };
        }
        Self { m, k, level, lanes, panels, starts }
    }

    fn left(&self) -> Left<'_> {
        let Self { m, k, level, lanes, ref panels, ref starts } = *self;
        Left { m, k, level, lanes, panels: bytemuck::cast_slice(panels), starts }
    }
}

/// `0..len` in as few parts of at most `most` as possible, of nearly equal length; an empty range is one part.
fn cuts(len: usize, most: usize) -> impl Iterator<Item = Range<usize>> + Clone {
    let parts = len.div_ceil(most).max(1);
    (0..parts).map(move |i| i * len / parts..(i + 1) * len / parts)
}

impl Packed for Gemm {
    fn run(&self, call: Call<'_>) {
        self.run_with(call, Floats);
    }

    fn bytes(&self) -> usize {
        self.panels.len()
    }
}

impl Gemm {
    fn run_with<E: Elements>(&self, call: Call<'_>, elements: E) {
        let transposed = match (self.lanes, call.y_layout) {
            (Lanes::Features, Layout::TokenMajor) | (Lanes::Columns, Layout::FeatureMajor) => false,
            // A single row or column is the same in both layouts.
            _ => call.n > 1 && self.m > 1,
        };
        if transposed {
            return self.run_transposed(call, elements);
        }
        match (call.x, self.lanes) {
            (Right::Image(image), Lanes::Features) => {
                let mut matrix = Scratch::new(self.k * call.n);
                image.unroll(&mut matrix);
                let x = Right::Matrix { data: &matrix, layout: Layout::FeatureMajor };
                self.multiply(Call { x, ..call }, elements);
            }
            _ => self.multiply(call, elements),
        }
    }

    fn multiply<E: Elements>(&self, call: Call<'_>, elements: E) {
        let Call { n, x, y, epilogue, threads, .. } = call;
        let left = self.left();
        match left.parts(n, threads.count()) {
            1 => left.multiply(n, x, y, epilogue, 1, elements),
            parts => threads.install(|| left.multiply(n, x, y, epilogue, parts, elements)),
        }
    }

    /// Into scratch in the layout that this packing writes, then over to the one asked for.
    fn run_transposed<E: Elements>(&self, call: Call<'_>, elements: E) {
        let Call { n, x, y: out, y_layout, epilogue, threads } = call;
        let (natural, shape) = match y_layout {
            Layout::FeatureMajor => (Layout::TokenMajor, [n, self.m]),
            Layout::TokenMajor => (Layout::FeatureMajor, [self.m, n]),
        };
        let Epilogue { bias, residual, activation } = *epilogue;
        let fused = if residual.is_some() { Epilogue { bias, ..Epilogue::default() } } else { *epilogue };
        let mut y = Scratch::new(out.len());
        let epilogue = &Epilogue { residual: None, ..fused };
        self.run_with(Call { n, x, y: &mut y, y_layout: natural, epilogue, threads }, elements);
        let epilogue = if residual.is_some() {
            Epilogue { residual, activation, bias: None }
        } else {
            Epilogue::default()
        };
        let [rows, cols] = shape;
        let lines = self.level.lanes();
        threads::for_each_chunk(out, lines * rows, TURNED.div_ceil(lines * rows), |i, out| {
            let turn =
                Turn { from: &y[i * lines..], stride: cols, rows, out, first: i * lines * rows, epilogue };
            self.level.run(turn);
        });
    }
}

/// Rows of the transpose of `from`, and what remains to be done with them.
struct Turn<'a> {
    from: &'a [f32],
    stride: usize,
    rows: usize,
    out: &'a mut [f32],
    /// The first element of the whole that is here.
    first: usize,
    epilogue: Epilogue<'a>,
}

impl Vectorized for Turn<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(self, simd: S) {
        let Self { from, stride, rows, out, first, epilogue: Epilogue { residual, activation, .. } } = self;
        let shape = [rows, out.len() / rows];
        // SAFETY: `from` is the rest of a `[rows, stride]` from one column on, of which as many follow as `out` has rows.
        unsafe { transpose(simd, from.as_ptr(), stride, shape, out.as_mut_ptr(), rows) };
        if let Some(residual) = residual {
            out.iter_mut().zip(&residual[first..]).for_each(|(y, r)| *y += r);
            activation.apply(out);
        }
    }
}

impl Left<'_> {
    /// Elements of panel `i`, from step `depth` on.
    fn panel(&self, i: usize, depth: usize, stride: usize) -> *const f32 {
        self.panels[self.starts[i] * self.k + depth * stride..].as_ptr()
    }

    /// Where the panel after `i` will be read, to be asked for: perhaps beyond the end.
    fn next_panel(&self, i: usize, depth: usize, stride: usize) -> *const f32 {
        self.panels.as_ptr().wrapping_add(self.starts[i + 1] * self.k + depth * stride)
    }

    /// Threads that pay for `n` columns, of `threads`.
    fn parts(&self, n: usize, threads: usize) -> usize {
        threads.min(self.m * self.k * (n + READING) / PARALLEL).max(1)
    }

    /// The product with `n` columns, split in `parts` over the threads that are installed.
    fn multiply<E: Elements>(
        &self,
        n: usize,
        x: Right<'_>,
        y: &mut [f32],
        epilogue: &Epilogue<'_>,
        parts: usize,
        elements: E,
    ) {
        let lanes = self.level.lanes();
        let (panels, columns) = (
            self.starts.len() - 1,
            match self.lanes {
                Lanes::Features => n,
                Lanes::Columns => n.div_ceil(lanes),
            },
        );
        // Parts either share the weight or share X: the weight when there are columns enough for all.
        let by_columns = match self.lanes {
            Lanes::Features => panels < 2 * parts,
            Lanes::Columns => columns >= 6 * parts || panels < 2 * parts,
        };
        let all = if by_columns { columns } else { panels };
        // Smaller parts where that costs little: few columns are not packed, so there any split will do.
        let most = match (by_columns, self.lanes) {
            (true, Lanes::Columns) => n / REPACK[1],
            (true, Lanes::Features) => parts,
            (false, _) if n <= 3 => self.m * self.k * (n + READING) / (4 * PARALLEL),
            (false, _) => self.m / REPACK[0],
        };
        let split = Split::even(all, shares(parts, most));
        let job = Job { elements, left: *self, n, x, y: SyncPtr(y.as_mut_ptr()), epilogue };
        threads::for_each(split.parts(), 1, |i| {
            let (panels, columns) =
                if by_columns { (0..panels, split.part(i)) } else { (split.part(i), 0..columns) };
            let columns = match self.lanes {
                Lanes::Features => columns,
                Lanes::Columns => columns.start * lanes..n.min(columns.end * lanes),
            };
            elements.run(self.level, Part { job: &job, panels, columns });
        });
    }
}
