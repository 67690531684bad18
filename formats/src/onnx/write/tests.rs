//! Every operator goes out and comes back, with bodies, names and weights.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;

use prost::Message;

use super::*;
use crate::dtype::DataType;
use crate::graph::{Dim, Node, Value, ValueId};
use crate::onnx::{read, read_storage};
use crate::op::*;
use crate::storage::{AlignedBytes, Storage};
use crate::tensor::Tensor;
use crate::weight::{CsrMatrix, MatrixWeight, Weight};

/// Graph → ONNX → Graph.
fn back(graph: &Graph, options: &OnnxOptions) -> Graph {
    let mut bytes = Vec::new();
    write(&mut bytes, graph, options).unwrap();
    let mut graph = read_storage(Storage::owned(AlignedBytes::copy_of(&bytes))).unwrap();
    graph.metadata.retain(|key, _| !key.starts_with(METADATA_PREFIX));
    graph
}

fn opset(graph: &Graph) -> i64 {
    let (model, _) = messages(graph, &OnnxOptions::default()).unwrap();
    model.opset_import.iter().find(|import| import.domain.is_empty()).unwrap().version
}

fn value(name: &str, dtype: DataType, shape: &[usize]) -> Value {
    let shape = Some(shape.iter().map(|&d| Dim::Fixed(d)).collect());
    Value { name: name.into(), dtype: Some(dtype), shape, ..Value::default() }
}

/// One node over f32 inputs and outputs.
fn one(op: Op, inputs: usize, outputs: usize) -> Graph {
    let mut g = Graph { name: "one".into(), ..Graph::default() };
    for i in 0..inputs {
        g.add_input(
            format!("in{i}"),
            DataType::F32,
            vec![Dim::Symbol("n".into()), Dim::Symbol(String::new())],
        );
    }
    let made: Vec<_> =
        (0..outputs).map(|i| g.add_value(value(&format!("out{i}"), DataType::F32, &[1]))).collect();
    g.nodes.push(Node {
        name: "node".into(),
        op,
        inputs: g.inputs.iter().copied().map(Some).collect(),
        outputs: made.iter().copied().map(Some).collect(),
    });
    g.outputs = made;
    g
}

fn conv() -> ConvAttributes {
    ConvAttributes {
        group: 2,
        kernel: vec![3, 3],
        strides: vec![2, 1],
        dilations: vec![1, 2],
        padding: Padding::Explicit(vec![1, 0, 1, 0]),
    }
}

fn pool(kind: PoolKind) -> Op {
    let ConvAttributes { kernel, strides, dilations, .. } = conv();
    let average = kind == PoolKind::Average;
    let column_major = kind == PoolKind::Max;
    Op::Pool(PoolAttributes {
        kind,
        kernel,
        strides,
        dilations,
        padding: Padding::SameLower,
        ceil_mode: true,
        count_include_pad: average,
        column_major,
    })
}

fn recurrent(kind: RecurrentKind) -> Op {
    Op::Recurrent(RecurrentAttributes {
        kind,
        hidden_size: 3,
        direction: Direction::Reverse,
        activations: vec!["Affine".into(), "Tanh".into(), "HardSigmoid".into()],
        activation_alpha: vec![0.5, 0.25],
        activation_beta: vec![0.75],
        clip: Some(3.0),
        batch_first: true,
    })
}

/// A body of one sum, of a weight of its own and what it captures as its last input. Values are in the reader's order.
fn body(inputs: &[(&str, DataType)], captured: &str) -> Box<Graph> {
    let mut g = Graph { name: "body".into(), ..Graph::default() };
    let weight = g.add_weight("inner", Tensor::from_slice(&[1], &[2.0_f32]));
    for (name, dtype) in inputs {
        g.add_input(*name, *dtype, vec![]);
    }
    let again = inputs.len() > 1;
    let again = again.then(|| g.add_node(Op::Identity, &[g.inputs[1]], "again"));
    let sum = g.add_node(Op::Binary(Binary::Add), &[weight], "sum");
    let shape = vec![Dim::Symbol("n".into()), Dim::Symbol(String::new())];
    let captured = g.add_input(captured, DataType::F32, shape);
    g.nodes.last_mut().unwrap().inputs.push(Some(captured));
    g.outputs = again.into_iter().chain([sum]).collect();
    Box::new(g)
}

fn branch() -> Box<Graph> {
    body(&[], "in1")
}

