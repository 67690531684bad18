//! What nodes need when units have gone: attributes, shape operands, selections, means.

use half::{bf16, f16};
use poda_formats::op::Binary;
use poda_formats::{Boolean, DataType, Graph, Op, Tensor, ValueId, Weight};

use super::rewrite::Rewrite;
use super::{CompactError, vector};
use crate::dependency::axis::AxisId;
use crate::dependency::{DependencyGraph, Facts, Fix, Removal, Selection};

/// Sizes before and after removal.
#[derive(Clone, Copy, PartialEq)]
struct Change {
    old: usize,
    new: usize,
}

impl Change {
    fn is_none(self) -> bool {
        self.old == self.new
    }
}

pub(super) struct Context<'a> {
    pub(super) dependencies: &'a DependencyGraph,
    pub(super) facts: Facts<'a>,
    pub(super) removal: &'a Removal,
    /// For each value of the graph before, the index of the node that makes it.
    pub(super) producers: Vec<Option<usize>>,
}

impl Context<'_> {
    fn change(&self, axis: AxisId) -> Change {
        let new = self.dependencies.kept_count(axis, self.removal);
        Change { old: self.dependencies.size(axis), new }
    }

    fn changes(&self, axes: &[AxisId]) -> Option<Vec<Change>> {
        let changes: Vec<Change> = axes.iter().map(|&axis| self.change(axis)).collect();
        changes.iter().any(|c| !c.is_none()).then_some(changes)
    }
}

pub(super) fn apply(
    rewrite: &mut Rewrite,
    context: &Context<'_>,
    node: usize,
    fix: &Fix,
) -> Result<(), CompactError> {
    match fix {
        Fix::Group(_) | Fix::NumGroups(_) | Fix::Hidden(_) | Fix::Heads { .. } | Fix::Rotary { .. } => {
            attribute(&mut rewrite.graph, context, node, fix);
        }
        Fix::Sizes { input, axes, dims } => sizes(rewrite, context, node, *input, axes, dims),
        Fix::Shape { start, axes } => shape(rewrite, context, node, *start, axes),
        Fix::Split(parts) => {
            if let Some(changes) = context.changes(parts) {
                let sizes: Vec<i64> = changes.iter().map(|c| c.new as i64).collect();
                set_input(rewrite, node, 1, "split", vector(&sizes));
                if let Op::Split { num_outputs, .. } = &mut rewrite.graph.nodes[node].op {
                    *num_outputs = None;
                }
            }
        }
        Fix::Gather(selection) => {
            if context.changes(&[selection.source, selection.result]).is_some() {
                let indices = new_indices(context, selection);
                set_input(rewrite, node, 1, "indices", vector(&indices));
            }
        }
        Fix::Slice(selections) => slice(rewrite, context, node, selections),
        Fix::Mean(axes) => {
            if let Some(changes) = context.changes(axes) {
                let factor: f64 = changes.iter().map(|c| c.new as f64 / c.old as f64).product();
                scale_output(rewrite, context, node, factor)?;
            }
        }
        Fix::RootMeanSquare(axes) => {
            if let Some(changes) = context.changes(axes) {
                // x / √(Σx²/n + ε) = √(n/n') · x / √(Σx²/n' + ε·n/n')
                let factor: f64 = changes.iter().map(|c| c.old as f64 / c.new as f64).product();
                if let Op::RmsNormalization { epsilon, .. } = &mut rewrite.graph.nodes[node].op {
                    *epsilon = (f64::from(*epsilon) * factor) as f32;
                }
                scale_output(rewrite, context, node, factor.sqrt())?;
            }
        }
    }
    Ok(())
}

