//! The least and the greatest of many numbers.

use rten_simd::SimdOp;
use rten_vecmath::MinMax;
use smallvec::SmallVec;

use crate::threads::for_each_chunk;
use crate::threads::share::{cost, part};

/// The least and the greatest of these and 0.
pub(crate) fn range(values: &[f32]) -> [f32; 2] {
    let part = part(values.len(), cost::COPY);
    let mut ranges = SmallVec::<[(f32, f32); 64]>::from_elem((0.0, 0.0), values.len().div_ceil(part));
    for_each_chunk(&mut ranges, 1, 1, |i, range| {
        let values = &values[i * part..][..part.min(values.len() - i * part)];
        range[0] = MinMax::new(values).dispatch();
    });
    ranges.iter().fold([0.0, 0.0], |[least, most], range| [least.min(range.0), most.max(range.1)])
}
