//! Products of quantised tensors, in f32 where that is exact: integers below 2²⁴ are floats, and so are
//! their sums, in whatever order. Where the CPU has a kernel that sums integers, they may be greater.
//!
//! MatMulInteger, ConvInteger, QLinearMatMul and QLinearConv become DequantizeLinear by a scale of 1, a product of floats with
//! a packed weight, and the way back: the same numbers, by the kernels that there are. From layer to layer values stay floats.
//! Where a sum might be larger a matrix is cut into ranges of rows whose sums are not, or the operator keeps its general form. A bias that is
//! larger is added in two parts: what is left of it beside a multiple of 256 to the products, and that multiple to their sum, which is
//! then the float next to the sum of integers, as if that had been converted.

use std::collections::HashMap;

use poda_formats::op::{Binary, PoolKind};
use poda_formats::{DataType, Op, Tensor, ValueId};

use super::product::Product;
use super::requantize::Requantize;
use super::rounding::range_of;
use crate::info::Info;
use crate::kernels;
use crate::plan::draft::{Draft, DraftNode, Kind};

/// Integers up to here are floats.
const EXACT: f32 = 16_777_216.0;

/// Most parts of a product whose sums are not exact in one.
const PARTS: usize = 8;

/// Lowers every such node; gives how many there are. With `bytes`, kernels that sum integers may be asked for.
pub(super) fn lower(draft: &mut Draft<'_>, bytes: bool) -> usize {
    let mut lowered = 0;
    // By sums of integers: the floats that they are made of. By integers and their zero point: the floats that were made of them.
    let (mut exact, mut widened) = (HashMap::new(), HashMap::new());
    // By value: how many read it, and how many of these make floats of integers.
    let (mut uses, mut casts) = (vec![0; draft.infos.len()], vec![0; draft.infos.len()]);
    draft.wanted.iter().for_each(|id| uses[id.index()] += 1);
    for node in &draft.nodes {
        let cast = matches!(node.op(), Some(Op::Cast { to: DataType::F32 }));
        node.inputs.iter().flatten().for_each(|id| {
            uses[id.index()] += 1;
            casts[id.index()] += i32::from(cast);
        });
    }
    for mut node in std::mem::take(&mut draft.nodes) {
        let rounded = node.output(0).is_some_and(|y| uses[y.index()] == casts[y.index()]);
        if let Some(product) = IntegerProduct::of(draft, &node, bytes, rounded) {
            exact.extend(product.push(draft, &node, &mut widened));
            lowered += 1;
            continue;
        }
        if let Some(Op::DequantizeLinear { block_size: 0, .. }) = node.op()
            && let (Some(x), Some(scale), Some(output)) = (node.input(0), node.input(1), node.output(0))
            && draft.scalar(scale).is_some_and(|scale| scale > 0.0)
            && uses[x.index()] == 1
        {
            dequantize(draft, node.node, [Some(x), Some(scale), node.input(2)], Some(output));
            continue;
        }
        if let Some(Op::Cast { to: DataType::F32 }) = node.op()
            && let Some(&sums) = node.input(0).and_then(|id| exact.get(&id))
        {
            (node.kind, node.inputs) = (Kind::Op(Op::Identity), vec![Some(sums)]);
        }
        draft.nodes.push(node);
    }
    lowered
}

/// Integers and their zero point.
type Integers = (ValueId, Option<ValueId>);

/// A node that is exact in floats.
struct IntegerProduct {
    /// MatMul or Conv.
    op: Op,
    x: ValueId,
    x_zero: Option<ValueId>,
    weight: Factor,
    bias: Option<Tensor>,
    /// Of those that round to 8 bits: how.
    requantize: Option<(Requantize, ValueId)>,
    /// Whether floats do not hold its sums.
    integer: bool,
}

/// What `x` is multiplied by.
enum Factor {
    /// A constant, less its zero points; of a matrix perhaps in several ranges of rows, the sums of each of which are exact.
    Constant(Vec<Tensor>),
    /// Something computed, with its zero point.
    Value(ValueId, Option<ValueId>),
}

