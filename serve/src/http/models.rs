//! Health, metadata and statistics.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use poda_formats::{DataType, Dim};
use poda_runtime::Port;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Answer, json};
use crate::app::App;
use crate::datatype;
use crate::model::Served;
use crate::statistics::ModelStatistics;

/// What a path names.
#[derive(Debug, Deserialize)]
pub(super) struct ModelPath {
    pub(super) model: String,
    pub(super) version: Option<String>,
}

/// What the protocol says of a tensor; -1 is a dimension of any size.
#[derive(Debug, Serialize)]
pub(crate) struct TensorMetadata {
    pub(crate) name: String,
    pub(crate) datatype: &'static str,
    pub(crate) shape: Vec<i64>,
}

impl TensorMetadata {
    pub(crate) fn of(port: &Port) -> Self {
        let size = |dim: &Dim| match dim {
            Dim::Fixed(size) => *size as i64,
            Dim::Symbol(_) => -1,
        };
        let shape = port.shape.iter().flatten().map(size).collect();
        let datatype = datatype::name(port.dtype.unwrap_or(DataType::F32));
        Self { name: port.name.clone(), datatype, shape }
    }
}

/// The platform of a model, as the protocol calls what runs it.
pub(crate) fn platform(model: &Served) -> &'static str {
    let onnx = model.facts.path.extension().is_some_and(|extension| extension == "onnx");
    if onnx { "poda_onnx" } else { "poda_safetensors" }
}

pub(super) async fn server(State(app): State<Arc<App>>) -> Answer {
    json(&json!({ "name": "poda", "version": env!("CARGO_PKG_VERSION"), "extensions": app.extensions() }))
}

pub(super) async fn live() -> Answer {
    json(&json!({ "live": true }))
}

pub(super) async fn ready(State(app): State<Arc<App>>) -> Response {
    let ready = app.is_ready();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, json(&json!({ "ready": ready }))).into_response()
}

pub(super) async fn model_ready(State(app): State<Arc<App>>, Path(path): Path<ModelPath>) -> Answer {
    let model = app.registry.get(&path.model, path.version.as_deref())?;
    json(&json!({ "name": model.name, "ready": true }))
}

pub(super) async fn metadata(State(app): State<Arc<App>>, Path(path): Path<ModelPath>) -> Answer {
    let model = app.registry.get(&path.model, path.version.as_deref())?;
    let tensors = |ports: &[Port]| ports.iter().map(TensorMetadata::of).collect::<Vec<_>>();
    json(&json!({
        "name": model.name,
        "versions": [model.version],
        "platform": platform(&model),
        "inputs": tensors(&model.inputs),
        "outputs": tensors(&model.outputs),
    }))
}

pub(super) async fn statistics(State(app): State<Arc<App>>, Path(path): Path<ModelPath>) -> Answer {
    let model = app.registry.get(&path.model, path.version.as_deref())?;
    json(&json!({ "model_stats": [ModelStatistics::of(&model)] }))
}

pub(super) async fn all_statistics(State(app): State<Arc<App>>) -> Answer {
    let all: Vec<_> = app.registry.served().iter().map(|model| ModelStatistics::of(model)).collect();
    json(&json!({ "model_stats": all }))
}
