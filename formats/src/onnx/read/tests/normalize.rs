//! Old forms become new ones.

use super::*;
use crate::op::CoordinateTransform::{Asymmetric, HalfPixel};
use crate::op::{NearestRounding, ResizeMode};

struct Case {
    opset: i64,
    rank: Option<usize>,
    node: NodeProto,
    expected: &'static [&'static str],
}

fn case(opset: i64, node: NodeProto, expected: &'static [&'static str]) -> Case {
    Case { opset, rank: Some(4), node, expected }
}

fn check(cases: Vec<Case>) {
    for Case { opset, rank, node, expected } in cases {
        let outputs: Vec<&str> = node.output.iter().map(String::as_str).collect();
        let mut inputs: Vec<&str> = node.input.iter().map(String::as_str).filter(|i| !i.is_empty()).collect();
        inputs.sort_unstable();
        inputs.dedup();
        let graph = read(&model(opset, graph(&inputs, rank, vec![node.clone()], &outputs[..1]))).unwrap();
        assert_eq!(show(&graph), expected, "{node:?} of opset {opset}");
    }
}

fn x(op_type: &str, attributes: Vec<AttributeProto>) -> NodeProto {
    node(op_type, &["x"], &["y"], attributes)
}

#[test]
fn attributes_that_became_inputs() {
    check(vec![
        case(
            9,
            x("Slice", vec![ints("starts", &[1]), ints("ends", &[3]), ints("axes", &[-1])]),
            &["Slice(x, [1], [3], [-1]) -> y"],
        ),
        case(9, x("Slice", vec![ints("starts", &[1]), ints("ends", &[3])]), &["Slice(x, [1], [3]) -> y"]),
        case(
            10,
            x("Pad", vec![ints("pads", &[0, 1, 0, 1])]),
            &["Pad { mode: Constant }(x, [0, 1, 0, 1]) -> y"],
        ),
        case(
            2,
            x("Pad", vec![string("mode", "reflect"), ints("pads", &[0, 1]), float("value", 0.5)]),
            &["Pad { mode: Reflect }(x, [0, 1], [0.5]) -> y"],
        ),
        case(6, x("Clip", vec![float("min", 0.0), float("max", 6.0)]), &["Clip(x, [0.0], [6.0]) -> y"]),
        case(10, x("Clip", vec![float("max", 6.0)]), &["Clip(x, _, [6.0]) -> y"]),
        case(10, x("Clip", vec![float("max", f32::MAX), float("min", f32::MIN)]), &["Clip(x) -> y"]),
        case(12, x("Squeeze", vec![ints("axes", &[0, 2])]), &["Squeeze(x, [0, 2]) -> y"]),
        case(12, x("Squeeze", vec![]), &["Squeeze(x) -> y"]),
        case(12, x("Unsqueeze", vec![ints("axes", &[0])]), &["Unsqueeze(x, [0]) -> y"]),
        case(
            12,
            x("ReduceSum", vec![ints("axes", &[1]), int("keepdims", 0)]),
            &["Reduce { kind: Sum, keep_dims: false, noop_with_empty_axes: false }(x, [1]) -> y"],
        ),
        case(
            17,
            x("ReduceMean", vec![ints("axes", &[-1])]),
            &["Reduce { kind: Mean, keep_dims: true, noop_with_empty_axes: false }(x, [-1]) -> y"],
        ),
        case(
            12,
            x("Split", vec![int("axis", 1), ints("split", &[2, 3])]),
            &["Split { axis: 1, num_outputs: None }(x, [2, 3]) -> y"],
        ),
        case(
            12,
            node("Split", &["x"], &["y", "z"], vec![]),
            &["Split { axis: 0, num_outputs: Some(2) }(x) -> y, z"],
        ),
        case(
            9,
            node("TopK", &["x"], &["y", "i"], vec![int("k", 5)]),
            &["TopK { axis: -1, largest: true, sorted: true }(x, [5]) -> y, i"],
        ),
    ]);
}

#[test]
fn scalars_take_the_type_of_the_data() {
    let unknown = |node, expected| Case { opset: 9, rank: None, node, expected };
    check(vec![unknown(
        x("Clip", vec![float("min", 1.0)]),
        &["CastLike([1.0], x) -> y_min_cast", "Clip(x, y_min_cast) -> y"],
    )]);
}