impl IntegerProduct {
    /// What a node is. `rounded`: all that read its sums make floats of them.
    fn of(draft: &Draft<'_>, node: &DraftNode, bytes: bool, rounded: bool) -> Option<Self> {
        // Inputs: x, its zero point, weight, its zero points, the scales of both and of y, y's zero point, bias.
        let (op, [x, x_zero, w, w_zero], scales, bias) = match node.op()? {
            Op::MatMulInteger => (Op::MatMul, [0, 2, 1, 3], None, None),
            Op::ConvInteger(attributes) => (Op::Conv(attributes.clone()), [0, 2, 1, 3], None, None),
            Op::QLinearMatMul => (Op::MatMul, [0, 2, 3, 5], Some([1, 4, 6, 7]), None),
            Op::QLinearConv(attributes) => {
                (Op::Conv(attributes.clone()), [0, 2, 3, 5], Some([1, 4, 6, 7]), Some(8))
            }
            _ => return None,
        };
        let x = node.input(x)?;
        let (x_zero, x_shape) = (node.input(x_zero), draft.shape(x)?);
        if x_zero.is_some_and(|id| draft.shape(id).is_none_or(|shape| shape.iter().product::<usize>() != 1)) {
            return None;
        }
        let (w, w_zero) = (node.input(w)?, node.input(w_zero));
        let Some(w) = draft.constant(w) else {
            return Self::of_computed(draft, node, op, [(x, x_zero), (w, w_zero)], scales);
        };
        // Of a matrix the last axis counts outputs, of a convolution the first.
        let matmul = op == Op::MatMul;
        let channels = match *w.shape() {
            [_, m] if matmul => m,
            [m, _, _, ..] if !matmul => m,
            _ => return None,
        };
        let inner = if matmul { 1 } else { w.len().checked_div(channels)? };
        let channel = |i: usize| i / inner % channels;
        let zeros = match w_zero {
            Some(id) => integers(draft.constant(id)?)?,
            None => vec![0.0],
        };
        if zeros.len() != 1 && zeros.len() != channels {
            return None;
        }
        let zero = |i: usize| zeros[channel(i) % zeros.len()];
        let weight: Vec<f32> = integers(w)?.into_iter().enumerate().map(|(i, w)| w - zero(i)).collect();
        let bias = match bias.and_then(|i| node.input(i)) {
            None => None,
            Some(id) => Some(draft.constant(id)?.as_slice::<i32>().ok()?.to_vec()),
        };
        let reach = f64::from(reach(draft, x, x_zero)?);
        let products = |start: usize, weight: &[f32]| {
            let mut most = vec![0.0_f64; channels];
            (start..).zip(weight).for_each(|(i, w)| most[channel(i)] += f64::from(w.abs()) * reach);
            most
        };
        let beyond = bias.as_ref().map(|bias| apart(bias, &products(0, &weight)));
        let (bias, beyond) = beyond.unzip();
        // The greatest sum that there can be of weights from `start` on.
        let most = |start: usize, weight: &[f32]| {
            let mut most = products(start, weight);
            if let Some(bias) = &bias {
                most.iter_mut().zip(bias).for_each(|(sum, b)| *sum += f64::from(b.abs()));
            }
            most.into_iter().fold(0.0, f64::max)
        };
        // Sums of integers may be made of a few; what is rounded at once, and convolutions, in one.
        let parts = if matmul && scales.is_none() { PARTS } else { 1 };
        let rows = weight.len() / channels.max(1);
        let kernels_take = match &op {
            Op::Conv(conv) => conv.group == 1 && x_shape.len() <= 4 && !x_shape.contains(&0),
            _ => true,
        };
        let in_floats =
            (1..=parts).map(|parts| rows.div_ceil(parts).max(1) * channels.max(1)).find(|&part| {
                weight.chunks(part).zip((0..).step_by(part)).all(|(w, i)| most(i, w) <= f64::from(EXACT))
            });
        // What is rounded at once may be the sum of integers, which then is a float; in one part rather than in several.
        let [low, high] = weight.iter().fold([0.0_f32; 2], |[low, high], &w| [low.min(w), high.max(w)]);
        let signed = low >= -128.0 && high <= 127.0;
        let of_bytes = bytes
            && (kernels_take && (scales.is_some() || rounded))
            && kernels::sums_bytes(rows)
            && (signed || matmul && high - low <= 255.0 && kernels::sums_bytes(2 * rows));
        let whole = weight.len();
        let in_floats = in_floats.filter(|&len| len >= whole || !of_bytes);
        let part_len = in_floats.or(of_bytes.then_some(whole))?;
        if most(0, &weight) > f64::from(i32::MAX) {
            return None;
        }
        let requantize = match scales {
            None => None,
            Some(scales) => {
                let axis = if matmul { x_shape.len().checked_sub(1)? } else { 1 };
                let inner = draft.shape(node.output(0)?)?[axis + 1..].iter().product();
                let (requantize, zero) = Requantize::of(draft, node, scales, [channels, inner])?;
                let beyond = beyond.filter(|beyond| beyond.iter().any(|&b| b != 0.0));
                Some((requantize.after(beyond), zero))
            }
        };
        let bias = bias.map(|b| Tensor::from_slice(&[b.len()], &b));
        let weight = if weight.len() <= part_len {
            vec![Tensor::from_slice(w.shape(), &weight)]
        } else {
            let part = |w: &[f32]| Tensor::from_slice(&[w.len() / channels, channels], w);
            weight.chunks(part_len).map(part).collect()
        };
        let weight = Factor::Constant(weight);
        Some(Self { op, x, x_zero, weight, bias, requantize, integer: in_floats.is_none() })
    }

