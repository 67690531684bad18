//! Serves pruned models over HTTP and gRPC: the Open Inference Protocol, embeddings in OpenAI's form, metrics for Prometheus.
//!
//! [`run`] is `poda serve` as a function: it listens, loads, serves until a signal says otherwise, drains, and returns. [`start`]
//! does the same beside whatever else a program does, and is ended by [`Running::stop`].
//!
//! # How a request goes
//!
//! A connection is bounded in number and time. Its request is decoded within limits, and waits in its model's queue;
//! requests of one shape that wait together share a run, if it is proved that a batch computes each of its samples apart. A run
//! of shapes that have no plan yet is planned by a thread that serves nothing else. Whoever has leaves with what the old version gives
//! when a new one takes its place.
//!
//! # What it does not do
//!
//! It keeps no state between requests, knows no sequences and no shared memory, and runs one version of each model.

mod app;
mod auth;
mod busy_poll;
mod config;
mod connections;
mod datatype;
mod decode;
#[doc(hidden)]
pub mod fuzzing;
mod grpc;
mod http;
mod in_flight;
mod io_threads;
pub mod load;
mod metrics;
mod model;
mod refusal;
mod registry;
mod repository;
mod server;
mod statistics;
mod text;
mod tls;
mod traces;

use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::{fmt, io};

use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

pub use auth::TokenError;
pub use config::{Config, ConfigError, LogFormat, Mode};
pub use decode::DecodeError;
pub use grpc::GrpcError;
pub use model::load::LoadError;
pub use server::{Event, ServeError};
pub use text::TextError;
pub use tls::TlsError;

use server::{Command, serve};

/// For what is not a connection's: one thread takes those, and directs the rest.
fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// Sends log lines to standard error, as the configuration says.
///
/// # Errors
/// When the level is none.
pub fn log(config: &Config) -> Result<(), ConfigError> {
    let level: tracing::Level = config.log_level.parse().map_err(|_| ConfigError::Value {
        flag: "log-level",
        value: config.log_level.clone(),
        expected: "error, warn, info, debug or trace",
    })?;
    let builder = tracing_subscriber::fmt().with_max_level(level).with_writer(io::stderr).with_target(false);
    // Whoever read the log may be gone: that is no reason to end.
    let builder = builder.log_internal_errors(false);
    // A log that is set already stays.
    let _ = match config.log {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    Ok(())
}

/// Serves until SIGTERM or SIGINT, and returns when requests under way are answered. SIGHUP reloads models and certificates.
///
/// # Errors
/// When the server does not start.
pub fn run(config: Config, on: impl FnMut(Event)) -> Result<(), ServeError> {
    let runtime = runtime()?;
    let result = runtime.block_on(async {
        let mut signals = Signals::new()?;
        serve(config, on, async || signals.next().await).await
    });
    // Runs that nobody waits for any more end by themselves.
    runtime.shutdown_background();
    result
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let [terminate, interrupt, hangup] =
            [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
        Ok(Self { terminate: signal(terminate)?, interrupt: signal(interrupt)?, hangup: signal(hangup)? })
    }

    async fn next(&mut self) -> Command {
        tokio::select! {
            _ = self.terminate.recv() => Command::Leave,
            _ = self.interrupt.recv() => Command::Stop,
            _ = self.hangup.recv() => Command::Reload,
        }
    }
}

/// A server beside the rest of a program.
pub struct Running {
    /// Where HTTP is served.
    pub http: SocketAddr,
    /// Where gRPC is.
    pub grpc: Option<SocketAddr>,
    command: watch::Sender<Option<Command>>,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("http", &self.http).field("grpc", &self.grpc).finish_non_exhaustive()
    }
}

/// Starts a server; returns when it is ready.
///
/// # Errors
/// When it does not become ready.
pub fn start(config: Config) -> Result<Running, ServeError> {
    let (command, mut commands) = watch::channel(None);
    let (events, seen) = mpsc::channel();
    let runtime = runtime()?;
    let serving = thread::Builder::new().name("poda-serve".into()).spawn(move || {
        let next = async || match commands.changed().await {
            Ok(()) => commands.borrow_and_update().unwrap_or(Command::Stop),
            Err(_) => Command::Stop,
        };
        let on = move |event| {
            // Whoever started it may look no longer.
            let _ = events.send(event);
        };
        let result = runtime.block_on(serve(config, on, next));
        runtime.shutdown_background();
        result
    })?;
    let (mut http, mut grpc) = (None, None);
    for event in seen {
        match event {
            Event::Http(address) => http = Some(address),
            Event::Grpc(address) => grpc = Some(address),
            Event::Ready(_) => {
                let http = http.ok_or_else(|| io::Error::other("ready before it listened"))?;
                return Ok(Running { http, grpc, command, thread: Some(serving) });
            }
        }
    }
    let ended = serving.join().map_err(|_| io::Error::other("the server broke off"))?;
    Err(ended.err().unwrap_or_else(|| io::Error::other("no model could be loaded").into()))
}

impl Running {
    /// Reads models and certificates again, as SIGHUP does.
    pub fn reload(&self) {
        self.command.send_replace(Some(Command::Reload));
    }

    /// Ends the server as SIGTERM does; returns when it has ended.
    ///
    /// # Errors
    /// As [`run`].
    pub fn stop(mut self) -> Result<(), ServeError> {
        self.command.send_replace(Some(Command::Leave));
        let ended = self.thread.take().map(JoinHandle::join);
        ended.map_or(Ok(()), |ended| ended.map_err(|_| io::Error::other("the server broke off"))?)
    }
}

/// Ends it at once.
impl Drop for Running {
    fn drop(&mut self) {
        self.command.send_replace(Some(Command::Stop));
        if let Some(thread) = self.thread.take() {
            // Its failure is in the log.
            let _ = thread.join();
        }
    }
}
