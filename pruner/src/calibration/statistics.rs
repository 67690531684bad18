//! What calibration keeps of a layer's inputs: sums, sums of squares, and where it is asked for the Gram matrix `XᵀX`, over the
//! rows `X` `[n, inputs]` that the layer's weights are multiplied with, for each group of weights by itself.
//!
//! Products within a block of rows are in f32, sums over blocks in f64. Work is shared out by places in the result, never by
//! rows, so that the bits are the same for any number of threads.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::inputs::Rows;

/// Rows whose products are summed in f32.
const BLOCK: usize = 1024;
/// Columns of a tile of the Gram matrix, which one thread works out.
const TILE: usize = 128;

/// Sums over rows of inputs, of several groups of `cols` inputs.
#[derive(Debug, Clone, Default)]
pub struct Moments {
    /// Rows of each group.
    pub rows: u64,
    /// `[groups, cols]`
    pub sums: Vec<f64>,
    /// Of absolute values, `[groups, cols]`.
    pub absolutes: Vec<f64>,
    /// Of squares, `[groups, cols]`.
    pub squares: Vec<f64>,
    /// `[groups, cols, cols]`; empty where it was not asked for.
    pub gram: Vec<f64>,
    /// What the same rows are in the dense model, where that was asked for.
    pub dense: Option<Twin>,
}

/// Rows `Z` of the dense model beside the rows `X` of the pruned one.
#[derive(Debug, Clone, Default)]
pub struct Twin {
    /// `[groups, cols]`
    pub sums: Vec<f64>,
    /// `XᵀZ`, `[groups, cols, cols]`.
    pub cross: Vec<f64>,
    /// `ZᵀZ`, `[groups, cols, cols]`; of samples that were kept aside.
    pub gram: Vec<f64>,
}

/// Inputs of one layer.
#[derive(Debug, Clone, Default)]
pub struct Statistics {
    /// Groups of weights, each with inputs of its own: so many equal runs of rows of the layer's matrix.
    pub groups: usize,
    /// Inputs of each.
    pub cols: usize,
    /// Of the samples that weights are fitted to.
    pub fitted: Moments,
    /// Of the samples that were kept aside.
    pub held_out: Moments,
}

impl Moments {
    fn new(groups: usize, cols: usize, gram: bool) -> Self {
        let sums = vec![0.0; groups * cols];
        let gram = if gram { vec![0.0; groups * cols * cols] } else { Vec::new() };
        Self { rows: 0, squares: sums.clone(), absolutes: sums.clone(), sums, gram, dense: None }
    }

    fn merge(&mut self, other: &Self) {
        self.rows += other.rows;
        let both = [
            (&mut self.sums, &other.sums),
            (&mut self.absolutes, &other.absolutes),
            (&mut self.squares, &other.squares),
            (&mut self.gram, &other.gram),
        ];
        both.into_iter().for_each(|(to, from)| add_all(to, from));
        if let (Some(to), Some(from)) = (&mut self.dense, &other.dense) {
            add_all(&mut to.sums, &from.sums);
            add_all(&mut to.cross, &from.cross);
            add_all(&mut to.gram, &from.gram);
        }
    }

    fn is_finite(&self) -> bool {
        self.squares.iter().all(|v| v.is_finite())
    }

