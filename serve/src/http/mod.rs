//! HTTP: the Open Inference Protocol, embeddings and classes, metrics, and a page for people.

mod control;
pub(crate) mod infer;
mod info;
pub(crate) mod models;
mod openai;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, HttpBody, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError};
use serde::Serialize;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};
use tracing::{debug, warn};

use crate::app::App;
use crate::auth::check_origin;
use crate::in_flight::{Held, Hold};
use crate::refusal::Refusal;
use crate::traces;

type Answer = Result<Response, Refusal>;

/// Everything that is served over HTTP.
pub(crate) fn router(app: &Arc<App>) -> Router {
    let model = "/v2/models/{model}";
    let version = "/v2/models/{model}/versions/{version}";
    let mut router = Router::new()
        .route("/", get(info::page))
        .route("/openapi.json", get(info::openapi))
        .route("/info", get(info::info))
        .route("/metrics", get(info::metrics))
        .route("/v2", get(models::server))
        .route("/v2/health/live", get(models::live))
        .route("/v2/health/ready", get(models::ready))
        .route("/v2/models/stats", get(models::all_statistics))
        .route("/v2/repository/index", post(control::index))
        .route("/v2/repository/models/{model}/load", post(control::load))
        .route("/v2/repository/models/{model}/unload", post(control::unload))
        .route("/v1/models", get(openai::models))
        .route("/v1/embeddings", post(openai::embeddings))
        .route("/v1/classify", post(openai::classify));
    for base in [model, version] {
        router = router
            .route(base, get(models::metadata))
            .route(&format!("{base}/ready"), get(models::model_ready))
            .route(&format!("{base}/stats"), get(models::statistics))
            .route(&format!("{base}/infer"), post(infer::infer));
    }
    let router = router
        .fallback(no_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(CatchPanicLayer::custom(|_: Box<dyn std::any::Any + Send>| Refusal::Panicked.into_response()))
        .with_state(Arc::clone(app));
    guarded(router, app)
}

/// What holds for every request, HTTP or gRPC: tokens, origins, a number, a line in the log.
pub(crate) fn guarded(router: Router, app: &Arc<App>) -> Router {
    let mut router = router.layer(from_fn_with_state(Arc::clone(app), guard));
    if app.traces.is_some() {
        router = router.layer(from_fn_with_state(Arc::clone(app), traces::follow));
    }
    let origins = &app.config.cors_origin;
    if origins.is_empty() {
        return router;
    }
    let origin = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(origins.iter().filter_map(|origin| origin.parse::<HeaderValue>().ok()))
    };
    let methods = [Method::GET, Method::POST];
    let headers = [header::CONTENT_TYPE, header::AUTHORIZATION, infer::HEADER_LENGTH, REQUEST_ID, TIMEOUT];
    let shown = [infer::HEADER_LENGTH, REQUEST_ID];
    let cors = CorsLayer::new().allow_origin(origin).allow_methods(methods).allow_headers(headers);
    router.layer(cors.expose_headers(shown))
}

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Milliseconds that a client would wait.
pub(crate) const TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout-ms");

/// Whether a request asks for health.
pub(crate) fn is_health(path: &str) -> bool {
    path.starts_with("/v2/health/") || path.starts_with("/grpc.health.v1.Health/")
}

/// How long the body of a refused request is read.
const DISCARD: Duration = Duration::from_secs(1);

async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let start = Instant::now();
    let id = request_id(request.headers());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    // Probes carry no token.
    let open = is_health(&path);
    let checked = check_origin(request.headers(), &app.config.cors_origin)
        .and_then(|()| if open { Ok(()) } else { app.tokens.check(request.headers()) });
    let grpc = path.starts_with("/inference.") || path.starts_with("/grpc.");
    // Until it is answered: tensors may lie in the body, and what is freed before that is no great loss.
    let hold = Arc::new(Hold::new(&app.in_flight));
    let own = Arc::clone(&hold);
    let request = request.map(|body| Body::new(Held { body, hold: own, grpc }));
    let mut response = match checked {
        Ok(()) => next.run(request).await,
        Err(refusal) if grpc => tonic::Status::from(refusal).into_http::<tonic::body::Body>().map(Body::new),
        Err(refusal) => refusal.into_response(),
    };
    let status = response.status();
    if let Some(Kind(kind)) = response.extensions().get::<Kind>() {
        app.metrics.refused.with_label_values(&[kind]).inc();
    }
    let micros = start.elapsed().as_micros() as u64;
    let id_text = id.to_str().unwrap_or_default();
    if status.is_server_error() && status != StatusCode::SERVICE_UNAVAILABLE {
        warn!(id = id_text, %method, path, status = status.as_u16(), micros, "request");
    } else {
        debug!(id = id_text, %method, path, status = status.as_u16(), micros, "request");
    }
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, id);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// The client's number of its request, or a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let allowed = |id: &&HeaderValue| {
        let bytes = id.as_bytes();
        bytes.len() <= 128 && bytes.iter().all(u8::is_ascii_graphic)
    };
    let given = headers.get(REQUEST_ID).filter(allowed).cloned();
    given.unwrap_or_else(|| {
        let id = format!("{:016x}", rand::random::<u64>());
        HeaderValue::from_str(&id).expect("hexadecimal digits")
    })
}

