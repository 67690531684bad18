//! Operators of `ai.onnx.ml` that a few of ours spell out: linear models, and what scikit-learn's exporters put around a network.
//!
//! Specification: <https://onnx.ai/onnx/operators/index.html#ai-onnx-ml>.

use crate::dtype::DataType;
use crate::graph::{Node, ValueId};
use crate::onnx::read::{Call, Unsupported};
use crate::op::{ArgKind, Binary, Op, SoftmaxKind, Unary};
use crate::tensor::Tensor;

pub(in crate::onnx) fn read(call: &mut Call) -> Result<Op, Unsupported> {
    match call.op_type {
        "ArrayFeatureExtractor" => Ok(Op::Gather { axis: -1 }),
        "LinearClassifier" => linear_classifier(call),
        "LinearRegressor" => linear_regressor(call),
        "Normalizer" => normalizer(call),
        "Scaler" => scaler(call),
        _ => Err(Unsupported::Operator),
    }
}

/// The one input, made f32.
fn float_input(call: &mut Call) -> Result<ValueId, Unsupported> {
    call.at_most_inputs(1)?;
    let x = call.required(0)?;
    if call.builder.facts(x).dtype == Some(DataType::F32) {
        return Ok(x);
    }
    Ok(call.emit(Op::Cast { to: DataType::F32 }, &[Some(x)], "cast"))
}

/// `x · Wᵀ + b`, of `coefficients` `[targets, features]` and `intercepts` `[targets]`; the product and its bias.
fn linear(call: &mut Call, x: ValueId, targets: usize) -> Result<[ValueId; 2], Unsupported> {
    let coefficients = call.attributes.floats("coefficients")?;
    let intercepts = call.attributes.floats("intercepts")?;
    if targets == 0 || coefficients.is_empty() || !coefficients.len().is_multiple_of(targets) {
        let value = format!("a list of {} for {targets} targets", coefficients.len());
        return Err(Unsupported::AttributeValue { name: "coefficients", value });
    }
    if !intercepts.is_empty() && intercepts.len() != targets {
        let value = format!("a list of {} for {targets} targets", intercepts.len());
        return Err(Unsupported::AttributeValue { name: "intercepts", value });
    }
    let features = coefficients.len() / targets;
    let transposed: Vec<f32> =
        (0..features * targets).map(|i| coefficients[i % targets * features + i / targets]).collect();
    let weight = call.weight("coefficients", Tensor::from_slice(&[features, targets], &transposed));
    let product = call.emit(Op::MatMul, &[Some(x), Some(weight)], "product");
    let bias = call.vector("intercepts", if intercepts.is_empty() { &[0.0] } else { intercepts });
    Ok([product, bias])
}

fn linear_regressor(call: &mut Call) -> Result<Op, Unsupported> {
    call.attributes.choice("post_transform", &[("NONE", ())])?;
    let targets = call.attributes.size("targets", 1)?;
    let x = float_input(call)?;
    call.inputs = linear(call, x, targets)?.map(Some).to_vec();
    Ok(Op::Binary(Binary::Add))
}

/// Outputs: the number of the class with the greatest score, scores `[n, classes]`. Of as many rows of coefficients as there are
/// classes, which are numbers.
fn linear_classifier(call: &mut Call) -> Result<Op, Unsupported> {
    call.attributes.ignore(&["multi_class"]);
    let transforms = [
        ("NONE", Op::Identity),
        ("LOGISTIC", Op::Unary(Unary::Sigmoid)),
        ("SOFTMAX", Op::Softmax { kind: SoftmaxKind::Softmax, axis: -1 }),
    ];
    let transform = call.attributes.choice("post_transform", &transforms)?;
    let labels = call.attributes.ints("classlabels_ints")?;
    let labels = labels.ok_or(Unsupported::MissingAttribute { name: "classlabels_ints" })?;
    if labels.len() < 2 {
        let value = format!("{labels:?}");
        return Err(Unsupported::AttributeValue { name: "classlabels_ints", value });
    }
    let x = float_input(call)?;
    let inputs = linear(call, x, labels.len())?.map(Some);
    let scores = call.emit(Op::Binary(Binary::Add), &inputs, "scores");
    let best = Op::ArgReduce { kind: ArgKind::Max, axis: 1, keep_dims: false, select_last_index: false };
    let best = call.emit(best, &[Some(scores)], "best");
    let labels = call.vector("labels", labels);
    let output = |index: usize| call.outputs.get(index).copied().flatten();
    let (label, transformed) = (output(0), output(1));
    let inputs = vec![Some(labels), Some(best)];
    let Some(transformed) = transformed else {
        call.inputs = inputs;
        call.outputs = vec![label];
        return Ok(Op::Gather { axis: 0 });
    };
    if label.is_some() {
        let name = format!("{}_label", call.label);
        call.builder.add_node(Node { name, op: Op::Gather { axis: 0 }, inputs, outputs: vec![label] });
    }
    call.inputs = vec![Some(scores)];
    call.outputs = vec![Some(transformed)];
    Ok(transform)
}

/// Rows of length 1, of `[n, c]`.
fn normalizer(call: &mut Call) -> Result<Op, Unsupported> {
    // (Where nothing is said it is "MAX", which is not among these.)
    if !call.attributes.has("norm") {
        return Err(Unsupported::MissingAttribute { name: "norm" });
    }
    let p = call.attributes.choice("norm", &[("L1", 1), ("L2", 2)])?;
    let x = float_input(call)?;
    call.inputs = vec![Some(x)];
    Ok(Op::LpNormalization { axis: -1, p })
}

/// `(x - offset) · scale`, in f32.
fn scaler(call: &mut Call) -> Result<Op, Unsupported> {
    let x = float_input(call)?;
    let (offset, scale) = (call.attributes.floats("offset")?, call.attributes.floats("scale")?);
    let offset = call.vector("offset", if offset.is_empty() { &[0.0] } else { offset });
    let scale = call.vector("scale", if scale.is_empty() { &[1.0] } else { scale });
    let centred = call.emit(Op::Binary(Binary::Sub), &[Some(x), Some(offset)], "centred");
    call.inputs = vec![Some(centred), Some(scale)];
    Ok(Op::Binary(Binary::Mul))
}