    /// Adds what the rows with these numbers are in the dense model.
    fn add_dense(&mut self, rows: &Rows<'_>, dense: &Rows<'_>, chosen: &[usize], held_out: bool) {
        let (cols, groups) = (rows.cols, rows.groups);
        if cols == 0 {
            return;
        }
        let square = groups * cols * cols;
        let twin = self.dense.get_or_insert_with(|| Twin {
            sums: vec![0.0; groups * cols],
            cross: vec![0.0; square],
            gram: vec![0.0; if held_out { square } else { 0 }],
        });
        let filled = |rows: &Rows<'_>, group: usize, block: &[usize]| {
            let mut x = vec![0.0; block.len() * cols];
            let write = |(row, out): (&usize, &mut [f32])| rows.write(group, *row, out);
            block.par_iter().zip(x.par_chunks_exact_mut(cols)).for_each(write);
            x
        };
        let mut none = vec![0.0; if held_out { 0 } else { groups }];
        let (gram, size) = if held_out { (&mut twin.gram, cols * cols) } else { (&mut none, 1) };
        let to = twin.sums.par_chunks_exact_mut(cols).zip(twin.cross.par_chunks_exact_mut(cols * cols));
        to.zip(gram.par_chunks_exact_mut(size)).enumerate().for_each(|(group, ((sums, cross), gram))| {
            for block in chosen.chunks(BLOCK) {
                let (x, z) = (filled(rows, group, block), filled(dense, group, block));
                for row in z.chunks_exact(cols) {
                    sums.iter_mut().zip(row).for_each(|(sum, &v)| *sum += f64::from(v));
                }
                add_products([&x, &z], cols, cross, false);
                if held_out {
                    add_products([&z, &z], cols, gram, true);
                }
            }
        });
    }

    /// Adds the rows of `rows` with these numbers.
    fn add(&mut self, rows: &Rows<'_>, chosen: &[usize]) {
        let cols = rows.cols;
        if cols == 0 {
            return;
        }
        self.rows += chosen.len() as u64;
        let wide = rows.groups == 1;
        for block in chosen.chunks(BLOCK) {
            let fill = |group: usize, x: &mut Vec<f32>| {
                x.resize(block.len() * cols, 0.0);
                let write = |(row, out): (&usize, &mut [f32])| rows.write(group, *row, out);
                if wide {
                    block.par_iter().zip(x.par_chunks_exact_mut(cols)).for_each(write);
                } else {
                    block.iter().zip(x.chunks_exact_mut(cols)).for_each(write);
                }
            };
            if wide {
                let mut x = Vec::new();
                fill(0, &mut x);
                sum(&x, cols, [&mut self.sums, &mut self.absolutes, &mut self.squares]);
                if !self.gram.is_empty() {
                    add_products([&x, &x], cols, &mut self.gram, true);
                }
                continue;
            }
            let has_gram = !self.gram.is_empty();
            let mut none = vec![0.0; if has_gram { 0 } else { rows.groups }];
            let (gram, size) = if has_gram { (&mut self.gram, cols * cols) } else { (&mut none, 1) };
            let [sums, absolutes, squares] = [&mut self.sums, &mut self.absolutes, &mut self.squares]
                .map(|v| v.par_chunks_exact_mut(cols));
            let sums = sums.zip(absolutes).zip(squares);
            sums.zip(gram.par_chunks_exact_mut(size)).enumerate().for_each_init(
                Vec::new,
                |x, (group, (((sums, absolutes), squares), gram))| {
                    fill(group, x);
                    sum(x, cols, [sums, absolutes, squares]);
                    if has_gram {
                        let mut part = vec![0.0; cols * cols];
                        product([x, x], cols, [0, 0], [cols, cols], &mut part);
                        gram.iter_mut().zip(&part).for_each(|(to, &v)| *to += f64::from(v));
                    }
                },
            );
        }
    }
}

/// Adds sums of columns.
fn sum(x: &[f32], cols: usize, [sums, absolutes, squares]: [&mut [f64]; 3]) {
    for row in x.chunks_exact(cols) {
        let to = sums.iter_mut().zip(absolutes.iter_mut()).zip(squares.iter_mut());
        for (((sum, absolute), square), &v) in to.zip(row) {
            *sum += f64::from(v);
            *absolute += f64::from(v.abs());
            *square += f64::from(v) * f64::from(v);
        }
    }
}

fn add_all(to: &mut [f64], from: &[f64]) {
    to.iter_mut().zip(from).for_each(|(to, v)| *to += v);
}

/// `part = X[:, a..a + m]ᵀ · Z[:, b..b + n]`, of `x` and `z` `[rows, cols]`.
fn product([x, z]: [&[f32]; 2], cols: usize, [a, b]: [usize; 2], [m, n]: [usize; 2], part: &mut [f32]) {
    let [x, z] = [x, z].map(|x| MatRef::from_row_major_slice(x, x.len() / cols, cols));
    let to = MatMut::from_row_major_slice_mut(part, m, n);
    matmul(to, Accum::Replace, x.subcols(a, m).transpose(), z.subcols(b, n), 1.0_f32, Par::Seq);
}

