//! Small networks from lists of layers. A layer that does not fit is left out, so that any list makes a network.

mod convolutional;
mod transformer;

pub(crate) use convolutional::{Head, Layer, network};
pub(crate) use transformer::{Block, transformer};

use poda_formats::op::{Binary, Unary};
use poda_formats::{Graph, Op, Tensor, ValueId};

/// A graph being built, with seeded weights.
pub(crate) struct Builder {
    pub(crate) graph: Graph,
    state: u64,
    count: usize,
}

impl Builder {
    pub(crate) fn new(seed: u64) -> Self {
        Self { graph: Graph::default(), state: seed, count: 0 }
    }

    fn name(&mut self, base: &str) -> String {
        self.count += 1;
        format!("{base}{}", self.count)
    }

    /// A weight with elements in -1..1, away from zero.
    pub(crate) fn weight(&mut self, shape: &[usize]) -> ValueId {
        let len = shape.iter().product();
        let fan: usize = shape.iter().skip(1).product::<usize>().max(1);
        let scale = 1.5 / (fan as f32).sqrt();
        let values: Vec<f32> = (0..len)
            .map(|_| {
                self.state = self
                    .state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                let x = (self.state >> 40) as f32 / (1 << 24) as f32 * 2.0 - 1.0;
                (x + 0.1_f32.copysign(x)) * scale
            })
            .collect();
        let name = self.name("w");
        self.graph.add_weight(name, Tensor::from_slice(shape, &values))
    }

    /// A weight with positive elements.
    pub(crate) fn positive(&mut self, shape: &[usize]) -> ValueId {
        let id = self.weight(shape);
        let tensor = self.graph.weight(id).expect("a weight").to_dense().expect("dense");
        let values: Vec<f32> = tensor.as_slice::<f32>().expect("f32").iter().map(|v| v.abs() + 0.5).collect();
        self.graph.value_mut(id).weight = Some(Tensor::from_slice(shape, &values).into());
        id
    }

    pub(crate) fn integers(&mut self, values: &[i64]) -> ValueId {
        let name = self.name("i");
        self.graph.add_weight(name, Tensor::from_slice(&[values.len()], values))
    }

    pub(crate) fn scalar(&mut self, value: f32) -> ValueId {
        let name = self.name("s");
        self.graph.add_weight(name, Tensor::scalar(value))
    }

    pub(crate) fn node(&mut self, op: Op, inputs: &[ValueId]) -> ValueId {
        let name = self.name("v");
        self.graph.add_node(op, inputs, name)
    }

    pub(crate) fn unary(&mut self, unary: Unary, x: ValueId) -> ValueId {
        self.node(Op::Unary(unary), &[x])
    }

    pub(crate) fn binary(&mut self, binary: Binary, x: ValueId, y: ValueId) -> ValueId {
        self.node(Op::Binary(binary), &[x, y])
    }

    pub(crate) fn reshape(&mut self, x: ValueId, shape: &[i64]) -> ValueId {
        let shape = self.integers(shape);
        self.node(Op::Reshape { allow_zero: false }, &[x, shape])
    }

    /// A node with several outputs.
    pub(crate) fn outputs(&mut self, op: Op, inputs: &[ValueId], count: usize) -> Vec<ValueId> {
        let first = self.node(op, inputs);
        let mut all = vec![first];
        for _ in 1..count {
            let name = self.name("v");
            all.push(self.graph.add_value(poda_formats::Value { name, ..poda_formats::Value::default() }));
        }
        let node = self.graph.nodes.last_mut().expect("just added");
        node.outputs = all.iter().copied().map(Some).collect();
        all
    }
}

/// Sets about `share` of the rows and columns of every matrix of a product to zero.
pub(crate) fn plant_zeros(graph: &mut Graph, share: f64, seed: u64) {
    let mut state = seed;
    let mut chance = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        share > (state >> 40) as f64 / (1_u64 << 24) as f64
    };
    let products: Vec<bool> = graph
        .consumers()
        .iter()
        .map(|users| {
            let product = |&n: &usize| {
                let op = &graph.nodes[n].op;
                matches!(
                    op,
                    Op::MatMul | Op::Gemm { .. } | Op::Conv(_) | Op::ConvTranspose { .. } | Op::Recurrent(_)
                )
            };
            !users.is_empty() && users.iter().all(product)
        })
        .collect();
    for (value, _) in graph.values.iter_mut().zip(products).filter(|(_, product)| *product) {
        let Some(tensor) = value.weight.as_ref().and_then(|w| w.to_dense().ok()) else { continue };
        let shape = tensor.shape().to_vec();
        let (Ok(values), true) = (tensor.as_slice::<f32>(), shape.len() > 1) else { continue };
        let mut values = values.to_vec();
        for dim in 0..2 {
            let inner: usize = shape[dim + 1..].iter().product();
            let gone: Vec<bool> = (0..shape[dim]).map(|_| chance()).collect();
            for (i, value) in values.iter_mut().enumerate() {
                if gone[i / inner % shape[dim]] {
                    *value = 0.0;
                }
            }
        }
        value.weight = Some(Tensor::from_slice(&shape, &values).into());
    }
}
