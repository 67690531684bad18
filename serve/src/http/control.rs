//! The model repository: what there is, load and unload. Off unless `--model-control` is given.

use std::sync::Arc;

use axum::extract::{Path, State};

use super::{Answer, blocking, json};
use crate::app::App;
use crate::http::models::ModelPath;
use crate::model::load::LoadError;
use crate::refusal::Refusal;

impl From<LoadError> for Refusal {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::NotThere { name } => Self::NotOffered { name, reason: "is not in the repository" },
            error => Self::Load { reason: error.to_string() },
        }
    }
}

pub(super) async fn index(State(app): State<Arc<App>>) -> Answer {
    app.allows_control()?;
    json(&app.registry.index())
}

pub(super) async fn load(State(app): State<Arc<App>>, Path(path): Path<ModelPath>) -> Answer {
    app.allows_control()?;
    blocking(move || app.registry.load(&path.model)).await??;
    json(&serde_json::json!({}))
}

pub(super) async fn unload(State(app): State<Arc<App>>, Path(path): Path<ModelPath>) -> Answer {
    app.allows_control()?;
    blocking(move || app.registry.unload(&path.model)).await??;
    json(&serde_json::json!({}))
}
