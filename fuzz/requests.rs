//! What the fuzz targets do with the requests of strangers.

#![allow(dead_code, reason = "each target takes one of them")]

/// Any bytes as a request over HTTP: the first two say how much of the rest is JSON. Tensors take no more memory than was sent.
pub(crate) fn http_request(bytes: &[u8]) {
    let [low, high, body @ ..] = bytes else { return };
    let length = usize::from(u16::from_le_bytes([*low, *high]));
    poda_serve::fuzzing::http(body, Some(length));
    poda_serve::fuzzing::http(body, None);
}

/// Any bytes as a request over gRPC.
pub(crate) fn grpc_request(bytes: &[u8]) {
    poda_serve::fuzzing::grpc(bytes);
}
