//! [`Panels`] as the arrays of a file, and back.
//!
//! What the product walks by is copied and then checked, so that nobody changes it afterwards; the weights stay in the file.

use std::ops::Range;

use poda_formats::Tensor;

use super::floats::Floats;
use super::panels::{Group, PanelShape, Panels, Segment};

impl Panels {
    /// As arrays: first rows of blocks, rows of `X` that are used (none where all are), segments, groups, rows, weights, offsets.
    pub(crate) fn arrays(&self) -> Vec<Tensor> {
        fn array<T: poda_formats::Element>(values: &[T]) -> Tensor {
            Tensor::from_slice(&[values.len()], values)
        }
        let long =
            |values: &mut dyn Iterator<Item = usize>| array(&values.map(|v| v as u64).collect::<Vec<_>>());
        let segments = self.segments.iter().flat_map(|s| [s.group, s.row, s.weight, s.offset]);
        let groups = self.groups.iter().flat_map(|g| [g.shared, g.single, g.pairs]);
        vec![
            long(&mut self.blocks.iter().copied()),
            array(self.used.as_deref().unwrap_or_default()),
            long(&mut { segments }),
            array(&groups.collect::<Vec<u32>>()),
            array(&self.rows),
            match &self.weights {
                Floats::Own(values) => array(values),
                Floats::File(tensor) => tensor.clone(),
            },
            array(&self.offsets),
        ]
    }

    /// The panels `[m, k]` of a shape in these arrays; `None` where they are not such.
    pub(crate) fn from_arrays([m, k]: [usize; 2], shape: PanelShape, arrays: &[Tensor]) -> Option<Self> {
        let [blocks, used, segments, groups, rows, weights, offsets] = arrays else { return None };
        let long = |tensor: &Tensor| -> Option<Vec<usize>> {
            tensor.as_slice::<u64>().ok()?.iter().map(|&v| usize::try_from(v).ok()).collect()
        };
        let blocks = long(blocks)?;
        let used = used.as_slice::<u32>().ok().filter(|used| !used.is_empty()).map(<[u32]>::to_vec);
        let depth = used.as_ref().map_or(k, Vec::len);
        let steps = long(segments)?;
        let steps = steps.as_chunks().0.iter();
        let counts = groups.as_slice::<u32>().ok()?.as_chunks().0.iter();
        let panels = Self {
            shape,
            blocks,
            across: depth.div_ceil(shape.depth),
            used,
            depth,
            segments: steps
                .map(|&[group, row, weight, offset]| Segment { group, row, weight, offset })
                .collect(),
            groups: counts.map(|&[shared, single, pairs]| Group { shared, single, pairs }).collect(),
            rows: rows.as_slice().ok()?.to_vec(),
            weights: Floats::of_file(weights)?,
            offsets: offsets.as_slice().ok()?.to_vec(),
            height: 1,
        };
        // Of these there are copies now.
        [segments, groups, rows, offsets].into_iter().for_each(|copied| copied.storage().release());
        panels.is_sound([m, k]).then_some(panels)
    }

    /// Whether the product of these panels, pairs of rows that are one high, touches nothing but what is there.
    fn is_sound(&self, [m, k]: [usize; 2]) -> bool {
        let Self { shape, blocks, across, used, segments, .. } = self;
        let rises = |list: &[usize]| list.is_sorted_by(|a, b| a < b);
        let covers = blocks.first() == Some(&0) && blocks.last() == Some(&m) && rises(blocks);
        let picked = used.as_ref().is_none_or(|used| {
            used.is_sorted_by(|a, b| a < b) && used.last().is_none_or(|&last| (last as usize) < k)
        });
        if !covers || !picked || segments.len() != (blocks.len() - 1) * across + 1 {
            return false;
        }
        let pitch = self.pitch();
        let mut seen = Vec::new();
        let (mut at, mut end) = (0, Segment::default());
        for block in blocks.windows(2) {
            let height = block[1] - block[0];
            for panel in 0..*across {
                let depth = shape.depth.min(self.depth - panel * shape.depth);
                let whole = panel == 0 || panel + 1 == *across;
                if segments[at] != end || !self.is_segment(&mut end, segments[at + 1], (depth - 1) * pitch) {
                    return false;
                }
                let rows = &self.rows[segments[at].row..end.row];
                if rows.iter().any(|&row| row as usize >= height)
                    || whole && !are_all(rows, height, &mut seen)
                {
                    return false;
                }
                at += 1;
            }
        }
        let Segment { group, row, weight, offset } = end;
        let lens = [self.groups.len(), self.rows.len(), self.weights.len(), self.offsets.len()];
        segments[at] == end && [group, row, weight, offset] == lens
    }

