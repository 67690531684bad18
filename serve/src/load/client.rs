//! The clients: what the model takes, requests made of it, and connections that send them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use poda_formats::storage::{AlignedBytes, Storage};
use poda_formats::{DataType, Tensor};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::report::{Outcome, Recorder, Report};
use super::{Arrivals, Load};
use crate::datatype;
use crate::http::infer::Elements;

/// Why a target cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum TargetError {
    #[error("{url:?} is no http://HOST:PORT; TLS is left to a proxy in front")]
    Url { url: String },
    #[error("{url}: {reason}")]
    Connect { url: String, reason: String },
    #[error("{path} is answered {status}: {body}")]
    Answer { path: String, status: u16, body: String },
    #[error("say which model with --model, the server has {names:?}")]
    Which { names: Vec<String> },
    #[error("input {name:?} is {datatype}, which is not made up")]
    DataType { name: String, datatype: String },
    #[error("input {name:?}: {given:?} does not fit its shape {shape:?}")]
    Shape { name: String, given: Vec<usize>, shape: Vec<i64> },
}

/// Different requests for each batch.
const DIFFERENT: usize = 8;
/// Open dimensions of which nothing is said.
const USUAL: usize = 128;
/// What an answer may differ from the first for the same request, relative to the largest of its numbers: batches round otherwise.
const TOLERANCE: f32 = 1e-3;

/// A server and what is sent to it.
pub(super) struct Target {
    authority: String,
    token: Option<String>,
    pub(super) model: String,
    path: String,
    requests: Vec<Prepared>,
}

/// A request that is sent again and again.
struct Prepared {
    samples: usize,
    head: Option<usize>,
    body: Bytes,
    /// The numbers of the first answer.
    expected: Option<Vec<f32>>,
}

#[derive(Deserialize)]
struct Metadata {
    inputs: Vec<InputMetadata>,
}

#[derive(Deserialize)]
struct InputMetadata {
    name: String,
    datatype: String,
    shape: Vec<i64>,
}

impl Target {
    /// Asks the server what it takes, and tries each request once.
    pub(super) async fn find(load: &Load) -> Result<Self, TargetError> {
        let url = load.url.trim_end_matches('/');
        let authority = url.strip_prefix("http://").filter(|rest| !rest.is_empty() && !rest.contains('/'));
        let authority = authority.ok_or_else(|| TargetError::Url { url: load.url.clone() })?.to_owned();
        let mut target = Self {
            authority,
            token: load.token.clone(),
            model: String::new(),
            path: String::new(),
            requests: Vec::new(),
        };
        target.model = match &load.model {
            Some(model) => model.clone(),
            None => target.only_model().await?,
        };
        let base = format!("/v2/models/{}", target.model);
        let metadata: Metadata = serde_json::from_value(target.get(&base).await?)
            .map_err(|error| TargetError::Connect { url: base.clone(), reason: error.to_string() })?;
        target.path = format!("{base}/infer");
        let mut random = StdRng::seed_from_u64(0);
        for &samples in &load.batches {
            for _ in 0..DIFFERENT {
                target.requests.push(prepare(&metadata, load, samples, &mut random)?);
            }
        }
        let mut connection = Connection::default();
        for at in 0..target.requests.len() {
            let (status, body) =
                target.exchange(&mut connection, at).await.map_err(|reason| target.failed(reason))?;
            if status != StatusCode::OK {
                let (path, body) = (target.path.clone(), String::from_utf8_lossy(&body.1).into_owned());
                return Err(TargetError::Answer { path, status: status.as_u16(), body });
            }
            target.requests[at].expected = load.check.then(|| numbers(&body)).flatten();
        }
        Ok(target)
    }

    fn failed(&self, reason: String) -> TargetError {
        TargetError::Connect { url: format!("http://{}", self.authority), reason }
    }

