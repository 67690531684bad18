//! The clients: a server, and connections that send it requests when they are due.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::report::{Outcome, Recorder, Report};
use super::requests::{Metadata, Prepared, close, numbers, prepare};
use super::times::Times;
use super::{Arrivals, Load};

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
/// What could not be sent so long after the end, because the generator is too slow or all connections wait, is not sent any more.
const LATE: Duration = Duration::from_secs(1);

/// A server and what is sent to it.
pub(super) struct Target {
    authority: String,
    token: Option<String>,
    pub(super) model: String,
    path: String,
    requests: Vec<Prepared>,
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
                    let sent = Instant::now();
                    if sent > end + LATE {
                        recorder.record(Duration::ZERO, Duration::ZERO, Outcome::Failed("not sent".into()));
                        continue;
                    }
                    let outcome = target.outcome(&mut connection, at % target.requests.len(), timeout).await;
                    if due >= counted {
                        recorder.record(due.elapsed(), sent.elapsed(), outcome);
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
