//! Windowed SELL: rows side by side in vector lanes, so that a step multiplies one weight of each of 16 rows, where the step's
//! columns all lie in a short window of `X` that fits registers. A byte per weight says where in the window.
//!
//! Rows are taken up to 256 at a time, and sorted by their number of weights into groups of 16. Steps come in bursts that share
//! a window: it starts at the group's lowest column that is still to do (rounded down to a vector), and each row puts its
//! next weights that lie in it into the burst. A row that runs ahead or has no more weights pads with [`PADDING`] and zero.
//! On uniform masks at 50/80/90/95 % that makes 1.03/1.12/1.27/1.56 slots per weight with windows of 64 in bursts of 2, and
//! 1.01/1.06/1.14/1.35 with windows of 128 in bursts of 4.
//!
//! Descends from SELL-C-σ: Kreutzer et al., SISC 2014, <https://arxiv.org/abs/1307.6209>.

use std::marker::PhantomData;

use poda_formats::storage::AlignedBytes;
use poda_formats::weight::CsrView;
use poda_formats::{CsrMatrix, Element};

use super::sell::{MOST_ROWS, block_rows};

/// Rows in the lanes of a group.
pub(crate) const LANES: usize = 16;
/// Steps that share a vector of indices, one byte of each 32-bit lane a step.
pub(crate) const STEPS: usize = 4;
/// The index of a slot without a weight; indices of weights are less.
pub(crate) const PADDING: u8 = 0x80;

/// A matrix `[m, k]` of values `V` in windowed SELL.
#[derive(Debug)]
pub(crate) struct WindowedSell<V> {
    pub(crate) m: usize,
    pub(crate) k: usize,
    /// Rows that are sorted among themselves, a multiple of 64.
    pub(crate) block: usize,
    /// Chunks before each group of 16 rows, and their number. A chunk is [`STEPS`] steps, whole bursts.
    pub(crate) starts: Vec<u32>,
    /// Where each burst's window begins, in vectors of 16 columns.
    pub(crate) windows: Vec<u16>,
    /// `[chunks][lane][step]`
    pub(crate) indices: AlignedBytes,
    /// `[chunks][step][lane]`
    values: AlignedBytes,
    stored: PhantomData<V>,
    /// Of each row, rounded up to a block: its group and lane within the block, as `group · 16 + lane`.
    pub(crate) order: Vec<u8>,
}

impl<V: Element> WindowedSell<V> {
    /// Packs a matrix for windows of `window` columns and bursts of `burst` steps, in blocks for `parts` threads.
    ///
    /// # Panics
    /// When `burst` does not divide [`STEPS`], or there are more than 2²⁰ columns.
    pub(crate) fn pack(csr: CsrView<'_, V>, window: usize, burst: usize, parts: usize) -> Self {
        assert!(
            STEPS.is_multiple_of(burst) && window <= PADDING.into(),
            "bursts of {burst}, windows of {window}"
        );
        let matrix = csr.matrix();
        let (m, k) = (matrix.rows(), matrix.cols());
        let block = block_rows(m, parts);
        let (mut starts, mut windows, mut order) = (vec![0], Vec::new(), Vec::new());
        let mut schedule = |slots: &mut dyn FnMut(usize, usize, Slot)| {
            let mut chunks = 0;
            (starts, windows, order) = (vec![0], Vec::new(), Vec::new());
            for first in (0..m).step_by(block) {
                let rows = sorted(matrix, first..m.min(first + block));
                let mut places = [0; MOST_ROWS];
                for (place, row) in rows.iter().enumerate() {
                    places[row - first] = place as u8;
                }
                order.extend(&places[..block]);
                for group in rows.chunks(LANES) {
                    let before = windows.len();
                    bursts(matrix, group, window, burst, |base, burst_index, slot| {
                        if burst_index == windows.len() - before {
                            windows.push(u16::try_from(base / LANES).expect("at most 2²⁰ columns"));
                        }
                        let step = burst_index * burst + slot.step;
                        slots(chunks + step / STEPS, step % STEPS, slot);
                    });
                    // Whole chunks; bursts that only pad read the first window.
                    while !((windows.len() - before) * burst).is_multiple_of(STEPS) {
                        windows.push(0);
                    }
                    chunks += (windows.len() - before) * burst / STEPS;
                    starts.push(u32::try_from(chunks).expect("fewer than 2³² chunks"));
                }
            }
            chunks
        };
        // Once for the size, so that no buffer grows, once for the slots.
        let chunks = schedule(&mut |_, _, _| {});
        let mut indices = AlignedBytes::zeroed(chunks * STEPS * LANES);
        let mut values = AlignedBytes::zeroed(chunks * STEPS * LANES * size_of::<V>());
        indices.fill(PADDING);
        let value: &mut [V] = bytemuck::cast_slice_mut(&mut values);
        schedule(&mut |chunk, step, slot| {
            indices[(chunk * LANES + slot.lane) * STEPS + step] = slot.index;
            value[(chunk * STEPS + step) * LANES + slot.lane] = csr.values()[slot.value];
        });
        Self { m, k, block, starts, windows, indices, values, stored: PhantomData, order }
    }

