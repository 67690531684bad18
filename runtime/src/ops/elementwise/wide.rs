//! Loops compiled for the widest vectors that the CPU has.

use rten_simd::ops::BitOps;
use rten_simd::{Isa, SimdOp, SimdUnaryOp};

/// Runs `work`, compiled once for each instruction set, at the best one. What `work` calls must be inlined into it
/// (`#[inline(always)]`), or it stays at the lowest.
pub(in crate::ops) fn widest<R>(work: impl FnOnce() -> R) -> R {
    Compiled(work).dispatch()
}

struct Compiled<F>(F);

impl<R, F: FnOnce() -> R> SimdOp for Compiled<F> {
    type Output = R;

    #[inline(always)]
    fn eval<I: Isa>(self, _: I) -> R {
        (self.0)()
    }
}

/// `output[i] = function(input[i])` for a vector function.
///
/// # Panics
/// When the lengths differ.
pub(in crate::ops) fn map_vector(function: &impl SimdUnaryOp<f32>, input: &[f32], output: &mut [f32]) {
    assert_eq!(input.len(), output.len());
    MapVector { function, input, output }.dispatch();
}

struct MapVector<'a, F> {
    function: &'a F,
    input: &'a [f32],
    output: &'a mut [f32],
}

impl<F: SimdUnaryOp<f32>> SimdOp for MapVector<'_, F> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let ops = isa.f32();
        let (input, input_tail) = self.input.split_at(self.input.len() / ops.len() * ops.len());
        let (output, output_tail) = self.output.split_at_mut(input.len());
        for (from, to) in input.chunks_exact(ops.len()).zip(output.chunks_exact_mut(ops.len())) {
            ops.store(self.function.eval(isa, ops.load(from)), to);
        }
        if !input_tail.is_empty() {
            output_tail.copy_from_slice(input_tail);
            rten_simd::functional::simd_map(ops, output_tail, |x| self.function.eval(isa, x));
        }
    }
}