    async fn get(&self, path: &str) -> Result<Value, TargetError> {
        let mut connection = Connection::default();
        let request = self.request("GET", path).body(Full::default()).expect("parts that were checked");
        let (status, (_, body)) =
            connection.send(&self.authority, request).await.map_err(|reason| self.failed(reason))?;
        if status != StatusCode::OK {
            let body = String::from_utf8_lossy(&body).chars().take(300).collect();
            return Err(TargetError::Answer { path: path.to_owned(), status: status.as_u16(), body });
        }
        serde_json::from_slice(&body).map_err(|error| self.failed(error.to_string()))
    }

    async fn only_model(&self) -> Result<String, TargetError> {
        let list = self.get("/v1/models").await?;
        let names = list["data"].as_array().into_iter().flatten().filter_map(|model| model["id"].as_str());
        let names: Vec<String> = names.map(str::to_owned).collect();
        match &names[..] {
            [one] => Ok(one.clone()),
            _ => Err(TargetError::Which { names }),
        }
    }

    fn request(&self, method: &str, path: &str) -> hyper::http::request::Builder {
        let request = Request::builder().method(method).uri(path).header(header::HOST, &self.authority);
        match &self.token {
            Some(token) => request.header(header::AUTHORIZATION, format!("Bearer {token}")),
            None => request,
        }
    }

    /// Sends a request and reads the answer: status, bytes of JSON if there are others behind them, and body.
    async fn exchange(
        &self,
        connection: &mut Connection,
        at: usize,
    ) -> Result<(StatusCode, (Option<usize>, Bytes)), String> {
        let prepared = &self.requests[at];
        let request = self.request("POST", &self.path);
        let request = match prepared.head {
            Some(length) => request
                .header("Inference-Header-Content-Length", length)
                .header(header::CONTENT_TYPE, "application/octet-stream"),
            None => request.header(header::CONTENT_TYPE, "application/json"),
        };
        let request = request.body(Full::new(prepared.body.clone())).map_err(|error| error.to_string())?;
        connection.send(&self.authority, request).await
    }

    async fn outcome(&self, connection: &mut Connection, at: usize, timeout: Duration) -> Outcome {
        match tokio::time::timeout(timeout, self.exchange(connection, at)).await {
            Err(_) => {
                // An answer that still comes would be taken for that of the next.
                connection.sender = None;
                Outcome::Failed("timeout".into())
            }
            Ok(Err(_)) => Outcome::Failed("connection".into()),
            Ok(Ok((StatusCode::OK, answer))) => match &self.requests[at].expected {
                Some(expected) if !numbers(&answer).is_some_and(|found| close(&found, expected)) => {
                    Outcome::Failed("wrong answer".into())
                }
                _ => Outcome::Answered { samples: self.requests[at].samples },
            },
            Ok(Ok((status, _))) => Outcome::Failed(status.as_u16().to_string()),
        }
    }

    /// Sends the load.
    pub(super) async fn send(self: &Arc<Self>, load: &Load) -> Report {
        let start = Instant::now() + Duration::from_millis(20);
        let end = start + load.warmup + load.duration;
        let times = Arc::new(Times::of(load.arrivals, start, end));
        let next = Arc::new(AtomicUsize::new(0));
        let clients = match load.arrivals {
            Arrivals::Closed(clients) => clients,
            Arrivals::Constant(_) | Arrivals::Poisson(_) => load.connections.min(times.len()),
        };
        let mut all = JoinSet::new();
        for _ in 0..clients {
            let (target, times, next, timeout) =
                (Arc::clone(self), Arc::clone(&times), Arc::clone(&next), load.timeout);
            let counted = start + load.warmup;
            all.spawn(async move {
                let (mut connection, mut recorder) = (Connection::default(), Recorder::default());
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(due) = times.due(at) else { break };
                    tokio::time::sleep_until(due.into()).await;
                    // (In a closed loop it is due when it is sent.)
                    let due = if times.is_closed() { Instant::now() } else { due };
                    if times.is_closed() && due >= end {
                        break;
                    }
                    let outcome = target.outcome(&mut connection, at % target.requests.len(), timeout).await;
                    if due >= counted {
                        recorder.record(due.elapsed(), outcome);
                    }
                }
                recorder
            });
        }
        let mut recorder = Recorder::default();
        while let Some(one) = all.join_next().await {
            if let Ok(one) = one {
                recorder.merge(one);
            }
        }
        // What was due at the end may be answered after it.
        let took = (start + load.warmup).elapsed().max(load.duration);
        recorder.report(&self.model, load, took)
    }
}

