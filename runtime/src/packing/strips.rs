//! The layout of the panel kernel for blocks: [`Panels`] whose groups are strips of rows that keep the same columns.
//!
//! A strip is `height` rows of a block row. Of each of its columns there are one offset and one weight of each row, so that a
//! row of `X` is loaded once for `height` multiply-adds. Within a segment strips are sorted by their number of columns, so that
//! the exit of the inner loop is predicted.

use poda_formats::BlockMatrix;

use super::floats::Floats;
use super::panels::{Group, PanelShape, Panels, Segment, balanced};

/// A column of a strip: its place among the packed rows of `X`, and where its first weight lies; the next is `c` further.
type Column = (u32, usize);

/// Packs a matrix whose blocks have a multiple of `height` rows.
///
/// # Panics
/// When they have not, values are not f32, or a panel of `X` takes more than 64 KiB.
pub(crate) fn pack(
    matrix: &BlockMatrix,
    shape: PanelShape,
    height: usize,
    unit: usize,
    skip_unused: bool,
) -> Panels {
    let ([r, c], (m, k)) = (matrix.block(), (matrix.rows(), matrix.cols()));
    assert!(shape.depth * shape.width * size_of::<f32>() <= 1 << 16, "{shape:?}");
    assert!(r.is_multiple_of(height), "strips of {height} rows of blocks of {r}");
    let used = skip_unused.then(|| used_columns(matrix)).filter(|used| used.len() * 8 < k * 7);
    let depth = used.as_ref().map_or(k, Vec::len);
    let mut place: Vec<u32> = (0..k as u32).collect();
    for (i, &column) in used.iter().flatten().enumerate() {
        place[column as usize] = i as u32;
    }
    let columns = |strip: usize| -> Vec<Column> {
        let (row, within) = (strip * height / r, strip * height % r);
        let first = matrix.row_offsets()[row] as usize;
        let blocks = matrix.row_columns(row).zip(first..);
        let columns = blocks.flat_map(|(col, block)| {
            (0..c).map(move |i| (col as usize * c + i, (block * r + within) * c + i))
        });
        columns.filter(|&(col, _)| col < k).map(|(col, at)| (place[col], at)).collect()
    };
    let strips: Vec<Vec<Column>> = (0..m.div_ceil(height)).map(columns).collect();
    let mut counts = vec![0_u32];
    strips.iter().for_each(|strip| counts.push(counts[counts.len() - 1] + strip.len() as u32));
    let cuts = balanced(&counts, m.div_ceil(shape.rows).next_multiple_of(unit.max(1)));
    let values = matrix.values_f32().expect("checked by PackedWeight");

    let total = counts[strips.len()] as usize;
    let mut packed = Panels {
        shape,
        blocks: cuts.iter().map(|&strip| m.min(strip * height)).collect(),
        across: depth.div_ceil(shape.depth),
        used,
        depth,
        segments: vec![Segment::default()],
        groups: Vec::new(),
        rows: Vec::new(),
        weights: Floats::Own(Vec::with_capacity(total * height)),
        offsets: Vec::with_capacity(total),
        height,
    };
    let bytes = shape.width * size_of::<f32>();
    for cut in cuts.windows(2) {
        for panel in 0..packed.across {
            let start = (panel * shape.depth) as u32;
            let end = start + shape.depth as u32;
            let mut inside: Vec<(usize, &[Column])> = (cut[0]..cut[1])
                .map(|strip| {
                    let columns = &strips[strip];
                    let from = columns.partition_point(|&(col, _)| col < start);
                    (strip, &columns[from..columns.partition_point(|&(col, _)| col < end)])
                })
                .filter(|(_, columns)| !columns.is_empty() || panel == 0 || panel + 1 == packed.across)
                .collect();
            inside.sort_by_key(|(_, columns)| columns.len());
            for (strip, columns) in inside {
                packed.groups.push(Group { shared: 0, single: columns.len() as u32, pairs: 0 });
                packed.rows.push(((strip - cut[0]) * height) as u32);
                // What a block holds beyond the last row means nothing.
                let rows = m - strip * height;
                for &(col, at) in columns {
                    packed.offsets.push(((col - start) as usize * bytes) as u16);
                    packed
                        .weights
                        .to_mut()
                        .extend((0..height).map(|i| if i < rows { values[at + i * c] } else { 0.0 }));
                }
            }
            packed.segments.push(Segment {
                group: packed.groups.len(),
                row: packed.rows.len(),
                weight: packed.weights.len(),
                offset: packed.offsets.len(),
            });
        }
    }
    packed
}

/// Columns that a block covers, ascending.
fn used_columns(matrix: &BlockMatrix) -> Vec<u32> {
    let (c, k) = (matrix.block()[1], matrix.cols());
    let mut used = vec![false; k.div_ceil(c)];
    for row in 0..matrix.row_offsets().len() - 1 {
        matrix.row_columns(row).for_each(|col| used[col as usize] = true);
    }
    (0..k as u32).filter(|&col| used[col as usize / c]).collect()
}

#[cfg(test)]
mod tests {
    use poda_formats::CsrMatrix;

    use super::*;

    #[test]
    fn strips_hold_every_weight_once() {
        let (m, k) = (37, 301);
        let kept = |row: usize, col: usize| (row / 4 * 101 + col / 3) * 7919 % 10 < 3 && row / 8 != 2;
        let dense: Vec<f32> =
            (0..m * k).map(|i| if kept(i / k, i % k) { 1.0 + i as f32 } else { 0.0 }).collect();
        let csr = CsrMatrix::from_dense(m, k, &dense);
        for (block, height) in [([4, 3], 4), ([8, 3], 8), ([8, 3], 4), ([16, 1], 8), ([4, 1], 2)] {
            let matrix = BlockMatrix::from_csr(&csr, block);
            let shape = PanelShape { width: 32, depth: 64, rows: 12 };
            let panels = pack(&matrix, shape, height, 2, false);
            assert!(panels.blocks.len() > 3, "{:?}", panels.blocks);
            let mut found = vec![0.0; m * k];
            for (block, start) in panels.blocks[..panels.blocks.len() - 1].iter().enumerate() {
                for panel in 0..panels.across {
                    let [segment, next] = [0, 1].map(|i| panels.segments[block * panels.across + panel + i]);
                    let (mut weight, mut offset) = (segment.weight, segment.offset);
                    for (group, row) in (segment.group..next.group).zip(segment.row..) {
                        let row = start + panels.rows[row] as usize;
                        for _ in 0..panels.groups[group].single {
                            let column = panel * 64 + panels.offsets[offset] as usize / 128;
                            for i in 0..height.min(m - row) {
                                found[(row + i) * k + column] += panels.weights[weight + i];
                            }
                            (weight, offset) = (weight + height, offset + 1);
                        }
                    }
                    assert_eq!([weight, offset], [next.weight, next.offset]);
                }
            }
            assert!(found == dense, "{block:?} by {height}");
        }
    }

    #[test]
    fn unused_columns_are_left_out() {
        let dense: Vec<f32> = (0..4 * 100).map(|i| if i % 100 % 3 == 0 { 1.0 } else { 0.0 }).collect();
        let csr = CsrMatrix::from_dense(4, 100, &dense);
        let matrix = BlockMatrix::from_csr(&csr, [4, 1]);
        let panels = pack(&matrix, PanelShape { width: 16, depth: 64, rows: 12 }, 4, 1, true);
        assert_eq!((panels.depth, panels.across), (34, 1));
        assert_eq!(panels.used.unwrap()[..3], [0, 3, 6]);
    }
}