fn one_loop() -> Graph {
    let own = [("iteration", DataType::I64), ("condition", DataType::Bool), ("carried", DataType::F32)];
    let mut body = body(&own, "in3");
    let scan = body.add_node(Op::Binary(Binary::Mul), &[body.inputs[2], body.inputs[3]], "scan");
    // The capture comes last.
    body.values.swap(scan.index(), scan.index() - 1);
    for id in body.nodes.iter_mut().flat_map(|n| n.inputs.iter_mut().chain(&mut n.outputs).flatten()) {
        *id = match id.index() {
            i if i == scan.index() => crate::ValueId(scan.0 - 1),
            i if i == scan.index() - 1 => scan,
            _ => *id,
        };
    }
    body.inputs[3] = scan;
    body.outputs.push(crate::ValueId(scan.0 - 1));
    one(Op::Loop { body, carried: 1 }, 4, 2)
}

/// An example of every variant. The match makes sure that a new one is added.
fn examples() -> Vec<Graph> {
    let check = |op: &Op| match op {
        Op::Unary(_) | Op::Binary(_) | Op::Variadic(_) | Op::Clip | Op::Where | Op::Cast { .. } => 0,
        Op::CastLike | Op::Identity | Op::MatMul | Op::Gemm { .. } | Op::Einsum { .. } | Op::Conv(_) => 1,
        Op::ConvTranspose { .. } | Op::MatMulInteger | Op::ConvInteger(_) | Op::QLinearMatMul => 2,
        Op::ConvGradient(_)
        | Op::QLinearConv(_)
        | Op::Attention(_)
        | Op::RotaryEmbedding { .. }
        | Op::Recurrent(_) => 3,
        Op::BatchNormalization { .. } | Op::InstanceNormalization { .. } => 4,
        Op::LayerNormalization { .. } | Op::GroupNormalization { .. } | Op::RmsNormalization { .. } => 5,
        Op::LpNormalization { .. } | Op::MeanVarianceNormalization { .. } | Op::Lrn { .. } => 6,
        Op::Softmax { .. } | Op::Pool(_) | Op::GlobalPool { .. } | Op::Resize(_) | Op::GridSample { .. } => 7,
        Op::RoiAlign(_) | Op::NonMaxSuppression { .. } | Op::Reduce { .. } | Op::ArgReduce { .. } => 8,
        Op::TopK { .. } | Op::Cumulative { .. } | Op::NonZero | Op::Unique { .. } | Op::Compress { .. } => 9,
        Op::Reshape { .. } | Op::Flatten { .. } | Op::Squeeze | Op::Unsqueeze | Op::Transpose { .. } => 10,
        Op::Concat { .. } | Op::Split { .. } | Op::Slice | Op::Gather { .. } | Op::GatherElements { .. } => {
            11
        }
        Op::GatherNd { .. } | Op::ScatterElements { .. } | Op::ScatterNd { .. } => 12,
        Op::TensorScatter { .. } | Op::Expand | Op::Tile | Op::Pad { .. } | Op::DepthToSpace { .. } => 13,
        Op::SpaceToDepth { .. } | Op::Trilu { .. } | Op::ReverseSequence { .. } | Op::Shape { .. } => 14,
        Op::SoftmaxCrossEntropyLoss(_) | Op::NegativeLogLikelihoodLoss(_) => 18,
        Op::Size | Op::ConstantOfShape { .. } | Op::Range | Op::OneHot { .. } | Op::EyeLike { .. } => 15,
        Op::QuantizeLinear { .. } | Op::DequantizeLinear { .. } | Op::DynamicQuantizeLinear => 16,
        Op::If { .. } | Op::Loop { .. } | Op::Foreign(_) => 17,
    };
    let unary = [
        Unary::Abs,
        Unary::Acos,
        Unary::Acosh,
        Unary::Asin,
        Unary::Asinh,
        Unary::Atan,
        Unary::Atanh,
        Unary::BitwiseNot,
        Unary::Ceil,
        Unary::Celu { alpha: 0.5 },
        Unary::Cos,
        Unary::Cosh,
        Unary::Elu { alpha: 0.5 },
        Unary::Erf,
        Unary::Exp,
        Unary::Floor,
        Unary::Gelu { approximate: true },
        Unary::Gelu { approximate: false },
        Unary::HardSigmoid { alpha: 0.25, beta: 0.75 },
        Unary::HardSwish,
        Unary::IsInf { negative: false, positive: true },
        Unary::IsNan,
        Unary::LeakyRelu { alpha: 0.5 },
        Unary::Log,
        Unary::Mish,
        Unary::Neg,
        Unary::Not,
        Unary::Reciprocal,
        Unary::Relu,
        Unary::Round,
        Unary::Selu { alpha: 0.5, gamma: 0.25 },
        Unary::Shrink { bias: 0.5, lambda: 0.25 },
        Unary::Sigmoid,
        Unary::Sign,
        Unary::Sin,
        Unary::Sinh,
        Unary::Softplus,
        Unary::Softsign,
        Unary::Sqrt,
        Unary::Swish { alpha: 0.5 },
        Unary::Tan,
        Unary::Tanh,
        Unary::ThresholdedRelu { alpha: 0.5 },
    ];
    let binary = [
        Binary::Add,
        Binary::Sub,
        Binary::Mul,
        Binary::Div,
        Binary::Pow,
        Binary::Mod { fmod: true },
        Binary::And,
        Binary::Or,
        Binary::Xor,
        Binary::BitwiseAnd,
        Binary::BitwiseOr,
        Binary::BitwiseXor,
        Binary::BitShift { left: false },
        Binary::Equal,
        Binary::Greater,
        Binary::GreaterOrEqual,
        Binary::Less,
        Binary::LessOrEqual,
        Binary::PRelu,
    ];
    let reduce = [
        ReduceKind::Sum,
        ReduceKind::Mean,
        ReduceKind::Max,
        ReduceKind::Min,
        ReduceKind::Prod,
        ReduceKind::L1,
        ReduceKind::L2,
        ReduceKind::LogSum,
        ReduceKind::LogSumExp,
        ReduceKind::SumSquare,
    ];
    let mut all: Vec<Graph> = Vec::new();
    all.extend(unary.map(|op| one(Op::Unary(op), 1, 1)));
    all.extend(binary.map(|op| one(Op::Binary(op), 2, 1)));
    all.extend(
        reduce.map(|kind| one(Op::Reduce { kind, keep_dims: false, noop_with_empty_axes: true }, 2, 1)),
    );
    let variadic = [Variadic::Max, Variadic::Min, Variadic::Sum, Variadic::Mean];
    all.extend(variadic.map(|op| one(Op::Variadic(op), 3, 1)));
    let softmax = [SoftmaxKind::Softmax, SoftmaxKind::LogSoftmax, SoftmaxKind::Hardmax];
    all.extend(softmax.map(|kind| one(Op::Softmax { kind, axis: -2 }, 1, 1)));
    let pools = [PoolKind::Average, PoolKind::Max, PoolKind::Lp { p: 3 }];
    all.extend(pools.map(|kind| one(pool(kind), 1, 1)));
    all.extend(pools.map(|kind| one(Op::GlobalPool { kind }, 1, 1)));
    let arg = [ArgKind::Max, ArgKind::Min];
    all.extend(
        arg.map(|kind| one(Op::ArgReduce { kind, axis: 1, keep_dims: false, select_last_index: true }, 1, 1)),
    );
    let cumulative = [CumulativeKind::Sum, CumulativeKind::Prod];
    all.extend(cumulative.map(|kind| one(Op::Cumulative { kind, exclusive: true, reverse: true }, 2, 1)));
    let pads = [PadMode::Constant, PadMode::Reflect, PadMode::Edge, PadMode::Wrap];
    all.extend(pads.map(|mode| one(Op::Pad { mode }, 4, 1)));
    let recurrents = [
        RecurrentKind::Lstm { input_forget: true },
        RecurrentKind::Gru { linear_before_reset: true },
        RecurrentKind::Rnn,
    ];
    all.extend(recurrents.map(|kind| one(recurrent(kind), 6, 2)));
    let reductions = [
        ScatterReduction::None,
        ScatterReduction::Add,
        ScatterReduction::Mul,
        ScatterReduction::Max,
        ScatterReduction::Min,
    ];
    all.extend(reductions.map(|reduction| one(Op::ScatterNd { reduction }, 3, 1)));

    let number = ScalarValue { dtype: DataType::I64, bits: 7 };
    let attention = AttentionAttributes {
        is_causal: true,
        q_num_heads: 4,
        kv_num_heads: 2,
        scale: Some(0.5),
        softcap: 2.0,
        qk_matmul_output_mode: 1,
    };
    let resize = ResizeAttributes {
        mode: ResizeMode::Cubic,
        coordinates: CoordinateTransform::HalfPixelSymmetric,
        nearest: NearestRounding::Ceil,
        antialias: true,
        axes: vec![2, 3],
        cubic_coeff_a: -0.5,
        exclude_outside: true,
        extrapolation_value: 1.0,
        keep_aspect_ratio: AspectRatioPolicy::NotLarger,
    };
    let roi = RoiAlignAttributes {
        max: true,
        half_pixel: false,
        output_height: 2,
        output_width: 3,
        sampling_ratio: 4,
        spatial_scale: 0.5,
    };
    let foreign = ForeignOp {
        domain: "custom.domain".into(),
        op_type: "Mystery".into(),
        opset: 3,
        reason: "unknown operator".into(),
        attributes: vec![attributes::Form::new("").int("level", 3).attributes[0].encode_to_vec()],
        captures: 0,
    };
    let quantize = |block_size, to| Op::QuantizeLinear { axis: 0, block_size, saturate: true, to };
    let loss = LossAttributes { reduction: LossReduction::Sum, ignore_index: Some(-1) };
    all.extend([
        one(Op::SoftmaxCrossEntropyLoss(loss), 3, 2),
        one(Op::NegativeLogLikelihoodLoss(LossAttributes { ignore_index: None, ..loss }), 3, 1),
        one(Op::Clip, 3, 1),
        one(Op::Where, 3, 1),
        one(Op::Cast { to: DataType::BF16 }, 1, 1),
        one(Op::CastLike, 2, 1),
        one(Op::Identity, 1, 1),
        one(Op::MatMul, 2, 1),
        one(Op::Gemm { alpha: 0.5, beta: 2.0, trans_a: true, trans_b: true }, 3, 1),
        one(Op::Einsum { equation: "ij,jk->ik".into() }, 2, 1),
        one(Op::Conv(conv()), 3, 1),
        one(Op::ConvInteger(conv()), 4, 1),
        one(Op::QLinearConv(conv()), 9, 1),
        one(Op::ConvTranspose { conv: conv(), output_padding: vec![1, 0], output_shape: vec![5, 6] }, 3, 1),
        one(Op::MatMulInteger, 4, 1),
        one(Op::QLinearMatMul, 8, 1),
        one(Op::Attention(attention.clone()), 3, 1),
        one(Op::Attention(attention), 7, 4),
        one(Op::RotaryEmbedding { interleaved: true, num_heads: 2, rotary_embedding_dim: 4 }, 4, 1),
        one(Op::BatchNormalization { epsilon: 0.5 }, 5, 1),
        one(Op::InstanceNormalization { epsilon: 0.5 }, 3, 1),
        one(Op::LayerNormalization { axis: -2, epsilon: 0.5 }, 3, 3),
        one(Op::GroupNormalization { num_groups: 2, epsilon: 0.5 }, 3, 1),
        one(Op::RmsNormalization { axis: -2, epsilon: 0.5 }, 2, 1),
        one(Op::LpNormalization { axis: 1, p: 1 }, 1, 1),
        one(Op::MeanVarianceNormalization { axes: vec![0, 2] }, 1, 1),
        one(Op::Lrn { size: 3, alpha: 0.5, beta: 0.25, bias: 2.0 }, 1, 1),
        one(Op::Resize(resize), 3, 1),
        one(
            Op::GridSample {
                mode: GridSampleMode::Cubic,
                padding: GridSamplePadding::Reflection,
                align_corners: true,
            },
            2,
            1,
        ),
        one(Op::RoiAlign(roi), 3, 1),
        one(Op::NonMaxSuppression { center_point_box: true }, 5, 1),
        one(Op::TopK { axis: 0, largest: false, sorted: false }, 2, 2),
        one(Op::NonZero, 1, 1),
        one(Op::Unique { axis: Some(1), sorted: false }, 1, 4),
        one(Op::Unique { axis: None, sorted: true }, 1, 1),
        one(Op::Compress { axis: Some(1) }, 2, 1),
        one(Op::Reshape { allow_zero: true }, 2, 1),
        one(Op::Flatten { axis: 2 }, 1, 1),
        one(Op::Squeeze, 2, 1),
        one(Op::Squeeze, 1, 1),
        one(Op::Unsqueeze, 2, 1),
        one(Op::Transpose { perm: vec![1, 0] }, 1, 1),
        one(Op::Transpose { perm: vec![] }, 1, 1),
        one(Op::Concat { axis: -1 }, 3, 1),
        one(Op::Split { axis: 1, num_outputs: Some(2) }, 1, 2),
        one(Op::Split { axis: 1, num_outputs: None }, 2, 3),
        one(Op::Slice, 5, 1),
        one(Op::Gather { axis: 1 }, 2, 1),
        one(Op::GatherElements { axis: 1 }, 2, 1),
        one(Op::GatherNd { batch_dims: 1 }, 2, 1),
        one(Op::ScatterElements { axis: 1, reduction: ScatterReduction::Max }, 3, 1),
        one(Op::TensorScatter { axis: 1, circular: true }, 3, 1),
        one(Op::Expand, 2, 1),
        one(Op::Tile, 2, 1),
        one(Op::DepthToSpace { block_size: 2, mode: DepthToSpaceMode::ColumnRowDepth }, 1, 1),
        one(Op::SpaceToDepth { block_size: 2 }, 1, 1),
        one(Op::Trilu { upper: false }, 2, 1),
        one(Op::ReverseSequence { batch_axis: 0, time_axis: 1 }, 2, 1),
        one(Op::Shape { start: 1, end: Some(-1) }, 1, 1),
        one(Op::Size, 1, 1),
        one(Op::ConstantOfShape { value: number }, 1, 1),
        one(Op::Range, 3, 1),
        one(Op::OneHot { axis: 0 }, 3, 1),
        one(Op::EyeLike { dtype: Some(DataType::I32), k: -1 }, 1, 1),
        one(quantize(0, None), 3, 1),
        one(quantize(4, Some(DataType::U16)), 2, 1),
        one(Op::DequantizeLinear { axis: 0, block_size: 4 }, 3, 1),
        one(Op::DynamicQuantizeLinear, 1, 3),
        one(Op::If { then_branch: branch(), else_branch: branch() }, 2, 1),
        one_loop(),
        one(Op::Foreign(foreign), 2, 2),
    ]);
    let families: BTreeSet<i32> = all.iter().map(|g| check(&g.nodes[0].op)).collect();
    assert_eq!(families.len(), 19);
    all
}

