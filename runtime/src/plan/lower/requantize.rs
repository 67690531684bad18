//! What is left of a QLinearConv or a QLinearMatMul after its sums ([`super::integer`]): a factor for each channel, and a rounding.

use poda_formats::{TensorView, ValueId};
use rten_simd::ops::{BitOps, NumOps};
use rten_simd::{Isa, SimdUnaryOp};

use super::call::{Call, Lowered, Preparation, planned};
use super::integer::integers;
use super::rounding::range_of;
use crate::kernels::{Grid, Rounding};
use crate::ops::OpError;
use crate::output::Output;
use crate::plan::draft::{Draft, DraftNode, Explanation};
use crate::threads::{self, Threads};

/// `round(factor · (x + beyond))` within bounds, with a factor for each channel.
#[derive(Debug, Clone)]
pub(crate) struct Requantize {
    /// Each `factor` of as many elements in a row, over and over.
    factors: Vec<f32>,
    /// What was too great to be added before; one for each factor.
    beyond: Option<Vec<f32>>,
    inner: usize,
    rounding: Rounding,
}

impl Requantize {
    /// With the value that is the zero point of the output.
    pub(super) fn of(
        draft: &Draft<'_>,
        node: &DraftNode,
        [x, w, y, zero]: [usize; 4],
        [channels, inner]: [usize; 2],
    ) -> Option<(Self, ValueId)> {
        let zero = node.input(zero)?;
        let zero_point = match &integers(draft.constant(zero)?)?[..] {
            [zero] => *zero,
            _ => return None,
        };
        let [low, high] = range_of(draft.dtype(zero)?)?;
        let (x, y) = (draft.scalar(node.input(x)?)?, draft.scalar(node.input(y)?)?);
        let w = draft.f32s(node.input(w)?)?;
        if w.len() != 1 && w.len() != channels {
            return None;
        }
        let factors = (0..channels).map(|c| x * w[c % w.len()] / y).collect();
        // (A sum is no NaN; a factor may be.)
        let rounding = Rounding {
            clamp: [f32::NEG_INFINITY, f32::INFINITY],
            scale: 1.0,
            to: 1.0,
            range: [low - zero_point, high - zero_point],
            nan: 0.0_f32.clamp(low, high) - zero_point,
        };
        Some((Self { factors, beyond: None, inner, rounding }, zero))
    }

    /// The same, of sums to which this is added first, one for each channel.
    pub(super) fn after(self, beyond: Option<Vec<f32>>) -> Self {
        Self { beyond, ..self }
    }

    /// Whether it gives what is rounded so, but for a factor.
    pub(super) fn gives(&self, rounding: &Rounding) -> bool {
        Rounding { to: 1.0, ..*rounding } == self.rounding
    }

    /// What all that it gives are multiples of.
    pub(super) fn grid(&self) -> Option<Grid> {
        self.rounding.grid()
    }

    /// The same, and then multiplied.
    pub(super) fn times(&self, factor: f32) -> Self {
        let rounding = Rounding { to: self.rounding.to * factor, ..self.rounding };
        Self { rounding, ..self.clone() }
    }
}

impl Lowered for Requantize {
    fn prepare(&self, _: &Preparation<'_>) -> Result<Box<dyn Call>, OpError> {
        Ok(Box::new(self.clone()))
    }

    fn works_in_place(&self) -> bool {
        true
    }
}

impl Call for Requantize {
    fn explain(&self) -> Explanation {
        Explanation { name: "requantize".into(), ..Explanation::default() }
    }

    fn run(
        &self,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [Output<'_>],
        _: &Threads,
    ) -> Result<(), OpError> {
        let (x, y) = (inputs.first().copied().flatten().map(|x| x.as_slice()).transpose()?, planned(outputs));
        let row = if self.inner == 1 { self.factors.len() } else { self.inner };
        threads::for_each_chunk(y, row.max(1), (1 << 14) / row.max(1), |i, y| {
            if let Some(x) = x {
                y.copy_from_slice(&x[i * row..][..y.len()]);
            }
            if self.inner > 1 {
                let channel = i % self.factors.len();
                let beyond = self.beyond.as_ref().map_or(0.0, |beyond| beyond[channel]);
                Scaled { beyond, factor: self.factors[channel], rounding: self.rounding }.map_mut(y);
                return;
            }
            if let Some(beyond) = &self.beyond {
                y.iter_mut().zip(beyond).for_each(|(y, beyond)| *y += beyond);
            }
            y.iter_mut().zip(&self.factors).for_each(|(y, f)| *y *= f);
            self.rounding.map_mut(y);
        });
        Ok(())
    }
}

/// What [`Requantize`] does to the values of one channel.
struct Scaled {
    beyond: f32,
    factor: f32,
    rounding: Rounding,
}

impl SimdUnaryOp<f32> for Scaled {
    #[inline(always)]
    fn eval<I: Isa>(&self, isa: I, x: I::F32) -> I::F32 {
        let ops = isa.f32();
        let sum = ops.add(x, ops.splat(self.beyond));
        self.rounding.eval(isa, ops.mul(sum, ops.splat(self.factor)))
    }
}
