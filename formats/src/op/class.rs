//! Families of operators.

use super::Op;

/// What kind of work an operator does. Code that treats whole families alike matches on this, not on [`Op`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OpClass {
    /// Each element of the output from the elements at its place.
    Elementwise,
    /// Matrix products and convolutions, recurrent layers included; see [`Op::products`].
    Product,
    /// Attention, with its rotary embeddings.
    Attention,
    /// Each element from itself and from statistics of others.
    Normalization,
    /// Windows, samples of an image, boxes.
    Sampling,
    /// Reductions, searches, sorts.
    Reduction,
    /// The same elements in another shape or order, or some of them.
    Movement,
    /// Values from shapes or few numbers.
    Generator,
    /// Between floats and narrow integers.
    Quantization,
    /// Nodes with bodies.
    Control,
    /// Outside the set.
    Foreign,
}

impl Op {
    /// Whether the output holds each element of the first input once, perhaps in another order, shape or type: what pruning and
    /// storing see through.
    pub fn rearranges(&self) -> bool {
        matches!(
            self,
            Self::Transpose { .. }
                | Self::Reshape { .. }
                | Self::Flatten { .. }
                | Self::Squeeze
                | Self::Unsqueeze
                | Self::Identity
                | Self::Cast { .. }
                | Self::CastLike
        )
    }

    /// Whether the outputs hold elements of the first input (of all inputs, for Concat) and no others, perhaps in another
    /// type, some more than once and some not at all.
    pub fn moves(&self) -> bool {
        match self.class() {
            OpClass::Elementwise => matches!(self, Self::Cast { .. } | Self::CastLike | Self::Identity),
            OpClass::Reduction => matches!(self, Self::Compress { .. }),
            OpClass::Movement => !matches!(
                self,
                // These put in others, too.
                Self::ScatterElements { .. }
                    | Self::ScatterNd { .. }
                    | Self::TensorScatter { .. }
                    | Self::Pad { .. }
                    | Self::Trilu { .. }
            ),
            OpClass::Product
            | OpClass::Attention
            | OpClass::Normalization
            | OpClass::Sampling
            | OpClass::Generator
            | OpClass::Quantization
            | OpClass::Control
            | OpClass::Foreign => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{Binary, PadMode, ScatterReduction, Unary};

    #[test]
    fn what_moves_holds_no_other_elements() {
        let moving = [Op::Identity, Op::Slice, Op::Transpose { perm: vec![] }, Op::Compress { axis: None }];
        assert!(moving.iter().all(Op::moves));
        let scatter = Op::ScatterNd { reduction: ScatterReduction::None };
        let pad = Op::Pad { mode: PadMode::Edge };
        let others = [Op::Unary(Unary::Relu), Op::Binary(Binary::Add), pad, scatter, Op::Size];
        assert!(!others.iter().any(Op::moves));
    }
}