async fn no_route(request: Request) -> Refusal {
    Refusal::NoRoute { path: shown(request.uri().path()) }
}

async fn wrong_method(request: Request) -> Refusal {
    Refusal::Method { method: request.method().to_string(), path: shown(request.uri().path()) }
}

/// As much of a path as is told to others.
pub(crate) fn shown(path: &str) -> String {
    path.chars().take(256).collect()
}

/// Why a response is one of refusal, for whoever counts.
#[derive(Debug, Clone, Copy)]
struct Kind(&'static str);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = serde_json::json!({ "error": self.to_string() });
        refused(&self, &body)
    }
}

/// A refusal with a body of some form.
fn refused(refusal: &Refusal, body: &serde_json::Value) -> Response {
    let mut response =
        (refusal.status(), [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response();
    response.extensions_mut().insert(Kind(refusal.kind()));
    let headers = response.headers_mut();
    if let Some(seconds) = refusal.retry_after() {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if matches!(refusal, Refusal::Unauthorized) {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// A body of JSON.
fn json(value: &impl Serialize) -> Answer {
    let body = serde_json::to_vec(value).map_err(|_| Refusal::Panicked)?;
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// The body of a request, of bounded size and in bounded time.
async fn body(app: &App, headers: &HeaderMap, body: Body) -> Result<Bytes, Refusal> {
    let limit = app.config.max_body;
    let too_large = |found| Refusal::TooLarge { what: "a body", found, limit, flag: "max-body" };
    let declared =
        headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if let Some(found) = declared.filter(|&length| length > limit) {
        return Err(too_large(found));
    }
    if let Err(refusal) = app.in_flight.check(declared.unwrap_or(0)) {
        discard(body);
        return Err(refusal);
    }
    let read = to_bytes(body, limit as usize);
    match tokio::time::timeout(app.config.read_timeout(), read).await {
        Err(_) => Err(Refusal::SlowBody { seconds: app.config.read_timeout }),
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => {
            let reasons =
                || std::iter::successors(std::error::Error::source(&error), |reason| reason.source());
            Err(if reasons().any(<dyn std::error::Error>::is::<LengthLimitError>) {
                too_large(limit + 1)
            } else if let Some(refusal) = reasons().find_map(|reason| reason.downcast_ref::<Refusal>()) {
                refusal.clone()
            } else {
                Refusal::Body { reason: error.to_string() }
            })
        }
    }
}

/// Reads what comes of a body whose request is refused, for a moment: over bytes that nobody reads a connection is reset, and
/// the answer may be lost with it.
fn discard(mut body: Body) {
    // What came with the headers hyper reads by itself.
    if body.size_hint().upper().is_some_and(|bytes| bytes <= 8 << 10) {
        return;
    }
    tokio::spawn(tokio::time::timeout(DISCARD, async move { while let Some(Ok(_)) = body.frame().await {} }));
}

/// JSON, or nothing said; a form that any web page could send is not taken.
fn check_media(headers: &HeaderMap, allowed: &[&str]) -> Result<(), Refusal> {
    let Some(found) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let found = found.to_str().unwrap_or("?");
    let kind = found.split(';').next().unwrap_or_default().trim();
    if allowed.iter().any(|allowed| kind.eq_ignore_ascii_case(allowed)) {
        return Ok(());
    }
    Err(Refusal::MediaType { found: found.chars().take(64).collect() })
}

/// Runs what takes long on a thread that may.
async fn blocking<R: Send + 'static>(f: impl FnOnce() -> R + Send + 'static) -> Result<R, Refusal> {
    tokio::task::spawn_blocking(f).await.map_err(|_| Refusal::Panicked)
}
