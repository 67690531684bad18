//! What each operator couples and blocks, on the smallest networks that show it.

use poda_formats::op::{
    Binary, ConvAttributes, Direction, ForeignOp, Padding, PoolKind, RecurrentAttributes, RecurrentKind,
    ReduceKind, SoftmaxKind, Unary,
};
use poda_formats::{DataType, Dim, Graph, Op, Tensor, ValueId};
use poda_runtime::analysis::analyze;

use super::{DependencyGraph, Facts, Why};

struct Net {
    graph: Graph,
}

impl Net {
    fn new(shape: &[usize]) -> (Self, ValueId) {
        let mut graph = Graph::default();
        let x = graph.add_input("x", DataType::F32, shape.iter().map(|&d| Dim::Fixed(d)).collect());
        (Self { graph }, x)
    }

    fn weight(&mut self, name: &str, shape: &[usize]) -> ValueId {
        let values = vec![0.5_f32; shape.iter().product()];
        self.graph.add_weight(name, Tensor::from_slice(shape, &values))
    }

    fn ints(&mut self, values: &[i64]) -> ValueId {
        let name = format!("ints{}", self.graph.values.len());
        self.graph.add_weight(name, Tensor::from_slice(&[values.len()], values))
    }

    fn node(&mut self, op: Op, inputs: &[ValueId]) -> ValueId {
        let name = format!("v{}", self.graph.values.len());
        self.graph.add_node(op, inputs, name)
    }

    fn conv(&mut self, x: ValueId, name: &str, shape: [usize; 2], group: usize) -> ValueId {
        let w = self.weight(name, &[shape[0], shape[1], 1, 1]);
        let padding = Padding::Explicit(Vec::new());
        let (kernel, strides, dilations) = (Vec::new(), Vec::new(), Vec::new());
        self.node(Op::Conv(ConvAttributes { group, kernel, strides, dilations, padding }), &[x, w])
    }

    fn linear(&mut self, x: ValueId, name: &str, shape: [usize; 2]) -> ValueId {
        let w = self.weight(name, &shape);
        self.node(Op::MatMul, &[x, w])
    }

    fn relu(&mut self, x: ValueId) -> ValueId {
        self.node(Op::Unary(Unary::Relu), &[x])
    }

    fn reshape(&mut self, x: ValueId, shape: &[i64]) -> ValueId {
        let shape = self.ints(shape);
        self.node(Op::Reshape { allow_zero: false }, &[x, shape])
    }

    /// Groups as "units: weight[dim] …", and refused ones as "units: weight[dim] …: reason".
    fn describe(mut self, output: ValueId) -> (Vec<String>, Vec<(String, Why)>) {
        self.graph.outputs.push(output);
        let analysis = analyze(&self.graph, &std::collections::BTreeMap::new());
        assert!(analysis.failures.is_empty(), "{:?}", analysis.failures);
        let facts = Facts::new(&analysis, &[]);
        let dependencies = DependencyGraph::new(&self.graph, facts);
        let names = |units: usize, members: &[super::Member]| {
            let each = |m: &super::Member| format!("{}[{}]", self.graph.value(m.weight).name, m.dim);
            format!("{units}: {}", members.iter().map(each).collect::<Vec<_>>().join(" "))
        };
        let groups = dependencies.groups().iter().map(|g| names(g.units.len(), &g.members)).collect();
        let refused =
            dependencies.refused().iter().map(|g| (names(g.units, &g.members), g.reason.why)).collect();
        (groups, refused)
    }
}

/// Only the groups; the model's input and output are refused in each.
fn groups(net: Net, output: ValueId) -> Vec<String> {
    let (groups, refused) = net.describe(output);
    let expected = |why: &Why| matches!(why, Why::GraphInput | Why::GraphOutput);
    assert!(refused.iter().all(|(_, why)| expected(why)), "{refused:?}");
    groups
}

