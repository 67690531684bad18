//! The table of rules, one for each operator, a file for each family.

mod attention;
mod convolution;
mod elementwise;
mod index;
mod losses;
mod movement;
mod norm;
mod pool;
mod product;
mod recurrent;
mod reduction;
mod resize;
mod unary;

use poda_formats::op::{Op, PoolKind, SoftmaxKind};
use poda_formats::{Node, ValueId};

use super::{Emit, Refusal};

/// A node on the way back.
pub(super) struct Call<'a> {
    /// Its place in the graph.
    pub(super) index: usize,
    pub(super) node: &'a Node,
    /// Of each output.
    pub(super) gradients: &'a [Option<ValueId>],
}

/// Gradients of inputs; those that are left out at the end are `None`.
type Inputs = Result<Vec<Option<ValueId>>, Refusal>;

/// From the gradients of the outputs to those of the inputs.
type Vjp = fn(&mut Emit, &Call<'_>) -> Inputs;

/// The outputs, by nodes of other operators.
type Terms = fn(&mut Emit, &Node) -> Result<Vec<Option<ValueId>>, Refusal>;

/// How an operator is differentiated.
pub(super) enum Rule {
    Vjp(Vjp),
    Terms(Terms),
    /// Nothing flows back: it is constant almost everywhere.
    Constant,
    None,
}

impl Call<'_> {
    /// Input `index`, which the operator needs.
    fn input(&self, index: usize) -> Result<ValueId, Refusal> {
        self.node.input(index).ok_or(Refusal::Op(poda_runtime::ops::OpError::MissingInput { index }))
    }

    /// The first output.
    fn output(&self) -> Result<ValueId, Refusal> {
        self.node.output(0).ok_or(Refusal::Unsupported("its first output is left out"))
    }

    /// The gradient of the only output.
    fn gradient(&self) -> Result<ValueId, Refusal> {
        match self.gradients {
            [Some(gradient), rest @ ..] if rest.iter().all(Option::is_none) => Ok(*gradient),
            _ => Err(Refusal::Unsupported("an output other than the first takes part in the loss")),
        }
    }
}

/// The rule of an operator.
pub(super) fn rule(op: &Op) -> Rule {
    match op {
        Op::Unary(_) => Rule::Vjp(unary::unary),
        Op::Binary(_) => Rule::Vjp(elementwise::binary),
        Op::Variadic(_) => Rule::Vjp(elementwise::variadic),
        Op::Clip => Rule::Vjp(elementwise::clip),
        Op::Where => Rule::Vjp(elementwise::choose),
        Op::Cast { .. } | Op::CastLike => Rule::Vjp(elementwise::cast),
        Op::Identity => Rule::Vjp(movement::reshaped),

        Op::MatMul => Rule::Vjp(product::matmul),
        Op::Gemm { .. } => Rule::Vjp(product::gemm),
        Op::Einsum { .. } => Rule::Vjp(product::einsum),
        Op::Conv(_) => Rule::Vjp(convolution::conv),
        Op::ConvTranspose { .. } => Rule::Vjp(convolution::conv_transpose),
        Op::Attention(_) => Rule::Terms(attention::attention),
        Op::Recurrent(_) => Rule::Terms(recurrent::recurrent),

        Op::BatchNormalization { .. } => Rule::Vjp(norm::batch),
        Op::InstanceNormalization { .. } => Rule::Vjp(norm::instance),
        Op::LayerNormalization { .. } => Rule::Vjp(norm::layer),
        Op::GroupNormalization { .. } => Rule::Vjp(norm::group),
        Op::RmsNormalization { .. } => Rule::Vjp(norm::root_mean_square),
        Op::LpNormalization { .. } => Rule::Terms(norm::lp),
        Op::MeanVarianceNormalization { .. } => Rule::Terms(norm::mean_variance),
        Op::Lrn { .. } => Rule::Terms(norm::local_response),
        Op::Softmax { kind: SoftmaxKind::Softmax | SoftmaxKind::LogSoftmax, .. } => Rule::Vjp(norm::softmax),

        Op::Pool(attributes) => match attributes.kind {
            PoolKind::Max => Rule::Vjp(pool::max),
            PoolKind::Average => Rule::Vjp(pool::average),
            PoolKind::Lp { .. } => Rule::None,
        },
        Op::GlobalPool { kind } => match kind {
            PoolKind::Max => Rule::Vjp(pool::global_max),
            PoolKind::Average => Rule::Vjp(pool::global_average),
            PoolKind::Lp { .. } => Rule::None,
        },
        Op::Resize(_) => Rule::Vjp(resize::resize),

        Op::Reduce { .. } => Rule::Vjp(reduction::reduce),
        Op::TopK { .. } => Rule::Vjp(reduction::top_k),
        Op::Cumulative { .. } => Rule::Vjp(reduction::cumulative),
        Op::SoftmaxCrossEntropyLoss(_) | Op::NegativeLogLikelihoodLoss(_) => Rule::Vjp(losses::by_class),

        Op::Reshape { .. } | Op::Flatten { .. } | Op::Squeeze | Op::Unsqueeze => {
            Rule::Vjp(movement::reshaped)
        }
        Op::Transpose { .. } => Rule::Vjp(movement::transpose),
        Op::Concat { .. } => Rule::Vjp(movement::concat),
        Op::Split { .. } => Rule::Vjp(movement::split),
        Op::Slice => Rule::Vjp(movement::slice),
        Op::Expand => Rule::Vjp(movement::expand),
        Op::Tile => Rule::Vjp(movement::tile),
        Op::Pad { .. } => Rule::Vjp(movement::pad),
        Op::DepthToSpace { .. } => Rule::Vjp(movement::depth_to_space),
        Op::SpaceToDepth { .. } => Rule::Vjp(movement::space_to_depth),
        Op::Trilu { .. } => Rule::Vjp(movement::trilu),
        Op::ReverseSequence { .. } => Rule::Vjp(movement::reverse_sequence),

        Op::Gather { .. } => Rule::Vjp(index::gather),
        Op::GatherElements { .. } => Rule::Vjp(index::gather_elements),
        Op::GatherNd { .. } => Rule::Vjp(index::gather_nd),
        Op::ScatterElements { .. } => Rule::Vjp(index::scatter_elements),
        Op::ScatterNd { .. } => Rule::Vjp(index::scatter_nd),

        // These give integers, or what no input's elements change.
        Op::Softmax { kind: SoftmaxKind::Hardmax, .. }
        | Op::ArgReduce { .. }
        | Op::NonZero
        | Op::Shape { .. }
        | Op::Size
        | Op::ConstantOfShape { .. }
        | Op::EyeLike { .. }
        | Op::NonMaxSuppression { .. } => Rule::Constant,

        // Refused by name where the loss depends on it.
        _ => Rule::None,
    }
}
