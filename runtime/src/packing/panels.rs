//! The layout of the panel kernel: blocks of rows × panels of columns, rows in pairs.
//!
//! A panel is a range of rows of `X` whose tile stays in L1. Within a (block, panel) segment rows are sorted by their number
//! of weights there, so that the exit of the inner loop is predicted, and paired with a row of equal number that shares most
//! columns: a shared column is loaded once for two multiply-adds. Pairs differ from panel to panel.
//!
//! Of a pair: for each shared column a weight of each row and one offset, then weights and offsets of the first and the second
//! row in turn. At 4 bytes a weight and 2 an offset, what is shared takes 5 bytes a weight.

use super::bit_rows::BitRows;
use super::floats::Floats;
use super::pairs::Pairs;
use crate::simd::Supported;

/// Measures of a packing; the tuner chooses among several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct PanelShape {
    /// Elements along a row of the tile of `X`.
    pub(crate) width: usize,
    /// Rows of `X` in a panel.
    pub(crate) depth: usize,
    /// Most rows in a block.
    pub(crate) rows: usize,
}

/// Consecutive pairs of equal measures, or one row without a partner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Group {
    /// Columns that both rows hold, taken together.
    pub(crate) shared: u32,
    /// Columns of each row beside those.
    pub(crate) single: u32,
    /// Number of pairs; 0 for a row without a partner, whose weights `single` counts.
    pub(crate) pairs: u32,
}

/// The weights of a block within a panel: where they begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Segment {
    pub(crate) group: usize,
    pub(crate) row: usize,
    pub(crate) weight: usize,
    pub(crate) offset: usize,
}

/// A sparse weight `[m, k]` in panels.
#[derive(Debug)]
pub(crate) struct Panels {
    pub(crate) shape: PanelShape,
    /// First row of each block, and `m`.
    pub(crate) blocks: Vec<usize>,
    /// Number of panels.
    pub(crate) across: usize,
    /// The rows of `X` that any weight uses, where not all are.
    pub(crate) used: Option<Vec<u32>>,
    /// Rows of `X` that are packed.
    pub(crate) depth: usize,
    /// `[blocks · panels + 1]`
    pub(crate) segments: Vec<Segment>,
    pub(crate) groups: Vec<Group>,
    /// Rows within the block, of which the segments of the first and of the last panel hold every one.
    pub(crate) rows: Vec<u32>,
    pub(crate) weights: Floats,
    /// Rows within the panel, as byte offsets into a tile of `X`.
    pub(crate) offsets: Vec<u16>,
    /// Rows that keep the same columns: 1, or the height of the strips of a weight in blocks (see [`super::strips`]).
    pub(crate) height: usize,
}

impl Panels {
    /// Packs a matrix in blocks of about equal numbers of weights, a multiple of `unit` of them where rows allow.
    ///
    /// # Panics
    /// When a panel of `X` takes more than 64 KiB.
    pub(crate) fn new(
        level: Supported,
        weight: BitRows<'_>,
        shape: PanelShape,
        unit: usize,
        skip_unused: bool,
    ) -> Self {
        assert!(shape.depth * shape.width * size_of::<f32>() <= 1 << 16, "{shape:?}");
        let [m, k] = weight.shape();
        let used = skip_unused.then(|| weight.used()).filter(|used| used.len() * 8 < k * 7);
        let weight = match &used {
            Some(used) => weight.only(used),
            None => weight,
        };
        let depth = used.as_ref().map_or(k, Vec::len);
        let mut packed = Self {
            shape,
            blocks: balanced(weight.starts(), m.div_ceil(shape.rows).next_multiple_of(unit.max(1))),
            across: depth.div_ceil(shape.depth),
            used,
            depth,
            segments: vec![Segment::default()],
            groups: Vec::new(),
            rows: Vec::new(),
            weights: Floats::default(),
            offsets: Vec::new(),
            height: 1,
        };
        level.run(Pairs { panels: &mut packed, from: &weight });
        packed
    }

    /// Bytes from one row of a tile of `X` to the next.
    pub(super) fn pitch(&self) -> usize {
        self.shape.width * size_of::<f32>()
    }

    /// Bytes of the weights.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&self.weights[..])
            + size_of_val(&self.offsets[..])
            + size_of_val(&self.rows[..])
            + size_of_val(&self.groups[..])
            + size_of_val(&self.segments[..])
            + self.used.as_ref().map_or(0, |used| size_of_val(&used[..]))
    }
}

