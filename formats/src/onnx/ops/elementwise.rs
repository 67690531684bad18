//! Elementwise operators and casts.

use super::Around;
use crate::dtype::DataType;
use crate::onnx::proto::data_type_code;
use crate::onnx::read::{Call, Unsupported};
use crate::onnx::write::Form;
use crate::op::{Binary, Op, Unary, Variadic};

pub(super) fn read(call: &mut Call) -> Result<Option<Op>, Unsupported> {
    if let Some(unary) = unary(call)? {
        call.at_most_inputs(1)?;
        return Ok(Some(Op::Unary(unary)));
    }
    if let Some(binary) = binary(call)? {
        legacy_broadcast(call)?;
        return Ok(Some(Op::Binary(binary)));
    }
    Ok(Some(match call.op_type {
        "Max" => Op::Variadic(Variadic::Max),
        "Min" => Op::Variadic(Variadic::Min),
        "Sum" => Op::Variadic(Variadic::Sum),
        "Mean" => Op::Variadic(Variadic::Mean),
        "Clip" => clip(call)?,
        "Where" => Op::Where,
        "Cast" => {
            // Saturation and rounding matter only to 8-bit floats, which Poda has not.
            call.attributes.ignore(&["saturate", "round_mode"]);
            Op::Cast { to: cast_target(call)? }
        }
        "CastLike" => {
            call.attributes.ignore(&["saturate", "round_mode"]);
            Op::CastLike
        }
        "Identity" => Op::Identity,
        "Dropout" => dropout(call)?,
        "SwiGLU" => {
            let alpha = call.attributes.float("alpha", 1.0)?;
            let gate = call.emit(Op::Unary(Unary::Swish { alpha }), &[call.input(0)], "gate");
            call.set_input(0, Some(gate));
            Op::Binary(Binary::Mul)
        }
        _ => return Ok(None),
    }))
}

/// The attributes of an operator of these.
pub(super) fn write(op: &Op, f: Form, around: &Around<'_>) -> Option<Form> {
    Some(match op {
        Op::Unary(op) => write_unary(f, *op, around.half()),
        Op::Binary(op) => write_binary(f, *op, &around.types),
        Op::Cast { to } => f.int("to", data_type_code(*to).into()),
        Op::Variadic(_) | Op::Clip | Op::Where | Op::CastLike | Op::Identity => f,
        _ => return None,
    })
}

fn write_unary(f: Form, unary: Unary, half: bool) -> Form {
    match unary {
        Unary::Abs
        | Unary::Acos
        | Unary::Acosh
        | Unary::Asin
        | Unary::Asinh
        | Unary::Atan
        | Unary::Atanh
        | Unary::BitwiseNot
        | Unary::Ceil
        | Unary::Cos
        | Unary::Cosh
        | Unary::Erf
        | Unary::Exp
        | Unary::Floor
        | Unary::HardSwish
        | Unary::IsNan
        | Unary::Log
        | Unary::Mish
        | Unary::Neg
        | Unary::Not
        | Unary::Reciprocal
        | Unary::Relu
        | Unary::Round
        | Unary::Sigmoid
        | Unary::Sign
        | Unary::Sin
        | Unary::Sinh
        | Unary::Softplus
        | Unary::Softsign
        | Unary::Sqrt
        | Unary::Tan
        | Unary::Tanh => f,
        Unary::Celu { alpha } => f.float("alpha", alpha).since_if(28, half),
        Unary::Elu { alpha } | Unary::LeakyRelu { alpha } | Unary::ThresholdedRelu { alpha } => {
            f.float("alpha", alpha)
        }
        Unary::Gelu { approximate } => {
            f.string("approximate", if approximate { "tanh" } else { "none" }).since(20)
        }
        Unary::HardSigmoid { alpha, beta } => f.float("alpha", alpha).float("beta", beta),
        Unary::IsInf { negative, positive } => {
            f.flag("detect_negative", negative).flag("detect_positive", positive).since_if(20, half)
        }
        Unary::Selu { alpha, gamma } => f.float("alpha", alpha).float("gamma", gamma),
        Unary::Shrink { bias, lambda } => f.float("bias", bias).float("lambd", lambda),
        Unary::Swish { alpha } => f.float("alpha", alpha).since(24),
    }
}

