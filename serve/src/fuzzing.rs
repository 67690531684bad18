//! What strangers' bytes go through first, for the fuzz targets.

use prost::Message;

/// Any bytes as the body of an inference request over HTTP, of which the first `json` are JSON; gives whether they are one.
pub fn http(body: &[u8], json: Option<usize>) -> bool {
    crate::http::infer::decode(body, json, MOST).is_ok()
}

/// Any bytes as the message of an inference request over gRPC; gives whether they are one.
pub fn grpc(message: &[u8]) -> bool {
    let Ok(request) = crate::grpc::ModelInferRequest::decode(message) else { return false };
    crate::grpc::tensors::decode(&request, MOST).is_ok()
}

/// Elements of a tensor.
const MOST: usize = 1 << 20;
