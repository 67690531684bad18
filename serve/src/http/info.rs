//! For people and their tools: a page, what it shows as JSON, metrics, and a description of the whole interface.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::models::{TensorMetadata, platform};
use super::{Answer, json};
use crate::app::App;
use crate::config::Concurrency;
use crate::model::Served;
use crate::statistics::ModelStatistics;

const PAGE: &str = include_str!("page.html");
const OPENAPI: &str = include_str!("openapi.json");
/// Nothing from elsewhere, and nobody may frame the page.
const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(super) async fn page() -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, PAGE).into_response()
}

pub(super) async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

pub(super) async fn metrics(State(app): State<Arc<App>>) -> Response {
    app.metrics.ready.set(i64::from(app.is_ready()));
    app.metrics.in_flight.set(app.in_flight.held() as i64);
    for model in app.registry.served() {
        model.metrics.pending.set(model.waiting() as i64);
        model.metrics.overloaded.set(i64::from(model.is_overloaded()));
        model.metrics.packed_bytes.set(model.packed_bytes() as i64);
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], app.metrics.text()).into_response()
}

pub(super) async fn info(State(app): State<Arc<App>>) -> Answer {
    let models: Vec<Value> = app.registry.served().iter().map(|model| describe(model)).collect();
    let Concurrency { runs, threads, .. } = app.config.concurrency();
    json(&json!({
        "version": env!("CARGO_PKG_VERSION"),
        "ready": app.is_ready(),
        "uptime_seconds": app.started.elapsed().as_secs(),
        "instances": runs,
        "threads": threads,
        "models": models,
        "repository": app.registry.index(),
    }))
}

fn describe(model: &Served) -> Value {
    let facts = &model.facts;
    let sparsity = 1.0 - facts.nonzero_parameters as f64 / (facts.parameters.max(1)) as f64;
    let tensors = |ports: &[poda_runtime::Port]| ports.iter().map(TensorMetadata::of).collect::<Vec<_>>();
    json!({
        "name": model.name,
        "version": model.version,
        "platform": platform(model),
        "inputs": tensors(&model.inputs),
        "outputs": tensors(&model.outputs),
        "file_bytes": facts.file_bytes,
        "packed_bytes": model.packed_bytes(),
        "parameters": facts.parameters,
        "nonzero_parameters": facts.nonzero_parameters,
        "sparsity": sparsity,
        "kernels": facts.kernels,
        "batching": facts.batching,
        "load_seconds": facts.load_seconds,
        "plans": model.plans(),
        "threads": model.threads(),
        "waiting": model.waiting(),
        "overloaded": model.is_overloaded(),
        "embeddings": model.text.is_some(),
        "classes": model.labels.as_ref().map(Vec::len),
        "statistics": ModelStatistics::of(model),
        "latency": model.metrics.latency_buckets(),
    })
}