#[test]
fn softmax_over_the_axes_that_follow() {
    let flattened: &[&str] = &[
        "Shape { start: 0, end: None }(x) -> y_shape",
        "Flatten { axis: 1 }(x) -> y_flat",
        "Softmax { kind: Softmax, axis: -1 }(y_flat) -> y_softmax",
        "Reshape { allow_zero: true }(y_softmax, y_shape) -> y",
    ];
    let last: &[&str] = &["Softmax { kind: Softmax, axis: -1 }(x) -> y"];
    let ranked =
        |rank, attributes, expected| Case { opset: 11, rank, node: x("Softmax", attributes), expected };
    check(vec![
        ranked(Some(4), vec![], flattened),
        ranked(None, vec![], flattened),
        ranked(Some(2), vec![], last),
        ranked(Some(4), vec![int("axis", 3)], last),
        ranked(None, vec![int("axis", -1)], last),
        case(13, x("Softmax", vec![]), last),
        case(13, x("LogSoftmax", vec![int("axis", 1)]), &["Softmax { kind: LogSoftmax, axis: 1 }(x) -> y"]),
    ]);
}

#[test]
fn ranks_follow_through_nodes() {
    let nodes = vec![
        node("Flatten", &["x"], &["flat"], vec![]),
        node("Relu", &["flat"], &["relu"], vec![]),
        node("Softmax", &["relu"], &["y"], vec![]),
    ];
    let graph = read(&model(11, graph(&["x"], None, nodes, &["y"]))).unwrap();
    assert_eq!(show(&graph)[2], "Softmax { kind: Softmax, axis: -1 }(relu) -> y");
}

#[test]
fn inference_forms() {
    let bn = |outputs: &[&str], attributes| {
        node("BatchNormalization", &["x", "s", "b", "m", "v"], outputs, attributes)
    };
    let bn_form: &[&str] = &["BatchNormalization { epsilon: 1e-5 }(x, s, b, m, v) -> y"];
    check(vec![
        case(9, bn(&["y"], vec![float("momentum", 0.1)]), bn_form),
        case(7, bn(&["y", "m2", "v2", "m3", "v3"], vec![int("spatial", 1)]), bn_form),
        case(6, bn(&["y"], vec![int("is_test", 1)]), bn_form),
        case(
            15,
            bn(&["y"], vec![int("training_mode", 1)]),
            &["Foreign BatchNormalization: training mode is not supported(x, s, b, m, v) -> y"],
        ),
        case(12, node("Dropout", &["x", "ratio"], &["y"], vec![]), &["Identity(x) -> y"]),
        case(
            13,
            node("Dropout", &["x"], &["y", "mask"], vec![int("seed", 1)]),
            &[
                "Shape { start: 0, end: None }(x) -> y_shape",
                "ConstantOfShape { value: ScalarValue { dtype: Bool, bits: 1 } }(y_shape) -> mask",
                "Identity(x) -> y",
            ],
        ),
    ]);
}

#[test]
fn defaults_and_spellings() {
    check(vec![
        case(
            7,
            node("Gemm", &["a", "b", "c"], &["y"], vec![int("transB", 1)]),
            &["Gemm { alpha: 1.0, beta: 1.0, trans_a: false, trans_b: true }(a, b, c) -> y"],
        ),
        case(13, x("Cast", vec![int("to", 10)]), &["Cast { to: F16 }(x) -> y"]),
        case(9, x("Cast", vec![string("to", "INT64")]), &["Cast { to: I64 }(x) -> y"]),
        case(
            9,
            x("ConstantOfShape", vec![]),
            &["ConstantOfShape { value: ScalarValue { dtype: F32, bits: 0 } }(x) -> y"],
        ),
        case(
            9,
            x("ConstantOfShape", vec![tensor("value", i64s("", &[1], &[-1]))]),
            &["ConstantOfShape { value: ScalarValue { dtype: I64, bits: 18446744073709551615 } }(x) -> y"],
        ),
        case(
            28,
            node("SwiGLU", &["a", "b"], &["y"], vec![]),
            &["Unary(Swish { alpha: 1.0 })(a) -> y_gate", "Binary(Mul)(y_gate, b) -> y"],
        ),
        case(
            9,
            node("Scatter", &["a", "b", "c"], &["y"], vec![]),
            &["ScatterElements { axis: 0, reduction: None }(a, b, c) -> y"],
        ),
    ]);
}

