//! See [`requests::grpc_request`].

#![no_main]

#[path = "../requests.rs"]
mod requests;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| requests::grpc_request(bytes));
