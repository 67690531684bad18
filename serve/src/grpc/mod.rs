//! gRPC: the Open Inference Protocol with statistics and repository, health as Kubernetes asks it, and reflection.
//!
//! `inference.rs` and `proto/inference.bin` are made from `proto/inference.proto` and committed, so that building needs no `protoc`:
//! `tonic-prost-build` with `.bytes()` for the raw contents and no client, on the descriptors that `protox` gives.

#[allow(clippy::all, clippy::pedantic, missing_docs, unreachable_pub, unused_qualifications)]
mod inference;
pub(crate) mod tensors;

use std::sync::Arc;
use std::time::Duration;

use tonic::{Code, Request, Response, Status, async_trait};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::app::{App, Infer};
use crate::decode::DecodeError;
use crate::http::models::{TensorMetadata, platform};
use crate::model::Served;
use crate::refusal::Refusal;
use crate::statistics::{InferStatistics, ModelStatistics, Spent};
use inference::grpc_inference_service_server::{GrpcInferenceService, GrpcInferenceServiceServer};
use inference::infer_parameter::ParameterChoice;
use inference::model_infer_request::InferInputTensor;
use inference::model_infer_response::InferOutputTensor;
#[allow(clippy::wildcard_imports, reason = "the messages of every method")]
use inference::*;

pub(crate) use inference::ModelInferRequest;

const DESCRIPTORS: &[u8] = include_bytes!("../../proto/inference.bin");
/// The name of the service that health is asked of.
const SERVICE: &str = "inference.GRPCInferenceService";

/// Why gRPC cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("gRPC reflection: {0}")]
pub struct GrpcError(#[from] tonic_reflection::server::Error);

/// The services as a router of HTTP/2 requests; the reporter tells their health.
pub(crate) fn router(app: &Arc<App>) -> Result<(axum::Router, HealthReporter), GrpcError> {
    let (reporter, health) = tonic_health::server::health_reporter();
    let descriptors =
        || tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(DESCRIPTORS);
    let limit = usize::try_from(app.config.max_body).unwrap_or(usize::MAX);
    let inference = GrpcInferenceServiceServer::new(Service(Arc::clone(app)))
        .max_decoding_message_size(limit)
        .max_encoding_message_size(usize::MAX);
    let router = tonic::service::Routes::new(inference)
        .add_service(health)
        .add_service(descriptors().build_v1()?)
        .add_service(descriptors().build_v1alpha()?)
        .into_axum_router();
    Ok((crate::http::guarded(router, app), reporter))
}

/// Says whether the services are ready.
pub(crate) async fn report(reporter: &HealthReporter, ready: bool) {
    let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
    for service in ["", SERVICE] {
        reporter.set_service_status(service, status).await;
    }
}

struct Service(Arc<App>);

/// gRPC knows no absent version.
fn version(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn parameter<'a>(
    parameters: &'a std::collections::HashMap<String, InferParameter>,
    name: &str,
) -> Option<&'a ParameterChoice> {
    parameters.get(name)?.parameter_choice.as_ref()
}

/// What the client would wait: Triton's parameter, in microseconds.
fn timeout(request: &ModelInferRequest) -> Option<Duration> {
    let micros = match parameter(&request.parameters, "timeout")? {
        ParameterChoice::Int64Param(micros) => u64::try_from(*micros).ok()?,
        ParameterChoice::Uint64Param(micros) => *micros,
        _ => return None,
    };
    (micros > 0).then(|| Duration::from_micros(micros))
}

