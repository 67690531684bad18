//! What a product multiplies its weight with: the other operand as rows, each of which every row of the weight's matrix
//! meets.
//!
//! For a weight `[outputs, inputs]` these are `X` `[n, inputs]`, and the product makes `X · Wᵀ`. Some products hold several
//! weights, each with inputs of its own: groups of a convolution, a batch of matrices, directions of a recurrence.

use std::borrow::Cow;

use poda_formats::op::einsum::Equation;
use poda_formats::op::{AxisRole, ConvAttributes, Direction};
use poda_formats::{Graph, MatrixForm, Op, TensorView, ValueId};
use poda_runtime::ops::OpError;
use poda_runtime::ops::patches::Patches;

use crate::criterion::float_values;

/// A product that uses a weight as its matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct Use {
    /// The node.
    pub node: usize,
    /// The value that the weight is multiplied with: an operand, or, of recurrent weights, the node's own output.
    pub value: ValueId,
    /// How that value lies as rows.
    pub source: Source,
}

/// How an operand lies as rows.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum Source {
    /// `[…, inputs]`, with a batch of weights `[batch…, inputs, outputs]`.
    Right { batch: Vec<usize> },
    /// `[…, inputs, n]`.
    Left,
    /// `[n, inputs]`, or transposed.
    Matrix { transposed: bool },
    /// Windows of an image, for a weight of this shape.
    Windows(ConvAttributes, Vec<usize>),
    /// `[batch, channels, …]` in groups: pixels.
    Pixels { groups: usize },
    /// States of a recurrence: `[steps, directions, batch, inputs]`, or `[batch, steps, directions, inputs]`.
    States { directions: usize, batch_first: bool },
    /// The other operand's letters, and those of the weight that are its batch and its inputs, with their sizes.
    Letters { names: Vec<char>, batch: Vec<(char, usize)>, inputs: Vec<(char, usize)> },
}

/// The uses of `weight` as the matrix of products; empty where there are none that say what it is multiplied with.
pub fn uses(graph: &Graph, weight: ValueId) -> Vec<Use> {
    let Some(shape) = graph.weight(weight).map(|w| w.shape().to_vec()) else { return Vec::new() };
    let users = graph.nodes.iter().enumerate().flat_map(|(index, node)| {
        let operands = node.inputs.iter().enumerate().filter(|(_, id)| **id == Some(weight));
        operands.map(move |(operand, _)| (index, operand))
    });
    users.filter_map(|(node, operand)| of_node(graph, node, operand, &shape)).collect()
}

fn of_node(graph: &Graph, index: usize, operand: usize, shape: &[usize]) -> Option<Use> {
    let node = &graph.nodes[index];
    let from = |input: usize, source: Source| Some(Use { node: index, value: node.input(input)?, source });
    match (&node.op, operand) {
        (Op::MatMul, 1) => from(0, Source::Right { batch: shape[..shape.len() - 2].to_vec() }),
        (Op::MatMul, 0) => from(1, Source::Left),
        (Op::Gemm { trans_a, .. }, 1) => from(0, Source::Matrix { transposed: *trans_a }),
        (Op::Gemm { trans_b, .. }, 0) => from(1, Source::Matrix { transposed: !*trans_b }),
        (Op::Conv(attributes), 1) => from(0, Source::Windows(attributes.clone(), shape.to_vec())),
        (Op::ConvTranspose { conv, .. }, 1) => from(0, Source::Pixels { groups: conv.group }),
        (Op::Recurrent(_), 1) => from(0, Source::Matrix { transposed: false }),
        (Op::Recurrent(attributes), 2) => {
            let directions = if attributes.direction == Direction::Bidirectional { 2 } else { 1 };
            let source = Source::States { directions, batch_first: attributes.batch_first };
            Some(Use { node: index, value: node.output(0)?, source })
        }
        (Op::Einsum { equation }, 0 | 1) => {
            let equation = Equation::parse(equation).ok()?;
            let roles = equation.roles(operand, shape)?;
            let own = equation.inputs[operand].names(shape.len())?;
            let other = &equation.inputs[1 - operand];
            let names = other.names(other.letters().count()).filter(|_| other.after.is_none())?;
            let of = |role: AxisRole| {
                let axes = own.iter().zip(shape).zip(&roles).filter(|(_, r)| **r == role);
                axes.map(|((&name, &size), _)| (name, size)).collect::<Vec<_>>()
            };
            let (batch, inputs) = (of(AxisRole::Batch), of(AxisRole::Col));
            from(1 - operand, Source::Letters { names, batch, inputs })
        }
        _ => None,
    }
}

/// Rows of inputs in a tensor.
#[derive(Debug)]
pub struct Rows<'a> {
    /// Weights with inputs of their own.
    pub groups: usize,
    /// Rows of each group.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    values: Cow<'a, [f32]>,
    places: Places,
}

#[derive(Debug)]
enum Places {
    Windows(Patches),
    Strided { groups: Vec<usize>, rows: Vec<usize>, cols: Vec<usize>, contiguous: bool },
}