#[test]
fn every_operator_comes_back_as_it_went() {
    for graph in examples() {
        let mut found = back(&graph, &OnnxOptions::default());
        let mut expected = graph;
        let op = &mut expected.nodes[0].op;
        if let (Op::Foreign(a), Op::Foreign(b)) = (op, &mut found.nodes[0].op) {
            // The reason is the reader's own.
            a.reason.clone_from(&b.reason);
        }
        assert_eq!(found, expected);
    }
}

/// Says what ONNX's checker has against `models`, if there is a Python with it.
fn checked_by_onnx(models: &[(String, Vec<u8>)]) {
    let Some(python) = std::env::var_os("PODA_TEST_PYTHON") else {
        eprintln!("skipped: no Python with ONNX to check what was written (tests/run.sh provides it)");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in models {
        fs::create_dir(folder.path().join(name)).unwrap();
        fs::write(folder.path().join(name).join("written.onnx"), bytes).unwrap();
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/models/check_written.py");
    let done = std::process::Command::new(python).arg(script).arg(folder.path()).output().unwrap();
    let said = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
    assert!(done.status.success(), "{said}");
}

#[test]
fn what_is_left_out_leaves_the_rest_in_place() {
    let mut models = Vec::new();
    let mut leave_out = |mut graph: Graph, inputs: Range<usize>, outputs: Range<usize>| {
        let name = format!("{}-{}-{inputs:?}-{outputs:?}", models.len(), graph.nodes[0].op.name());
        graph.nodes[0].inputs[inputs].fill(None);
        graph.nodes[0].outputs[outputs].fill(None);
        let node = graph.nodes[0].clone();
        graph.outputs = node.outputs.iter().copied().flatten().collect();
        if graph.outputs.is_empty() {
            graph.outputs.push(graph.inputs[0]);
        }
        let found = back(&graph, &OnnxOptions::default());
        let names = |graph: &Graph, ids: &[Option<ValueId>]| -> Vec<Option<String>> {
            let name = |id: &Option<ValueId>| id.map(|id| graph.value(id).name.clone());
            let names: Vec<_> = ids.iter().map(name).collect();
            let end = names.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
            names[..end].to_vec()
        };
        assert_eq!(names(&found, &found.nodes[0].inputs), names(&graph, &node.inputs), "{name}");
        // What must be named has a name that nothing else has.
        let (found, expected) = (names(&found, &found.nodes[0].outputs), names(&graph, &node.outputs));
        for (index, expected) in expected.iter().enumerate().filter(|(_, expected)| expected.is_some()) {
            assert_eq!(&found[index], expected, "{name}");
        }
        let mut bytes = Vec::new();
        write(&mut bytes, &graph, &OnnxOptions::default()).unwrap();
        models.push((name, bytes));
    };
    for graph in examples() {
        let node = &graph.nodes[0];
        let (arity, [inputs, outputs]) = (node.op.arity(), [node.inputs.len(), node.outputs.len()]);
        let optional = match &node.op {
            Op::Loop { .. } => 0..2,
            op if arity.inputs == usize::MAX && !matches!(op, Op::Foreign(_)) => 0..0,
            _ => arity.required..inputs,
        };
        for index in optional.clone() {
            leave_out(graph.clone(), index..index + 1, 0..0);
            leave_out(graph.clone(), index..optional.end, 0..0);
        }
        for index in 0..outputs {
            leave_out(graph.clone(), 0..0, index..index + 1);
            leave_out(graph.clone(), optional.clone(), index..outputs);
        }
    }
    checked_by_onnx(&models);
}

#[test]
fn no_two_nodes_of_a_graph_have_one_name() {
    let mut graph = one(Op::If { then_branch: branch(), else_branch: branch() }, 2, 1);
    let (x, y) = (graph.inputs[1], graph.outputs[0]);
    for name in ["node", "node~1", "sum", ""] {
        let z = graph.add_node(Op::Binary(Binary::Add), &[x, y], format!("{name} makes"));
        graph.nodes.last_mut().unwrap().name = name.into();
        graph.outputs.push(z);
    }
    let found = back(&graph, &OnnxOptions::default());
    let mut names: Vec<_> =
        found.with_bodies().into_iter().flat_map(|g| &g.nodes).map(|n| n.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["", "node", "node~1", "node~1~1", "sum", "sum", "sum"]);
}

#[test]
fn each_output_is_a_value_of_its_own() {
    let mut graph = one(Op::Identity, 1, 1);
    let [input, output] = [graph.inputs[0], graph.outputs[0]];
    graph.value_mut(output).name = "out".into();
    graph.outputs = vec![output, output, input, output, input];
    let found = back(&graph, &OnnxOptions::default());
    let names: Vec<_> = found.outputs.iter().map(|&id| found.value(id).name.as_str()).collect();
    assert_eq!(names, ["out", "out_1", "in0", "out_2", "in0_3"]);
    let copied = |at: usize| found.nodes.iter().find(|n| n.output(0) == Some(found.outputs[at])).unwrap();
    assert_eq!((copied(1).op.clone(), copied(1).inputs[0]), (Op::Identity, Some(found.outputs[0])));
    assert_eq!((copied(4).op.clone(), copied(4).inputs[0]), (Op::Identity, Some(found.inputs[0])));
    assert_eq!(found.value(found.outputs[3]).shape, graph.value(output).shape);
}

#[test]
fn the_operator_set_is_the_oldest_that_suffices() {
    let bf16 = |op: Op, inputs: usize| {
        let mut graph = one(op, inputs, 1);
        graph.values.iter_mut().for_each(|value| value.dtype = Some(DataType::BF16));
        graph
    };
    assert_eq!(opset(&one(Op::MatMul, 2, 1)), 18);
    assert_eq!(opset(&one(Op::Unary(Unary::Gelu { approximate: true }), 1, 1)), 20);
    assert_eq!(opset(&one(Op::RmsNormalization { axis: -1, epsilon: 0.1 }, 2, 1)), 23);
    assert_eq!(opset(&one(Op::Pad { mode: PadMode::Wrap }, 2, 1)), 19);
    assert_eq!(opset(&bf16(Op::MatMul, 2)), 22);
    assert_eq!(opset(&bf16(Op::Range, 3)), 27);
    let nested = branch();
    let mut newer = nested.clone();
    newer.nodes[0].op = Op::Binary(Binary::BitShift { left: true });
    newer.values.iter_mut().for_each(|value| {
        value.weight = None;
        value.dtype = Some(DataType::I32);
    });
    let weight = Tensor::from_slice(&[1], &[1_i32]);
    newer.value_mut(crate::ValueId(0)).weight = Some(weight.into());
    assert_eq!(opset(&one(Op::If { then_branch: nested, else_branch: newer }, 2, 1)), 28);
}

#[test]
fn names_that_clash_or_are_missing_are_made_unique() {
    let mut inner = branch();
    inner.value_mut(crate::ValueId(0)).name = "in0".into();
    inner.value_mut(crate::ValueId(1)).name = String::new();
    let mut graph = one(Op::If { then_branch: inner.clone(), else_branch: inner }, 2, 1);
    graph.nodes[0].name.clear();
    let found = back(&graph, &OnnxOptions::default());
    let Op::If { then_branch, .. } = &found.nodes[0].op else { panic!("{:?}", found.nodes[0].op) };
    let names: Vec<_> = then_branch.values.iter().map(|v| v.name.as_str()).collect();
    assert_eq!(names, ["in0~1", "~1", "in1"]);
}

#[test]
fn what_a_body_gives_is_made_in_it() {
    // One branch gives what it captures, the other the same value twice.
    let mut branches = [branch(), branch()];
    branches[0].outputs = vec![branches[0].inputs[0], branches[0].outputs[0]];
    branches[1].outputs = vec![branches[1].outputs[0]; 2];
    let [then_branch, else_branch] = branches;
    let found = back(&one(Op::If { then_branch, else_branch }, 2, 2), &OnnxOptions::default());
    let Op::If { then_branch, else_branch } = &found.nodes[0].op else { panic!("{:?}", found.nodes[0].op) };
    for branch in [then_branch, else_branch] {
        assert_eq!(branch.nodes.len(), 2);
        assert_eq!(branch.nodes[1].op, Op::Identity);
        assert_ne!(branch.outputs[0], branch.outputs[1]);
    }
}

#[test]
fn inputs_need_a_type() {
    let mut graph = one(Op::Identity, 1, 1);
    graph.values[0].dtype = None;
    let error = write(&mut Vec::new(), &graph, &OnnxOptions::default());
    assert!(matches!(error, Err(WriteError::InputType { name }) if name == "in0"));
}

/// A graph with a dense, a sparse, and a shared weight, all above the size that may be moved out.
fn weighty() -> Graph {
    let mut g = Graph { name: "weighty".into(), ..Graph::default() };
    g.metadata.insert("note".into(), "kept".into());
    let dense: Vec<f32> = (0..24 * 24).map(|i| if i % 5 == 0 { i as f32 } else { 0.0 }).collect();
    let tensor = Tensor::from_slice(&[24, 24], &dense);
    let a = g.add_weight("a", tensor.clone());
    let b = g.add_weight("b", tensor.clone());
    let c = g.add_weight(
        "c",
        MatrixWeight::new(
            vec![24, 24],
            MatrixForm::of(&[24, 24], true).unwrap(),
            CsrMatrix::from_dense_transposed(24, 24, &dense),
        )
        .unwrap(),
    );
    let axes = g.add_weight("axes", Tensor::from_slice(&[1], &[0_i64]));
    let mut x = g.add_input("x", DataType::F32, vec![Dim::Symbol("n".into()), Dim::Fixed(24)]);
    for (weight, name) in [(a, "xa"), (b, "xab"), (c, "y")] {
        x = g.add_node(Op::MatMul, &[x, weight], name);
    }
    let y = g.add_node(Op::Unsqueeze, &[x, axes], "z");
    g.value_mut(y).dtype = Some(DataType::F32);
    g.outputs.push(y);
    g
}

fn weights(graph: &Graph) -> Vec<(&str, Tensor)> {
    let named = graph.values.iter().filter_map(|v| Some((v.name.as_str(), v.weight.as_ref()?)));
    named.map(|(name, weight)| (name, weight.to_dense().unwrap())).collect()
}

#[test]
fn weights_are_written_once_dense_or_sparse() {
    let graph = weighty();
    let expected: Vec<_> = weights(&graph).into_iter().filter(|(name, _)| *name != "b").collect();
    let dense = back(&graph, &OnnxOptions::default());
    assert_eq!(weights(&dense), expected);
    assert_eq!(dense.metadata, graph.metadata);
    let sparse = back(&graph, &OnnxOptions { sparse_initializers: true, ..OnnxOptions::default() });
    let mut found = weights(&sparse);
    found.sort_by_key(|(name, _)| expected.iter().position(|(other, _)| other == name));
    assert_eq!(found, expected);
    let c = sparse.weight(sparse.find("c").unwrap()).unwrap();
    assert!(c.is_sparse(), "{c:?}");
}

#[test]
fn elements_lie_aligned_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    // Lengths around those where a length takes one byte more, so that the blanks have all sizes.
    for shift in 0..70 {
        let mut graph = weighty();
        graph.name = "g".repeat(100 + shift);
        for (index, len) in [1_usize, 15, 16, 31, 32, 33, 4000, 5000].into_iter().enumerate() {
            let weight = Tensor::from_slice(&[len], &vec![len as f32; len]);
            let id = graph.add_weight(format!("{}{index}", "w".repeat(shift)), weight);
            graph.outputs.push(id);
        }
        save(&graph, &path, &OnnxOptions::default()).unwrap();
        let opened = read(&path).unwrap();
        for value in opened.values.iter().filter(|value| value.weight.is_some()) {
            let Some(Weight::Tensor(tensor)) = &value.weight else { panic!("{value:?}") };
            if tensor.bytes().len() >= 64 {
                assert!(tensor.storage().is_mapped(), "{}", value.name);
                assert!(tensor.bytes().as_ptr().addr().is_multiple_of(64), "{}", value.name);
            }
            let original = graph.weight(graph.find(&value.name).unwrap()).unwrap();
            assert_eq!(&original.to_dense().unwrap(), tensor);
        }
    }
}

#[test]
fn a_length_may_take_more_bytes_than_it_needs() {
    // The message is a little below 128 and 16384 bytes with as few blanks as there are, above with as many.
    for len in (0..60).chain(16_100..16_400) {
        let mut graph = Graph { name: "g".into(), ..Graph::default() };
        let id = graph.add_weight("w", Tensor::from_slice(&[len], &vec![1_u8; len]));
        graph.outputs.push(id);
        let found = back(&graph, &OnnxOptions::default());
        assert_eq!(found.weight(id), graph.weight(id), "{len}");
    }
}

#[test]
fn external_data_lie_in_one_file_that_is_replaced_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    let options = OnnxOptions { external_data_above: 0, ..OnnxOptions::default() };
    let names = || -> Vec<String> {
        let mut names: Vec<_> = folder
            .path()
            .read_dir()
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let graph = weighty();
    save(&graph, &path, &options).unwrap();
    let first = names();
    assert_eq!(first.len(), 2, "{first:?}");
    assert!(fs::metadata(&path).unwrap().len() < 1024);
    let moved: u64 = first.iter().map(|name| fs::metadata(folder.path().join(name)).unwrap().len()).sum();
    assert_eq!(crate::file_bytes(&path).unwrap(), moved);
    let opened = read(&path).unwrap();
    let expected: Vec<_> = weights(&graph).into_iter().filter(|(name, _)| *name != "b").collect();
    assert_eq!(weights(&opened), expected);
    assert!(
        matches!(opened.weight(opened.find("a").unwrap()), Some(Weight::Tensor(t)) if t.storage().is_mapped())
    );

    save(&opened, &path, &options).unwrap();
    assert_eq!(names(), first, "the same content has the same name");
    let mut graph = graph.clone();
    graph.values[0].weight = Some(Tensor::from_slice(&[24, 24], &[1.0_f32; 24 * 24]).into());
    save(&graph, &path, &options).unwrap();
    let second = names();
    assert!(second.len() == 2 && second != first, "{second:?}");
    assert_eq!(weights(&opened), expected, "old weights are still mapped");
    save(&graph, &path, &OnnxOptions::default()).unwrap();
    assert_eq!(names(), ["model.onnx"]);
}

#[test]
fn a_failing_disk_gives_an_error() {
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.0).min(100);
            self.0 -= taken;
            if taken == 0 && !bytes.is_empty() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(taken) }
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut bytes = Vec::new();
    write(&mut bytes, &weighty(), &OnnxOptions::default()).unwrap();
    write(&mut Full(bytes.len()), &weighty(), &OnnxOptions::default()).unwrap();
    for room in (0..bytes.len()).step_by(13) {
        let error = write(&mut Full(room), &weighty(), &OnnxOptions::default());
        assert!(matches!(error, Err(WriteError::Io(_))), "{room}");
    }
}