/// Adds `XᵀZ`, to the lower triangle of tiles only if it is `symmetric`.
fn add_products([x, z]: [&[f32]; 2], cols: usize, gram: &mut [f64], symmetric: bool) {
    let tiles = cols.div_ceil(TILE);
    let bands = gram.par_chunks_mut((TILE * cols).max(1)).enumerate();
    // A tile of a band for each task; bands are rows of tiles.
    bands.for_each(|(i, band)| {
        let m = band.len() / cols;
        let last = if symmetric { i } else { tiles - 1 };
        let parts: Vec<Vec<f32>> = (0..=last)
            .into_par_iter()
            .map(|j| {
                let n = TILE.min(cols - j * TILE);
                let mut part = vec![0.0; m * n];
                product([x, z], cols, [i * TILE, j * TILE], [m, n], &mut part);
                part
            })
            .collect();
        for (j, part) in parts.iter().enumerate() {
            let n = TILE.min(cols - j * TILE);
            for (row, part) in band.chunks_exact_mut(cols).zip(part.chunks_exact(n)) {
                row[j * TILE..].iter_mut().zip(part).for_each(|(to, &v)| *to += f64::from(v));
            }
        }
    });
}

/// Gathers [`Statistics`] from batches.
#[derive(Debug)]
pub struct Collector {
    gram: bool,
    statistics: Statistics,
    /// Rows seen, of fitted and of held-out samples.
    seen: [u64; 2],
    /// Share of rows taken, of both, once it is known.
    taken: [Option<f64>; 2],
}

/// Fitted rows per input beyond which more say little, and the least number of them: a layer with many windows takes a share.
const ROWS: [usize; 2] = [64, 8192];
/// The same of held-out rows.
const HELD_OUT_ROWS: [usize; 2] = [8, 2048];

impl Collector {
    /// Of a layer's inputs; with the Gram matrix of fitted samples too if `gram`.
    pub fn new(gram: bool) -> Self {
        Self { gram, statistics: Statistics::default(), seen: [0; 2], taken: [None; 2] }
    }

    /// Adds one of `batches` batches of the same kind, with what the same rows are in the dense model where that is to be known.
    ///
    /// # Panics
    /// When rows have other sizes than those before, or than those of the dense model.
    pub fn add(&mut self, rows: &Rows<'_>, dense: Option<&Rows<'_>>, held_out: bool, batches: usize) {
        let statistics = &mut self.statistics;
        if statistics.groups == 0 {
            let (groups, cols) = (rows.groups, rows.cols);
            let [fitted, held_out] = [self.gram, true].map(|gram| Moments::new(groups, cols, gram));
            *statistics = Statistics { groups, cols, fitted, held_out };
        }
        assert_eq!((statistics.groups, statistics.cols), (rows.groups, rows.cols), "inputs of one layer");
        let kind = usize::from(held_out);
        let [each, least] = [ROWS, HELD_OUT_ROWS][kind];
        let share = *self.taken[kind].get_or_insert_with(|| {
            let wanted = (each * rows.cols).max(least) as f64;
            wanted / (rows.rows * batches).max(1) as f64
        });
        let first = self.seen[kind];
        self.seen[kind] += rows.rows as u64;
        let taken = |row: &usize| share >= 1.0 || unit(first + *row as u64) < share;
        let chosen: Vec<usize> = (0..rows.rows).filter(taken).collect();
        let moments = if held_out { &mut statistics.held_out } else { &mut statistics.fitted };
        moments.add(rows, &chosen);
        if let Some(dense) = dense {
            assert_eq!(rows.sizes(), dense.sizes(), "the same rows of both models");
            moments.add_dense(rows, dense, &chosen, held_out);
        }
    }

    /// What was gathered; `None` where nothing was, or where it is not finite.
    pub fn finish(mut self) -> Option<Statistics> {
        let statistics = &mut self.statistics;
        for moments in [&mut statistics.fitted, &mut statistics.held_out] {
            mirror(&mut moments.gram, statistics.cols);
            if let Some(dense) = &mut moments.dense {
                mirror(&mut dense.gram, statistics.cols);
            }
        }
        let finite = statistics.fitted.is_finite() && statistics.held_out.is_finite();
        (statistics.groups > 0 && finite).then_some(self.statistics)
    }
}