    /// A matrix product of which neither side is constant.
    fn of_computed(
        draft: &Draft<'_>,
        node: &DraftNode,
        op: Op,
        [(x, x_zero), (w, w_zero)]: [(ValueId, Option<ValueId>); 2],
        scales: Option<[usize; 4]>,
    ) -> Option<Self> {
        let (x_shape, w_shape) = (draft.shape(x)?, draft.shape(w)?);
        let &[.., k, columns] = w_shape else { return None };
        let single =
            w_zero.is_none_or(|id| draft.shape(id).is_some_and(|s| s.iter().product::<usize>() == 1));
        let most = k as f64 * f64::from(reach(draft, x, x_zero)?) * f64::from(reach(draft, w, w_zero)?);
        if op != Op::MatMul || x_shape.len() < 2 || !single || most > f64::from(EXACT) {
            return None;
        }
        let requantize = match scales {
            None => None,
            Some(scales) => {
                // One scale for all columns.
                draft.scalar(node.input(scales[1])?)?;
                Some(Requantize::of(draft, node, scales, [columns, 1])?)
            }
        };
        let weight = Factor::Value(w, w_zero);
        Some(Self { op, x, x_zero, weight, bias: None, requantize, integer: false })
    }

    /// Appends the nodes that compute it. Of sums that stay integers: which they are, and the same as floats.
    fn push(
        self,
        draft: &mut Draft<'_>,
        node: &DraftNode,
        widened: &mut HashMap<Integers, ValueId>,
    ) -> Option<(ValueId, ValueId)> {
        let output = node.output(0);
        let shape = output.and_then(|id| draft.shape(id)).map(<[usize]>::to_vec);
        let value =
            |draft: &mut Draft<'_>, shape| draft.add_value(Info { dtype: DataType::F32, shape, value: None });
        let mut as_floats = |draft: &mut Draft<'_>, integers| {
            *widened.entry(integers).or_insert_with(|| as_floats(draft, node, integers))
        };
        let x = as_floats(draft, (self.x, self.x_zero));
        let weight = match self.weight {
            Factor::Constant(weights) if weights.len() > 1 => {
                push_parts(draft, node, (&self.op, x, &weights), shape.as_deref());
                return None;
            }
            Factor::Constant(mut weights) => draft.add_constant(weights.remove(0)),
            Factor::Value(w, zero) => as_floats(draft, (w, zero)),
        };
        let sums = value(draft, shape.clone());
        let bias = self.bias.map(|bias| draft.add_constant(bias));
        let made = |kind, inputs, output| DraftNode { kind, node: node.node, inputs, outputs: vec![output] };
        let mut product = made(Kind::Op(self.op), vec![Some(x), Some(weight), bias], Some(sums));
        if self.integer
            && let Some((of_bytes, inputs)) = Product::lower(draft, &product)
        {
            product = made(Kind::lowered(Product { integer: true, ..of_bytes }), inputs, Some(sums));
        }
        draft.nodes.push(product);
        let Some((requantize, zero)) = self.requantize else {
            draft.nodes.push(made(Kind::Op(Op::Cast { to: DataType::I32 }), vec![Some(sums)], output));
            return Some((output?, sums));
        };
        let rounded = value(draft, shape);
        let zero_shape = draft.shape(zero).unwrap_or_default().to_vec();
        let one = draft.add_constant(Tensor::from_slice(&zero_shape, &[1.0_f32]));
        let narrow = Op::QuantizeLinear { axis: 0, block_size: 0, saturate: true, to: None };
        draft.nodes.push(made(Kind::lowered(requantize), vec![Some(sums)], Some(rounded)));
        draft.nodes.push(made(Kind::Op(narrow), vec![Some(rounded), Some(one), Some(zero)], output));
        None
    }
}

