//! Graphs grown from a tape of decisions, of what fusion, lowering and layout look for: products of every form with what
//! may follow them, functions spelled out, shapes changed in between, values used twice and wanted inside a chain.
//!
//! A move that does not fit the shapes at hand is left out: the operators' own inference says so.

use std::collections::HashMap;

use poda_formats::op::{Binary, Unary};
use poda_formats::{Dim, Graph, Op, Tensor, ValueId};
use poda_runtime::{Info, ops};

use crate::choices::Choices;
use crate::moves;

/// Sizes of dimensions: none, one, small, prime, and on both sides of a vector.
const SIZES: &[usize] = &[2, 3, 1, 4, 5, 3, 2, 7, 1, 16, 17, 0];
/// Elements beyond which a value is not made.
const MOST: usize = 6000;

/// A graph with what it is fed.
pub(crate) struct Grown {
    pub(crate) graph: Graph,
    pub(crate) feeds: Vec<(String, Tensor)>,
}

/// Grows a graph from a tape.
pub(crate) fn grow(tape: &[u32]) -> Grown {
    let mut choices = Choices::new(tape);
    let sparsity = choices.of(&[0, 0, 80, 50]);
    let mut grower = Grower {
        choices,
        graph: Graph::default(),
        feeds: Vec::new(),
        infos: HashMap::new(),
        values: Vec::new(),
        sparsity,
        seed: 0,
    };
    let shape = grower.first_shape();
    let x = grower.feed(&shape);
    grower.values.push(x);
    while !grower.choices.done() && grower.graph.nodes.len() < 40 {
        let made = moves::any(&mut grower);
        grower.values.extend(made);
    }
    grower.finish()
}

pub(crate) struct Grower<'t> {
    pub(crate) choices: Choices<'t>,
    graph: Graph,
    feeds: Vec<(String, Tensor)>,
    infos: HashMap<ValueId, Info>,
    /// What further moves start from: f32 values that are fed or computed.
    values: Vec<ValueId>,
    /// Percent of the weights of products that are zero.
    sparsity: usize,
    seed: u64,
}

