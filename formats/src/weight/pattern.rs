//! Patterns of zeros that a matrix can have beyond "anywhere", and finding them.

use std::fmt;
use std::num::NonZeroU8;
use std::str::FromStr;

use bytemuck::Zeroable;

/// Which weights of a matrix `[outputs, inputs]` are zero together. Written `block:4x1` and `nm:2:4`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// Whole blocks of `rows` outputs × `cols` inputs, on a grid that starts at the first of both.
    Block {
        /// Outputs of a block, at least 1.
        rows: NonZeroU8,
        /// Inputs of a block, at least 1.
        cols: NonZeroU8,
    },
    /// Of each `m` consecutive inputs of an output at most `n` are kept. Mishra et al., "Accelerating Sparse Deep Neural
    /// Networks", 2021, <https://arxiv.org/abs/2104.08378>.
    NofM {
        /// How many are kept, at least 1.
        n: NonZeroU8,
        /// Of how many, more than `n` and at most [`Pattern::MOST_M`].
        m: NonZeroU8,
    },
}

/// Why a text or two numbers are no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum PatternError {
    #[error(
        "{found:?} is no pattern; expected block:ROWSxCOLS, such as block:4x1, or nm:N:M, such as nm:2:4"
    )]
    Syntax { found: String },
    #[error("block:{rows}x{cols}: the sides of a block are 1 to 255, and not both 1")]
    Block { rows: usize, cols: usize },
    #[error("nm:{n}:{m}: N is at least 1 and less than M, and M at most {}", Pattern::MOST_M)]
    NofM { n: usize, m: usize },
}

/// `value` if it is 1 to 255.
fn small(value: usize) -> Option<NonZeroU8> {
    u8::try_from(value).ok().and_then(NonZeroU8::new)
}

impl Pattern {
    /// Greatest M: positions within a group take 4 bits.
    pub const MOST_M: usize = 16;

    /// Blocks of `rows` × `cols`.
    ///
    /// # Errors
    /// When a side is 0 or more than 255, or both are 1.
    pub fn block(rows: usize, cols: usize) -> Result<Self, PatternError> {
        match (small(rows), small(cols)) {
            (Some(r), Some(c)) if rows * cols > 1 => Ok(Self::Block { rows: r, cols: c }),
            _ => Err(PatternError::Block { rows, cols }),
        }
    }

    /// `n` of `m`.
    ///
    /// # Errors
    /// When not 0 < `n` < `m` ≤ [`Pattern::MOST_M`].
    pub fn n_of_m(n: usize, m: usize) -> Result<Self, PatternError> {
        match (small(n), small(m)) {
            (Some(small_n), Some(small_m)) if n < m && m <= Self::MOST_M => {
                Ok(Self::NofM { n: small_n, m: small_m })
            }
            _ => Err(PatternError::NofM { n, m }),
        }
    }

    /// Name of the layout: `block` or `nm`.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Block { .. } => "block",
            Self::NofM { .. } => "nm",
        }
    }

    /// Its two numbers: rows and columns of a block, or N and M.
    pub fn numbers(self) -> [usize; 2] {
        let (Self::Block { rows: a, cols: b } | Self::NofM { n: a, m: b }) = self;
        [a, b].map(|v| usize::from(v.get()))
    }

    /// The pattern of that kind with these numbers.
    ///
    /// # Errors
    /// When there is no such kind or the numbers do not fit it.
    pub fn of_kind(kind: &str, [a, b]: [usize; 2]) -> Result<Self, PatternError> {
        match kind {
            "block" => Self::block(a, b),
            "nm" => Self::n_of_m(a, b),
            _ => Err(PatternError::Syntax { found: kind.to_owned() }),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b] = self.numbers();
        let between = if matches!(self, Self::Block { .. }) { 'x' } else { ':' };
        write!(f, "{}:{a}{between}{b}", self.kind())
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let syntax = || PatternError::Syntax { found: text.to_owned() };
        let (kind, numbers) = text.split_once(':').ok_or_else(syntax)?;
        let between = if kind == "block" { 'x' } else { ':' };
        let (a, b) = numbers.split_once(between).ok_or_else(syntax)?;
        let number = |text: &str| text.parse::<usize>().map_err(|_| syntax());
        Self::of_kind(kind, [number(a)?, number(b)?]).map_err(|error| match error {
            PatternError::Syntax { .. } => syntax(),
            error => error,
        })
    }
}

/// Which elements of a matrix `[rows, cols]` are not zero, a bit each, so that patterns are found at 64 columns a step.
pub(super) struct NonZeros {
    cols: usize,
    /// `[rows][words]`; the lowest bit is the first column.
    bits: Vec<u64>,
    words: usize,
}

impl NonZeros {
    /// Of a row-major matrix, or of the transpose of a row-major `[cols, rows]`.
    pub(super) fn of<T: Zeroable + PartialEq>(
        [rows, cols]: [usize; 2],
        values: &[T],
        transposed: bool,
    ) -> Self {
        let set = |w: &T| u64::from(*w != T::zeroed());
        let words = cols.div_ceil(64);
        let mut bits = vec![0_u64; rows * words];
        if transposed {
            for (col, line) in values.chunks_exact(rows.max(1)).enumerate() {
                for (row, w) in line.iter().enumerate() {
                    bits[row * words + col / 64] |= set(w) << (col % 64);
                }
            }
        } else {
            for (row, line) in values.chunks_exact(cols.max(1)).enumerate() {
                for (word, line) in line.chunks(64).enumerate() {
                    let word = &mut bits[row * words + word];
                    line.iter().enumerate().for_each(|(bit, w)| *word |= set(w) << bit);
                }
            }
        }
        Self { cols, bits, words }
    }