fn write_binary(f: Form, binary: Binary, types: &[DataType]) -> Form {
    match binary {
        Binary::Add
        | Binary::Sub
        | Binary::Mul
        | Binary::Div
        | Binary::Pow
        | Binary::And
        | Binary::Or
        | Binary::Xor
        | Binary::BitwiseAnd
        | Binary::BitwiseOr
        | Binary::BitwiseXor
        | Binary::Equal
        | Binary::Greater
        | Binary::GreaterOrEqual
        | Binary::Less
        | Binary::LessOrEqual
        | Binary::PRelu => f,
        Binary::Mod { fmod } => {
            f.flag("fmod", fmod).since_if(28, !fmod && types.iter().any(|dtype| dtype.is_float()))
        }
        Binary::BitShift { left } => {
            let signed = [DataType::I8, DataType::I16, DataType::I32, DataType::I64];
            f.string("direction", if left { "LEFT" } else { "RIGHT" })
                .since_if(28, types.iter().any(|dtype| signed.contains(dtype)))
        }
    }
}

fn unary(call: &Call) -> Result<Option<Unary>, Unsupported> {
    let attributes = &call.attributes;
    let alpha = |default| attributes.float("alpha", default);
    Ok(Some(match call.op_type {
        "Abs" => Unary::Abs,
        "Acos" => Unary::Acos,
        "Acosh" => Unary::Acosh,
        "Asin" => Unary::Asin,
        "Asinh" => Unary::Asinh,
        "Atan" => Unary::Atan,
        "Atanh" => Unary::Atanh,
        "BitwiseNot" => Unary::BitwiseNot,
        "Ceil" => Unary::Ceil,
        "Celu" => Unary::Celu { alpha: alpha(1.0)? },
        "Cos" => Unary::Cos,
        "Cosh" => Unary::Cosh,
        "Elu" => Unary::Elu { alpha: alpha(1.0)? },
        "Erf" => Unary::Erf,
        "Exp" => Unary::Exp,
        "Floor" => Unary::Floor,
        "Gelu" => {
            Unary::Gelu { approximate: attributes.choice("approximate", &[("none", false), ("tanh", true)])? }
        }
        "HardSigmoid" => Unary::HardSigmoid { alpha: alpha(0.2)?, beta: attributes.float("beta", 0.5)? },
        "HardSwish" => Unary::HardSwish,
        "IsInf" => Unary::IsInf {
            negative: attributes.flag("detect_negative", true)?,
            positive: attributes.flag("detect_positive", true)?,
        },
        "IsNaN" => Unary::IsNan,
        "LeakyRelu" => Unary::LeakyRelu { alpha: alpha(0.01)? },
        "Log" => Unary::Log,
        "Mish" => Unary::Mish,
        "Neg" => Unary::Neg,
        "Not" => Unary::Not,
        "Reciprocal" => Unary::Reciprocal,
        "Relu" => Unary::Relu,
        "Round" => Unary::Round,
        "Selu" if call.version >= 6 => {
            Unary::Selu { alpha: alpha(1.673_263_2)?, gamma: attributes.float("gamma", 1.050_701)? }
        }
        "Shrink" => {
            Unary::Shrink { bias: attributes.float("bias", 0.0)?, lambda: attributes.float("lambd", 0.5)? }
        }
        "Sigmoid" => Unary::Sigmoid,
        "Sign" => Unary::Sign,
        "Sin" => Unary::Sin,
        "Sinh" => Unary::Sinh,
        "Softplus" => Unary::Softplus,
        "Softsign" => Unary::Softsign,
        "Sqrt" => Unary::Sqrt,
        "Swish" => Unary::Swish { alpha: alpha(1.0)? },
        "Tan" => Unary::Tan,
        "Tanh" => Unary::Tanh,
        "ThresholdedRelu" => Unary::ThresholdedRelu { alpha: alpha(1.0)? },
        _ => return Ok(None),
    }))
}

fn binary(call: &Call) -> Result<Option<Binary>, Unsupported> {
    Ok(Some(match call.op_type {
        "Add" => Binary::Add,
        "Sub" => Binary::Sub,
        "Mul" => Binary::Mul,
        "Div" => Binary::Div,
        "Pow" => Binary::Pow,
        "Mod" => Binary::Mod { fmod: call.attributes.flag("fmod", false)? },
        "And" => Binary::And,
        "Or" => Binary::Or,
        "Xor" => Binary::Xor,
        "BitwiseAnd" => Binary::BitwiseAnd,
        "BitwiseOr" => Binary::BitwiseOr,
        "BitwiseXor" => Binary::BitwiseXor,
        "BitShift" => {
            if !call.attributes.has("direction") {
                return Err(Unsupported::MissingAttribute { name: "direction" });
            }
            Binary::BitShift {
                left: call.attributes.choice("direction", &[("LEFT", true), ("RIGHT", false)])?,
            }
        }
        "Equal" => Binary::Equal,
        "Greater" => Binary::Greater,
        "GreaterOrEqual" => Binary::GreaterOrEqual,
        "Less" => Binary::Less,
        "LessOrEqual" => Binary::LessOrEqual,
        "PRelu" => Binary::PRelu,
        _ => return Ok(None),
    }))
}