/// When requests are due.
enum Times {
    Open(Vec<Instant>),
    Closed(Instant),
}

impl Times {
    fn of(arrivals: Arrivals, start: Instant, end: Instant) -> Self {
        let (rate, random) = match arrivals {
            Arrivals::Closed(_) => return Self::Closed(start),
            Arrivals::Constant(rate) => (rate, false),
            Arrivals::Poisson(rate) => (rate, true),
        };
        let mut generator = StdRng::seed_from_u64(1);
        let mut at = start;
        let mut times = Vec::new();
        while at < end {
            times.push(at);
            // (1 - u is never 0.)
            let gap = if random { -(1.0 - generator.random::<f64>()).ln() } else { 1.0 };
            at += Duration::from_secs_f64(gap / rate);
        }
        Self::Open(times)
    }

    fn due(&self, at: usize) -> Option<Instant> {
        match self {
            Self::Open(times) => times.get(at).copied(),
            Self::Closed(start) => Some(*start),
        }
    }

    fn is_closed(&self) -> bool {
        matches!(self, Self::Closed(_))
    }

    fn len(&self) -> usize {
        match self {
            Self::Open(times) => times.len(),
            Self::Closed(_) => usize::MAX,
        }
    }
}

/// A connection, made when it is needed.
#[derive(Default)]
struct Connection {
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Connection {
    async fn send(
        &mut self,
        authority: &str,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, (Option<usize>, Bytes)), String> {
        let result = self.try_send(authority, request).await;
        if result.is_err() {
            self.sender = None;
        }
        result.map_err(|error| error.to_string())
    }

    async fn try_send(
        &mut self,
        authority: &str,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, (Option<usize>, Bytes)), Box<dyn std::error::Error + Send + Sync>> {
        let open = match &mut self.sender {
            Some(sender) => sender.ready().await.is_ok(),
            None => false,
        };
        if !open {
            let stream = TcpStream::connect(authority).await?;
            stream.set_nodelay(true)?;
            let (sender, connection) = handshake(TokioIo::new(stream)).await?;
            tokio::spawn(async move {
                // Its failure is that of the request.
                let _ = connection.await;
            });
            self.sender = Some(sender);
        }
        let sender = self.sender.as_mut().expect("just made");
        let response = sender.send_request(request).await?;
        let status = response.status();
        let json = response.headers().get("Inference-Header-Content-Length");
        let json = json.and_then(|length| length.to_str().ok()?.parse().ok());
        Ok((status, (json, response.into_body().collect().await?.to_bytes())))
    }
}

/// A request of so many samples with random numbers.
fn prepare(
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
fn numbers((json, body): &(Option<usize>, Bytes)) -> Option<Vec<f32>> {
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

fn close(found: &[f32], expected: &[f32]) -> bool {
    let scale = expected.iter().fold(f32::MIN_POSITIVE, |most, x| most.max(x.abs()));
    let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || (a - b).abs() <= TOLERANCE * scale;
    found.len() == expected.len() && found.iter().zip(expected).all(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_loops_are_due_whatever_is_answered() {
        let start = Instant::now();
        let times = |arrivals| match Times::of(arrivals, start, start + Duration::from_secs(10)) {
            Times::Open(times) => times,
            Times::Closed(_) => Vec::new(),
        };
        let even = times(Arrivals::Constant(100.0));
        assert!((999..=1001).contains(&even.len()), "{}", even.len());
        let random = times(Arrivals::Poisson(100.0));
        assert!((850..1150).contains(&random.len()), "{}", random.len());
        assert!(random.is_sorted());
        assert_eq!(Times::of(Arrivals::Closed(2), start, start).due(1 << 40), Some(start));
    }

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
