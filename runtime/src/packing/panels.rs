//! The layout of the panel kernel: blocks of rows × panels of columns, rows in pairs.
//!
//! A panel is a range of rows of `X` whose tile stays in L1. Within a (block, panel) segment rows are sorted by their number
//! of weights there, so that the exit of the inner loop is predicted, and paired with a row of equal number that shares most
//! columns: a shared column is loaded once for two multiply-adds. Pairs differ from panel to panel.
//!
//! Of a pair: for each shared column a weight of each row and one offset, then weights and offsets of the first and the second
//! row in turn. At 4 bytes a weight and 2 an offset, what is shared takes 5 bytes a weight.

use std::ops::Range;

use poda_formats::{CsrMatrix, CsrView};

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
    /// Row within the block, as a byte offset into a tile of sums.
    pub(crate) rows: Vec<u32>,
    pub(crate) weights: Vec<f32>,
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
    pub(crate) fn new(weight: CsrView<'_>, shape: PanelShape, unit: usize, skip_unused: bool) -> Self {
        assert!(shape.depth * shape.width * size_of::<f32>() <= 1 << 16, "{shape:?}");
        let matrix = weight.matrix();
        let (m, k) = (matrix.rows(), matrix.cols());
        let used = skip_unused.then(|| used_columns(matrix)).filter(|used| used.len() * 8 < k * 7);
        let depth = used.as_ref().map_or(k, Vec::len);
        // Where a column of the matrix lies among those that are packed.
        let place: Option<Vec<u32>> = used.as_ref().map(|used| {
            let mut place = vec![0; k];
            for (i, &column) in used.iter().enumerate() {
                place[column as usize] = i as u32;
            }
            place
        });
        let rows: Vec<Vec<(u32, f32)>> = (0..m)
            .map(|row| {
                weight.row(row).map(|(c, w)| (place.as_ref().map_or(c, |p| p[c as usize]), w)).collect()
            })
            .collect();
        let blocks = balanced(matrix.row_offsets(), m.div_ceil(shape.rows).next_multiple_of(unit.max(1)));
        let panels = depth.div_ceil(shape.depth);
        let mut packed = Self {
            shape,
            blocks,
            across: panels,
            used,
            depth,
            segments: vec![Segment::default()],
            groups: Vec::new(),
            rows: Vec::new(),
            weights: Vec::with_capacity(matrix.nnz()),
            offsets: Vec::with_capacity(matrix.nnz()),
            height: 1,
        };
        for block in 0..packed.blocks.len() - 1 {
            let range = packed.blocks[block]..packed.blocks[block + 1];
            for panel in 0..panels {
                let columns = panel * shape.depth..(panel + 1) * shape.depth;
                packed.segment(&rows[range.clone()], columns);
                packed.segments.push(Segment {
                    group: packed.groups.len(),
                    row: packed.rows.len(),
                    weight: packed.weights.len(),
                    offset: packed.offsets.len(),
                });
            }
        }
        packed.offsets.shrink_to_fit();
        packed
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

    /// Appends the weights of a block's rows in a range of columns.
    fn segment(&mut self, block: &[Vec<(u32, f32)>], columns: Range<usize>) {
        let inside: Vec<&[(u32, f32)]> = block
            .iter()
            .map(|row| {
                let start = row.partition_point(|&(c, _)| (c as usize) < columns.start);
                let end = row.partition_point(|&(c, _)| (c as usize) < columns.end);
                &row[start..end]
            })
            .collect();
        let words = columns.len().div_ceil(64);
        let mut masks = vec![0_u64; block.len() * words];
        for (row, weights) in inside.iter().enumerate() {
            for &(c, _) in *weights {
                let c = c as usize - columns.start;
                masks[row * words + c / 64] |= 1 << (c % 64);
            }
        }
        let shared = |a: usize, b: usize| -> u32 {
            let (a, b) = (&masks[a * words..][..words], &masks[b * words..][..words]);
            a.iter().zip(b).map(|(a, b)| (a & b).count_ones()).sum()
        };
        let mut order: Vec<usize> = (0..block.len()).filter(|&row| !inside[row].is_empty()).collect();
        order.sort_by_key(|&row| inside[row].len());
        for equal in order.chunk_by(|&a, &b| inside[a].len() == inside[b].len()) {
            let len = inside[equal[0]].len() as u32;
            let mut left = equal.to_vec();
            let mut pairs = Vec::with_capacity(left.len() / 2);
            while left.len() > 1 {
                let a = left.pop().expect("two are left");
                let best = (0..left.len()).max_by_key(|&i| shared(a, left[i])).expect("one is left");
                let b = left.swap_remove(best);
                pairs.push((shared(a, b) / unit(len) * unit(len), a, b));
            }
            pairs.sort_unstable();
            for alike in pairs.chunk_by(|a, b| a.0 == b.0) {
                let shared = alike[0].0;
                self.groups.push(Group { shared, single: len - shared, pairs: alike.len() as u32 });
                for &(_, a, b) in alike {
                    self.pair([a, b], [inside[a], inside[b]], shared, columns.start);
                }
            }
            if let [row] = left[..] {
                self.groups.push(Group { shared: 0, single: len, pairs: 0 });
                self.rows.push(self.row_offset(row));
                for &(column, weight) in inside[row] {
                    self.weights.push(weight);
                    self.offsets.push(offset(self.shape, column, columns.start));
                }
            }
        }
    }

    /// Appends a pair of rows that hold equally many weights, of which `shared` are taken as such.
    fn pair(&mut self, rows: [usize; 2], weights: [&[(u32, f32)]; 2], mut shared: u32, start: usize) {
        self.rows.extend(rows.map(|row| self.row_offset(row)));
        let mut alone = [Vec::new(), Vec::new()];
        let [mut a, mut b] = weights;
        while let Some(&(column, _)) = a.first().into_iter().chain(b.first()).min_by_key(|weight| weight.0) {
            let take = |weights: &mut &[(u32, f32)]| {
                let (&first, rest) = weights.split_first().filter(|(first, _)| first.0 == column)?;
                *weights = rest;
                Some(first)
            };
            match (take(&mut a), take(&mut b)) {
                (Some(a), Some(b)) if shared > 0 => {
                    shared -= 1;
                    self.weights.extend([a.1, b.1]);
                    self.offsets.push(offset(self.shape, column, start));
                }
                (a, b) => {
                    alone[0].extend(a);
                    alone[1].extend(b);
                }
            }
        }
        for &(column, weight) in alone[0].iter().zip(&alone[1]).flat_map(|(a, b)| [a, b]) {
            self.weights.push(weight);
            self.offsets.push(offset(self.shape, column, start));
        }
    }

    fn row_offset(&self, row: usize) -> u32 {
        (row * self.shape.width * size_of::<f32>()) as u32
    }
}