    /// Bytes that the matrix would take, judged by at most 8 blocks of rows.
    pub(crate) fn bytes_of(csr: &CsrMatrix, window: usize, burst: usize) -> usize {
        const SAMPLES: usize = 8;
        let (m, nnz) = (csr.rows(), csr.nnz());
        let block = block_rows(m, 1);
        let blocks = m.div_ceil(block);
        let (mut weights, mut chunks) = (0_usize, 0);
        for sample in 0..blocks.min(SAMPLES) {
            let first = sample * blocks / blocks.min(SAMPLES) * block;
            for group in sorted(csr, first..m.min(first + block)).chunks(LANES) {
                let mut steps = 0;
                bursts(csr, group, window, burst, |_, number, _| {
                    steps = (number + 1) * burst;
                    weights += 1;
                });
                chunks += steps.div_ceil(STEPS);
            }
        }
        let chunk = STEPS * LANES * (1 + size_of::<V>()) + STEPS / burst * size_of::<u16>();
        let sampled = (chunks * chunk) as f64;
        // An empty sample says nothing of weights elsewhere.
        let all =
            if weights == 0 { 16 * chunk * nnz } else { (sampled * nnz as f64 / weights as f64) as usize };
        all + 2 * m
    }

    /// `[chunks][step][lane]`
    pub(crate) fn values(&self) -> &[V] {
        bytemuck::cast_slice(&self.values)
    }

    /// Bytes of everything.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&self.starts[..])
            + size_of_val(&self.windows[..])
            + self.indices.len()
            + self.values.len()
            + self.order.len()
    }
}

/// A weight and where it goes in its burst.
struct Slot {
    lane: usize,
    step: usize,
    index: u8,
    /// Number of the value in the matrix.
    value: usize,
}

/// Rows by their number of weights.
fn sorted(csr: &CsrMatrix, rows: std::ops::Range<usize>) -> Vec<usize> {
    let mut rows: Vec<usize> = rows.collect();
    rows.sort_by_key(|&row| csr.row_columns(row).len());
    rows
}

/// Calls `slot` with the first column of the window, the number of the burst and every weight of up to 16 rows.
fn bursts(
    csr: &CsrMatrix,
    rows: &[usize],
    window: usize,
    burst: usize,
    mut slot: impl FnMut(usize, usize, Slot),
) {
    let offsets = csr.row_offsets();
    let lane = |&row: &usize| csr.row_columns(row).zip(offsets[row] as usize..).peekable();
    let mut lanes: Vec<_> = rows.iter().map(lane).collect();
    let mut number = 0;
    while let Some(lowest) = lanes.iter_mut().filter_map(|lane| lane.peek().map(|&(col, _)| col)).min() {
        let base = lowest as usize / LANES * LANES;
        for (lane, weights) in lanes.iter_mut().enumerate() {
            for step in 0..burst {
                let Some((col, value)) = weights.next_if(|&(col, _)| (col as usize) < base + window) else {
                    break;
                };
                slot(base, number, Slot { lane, step, index: (col as usize - base) as u8, value });
            }
        }
        number += 1;
    }
}