#[test]
fn resize_in_all_its_forms() {
    let resized = |opset, node: NodeProto| {
        let inputs: Vec<&str> = node.input.iter().map(String::as_str).filter(|i| !i.is_empty()).collect();
        let graph = read(&model(opset, graph(&inputs, Some(4), vec![node.clone()], &["y"]))).unwrap();
        let [line] = &show(&graph)[..] else { panic!("{:?}", show(&graph)) };
        let inputs = line[line.rfind('(').unwrap()..].to_owned();
        let Op::Resize(attributes) = graph.nodes[0].op.clone() else { panic!("{line}") };
        (attributes, inputs)
    };
    let upsample = x("Upsample", vec![string("mode", "linear"), floats("scales", &[1.0, 1.0, 2.0, 2.0])]);
    let (attributes, inputs) = resized(7, upsample);
    assert_eq!((attributes.mode, attributes.coordinates), (ResizeMode::Linear, Asymmetric));
    assert_eq!(inputs, "(x, _, [1.0, 1.0, 2.0, 2.0]) -> y");
    let (attributes, inputs) = resized(10, node("Resize", &["x", "s"], &["y"], vec![]));
    assert_eq!((attributes.nearest, attributes.coordinates), (NearestRounding::Floor, Asymmetric));
    assert_eq!(inputs, "(x, _, s) -> y");
    let (attributes, inputs) = resized(11, node("Resize", &["x", "r", "s"], &["y"], vec![]));
    assert_eq!((attributes.nearest, attributes.coordinates), (NearestRounding::RoundPreferFloor, HalfPixel));
    assert_eq!(inputs, "(x, r, s) -> y");
    // Inputs given as empty constants are absent.
    let mut proto =
        graph(&["x", "size"], Some(4), vec![node("Resize", &["x", "", "e", "size"], &["y"], vec![])], &["y"]);
    proto.initializer.push(f32s("e", &[0], &[]));
    assert!(show(&read(&model(11, proto)).unwrap())[0].ends_with("(x, _, _, size) -> y"));
}

#[test]
fn group_normalization_of_one_scale_for_each_group() {
    let node = node("GroupNormalization", &["x", "s", "b"], &["y"], vec![int("num_groups", 2)]);
    let graph = read(&model(18, graph(&["x", "s", "b"], Some(4), vec![node], &["y"]))).unwrap();
    let lines = show(&graph);
    assert_eq!(lines[0], "Shape { start: 1, end: Some(2) }(x) -> y_channels");
    assert_eq!(lines[3], "Unsqueeze(s, [1]) -> y_scale_column");
    let last = "GroupNormalization { num_groups: 2, epsilon: 1e-5 }(x, y_scale_each, y_bias_each) -> y";
    assert_eq!(lines.last().unwrap(), last);
}

#[test]
fn broadcasting_before_opset_7() {
    let add = |attributes| node("Add", &["x", "b"], &["y"], attributes);
    let mut proto = graph(&["x"], Some(4), vec![add(vec![int("broadcast", 1), int("axis", 1)])], &["y"]);
    proto.initializer.push(f32s("b", &[1], &[2.0]));
    let graph = read(&model(6, proto)).unwrap();
    assert_eq!(show(&graph), ["Unsqueeze([2.0], [1, 2]) -> y_aligned", "Binary(Add)(x, y_aligned) -> y"]);
    check(vec![case(
        7,
        add(vec![int("broadcast", 1)]),
        &["Foreign Add: attribute \"broadcast\" is not supported(x, b) -> y"],
    )]);
}

