//! A network with the shapes of MobileNetV2 (Sandler et al., CVPR 2018, <https://arxiv.org/abs/1801.04381>), weights at random.

use poda_formats::op::{Binary, ConvAttributes, Padding, PoolKind, Unary};
use poda_formats::{DataType, Dim, Graph, Op, Tensor, ValueId};

/// Expansion, channels, repeats and stride of each stage.
const STAGES: [[usize; 4]; 7] = [
    [1, 16, 1, 1],
    [6, 24, 2, 2],
    [6, 32, 3, 2],
    [6, 64, 4, 2],
    [6, 96, 3, 1],
    [6, 160, 3, 2],
    [6, 320, 1, 1],
];

struct Builder {
    graph: Graph,
    sparsity: f64,
    state: u64,
    names: usize,
}

impl Builder {
    fn random(&mut self) -> f64 {
        self.state =
            self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn name(&mut self, kind: &str) -> String {
        self.names += 1;
        format!("{kind}{}", self.names)
    }

    fn weight(&mut self, shape: &[usize], pruned: bool) -> ValueId {
        let taps: usize = shape[1..].iter().product();
        let bound = (6.0 / taps as f64).sqrt();
        let zeros = if pruned { self.sparsity } else { 0.0 };
        let mut value =
            || if self.random() < zeros { 0.0 } else { ((self.random() * 2.0 - 1.0) * bound) as f32 };
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| value()).collect();
        let name = self.name("w");
        self.graph.add_weight(&name, Tensor::from_slice(shape, &values))
    }

    /// A convolution with a bias, and ReLU where asked for.
    fn conv(
        &mut self,
        x: ValueId,
        [out, input]: [usize; 2],
        kernel: usize,
        stride: usize,
        relu: bool,
    ) -> ValueId {
        let depthwise = input == 1;
        let w = self.weight(&[out, input, kernel, kernel], kernel == 1);
        let bias = self.name("b");
        let bias = self.graph.add_weight(&bias, Tensor::from_slice(&[out], &vec![0.1_f32; out]));
        let conv = Op::Conv(ConvAttributes {
            group: if depthwise { out } else { 1 },
            kernel: vec![kernel; 2],
            strides: vec![stride; 2],
            dilations: vec![],
            padding: Padding::Explicit(vec![kernel as i64 / 2; 4]),
        });
        let name = self.name("conv");
        let y = self.graph.add_node(conv, &[x, w, bias], &name);
        if !relu {
            return y;
        }
        let name = self.name("relu");
        self.graph.add_node(Op::Unary(Unary::Relu), &[y], &name)
    }
}

/// The graph, with so many zeros in the weights of its 1×1 convolutions.
pub(crate) fn graph(sparsity: f64) -> Graph {
    let mut b = Builder { graph: Graph::default(), sparsity, state: 7, names: 0 };
    let x = b.graph.add_input("image", DataType::F32, [1, 3, 224, 224].map(Dim::Fixed).to_vec());
    let mut x = b.conv(x, [32, 3], 3, 2, true);
    let mut channels = 32;
    for [expansion, out, repeats, stride] in STAGES {
        for repeat in 0..repeats {
            let stride = if repeat == 0 { stride } else { 1 };
            let wide = expansion * channels;
            let expanded = if expansion > 1 { b.conv(x, [wide, channels], 1, 1, true) } else { x };
            let depthwise = b.conv(expanded, [wide, 1], 3, stride, true);
            let y = b.conv(depthwise, [out, wide], 1, 1, false);
            let name = b.name("add");
            x = if stride == 1 && channels == out {
                b.graph.add_node(Op::Binary(Binary::Add), &[y, x], &name)
            } else {
                y
            };
            channels = out;
        }
    }
    let x = b.conv(x, [1280, channels], 1, 1, true);
    let x = b.graph.add_node(Op::GlobalPool { kind: PoolKind::Average }, &[x], "pooled");
    let x = b.graph.add_node(Op::Flatten { axis: 1 }, &[x], "flat");
    let w = b.weight(&[1280, 1000], true);
    let y = b.graph.add_node(Op::MatMul, &[x, w], "scores");
    b.graph.outputs.push(y);
    b.graph
}
