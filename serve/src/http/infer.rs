//! `POST /v2/models/{model}/infer`: JSON, or JSON and the bytes of tensors behind it.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use half::{bf16, f16};
use poda_formats::{DataType, Tensor};
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use super::models::ModelPath;
use super::{Answer, TIMEOUT, blocking, body, check_media, discard};
use crate::app::{App, Infer};
use crate::datatype;
use crate::decode::{DecodeError, Head};
use crate::model::Served;
use crate::refusal::Refusal;

/// Bytes of JSON in front of those of tensors.
pub(crate) const HEADER_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// Bodies from here on are read off the threads that answer others.
const LONG: usize = 256 << 10;

/// What a body says.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) id: Option<String>,
    pub(crate) infer: Infer,
    /// For each output that was asked for whether as bytes; for the others `binary` holds.
    pub(crate) asked: Vec<bool>,
    pub(crate) binary: bool,
}

#[derive(Deserialize)]
struct RequestBody<'a> {
    id: Option<String>,
    #[serde(default)]
    parameters: Parameters,
    #[serde(borrow)]
    inputs: Vec<InputBody<'a>>,
    #[serde(default)]
    outputs: Vec<OutputBody>,
}

#[derive(Deserialize)]
struct InputBody<'a> {
    name: String,
    shape: Vec<i64>,
    datatype: String,
    #[serde(default)]
    parameters: Parameters,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct OutputBody {
    name: String,
    #[serde(default)]
    parameters: Parameters,
}

/// Those that mean something here; what clients say beside them does not change results.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Parameters {
    binary_data_size: Option<usize>,
    binary_data: Option<bool>,
    binary_data_output: Option<bool>,
    /// Microseconds.
    timeout: Option<u64>,
    sequence_id: Option<serde_json::Value>,
    classification: Option<serde_json::Value>,
    shared_memory_region: Option<serde_json::Value>,
}

impl Parameters {
    fn check(&self) -> Result<(), DecodeError> {
        let unsupported = |what, instead| Err(DecodeError::Unsupported { what, instead });
        match self {
            Self { sequence_id: Some(id), .. } if *id != 0 && *id != "" => {
                unsupported("sequence_id", "feed the state that the model gave as an input")
            }
            Self { classification: Some(_), .. } => unsupported("classification", "ask POST /v1/classify"),
            Self { shared_memory_region: Some(_), .. } => unsupported("shared memory", "send binary data"),
            _ => Ok(()),
        }
    }
}

/// Reads a body of which the first `json` bytes are JSON (all where that is `None`).
pub(crate) fn decode(body: &[u8], json: Option<usize>, max_elements: usize) -> Result<Decoded, DecodeError> {
    let json = json.unwrap_or(body.len());
    let Some((text, mut rest)) = body.split_at_checked(json) else {
        let value = json.to_string();
        let expected = "at most the bytes of the body";
        return Err(DecodeError::Header { name: "Inference-Header-Content-Length", value, expected });
    };
    let request: RequestBody<'_> =
        serde_json::from_slice(text).map_err(|error| DecodeError::Json { reason: error.to_string() })?;
    request.parameters.check()?;
    let mut inputs = Vec::with_capacity(request.inputs.len());
    for input in &request.inputs {
        input.parameters.check()?;
        let head = Head::new(&input.name, &input.datatype, &input.shape, max_elements)?;
        let tensor = match (input.parameters.binary_data_size, input.data) {
            (Some(size), _) => {
                let Some((own, others)) = rest.split_at_checked(size) else {
                    let name = input.name.clone();
                    return Err(DecodeError::Length { name, expected: size, found: rest.len() });
                };
                rest = others;
                head.bytes(own)?
            }
            (None, Some(data)) => head.json(data)?,
            (None, None) => return Err(DecodeError::NoData { name: input.name.clone() }),
        };
        inputs.push((input.name.clone(), tensor));
    }
    if !rest.is_empty() {
        return Err(DecodeError::Trailing { expected: body.len() - rest.len(), found: body.len() });
    }
    let binary = request.parameters.binary_data_output.unwrap_or(false);
    for output in &request.outputs {
        output.parameters.check()?;
    }
    let asked =
        request.outputs.iter().map(|output| output.parameters.binary_data.unwrap_or(binary)).collect();
    let outputs = request.outputs.into_iter().map(|output| output.name).collect();
    let timeout = request.parameters.timeout.filter(|&micros| micros > 0).map(Duration::from_micros);
    Ok(Decoded { id: request.id, infer: Infer { inputs, outputs, timeout }, asked, binary })
}

