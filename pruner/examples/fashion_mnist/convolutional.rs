//! Convolutional networks: a small residual one, and one as VGG is built.

use poda_formats::op::{Binary, ConvAttributes, Op, Padding, PoolAttributes, PoolKind, Unary};
use poda_formats::{DataType, Dim, Graph, Tensor, ValueId};
use rand::RngExt;
use rand::rngs::StdRng;

use super::{CLASSES, PIXELS};

struct Builder<'r> {
    graph: Graph,
    rng: &'r mut StdRng,
}

impl<'r> Builder<'r> {
    /// With the input `image` `[batch, 784]`, and the same as `[batch, 1, 28, 28]`.
    fn new(name: &str, rng: &'r mut StdRng) -> (Self, ValueId) {
        let mut graph = Graph { name: name.into(), ..Graph::default() };
        let shape = vec![Dim::Symbol("batch".into()), Dim::Fixed(PIXELS)];
        let image = graph.add_input("image", DataType::F32, shape);
        let square = graph.add_weight("square", Tensor::from_slice(&[4], &[-1_i64, 1, 28, 28]));
        let image = graph.add_node(Op::Reshape { allow_zero: false }, &[image, square], "square_image");
        (Self { graph, rng }, image)
    }

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

    fn product(&mut self, x: ValueId, weight: &str, bias: &str, size: [usize; 2], name: &str) -> ValueId {
        let w = self.weight(weight, &size);
        let b = self.graph.add_weight(bias, Tensor::from_slice(&size[..1], &vec![0.0_f32; size[0]]));
        let gemm = Op::Gemm { alpha: 1.0, beta: 1.0, trans_a: false, trans_b: true };
        self.graph.add_node(gemm, &[x, w, b], name)
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

/// Input `image` `[batch, 784]`, output `scores` `[batch, 10]`; a convolution of stride 2, two stages of two blocks of widths 8 and
/// 16, the mean over pixels, a product.
pub(crate) fn resnet(rng: &mut StdRng) -> Graph {
    let (mut builder, image) = Builder::new("fashion_mnist_resnet", rng);
    let mut x = builder.conv(image, "conv", [1, 8], 3, 2);
    x = builder.relu(x, "conv");
    for (name, channels, stride) in
        [("block1", [8, 8], 1), ("block2", [8, 8], 1), ("block3", [8, 16], 2), ("block4", [16, 16], 1)]
    {
        x = builder.block(x, name, channels, stride);
    }
    x = builder.graph.add_node(Op::GlobalPool { kind: PoolKind::Average }, &[x], "pool");
    x = builder.graph.add_node(Op::Flatten { axis: 1 }, &[x], "features");
    let scores = builder.product(x, "fc.weight", "fc.bias", [CLASSES, 16], "scores");
    builder.graph.outputs.push(scores);
    builder.graph
}

/// Input `image` `[batch, 784]`, output `scores` `[batch, 10]`; three times two convolutions of 3×3 and a maximum of 2×2, of widths
/// 16, 32 and 64, then products of 128 and 10.
pub(crate) fn vgg(rng: &mut StdRng) -> Graph {
    let (mut builder, mut x) = Builder::new("fashion_mnist_vgg", rng);
    let mut channels = 1;
    for (stage, width) in [16, 32, 64].into_iter().enumerate() {
        for layer in 1..=2 {
            let name = format!("conv{}_{layer}", stage + 1);
            x = builder.conv(x, &name, [channels, width], 3, 1);
            x = builder.relu(x, &name);
            channels = width;
        }
        let pool = Op::Pool(PoolAttributes {
            kind: PoolKind::Max,
            kernel: vec![2; 2],
            strides: vec![2; 2],
            dilations: vec![],
            padding: Padding::Explicit(vec![0; 4]),
            ceil_mode: false,
            count_include_pad: false,
            column_major: false,
        });
        x = builder.graph.add_node(pool, &[x], format!("pool{}", stage + 1));
    }
    x = builder.graph.add_node(Op::Flatten { axis: 1 }, &[x], "features");
    x = builder.product(x, "fc1.weight", "fc1.bias", [128, channels * 9], "fc1");
    x = builder.relu(x, "fc1");
    let scores = builder.product(x, "fc2.weight", "fc2.bias", [CLASSES, 128], "scores");
    builder.graph.outputs.push(scores);
    builder.graph
}
