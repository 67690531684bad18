//! Packs a sparse matrix as [`Panels`]: which rows of a segment go together, and in which order their weights lie.
//!
//! Every model that is opened goes through here, weight by weight, so that this decides how soon it is ready. Columns of a row within a
//! segment are bits: what two rows share is found by counting them.

use std::ops::Range;

use super::panels::{Group, PanelShape, Panels, Segment};
use crate::simd::{Simd, Vectorized};

/// Fills [`Panels`] of which all but segments, groups, rows, weights and offsets are made. (It uses no vectors, but counts bits,
/// for which there is an instruction that not every CPU has.)
pub(super) struct Pairs<'a> {
    pub(super) panels: &'a mut Panels,
    /// Where the weights of each row begin, `[m + 1]`.
    pub(super) starts: &'a [u32],
    /// Of each weight the place of its column among those that are packed, ascending within a row.
    pub(super) columns: &'a [u32],
    /// The weights.
    pub(super) values: &'a [f32],
}

impl Vectorized for Pairs<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(self, _: S) {
        match self.panels.shape.depth.div_ceil(64) {
            0..=2 => self.pack::<2>(),
            3 => self.pack::<3>(),
            4 => self.pack::<4>(),
            5..=8 => self.pack::<8>(),
            9..=64 => self.pack::<64>(),
            // As deep as a panel of 64 KiB can be, were it one element wide.
            _ => self.pack::<256>(),
        }
    }
}

impl Pairs<'_> {
    #[inline(always)]
    fn pack<const WORDS: usize>(self) {
        let Self { panels, starts, columns, values } = self;
        let blocks = panels.blocks.clone();
        panels.weights = vec![0.0; values.len()];
        panels.offsets = vec![0; values.len()];
        let mut segment = SegmentRows::<WORDS>::default();
        let mut end = Segment::default();
        for block in blocks.windows(2) {
            let ends = &starts[block[0] + 1..=block[1]];
            // What of each row has been packed.
            let mut done: Vec<u32> = starts[block[0]..block[1]].to_vec();
            for panel in 0..panels.across {
                let range = panel * panels.shape.depth..(panel + 1) * panels.shape.depth;
                let from = Weights { columns, values, first: range.start };
                segment.take(columns, &mut done, ends, range, panel == 0 || panel + 1 == panels.across);
                segment.append_to(panels, &mut end, &from);
                panels.segments.push(end);
            }
        }
        panels.offsets.truncate(end.offset);
        panels.offsets.shrink_to_fit();
    }
}

/// The weights of all rows, with the first column of the panel that is packed.
struct Weights<'a> {
    columns: &'a [u32],
    values: &'a [f32],
    first: usize,
}

impl Weights<'_> {
    /// The columns, counted from the panel's first, and weights of a row within the panel.
    #[inline(always)]
    fn row<const WORDS: usize>(&self, row: &Row<WORDS>) -> impl Iterator<Item = (usize, f32)> {
        let weights = row.start as usize..(row.start + row.len) as usize;
        let columns = self.columns[weights.clone()].iter().map(|&column| column as usize - self.first);
        columns.zip(self.values[weights].iter().copied())
    }
}

/// A row within a segment: the bits of its columns, counted from the first of the panel, and its weights.
#[derive(Clone, Copy)]
struct Row<const WORDS: usize> {
    bits: [u64; WORDS],
    /// Its place in the block.
    place: u32,
    /// Its first weight.
    start: u32,
    /// Number of its weights.
    len: u32,
}

/// The rows of a block that hold weights in a panel, and buffers that are used again and again.
#[derive(Default)]
struct SegmentRows<const WORDS: usize> {
    /// In the order of the matrix.
    taken: Vec<Row<WORDS>>,
    /// By length.
    rows: Vec<Row<WORDS>>,
    /// Where rows of each length begin in `rows`.
    begin: Vec<usize>,
    /// The bits of rows of equal length, word by word, so that vectors hold those of several rows.
    words: Vec<u64>,
    /// Shared columns of a pair, its rows, and where the second lies among the rows, before the first.
    pairs: Vec<(u32, [u32; 2], usize)>,
}

impl<const WORDS: usize> SegmentRows<WORDS> {
    /// Takes the weights of a panel's columns from each row, and moves `done` behind them. Rows without any are left out unless `all`
    /// are to be there: in the first panel the product begins the sums of every row, in the last it ends them.
    #[inline(always)]
    fn take(&mut self, columns: &[u32], done: &mut [u32], ends: &[u32], panel: Range<usize>, all: bool) {
        self.taken.clear();
        self.begin.clear();
        self.begin.resize(panel.len() + 2, 0);
        for (place, (done, &end)) in (0..).zip(done.iter_mut().zip(ends)) {
            let start = *done;
            let mut bits = [0; WORDS];
            let mut len = 0;
            for &column in &columns[start as usize..end as usize] {
                if column as usize >= panel.end {
                    break;
                }
                let column = column as usize - panel.start;
                bits[column / 64] |= 1 << (column % 64);
                len += 1;
            }
            *done = start + len;
            if len > 0 || all {
                self.begin[len as usize + 1] += 1;
                self.taken.push(Row { bits, place, start, len });
            }
        }
        (1..self.begin.len()).for_each(|len| self.begin[len] += self.begin[len - 1]);
        self.rows.clear();
        self.rows.extend_from_slice(&self.taken);
        for row in &self.taken {
            let at = &mut self.begin[row.len as usize];
            self.rows[*at] = *row;
            *at += 1;
        }
    }

