//! Attention over heads that lie anywhere in their tensors: what transposes, scaling, mask, softmax and two products of a
//! spelled-out attention become.

use poda_formats::{DataType, TensorView};

use super::call::{Call, Lowered, Preparation, planned};
use crate::kernels::attention::{Attention, Causal, Heads, Mask, MaskValues, Order, Scoring, Undefined};
use crate::ops::OpError;
use crate::output::Output;
use crate::plan::draft::Explanation;
use crate::threads::Threads;

/// Where the elements of `[batch, heads, sequence, size]` are in a tensor, in elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HeadView {
    pub(crate) shape: [usize; 4],
    pub(crate) strides: [usize; 4],
}

/// Inputs: the tensors that hold queries, keys and values, and the mask if there is one: added to the scores, or boolean
/// and true where a query may see a key.
#[derive(Debug, Clone)]
pub(crate) struct AttentionNode {
    pub(crate) q: HeadView,
    pub(crate) k: HeadView,
    pub(crate) v: HeadView,
    pub(crate) scale: f32,
    /// Strides of the mask over `[batch, heads, queries, keys]`.
    pub(crate) mask: Option<[usize; 4]>,
    /// What becomes of probabilities that are no numbers.
    pub(crate) undefined: Undefined,
    /// Whether the result is `[batch, queries, heads, size]` instead of `[batch, heads, queries, size]`.
    pub(crate) token_major: bool,
}

impl AttentionNode {
    /// Multiply-accumulates.
    fn macs(&self) -> u64 {
        let [batch, heads, queries, size] = self.q.shape.map(|d| d as u64);
        batch * heads * queries * self.k.shape[2] as u64 * (size + self.v.shape[3] as u64)
    }
}

impl Lowered for AttentionNode {
    fn prepare(&self, _: &Preparation<'_>) -> Result<Box<dyn Call>, OpError> {
        Ok(Box::new(self.clone()))
    }
}

impl Call for AttentionNode {
    fn explain(&self) -> Explanation {
        let macs = self.macs();
        Explanation { name: "attention".into(), macs, macs_nonzero: macs, ..Explanation::default() }
    }

    fn run(
        &self,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [Output<'_>],
        _: &Threads,
    ) -> Result<(), OpError> {
        let input =
            |index: usize| inputs.get(index).copied().flatten().ok_or(OpError::MissingInput { index });
        let heads = |index: usize, HeadView { shape, strides }: HeadView| {
            Ok::<_, OpError>(Heads { data: input(index)?.as_slice::<f32>()?, shape, strides })
        };
        let mask = match self.mask {
            None => None,
            Some(strides) => {
                let view = input(3)?;
                let values = match view.dtype() {
                    DataType::Bool => MaskValues::Allow(view.as_slice()?),
                    _ => MaskValues::Add(view.as_slice()?),
                };
                Some(Mask { values, strides, keys: self.k.shape[2] })
            }
        };
        let scoring = Scoring {
            scale: self.scale,
            softcap: 0.0,
            mask,
            causal: Causal::No,
            lengths: None,
            undefined: self.undefined,
        };
        let order = if self.token_major { Order::TokenMajor } else { Order::HeadMajor };
        Attention { q: heads(0, self.q)?, k: heads(1, self.k)?, v: heads(2, self.v)?, scoring }
            .run(order, planned(outputs));
        Ok(())
    }
}
