//! Which operators keep the samples of a batch apart.
//!
//! A value is [`Class::Batched`] when its elements are those of the samples one after another: its first dimension is the number
//! of samples, or a multiple of it (`[batch · length, hidden]`), and each sample's share follows from that sample alone.

use poda_formats::{Boolean, DataType, Op, Tensor};

use crate::info::Info;

/// What a value has to do with the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// The same for every sample, whatever the size of the batch.
    Same,
    /// The shares of the samples, one after another.
    Batched,
    /// A constant that depends on the number of samples, such as a shape.
    Size,
}

/// An input: its class, what is known of it for the whole batch, and for a part.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fact<'a> {
    pub(super) class: Class,
    pub(super) whole: &'a Info,
    pub(super) part: &'a Info,
}

impl<'a> Fact<'a> {
    /// Dimensions for the whole batch; none where they are not known, which no rule takes.
    fn dims(&self) -> &'a [usize] {
        self.whole.shape.as_deref().unwrap_or_default()
    }

    fn rank(&self) -> usize {
        self.dims().len()
    }

    fn is_batched(&self) -> bool {
        self.class == Class::Batched && self.rank() > 0
    }

    /// The integers of a constant, for the whole batch and for a part.
    fn integers(&self) -> Option<[Vec<i64>; 2]> {
        Some([integers(self.whole.value.as_ref()?)?, integers(self.part.value.as_ref()?)?])
    }
}

/// The elements of an integer tensor.
pub(super) fn integers(tensor: &Tensor) -> Option<Vec<i64>> {
    match tensor.dtype() {
        DataType::I64 => tensor.as_slice::<i64>().ok().map(<[i64]>::to_vec),
        DataType::I32 => Some(tensor.as_slice::<i32>().ok()?.iter().map(|&v| i64::from(v)).collect()),
        DataType::Bool => {
            Some(tensor.as_slice::<Boolean>().ok()?.iter().map(|v| i64::from(v.get())).collect())
        }
        _ => None,
    }
}

/// A node with at least one input that is not [`Class::Same`].
pub(super) struct Case<'a> {
    pub(super) inputs: Vec<Option<Fact<'a>>>,
    /// Shape of the first output, for the whole batch.
    pub(super) output: &'a [usize],
    /// By output: whether anybody reads it.
    pub(super) used: Vec<bool>,
}