    /// How many.
    pub(super) fn count(&self) -> usize {
        self.bits.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Blocks that hold any.
    pub(super) fn blocks(&self, block: [usize; 2]) -> usize {
        self.visit_blocks(block, |_, _| 1)
    }

    /// Elements of the blocks that hold any, within the matrix.
    pub(super) fn elements_of_blocks(&self, block: [usize; 2]) -> usize {
        self.visit_blocks(block, |rows, cols| rows * cols)
    }

    /// Sum over the blocks that hold any of what `f` says of their rows and columns within the matrix.
    fn visit_blocks(&self, [rows, cols]: [usize; 2], f: impl Fn(usize, usize) -> usize) -> usize {
        let mut sum = 0;
        let mut line = vec![0_u64; self.words];
        for strip in self.bits.chunks(rows * self.words.max(1)) {
            line.fill(0);
            for row in strip.chunks_exact(self.words.max(1)) {
                line.iter_mut().zip(row).for_each(|(line, row)| *line |= row);
            }
            let height = strip.len() / self.words.max(1);
            if cols == 1 {
                sum += line.iter().map(|word| word.count_ones() as usize).sum::<usize>() * f(height, 1);
                continue;
            }
            let kept = (0..self.cols).step_by(cols).filter(|&col| any(&line, col, cols));
            sum += kept.map(|col| f(height, cols.min(self.cols - col))).sum::<usize>();
        }
        sum
    }

    /// The most that a group of `m` columns of a row holds.
    pub(super) fn most(&self, m: usize) -> usize {
        let mut most = 0;
        for line in self.bits.chunks_exact(self.words.max(1)) {
            for col in (0..self.cols).step_by(m) {
                most = most.max(bits(line, col, m).count_ones() as usize);
            }
            if most == m {
                break;
            }
        }
        most
    }
}

/// `count` bits, at most 64, from `start` on; zeros beyond the end.
fn bits(line: &[u64], start: usize, count: usize) -> u64 {
    let (word, shift) = (start / 64, start % 64);
    let low = line.get(word).copied().unwrap_or(0) >> shift;
    let high = if shift > 0 { line.get(word + 1).copied().unwrap_or(0) << (64 - shift) } else { 0 };
    (low | high) & (u64::MAX >> (64 - count))
}

fn any(line: &[u64], start: usize, count: usize) -> bool {
    (0..count).step_by(64).any(|at| bits(line, start + at, 64.min(count - at)) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_written_as_they_are_read() {
        for text in ["block:4x1", "block:1x4", "block:16x1", "block:3x7", "nm:2:4", "nm:4:8", "nm:1:16"] {
            assert_eq!(text.parse::<Pattern>().unwrap().to_string(), text);
        }
        for (text, error) in [
            ("block:4", "is no pattern"),
            ("block:4:1", "is no pattern"),
            ("nm:2x4", "is no pattern"),
            ("nm", "is no pattern"),
            ("row:2:4", "\"row:2:4\" is no pattern"),
            ("block:-1x4", "is no pattern"),
            ("block:1x1", "not both 1"),
            ("block:0x4", "1 to 255"),
            ("block:256x1", "1 to 255"),
            ("nm:4:4", "less than M"),
            ("nm:0:4", "at least 1"),
            ("nm:2:17", "at most 16"),
        ] {
            let found = text.parse::<Pattern>().unwrap_err().to_string();
            assert!(found.contains(error), "{text}: {found}");
        }
    }

    #[test]
    fn what_is_not_zero_is_counted_by_block_and_group() {
        // [5, 131], not zero where row and column agree modulo 7.
        let (rows, cols) = (5, 131);
        let kept = |row: usize, col: usize| row % 7 == col % 7;
        let dense: Vec<f32> =
            (0..rows * cols).map(|i| f32::from(u8::from(kept(i / cols, i % cols)))).collect();
        let across: Vec<f32> =
            (0..rows * cols).map(|i| f32::from(u8::from(kept(i % rows, i / rows)))).collect();
        for found in [NonZeros::of([rows, cols], &dense, false), NonZeros::of([rows, cols], &across, true)] {
            assert_eq!(found.count(), dense.iter().filter(|&&w| w != 0.0).count());
            for [r, c] in [[1, 1], [1, 4], [4, 1], [2, 3], [5, 131], [1, 100], [16, 7]] {
                let mut blocks = 0;
                for row in (0..rows).step_by(r) {
                    for col in (0..cols).step_by(c) {
                        let within = |row: usize, col: usize| row < rows && col < cols && kept(row, col);
                        blocks += usize::from((0..r * c).any(|i| within(row + i / c, col + i % c)));
                    }
                }
                assert_eq!(found.blocks([r, c]), blocks, "{r}x{c}");
                let all = NonZeros::of([rows, cols], &[1.0_f32; 5 * 131], false);
                assert_eq!(all.elements_of_blocks([r, c]), rows * cols);
            }
            assert_eq!([1, 7, 8, 14, 15].map(|m| found.most(m)), [1, 1, 2, 2, 3]);
        }
    }
}