/// The reason for which the output channels of the weight `a` must stay.
fn reason(net: Net, output: ValueId) -> Why {
    let (groups, refused) = net.describe(output);
    assert!(groups.iter().all(|g| !g.contains(" a[")), "{groups:?}");
    refused.iter().find(|(name, _)| name.contains(" a[0]")).expect("a is refused").1
}

#[test]
fn convolution_norm_and_activation() {
    let (mut n, x) = Net::new(&[1, 3, 4, 4]);
    let x = n.conv(x, "a", [8, 3], 1);
    let vectors = ["scale", "bias", "mean", "variance"].map(|name| n.weight(name, &[8]));
    let inputs = [&[x][..], &vectors].concat();
    let x = n.node(Op::BatchNormalization { epsilon: 1e-5 }, &inputs);
    let x = n.relu(x);
    let y = n.conv(x, "b", [5, 8], 1);
    assert_eq!(groups(n, y), ["8: a[0] scale[0] bias[0] mean[0] variance[0] b[1]"]);
}

#[test]
fn residual_streams_go_together_and_branches_alone() {
    let (mut n, x) = Net::new(&[1, 3, 4, 4]);
    let x = n.conv(x, "a", [8, 3], 1);
    let h = n.conv(x, "b", [4, 8], 1);
    let h = n.conv(h, "c", [8, 4], 1);
    let x = n.node(Op::Binary(Binary::Add), &[x, h]);
    let y = n.conv(x, "d", [5, 8], 1);
    assert_eq!(groups(n, y), ["8: a[0] b[1] c[0] d[1]", "4: b[0] c[1]"]);
}

#[test]
fn concatenated_layers_stay_apart_and_parts_of_one_too() {
    let (mut n, x) = Net::new(&[1, 3, 4, 4]);
    let (a, b) = (n.conv(x, "a", [8, 3], 1), n.conv(x, "b", [4, 3], 1));
    let x = n.node(Op::Concat { axis: 1 }, &[a, b]);
    let y = n.conv(x, "c", [5, 12], 1);
    assert_eq!(groups(n, y), ["8: a[0] c[1]", "4: b[0] c[1]"]);

    let (mut n, x) = Net::new(&[1, 3, 4, 4]);
    let x = n.conv(x, "a", [8, 3], 1);
    let (starts, ends, axes) = (n.ints(&[2]), n.ints(&[6]), n.ints(&[1]));
    let x = n.node(Op::Slice, &[x, starts, ends, axes]);
    let y = n.conv(x, "b", [5, 4], 1);
    // What the slice leaves out, and what it takes.
    assert_eq!(groups(n, y), ["4: a[0]", "4: a[0] b[1]"]);
}

#[test]
fn grouped_convolutions_lose_groups_or_the_same_channels_of_each() {
    let (mut n, x) = Net::new(&[1, 3, 4, 4]);
    let x = n.conv(x, "a", [8, 3], 1);
    let x = n.conv(x, "depthwise", [8, 1], 8);
    let x = n.conv(x, "grouped", [12, 2], 4);
    let y = n.conv(x, "b", [5, 12], 1);
    // Four groups; two channels into each; three out of each.
    let want =
        ["4: a[0] depthwise[0] grouped[0] b[1]", "2: a[0] depthwise[0] grouped[1]", "3: grouped[0] b[1]"];
    assert_eq!(groups(n, y), want);
}

#[test]
fn flattened_channels_take_all_their_pixels() {
    let (mut n, x) = Net::new(&[2, 3, 4, 4]);
    let x = n.conv(x, "a", [8, 3], 1);
    let x = n.node(Op::Flatten { axis: 1 }, &[x]);
    let y = n.linear(x, "b", [8 * 16, 5]);
    assert_eq!(groups(n, y), ["8: a[0] b[0]"]);
}