/// Answers a request.
pub(super) async fn infer(
    State(app): State<Arc<App>>,
    Path(path): Path<ModelPath>,
    headers: HeaderMap,
    content: Body,
) -> Answer {
    check_media(
        &headers,
        &["application/json", "application/octet-stream", "application/vnd.sagemaker-triton.binary+json"],
    )?;
    let model = app.registry.get(&path.model, path.version.as_deref())?;
    // Before anything is read: under overload refusals must be cheap.
    if let Err(refusal) = model.has_room() {
        discard(content);
        return Err(refusal);
    }
    let length = header_length(&headers)?;
    let content = body(&app, &headers, content).await?;
    let most = app.config.max_elements;
    let decoded = if content.len() < LONG {
        let decoded = decode(&content, length, most)?;
        drop(content);
        decoded
    } else {
        blocking(move || decode(&content, length, most)).await??
    };
    let Decoded { id, mut infer, asked, binary } = decoded;
    infer.timeout = match (infer.timeout, timeout(&headers)?) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    let outputs = app.infer(&model, infer).await?;
    let kinds: Vec<bool> = (0..outputs.len()).map(|at| asked.get(at).copied().unwrap_or(binary)).collect();
    let bytes: usize = outputs.iter().map(|(_, tensor)| tensor.bytes().len()).sum();
    if bytes < LONG {
        encode(&model, id.as_deref(), &outputs, &kinds)
    } else {
        blocking(move || encode(&model, id.as_deref(), &outputs, &kinds)).await?
    }
}

fn header_length(headers: &HeaderMap) -> Result<Option<usize>, DecodeError> {
    number(headers, &HEADER_LENGTH, "Inference-Header-Content-Length", "a number of bytes")
}

/// What the client would wait.
pub(super) fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, DecodeError> {
    let millis = number(headers, &TIMEOUT, "X-Request-Timeout-Ms", "a number of milliseconds")?;
    Ok(millis.map(|millis| Duration::from_millis(millis as u64)))
}

fn number(
    headers: &HeaderMap,
    header: &HeaderName,
    name: &'static str,
    expected: &'static str,
) -> Result<Option<usize>, DecodeError> {
    let Some(value) = headers.get(header) else { return Ok(None) };
    let text = value.to_str().unwrap_or("?");
    let failed = || DecodeError::Header { name, value: text.chars().take(32).collect(), expected };
    text.parse().map(Some).map_err(|_| failed())
}

#[derive(Serialize)]
struct ResponseBody<'a> {
    model_name: &'a str,
    model_version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    outputs: Vec<OutputTensor<'a>>,
}

/// An output in the response's JSON.
struct OutputTensor<'a> {
    name: &'a str,
    tensor: &'a Tensor,
    binary: bool,
}

impl Serialize for OutputTensor<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("name", self.name)?;
        map.serialize_entry("datatype", datatype::name(self.tensor.dtype()))?;
        map.serialize_entry("shape", self.tensor.shape())?;
        if self.binary {
            let size = self.tensor.bytes().len();
            map.serialize_entry("parameters", &serde_json::json!({ "binary_data_size": size }))?;
        } else {
            map.serialize_entry("data", &Elements(self.tensor))?;
        }
        map.end()
    }
}

/// The elements of a tensor as a flat array.
pub(crate) struct Elements<'a>(pub(crate) &'a Tensor);

impl Serialize for Elements<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(tensor) = self;
        let mut seq = serializer.serialize_seq(Some(tensor.len()))?;
        macro_rules! elements {
            ($type:ty, $of:expr) => {
                for element in tensor.bytes().chunks_exact(size_of::<$type>()) {
                    let element = <$type>::from_le_bytes(element.try_into().expect("chunks of its size"));
                    seq.serialize_element(&$of(element))?;
                }
            };
        }
        match tensor.dtype() {
            DataType::Bool => elements!(u8, |byte| byte != 0),
            DataType::U8 => elements!(u8, |x| x),
            DataType::U16 => elements!(u16, |x| x),
            DataType::U32 => elements!(u32, |x| x),
            DataType::U64 => elements!(u64, |x| x),
            DataType::I8 => elements!(i8, |x| x),
            DataType::I16 => elements!(i16, |x| x),
            DataType::I32 => elements!(i32, |x| x),
            DataType::I64 => elements!(i64, |x| x),
            DataType::F16 => elements!(f16, f16::to_f32),
            DataType::BF16 => elements!(bf16, bf16::to_f32),
            DataType::F32 => elements!(f32, |x| x),
            DataType::F64 => elements!(f64, |x| x),
        }
        seq.end()
    }
}

/// Whether JSON can say every element.
pub(super) fn is_finite(tensor: &Tensor) -> bool {
    match tensor.dtype() {
        DataType::F32 => tensor.as_slice::<f32>().is_ok_and(|values| values.iter().all(|x| x.is_finite())),
        DataType::F64 => tensor.as_slice::<f64>().is_ok_and(|values| values.iter().all(|x| x.is_finite())),
        DataType::F16 => tensor.as_slice::<f16>().is_ok_and(|values| values.iter().all(|x| x.is_finite())),
        DataType::BF16 => tensor.as_slice::<bf16>().is_ok_and(|values| values.iter().all(|x| x.is_finite())),
        _ => true,
    }
}

