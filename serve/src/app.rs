//! What every request, HTTP or gRPC, is answered from.

use std::sync::Arc;
use std::time::{Duration, Instant};

use poda_formats::Tensor;
use tokio::sync::watch;

use crate::auth::Tokens;
use crate::config::Config;
use crate::in_flight::{Hold, InFlight};
use crate::metrics::Metrics;
use crate::model::admission::Place;
use crate::model::{Answer, Served};
use crate::refusal::Refusal;
use crate::registry::Registry;
use crate::traces::Traces;

/// Where a server is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Models are being loaded; those that are there serve.
    Starting,
    /// Ready.
    Serving,
    /// Told to end: not ready, but serving.
    Leaving,
    /// No new requests.
    Draining,
}

/// The state of a server.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) config: Arc<Config>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) registry: Registry,
    pub(crate) tokens: Tokens,
    pub(crate) traces: Option<Traces>,
    pub(crate) in_flight: Arc<InFlight>,
    pub(crate) phase: watch::Receiver<Phase>,
    pub(crate) started: Instant,
}

/// A request to run a model, whatever protocol it came by.
#[derive(Debug)]
pub(crate) struct Infer {
    pub(crate) inputs: Vec<(String, Tensor)>,
    /// Names of the outputs that are asked for; all where there are none.
    pub(crate) outputs: Vec<String>,
    /// What the client would wait for at most.
    pub(crate) timeout: Option<Duration>,
}

/// Names and tensors of what was asked for.
pub(crate) type Outputs = Vec<(String, Tensor)>;

impl App {
    /// The extensions of the Open Inference Protocol that are answered.
    pub(crate) fn extensions(&self) -> Vec<&'static str> {
        let mut extensions = vec!["binary_tensor_data", "statistics"];
        if self.config.model_control {
            extensions.push("model_repository");
        }
        extensions
    }

    /// Whether requests should come here.
    pub(crate) fn is_ready(&self) -> bool {
        *self.phase.borrow() == Phase::Serving && !self.registry.served().is_empty()
    }

    /// Until when a request that came now may be answered.
    pub(crate) fn deadline(&self, asked: Option<Duration>) -> Instant {
        let most = self.config.timeout();
        Instant::now() + asked.map_or(most, |asked| asked.min(most))
    }

    /// Runs a model.
    pub(crate) async fn infer(&self, model: &Served, request: Infer) -> Result<Outputs, Refusal> {
        self.infer_at(None, model, request).await
    }

    /// Runs a model for a request that has its place already.
    pub(crate) async fn infer_at(
        &self,
        place: Option<Arc<Place>>,
        model: &Served,
        request: Infer,
    ) -> Result<Outputs, Refusal> {
        let hold = Hold::new(&self.in_flight);
        hold.grow(request.inputs.iter().map(|(_, tensor)| tensor.bytes().len() as u64).sum())?;
        let names: Vec<&str> = model.outputs.iter().map(|port| port.name.as_str()).collect();
        let mut chosen = Vec::with_capacity(names.len());
        for output in &request.outputs {
            let at = names.iter().position(|name| name == output);
            chosen.push(at.ok_or_else(|| {
                let outputs = names.iter().map(|&name| name.to_owned()).collect();
                poda_runtime::RunError::UnknownOutput { name: output.clone(), outputs }
            })?);
        }
        if chosen.is_empty() {
            chosen.extend(0..names.len());
        }
        let Answer { done, .. } = model.infer(place, request.inputs, self.deadline(request.timeout)).await?;
        if let Some(traces) = &self.traces {
            traces.ran(&model.name, &done.times);
        }
        Ok(chosen.into_iter().map(|at| (names[at].to_owned(), done.outputs[at].clone())).collect())
    }

    /// Refuses what changes or lists models, unless that is allowed.
    pub(crate) fn allows_control(&self) -> Result<(), Refusal> {
        let refusal =
            Refusal::Forbidden { what: "listing, loading and unloading models", flag: "model-control" };
        if self.config.model_control { Ok(()) } else { Err(refusal) }
    }
}