#[test]
fn heads_and_head_sizes_of_attention() {
    let (mut n, x) = Net::new(&[1, 3, 7]);
    let turn = |n: &mut Net, name: &str| {
        let y = n.linear(x, name, [7, 8]);
        let y = n.reshape(y, &[1, 3, 2, 4]);
        n.node(Op::Transpose { perm: vec![0, 2, 1, 3] }, &[y])
    };
    let (q, k, v) = (turn(&mut n, "q"), turn(&mut n, "k"), turn(&mut n, "v"));
    let k = n.node(Op::Transpose { perm: vec![0, 1, 3, 2] }, &[k]);
    let scores = n.node(Op::MatMul, &[q, k]);
    let weights = n.node(Op::Softmax { kind: SoftmaxKind::Softmax, axis: -1 }, &[scores]);
    let mixed = n.node(Op::MatMul, &[weights, v]);
    let mixed = n.node(Op::Transpose { perm: vec![0, 2, 1, 3] }, &[mixed]);
    let merged = n.reshape(mixed, &[1, 3, 8]);
    let y = n.linear(merged, "o", [8, 6]);
    let want = ["2: q[1] k[1] v[1] o[0]", "4: q[1] k[1]", "4: v[1] o[0]"];
    assert_eq!(groups(n, y), want);
}

#[test]
fn hidden_units_of_recurrent_layers() {
    let (mut n, x) = Net::new(&[5, 1, 3]);
    let x = n.linear(x, "a", [3, 4]);
    let inputs = [x, n.weight("w", &[1, 24, 4]), n.weight("r", &[1, 24, 6]), n.weight("bias", &[1, 48])];
    let y = n.node(
        Op::Recurrent(RecurrentAttributes {
            kind: RecurrentKind::Lstm { input_forget: false },
            hidden_size: 6,
            direction: Direction::Forward,
            activations: Vec::new(),
            activation_alpha: Vec::new(),
            activation_beta: Vec::new(),
            clip: None,
            batch_first: false,
        }),
        &inputs,
    );
    let y = n.reshape(y, &[5, 1, 6]);
    let y = n.linear(y, "b", [6, 2]);
    n.graph.outputs.push(y);
    let analysis = analyze(&n.graph, &std::collections::BTreeMap::new());
    if analysis.failures.is_empty() {
        n.graph.outputs.clear();
        let (groups, _) = n.describe(y);
        assert_eq!(groups, ["4: a[1] w[2]", "6: w[1] r[1] r[2] bias[1] b[0]"]);
    }
}

#[test]
fn a_mean_over_channels_is_rescaled_and_root_mean_squares_too() {
    let (mut n, x) = Net::new(&[1, 3]);
    let x = n.linear(x, "a", [3, 8]);
    let square = n.node(Op::Binary(Binary::Mul), &[x, x]);
    let axes = n.ints(&[-1]);
    let op = Op::Reduce { kind: ReduceKind::Mean, keep_dims: true, noop_with_empty_axes: false };
    let mean = n.node(op, &[square, axes]);
    let x = n.node(Op::Binary(Binary::Div), &[x, mean]);
    let y = n.linear(x, "b", [8, 5]);
    assert_eq!(groups(n, y), ["8: a[1] b[0]"]);
}

