//! Models, servers and a plain client for the tests of the server.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use poda_formats::op::{Binary, Unary};
use poda_formats::{DataType, Dim, Graph, Op, Tensor, WriteOptions};
use poda_serve::{Config, Running};
use serde_json::{Value, json};

/// `y = x · w + bias`, `[batch, 4]` to `[batch, 3]`; every element of `w` is 1.
pub(crate) fn linear(bias: f32) -> Graph {
    let mut g = Graph::default();
    let x = g.add_input("x", DataType::F32, vec![Dim::Symbol("batch".into()), Dim::Fixed(4)]);
    let w = g.add_weight("w", Tensor::from_slice(&[4, 3], &[1.0_f32; 12]));
    let b = g.add_weight("b", Tensor::from_slice(&[3], &[bias; 3]));
    let product = g.add_node(Op::MatMul, &[x, w], "product");
    let y = g.add_node(Op::Binary(Binary::Add), &[product, b], "y");
    g.outputs.push(y);
    g
}

/// `[batch, 256]` through so many layers: each takes a while.
pub(crate) fn slow(layers: usize) -> Graph {
    let mut g = Graph::default();
    let size = 256;
    let mut at = g.add_input("x", DataType::F32, vec![Dim::Symbol("batch".into()), Dim::Fixed(size)]);
    let weights: Vec<f32> = (0..size * size).map(|i| ((i * 37) % 101) as f32 / 5000.0 - 0.01).collect();
    let w = g.add_weight("w", Tensor::from_slice(&[size, size], &weights));
    for layer in 0..layers {
        let y = g.add_node(Op::MatMul, &[at, w], format!("product{layer}"));
        at = g.add_node(Op::Unary(Unary::Tanh), &[y], format!("tanh{layer}"));
    }
    g.outputs.push(at);
    g
}

pub(crate) fn write(graph: &Graph, path: &Path) -> PathBuf {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    poda_formats::write(graph, path, &WriteOptions::default()).unwrap();
    path.to_owned()
}

/// A configuration on free ports, that times nothing.
pub(crate) fn config() -> Config {
    Config {
        http: "127.0.0.1:0".into(),
        grpc: "off".into(),
        threads: Some(1),
        no_tune: true,
        warm: vec![1, 2, 4],
        ..Config::default()
    }
}

pub(crate) fn start(config: Config) -> Running {
    poda_serve::start(config).unwrap_or_else(|error| panic!("{error}"))
}

/// A response.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The `f32` data of an output.
    pub(crate) fn data(&self, name: &str) -> Vec<f32> {
        let body = self.json();
        let outputs = body["outputs"].as_array().unwrap_or_else(|| panic!("{self:?}"));
        let output = outputs.iter().find(|output| output["name"] == name).unwrap();
        output["data"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
    }
}

/// Sends bytes and reads all that comes back until the other side closes.
pub(crate) fn raw(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    // A server may have closed already, having seen enough.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

/// One request on a connection of its own.
pub(crate) fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Response {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    for (name, value) in headers {
        text.extend([name, ": ", value, "\r\n"]);
    }
    text.extend(["Content-Length: ", &body.len().to_string(), "\r\n\r\n"]);
    let answer = raw(address, &[text.as_bytes(), body].concat());
    parse(&answer)
}

pub(crate) fn parse(answer: &[u8]) -> Response {
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("no answer: {:?}", String::from_utf8_lossy(answer)));
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Response { status, head, body: answer[end + 4..].to_vec() }
}

pub(crate) fn get(address: SocketAddr, path: &str) -> Response {
    request(address, "GET", path, &[], b"")
}

pub(crate) fn post(address: SocketAddr, path: &str, body: &Value) -> Response {
    let headers = [("Content-Type", "application/json")];
    request(address, "POST", path, &headers, body.to_string().as_bytes())
}

/// A request for a model with one input `x`.
pub(crate) fn x(shape: &[usize], data: &[f32]) -> Value {
    json!({ "inputs": [{ "name": "x", "shape": shape, "datatype": "FP32", "data": data }] })
}

pub(crate) fn infer(address: SocketAddr, model: &str, shape: &[usize], data: &[f32]) -> Response {
    post(address, &format!("/v2/models/{model}/infer"), &x(shape, data))
}

/// The sum of the series that begin so.
pub(crate) fn metric(address: SocketAddr, series: &str) -> f64 {
    let text = String::from_utf8(get(address, "/metrics").body).unwrap();
    let values = text.lines().filter(|line| line.starts_with(series)).map(|line| line.rsplit(' ').next());
    values.map(|value| value.unwrap().parse::<f64>().unwrap()).sum()
}