#[test]
fn contributed_operators() {
    check(vec![
        case(17, x("com.microsoft::QuickGelu", vec![]), &["Unary(Swish { alpha: 1.702 })(x) -> y"]),
        case(
            17,
            node("com.microsoft::FastGelu", &["x", "b"], &["y"], vec![]),
            &["Binary(Add)(x, b) -> y_biased", "Unary(Gelu { approximate: true })(y_biased) -> y"],
        ),
        case(
            17,
            node(
                "com.microsoft::FusedMatMul",
                &["a", "b"],
                &["y"],
                vec![int("transB", 1), float("alpha", 0.5)],
            ),
            &[
                "Transpose { perm: [0, 1, 3, 2] }(b) -> y_transB",
                "MatMul(a, y_transB) -> y_product",
                "Binary(Mul)(y_product, [0.5]) -> y",
            ],
        ),
        case(
            17,
            node(
                "com.microsoft::SkipLayerNormalization",
                &["x", "s", "g", "b"],
                &["y", "", "", "sum"],
                vec![float("epsilon", 0.5)],
            ),
            &["Binary(Add)(x, s) -> sum", "LayerNormalization { axis: -1, epsilon: 0.5 }(sum, g, b) -> y"],
        ),
        case(
            17,
            node(
                "com.microsoft::QLinearAdd",
                &["a", "as", "az", "b", "bs", "bz", "ys", "yz"],
                &["y"],
                vec![],
            ),
            &[
                "DequantizeLinear { axis: 0, block_size: 0 }(a, as, az) -> y_a",
                "DequantizeLinear { axis: 0, block_size: 0 }(b, bs, bz) -> y_b",
                "Binary(Add)(y_a, y_b) -> y_y",
                "QuantizeLinear { axis: 0, block_size: 0, saturate: true, to: None }(y_y, ys, yz) -> y",
            ],
        ),
        case(
            17,
            node(
                "com.microsoft::QLinearSoftmax",
                &["a", "as", "az", "ys", "yz"],
                &["y"],
                vec![int("opset", 13), int("axis", -1)],
            ),
            &[
                "DequantizeLinear { axis: 0, block_size: 0 }(a, as, az) -> y_x",
                "Softmax { kind: Softmax, axis: -1 }(y_x) -> y_y",
                "QuantizeLinear { axis: 0, block_size: 0, saturate: true, to: None }(y_y, ys, yz) -> y",
            ],
        ),
        case(
            17,
            node(
                "com.microsoft::QGemm",
                &["a", "as", "az", "b", "bs", "bz", "c", "ys", "yz"],
                &["y"],
                vec![int("transB", 1)],
            ),
            &[
                "DequantizeLinear { axis: 0, block_size: 0 }(a, as, az) -> y_a",
                "DequantizeLinear { axis: 0, block_size: 0 }(b, bs, bz) -> y_b",
                "Binary(Mul)(as, bs) -> y_step",
                "DequantizeLinear { axis: -1, block_size: 0 }(c, y_step) -> y_c",
                "Gemm { alpha: 1.0, beta: 1.0, trans_a: false, trans_b: true }(y_a, y_b, y_c) -> y_y",
                "QuantizeLinear { axis: 0, block_size: 0, saturate: true, to: None }(y_y, ys, yz) -> y",
            ],
        ),
        case(
            17,
            x("com.microsoft::Strange", vec![]),
            &["Foreign Strange: the operator is not implemented(x) -> y"],
        ),
    ]);
}

#[test]
fn operators_around_a_classifier() {
    const PRODUCT: &str = "MatMul(x, [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]) -> y_product";
    const BEST: &str =
        "ArgReduce { kind: Max, axis: 1, keep_dims: false, select_last_index: false }(y_scores) -> y_best";
    let picked = node("ai.onnx.ml::ArrayFeatureExtractor", &["x", "i"], &["y"], vec![]);
    let scaled = x("ai.onnx.ml::Scaler", vec![floats("offset", &[1.0, 2.0]), floats("scale", &[3.0])]);
    let coefficients =
        || vec![floats("coefficients", &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), floats("intercepts", &[7.0, 8.0])];
    let linear = |more: Vec<AttributeProto>| [coefficients(), more].concat();
    let classes = ints("classlabels_ints", &[4, 9]);
    let softmax = vec![classes.clone(), string("post_transform", "SOFTMAX"), int("multi_class", 1)];
    let classified = node("ai.onnx.ml::LinearClassifier", &["x"], &["y", "p"], linear(softmax));
    let labelled = node("ai.onnx.ml::LinearClassifier", &["x"], &["y"], linear(vec![classes]));
    let fitted = x("ai.onnx.ml::LinearRegressor", linear(vec![int("targets", 2)]));
    check(vec![
        case(
            17,
            classified,
            &[
                PRODUCT,
                "Binary(Add)(y_product, [7.0, 8.0]) -> y_scores",
                BEST,
                "Gather { axis: 0 }([4, 9], y_best) -> y",
                "Softmax { kind: Softmax, axis: -1 }(y_scores) -> p",
            ],
        ),
        case(
            17,
            labelled,
            &[
                PRODUCT,
                "Binary(Add)(y_product, [7.0, 8.0]) -> y_scores",
                BEST,
                "Gather { axis: 0 }([4, 9], y_best) -> y",
            ],
        ),
        case(17, fitted, &[PRODUCT, "Binary(Add)(y_product, [7.0, 8.0]) -> y"]),
        case(
            17,
            x("ai.onnx.ml::LinearRegressor", linear(vec![int("targets", 4)])),
            &[
                "Foreign LinearRegressor: a list of 6 for 4 targets for attribute \"coefficients\" is not supported(x) -> y",
            ],
        ),
        case(
            17,
            x("ai.onnx.ml::Normalizer", vec![string("norm", "L1")]),
            &["LpNormalization { axis: -1, p: 1 }(x) -> y"],
        ),
        case(
            17,
            x("ai.onnx.ml::Normalizer", vec![]),
            &["Foreign Normalizer: attribute \"norm\" is missing(x) -> y"],
        ),
        case(17, picked, &["Gather { axis: -1 }(x, i) -> y"]),
        case(17, scaled, &["Binary(Sub)(x, [1.0, 2.0]) -> y_centred", "Binary(Mul)(y_centred, [3.0]) -> y"]),
        case(
            17,
            x("ai.onnx.ml::TreeEnsemble", vec![]),
            &["Foreign TreeEnsemble: the operator is not implemented(x) -> y"],
        ),
    ]);
}