    /// Appends pairs of rows of equal length, those first that share the least, at `end`, which it moves.
    #[inline(always)]
    fn append_to(&mut self, panels: &mut Panels, end: &mut Segment, from: &Weights<'_>) {
        let Self { rows, words, pairs, .. } = self;
        for equal in rows.chunk_by_mut(|a, b| a.len == b.len) {
            let len = equal[0].len;
            pairs.clear();
            words.clear();
            (0..WORDS).for_each(|word| words.extend(equal.iter().map(|row| row.bits[word])));
            let (count, mut left) = (equal.len(), equal.len());
            while left > 1 {
                left -= 1;
                let a = equal[left];
                let others: [&[u64]; WORDS] = std::array::from_fn(|word| &words[word * count..][..left]);
                let (best, most) = most_shared(&a.bits, &others, left);
                left -= 1;
                equal.swap(best, left);
                (0..WORDS).for_each(|word| words.swap(word * count + best, word * count + left));
                pairs.push((most / unit(len) * unit(len), [a.place, equal[left].place], left));
            }
            pairs.sort_unstable();
            for alike in pairs.chunk_by(|a, b| a.0 == b.0) {
                let shared = alike[0].0;
                panels.groups.push(Group { shared, single: len - shared, pairs: alike.len() as u32 });
                for &(_, _, at) in alike {
                    append_pair(panels, end, from, [&equal[at + 1], &equal[at]], shared);
                }
            }
            if let [row, ..] = &equal[..left] {
                panels.groups.push(Group { shared: 0, single: len, pairs: 0 });
                panels.rows.push(row.place);
                let (weights, offsets) =
                    (&mut panels.weights[end.weight..], &mut panels.offsets[end.offset..]);
                for ((column, value), (weight, place)) in from.row(row).zip(weights.iter_mut().zip(offsets)) {
                    *weight = value;
                    *place = offset(panels.shape, column);
                }
                end.weight += len as usize;
                end.offset += len as usize;
            }
        }
        (end.group, end.row) = (panels.groups.len(), panels.rows.len());
    }
}

/// Which of `count` rows shares most columns with one, the last of several, and how many.
#[inline(always)]
fn most_shared<const WORDS: usize>(
    bits: &[u64; WORDS],
    others: &[&[u64]; WORDS],
    count: usize,
) -> (usize, u32) {
    let shared = |at: usize| -> u64 {
        (0..WORDS).map(|word| u64::from((bits[word] & others[word][at]).count_ones())).sum()
    };
    let best = (0..count).map(|at| shared(at) << 32 | at as u64).max().unwrap_or(0);
    ((best & 0xffff_ffff) as usize, (best >> 32) as u32)
}

/// Appends two rows that hold equally many weights: of their common columns the first `shared` together, the others in turn.
#[inline(always)]
fn append_pair<const WORDS: usize>(
    panels: &mut Panels,
    end: &mut Segment,
    from: &Weights<'_>,
    pair: [&Row<WORDS>; 2],
    shared: u32,
) {
    let shape = panels.shape;
    panels.rows.extend(pair.map(|row| row.place));
    let mut together = [0; WORDS];
    let mut left = shared;
    for (both, (a, b)) in together.iter_mut().zip(pair[0].bits.iter().zip(&pair[1].bits)) {
        *both = lowest(a & b, left);
        left -= both.count_ones();
    }
    let (len, shared) = (pair[0].len as usize, shared as usize);
    let weights = &mut panels.weights[end.weight..][..2 * len];
    let offsets = &mut panels.offsets[end.offset..][..2 * len - shared];
    end.weight += weights.len();
    end.offset += offsets.len();
    for (i, row) in pair.into_iter().enumerate() {
        // How many of its weights were put among those that go together, and among the others. (No branch is to be guessed.)
        let mut put = [0, 0];
        for (column, value) in from.row(row) {
            let alone = usize::from(together[column / 64] >> (column % 64) & 1 == 0);
            let at = [put[0], shared + put[1]][alone];
            weights[2 * at + i] = value;
            offsets[[at, shared + 2 * put[1] + i][alone]] = offset(shape, column);
            put[0] += 1 - alone;
            put[1] += alone;
        }
    }
}

/// The lowest `count` bits of those that are set, or all of them.
#[inline(always)]
fn lowest(bits: u64, count: u32) -> u64 {
    if bits.count_ones() <= count {
        return bits;
    }
    let mut above = bits;
    (0..count).for_each(|_| above &= above - 1);
    bits & !above
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

/// Where the row of `X` of a column, counted from the panel's first, lies in the panel's tile.
fn offset(shape: PanelShape, column: usize) -> u16 {
    // (A panel takes at most 64 KiB.)
    (column * shape.width * size_of::<f32>()) as u16
}
