//! Spans of requests, sent to an OpenTelemetry collector where `--otlp-endpoint` names one.

#[cfg_attr(feature = "opentelemetry", path = "otlp.rs")]
#[cfg_attr(not(feature = "opentelemetry"), path = "left_out.rs")]
mod exporter;

pub(crate) use exporter::{Traces, follow};

/// Why spans cannot be sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the message says it")]
pub enum TraceError {
    #[error("--otlp-endpoint: this build leaves OpenTelemetry out; build it with --features opentelemetry")]
    LeftOut,
    #[error("--otlp-endpoint {endpoint}: {reason}")]
    Endpoint { endpoint: String, reason: String },
}