#[test]
fn fused_convolution() {
    let node = |inputs: &[&str]| {
        let attributes = vec![string("activation", "Clip"), floats("activation_params", &[0.0, 6.0])];
        node("com.microsoft::FusedConv", inputs, &["y"], attributes)
    };
    let read = |inputs: &[&str]| {
        show(&read(&model(17, graph(inputs, Some(4), vec![node(inputs)], &["y"]))).unwrap())
    };
    let lines = read(&["x", "w"]);
    assert!(lines[0].ends_with("(x, w) -> y_conv"), "{lines:?}");
    assert_eq!(lines[1], "Clip(y_conv, [0.0], [6.0]) -> y");
    let lines = read(&["x", "w", "b", "z"]);
    assert_eq!(lines[1..], ["Binary(Add)(y_conv, z) -> y_sum", "Clip(y_sum, [0.0], [6.0]) -> y"]);
}

#[test]
fn sequences_taken_apart_again() {
    let split = |attributes| node("SplitToSequence", &["x", "n"], &["s"], attributes);
    let read = |nodes: Vec<NodeProto>, n: TensorProto, at: i64| {
        let mut proto = graph(&["x"], Some(4), nodes, &["y"]);
        proto.initializer = vec![n, i64s("at", &[], &[at])];
        show(&read(&model(17, proto)).unwrap())
    };
    let at = || node("SequenceAt", &["s", "at"], &["y"], vec![]);
    let sizes = i64s("n", &[3], &[2, 3, 4]);
    let axis = || vec![int("axis", 1)];
    assert_eq!(read(vec![split(axis()), at()], sizes.clone(), 1), ["Slice(x, [2], [5], [1]) -> y"]);
    assert_eq!(read(vec![split(axis()), at()], sizes.clone(), -3), ["Slice(x, [0], [2], [1]) -> y"]);
    assert_eq!(read(vec![split(axis()), at()], i64s("n", &[], &[5]), 2), ["Slice(x, [10], [15], [1]) -> y"]);
    let lines = read(vec![split(axis()), at()], sizes, 3);
    assert!(lines[1].contains("position 3 in a sequence is out of range"), "{lines:?}");
    let construct = node("SequenceConstruct", &["x", "n"], &["s"], vec![]);
    let concat = node("ConcatFromSequence", &["s"], &["y"], vec![int("axis", 0)]);
    let n = i64s("n", &[1], &[7]);
    assert_eq!(read(vec![construct, concat], n, 0), ["Concat { axis: 0 }(x, [7]) -> y"]);
}

#[test]
fn what_is_not_understood_stays_foreign() {
    for (node, reason) in [
        (x("Det", vec![]), "the operator is not implemented"),
        (x("Relu", vec![int("beta\u{1b}", 1)]), "attribute \"beta\\u{1b}\" is not supported"),
        (x("Softmax", vec![string("axis", "last")]), "attribute \"axis\" should be Int, found type 3"),
        (x("Concat", vec![]), "attribute \"axis\" is missing"),
        (x("Resize", vec![string("mode", "sinc")]), "\"sinc\" for attribute \"mode\" is not supported"),
        (x("Flatten", vec![int("axis", 1), int("axis", 2)]), "attribute \"axis\" is not supported"),
        (x("Cast", vec![int("to", 17)]), "element type FLOAT8E4M3FN is not supported"),
    ] {
        let graph = read(&model(17, graph(&["x"], Some(4), vec![node], &["y"]))).unwrap();
        let Op::Foreign(foreign) = &graph.nodes[0].op else { panic!("{:?}", graph.nodes) };
        assert_eq!((foreign.reason.as_str(), foreign.opset), (reason, 17));
    }
}