/// Cuts rows into at most `parts` ranges of about equal work (weights, and a little for each row): where they start, and the
/// number of rows.
pub(super) fn balanced(offsets: &[u32], parts: usize) -> Vec<usize> {
    let rows = offsets.len() - 1;
    let parts = parts.min(rows).max(1);
    let work = |row: usize| offsets[row] as usize + 4 * row;
    let mut starts = vec![0];
    for part in 1..parts {
        let target = work(rows) * part / parts;
        let start = (0..rows).take_while(|&row| work(row) < target).count();
        if start > *starts.last().expect("one") && start < rows {
            starts.push(start);
        }
    }
    starts.push(rows);
    starts
}

#[cfg(test)]
mod tests {
    use poda_formats::CsrMatrix;

    use super::*;
    use crate::simd::Level;

    fn pack(matrix: &CsrMatrix, shape: PanelShape, unit: usize, skip_unused: bool) -> Vec<Panels> {
        let levels = [Level::Portable, Level::Avx2, Level::Avx512].into_iter().filter_map(Level::supported);
        levels
            .map(|level| Panels::new(level, matrix.view().unwrap().into(), shape, unit, skip_unused))
            .collect()
    }

    /// What segments say, `[m, k]`; that each begins where the one before ends is checked.
    fn unpack(panels: &Panels, [m, k]: [usize; 2]) -> Vec<f32> {
        let bytes = panels.shape.width * size_of::<f32>();
        let mut found = vec![0.0; m * k];
        for (block, start) in panels.blocks[..panels.blocks.len() - 1].iter().enumerate() {
            for panel in 0..panels.across {
                let [segment, next] = [0, 1].map(|i| panels.segments[block * panels.across + panel + i]);
                let Segment { mut row, mut weight, mut offset, .. } = segment;
                let mut put = |row: usize, weight: usize, offset: usize| {
                    let place = panel * panels.shape.depth + panels.offsets[offset] as usize / bytes;
                    let column = panels.used.as_ref().map_or(place, |used| used[place] as usize);
                    let row = start + panels.rows[row] as usize;
                    found[row * k + column] = panels.weights[weight];
                };
                for group in &panels.groups[segment.group..next.group] {
                    let rows = if group.pairs == 0 { 1 } else { 2 };
                    for _ in 0..group.pairs.max(1) {
                        for step in 0..group.shared + group.single {
                            let offsets = if step < group.shared { 1 } else { rows };
                            (0..rows).for_each(|i| put(row + i, weight + i, offset + i % offsets));
                            weight += rows;
                            offset += offsets;
                        }
                        row += rows;
                    }
                }
                assert_eq!([row, weight, offset], [next.row, next.weight, next.offset]);
            }
            for at in [block * panels.across, (block + 1) * panels.across - 1] {
                let mut rows = panels.rows[panels.segments[at].row..panels.segments[at + 1].row].to_vec();
                rows.sort_unstable();
                assert!(rows.into_iter().eq(0..(panels.blocks[block + 1] - start) as u32), "every row, once");
            }
        }
        found
    }

    #[test]
    fn panels_hold_every_weight_once() {
        let (m, k) = (37, 300);
        let kept = |i: usize, of: usize| i * 7919 % 10 < of && i / k != 5;
        for of in [1, 3, 8, 10] {
            let dense: Vec<f32> =
                (0..m * k).map(|i| if kept(i, of) { 1.0 + i as f32 } else { 0.0 }).collect();
            let matrix = CsrMatrix::from_dense(m, k, &dense);
            // Panels of one to five words of bits, and one that holds all columns.
            for depth in [1, 64, 100, 129, 250, 300, 512] {
                let shape = PanelShape { width: 32, depth, rows: 10 };
                let all = pack(&matrix, shape, 2, false);
                for panels in &all {
                    assert_eq!(panels.weights.len(), matrix.nnz());
                    assert!(panels.offsets.len() < matrix.nnz(), "some columns are shared");
                    assert!(panels.blocks.len() > 4);
                    assert!(unpack(panels, [m, k]) == dense, "depth {depth}, {of} of 10");
                    assert_eq!((&*panels.weights, &panels.offsets), (&*all[0].weights, &all[0].offsets));
                }
            }
        }
    }

    #[test]
    fn unused_columns_are_left_out() {
        let (m, k) = (4, 100);
        let dense: Vec<f32> = (0..m * k).map(|i| if i % k % 3 == 0 { 1.0 } else { 0.0 }).collect();
        let matrix = CsrMatrix::from_dense(m, k, &dense);
        for panels in pack(&matrix, PanelShape { width: 16, depth: 64, rows: 10 }, 1, true) {
            assert_eq!((panels.depth, panels.across), (34, 1));
            assert_eq!(panels.used.as_ref().unwrap()[..3], [0, 3, 6]);
            assert!(unpack(&panels, [m, k]) == dense);
        }
    }
}
