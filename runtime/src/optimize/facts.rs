//! What holds for a value whatever the shapes of the inputs: its type, its elements where they follow from weights alone,
//! its rank, and those of its sizes that weights and attributes fix.
//!
//! Each rule is the operator's own, for shapes of which only some sizes are known. An operator without a rule here gives a
//! value of unknown rank, about which no pass can prove anything. What was asked for and is not known is noted
//! ([`Facts::open`]).

use std::cell::Cell;

use poda_formats::{DataType, Dim, Graph, Op, Tensor, ValueId};

use super::matching::input;
use crate::analysis::Analysis;
use crate::info::Info;

/// Sizes, where they are known.
pub(super) type Sizes = Vec<Option<usize>>;

/// Facts about every value of a graph.
#[derive(Debug)]
pub(super) struct Facts {
    infos: Vec<Option<Info>>,
    /// `None` where not even the rank is known.
    sizes: Vec<Option<Sizes>>,
    open: Cell<bool>,
}

impl Facts {
    /// What follows from an analysis: of shapes that are known, or of none.
    pub(super) fn new(graph: &Graph, analysis: Analysis) -> Self {
        let known =
            |info: &Option<Info>| Some(info.as_ref()?.shape.as_ref()?.iter().map(|&d| Some(d)).collect());
        let sizes = analysis.infos.iter().map(known).collect();
        let mut facts = Self { sizes, infos: analysis.infos, open: Cell::new(false) };
        for &id in graph.inputs.iter().filter(|id| facts.sizes[id.index()].is_none()).collect::<Vec<_>>() {
            let fixed = |dim: &Dim| if let Dim::Fixed(size) = dim { Some(*size) } else { None };
            let declared = graph.value(id).shape.as_ref();
            facts.sizes[id.index()] = declared.map(|dims| dims.iter().map(fixed).collect());
        }
        for node in &graph.nodes {
            let Some(output) = node.output(0).filter(|id| facts.sizes[id.index()].is_none()) else {
                continue;
            };
            facts.sizes[output.index()] = facts.infer(&node.op, &node.inputs);
        }
        facts
    }

    /// The analysis of a graph that has not changed since.
    pub(super) fn into_analysis(self) -> Analysis {
        Analysis { infos: self.infos, failures: Vec::new() }
    }

    /// Whether something was asked for that only shapes tell.
    pub(super) fn open(&self) -> bool {
        self.open.get()
    }

    /// What is known, or a note that it is not.
    pub(super) fn asked<T>(&self, fact: Option<T>) -> Option<T> {
        self.open.set(self.open.get() || fact.is_none());
        fact
    }

    /// A further constant.
    pub(super) fn add(&mut self, tensor: Tensor) {
        self.sizes.push(Some(tensor.shape().iter().map(|&d| Some(d)).collect()));
        self.infos.push(Some(Info::constant(tensor)));
    }

    pub(super) fn dtype(&self, id: ValueId) -> Option<DataType> {
        self.asked(self.infos[id.index()].as_ref().map(|info| info.dtype))
    }

    /// Elements that follow from weights, or from weights and the shapes that are known.
    pub(super) fn constant(&self, id: ValueId) -> Option<&Tensor> {
        self.infos[id.index()].as_ref()?.value.as_ref()
    }

    pub(super) fn sizes(&self, id: ValueId) -> Option<&Sizes> {
        self.asked(self.sizes[id.index()].as_ref())
    }

    pub(super) fn rank(&self, id: ValueId) -> Option<usize> {
        self.sizes(id).map(Vec::len)
    }

