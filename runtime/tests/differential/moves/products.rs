//! Products and what belongs to them.

use poda_formats::op::{Binary, ConvAttributes, PadMode, Padding};
use poda_formats::{Op, ValueId};

use crate::grow::Grower;

/// A bias in the shape that exporters write it, or in another that fits.
fn bias(g: &mut Grower<'_>, y: ValueId, channels: usize) -> Option<ValueId> {
    if !g.choices.one_in(2) {
        return Some(y);
    }
    let bias = g.any(&[channels]);
    g.either(Binary::Add, y, bias)
}

/// With a constant on the right.
pub(super) fn matmul(g: &mut Grower<'_>) -> Option<ValueId> {
    let x = g.value();
    let k = *g.shape(x).last()?;
    let m = g.size();
    let ones = if g.choices.one_in(4) { g.choices.below(3) } else { 0 };
    let shape = [&vec![1; ones][..], &[k, m]].concat();
    let w = g.weight(&shape, k);
    let y = g.node(Op::MatMul, &[x, w])?;
    bias(g, y, m)
}

/// With a constant on the left, or a vector on either side.
pub(super) fn left(g: &mut Grower<'_>) -> Option<ValueId> {
    let x = g.value();
    let shape = g.shape(x);
    if g.choices.one_in(5) {
        let w = g.weight(&[*shape.last()?], *shape.last()?);
        return g.node(Op::MatMul, &[x, w]);
    }
    let k = if shape.len() > 1 { shape[shape.len() - 2] } else { *shape.last()? };
    let m = g.size();
    let w = if g.choices.one_in(6) { g.weight(&[1, m, k], k) } else { g.weight(&[m, k], k) };
    let y = g.node(Op::MatMul, &[w, x])?;
    if !g.choices.one_in(2) {
        return Some(y);
    }
    let bias = g.any(&[m, 1]);
    g.either(Binary::Add, y, bias)
}

pub(super) fn gemm(g: &mut Grower<'_>) -> Option<ValueId> {
    let x = g.value();
    let [rows, cols] = g.shape(x)[..] else { return None };
    let (trans_a, trans_b) = (g.choices.one_in(3), g.choices.one_in(2));
    let [n, k] = if trans_a { [cols, rows] } else { [rows, cols] };
    let m = if g.choices.one_in(4) { n } else { g.size() };
    let w = g.weight(&if trans_b { [m, k] } else { [k, m] }, k);
    let (alpha, beta) = (g.choices.of(&[1.0, 0.5, 2.0]), g.choices.of(&[1.0, 0.5, 0.0]));
    let op = Op::Gemm { alpha, beta, trans_a, trans_b };
    let shapes: [&[usize]; 7] = [&[m], &[n, 1], &[1, m], &[n, m], &[1, 1], &[1], &[]];
    let shape = match g.choices.below(8) {
        7 => return g.node(op, &[x, w]),
        i => shapes[i],
    };
    let c = if g.choices.one_in(4) { g.feed(shape) } else { g.any(shape) };
    g.node(op, &[x, w, c])
}

pub(super) fn conv(g: &mut Grower<'_>) -> Option<ValueId> {
    let x = g.value();
    let shape = g.shape(x);
    let spatial = shape.len().checked_sub(2).filter(|s| (1..=3).contains(s))?;
    let channels = shape[1];
    let image = &shape[2..];
    let (group, filters) = match g.choices.below(5) {
        0 | 1 => (1, g.size()),
        2 => (channels, channels),
        3 => (channels, 2 * channels),
        _ => (2, 2 * g.choices.of(&[1, 2, 4])),
    };
    let (kernel, strides) = match g.choices.below(4) {
        // The window is the whole image.
        0 => (image.to_vec(), vec![g.choices.of(&[1, 2]); spatial]),
        1 => (vec![1; spatial], vec![]),
        2 => (vec![3; spatial], vec![]),
        _ => ((0..spatial).map(|_| g.choices.of(&[2, 3, 5])).collect(), vec![g.choices.of(&[2, 3]); spatial]),
    };
    let pads = if g.choices.one_in(2) {
        vec![kernel.first().map_or(0, |&k| k as i64 / 2); 2 * spatial]
    } else {
        (0..2 * spatial).map(|_| g.choices.of(&[0, 0, 0, 1])).collect()
    };
    let dilations = if g.choices.one_in(5) { vec![2; spatial] } else { vec![] };
    let mut x = x;
    let own = if g.choices.one_in(4) {
        let mut all = vec![0; 2 * (spatial + 2)];
        for side in 0..2 {
            all[side * (spatial + 2) + 2..][..spatial].copy_from_slice(&pads[side * spatial..][..spatial]);
        }
        let all = g.ints(&all);
        x = g.node(Op::Pad { mode: PadMode::Constant }, &[x, all])?;
        vec![]
    } else {
        pads
    };
    if group == 0 || kernel.contains(&0) || filters == 0 {
        return None;
    }
    let k = channels / group * kernel.iter().product::<usize>();
    let w = g.weight(&[&[filters, channels / group][..], &kernel].concat(), k);
    let padding = Padding::Explicit(own);
    let op = Op::Conv(ConvAttributes { group, kernel: vec![], strides, dilations, padding });
    if g.choices.one_in(2) {
        return g.node(op, &[x, w]);
    }
    let bias = if g.choices.one_in(8) { g.feed(&[filters]) } else { g.any(&[filters]) };
    g.node(op, &[x, w, bias])
}

pub(super) fn batch_norm(g: &mut Grower<'_>) -> Option<ValueId> {
    let x = g.value();
    let channels = *g.shape(x).get(1)?;
    let inputs = [x, g.any(&[channels]), g.any(&[channels]), g.any(&[channels]), g.positive(&[channels])];
    let epsilon = g.choices.of(&[1e-5, 1e-3]);
    g.node(Op::BatchNormalization { epsilon }, &inputs)
}