fn attribute(graph: &mut Graph, context: &Context<'_>, node: usize, fix: &Fix) {
    let new = |axis: &AxisId| context.change(*axis).new;
    let op = &mut graph.nodes[node].op;
    match fix {
        Fix::Group(axis) => {
            if let Op::Conv(conv) | Op::ConvTranspose { conv, .. } = op {
                conv.group = new(axis);
            }
        }
        Fix::NumGroups(axis) => {
            if let Op::GroupNormalization { num_groups, .. } = op {
                *num_groups = new(axis);
            }
        }
        Fix::Hidden(axis) => {
            if let Op::Recurrent(attributes) = op {
                attributes.hidden_size = new(axis);
            }
        }
        Fix::Heads { query, key, size } => {
            if let Op::Attention(attributes) = op {
                if attributes.q_num_heads != 0 {
                    attributes.q_num_heads = new(query);
                    attributes.kv_num_heads = new(key);
                }
                let change = context.change(*size);
                if !change.is_none() && attributes.scale.is_none() {
                    attributes.scale = Some((change.old as f64).sqrt().recip() as f32);
                }
            }
        }
        Fix::Rotary { heads, rotated } => {
            if let Op::RotaryEmbedding { num_heads, rotary_embedding_dim, .. } = op {
                *num_heads = heads.as_ref().map_or(*num_heads, new);
                *rotary_embedding_dim = rotated.as_ref().map_or(*rotary_embedding_dim, new);
            }
        }
        Fix::Sizes { .. }
        | Fix::Shape { .. }
        | Fix::Split(_)
        | Fix::Gather(_)
        | Fix::Slice(_)
        | Fix::Mean(_)
        | Fix::RootMeanSquare(_) => {}
    }
}

fn set_input(rewrite: &mut Rewrite, node: usize, input: usize, what: &str, value: Tensor) {
    let base = format!("{}.{what}", rewrite.graph.nodes[node].name);
    let id = rewrite.constant(&base, value);
    let inputs = &mut rewrite.graph.nodes[node].inputs;
    while inputs.len() <= input {
        inputs.push(None);
    }
    inputs[input] = Some(id);
}

/// Corrects an operand that lists sizes.
fn sizes(
    rewrite: &mut Rewrite,
    context: &Context<'_>,
    node: usize,
    input: usize,
    axes: &[AxisId],
    dims: &[usize],
) {
    let Some(mut changes) = context.changes(axes) else { return };
    let (Some(operand), Some(output)) =
        (rewrite.graph.nodes[node].input(input), rewrite.graph.nodes[node].output(0))
    else {
        return;
    };
    let mut fixed: Vec<bool> = dims.iter().map(|&dim| context.facts.is_fixed(output, dim)).collect();
    fixed.resize(changes.len(), true);
    // Expand may list fewer sizes than the result has.
    let listed = context.facts.shape(operand).and_then(|s| s.first().copied()).unwrap_or(changes.len());
    let skipped = changes.len().saturating_sub(listed);
    changes.drain(..skipped);
    fixed.drain(..skipped);
    if let Some(known) = context.facts.integers(operand) {
        let copies = matches!(rewrite.graph.nodes[node].op, Op::Reshape { allow_zero: false });
        let data = rewrite.graph.nodes[node].input(0).and_then(|id| context.dependencies.layout(id));
        // A size that is copied from the data stays so where the data's is the right one.
        let copied = |i: usize| data.and_then(|data| data.axes.get(i)).map(|&axis| context.change(axis).new);
        let size = |i: usize| match (known[i], changes[i]) {
            (0, change) if copies && fixed[i] && copied(i) != Some(change.new) => change.new as i64,
            (value, change) if value == change.old as i64 => change.new as i64,
            (value, _) => value,
        };
        let values: Vec<i64> = (0..known.len()).map(size).collect();
        return set_input(rewrite, node, input, "sizes", vector(&values));
    }
    let open = fixed.iter().filter(|&&f| !f).count();
    if open <= 1 && matches!(rewrite.graph.nodes[node].op, Op::Reshape { .. }) {
        let values: Vec<i64> =
            fixed.iter().zip(&changes).map(|(&f, c)| if f { c.new as i64 } else { -1 }).collect();
        return set_input(rewrite, node, input, "sizes", vector(&values));
    }
    // A size that follows the inputs and is left open (−1) stays so.
    let known = known_elements(rewrite, context, operand, changes.len());
    for (i, change) in changes.iter_mut().enumerate() {
        if !fixed[i] && known.get(i).copied().flatten().is_some_and(|size| size <= 0) {
            change.new = change.old;
        }
    }
    let corrected = corrected(rewrite, node, operand, operand, &changes, &fixed, false);
    rewrite.graph.nodes[node].inputs[input] = Some(corrected);
}