/// Appends the product of floats `x` with a matrix in ranges of rows, each with as many columns of `x`: its sums, as integers.
fn push_parts(
    draft: &mut Draft<'_>,
    node: &DraftNode,
    (op, x, weights): (&Op, ValueId, &[Tensor]),
    shape: Option<&[usize]>,
) {
    let x_shape = draft.shape(x).map(<[usize]>::to_vec);
    let add = |draft: &mut Draft<'_>, op: &Op, inputs: &[ValueId], output| {
        let (kind, inputs) = (Kind::Op(op.clone()), inputs.iter().copied().map(Some).collect());
        draft.nodes.push(DraftNode { kind, node: node.node, inputs, outputs: vec![output] });
    };
    let value = |draft: &mut Draft<'_>, dtype, shape: Option<&[usize]>| {
        draft.add_value(Info { dtype, shape: shape.map(<[usize]>::to_vec), value: None })
    };
    let (mut start, mut sum) = (0, None);
    for (i, weight) in weights.iter().enumerate() {
        let rows = weight.shape()[0];
        let columns = x_shape.clone().map(|mut shape| {
            shape.last_mut().into_iter().for_each(|k| *k = rows);
            shape
        });
        let bounds = [start as i64, (start + rows) as i64, -1]
            .map(|at| draft.add_constant(Tensor::from_slice(&[1], &[at])));
        let taken = value(draft, DataType::F32, columns.as_deref());
        add(draft, &Op::Slice, &[x, bounds[0], bounds[1], bounds[2]], Some(taken));
        let weight = draft.add_constant(weight.clone());
        let floats = value(draft, DataType::F32, shape);
        add(draft, op, &[taken, weight], Some(floats));
        let integers = value(draft, DataType::I32, shape);
        add(draft, &Op::Cast { to: DataType::I32 }, &[floats], Some(integers));
        sum = Some(match sum {
            None => integers,
            Some(before) => {
                let last = i + 1 == weights.len();
                let together = if last { node.output(0) } else { Some(value(draft, DataType::I32, shape)) };
                add(draft, &Op::Binary(Binary::Add), &[before, integers], together);
                together.unwrap_or(integers)
            }
        });
        start += rows;
    }
}

