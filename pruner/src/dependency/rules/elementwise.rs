//! Elementwise operators: dimensions line up from the last, those of size 1 broadcast.

use poda_formats::op::{Binary, Variadic};

use super::super::axis::ONE;
use super::super::build::Builder;
use super::super::reason::Why;

/// When the result is zero where a removed unit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Zero {
    /// When all inputs are.
    All,
    /// When some input is.
    Any,
    /// When the first is.
    First,
    /// When the second and third are.
    Branches,
    /// When the first is and the second is a positive constant.
    Power,
    /// As `All`, where constants not above (not below) zero do as well.
    Max,
    Min,
    Never,
}

pub(super) fn binary(b: &mut Builder<'_>, binary: Binary) {
    apply(b, 2, super::binary_zero(binary));
}

pub(super) fn variadic(b: &mut Builder<'_>, variadic: Variadic) {
    let zero = match variadic {
        Variadic::Max => Zero::Max,
        Variadic::Min => Zero::Min,
        Variadic::Sum | Variadic::Mean => Zero::All,
    };
    let inputs = b.node().inputs.len();
    apply(b, inputs, zero);
}

pub(super) fn clip(b: &mut Builder<'_>) {
    let bound = |index: usize, fits: &dyn Fn(f64) -> bool| match b.node().input(index) {
        Some(id) => b.facts.scalar(id).is_some_and(fits),
        None => true,
    };
    let keeps = bound(1, &|low| low <= 0.0) && bound(2, &|high| high >= 0.0);
    b.parameter(1);
    b.parameter(2);
    apply(b, 1, if keeps { Zero::All } else { Zero::Never });
}

/// Couples the first `inputs` inputs and the output.
pub(super) fn apply(b: &mut Builder<'_>, inputs: usize, zero: Zero) {
    let Some(shape) = b.output_shape(0) else { return };
    let rank = shape.len();
    let layouts: Vec<_> = (0..inputs).map(|i| b.input(i)).collect();
    // Whether an input is harmless where it broadcasts: a constant that keeps zero zero.
    let neutral: Vec<bool> = (0..inputs)
        .map(|i| {
            let Some(id) = b.node().input(i) else { return false };
            match zero {
                Zero::Max => b.facts.scalar(id).is_some_and(|c| c <= 0.0),
                Zero::Min => b.facts.scalar(id).is_some_and(|c| c >= 0.0),
                Zero::Power => i == 1 && b.facts.scalar(id).is_some_and(|c| c > 0.0),
                Zero::All | Zero::Any | Zero::Branches | Zero::First => b.is_zero(id),
                Zero::Never => false,
            }
        })
        .collect();
    let mut axes = vec![ONE; rank];
    let mut zeros = vec![true; rank];
    for dim in 0..rank {
        let mut is_zero = vec![false; inputs];
        for (index, layout) in layouts.iter().enumerate() {
            is_zero[index] = neutral[index];
            let Some(layout) = layout else { continue };
            let Some(own) = (dim + layout.axes.len()).checked_sub(rank) else { continue };
            let axis = layout.axes[own];
            if b.table.size(axis) != shape[dim] {
                continue;
            }
            is_zero[index] |= layout.zero[own];
            if axes[dim] == ONE {
                axes[dim] = axis;
            } else {
                b.unify(axes[dim], axis);
            }
        }
        zeros[dim] = match zero {
            Zero::All | Zero::Max | Zero::Min => is_zero.iter().all(|&z| z),
            Zero::Any => is_zero.iter().any(|&z| z),
            Zero::First => is_zero.first().is_some_and(|&z| z),
            Zero::Branches => is_zero[1..].iter().all(|&z| z),
            Zero::Power => is_zero.first().is_some_and(|&z| z) && neutral.get(1).is_some_and(|&n| n),
            Zero::Never => false,
        };
        // A size that follows from data must not be taken for a weight's.
        if axes[dim] == ONE && shape[dim] != 1 {
            axes[dim] = b.fresh(0, dim);
            b.block(axes[dim], Why::DynamicShape);
        }
    }
    b.set(0, axes, zeros);
}
