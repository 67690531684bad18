//! Connections: taken, encrypted, bounded in number and in time, and ended in order.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tower::ServiceExt;
use tracing::{debug, warn};

use crate::app::{App, Phase};
use crate::busy_poll::{BusyPoll, Streams};
use crate::io_threads::IoThreads;
use crate::tls::Tls;

/// What a connection beyond the limit is told.
const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n\
    Connection: close\r\nContent-Length: 77\r\n\r\n\
    {\"error\":\"too many connections are open already, the limit of --connections\"}";
/// Between two tries after the system gave no connection, as when it has no file descriptors left.
const PAUSE: Duration = Duration::from_millis(50);

/// How connections are served, whatever comes over them.
#[derive(Clone)]
pub(crate) struct Connections {
    pub(crate) app: Arc<App>,
    pub(crate) tls: Option<Arc<Tls>>,
    pub(crate) places: Arc<Semaphore>,
    /// Where requests come one after another over each: those of gRPC come side by side.
    pub(crate) streams: Option<Arc<Streams>>,
    pub(crate) io_threads: Arc<IoThreads>,
    pub(crate) phase: watch::Receiver<Phase>,
}

impl Connections {
    /// Serves until the server drains; then lets connections end, which they do when their requests are answered.
    pub(crate) async fn serve(mut self, listener: TcpListener, router: Router) {
        let graceful = GracefulShutdown::new();
        let builder = Arc::new(self.builder());
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = self.phase.wait_for(|phase| *phase == Phase::Draining) => break,
            };
            match accepted {
                Ok((stream, peer)) => self.take(stream, peer, &builder, &router, graceful.watcher()),
                Err(error) => {
                    self.app.metrics.accept_errors.inc();
                    warn!(%error, "no connection could be taken");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        drop(listener);
        graceful.shutdown().await;
    }

    fn builder(&self) -> Builder<TokioExecutor> {
        let config = &self.app.config;
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(config.read_timeout())
            .max_buf_size(config.max_header);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_header_list_size(u32::try_from(config.max_header).unwrap_or(u32::MAX))
            .max_concurrent_streams(u32::try_from(config.queue).unwrap_or(u32::MAX).clamp(1, 1024))
            .keep_alive_interval(Some(config.read_timeout().max(Duration::from_secs(1))))
            .keep_alive_timeout(config.read_timeout().max(Duration::from_secs(1)));
        builder
    }

    fn take(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        builder: &Arc<Builder<TokioExecutor>>,
        router: &Router,
        watcher: Watcher,
    ) {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            self.app.metrics.connections_refused.inc();
            if self.tls.is_none() {
                // What the socket does not take at once is not worth waiting for.
                let _ = stream.try_write(FULL);
            }
            return;
        };
        // Answers are written whole, so that waiting for more would only delay them.
        let _ = stream.set_nodelay(true);
        let (tls, limit) = (self.tls.clone(), self.app.config.read_timeout());
        let (builder, router, streams) = (Arc::clone(builder), router.clone(), self.streams.clone());
        let open = Open::new(Arc::clone(&self.app));
        // It changes the thread, and what wakes it.
        let stream = stream.into_std();
        self.io_threads.spawn(async move {
            let (_place, _open) = (place, open);
            let outcome = async {
                let stream = BusyPoll::new(TcpStream::from_std(stream?)?, streams);
                let Some(tls) = tls else { return serve(stream, &builder, router, watcher).await };
                match tokio::time::timeout(limit, tls.acceptor().accept(stream)).await {
                    Ok(stream) => serve(stream?, &builder, router, watcher).await,
                    Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
                }
            };
            if let Err(error) = outcome.await {
                debug!(%peer, error = &*error, "connection ended");
            }
        });
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    builder: &Builder<TokioExecutor>,
    router: Router,
    watcher: Watcher,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        router.clone().oneshot(request.map(Body::new))
    });
    let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
    watcher.watch(connection).await
}

/// Counts a connection while it is open.
struct Open(Arc<App>);

impl Open {
    fn new(app: Arc<App>) -> Self {
        app.metrics.connections.inc();
        Self(app)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.metrics.connections.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_one_too_many_is_told_so_in_a_whole_response() {
        let text = std::str::from_utf8(FULL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}", body.len())), "{}", body.len());
        assert!(body.contains("--connections"));
    }
}
