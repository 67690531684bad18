//! Tensors of gRPC messages: raw bytes, or lists of numbers by type.

use bytemuck::NoUninit;
use bytes::Bytes;
use poda_formats::{DataType, Tensor};

use super::inference::{InferTensorContents, ModelInferRequest, ModelInferResponse};
use super::{InferInputTensor, InferOutputTensor};
use crate::datatype;
use crate::decode::{DecodeError, Head};
use crate::model::Served;

/// The inputs of a request.
pub(crate) fn decode(
    request: &ModelInferRequest,
    max_elements: usize,
) -> Result<Vec<(String, Tensor)>, DecodeError> {
    let raw = &request.raw_input_contents;
    if !raw.is_empty() && raw.len() != request.inputs.len() {
        let name = request.inputs.get(raw.len()).map_or_else(String::new, |input| input.name.clone());
        let (expected, found) = (request.inputs.len(), raw.len());
        return Err(DecodeError::Data {
            name,
            reason: format!("{found} raw contents for {expected} inputs"),
        });
    }
    let input = |(at, input): (usize, &InferInputTensor)| {
        let head = Head::new(&input.name, &input.datatype, &input.shape, max_elements)?;
        let tensor = match (raw.get(at), &input.contents) {
            (Some(raw), _) => head.bytes(raw)?,
            (None, Some(contents)) => listed(head, contents)?,
            // An empty tensor is sent as nothing at all.
            (None, None) if head.bytes == 0 => head.bytes(&[])?,
            (None, None) => return Err(DecodeError::NoData { name: input.name.clone() }),
        };
        Ok((input.name.clone(), tensor))
    };
    request.inputs.iter().enumerate().map(input).collect()
}

fn bytes<T: NoUninit>(values: &[T]) -> Vec<u8> {
    bytemuck::cast_slice(values).to_vec()
}

/// From the list that the protocol has for the type; the others must be empty.
fn listed(head: Head<'_>, contents: &InferTensorContents) -> Result<Tensor, DecodeError> {
    let name = head.name.to_owned();
    let failed = |reason: String| DecodeError::Data { name: name.clone(), reason };
    let narrow = |what: &str| failed(format!("a value is no {what}"));
    macro_rules! narrowed {
        ($values:expr, $type:ty, $name:expr) => {
            bytes(
                &$values
                    .iter()
                    .map(|&value| <$type>::try_from(value))
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(|_| narrow($name))?,
            )
        };
    }
    let lists = [
        contents.bool_contents.len(),
        contents.int_contents.len(),
        contents.int64_contents.len(),
        contents.uint_contents.len(),
        contents.uint64_contents.len(),
        contents.fp32_contents.len(),
        contents.fp64_contents.len(),
        contents.bytes_contents.len(),
    ];
    let (values, count) = match head.dtype {
        DataType::Bool => (contents.bool_contents.iter().map(|&b| u8::from(b)).collect(), lists[0]),
        DataType::I8 => (narrowed!(contents.int_contents, i8, "INT8"), lists[1]),
        DataType::I16 => (narrowed!(contents.int_contents, i16, "INT16"), lists[1]),
        DataType::I32 => (bytes(&contents.int_contents), lists[1]),
        DataType::I64 => (bytes(&contents.int64_contents), lists[2]),
        DataType::U8 => (narrowed!(contents.uint_contents, u8, "UINT8"), lists[3]),
        DataType::U16 => (narrowed!(contents.uint_contents, u16, "UINT16"), lists[3]),
        DataType::U32 => (bytes(&contents.uint_contents), lists[3]),
        DataType::U64 => (bytes(&contents.uint64_contents), lists[4]),
        DataType::F32 => (bytes(&contents.fp32_contents), lists[5]),
        DataType::F64 => (bytes(&contents.fp64_contents), lists[6]),
        DataType::F16 | DataType::BF16 => {
            return Err(failed(format!("{} is sent in raw_input_contents", datatype::name(head.dtype))));
        }
    };
    if lists.iter().sum::<usize>() != count {
        return Err(failed(format!("contents of another type than {}", datatype::name(head.dtype))));
    }
    head.bytes(&values)
}

/// The response, with raw contents.
pub(crate) fn encode(model: &Served, id: String, outputs: &[(String, Tensor)]) -> ModelInferResponse {
    let output = |(name, tensor): &(String, Tensor)| InferOutputTensor {
        name: name.clone(),
        datatype: datatype::name(tensor.dtype()).to_owned(),
        shape: tensor.shape().iter().map(|&dim| dim as i64).collect(),
        ..InferOutputTensor::default()
    };
    ModelInferResponse {
        model_name: model.name.clone(),
        model_version: model.version.clone(),
        id,
        outputs: outputs.iter().map(output).collect(),
        raw_output_contents: outputs.iter().map(|(_, t)| Bytes::from_owner(t.storage().clone())).collect(),
        ..ModelInferResponse::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(
        datatype: &str,
        shape: &[i64],
        contents: Option<InferTensorContents>,
        raw: &[&[u8]],
    ) -> ModelInferRequest {
        let (name, datatype, shape) = ("x".to_owned(), datatype.to_owned(), shape.to_vec());
        let input = InferInputTensor { name, datatype, shape, contents, ..InferInputTensor::default() };
        let raw_input_contents = raw.iter().map(|raw| Bytes::copy_from_slice(raw)).collect();
        ModelInferRequest { inputs: vec![input], raw_input_contents, ..ModelInferRequest::default() }
    }

    #[test]
    fn lists_and_raw_bytes_say_the_same() {
        let contents = InferTensorContents { fp32_contents: vec![1.0, 2.0], ..Default::default() };
        let listed = decode(&request("FP32", &[2], Some(contents), &[]), 10).unwrap();
        let raw = [1.0_f32, 2.0].map(f32::to_le_bytes).concat();
        assert_eq!(listed, decode(&request("FP32", &[2], None, &[&raw]), 10).unwrap());
        assert_eq!(listed[0].1, Tensor::from_slice(&[2], &[1.0_f32, 2.0]));
    }

    #[test]
    fn contents_must_fit_type_and_shape() {
        let ints = |values: &[i32]| {
            Some(InferTensorContents { int_contents: values.to_vec(), ..Default::default() })
        };
        assert!(decode(&request("INT8", &[1], ints(&[127]), &[]), 10).is_ok());
        assert!(decode(&request("INT8", &[1], ints(&[128]), &[]), 10).is_err());
        assert!(decode(&request("INT32", &[2], ints(&[1]), &[]), 10).is_err());
        assert!(decode(&request("FP32", &[1], ints(&[1]), &[]), 10).is_err());
        assert!(decode(&request("FP16", &[1], ints(&[1]), &[]), 10).is_err());
        assert!(decode(&request("FP32", &[1], None, &[]), 10).is_err());
        assert!(decode(&request("FP32", &[0], None, &[]), 10).is_ok());
        assert!(decode(&request("INT32", &[1], None, &[&[0; 4], &[0; 4]]), 10).is_err());
    }
}