/// Copies what lies below the diagonal above it.
fn mirror(gram: &mut [f64], cols: usize) {
    for gram in gram.chunks_exact_mut((cols * cols).max(1)) {
        for row in 0..cols {
            for col in 0..row {
                gram[col * cols + row] = gram[row * cols + col];
            }
        }
    }
}

/// A number in 0..1 that looks random: splitmix64.
fn unit(number: u64) -> f64 {
    let mut z = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

impl Statistics {
    /// Adds those of another use of the same layer.
    ///
    /// # Panics
    /// When the layer has other sizes there.
    pub fn merge(&mut self, other: &Self) {
        assert_eq!((self.groups, self.cols), (other.groups, other.cols), "inputs of one layer");
        self.fitted.merge(&other.fitted);
        self.held_out.merge(&other.held_out);
    }

    /// The group that a row of a matrix of `rows` rows belongs to.
    pub fn group(&self, row: usize, rows: usize) -> usize {
        row / (rows / self.groups).max(1)
    }

    /// `Σ δ G δᵀ` over the rows δ of `delta` `[rows, cols]`: what the outputs change by, squared, summed over all samples.
    /// By the held-out samples where there are some; `None` without the Gram matrix.
    pub fn squared(&self, delta: &[f32]) -> Option<f64> {
        let moments = if self.held_out.rows > 0 { &self.held_out } else { &self.fitted };
        let known = !moments.gram.is_empty() || self.cols == 0;
        known.then(|| squared(delta, self.groups, self.cols, &moments.gram))
    }

    /// Fitted rows for each input.
    pub fn rows_per_input(&self) -> f64 {
        self.fitted.rows as f64 / self.cols.max(1) as f64
    }
}

/// `Σ δ G δᵀ` over the rows of `delta`, with the Gram matrix of each one's group.
pub(crate) fn squared(delta: &[f32], groups: usize, cols: usize, gram: &[f64]) -> f64 {
    inner(delta, delta, groups, cols, gram)
}

/// `Σ a S bᵀ` over the rows of `a` and `b`, with the square matrix of each one's group.
pub(crate) fn inner(a: &[f32], b: &[f32], groups: usize, cols: usize, squares: &[f64]) -> f64 {
    if a.is_empty() || squares.is_empty() {
        return 0.0;
    }
    let pairs = |(group, (a, b)): (usize, (_, _))| {
        let chunks = <[f32]>::chunks(a, CHUNK * cols).zip(<[f32]>::chunks(b, CHUNK * cols));
        chunks.map(move |pair| (group, pair))
    };
    let of_groups = a.chunks(a.len() / groups).zip(b.chunks(a.len() / groups)).enumerate();
    let chunks: Vec<(usize, (&[f32], &[f32]))> = of_groups.flat_map(pairs).collect();
    let of_chunk = |&(group, (a, b)): &(usize, (&[f32], &[f32]))| {
        let a: Vec<f64> = a.iter().map(|&v| f64::from(v)).collect();
        let product = rows_times(&a, &squares[group * cols * cols..][..cols * cols], cols);
        product.iter().zip(b).map(|(a, &b)| a * f64::from(b)).sum::<f64>()
    };
    let sums: Vec<f64> = chunks.par_iter().map(of_chunk).collect();
    sums.iter().sum()
}

/// Rows that are multiplied at a time.
const CHUNK: usize = 64;

/// `rows · square`, of `[n, cols]` and `[cols, cols]`.
pub(crate) fn rows_times(rows: &[f64], square: &[f64], cols: usize) -> Vec<f64> {
    times(rows, MatRef::from_row_major_slice(square, cols, cols))
}

/// `rows · squareᵀ`, of `[n, cols]` and `[cols, cols]`.
pub(crate) fn rows_times_transposed(rows: &[f64], square: &[f64], cols: usize) -> Vec<f64> {
    times(rows, MatRef::from_row_major_slice(square, cols, cols).transpose())
}

fn times(rows: &[f64], square: MatRef<'_, f64>) -> Vec<f64> {
    let mut out = vec![0.0; rows.len()];
    let cols = square.ncols();
    if let Some(n) = rows.len().checked_div(cols) {
        let to = MatMut::from_row_major_slice_mut(&mut out, n, cols);
        matmul(to, Accum::Replace, MatRef::from_row_major_slice(rows, n, cols), square, 1.0, Par::Seq);
    }
    out
}
