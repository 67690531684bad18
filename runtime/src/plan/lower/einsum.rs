//! Einsums that are a product with a constant operand: transposes as far as needed, around a product with a packed weight.
//!
//! A result `[outer…, batch…, inner…, rows…]` from `[outer…, batch…, inner…, cols…]` is a product as it lies, and so with rows
//! and columns before `inner`. Other orders are led to this one. (Equations of activations alone, and those that are no
//! product, keep the general form of `ops::einsum`.)

use poda_formats::op::AxisRole;
use poda_formats::op::einsum::Equation;
use poda_formats::{DataType, Op, ValueId};

use super::product::{Form, Product};
use crate::info::Info;
use crate::kernels::Layout;
use crate::ops::einsum::{Axes, Label};
use crate::plan::draft::{Draft, DraftNode, Kind};
use crate::plan::weights::Source;

/// Lowers every such node.
pub(super) fn lower(draft: &mut Draft<'_>) {
    for node in std::mem::take(&mut draft.nodes) {
        let lowered = parts(draft, &node);
        match lowered {
            Some(Parts { product, x, y }) => push(draft, &node, product, x, y),
            None => draft.nodes.push(node),
        }
    }
}

/// A product, and the orders of the axes of its input and of its output if they are not those of the node.
struct Parts {
    product: Product,
    x: (ValueId, Option<Vec<usize>>),
    y: (Vec<usize>, Option<Vec<usize>>),
}

/// Labels of an operand that is `[before…, block…, after…]`.
fn around<'a>(labels: &'a [Label], block: &[Label]) -> Option<[&'a [Label]; 2]> {
    let at = labels.windows(block.len()).position(|window| window == block)?;
    Some([&labels[..at], &labels[at + block.len()..]])
}

/// The product that a node is.
fn parts(draft: &Draft<'_>, node: &DraftNode) -> Option<Parts> {
    let Kind::Op(op @ Op::Einsum { equation }) = &node.kind else { return None };
    let &[Some(a), Some(b)] = &node.inputs[..] else { return None };
    let output = node.output(0)?;
    let shapes = [draft.shape(a)?, draft.shape(b)?];
    if draft.dtype(output)? != DataType::F32 {
        return None;
    }
    let listed = op.products(&shapes.map(Some), None);
    let listed = listed.into_iter().find(|p| draft.is_weight([a, b][p.input]))?;
    let (weight, x) = if listed.input == 0 { (a, b) } else { (b, a) };
    let x_shape = shapes[1 - listed.input];
    let axes = Axes::new(equation, &shapes).ok()?;
    let roles = Equation::parse(equation).ok()?.roles(listed.input, shapes[listed.input])?;
    let (own, x_labels) = (&axes.inputs[listed.input], &axes.inputs[1 - listed.input]);
    let of = |role: AxisRole| -> Vec<Label> {
        own.iter().zip(&roles).filter(|(_, r)| **r == role).map(|(&label, _)| label).collect()
    };
    let (batch, rows, cols) = (of(AxisRole::Batch), of(AxisRole::Row), of(AxisRole::Col));
    let size = |labels: &[Label]| labels.iter().map(|l| axes.sizes[l]).product::<usize>();
    // An axis of one element that is spread over the weight's is left to the general form.
    if !x_labels.iter().zip(x_shape).all(|(label, &dim)| axes.sizes[label] == dim) {
        return None;
    }
    let ends_with_batch = |labels: &[Label]| labels.ends_with(&batch);
    let direct = || {
        let ([before, after], [y_before, y_after]) = (around(x_labels, &cols)?, around(&axes.output, &rows)?);
        let layout =
            |after: &[Label]| if after.is_empty() { Layout::TokenMajor } else { Layout::FeatureMajor };
        // What both have around the columns and rows, cut where the inner axes begin.
        let outer = match (after.is_empty(), y_after.is_empty()) {
            (true, true) if batch.is_empty() => 0,
            (true, true) => around(before, &batch)?[0].len() + batch.len(),
            (false, _) => before.len(),
            (true, false) => y_before.len(),
        };
        let [all, y_all] = [[before, after].concat(), [y_before, y_after].concat()];
        let (outer, inner) = all.split_at_checked(outer)?;
        let fits = all == y_all
            && ends_with_batch(outer)
            && (after.is_empty() || after == inner)
            && (y_after.is_empty() || y_after == inner);
        fits.then(|| (size(outer), size(inner), layout(after), layout(y_after)))
    };
    let (parts, permuted) = (size(&batch), |from: &[Label], to: &[Label]| -> Option<Vec<usize>> {
        let perm: Vec<usize> =
            to.iter().map(|label| from.iter().position(|l| l == label)).collect::<Option<_>>()?;
        Some(perm)
    });
    let (form, x_perm, y_labels, y_perm) = match direct() {
        Some((outer, n, x_layout, y_layout)) => {
            let form = Form::Matrix { batch: outer, n, x_layout, y_layout, parts, xs: outer };
            (form, None, axes.output.clone(), None)
        }
        None => {
            let inner: Vec<Label> =
                axes.output.iter().copied().filter(|l| !rows.contains(l) && !batch.contains(l)).collect();
            let (x_to, y_from) = ([&batch[..], &inner, &cols].concat(), [&batch[..], &inner, &rows].concat());
            let layout = Layout::TokenMajor;
            let form = Form::Matrix {
                batch: parts,
                n: size(&inner),
                x_layout: layout,
                y_layout: layout,
                parts,
                xs: parts,
            };
            (form, Some(permuted(x_labels, &x_to)?), y_from.clone(), Some(permuted(&y_from, &axes.output)?))
        }
    };
    // Rows along one axis may be followed by an epilogue.
    let channel_axis = match rows[..] {
        [row] => y_labels.iter().position(|&label| label == row)?,
        _ => usize::MAX,
    };
    let product = Product::new(Source::new(weight, listed.form), form, channel_axis);
    let y_shape = y_labels.iter().map(|label| axes.sizes[label]).collect();
    Some(Parts { product, x: (x, x_perm), y: (y_shape, y_perm) })
}

/// Appends the product with its transposes.
fn push(
    draft: &mut Draft<'_>,
    node: &DraftNode,
    product: Product,
    (x, x_perm): (ValueId, Option<Vec<usize>>),
    (y_shape, y_perm): (Vec<usize>, Option<Vec<usize>>),
) {
    let transpose = |perm, input, output| DraftNode {
        kind: Kind::Op(Op::Transpose { perm }),
        node: node.node,
        inputs: vec![Some(input)],
        outputs: vec![output],
    };
    let identity = |perm: &Vec<usize>| perm.iter().enumerate().all(|(i, &p)| i == p);
    let mut input = x;
    if let Some(perm) = x_perm.filter(|perm| !identity(perm)) {
        let shape = draft.shape(x).map(|shape| perm.iter().map(|&p| shape[p]).collect());
        input = draft.add_value(Info { dtype: DataType::F32, shape, value: None });
        draft.nodes.push(transpose(perm, x, Some(input)));
    }
    let y_perm = y_perm.filter(|perm| !identity(perm));
    let made = match &y_perm {
        Some(_) => Some(draft.add_value(Info { dtype: DataType::F32, shape: Some(y_shape), value: None })),
        None => node.output(0),
    };
    let kind = Kind::lowered(product);
    draft.nodes.push(DraftNode { kind, node: node.node, inputs: vec![Some(input)], outputs: vec![made] });
    if let (Some(perm), Some(made)) = (y_perm, made) {
        draft.nodes.push(transpose(perm, made, node.output(0)));
    }
}