impl Case<'_> {
    fn input(&self, index: usize) -> Option<&Fact<'_>> {
        self.inputs.get(index)?.as_ref()
    }

    fn batched(&self, index: usize) -> bool {
        self.input(index).is_some_and(Fact::is_batched)
    }

    /// Whether an input is absent or the same for all.
    fn same(&self, index: usize) -> bool {
        self.input(index).is_none_or(|fact| fact.class == Class::Same)
    }

    /// Whether inputs from `first` on are absent or the same for all.
    fn same_from(&self, first: usize) -> bool {
        (first..self.inputs.len()).all(|i| self.same(i))
    }

    /// Input 0 is split, others serve every sample.
    fn first_alone(&self) -> bool {
        self.batched(0) && self.same_from(1)
    }

    /// All inputs are split alike.
    fn all_batched(&self) -> bool {
        let first = self.input(0).map(|fact| fact.dims().first());
        let alike = |fact: &Fact<'_>| fact.is_batched() && Some(fact.dims().first()) == first;
        self.inputs.iter().flatten().all(alike)
    }

    /// Whether an input that broadcasts to the output is split as the output is, or is repeated for each sample.
    fn broadcasts(&self, index: usize) -> bool {
        let Some(fact) = self.input(index) else { return true };
        let (dims, output) = (fact.dims(), self.output);
        match fact.class {
            Class::Batched => dims.len() == output.len() && dims.first() == output.first(),
            Class::Same => {
                fact.whole.shape.is_some() && (dims.len() < output.len() || dims.first() == Some(&1))
            }
            Class::Size => false,
        }
    }

    /// `axis` of input 0 is not the first.
    fn beyond_first(&self, axis: i64) -> bool {
        self.input(0).is_some_and(|fact| inner(axis, fact.rank()))
    }

    /// Constant axes in input `index` name some of input 0, and not the first.
    fn axes_beyond_first(&self, index: usize) -> bool {
        let Some([whole, part]) = self.input(index).and_then(Fact::integers) else { return false };
        whole == part && !whole.is_empty() && whole.iter().all(|&axis| self.beyond_first(axis))
    }

    /// Whether a mask, which broadcasts to `[batch, heads, queries, keys]`, is split or repeated.
    fn mask(&self, index: usize) -> bool {
        let Some(fact) = self.input(index) else { return true };
        match fact.class {
            Class::Batched => fact.rank() == 4,
            Class::Same => fact.rank() < 4 || fact.dims()[0] == 1,
            Class::Size => false,
        }
    }

    fn matmul(&self, a: usize, b: usize) -> bool {
        let rank = self.output.len();
        let side = |index: usize, least: usize| {
            let Some(fact) = self.input(index) else { return false };
            match fact.class {
                Class::Batched => {
                    rank >= least && fact.rank() == rank && fact.dims().first() == self.output.first()
                }
                Class::Same => {
                    fact.rank() < rank || rank >= 3 && fact.dims()[0] == 1 || index == b && fact.rank() == 2
                }
                Class::Size => false,
            }
        };
        // Rows of the left matrix may be samples, columns of the right one not.
        rank >= 2 && side(a, 2) && side(b, 3)
    }

    /// The integers of a constant that does not depend on the batch, or `absent` where there is none.
    fn constant(&self, index: usize, absent: Vec<i64>) -> Option<Vec<i64>> {
        let Some(fact) = self.input(index) else { return Some(absent) };
        fact.integers().filter(|[whole, part]| whole == part).map(|[whole, _]| whole)
    }

    /// Whether a slice keeps the first axis whole.
    fn slice(&self) -> bool {
        let Some([starts, _]) = self.input(1).and_then(Fact::integers) else { return false };
        let axes = self.constant(3, (0..starts.len() as i64).collect());
        let steps = self.constant(4, vec![1; starts.len()]);
        let (Some(axes), Some(steps)) = (axes, steps) else { return false };
        // As many elements, forwards: all of them.
        let whole = self.input(0).is_some_and(|fact| fact.dims().first() == self.output.first());
        self.batched(0)
            && axes.iter().zip(&steps).all(|(&axis, &step)| self.beyond_first(axis) || (whole && step == 1))
    }

    /// Whether pads, begins and then ends of each axis, are none on the first.
    fn pad(&self) -> bool {
        let Some(fact) = self.input(0).filter(|fact| fact.is_batched()) else { return false };
        let (Some(pads), Some(axes)) =
            (self.constant(1, Vec::new()), self.constant(3, (0..fact.rank() as i64).collect()))
        else {
            return false;
        };
        let none = |i: usize| pads.get(i) == Some(&0) && pads.get(i + axes.len()) == Some(&0);
        self.same(2) && axes.iter().enumerate().all(|(i, &axis)| inner(axis, fact.rank()) || none(i))
    }

    /// Whether normalisation runs over none but axes from `axis` on, and that is not the first.
    fn norm(&self, axis: i64) -> bool {
        self.first_alone() && self.beyond_first(axis)
    }
}

/// Whether an axis, counted from either end, is one of a tensor and not its first.
fn inner(axis: i64, rank: usize) -> bool {
    let rank = rank as i64;
    (1..rank).contains(&axis) || (1 - rank..0).contains(&axis)
}