/// What the client's library would wait: `grpc-timeout`, up to eight digits and a unit.
fn grpc_timeout(value: &str) -> Option<Duration> {
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    let count: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

impl Service {
    fn model(&self, name: &str, of: &str) -> Result<Arc<Served>, Refusal> {
        self.0.registry.get(name, version(of))
    }

    async fn infer(
        &self,
        request: ModelInferRequest,
        waits: Option<Duration>,
    ) -> Result<ModelInferResponse, Refusal> {
        let model = self.model(&request.model_name, &request.model_version)?;
        model.has_room()?;
        for (name, instead) in [
            ("sequence_id", "feed the state that the model gave as an input"),
            ("classification", "ask POST /v1/classify"),
            ("shared_memory_region", "send raw contents"),
        ] {
            let inputs = request.inputs.iter().map(|input| &input.parameters);
            let outputs = request.outputs.iter().map(|output| &output.parameters);
            let mut all = std::iter::once(&request.parameters).chain(inputs).chain(outputs);
            let said = all.any(|parameters| match parameter(parameters, name) {
                Some(ParameterChoice::Int64Param(0) | ParameterChoice::Uint64Param(0)) | None => false,
                Some(ParameterChoice::StringParam(text)) => !text.is_empty(),
                Some(_) => true,
            });
            if said {
                return Err(DecodeError::Unsupported { what: name, instead }.into());
            }
        }
        let timeout = match (timeout(&request), waits) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let inputs = tensors::decode(&request, self.0.config.max_elements)?;
        let outputs = request.outputs.into_iter().map(|output| output.name).collect();
        let outputs = self.0.infer(&model, Infer { inputs, outputs, timeout }).await?;
        Ok(tensors::encode(&model, request.id, &outputs))
    }
}

#[async_trait]
impl GrpcInferenceService for Service {
    async fn server_live(
        &self,
        _: Request<ServerLiveRequest>,
    ) -> Result<Response<ServerLiveResponse>, Status> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(
        &self,
        _: Request<ServerReadyRequest>,
    ) -> Result<Response<ServerReadyResponse>, Status> {
        Ok(Response::new(ServerReadyResponse { ready: self.0.is_ready() }))
    }

    async fn model_ready(
        &self,
        request: Request<ModelReadyRequest>,
    ) -> Result<Response<ModelReadyResponse>, Status> {
        let ModelReadyRequest { name, version } = request.into_inner();
        let ready = match self.model(&name, &version) {
            Ok(_) => true,
            Err(Refusal::NotReady { .. }) => false,
            Err(refusal) => return Err(refusal.into()),
        };
        Ok(Response::new(ModelReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        _: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        Ok(Response::new(ServerMetadataResponse {
            name: "poda".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            extensions: self.0.extensions().into_iter().map(str::to_owned).collect(),
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        let ModelMetadataRequest { name, version } = request.into_inner();
        let model = self.model(&name, &version)?;
        let tensors = |ports: &[poda_runtime::Port]| {
            let tensor = |port| {
                let TensorMetadata { name, datatype, shape } = TensorMetadata::of(port);
                model_metadata_response::TensorMetadata { name, datatype: datatype.into(), shape }
            };
            ports.iter().map(tensor).collect()
        };
        Ok(Response::new(ModelMetadataResponse {
            name: model.name.clone(),
            versions: vec![model.version.clone()],
            platform: platform(&model).into(),
            inputs: tensors(&model.inputs),
            outputs: tensors(&model.outputs),
        }))
    }

    async fn model_infer(
        &self,
        request: Request<ModelInferRequest>,
    ) -> Result<Response<ModelInferResponse>, Status> {
        let waits =
            request.metadata().get("grpc-timeout").and_then(|value| grpc_timeout(value.to_str().ok()?));
        let answer = self.infer(request.into_inner(), waits).await;
        answer.map(Response::new).map_err(|refusal| {
            self.0.metrics.refused.with_label_values(&[refusal.kind()]).inc();
            refusal.into()
        })
    }

    async fn model_statistics(
        &self,
        request: Request<ModelStatisticsRequest>,
    ) -> Result<Response<ModelStatisticsResponse>, Status> {
        let ModelStatisticsRequest { name, version } = request.into_inner();
        let models =
            if name.is_empty() { self.0.registry.served() } else { vec![self.model(&name, &version)?] };
        let model_stats = models.iter().map(|model| statistics(ModelStatistics::of(model))).collect();
        Ok(Response::new(ModelStatisticsResponse { model_stats }))
    }

    async fn repository_index(
        &self,
        request: Request<RepositoryIndexRequest>,
    ) -> Result<Response<RepositoryIndexResponse>, Status> {
        self.0.allows_control()?;
        let ready = request.into_inner().ready;
        let rows = self.0.registry.index().into_iter().filter(|row| !ready || row.state == "READY");
        let models = rows.map(|row| repository_index_response::ModelIndex {
            name: row.name,
            version: row.version,
            state: row.state.into(),
            reason: row.reason,
        });
        Ok(Response::new(RepositoryIndexResponse { models: models.collect() }))
    }

    async fn repository_model_load(
        &self,
        request: Request<RepositoryModelLoadRequest>,
    ) -> Result<Response<RepositoryModelLoadResponse>, Status> {
        self.0.allows_control()?;
        let (app, name) = (Arc::clone(&self.0), request.into_inner().model_name);
        let loaded = tokio::task::spawn_blocking(move || app.registry.load(&name)).await;
        loaded.map_err(|_| Status::new(Code::Internal, "the load broke off"))?.map_err(Refusal::from)?;
        Ok(Response::new(RepositoryModelLoadResponse {}))
    }

    async fn repository_model_unload(
        &self,
        request: Request<RepositoryModelUnloadRequest>,
    ) -> Result<Response<RepositoryModelUnloadResponse>, Status> {
        self.0.allows_control()?;
        self.0.registry.unload(&request.into_inner().model_name)?;
        Ok(Response::new(RepositoryModelUnloadResponse {}))
    }
}

fn statistics(of: ModelStatistics) -> inference::ModelStatistics {
    let spent = |Spent { count, ns }: Spent| Some(StatisticDuration { count, ns });
    let InferStatistics { success, fail, queue, compute_input, compute_infer, compute_output } =
        of.inference_stats;
    inference::ModelStatistics {
        name: of.name,
        version: of.version,
        last_inference: of.last_inference,
        inference_count: of.inference_count,
        execution_count: of.execution_count,
        inference_stats: Some(inference::InferStatistics {
            success: spent(success),
            fail: spent(fail),
            queue: spent(queue),
            compute_input: spent(compute_input),
            compute_infer: spent(compute_infer),
            compute_output: spent(compute_output),
        }),
        batch_stats: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_grpc_are_read() {
        assert_eq!(grpc_timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(grpc_timeout("2S"), Some(Duration::from_secs(2)));
        for wrong in ["", "S", "5", "-1S", "123456789S", "1é"] {
            assert_eq!(grpc_timeout(wrong), None, "{wrong}");
        }
    }
}
