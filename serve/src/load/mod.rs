//! A load generator for the Open Inference Protocol: how many requests a server answers, how fast, and which not.
//!
//! In an open loop requests are due at times that do not depend on the answers, and latency counts from when a request was due:
//! a server that stalls is charged for all that came meanwhile (Tene, "How NOT to Measure Latency"). In a closed loop so many
//! clients send one request after another.

mod client;
pub mod html;
mod report;
mod requests;
mod search;
mod times;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

pub use client::TargetError;
pub use report::{Latency, Report};
pub use search::{Found, Step};

use crate::{Config, Running, ServeError};

/// When requests are sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Arrivals {
    /// So many a second, evenly.
    Constant(f64),
    /// So many a second on average, at random times.
    Poisson(f64),
    /// The next when the last is answered, so many at a time.
    Closed(usize),
}

/// What to send, and how.
#[derive(Debug, Clone)]
pub struct Load {
    /// `http://HOST:PORT`, without a path.
    pub url: String,
    /// Which model; the only one where there is one.
    pub model: Option<String>,
    /// When.
    pub arrivals: Arrivals,
    /// For how long.
    pub duration: Duration,
    /// Before counting starts.
    pub warmup: Duration,
    /// Connections at most: requests under way at a time.
    pub connections: usize,
    /// Batches, one of which is drawn for each request.
    pub batches: Vec<usize>,
    /// Sizes of open dimensions beyond the first, and shapes of inputs.
    pub shapes: Vec<poda_runtime::shapes::NamedShape>,
    /// Whether tensors are sent and asked for as JSON instead of bytes.
    pub json: bool,
    /// Compare every answer with the first for the same request.
    pub check: bool,
    /// A bearer token.
    pub token: Option<String>,
    /// After which a request counts as failed.
    pub timeout: Duration,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum LoadTestError {
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error("cannot start: {0}")]
    Io(#[from] io::Error),
    #[error("at {rate} requests/s p99 is {p99_ms:.3} ms already, over {limit_ms} ms")]
    NoRate { rate: f64, p99_ms: f64, limit_ms: f64 },
}

/// A client that is alone needs no second thread, which would have to be woken.
fn runtime(load: &Load) -> io::Result<Runtime> {
    let mut builder = match load.arrivals {
        Arrivals::Closed(1) => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    let threads = poda_runtime::Threads::available().clamp(1, 4);
    builder.worker_threads(threads).enable_all().build()
}

/// Sends the load and reports.
///
/// # Errors
/// When the target does not tell of itself, or nothing can be sent. Requests that fail are in the report.
pub fn run(load: &Load) -> Result<Report, LoadTestError> {
    runtime(load)?.block_on(async {
        let target = Arc::new(client::Target::find(load).await?);
        Ok(target.send(load).await)
    })
}

/// The greatest constant rate at which p99 stays under a limit and nothing fails, by raising the load's rate two or four times and then halving;
/// `on_step` is told of each rate that was tried.
///
/// # Errors
/// As [`run`], and when not even the least rate does.
pub fn greatest_rate(
    load: &Load,
    limit: Duration,
    on_step: impl FnMut(&Step),
) -> Result<Found, LoadTestError> {
    runtime(load)?.block_on(async {
        let target = Arc::new(client::Target::find(load).await?);
        search::search(&target, load, limit, on_step).await
    })
}

/// A server of one model on this machine, to be loaded.
///
/// # Errors
/// When it does not start.
pub fn serve(config: Config) -> Result<(Running, SocketAddr), ServeError> {
    let config = Config { http: "127.0.0.1:0".into(), grpc: "off".into(), ..config };
    let running = crate::start(config)?;
    let address = running.http;
    Ok((running, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn load(arrivals: Arrivals) -> Load {
        Load {
            url: "http://127.0.0.1:1".into(),
            model: None,
            arrivals,
            duration: Duration::from_secs(1),
            warmup: Duration::ZERO,
            connections: 8,
            batches: vec![1],
            shapes: Vec::new(),
            json: false,
            check: true,
            token: None,
            timeout: Duration::from_secs(10),
        }
    }

    #[test]
    fn a_target_that_is_not_there_is_named() {
        let error = run(&load(Arrivals::Closed(1))).unwrap_err().to_string();
        assert!(error.contains("127.0.0.1:1"), "{error}");
        let tls = Load { url: "https://a".into(), ..load(Arrivals::Closed(1)) };
        assert!(run(&tls).unwrap_err().to_string().contains("TLS"));
    }
}
