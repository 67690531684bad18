//! Whether outputs are what was expected.

use half::{bf16, f16};
use poda_formats::{DataType, Tensor};

/// Relative and absolute tolerance of floating-point outputs.
fn tolerance(dtype: DataType) -> (f64, f64) {
    match dtype {
        DataType::F16 => (2e-3, 1e-4),
        DataType::BF16 => (1e-2, 1e-3),
        _ => (1e-3, 1e-5),
    }
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    match tensor.dtype() {
        DataType::F16 => tensor.as_slice::<f16>().unwrap().iter().map(|v| v.to_f64()).collect(),
        DataType::BF16 => tensor.as_slice::<bf16>().unwrap().iter().map(|v| v.to_f64()).collect(),
        DataType::F32 => tensor.as_slice::<f32>().unwrap().iter().map(|&v| f64::from(v)).collect(),
        _ => tensor.as_slice::<f64>().unwrap().to_vec(),
    }
}

/// Types, shapes and elements; elements of integers exactly.
pub(crate) fn outputs(found: &[Tensor], expected: &[Tensor]) -> Result<(), String> {
    if found.len() != expected.len() {
        return Err(format!("{} outputs, expected {}", found.len(), expected.len()));
    }
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let kind = |t: &Tensor| format!("{} {:?}", t.dtype(), t.shape());
        if kind(found) != kind(expected) {
            return Err(format!("output {i} is {}, expected {}", kind(found), kind(expected)));
        }
        if !found.dtype().is_float() {
            if found.bytes() != expected.bytes() {
                return Err(format!(
                    "output {i} differs: {:?}, expected {:?}",
                    found.bytes(),
                    expected.bytes()
                ));
            }
            continue;
        }
        let (relative, absolute) = tolerance(found.dtype());
        let (found, expected) = (numbers(found), numbers(expected));
        let differs = |(&a, &b): (&f64, &f64)| {
            let near = (a - b).abs() <= absolute + relative * b.abs();
            !(near || a == b || (a.is_nan() && b.is_nan()))
        };
        if let Some(at) = found.iter().zip(&expected).position(differs) {
            return Err(format!("output {i} at {at} is {}, expected {}", found[at], expected[at]));
        }
    }
    Ok(())
}