impl Grower<'_> {
    fn first_shape(&mut self) -> Vec<usize> {
        let rank = self.choices.of(&[3, 4, 2, 4, 1, 3, 0, 5]);
        let mut shape: Vec<usize> = (0..rank).map(|_| self.size()).collect();
        // Sizes that coincide are where a pattern may mistake one dimension for another.
        if rank > 1 && self.choices.one_in(3) {
            let (from, to) = (self.choices.below(rank), self.choices.below(rank));
            shape[to] = shape[from];
        }
        shape
    }

    pub(crate) fn size(&mut self) -> usize {
        self.choices.of(SIZES)
    }

    /// The value that a move starts from: mostly the last, so that chains grow.
    pub(crate) fn value(&mut self) -> ValueId {
        let count = self.values.len();
        let back = if self.choices.one_in(5) { self.choices.below(count) } else { 0 };
        self.values[count - 1 - back]
    }

    pub(crate) fn shape(&self, id: ValueId) -> Vec<usize> {
        self.infos[&id].shape.clone().expect("only values of known shape are kept")
    }

    fn name(&self) -> String {
        format!("v{}", self.graph.values.len())
    }

    /// Multiples of an eighth from -1 to 1, which compress well.
    fn numbers(&mut self, shape: &[usize]) -> Vec<f32> {
        self.seed += 1;
        let mut state = self.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize
        };
        (0..shape.iter().product::<usize>()).map(|_| (next() % 17) as f32 / 8.0 - 1.0).collect()
    }

    /// A further input of the graph.
    pub(crate) fn feed(&mut self, shape: &[usize]) -> ValueId {
        let values = self.numbers(shape);
        self.feed_tensor(Tensor::from_slice(shape, &values))
    }

    pub(crate) fn feed_tensor(&mut self, tensor: Tensor) -> ValueId {
        let name = format!("x{}", self.feeds.len());
        // Some leading dimensions are open.
        let open = self.choices.one_in(2);
        let dims = tensor.shape().iter().enumerate().map(|(axis, &d)| match axis {
            0 if open => Dim::Symbol(format!("{name}_batch")),
            _ => Dim::Fixed(d),
        });
        let id = self.graph.add_input(name.clone(), tensor.dtype(), dims.collect());
        self.infos.insert(id, Info::new(tensor.dtype(), tensor.shape().to_vec()));
        self.feeds.push((name, tensor));
        id
    }

    pub(crate) fn constant(&mut self, tensor: Tensor) -> ValueId {
        let name = self.name();
        let id = self.graph.add_weight(name, tensor.clone());
        self.infos.insert(id, Info::constant(tensor));
        id
    }

    pub(crate) fn scalar(&mut self, value: f32) -> ValueId {
        self.constant(Tensor::scalar(value))
    }

    /// A scalar that has `rank` dimensions.
    pub(crate) fn scalar_of(&mut self, rank: usize, value: f32) -> ValueId {
        self.constant(Tensor::from_slice(&vec![1; rank], &[value]))
    }

    pub(crate) fn ints(&mut self, values: &[i64]) -> ValueId {
        self.constant(Tensor::from_slice(&[values.len()], values))
    }

    /// A constant of any values.
    pub(crate) fn any(&mut self, shape: &[usize]) -> ValueId {
        let values = self.numbers(shape);
        self.constant(Tensor::from_slice(shape, &values))
    }

    /// A constant from a half to one and a half, of either sign: it may divide.
    pub(crate) fn divisor(&mut self, shape: &[usize]) -> ValueId {
        let values: Vec<f32> = self
            .numbers(shape)
            .iter()
            .map(|v| (v / 2.0 + 1.0) * if *v == 0.25 { -1.0 } else { 1.0 })
            .collect();
        self.constant(Tensor::from_slice(shape, &values))
    }

    /// A constant from a half to one and a half.
    pub(crate) fn positive(&mut self, shape: &[usize]) -> ValueId {
        let values: Vec<f32> = self.numbers(shape).iter().map(|v| v / 2.0 + 1.0).collect();
        self.constant(Tensor::from_slice(shape, &values))
    }

    /// Weights of a product over `k` elements, scaled so that what it gives is about as large as what it takes.
    pub(crate) fn weight(&mut self, shape: &[usize], k: usize) -> ValueId {
        let scale = 2.0_f32.powf(-((k as f32 / 3.0).max(1.0).log2() / 2.0).round());
        let zeros = self.numbers(shape);
        let sparsity = self.sparsity as f32;
        let kept = |z: f32| (z + 1.0) * 50.0 >= sparsity;
        let values: Vec<f32> = self.numbers(shape);
        let values: Vec<f32> =
            values.iter().zip(&zeros).map(|(&v, &z)| if kept(z) { v * scale } else { 0.0 }).collect();
        self.constant(Tensor::from_slice(shape, &values))
    }

    /// A node with these inputs, if they fit it and what it gives is not too large.
    pub(crate) fn node(&mut self, op: Op, inputs: &[ValueId]) -> Option<ValueId> {
        let infos: Vec<_> = inputs.iter().map(|id| Some(&self.infos[id])).collect();
        let mut infos = ops::infer(&op, &infos, 1).ok()?;
        let info = infos.remove(0);
        if info.shape.as_ref()?.iter().product::<usize>() > MOST || info.shape.as_ref()?.len() > 6 {
            return None;
        }
        let name = self.name();
        let id = self.graph.add_node(op, inputs, name);
        self.infos.insert(id, info);
        Some(id)
    }

    pub(crate) fn unary(&mut self, function: Unary, x: ValueId) -> Option<ValueId> {
        self.node(Op::Unary(function), &[x])
    }

    pub(crate) fn binary(&mut self, function: Binary, a: ValueId, b: ValueId) -> Option<ValueId> {
        self.node(Op::Binary(function), &[a, b])
    }

    /// `f(a, b)` or, where the function commutes, perhaps `f(b, a)`.
    pub(crate) fn either(&mut self, function: Binary, a: ValueId, b: ValueId) -> Option<ValueId> {
        let commutes = matches!(function, Binary::Add | Binary::Mul);
        if commutes && self.choices.one_in(2) {
            self.binary(function, b, a)
        } else {
            self.binary(function, a, b)
        }
    }

    /// With a scalar constant, mostly of no dimensions.
    pub(crate) fn by(&mut self, function: Binary, x: ValueId, value: f32) -> Option<ValueId> {
        let rank = if self.choices.one_in(6) { self.choices.below(3) } else { 0 };
        let scalar = self.scalar_of(rank, value);
        self.either(function, x, scalar)
    }

    /// Another value, or a new input or constant of its shape.
    pub(crate) fn companion(&mut self, shape: &[usize]) -> ValueId {
        match self.choices.below(4) {
            0 => self.feed(shape),
            1 => self.any(shape),
            _ => {
                let at = self.choices.below(self.values.len());
                self.values[at]
            }
        }
    }

    fn finish(mut self) -> Grown {
        let count = self.values.len();
        let mut outputs = vec![self.values[count - 1]];
        // Some values inside a chain are wanted, too.
        for _ in 0..self.choices.of(&[0, 0, 1, 2]) {
            outputs.push(self.values[self.choices.below(count)]);
        }
        outputs.sort_unstable();
        outputs.dedup();
        self.graph.outputs = outputs;
        Grown { graph: self.graph, feeds: self.feeds }
    }
}