/// Before opset 7 the second input was aligned with the first at `axis`: append dimensions of 1, so that the last axes
/// match, as they do now.
fn legacy_broadcast(call: &mut Call) -> Result<(), Unsupported> {
    if call.version >= 7 || !call.attributes.flag("broadcast", false)? {
        return Ok(());
    }
    let Some(axis) = call.attributes.optional_int("axis")? else { return Ok(()) };
    let (a, b) = (call.required(0)?, call.required(1)?);
    let ranks = call.builder.facts(a).rank.zip(call.builder.facts(b).rank);
    let missing = ranks.and_then(|(a, b)| {
        let axis = if axis < 0 { a.checked_sub(axis.unsigned_abs() as usize)? } else { axis as usize };
        a.checked_sub(axis.checked_add(b)?).map(|missing| b..b + missing)
    });
    let Some(missing) = missing else {
        return Err(Unsupported::AttributeValue { name: "axis", value: axis.to_string() });
    };
    if !missing.is_empty() {
        let axes: Vec<i64> = missing.map(|axis| axis as i64).collect();
        let axes = call.vector("axes", &axes);
        let aligned = call.emit(Op::Unsqueeze, &[Some(b), Some(axes)], "aligned");
        call.set_input(1, Some(aligned));
    }
    Ok(())
}

/// Bounds were attributes before opset 11.
fn clip(call: &mut Call) -> Result<Op, Unsupported> {
    if call.version < 11 {
        let x = call.required(0)?;
        call.at_most_inputs(1)?;
        for (index, name) in [(1, "min"), (2, "max")] {
            // The largest finite numbers are the defaults: no bound.
            if let Some(bound) = call.attributes.optional_float(name)?
                && bound.abs() < f32::MAX
            {
                let bound = call.scalar_like(name, bound, x);
                call.set_input(index, Some(bound));
            }
        }
    }
    Ok(Op::Clip)
}

/// The target of a cast, as a code or (before opset 6, but written by some later) a name.
fn cast_target(call: &Call) -> Result<DataType, Unsupported> {
    const NAMES: [(&str, DataType); 14] = [
        ("FLOAT", DataType::F32),
        ("FLOAT16", DataType::F16),
        ("BFLOAT16", DataType::BF16),
        ("DOUBLE", DataType::F64),
        ("INT8", DataType::I8),
        ("INT16", DataType::I16),
        ("INT32", DataType::I32),
        ("INT64", DataType::I64),
        ("UINT8", DataType::U8),
        ("UINT16", DataType::U16),
        ("UINT32", DataType::U32),
        ("UINT64", DataType::U64),
        ("BOOL", DataType::Bool),
        ("float", DataType::F32),
    ];
    match call.attributes.data_type("to") {
        Ok(Some(to)) => Ok(to),
        Ok(None) => Err(Unsupported::MissingAttribute { name: "to" }),
        Err(Unsupported::AttributeType { .. }) => call.attributes.choice("to", &NAMES),
        Err(other) => Err(other),
    }
}

/// The identity, at inference; the mask, if asked for, is all true.
fn dropout(call: &mut Call) -> Result<Op, Unsupported> {
    call.attributes.ignore(&["ratio", "seed", "is_test"]);
    if let Some(training) = call.input(2) {
        let constant = call.builder.graph.weight(training).and_then(|w| w.to_dense().ok());
        match constant {
            Some(mode) if mode.bytes().iter().all(|&b| b == 0) => {}
            Some(_) => return Err(Unsupported::Training),
            None => return Err(Unsupported::NotConstant { index: 2 }),
        }
    }
    let x = call.required(0)?;
    if let Some(mask) = call.outputs.get(1).copied().flatten() {
        use crate::op::ScalarValue;
        let shape = call.emit(Op::Shape { start: 0, end: None }, &[Some(x)], "shape");
        // Before opset 10 the mask had the type of the data.
        let dtype = if call.version < 10 {
            call.builder.facts(x).dtype.unwrap_or(DataType::F32)
        } else {
            DataType::Bool
        };
        let one = match dtype {
            DataType::F64 => ScalarValue { dtype, bits: 1.0_f64.to_bits() },
            DataType::F16 => ScalarValue { dtype, bits: half::f16::ONE.to_bits().into() },
            DataType::Bool => ScalarValue { dtype, bits: 1 },
            _ => ScalarValue { dtype: DataType::F32, bits: 1.0_f32.to_bits().into() },
        };
        call.builder.add_node(crate::graph::Node {
            name: format!("{}_mask", call.label),
            op: Op::ConstantOfShape { value: one },
            inputs: vec![Some(shape)],
            outputs: vec![Some(mask)],
        });
    }
    call.inputs.truncate(1);
    call.outputs.truncate(1);
    Ok(Op::Identity)
}