/// Shared columns of a pair of rows with `len` weights each are taken by so many, and what is left over as if it were not
/// shared: fewer different numbers make longer groups, whose loops end where the CPU expects. On Zen 3 worth 5 % at 64 and
/// more weights, 2 % at 16; below, sharing is worth more.
fn unit(len: u32) -> u32 {
    match len {
        0..16 => 1,
        16..64 => 2,
        _ => 4,
    }
}

/// Where the row of `X` of a column lies in the tile of a panel that begins at `start`.
fn offset(shape: PanelShape, column: u32, start: usize) -> u16 {
    // (A panel takes at most 64 KiB.)
    ((column as usize - start) * shape.width * size_of::<f32>()) as u16
}

/// Columns that hold any weight, ascending.
fn used_columns(matrix: &CsrMatrix) -> Vec<u32> {
    let mut used = vec![false; matrix.cols()];
    for row in 0..matrix.rows() {
        for column in matrix.row_columns(row) {
            used[column as usize] = true;
        }
    }
    (0..matrix.cols() as u32).filter(|&column| used[column as usize]).collect()
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
    use super::*;

    #[test]
    fn panels_hold_every_weight_once() {
        let (m, k) = (37, 300);
        let dense: Vec<f32> =
            (0..m * k).map(|i| if i * 7919 % 10 < 3 && i / k != 5 { 1.0 + i as f32 } else { 0.0 }).collect();
        let matrix = CsrMatrix::from_dense(m, k, &dense);
        let shape = PanelShape { width: 32, depth: 64, rows: 10 };
        let panels = Panels::new(matrix.view().unwrap(), shape, 2, false);
        assert_eq!(panels.weights.len(), matrix.nnz());
        assert!(panels.offsets.len() < matrix.nnz(), "some columns are shared");
        assert!(panels.blocks.len() > 4);
        let mut found = vec![0.0; m * k];
        for (block, start) in panels.blocks[..panels.blocks.len() - 1].iter().enumerate() {
            for panel in 0..panels.across {
                let [segment, next] = [0, 1].map(|i| panels.segments[block * panels.across + panel + i]);
                let Segment { mut row, mut weight, mut offset, .. } = segment;
                let mut put = |row: usize, weight: usize, offset: usize| {
                    let column = panel * 64 + panels.offsets[offset] as usize / 128;
                    let row = start + panels.rows[row] as usize / 128;
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
        }
        assert!(found == dense);
    }

    #[test]
    fn unused_columns_are_left_out() {
        let dense: Vec<f32> = (0..4 * 100).map(|i| if i % 100 % 3 == 0 { 1.0 } else { 0.0 }).collect();
        let matrix = CsrMatrix::from_dense(4, 100, &dense);
        let shape = PanelShape { width: 16, depth: 64, rows: 10 };
        let panels = Panels::new(matrix.view().unwrap(), shape, 1, true);
        assert_eq!((panels.depth, panels.across), (34, 1));
        assert_eq!(panels.used.unwrap()[..3], [0, 3, 6]);
    }
}