/// The elements of a list of sizes that are constant.
fn known_elements(rewrite: &Rewrite, context: &Context<'_>, list: ValueId, len: usize) -> Vec<Option<i64>> {
    if let Some(values) = context.facts.integers(list) {
        return values.into_iter().map(Some).collect();
    }
    let mut elements = vec![None; len];
    let producer = context.producers.get(list.index()).copied().flatten().map(|n| &rewrite.graph.nodes[n]);
    if let Some(node) = producer.filter(|node| matches!(node.op, Op::Concat { .. })) {
        let mut at = 0;
        for &part in node.inputs.iter().flatten() {
            let count = context.facts.shape(part).and_then(|s| s.first().copied()).unwrap_or(1);
            if let Some(values) = context.facts.integers(part) {
                let known = elements.iter_mut().skip(at).zip(values);
                known.for_each(|(element, value)| *element = Some(value));
            }
            at += count;
        }
    }
    elements
}

/// `operand · new / old` where sizes follow the inputs, and the new size where they are fixed; before `node`.
fn corrected(
    rewrite: &mut Rewrite,
    node: usize,
    mut operand: ValueId,
    like: ValueId,
    changes: &[Change],
    fixed: &[bool],
    after: bool,
) -> ValueId {
    let base = format!("{}.sizes", rewrite.graph.nodes[node].name);
    let insert = |rewrite: &mut Rewrite, op: Op, inputs: &[ValueId]| {
        if after {
            rewrite.chain_after(node, op, inputs, &base, like)
        } else {
            rewrite.insert_before(node, op, inputs, &base, like)
        }
    };
    let follows = |f: fn(&Change) -> usize| -> Vec<i64> {
        changes
            .iter()
            .zip(fixed)
            .map(|(c, &fixed)| if fixed || c.is_none() { 1 } else { f(c) as i64 })
            .collect()
    };
    let (new, old) = (follows(|c| c.new), follows(|c| c.old));
    if new != old {
        let new = rewrite.constant(&base, vector(&new));
        operand = insert(rewrite, Op::Binary(Binary::Mul), &[operand, new]);
        let old = rewrite.constant(&base, vector(&old));
        operand = insert(rewrite, Op::Binary(Binary::Div), &[operand, old]);
    }
    let is_fixed: Vec<Boolean> = fixed.iter().map(|&f| Boolean(u8::from(f))).collect();
    let sizes: Vec<i64> = changes.iter().map(|c| c.new as i64).collect();
    let is_fixed = rewrite.constant(&base, Tensor::from_slice(&[is_fixed.len()], &is_fixed));
    let sizes = rewrite.constant(&base, vector(&sizes));
    insert(rewrite, Op::Where, &[is_fixed, sizes, operand])
}

/// Gives the users of a Shape node the sizes of the dense model.
fn shape(rewrite: &mut Rewrite, context: &Context<'_>, node: usize, start: usize, axes: &[AxisId]) {
    let Some(changes) = context.changes(axes) else { return };
    let Some(data) = rewrite.graph.nodes[node].input(0) else { return };
    let back: Vec<Change> = changes.iter().map(|c| Change { old: c.new, new: c.old }).collect();
    let fixed: Vec<bool> = (0..axes.len()).map(|i| context.facts.is_fixed(data, start + i)).collect();
    let Some((raw, old)) = rewrite.divert(node, "shape") else { return };
    if fixed.iter().all(|&f| f) {
        let sizes: Vec<i64> = back.iter().map(|c| c.new as i64).collect();
        rewrite.graph.value_mut(old).weight = Some(Weight::Tensor(vector(&sizes)));
        return;
    }
    let restored = corrected(rewrite, node, raw, old, &back, &fixed, true);
    rewrite.insert_after(node, Op::Identity, &[restored], old);
}

/// Where the kept ones of the indices taken are among the kept ones of the source.
fn new_indices(context: &Context<'_>, selection: &Selection) -> Vec<i64> {
    let rank: Vec<i64> = match context.dependencies.kept(selection.source, context.removal) {
        Some(kept) => kept
            .iter()
            .scan(0, |next, &kept| {
                let at = *next;
                *next += i64::from(kept);
                Some(at)
            })
            .collect(),
        None => (0..context.dependencies.size(selection.source) as i64).collect(),
    };
    let kept = context.dependencies.kept(selection.result, context.removal);
    let stays = |i: usize| kept.as_ref().is_none_or(|kept| kept[i]);
    selection.indices.iter().enumerate().filter(|&(i, _)| stays(i)).map(|(_, &index)| rank[index]).collect()
}

