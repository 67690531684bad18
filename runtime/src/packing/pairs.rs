//! Packs a sparse matrix as [`Panels`]: which rows of a segment go together, and in which order their weights lie.
//!
//! Every model that is opened goes through here, weight by weight, so that this decides how soon it is ready. Columns of a row within a
//! segment are bits: what two rows share is found by counting them.

use std::ops::Range;

use rten_simd::ops::BitOps;

use super::bit_rows::BitRows;
use super::panels::{Group, Panels, Segment};
use crate::simd::{Simd, Vectorized};

/// Rows after which one is taken whose weights are asked for now: those of a row within a panel are few, and the next row's lie far from
/// them.
const AHEAD: usize = 8;
/// Offsets that are written at once, of which the next overwrite what was too many: fewer branches are to be guessed.
const AT_ONCE: usize = 4;

/// Fills [`Panels`] of which all but segments, groups, rows, weights and offsets are made.
pub(super) struct Pairs<'a> {
    pub(super) panels: &'a mut Panels,
    /// The columns are those that are packed.
    pub(super) from: &'a BitRows<'a>,
}

impl Vectorized for Pairs<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(self, simd: S) {
        match self.panels.shape.depth.div_ceil(64) {
            0..=2 => self.pack::<S, 2>(simd),
            3 => self.pack::<S, 3>(simd),
            4 => self.pack::<S, 4>(simd),
            5..=8 => self.pack::<S, 8>(simd),
            9..=64 => self.pack::<S, 64>(simd),
            // As deep as a panel of 64 KiB can be, were it one element wide.
            _ => self.pack::<S, 256>(simd),
        }
    }
}

impl Pairs<'_> {
    #[inline(always)]
    fn pack<S: Simd, const WORDS: usize>(self, simd: S) {
        let Self { panels, from } = self;
        let (blocks, values) = (panels.blocks.clone(), from.values());
        *panels.weights.to_mut() = vec![0.0; values.len()];
        panels.offsets = vec![0; values.len()];
        let mut segment = SegmentRows::<WORDS>::default();
        let mut apart = [0; 2].map(|_| Apart::new(WORDS * 64 + S::LANES.max(AT_ONCE)));
        let mut end = Segment::default();
        for block in blocks.windows(2) {
            // What of each row has been packed.
            let mut done: Vec<u32> = from.starts()[block[0]..block[1]].to_vec();
            for panel in 0..panels.across {
                let columns = panel * panels.shape.depth..(panel + 1) * panels.shape.depth;
                let all = panel == 0 || panel + 1 == panels.across;
                segment.take(simd, from, block[0], &mut done, &columns, all);
                segment.append_to(simd, panels, &mut end, values, &mut apart);
                panels.segments.push(end);
            }
        }
        panels.offsets.truncate(end.offset);
        panels.offsets.shrink_to_fit();
    }
}

/// A row of a pair taken apart: what it shares with its partner, and the rest.
struct Apart {
    weights: [Vec<f32>; 2],
    /// Where the rows of `X` lie that its other weights meet.
    offsets: Vec<u16>,
}

impl Apart {
    /// With room for so many.
    fn new(len: usize) -> Self {
        Self { weights: [0; 2].map(|_| vec![0.0; len]), offsets: vec![0; len] }
    }

    /// Takes a row apart: it shares the columns of `together`.
    ///
    /// # Panics
    /// When there is no room for all and a vector.
    #[inline(always)]
    fn take<S: Simd, const WORDS: usize>(
        &mut self,
        simd: S,
        row: &Row<WORDS>,
        values: &[f32],
        together: &[u64; WORDS],
        pitch: usize,
    ) {
        let weights = row.weights(values);
        assert!(self.weights.iter().all(|room| room.len() >= weights.len() + S::LANES));
        let (mut at, mut put) = (0, [0; 2]);
        for (&bits, &together) in row.bits.iter().zip(together) {
            let mut shared = simd.extract(together, bits);
            let end = weights.len().min(at + bits.count_ones() as usize);
            while at < end {
                let count = S::LANES.min(end - at);
                let all = (1_u64 << count) - 1;
                // SAFETY: `at + count` weights are there; no more are put than were taken, so that there is room for a vector.
                unsafe {
                    let vector = simd.load_first(weights.as_ptr().add(at), count);
                    for (i, lanes) in [shared & all, !shared & all].into_iter().enumerate() {
                        simd.compress(vector, lanes as u32, self.weights[i].as_mut_ptr().add(put[i]));
                        put[i] += lanes.count_ones() as usize;
                    }
                }
                shared >>= count;
                at += count;
            }
        }
        let mut alone = row.bits;
        alone.iter_mut().zip(together).for_each(|(bits, together)| *bits &= !together);
        put_offsets(&alone, pitch, &mut self.offsets);
    }
}

