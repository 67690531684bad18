//! A small residual network: a convolution, two stages of two blocks, the mean over pixels, a product.

use poda_formats::op::{Binary, ConvAttributes, Op, Padding, PoolKind, Unary};
use poda_formats::{DataType, Dim, Graph, Tensor, ValueId};
use rand::RngExt;
use rand::rngs::StdRng;

use super::{CLASSES, PIXELS};

struct Builder<'r> {
    graph: Graph,
    rng: &'r mut StdRng,
}

impl Builder<'_> {
    fn weight(&mut self, name: &str, shape: &[usize]) -> ValueId {
        let inputs: usize = shape[1..].iter().product();
        let bound = (6.0 / inputs as f32).sqrt();
        let values: Vec<f32> =
            (0..shape.iter().product()).map(|_| self.rng.random_range(-bound..bound)).collect();
        self.graph.add_weight(name, Tensor::from_slice(shape, &values))
    }

    /// 3×3, or 1×1 where `side` is 1, with batch normalisation.
    fn conv(&mut self, x: ValueId, name: &str, channels: [usize; 2], side: usize, stride: usize) -> ValueId {
        let w = self.weight(&format!("{name}.weight"), &[channels[1], channels[0], side, side]);
        let conv = Op::Conv(ConvAttributes {
            group: 1,
            kernel: vec![side; 2],
            strides: vec![stride; 2],
            dilations: vec![],
            padding: Padding::Explicit(vec![side as i64 / 2; 4]),
        });
        let y = self.graph.add_node(conv, &[x, w], name);
        let norm = [("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0_f32)];
        let norm = norm.map(|(what, value)| {
            let values = vec![value; channels[1]];
            self.graph.add_weight(format!("{name}.bn.{what}"), Tensor::from_slice(&[channels[1]], &values))
        });
        let inputs = [&[y], &norm[..]].concat();
        self.graph.add_node(Op::BatchNormalization { epsilon: 1e-5 }, &inputs, format!("{name}.bn"))
    }

    fn relu(&mut self, x: ValueId, name: &str) -> ValueId {
        self.graph.add_node(Op::Unary(Unary::Relu), &[x], format!("{name}.relu"))
    }

    fn block(&mut self, x: ValueId, name: &str, channels: [usize; 2], stride: usize) -> ValueId {
        let y = self.conv(x, &format!("{name}.conv1"), channels, 3, stride);
        let y = self.relu(y, &format!("{name}.conv1"));
        let y = self.conv(y, &format!("{name}.conv2"), [channels[1]; 2], 3, 1);
        let skip = if channels[0] == channels[1] {
            x
        } else {
            self.conv(x, &format!("{name}.skip"), channels, 1, stride)
        };
        let y = self.graph.add_node(Op::Binary(Binary::Add), &[y, skip], name);
        self.relu(y, name)
    }
}

/// Input `image` `[batch, 784]`, output `scores` `[batch, 10]`; a first layer of stride 2, and widths 8 and 16.
pub(crate) fn resnet(rng: &mut StdRng) -> Graph {
    let graph = Graph { name: "fashion_mnist_resnet".into(), ..Graph::default() };
    let mut builder = Builder { graph, rng };
    let shape = vec![Dim::Symbol("batch".into()), Dim::Fixed(PIXELS)];
    let image = builder.graph.add_input("image", DataType::F32, shape);
    let square = builder.graph.add_weight("square", Tensor::from_slice(&[4], &[-1_i64, 1, 28, 28]));
    let mut x = builder.graph.add_node(Op::Reshape { allow_zero: false }, &[image, square], "square_image");
    x = builder.conv(x, "conv", [1, 8], 3, 2);
    x = builder.relu(x, "conv");
    for (name, channels, stride) in
        [("block1", [8, 8], 1), ("block2", [8, 8], 1), ("block3", [8, 16], 2), ("block4", [16, 16], 1)]
    {
        x = builder.block(x, name, channels, stride);
    }
    x = builder.graph.add_node(Op::GlobalPool { kind: PoolKind::Average }, &[x], "pool");
    x = builder.graph.add_node(Op::Flatten { axis: 1 }, &[x], "features");
    let w = builder.weight("fc.weight", &[CLASSES, 16]);
    let b = builder.graph.add_weight("fc.bias", Tensor::from_slice(&[CLASSES], &[0.0_f32; CLASSES]));
    let gemm = Op::Gemm { alpha: 1.0, beta: 1.0, trans_a: false, trans_b: true };
    let scores = builder.graph.add_node(gemm, &[x, w, b], "scores");
    builder.graph.outputs.push(scores);
    builder.graph
}