fn slice(rewrite: &mut Rewrite, context: &Context<'_>, node: usize, selections: &[(usize, Selection)]) {
    let changed = |s: &&(usize, Selection)| context.changes(&[s.1.source, s.1.result]).is_some();
    let changed: Vec<&(usize, Selection)> = selections.iter().filter(changed).collect();
    if changed.is_empty() {
        return;
    }
    let Some(starts) = rewrite.graph.nodes[node].input(1) else { return };
    let count = context.facts.shape(starts).and_then(|s| s.first().copied()).unwrap_or(0);
    // New bounds by position; a selection with gaps becomes a Gather.
    let mut bounds: Vec<Option<(i64, i64)>> = vec![None; count];
    let mut gathers = Vec::new();
    for (position, selection) in changed {
        let indices = new_indices(context, selection);
        let whole = context.change(selection.source).new;
        bounds[*position] = match indices[..] {
            [first, .., last] | [first @ last] if indices.windows(2).all(|w| w[0] + 1 == w[1]) => {
                Some((first, if last + 1 == whole as i64 { i64::MAX } else { last + 1 }))
            }
            _ => {
                gathers.push((selection.dim as i64, indices));
                Some((0, i64::MAX))
            }
        };
    }
    let is_new: Vec<Boolean> = bounds.iter().map(|b| Boolean(u8::from(b.is_some()))).collect();
    let base = format!("{}.bounds", rewrite.graph.nodes[node].name);
    for (input, values) in [
        (1, bounds.iter().map(|b| b.map_or(0, |b| b.0)).collect::<Vec<i64>>()),
        (2, bounds.iter().map(|b| b.map_or(0, |b| b.1)).collect()),
        (4, vec![1; count]),
    ] {
        let Some(operand) = rewrite.graph.nodes[node].input(input) else { continue };
        if let Some(old) = context.facts.integers(operand) {
            let pick = |i: usize| if bounds[i].is_some() { values[i] } else { old[i] };
            let values: Vec<i64> = (0..count.min(old.len())).map(pick).collect();
            let values = match context.facts.info(operand).map(|info| info.dtype) {
                Some(DataType::I32) => {
                    let narrow: Vec<i32> =
                        values.iter().map(|&v| i32::try_from(v).unwrap_or(i32::MAX)).collect();
                    Tensor::from_slice(&[narrow.len()], &narrow)
                }
                _ => vector(&values),
            };
            set_input(rewrite, node, input, "bounds", values);
        } else {
            let is_new = rewrite.constant(&base, Tensor::from_slice(&[count], &is_new));
            let values = rewrite.constant(&base, vector(&values));
            let merged = rewrite.insert_before(node, Op::Where, &[is_new, values, operand], &base, operand);
            rewrite.graph.nodes[node].inputs[input] = Some(merged);
        }
    }
    if let Some((mut value, old)) = (!gathers.is_empty()).then(|| rewrite.divert(node, &base)).flatten() {
        let last = gathers.len() - 1;
        for (i, (axis, indices)) in gathers.into_iter().enumerate() {
            let indices = rewrite.constant(&base, vector(&indices));
            if i == last {
                rewrite.insert_after(node, Op::Gather { axis }, &[value, indices], old);
            } else {
                value = rewrite.chain_after(node, Op::Gather { axis }, &[value, indices], &base, old);
            }
        }
    }
}

/// Multiplies the first output of a node by a number.
fn scale_output(
    rewrite: &mut Rewrite,
    context: &Context<'_>,
    node: usize,
    factor: f64,
) -> Result<(), CompactError> {
    let Some(output) = rewrite.graph.nodes[node].output(0) else { return Ok(()) };
    let dtype = context.facts.info(output).map_or(DataType::F32, |info| info.dtype);
    let scalar = match dtype {
        DataType::F32 => Tensor::scalar(factor as f32),
        DataType::F64 => Tensor::scalar(factor),
        DataType::F16 => Tensor::scalar(f16::from_f64(factor)),
        DataType::BF16 => Tensor::scalar(bf16::from_f64(factor)),
        DataType::I8
        | DataType::I16
        | DataType::I32
        | DataType::I64
        | DataType::U8
        | DataType::U16
        | DataType::U32
        | DataType::U64
        | DataType::Bool => {
            return Err(CompactError::Rescale { node: rewrite.graph.nodes[node].name.clone(), dtype });
        }
    };
    let base = format!("{}.rescale", rewrite.graph.nodes[node].name);
    if let Some((raw, old)) = rewrite.divert(node, &base) {
        let factor = rewrite.constant(&base, scalar);
        rewrite.insert_after(node, Op::Binary(Binary::Mul), &[raw, factor], old);
    }
    Ok(())
}