/// Writes where the rows of `X` lie in the panel's tile whose bits are set, `pitch` bytes apart.
///
/// # Panics
/// When there is no room for [`AT_ONCE`] more.
#[inline(always)]
fn put_offsets<const WORDS: usize>(bits: &[u64; WORDS], pitch: usize, to: &mut [u16]) {
    let mut end = 0;
    for (&word, first) in bits.iter().zip((0..).step_by(64)) {
        let (start, mut word) = (end, word);
        end += word.count_ones() as usize;
        for at in (start..end).step_by(AT_ONCE) {
            for offset in &mut to[at..at + AT_ONCE] {
                // (A panel takes at most 64 KiB.)
                *offset = ((first + word.trailing_zeros()) * pitch as u32) as u16;
                word &= word.wrapping_sub(1);
            }
        }
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

impl<const WORDS: usize> Row<WORDS> {
    #[inline(always)]
    fn weights<'a>(&self, values: &'a [f32]) -> &'a [f32] {
        &values[self.start as usize..(self.start + self.len) as usize]
    }
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
    /// Takes the weights of a panel's columns from each row of a block, and moves `done` behind them. Rows without any are left out unless
    /// `all` are to be there: in the first panel the product begins the sums of every row, in the last it ends them.
    #[inline(always)]
    fn take<S: Simd>(
        &mut self,
        simd: S,
        from: &BitRows<'_>,
        first: usize,
        done: &mut [u32],
        columns: &Range<usize>,
        all: bool,
    ) {
        self.taken.clear();
        self.begin.clear();
        self.begin.resize(columns.len() + 2, 0);
        for place in 0..done.len() {
            if let Some(&later) = done.get(place + AHEAD) {
                for line in [0, 16] {
                    simd.f32().prefetch(from.values().as_ptr().wrapping_add(later as usize + line));
                }
            }
            let (start, bits) = (done[place], from.within::<WORDS>(first + place, columns));
            let len = bits.iter().map(|word| word.count_ones()).sum();
            done[place] += len;
            if len > 0 || all {
                self.begin[len as usize + 1] += 1;
                self.taken.push(Row { bits, place: place as u32, start, len });
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
    fn append_to<S: Simd>(
        &mut self,
        simd: S,
        panels: &mut Panels,
        end: &mut Segment,
        values: &[f32],
        apart: &mut [Apart; 2],
    ) {
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
                    append_pair(simd, panels, end, values, [&equal[at + 1], &equal[at]], shared, apart);
                }
            }
            if let [row, ..] = &equal[..left] {
                panels.groups.push(Group { shared: 0, single: len, pairs: 0 });
                panels.rows.push(row.place);
                panels.weights.to_mut()[end.weight..][..len as usize].copy_from_slice(row.weights(values));
                let [Apart { offsets, .. }, _] = apart;
                put_offsets(&row.bits, panels.pitch(), offsets);
                panels.offsets[end.offset..][..len as usize].copy_from_slice(&offsets[..len as usize]);
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
fn append_pair<S: Simd, const WORDS: usize>(
    simd: S,
    panels: &mut Panels,
    end: &mut Segment,
    values: &[f32],
    pair: [&Row<WORDS>; 2],
    shared: u32,
    apart: &mut [Apart; 2],
) {
    panels.rows.extend(pair.map(|row| row.place));
    let mut together = [0; WORDS];
    let mut left = shared;
    for (both, (a, b)) in together.iter_mut().zip(pair[0].bits.iter().zip(&pair[1].bits)) {
        *both = lowest(a & b, left);
        left -= both.count_ones();
    }
    let pitch = panels.pitch();
    let (len, shared) = (pair[0].len as usize, shared as usize);
    let weights = &mut panels.weights.to_mut()[end.weight..][..2 * len];
    let offsets = &mut panels.offsets[end.offset..][..2 * len - shared];
    end.weight += weights.len();
    end.offset += offsets.len();
    let (first, others) = offsets.split_at_mut(shared);
    let [a, b] = apart;
    put_offsets(&together, pitch, &mut a.offsets);
    first.copy_from_slice(&a.offsets[..shared]);
    a.take(simd, pair[0], values, &together, pitch);
    b.take(simd, pair[1], values, &together, pitch);
    in_turn(others, [&a.offsets, &b.offsets]);
    let (first, others) = weights.split_at_mut(2 * shared);
    in_turn(first, [&a.weights[0], &b.weights[0]]);
    in_turn(others, [&a.weights[1], &b.weights[1]]);
}

/// Writes elements of two slices in turn.
#[inline(always)]
fn in_turn<T: Copy>(to: &mut [T], [a, b]: [&[T]; 2]) {
    let pairs = to.as_chunks_mut().0.iter_mut();
    pairs.zip(a.iter().zip(b)).for_each(|(pair, (&a, &b))| *pair = [a, b]);
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
