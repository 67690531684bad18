//! Requests that fit a model, made of what it says of itself, and what their answers hold.

use std::collections::BTreeMap;

use bytes::Bytes;
use poda_formats::storage::{AlignedBytes, Storage};
use poda_formats::{DataType, Tensor};
use rand::RngExt;
use rand::rngs::StdRng;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Load;
use super::client::TargetError;
use crate::datatype;
use crate::http::infer::Elements;

/// Open dimensions of which nothing is said.
const USUAL: usize = 128;
/// What an answer may differ from the first for the same request, relative to the largest of its numbers: batches round otherwise.
const TOLERANCE: f32 = 1e-3;

/// A request that is sent again and again.
pub(super) struct Prepared {
    pub(super) samples: usize,
    pub(super) head: Option<usize>,
    pub(super) body: Bytes,
    /// The numbers of the first answer.
    pub(super) expected: Option<Vec<f32>>,
}

#[derive(Deserialize)]
pub(super) struct Metadata {
    pub(super) inputs: Vec<InputMetadata>,
}

#[derive(Deserialize)]
pub(super) struct InputMetadata {
    pub(super) name: String,
    pub(super) datatype: String,
    pub(super) shape: Vec<i64>,
}

/// A request of so many samples with random numbers.
pub(super) fn prepare(
    metadata: &Metadata,
    load: &Load,
    samples: usize,
    random: &mut StdRng,
) -> Result<Prepared, TargetError> {
    let mut inputs = Vec::new();
    for input in &metadata.inputs {
        let shape = shape(input, load, samples)?;
        let tensor = random_tensor(input, &shape, random)?;
        inputs.push((input, tensor));
    }
    let described = inputs.iter().map(|(input, tensor)| {
        let mut described =
            json!({ "name": input.name, "datatype": input.datatype, "shape": tensor.shape() });
        if load.json {
            described["data"] = json!(Elements(tensor));
        } else {
            described["parameters"] = json!({ "binary_data_size": tensor.bytes().len() });
        }
        described
    });
    let head = json!({
        "inputs": described.collect::<Vec<_>>(),
        "parameters": { "binary_data_output": !load.json },
    });
    let mut body = head.to_string().into_bytes();
    let length = (!load.json).then_some(body.len());
    if !load.json {
        inputs.iter().for_each(|(_, tensor)| body.extend_from_slice(tensor.bytes()));
    }
    Ok(Prepared { samples, head: length, body: body.into(), expected: None })
}

/// What is given for an input or its open dimensions; otherwise the batch, and usual lengths.
fn shape(input: &InputMetadata, load: &Load, samples: usize) -> Result<Vec<usize>, TargetError> {
    if let Some(given) = load.shapes.iter().find(|given| given.name == input.name) {
        let fits = given.shape.len() == input.shape.len()
            && given.shape.iter().zip(&input.shape).all(|(&a, &b)| b < 0 || a as i64 == b);
        let refused = || TargetError::Shape {
            name: input.name.clone(),
            given: given.shape.clone(),
            shape: input.shape.clone(),
        };
        return if fits { Ok(given.shape.clone()) } else { Err(refused()) };
    }
    let size = |(axis, &size): (usize, &i64)| match usize::try_from(size) {
        Ok(size) => size,
        Err(_) if axis == 0 => samples,
        Err(_) => USUAL,
    };
    Ok(input.shape.iter().enumerate().map(size).collect())
}

/// Floats in -1..1, small whole numbers, and ones for masks.
fn random_tensor(input: &InputMetadata, shape: &[usize], random: &mut StdRng) -> Result<Tensor, TargetError> {
    let wrong = || TargetError::DataType { name: input.name.clone(), datatype: input.datatype.clone() };
    let dtype = datatype::parse(&input.datatype).ok_or_else(wrong)?;
    let mut bytes = AlignedBytes::zeroed(shape.iter().product::<usize>() * dtype.size());
    let mask = input.name.to_ascii_lowercase().contains("mask");
    let types = input.name.to_ascii_lowercase().contains("type");
    for place in bytes.chunks_exact_mut(dtype.size()) {
        let whole: u64 = if mask {
            1
        } else if types {
            0
        } else {
            random.random_range(1..100)
        };
        let float: f32 = if mask { 1.0 } else { random.random_range(-1.0..1.0) };
        let bits = match dtype {
            DataType::F32 => u64::from(float.to_bits()),
            DataType::F64 => f64::from(float).to_bits(),
            DataType::F16 => u64::from(half::f16::from_f32(float).to_bits()),
            DataType::BF16 => u64::from(half::bf16::from_f32(float).to_bits()),
            DataType::Bool => 1,
            _ => whole,
        };
        place.copy_from_slice(&bits.to_le_bytes()[..dtype.size()]);
    }
    Ok(Tensor::new(dtype, shape.to_vec(), Storage::owned(bytes)).expect("sized for it"))
}

/// The numbers of an answer: of JSON all that the outputs hold, of bytes those that are `f32`.
pub(super) fn numbers((json, body): &(Option<usize>, Bytes)) -> Option<Vec<f32>> {
    let head: Value = serde_json::from_slice(&body[..json.unwrap_or(body.len())]).ok()?;
    let mut rest = &body[json.unwrap_or(body.len())..];
    let mut found = Vec::new();
    let mut sizes: BTreeMap<&str, usize> = BTreeMap::new();
    for output in head["outputs"].as_array()? {
        if let Some(data) = output["data"].as_array() {
            found.extend(data.iter().map(|x| x.as_f64().unwrap_or(f64::from(u8::from(x == true))) as f32));
        } else {
            let size = usize::try_from(output["parameters"]["binary_data_size"].as_u64()?).ok()?;
            let (own, others) = rest.split_at_checked(size)?;
            rest = others;
            sizes.insert(output["name"].as_str()?, size);
            if output["datatype"] == "FP32" {
                found.extend(
                    own.chunks_exact(4).map(|x| f32::from_le_bytes(x.try_into().expect("chunks of four"))),
                );
            } else {
                found.extend(own.iter().map(|&byte| f32::from(byte)));
            }
        }
    }
    Some(found)
}

pub(super) fn close(found: &[f32], expected: &[f32]) -> bool {
    let scale = expected.iter().fold(f32::MIN_POSITIVE, |most, x| most.max(x.abs()));
    let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || (a - b).abs() <= TOLERANCE * scale;
    found.len() == expected.len() && found.iter().zip(expected).all(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_whatever_their_form() {
        let text = br#"{"outputs":[{"name":"y","datatype":"FP32","shape":[2],"data":[1.5,2]}]}"#;
        assert_eq!(numbers(&(None, Bytes::from_static(text))), Some(vec![1.5, 2.0]));
        let head = br#"{"outputs":[{"name":"y","datatype":"FP32","shape":[1],"parameters":{"binary_data_size":4}}]}"#;
        let body = Bytes::from([&head[..], &1.5_f32.to_le_bytes()].concat());
        assert_eq!(numbers(&(Some(head.len()), body)), Some(vec![1.5]));
        assert!(
            close(&[1.0, 2.0], &[1.0005, 2.0])
                && !close(&[1.0, 2.0], &[1.1, 2.0])
                && !close(&[1.0], &[1.0, 2.0])
        );
    }
}