impl<'a> Rows<'a> {
    /// Of a tensor, for a weight that lies as `form`. `None` where it is no tensor of floats, or fits no product.
    ///
    /// # Errors
    /// When a convolution does not take the tensor's shape.
    pub fn new(source: &Source, form: MatrixForm, tensor: &TensorView<'a>) -> Result<Option<Self>, OpError> {
        let values = match tensor.as_slice::<f32>() {
            Ok(values) => Cow::Borrowed(values),
            Err(_) => match float_values(&tensor.to_tensor()) {
                Some(values) => Cow::Owned(values),
                None => return Ok(None),
            },
        };
        let shape = tensor.shape();
        if let Source::Windows(attributes, weight) = source {
            let patches = Patches::new(attributes, shape, weight)?;
            let (groups, rows, cols) = (patches.groups(), patches.rows(), patches.cols());
            return Ok(Some(Self { groups, rows, cols, values, places: Places::Windows(patches) }));
        }
        Ok(strided(source, shape).and_then(|[groups, rows, cols]| {
            let [groups, rows, cols] = [groups, rows, cols].map(|axes| offsets(&axes));
            let contiguous = cols.iter().enumerate().all(|(i, &at)| at == i);
            let fits = cols.len() == form.cols && groups.len() * rows.len() * cols.len() >= values.len();
            let sizes = (groups.len(), rows.len(), cols.len());
            let places = Places::Strided { groups, rows, cols, contiguous };
            fits.then_some(Self { groups: sizes.0, rows: sizes.1, cols: sizes.2, values, places })
        }))
    }

    /// Groups, rows of each, inputs.
    pub fn sizes(&self) -> [usize; 3] {
        [self.groups, self.rows, self.cols]
    }

    /// Writes one row, `[cols]`.
    pub fn write(&self, group: usize, row: usize, out: &mut [f32]) {
        match &self.places {
            Places::Windows(patches) => patches.write(&self.values, group, row, out),
            Places::Strided { groups, rows, cols, contiguous } => {
                let from = &self.values[groups[group] + rows[row]..];
                if *contiguous {
                    out.copy_from_slice(&from[..cols.len()]);
                } else {
                    out.iter_mut().zip(cols).for_each(|(out, &at)| *out = from[at]);
                }
            }
        }
    }
}

/// Sizes and strides of axes.
type Axes = Vec<(usize, usize)>;

/// Every place that axes lead to, the last axis fastest.
fn offsets(axes: &Axes) -> Vec<usize> {
    let mut all = vec![0];
    for &(size, stride) in axes {
        all = all.iter().flat_map(|&at| (0..size).map(move |i| at + i * stride)).collect();
    }
    all
}

/// The axes that are groups, rows and inputs.
fn strided(source: &Source, shape: &[usize]) -> Option<[Axes; 3]> {
    let mut axes: Axes = Vec::with_capacity(shape.len());
    for (dim, &size) in shape.iter().enumerate() {
        axes.push((size, shape[dim + 1..].iter().product()));
    }
    let rank = axes.len();
    match source {
        Source::Right { batch } => {
            let inputs = axes.pop()?;
            // Axes of both batches lie over each other from the last on; those of the rows come before the inputs.
            let rows_from = rank.saturating_sub(2);
            let (leading, mut rows) = (axes[..rows_from].to_vec(), axes[rows_from..].to_vec());
            let mut groups = Axes::new();
            let skip = leading.len().saturating_sub(batch.len());
            rows.extend(&leading[..skip]);
            for (at, &size) in batch.iter().enumerate() {
                let over = (at + leading.len()).checked_sub(batch.len()).map(|at| leading[at]);
                match over {
                    Some((own, stride)) if size > 1 => groups.push((size, if own == 1 { 0 } else { stride })),
                    Some(axis) => rows.push(axis),
                    None => groups.push((size, 0)),
                }
            }
            Some([groups, rows, vec![inputs]])
        }
        Source::Left => {
            let inputs = axes.remove(rank.saturating_sub(2).min(rank.checked_sub(1)?));
            Some([Vec::new(), axes, vec![inputs]])
        }
        Source::Matrix { transposed } => {
            let inputs = if *transposed { axes.remove(0) } else { axes.pop()? };
            Some([Vec::new(), axes, vec![inputs]])
        }
        Source::Pixels { groups } => {
            let &(channels, stride) = axes.get(1)?;
            axes.remove(1);
            let inputs = channels.checked_div(*groups)?;
            Some([vec![(*groups, inputs * stride)], axes, vec![(inputs, stride)]])
        }
        Source::States { directions, batch_first } => {
            let inputs = axes.pop()?;
            let at = if *batch_first { 2 } else { 1 };
            let of = (rank == 4 && shape[at] == *directions).then(|| axes.remove(at))?;
            Some([vec![of], axes, vec![inputs]])
        }
        Source::Letters { names, batch, inputs } => {
            if names.len() != rank {
                return None;
            }
            let find = |&(name, size): &(char, usize)| {
                let at = names.iter().position(|&other| other == name)?;
                (axes[at].0 == size).then_some(axes[at])
            };
            let groups = batch.iter().map(find).collect::<Option<Axes>>()?;
            let cols = inputs.iter().map(find).collect::<Option<Axes>>()?;
            let known = |name: &char| batch.iter().chain(inputs).any(|(other, _)| other == name);
            let rows = names.iter().zip(&axes).filter(|(name, _)| !known(name)).map(|(_, &axis)| axis);
            Some([groups, rows.collect(), cols])
        }
        Source::Windows(..) => None,
    }
}

#[cfg(test)]
mod tests;