    /// Whether the groups from `here` on lead to `next` and their offsets reach no further than `most`. Moves `here` there.
    fn is_segment(&self, here: &mut Segment, next: Segment, most: usize) -> bool {
        let Some(groups) = self.groups.get(here.group..next.group) else { return false };
        let start = *here;
        here.group = next.group;
        for &Group { shared, single, pairs } in groups {
            let [shared, single, pairs] = [shared, single, pairs].map(|n| n as usize);
            let add = |to: &mut usize, count: usize, each: usize| {
                let sum = count.checked_mul(each).and_then(|n| to.checked_add(n));
                sum.map(|sum| *to = sum).is_some()
            };
            let fits = if pairs == 0 {
                shared == 0
                    && add(&mut here.row, 1, 1)
                    && add(&mut here.weight, 1, single)
                    && add(&mut here.offset, 1, single)
            } else {
                add(&mut here.row, pairs, 2)
                    && add(&mut here.weight, pairs, 2 * (shared + single))
                    && add(&mut here.offset, pairs, shared + 2 * single)
            };
            if !fits {
                return false;
            }
        }
        let part = |range: Range<usize>| self.offsets.get(range);
        *here == next
            && self.rows.get(start.row..next.row).is_some()
            && self.weights.get(start.weight..next.weight).is_some()
            && part(start.offset..next.offset)
                .is_some_and(|offsets| usize::from(offsets.iter().copied().max().unwrap_or(0)) <= most)
    }
}

/// Whether rows below `height` are each of them, once.
fn are_all(rows: &[u32], height: usize, seen: &mut Vec<bool>) -> bool {
    seen.clear();
    seen.resize(height, false);
    rows.len() == height && rows.iter().all(|&row| !std::mem::replace(&mut seen[row as usize], true))
}

#[cfg(test)]
mod tests {
    use poda_formats::{CsrMatrix, DataType};
    use proptest::prelude::*;

    use super::*;
    use crate::simd::Level;

    const SHAPE: PanelShape = PanelShape { width: 32, depth: 64, rows: 20 };
    const SIZE: [usize; 2] = [50, 150];

    fn panels(skip_unused: bool) -> Panels {
        let [m, k] = SIZE;
        let kept = |i: usize| i * 7919 % 10 < 3 && i % k % 4 != 1;
        let dense: Vec<f32> = (0..m * k).map(|i| if kept(i) { 1.0 + i as f32 } else { 0.0 }).collect();
        let matrix = CsrMatrix::from_dense(m, k, &dense);
        let level = Level::best().supported().unwrap();
        Panels::new(level, matrix.view().unwrap().into(), SHAPE, 1, skip_unused)
    }

    #[test]
    fn arrays_give_the_same_panels() {
        for skip in [false, true] {
            let made = panels(skip);
            let read = Panels::from_arrays(SIZE, SHAPE, &made.arrays()).unwrap();
            assert_eq!((made.used.is_some(), &made.used, made.across), (skip, &read.used, read.across));
            assert_eq!(
                (&made.blocks, &made.segments, &made.groups),
                (&read.blocks, &read.segments, &read.groups)
            );
            assert_eq!(
                (&made.rows, &made.offsets, &*made.weights),
                (&read.rows, &read.offsets, &*read.weights)
            );
            let other = [SIZE[0] + 1, SIZE[1]];
            assert!(Panels::from_arrays(other, SHAPE, &made.arrays()).is_none());
            assert!(Panels::from_arrays(SIZE, PanelShape { depth: 32, ..SHAPE }, &made.arrays()).is_none());
            assert!(Panels::from_arrays(SIZE, SHAPE, &made.arrays()[1..]).is_none());
        }
    }

    proptest! {
        /// A number changed anywhere: where it is taken nevertheless, it leads nowhere else.
        #[test]
        fn a_changed_number_leads_nowhere(
            skip in any::<bool>(),
            array in 0..7_usize,
            at in any::<prop::sample::Index>(),
            value in prop_oneof![0..200_u64, any::<u64>()],
        ) {
            let mut arrays = panels(skip).arrays();
            let tensor = &arrays[array];
            prop_assume!(!tensor.is_empty() && tensor.dtype() != DataType::F32);
            let mut bytes = tensor.bytes().to_vec();
            let size = tensor.dtype().size();
            let at = at.index(tensor.len()) * size;
            let old = bytes[at..at + size].to_vec();
            bytes[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
            let same = old == bytes[at..at + size];
            let copy = poda_formats::storage::AlignedBytes::copy_of(&bytes);
            let storage = poda_formats::storage::Storage::owned(copy);
            arrays[array] = Tensor::new(tensor.dtype(), tensor.shape().to_vec(), storage).unwrap();
            let read = Panels::from_arrays(SIZE, SHAPE, &arrays);
            // Only which row of X a weight meets may differ, which rows a segment within has, and what a group calls its columns.
            prop_assert!(read.is_none() || same || matches!(array, 1 | 3 | 4 | 6), "array {array}");
            if let Some(panels) = read {
                let pitch = SHAPE.width * 4;
                for (at, pair) in panels.segments.windows(2).enumerate() {
                    let [panel, block] = [at % panels.across, at / panels.across];
                    let depth = SHAPE.depth.min(panels.depth - panel * SHAPE.depth);
                    let offsets = &panels.offsets[pair[0].offset..pair[1].offset];
                    prop_assert!(offsets.iter().all(|&offset| usize::from(offset) + pitch <= depth * pitch));
                    let rows = &panels.rows[pair[0].row..pair[1].row];
                    let height = panels.blocks[block + 1] - panels.blocks[block];
                    prop_assert!(rows.iter().all(|&row| (row as usize) < height));
                    let counts = panels.groups[pair[0].group..pair[1].group].iter().map(|g| {
                        let [shared, single, pairs] = [g.shared, g.single, g.pairs].map(|n| n as usize);
                        if pairs == 0 { single } else { pairs * 2 * (shared + single) }
                    });
                    prop_assert_eq!(counts.sum::<usize>(), pair[1].weight - pair[0].weight);
                }
            }
        }
    }
}
