//! Spans by OTLP over gRPC: one for each request, a child of the span in its `traceparent` (W3C Trace Context), and below it
//! what a run waited and took. Names and attributes are those of OpenTelemetry's conventions for HTTP and RPC.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::{MatchedPath, Request, State};
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::Response;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{
    FutureExt, Span, SpanBuilder, SpanKind, Status, TraceContextExt, Tracer, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use tracing::warn;

use super::TraceError;
use crate::app::App;
use crate::http::{REQUEST_ID, is_health, shown};
use crate::model::job::Times;

/// How long what is left of spans may take to be sent when the server ends.
const LAST: Duration = Duration::from_secs(5);

/// Where spans go.
#[derive(Debug, Clone)]
pub(crate) struct Traces {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

impl Traces {
    /// For a collector such as `http://localhost:4317`, within a runtime of tokio that lives as long. Nothing is sent yet.
    ///
    /// # Errors
    /// When the endpoint is no URL of plain HTTP.
    pub(crate) fn of(endpoint: Option<&str>) -> Result<Option<Self>, TraceError> {
        let Some(endpoint) = endpoint else { return Ok(None) };
        let failed = |reason: &str| TraceError::Endpoint { endpoint: endpoint.into(), reason: reason.into() };
        if !endpoint.starts_with("http://") {
            return Err(failed("must be http://HOST:PORT of a collector that takes OTLP over gRPC"));
        }
        let exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint);
        let exporter = exporter.build().map_err(|error| failed(&error.to_string()))?;
        let resource = Resource::builder().with_service_name("poda");
        let resource = resource.with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource.build())
            .build();
        let tracer = provider.tracer("poda-serve");
        Ok(Some(Self { provider, tracer }))
    }

    /// Tells of a run that just ended, for the request that is being followed.
    pub(crate) fn ran(&self, model: &str, times: &Times) {
        let parent = Context::current();
        if !parent.span().span_context().is_sampled() {
            return;
        }
        let mut end = SystemTime::now() - times.output;
        for (name, took) in [("run", times.infer), ("gather", times.input), ("queue", times.queue)] {
            let start = end - took;
            let span = SpanBuilder::from_name(name)
                .with_start_time(start)
                .with_attributes([KeyValue::new("poda.model", model.to_owned())]);
            self.tracer.build_with_context(span, &parent).end_with_timestamp(end);
            end = start;
        }
    }

    /// Sends what is left.
    pub(crate) async fn end(self) {
        let last = tokio::task::spawn_blocking(move || self.provider.shutdown_with_timeout(LAST));
        if let Ok(Err(error)) = last.await {
            warn!(%error, "the last spans were not sent");
        }
    }
}

/// Gives a request its span, but for probes.
pub(crate) async fn follow(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let probe = is_health(path) || path == "/metrics";
    let Some(traces) = app.traces.as_ref().filter(|_| !probe) else { return next.run(request).await };
    let parent = TraceContextPropagator::new().extract(&Headers(request.headers()));
    let span = traces.tracer.build_with_context(described(&request), &parent);
    let context = parent.with_span(span);
    let response = next.run(request).with_context(context.clone()).await;
    let span = context.span();
    let status = response.status();
    span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status.as_u16())));
    if let Some(id) = response.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok()) {
        span.set_attribute(KeyValue::new("http.response.header.x-request-id", id.to_owned()));
    }
    if let Some(code) = response.headers().get("grpc-status").and_then(|code| code.to_str().ok()) {
        span.set_attribute(KeyValue::new("rpc.response.status_code", code.to_owned()));
    }
    if status.is_server_error() {
        span.set_status(Status::error(""));
    }
    span.end();
    response
}

fn described(request: &Request) -> SpanBuilder {
    let (method, path) = (request.method().as_str(), request.uri().path());
    if let Some(rpc) = path.strip_prefix('/').filter(|path| path.starts_with("inference.")) {
        let attributes =
            [KeyValue::new("rpc.system.name", "grpc"), KeyValue::new("rpc.method", rpc.to_owned())];
        return SpanBuilder::from_name(rpc.to_owned())
            .with_kind(SpanKind::Server)
            .with_attributes(attributes);
    }
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let name = route.map_or_else(|| method.to_owned(), |route| format!("{method} {route}"));
    let mut attributes =
        vec![KeyValue::new("http.request.method", method.to_owned()), KeyValue::new("url.path", shown(path))];
    attributes.extend(route.map(|route| KeyValue::new("http.route", route.to_owned())));
    SpanBuilder::from_name(name).with_kind(SpanKind::Server).with_attributes(attributes)
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(axum::http::HeaderName::as_str).collect()
    }
}