/// The response: JSON, and behind it the bytes of the outputs that are wanted so.
fn encode(model: &Served, id: Option<&str>, outputs: &[(String, Tensor)], kinds: &[bool]) -> Answer {
    let tensors =
        outputs.iter().zip(kinds).map(|((name, tensor), &binary)| OutputTensor { name, tensor, binary });
    let response = ResponseBody {
        model_name: &model.name,
        model_version: &model.version,
        id,
        outputs: tensors.collect(),
    };
    let text = response.outputs.iter().find(|output| !output.binary && !is_finite(output.tensor));
    if let Some(output) = text {
        return Err(Refusal::NotFinite { name: output.name.to_owned() });
    }
    let mut content = serde_json::to_vec(&response).map_err(|_| Refusal::Panicked)?;
    if !kinds.contains(&true) {
        return Ok(([(header::CONTENT_TYPE, "application/json")], content).into_response());
    }
    let length = HeaderValue::from(content.len());
    for ((_, tensor), _) in outputs.iter().zip(kinds).filter(|(_, binary)| **binary) {
        content.extend_from_slice(tensor.bytes());
    }
    let mut response: Response =
        ([(header::CONTENT_TYPE, "application/octet-stream")], Bytes::from(content)).into_response();
    response.headers_mut().insert(HEADER_LENGTH, length);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(body: &[u8], json: Option<usize>) -> String {
        decode(body, json, 1000).unwrap_err().to_string()
    }

    #[test]
    fn json_and_binary_data_say_the_same() {
        let json =
            br#"{"id": "7", "inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [[1, 2]]}],
                        "outputs": [{"name": "y", "parameters": {"binary_data": true}}, {"name": "z"}],
                        "parameters": {"timeout": 5000}}"#;
        let plain = decode(json, None, 1000).unwrap();
        assert_eq!(plain.id.as_deref(), Some("7"));
        assert_eq!(plain.infer.outputs, ["y", "z"]);
        assert_eq!((plain.asked, plain.binary), (vec![true, false], false));
        assert_eq!(plain.infer.timeout, Some(Duration::from_millis(5)));

        let head = br#"{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32",
                         "parameters": {"binary_data_size": 8}}], "parameters": {"binary_data_output": true}}"#;
        let body = [&head[..], &1.0_f32.to_le_bytes(), &2.0_f32.to_le_bytes()].concat();
        let binary = decode(&body, Some(head.len()), 1000).unwrap();
        assert_eq!(binary.infer.inputs, plain.infer.inputs);
        assert!(binary.binary && binary.asked.is_empty());
        assert!(error(&body, Some(head.len() + 1)).contains("not valid JSON"));
        assert!(error(&body, Some(body.len() + 1)).contains("Inference-Header-Content-Length"));
        assert!(error(&body[..body.len() - 1], Some(head.len())).contains("needs 8 bytes, 7 are given"));
        let long = [&body[..], b"x"].concat();
        assert!(error(&long, Some(head.len())).contains("binary data"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (body, says) in [
            (&b"{"[..], "not valid JSON"),
            (b"{}", "inputs"),
            (br#"{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32"}]}"#, "neither data"),
            (br#"{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [NaN]}]}"#, "not valid JSON"),
            (br#"{"inputs": [], "parameters": {"sequence_id": 4}}"#, "sequence_id"),
            (
                br#"{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "parameters": {"shared_memory_region": "a"}}]}"#,
                "shared memory",
            ),
        ] {
            let message = error(body, None);
            assert!(message.contains(says), "{message}");
        }
        let deep = [
            &br#"{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": "#[..],
            "[".repeat(100_000).as_bytes(),
        ]
        .concat();
        assert!(error(&deep, None).contains("not valid JSON"));
    }

    #[test]
    fn elements_of_every_type_are_numbers() {
        let json = |tensor: &Tensor| serde_json::to_string(&Elements(tensor)).unwrap();
        assert_eq!(json(&Tensor::from_slice(&[2], &[0.1_f32, -3.0])), "[0.1,-3.0]");
        assert_eq!(json(&Tensor::from_slice(&[1], &[f16::from_f32(0.5)])), "[0.5]");
        assert_eq!(json(&Tensor::from_slice(&[1], &[i64::MIN])), "[-9223372036854775808]");
        assert_eq!(json(&Tensor::zeros(DataType::Bool, &[2])), "[false,false]");
        assert!(!is_finite(&Tensor::from_slice(&[1], &[f32::NAN])));
        assert!(is_finite(&Tensor::from_slice(&[1], &[1_i32])));
    }
}
