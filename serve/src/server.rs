//! A server from its start to its end.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tonic_health::server::HealthReporter;
use tracing::{error, info, warn};

use crate::app::{App, Phase};
use crate::auth::{TokenError, Tokens};
use crate::config::{Config, ConfigError};
use crate::connections::Connections;
use crate::grpc::{self, GrpcError};
use crate::http;
use crate::in_flight::InFlight;
use crate::io_threads::IoThreads;
use crate::metrics::Metrics;
use crate::model::load::LoadError;
use crate::registry::Registry;
use crate::tls::{Tls, TlsError};
use crate::traces::{TraceError, Traces};

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum ServeError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Grpc(#[from] GrpcError),
    #[error(transparent)]
    Trace(#[from] TraceError),
    #[error("--{flag} {address}: {source}")]
    Bind { flag: &'static str, address: String, source: io::Error },
    #[error("cannot start: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Load(Box<LoadError>),
}

impl From<LoadError> for ServeError {
    fn from(error: LoadError) -> Self {
        Self::Load(Box::new(error))
    }
}

/// What a server tells whoever started it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// HTTP is served here; models may still be loading.
    Http(SocketAddr),
    /// gRPC is served here.
    Grpc(SocketAddr),
    /// All models are there.
    Ready(Duration),
}

/// What others tell a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    /// Read models and certificates again.
    Reload,
    /// End, after serving on for the time of grace.
    Leave,
    /// End at once, but answer what is under way.
    Stop,
}

/// Runs a server until it is told to end.
pub(crate) async fn serve(
    config: Config,
    mut on: impl FnMut(Event),
    mut next: impl AsyncFnMut() -> Command,
) -> Result<(), ServeError> {
    let started = Instant::now();
    config.check()?;
    poda_formats::storage::give_back_early();
    let tokens = Tokens::of(&config)?;
    let tls = Tls::of(&config)?.map(Arc::new);
    let traces = Traces::of(config.otlp_endpoint.as_deref())?;
    let (phase, phases) = watch::channel(Phase::Starting);
    let (config, metrics) = (Arc::new(config), Arc::new(Metrics::new()));
    let registry = Registry::new(Arc::clone(&config), Arc::clone(&metrics));
    let app = Arc::new(App {
        config: Arc::clone(&config),
        metrics,
        registry,
        tokens,
        traces: traces.clone(),
        in_flight: InFlight::new(config.max_in_flight),
        phase: phases.clone(),
        started,
    });
    let cpus = poda_runtime::Threads::available();
    let connections = Connections {
        app: Arc::clone(&app),
        tls: tls.clone(),
        places: Arc::new(Semaphore::new(config.connections.min(Semaphore::MAX_PERMITS))),
        // A client on the only CPU would wait for the thread that looks for what it sends.
        streams: (cpus > 1).then(Arc::default),
        io_threads: Arc::new(IoThreads::start(cpus.clamp(1, 4))?),
        phase: phases,
    };
    let mut doors = JoinSet::new();
    let (listener, address) = bind("http", &config.http).await?;
    warn_if_open(&app, address, tls.is_some());
    doors.spawn(connections.clone().serve(listener, http::router(&app)));
    on(Event::Http(address));
    let mut health = None;
    if config.grpc != "off" {
        let (listener, address) = bind("grpc", &config.grpc).await?;
        let (router, reporter) = grpc::router(&app)?;
        grpc::report(&reporter, false).await;
        doors.spawn(Connections { streams: None, ..connections.clone() }.serve(listener, router));
        on(Event::Grpc(address));
        health = Some(reporter);
    }

    let loading = Arc::clone(&app);
    let mut load = tokio::task::spawn_blocking(move || loading.registry.reload());
    let mut told = None;
    tokio::select! {
        loaded = &mut load => {
            let loaded = loaded.map_err(io::Error::other)?;
            // A repository serves what it can; what was named must be there.
            match loaded {
                Err(error) if config.repository.is_none() => return Err(error.into()),
                Err(LoadError::Io { path, source }) if config.repository.as_ref() == Some(&path) => {
                    return Err(LoadError::Io { path, source }.into());
                }
                _ => {}
            }
            phase.send_replace(Phase::Serving);
            report(health.as_ref(), app.is_ready()).await;
            if app.is_ready() {
                on(Event::Ready(started.elapsed()));
            } else {
                warn!("not ready: no model could be loaded");
            }
        }
        command = next() => told = Some(command),
    }

    let ending = loop {
        let command = match told.take() {
            Some(command) => command,
            None => next().await,
        };
        match command {
            Command::Reload => {
                let (app, tls, reporter) = (Arc::clone(&app), tls.clone(), health.clone());
                // The server goes on meanwhile; failures are in the log.
                tokio::spawn(async move {
                    let own = Arc::clone(&app);
                    let reloaded = tokio::task::spawn_blocking(move || reload(&own, tls.as_deref())).await;
                    if reloaded.is_err() {
                        error!("a reload broke off");
                    }
                    report(reporter.as_ref(), app.is_ready()).await;
                });
            }
            ending => break ending,
        }
    };
    phase.send_replace(Phase::Leaving);
    report(health.as_ref(), false).await;
    if ending == Command::Leave && config.grace > 0.0 {
        info!(seconds = config.grace, "leaving: not ready, but serving");
        let grace = tokio::time::sleep(Duration::from_secs_f64(config.grace));
        tokio::select! {
            () = grace => {}
            () = until_end(&mut next) => {}
        }
    }
    phase.send_replace(Phase::Draining);
    info!("draining");
    let drained = async { while doors.join_next().await.is_some() {} };
    tokio::select! {
        () = drained => info!("ended: every request was answered"),
        () = tokio::time::sleep(Duration::from_secs_f64(config.drain)) => {
            warn!(seconds = config.drain, "ended with requests under way: --drain is over");
        }
        () = until_end(&mut next) => warn!("ended with requests under way: told twice"),
    }
    if let Some(traces) = traces {
        traces.end().await;
    }
    Ok(())
}

/// Waits for a second word to end.
async fn until_end(next: &mut impl AsyncFnMut() -> Command) {
    while next().await == Command::Reload {}
}

async fn report(reporter: Option<&HealthReporter>, ready: bool) {
    if let Some(reporter) = reporter {
        grpc::report(reporter, ready).await;
    }
}

fn reload(app: &App, tls: Option<&Tls>) {
    if let Some(Err(error)) = tls.map(Tls::reload) {
        error!(%error, "certificates were not reloaded");
    }
    // What fails is logged model by model, but for the repository itself.
    if let Err(LoadError::Io { path, source }) = app.registry.reload() {
        error!(path = %path.display(), error = %source, "reload failed");
    }
}

fn bind(
    flag: &'static str,
    address: &str,
) -> impl Future<Output = Result<(TcpListener, SocketAddr), ServeError>> {
    let address = address.to_owned();
    async move {
        let failed = |source| ServeError::Bind { flag, address: address.clone(), source };
        let listener = TcpListener::bind(&address).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        Ok((listener, bound))
    }
}

fn warn_if_open(app: &App, address: SocketAddr, tls: bool) {
    if !address.ip().is_loopback() && (app.tokens.is_open() || !tls) {
        warn!(
            %address,
            tokens = !app.tokens.is_open(),
            tls,
            "other machines can reach this server; --token-file and --tls-cert say who may and keep it private"
        );
    }
}