/// The node that makes `x`, if it moves elements that QuantizeLinear gave or takes the greatest of them: the same may be done with what
/// they stand for, so that they need not become integers.
fn mover_of<'a>(draft: &'a Draft<'_>, x: ValueId) -> Option<&'a DraftNode> {
    let maker = |x| draft.nodes.iter().rev().find(|node| node.outputs.contains(&Some(x)));
    let moves = |node: &DraftNode| match node.op() {
        Some(Op::Pool(pool)) => pool.kind == PoolKind::Max && node.output(1).is_none(),
        Some(
            Op::Reshape { .. }
            | Op::Transpose { .. }
            | Op::Flatten { .. }
            | Op::Squeeze
            | Op::Unsqueeze
            | Op::Identity,
        ) => true,
        _ => false,
    };
    let first = maker(x).filter(|node| moves(node))?;
    let mut from = first;
    while moves(from) {
        from = maker(from.input(0)?)?;
    }
    matches!(from.op(), Some(Op::QuantizeLinear { .. })).then_some(first)
}

/// Appends what makes floats of integers, less their zero point.
fn as_floats(draft: &mut Draft<'_>, node: &DraftNode, (x, zero): Integers) -> ValueId {
    let zero_shape = zero.and_then(|id| draft.shape(id)).unwrap_or_default().to_vec();
    let one = draft.add_constant(Tensor::from_slice(&zero_shape, &[1.0_f32]));
    dequantize(draft, node.node, [Some(x), Some(one), zero], None)
}

/// Appends DequantizeLinear of these inputs, with one positive scale, before what only moves `x`; gives its output.
fn dequantize(
    draft: &mut Draft<'_>,
    node: usize,
    [x, scale, zero]: [Option<ValueId>; 3],
    output: Option<ValueId>,
) -> ValueId {
    let mover =
        x.and_then(|x| mover_of(draft, x)).and_then(|node| Some((node.op()?.clone(), node.inputs.clone())));
    let (kind, inputs) = match mover {
        Some((op, mut inputs)) => {
            inputs[0] = Some(dequantize(draft, node, [inputs[0], scale, zero], None));
            (op, inputs)
        }
        None => (Op::DequantizeLinear { axis: 0, block_size: 0 }, vec![x, scale, zero]),
    };
    let shape = || x.and_then(|x| draft.shape(x)).map(<[usize]>::to_vec);
    let info = Info { dtype: DataType::F32, shape: shape(), value: None };
    let output = output.unwrap_or_else(|| draft.add_value(info));
    draft.nodes.push(DraftNode { kind: Kind::Op(kind), node, inputs, outputs: vec![Some(output)] });
    output
}

/// A bias in two parts, to be added to sums of products that are at most so great: where floats would not hold such a sum with the bias,
/// they hold it with the first part, and the second is a multiple of 256.
fn apart(bias: &[i32], products: &[f64]) -> (Vec<f32>, Vec<f32>) {
    let part = |(&bias, &most): (&i32, &f64)| {
        let whole = most + f64::from(bias).abs() <= f64::from(EXACT);
        let rest = bias.rem_euclid(256);
        let fits = most + f64::from(rest) <= f64::from(EXACT);
        if whole || !fits { (bias as f32, 0.0) } else { (rest as f32, (bias - rest) as f32) }
    };
    bias.iter().zip(products).map(part).unzip()
}

/// How far an element of `x`, of 8 bits, can be from its zero point.
fn reach(draft: &Draft<'_>, x: ValueId, zero: Option<ValueId>) -> Option<f32> {
    let [low, high] = range_of(draft.dtype(x)?).filter(|[low, high]| high - low < 256.0)?;
    let zero = match zero {
        None => Some(0.0),
        Some(id) => draft.constant(id).and_then(integers).map(|values| values[0]),
    };
    Some(zero.map_or(255.0, |zero| (high - zero).max(zero - low)))
}

/// The elements of a tensor of 8 bits.
pub(super) fn integers(tensor: &Tensor) -> Option<Vec<f32>> {
    match tensor.dtype() {
        DataType::U8 => Some(tensor.as_slice::<u8>().ok()?.iter().map(|&v| v.into()).collect()),
        DataType::I8 => Some(tensor.as_slice::<i8>().ok()?.iter().map(|&v| v.into()).collect()),
        _ => None,
    }
}
