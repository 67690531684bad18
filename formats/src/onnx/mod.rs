//! ONNX: the way in, and the way back out.

pub mod proto;