    /// Sizes of the first output of an operator.
    fn infer(&self, op: &Op, inputs: &[Option<ValueId>]) -> Option<Sizes> {
        let of = |index: usize| self.sizes[input(inputs, index)?.index()].as_ref();
        let ints = |index: usize| self.constant(input(inputs, index)?)?.as_slice::<i64>().ok();
        if like_first(op) {
            return of(0).cloned();
        }
        if matches!(op, Op::Binary(_) | Op::Variadic(_) | Op::Where) {
            let mut all = (0..inputs.len()).map(of);
            let first = all.next()??.clone();
            return all.try_fold(first, |a, b| Some(broadcast(&a, b?)));
        }
        if matches!(op, Op::MatMul) {
            return matmul(of(0)?, of(1)?);
        }
        if let Op::Gemm { trans_a, trans_b, .. } = op {
            let (a, b) = (of(0)?, of(1)?);
            let row = *a.get(usize::from(*trans_a))?;
            return Some(vec![row, *b.get(usize::from(!*trans_b))?]);
        }
        if let Op::Conv(_) = op {
            let (x, w) = (of(0)?, of(1)?);
            return Some(
                [&[*x.first()?, *w.first()?][..], &vec![None; x.len().checked_sub(2)?][..]].concat(),
            );
        }
        if matches!(op, Op::Pool(_) | Op::GlobalPool { .. }) {
            let x = of(0)?;
            let spatial = if matches!(op, Op::Pool(_)) { None } else { Some(1) };
            return Some([x.get(..2)?, &vec![spatial; x.len() - 2][..]].concat());
        }
        if let Op::Transpose { perm } = op {
            let x = of(0)?;
            return match perm[..] {
                [] => Some(x.iter().rev().copied().collect()),
                _ => perm.iter().map(|&p| x.get(p).copied()).collect(),
            };
        }
        if let Op::Reshape { allow_zero } = op {
            return reshape(of(0), of(1)?, ints(1), *allow_zero);
        }
        if let Op::Flatten { .. } = op {
            return Some(vec![None; 2]);
        }
        if matches!(op, Op::Unsqueeze | Op::Squeeze) {
            return axes_changed(of(0)?, ints(1)?, matches!(op, Op::Unsqueeze));
        }
        if let Op::Reduce { keep_dims, noop_with_empty_axes: false, .. } = op {
            let x = of(0)?;
            let axes = places(ints(1)?, x.len())?;
            if axes.is_empty() {
                return None;
            }
            let sizes = x.iter().enumerate().filter(|(i, _)| *keep_dims || !axes.contains(i));
            return Some(sizes.map(|(i, &d)| if axes.contains(&i) { Some(1) } else { d }).collect());
        }
        if let Op::Concat { axis } = op {
            let x = of(0)?;
            let at = places(&[*axis], x.len())?[0];
            let along = |index: usize| *of(index)?.get(at)?;
            let sum = (0..inputs.len()).try_fold(0_usize, |sum, index| sum.checked_add(along(index)?));
            return Some(x.iter().enumerate().map(|(i, &d)| if i == at { sum } else { d }).collect());
        }
        if let Op::Gather { axis } = op {
            let (x, indices) = (of(0)?, of(1)?);
            let at = places(&[*axis], x.len())?[0];
            return Some([&x[..at], &indices[..], &x[at + 1..]].concat());
        }
        if matches!(op, Op::Slice | Op::Split { .. } | Op::Pad { .. } | Op::Resize(_) | Op::Tile) {
            return Some(vec![None; of(0)?.len()]);
        }
        if matches!(op, Op::Expand) {
            let to = (*of(1)?.first()?)?;
            return Some(vec![None; to.max(of(0)?.len())]);
        }
        if let Op::Shape { start: 0, end: None } = op {
            return Some(vec![Some(of(0)?.len())]);
        }
        None
    }
}

/// Whether the first output has the shape of the first input.
fn like_first(op: &Op) -> bool {
    matches!(
        op,
        Op::Unary(_)
            | Op::Clip
            | Op::Cast { .. }
            | Op::CastLike
            | Op::Identity
            | Op::Softmax { .. }
            | Op::BatchNormalization { .. }
            | Op::InstanceNormalization { .. }
            | Op::LayerNormalization { .. }
            | Op::GroupNormalization { .. }
            | Op::RmsNormalization { .. }
            | Op::LpNormalization { .. }
            | Op::MeanVarianceNormalization { .. }
            | Op::Lrn { .. }
            | Op::RotaryEmbedding { .. }
            | Op::Cumulative { .. }
            | Op::Trilu { .. }
            | Op::QuantizeLinear { .. }
            | Op::DequantizeLinear { .. }
    )
}

/// Sizes aligned at the end; a size that is known and not 1 decides.
fn broadcast(a: &[Option<usize>], b: &[Option<usize>]) -> Sizes {
    let rank = a.len().max(b.len());
    let at = |s: &[Option<usize>], i: usize| (i + s.len()).checked_sub(rank).map_or(Some(1), |i| s[i]);
    let size = |i| match (at(a, i), at(b, i)) {
        (Some(1), other) | (other, Some(1)) => other,
        (Some(size), _) | (_, Some(size)) => Some(size),
        (None, None) => None,
    };
    (0..rank).map(size).collect()
}

fn matmul(a: &[Option<usize>], b: &[Option<usize>]) -> Option<Sizes> {
    // A vector is a matrix of one row or column, which the result lacks.
    let (rows, a_batch) = match a {
        [] => return None,
        [_] => (None, &[][..]),
        [batch @ .., rows, _] => (Some(*rows), batch),
    };
    let (cols, b_batch) = match b {
        [] => return None,
        [_] => (None, &[][..]),
        [batch @ .., _, cols] => (Some(*cols), batch),
    };
    let mut sizes = broadcast(a_batch, b_batch);
    sizes.extend(rows.into_iter().chain(cols));
    Some(sizes)
}