/// Whether the outputs of a node are [`Class::Batched`]. That their shapes are in proportion is checked by the caller.
pub(super) fn separates(op: &Op, case: &Case<'_>) -> bool {
    match op {
        // Element by element.
        Op::Unary(_)
        | Op::Binary(_)
        | Op::Variadic(_)
        | Op::Clip
        | Op::Where
        | Op::Cast { .. }
        | Op::Identity
        | Op::QuantizeLinear { block_size: 0, .. }
        | Op::DequantizeLinear { block_size: 0, .. } => (0..case.inputs.len()).all(|i| case.broadcasts(i)),

        // Products.
        Op::MatMul => case.matmul(0, 1),
        Op::MatMulInteger => case.matmul(0, 1) && case.same_from(2),
        Op::QLinearMatMul => case.matmul(0, 3) && [1, 2, 4, 5, 6, 7].iter().all(|&i| case.same(i)),
        Op::Gemm { trans_a, .. } => !trans_a && case.batched(0) && case.same(1) && case.broadcasts(2),
        Op::Attention(_) => {
            let alike = |i: usize| {
                let first = |i| case.input(i).and_then(|fact: &Fact<'_>| fact.dims().first());
                case.batched(i) && first(i) == first(0)
            };
            let given = |i: usize| case.input(i).is_none() || alike(i);
            (0..3).all(alike) && case.mask(3) && (4..7).all(given)
        }
        Op::RotaryEmbedding { .. } => case.batched(0) && (1..4).all(|i| case.same(i) || case.batched(i)),
        Op::Recurrent(attributes) => {
            let split = |i: usize| case.input(i).is_none() || case.batched(i);
            let given = [4, 5, 6].into_iter().all(split);
            attributes.batch_first && case.batched(0) && given && [1, 2, 3, 7].iter().all(|&i| case.same(i))
        }

        // Each row of the first axis on its own, with weights.
        Op::Conv(_)
        | Op::ConvTranspose { .. }
        | Op::ConvInteger(_)
        | Op::QLinearConv(_)
        | Op::BatchNormalization { .. }
        | Op::InstanceNormalization { .. }
        | Op::GroupNormalization { .. }
        | Op::Lrn { .. }
        | Op::GlobalPool { .. }
        | Op::DepthToSpace { .. }
        | Op::SpaceToDepth { .. } => case.first_alone(),
        // Indices count from the start of the batch.
        Op::Pool(_) => case.first_alone() && !case.used.get(1).is_some_and(|&used| used),
        Op::GridSample { .. } => case.all_batched(),
        // (Output sizes may be those of a shape.)
        Op::Resize(attributes) => {
            let first = case.input(0).is_some_and(|fact| fact.dims().first() == case.output.first());
            let crops = attributes.coordinates == poda_formats::op::CoordinateTransform::TfCropAndResize;
            case.batched(0) && first && !crops && (1..case.inputs.len()).all(|i| !case.batched(i))
        }
        Op::Trilu { .. } => case.first_alone() && case.input(0).is_some_and(|fact| fact.rank() > 2),

        // Over axes beyond the first.
        Op::LayerNormalization { axis, .. }
        | Op::RmsNormalization { axis, .. }
        | Op::LpNormalization { axis, .. }
        | Op::Softmax { axis, .. }
        | Op::ArgReduce { axis, .. }
        | Op::TopK { axis, .. }
        | Op::Gather { axis }
            if case.batched(0) =>
        {
            case.norm(*axis)
        }
        Op::MeanVarianceNormalization { axes } => {
            case.first_alone() && !axes.is_empty() && axes.iter().all(|&axis| case.beyond_first(axis))
        }
        Op::Reduce { .. } | Op::Cumulative { .. } => case.batched(0) && case.axes_beyond_first(1),
        Op::GatherElements { axis } => case.all_batched() && case.beyond_first(*axis),
        Op::GatherNd { batch_dims } if *batch_dims > 0 => case.all_batched(),

        // Rows of a table, one for each index.
        Op::Gather { axis } => *axis == 0 && case.same(0) && case.batched(1),
        Op::GatherNd { .. } => {
            case.same(0) && case.batched(1) && case.input(1).is_some_and(|fact| fact.rank() > 1)
        }
        Op::OneHot { axis } => case.batched(0) && case.same_from(1) && inner(*axis, case.output.len()),

        // Other shapes, other places.
        Op::Reshape { .. } | Op::Flatten { .. } | Op::Squeeze | Op::Unsqueeze => case.batched(0),
        Op::Transpose { perm } => case.first_alone() && perm.first() == Some(&0),
        Op::Concat { axis } => case.all_batched() && inner(*axis, case.output.len()),
        Op::Split { axis, .. } => case.batched(0) && case.beyond_first(*axis),
        Op::Slice => case.slice(),
        Op::Expand | Op::CastLike => case.broadcasts(0),
        Op::Tile => match case.input(1).and_then(Fact::integers) {
            Some([whole, part]) => {
                let once = whole.first() == Some(&1) && part.first() == Some(&1);
                (case.batched(0) && once) || case.same(0)
            }
            None => false,
        },
        Op::Pad { .. } => case.pad(),
        // The same everywhere.
        Op::ConstantOfShape { .. } => true,

        // What else there is looks across samples, counts them, or cannot be told: the batch stays whole.
        _ => false,
    }
}