#[test]
fn what_must_stay_says_why() {
    type Last = fn(&mut Net, ValueId) -> ValueId;
    let cases: [(&str, Last, Why); 9] = [
        ("output", |_, x| x, Why::GraphOutput),
        ("softmax", |n, x| n.node(Op::Softmax { kind: SoftmaxKind::Softmax, axis: 1 }, &[x]), Why::Softmax),
        (
            "layer norm",
            |n, x| {
                let scale = n.weight("scale", &[8, 4, 4]);
                n.node(Op::LayerNormalization { axis: 1, epsilon: 1e-5 }, &[x, scale])
            },
            Why::Normalised,
        ),
        (
            "maximum over channels",
            |n, x| {
                let axes = n.ints(&[1]);
                let kind = ReduceKind::Max;
                n.node(Op::Reduce { kind, keep_dims: false, noop_with_empty_axes: false }, &[x, axes])
            },
            Why::Searched,
        ),
        (
            "sum of what is not zero",
            |n, x| {
                let x = n.node(Op::Unary(Unary::Sigmoid), &[x]);
                let axes = n.ints(&[1]);
                let kind = ReduceKind::Sum;
                n.node(Op::Reduce { kind, keep_dims: false, noop_with_empty_axes: false }, &[x, axes])
            },
            Why::NotZero,
        ),
        (
            "padding channels",
            |n, x| {
                let pads = n.ints(&[0, 0, 0, 0, 0, 2, 0, 0]);
                n.node(Op::Pad { mode: poda_formats::op::PadMode::Constant }, &[x, pads])
            },
            Why::DataDependent,
        ),
        ("rows that do not line up", |n, x| n.reshape(x, &[16, -1]), Why::NotAligned),
        (
            "one channel picked",
            |n, x| {
                let index = n.graph.add_weight("index", Tensor::scalar(3_i64));
                n.node(Op::Gather { axis: 1 }, &[x, index])
            },
            Why::Picked,
        ),
        (
            "response normalisation",
            |n, x| n.node(Op::Lrn { size: 3, alpha: 1.0, beta: 0.5, bias: 1.0 }, &[x]),
            Why::Normalised,
        ),
    ];
    for (name, last, why) in cases {
        let (mut n, x) = Net::new(&[3, 3, 4, 4]);
        let x = n.conv(x, "a", [8, 3], 1);
        let y = last(&mut n, x);
        assert_eq!(reason(n, y), why, "{name}");
    }
}

#[test]
fn unknown_operators_block_what_they_touch_and_no_more() {
    let (mut n, x) = Net::new(&[1, 3, 4, 4]);
    let h = n.conv(x, "free", [6, 3], 1);
    let h = n.conv(h, "a", [8, 6], 1);
    let foreign = ForeignOp {
        domain: "com.example".into(),
        op_type: "Fancy".into(),
        opset: 1,
        reason: "unknown".into(),
        attributes: Vec::new(),
        captures: 0,
    };
    let y = n.node(Op::Foreign(foreign), &[h]);
    let y = n.node(Op::GlobalPool { kind: PoolKind::Average }, &[y]);
    n.graph.outputs.push(y);
    let analysis = analyze(&n.graph, &std::collections::BTreeMap::new());
    let dependencies = DependencyGraph::new(&n.graph, Facts::new(&analysis, &[]));
    assert_eq!(dependencies.groups().len(), 1);
    assert_eq!(dependencies.groups()[0].name, "free[0]");
    let refused = dependencies.refused().iter().find(|g| g.name == "a[0]").unwrap();
    assert!(matches!(refused.reason.why, Why::DynamicShape | Why::Foreign), "{:?}", refused.reason);
}

#[test]
fn a_hundred_thousand_nodes_take_seconds() {
    let (mut n, x) = Net::new(&[1, 16]);
    let mut x = n.linear(x, "first", [16, 16]);
    let shared = n.weight("shared", &[16, 16]);
    for i in 0..20_000 {
        let h = n.graph.add_node(Op::MatMul, &[x, shared], format!("m{i}"));
        let h = n.graph.add_node(Op::Unary(Unary::Relu), &[h], format!("r{i}"));
        let h = n.graph.add_node(Op::Unary(Unary::Neg), &[h], format!("n{i}"));
        let h = n.graph.add_node(Op::Unary(Unary::Abs), &[h], format!("a{i}"));
        x = n.graph.add_node(Op::Binary(Binary::Add), &[x, h], format!("x{i}"));
    }
    let y = n.linear(x, "last", [16, 4]);
    let start = std::time::Instant::now();
    assert_eq!(groups(n, y), ["16: first[1] shared[0] shared[1] last[0]"]);
    // Generous: linear time takes well under a second.
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}