fn reshape(x: Option<&Sizes>, shape: &Sizes, to: Option<&[i64]>, allow_zero: bool) -> Option<Sizes> {
    let rank = (*shape.first()?)?;
    let Some(to) = to else { return Some(vec![None; rank]) };
    let size = |(i, &d): (usize, &i64)| match d {
        0 if !allow_zero => *x?.get(i)?,
        d => usize::try_from(d).ok(),
    };
    Some(to.iter().enumerate().map(size).collect())
}

/// With axes of one element put in, or such axes taken out.
fn axes_changed(x: &Sizes, axes: &[i64], put_in: bool) -> Option<Sizes> {
    if !put_in {
        let axes = places(axes, x.len())?;
        return Some(x.iter().enumerate().filter(|(i, _)| !axes.contains(i)).map(|(_, &d)| d).collect());
    }
    let rank = x.len() + axes.len();
    let axes = places(axes, rank)?;
    let mut rest = x.iter().copied();
    (0..rank).map(|i| if axes.contains(&i) { Some(Some(1)) } else { rest.next() }).collect()
}

/// Axes counted from the front.
pub(super) fn places(axes: &[i64], rank: usize) -> Option<Vec<usize>> {
    let place = |&axis: &i64| {
        let axis = if axis < 0 { axis.checked_add(rank as i64)? } else { axis };
        usize::try_from(axis).ok().filter(|&axis| axis < rank)
    };
    axes.iter().map(place).collect()
}

#[cfg(test)]
mod tests {
    use poda_formats::op::{Binary, ReduceKind};

    use super::*;
    use crate::analysis;

    #[test]
    fn sizes_that_shapes_do_not_change_are_known() {
        let mut g = Graph::default();
        let dims = [Dim::Symbol("batch".into()), Dim::Symbol("length".into()), Dim::Fixed(6)];
        let x = g.add_input("x", DataType::F32, dims.to_vec());
        let anything = g.add_input("anything", DataType::F32, vec![]);
        g.value_mut(anything).shape = None;
        let w = g.add_weight("w", Tensor::zeros(DataType::F32, &[6, 8]));
        let bias = g.add_weight("bias", Tensor::zeros(DataType::F32, &[1, 1, 1, 8]));
        let ints = |g: &mut Graph, name: &str, values: &[i64]| {
            g.add_weight(name, Tensor::from_slice(&[values.len()], values))
        };
        let heads = ints(&mut g, "heads", &[0, 0, 2, -1]);
        let last = ints(&mut g, "last", &[-1]);
        let mut cases: Vec<(ValueId, Option<Sizes>)> = Vec::new();
        let y = g.add_node(Op::MatMul, &[x, w], "y");
        cases.push((y, Some(vec![None, None, Some(8)])));
        let sum = g.add_node(Op::Binary(Binary::Add), &[y, bias], "sum");
        cases.push((sum, Some(vec![Some(1), None, None, Some(8)])));
        let split = g.add_node(Op::Reshape { allow_zero: false }, &[y, heads], "split");
        cases.push((split, Some(vec![None, None, Some(2), None])));
        let turned = g.add_node(Op::Transpose { perm: vec![0, 2, 1, 3] }, &[split], "turned");
        cases.push((turned, Some(vec![None, Some(2), None, None])));
        let kind = ReduceKind::Mean;
        let reduce = |keep_dims| Op::Reduce { kind, keep_dims, noop_with_empty_axes: false };
        let mean = g.add_node(reduce(true), &[y, last], "mean");
        cases.push((mean, Some(vec![None, None, Some(1)])));
        let flat = g.add_node(reduce(false), &[y, last], "flat");
        cases.push((flat, Some(vec![None, None])));
        let shape = g.add_node(Op::Shape { start: 0, end: None }, &[y], "shape");
        cases.push((shape, Some(vec![Some(3)])));
        let joined = g.add_node(Op::Concat { axis: 0 }, &[shape, last], "joined");
        cases.push((joined, Some(vec![Some(4)])));
        let four = g.add_node(Op::Reshape { allow_zero: false }, &[y, joined], "four");
        cases.push((four, Some(vec![None; 4])));
        let wider = g.add_node(Op::Unsqueeze, &[y, last], "wider");
        cases.push((wider, Some(vec![None, None, Some(8), Some(1)])));
        let squeezed = g.add_node(Op::Squeeze, &[wider], "squeezed");
        cases.push((squeezed, None));
        let unknown = g.add_node(Op::Binary(Binary::Add), &[anything, y], "unknown");
        cases.push((unknown, None));
        let facts = Facts::new(&g, analysis::analyze_with(&g, &|_| None));
        for (id, expected) in cases {
            assert_eq!(facts.sizes(id), expected.as_ref(), "{}", g.value(id).name);
            assert!(expected.is_some() || facts.open(), "what is not known is noted");
        }
    }
}
