//! Why a request is not answered, and what that is in HTTP and in gRPC.

use std::time::Duration;

use axum::http::StatusCode;
use poda_runtime::RunError;
use tonic::Code;

use crate::decode::DecodeError;

/// Seconds after which to try again what may be over soon.
const RETRY: u64 = 1;

/// Why a request is not answered.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Refusal {
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("no model is named {name:?}; {known}")]
    UnknownModel { name: String, known: String },
    #[error("model {name:?} has no version {version:?}; version {served:?} is served")]
    UnknownVersion { name: String, version: String, served: String },
    #[error("model {name:?} is not ready: {reason}")]
    NotReady { name: String, reason: String },
    #[error("model {name:?} {reason}")]
    NotOffered { name: String, reason: &'static str },
    #[error("{what} of {found} is more than {limit}, the limit of --{flag}")]
    TooLarge { what: &'static str, found: u64, limit: u64, flag: &'static str },
    #[error("content type {found:?} is not taken here; send application/json or application/octet-stream")]
    MediaType { found: String },
    #[error("the body did not arrive within {seconds} s, the limit of --read-timeout")]
    SlowBody { seconds: f64 },
    #[error("the body could not be read: {reason}")]
    Body { reason: String },
    #[error("{waiting} requests wait already, the limit of --queue; try again in {} s", .retry.as_secs())]
    QueueFull { waiting: usize, retry: Duration },
    #[error(
        "more requests come than the model can run, and {waiting} wait already; try again in {} s \
         (--no-shed-load lets as many wait as --queue allows)", .retry.as_secs()
    )]
    Overloaded { waiting: usize, retry: Duration },
    #[error(
        "requests under way hold {held} bytes, and with {asked} more it were more than {limit}, the limit of \
         --max-in-flight; try again in {RETRY} s"
    )]
    InFlight { held: u64, asked: u64, limit: u64 },
    #[error(
        "the time of the request was over before it was answered (--timeout, or what the client asked for)"
    )]
    Deadline,
    #[error("the server is going down")]
    Closing,
    #[error("a bearer token is needed: Authorization: Bearer TOKEN")]
    Unauthorized,
    #[error("{what} is off; --{flag} allows it")]
    Forbidden { what: &'static str, flag: &'static str },
    #[error("requests from web pages of {origin:?} are not taken; --cors-origin {origin} allows them")]
    Origin { origin: String },
    #[error("{message}")]
    Run { message: String, kind: RunKind },
    #[error("internal error while the request ran; it is in the server's log")]
    Panicked,
    #[error(
        "output {name:?} holds a value that JSON cannot say (NaN or infinity); ask for it with binary_data"
    )]
    NotFinite { name: String },
    #[error("{reason}")]
    Load { reason: String },
    #[error("{method} is not taken at {path}")]
    Method { method: String, path: String },
    #[error("there is nothing at {path}; GET /openapi.json lists what there is")]
    NoRoute { path: String },
}

/// What kind of [`RunError`] it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RunKind {
    Input,
    Memory,
    Internal,
}

impl From<RunError> for Refusal {
    fn from(error: RunError) -> Self {
        if error.is_stopped() {
            return Self::Deadline;
        }
        let kind = if error.is_input() || matches!(error, RunError::UnknownOutput { .. }) {
            RunKind::Input
        } else if error.is_memory() {
            RunKind::Memory
        } else {
            RunKind::Internal
        };
        Self::Run { message: error.to_string(), kind }
    }
}

impl Refusal {
    /// What those are told that are too many while so many wait.
    pub(crate) fn overloaded(waiting: usize) -> Self {
        Self::Overloaded { waiting, retry: Duration::from_secs(RETRY) }
    }

    /// A word for logs and metrics.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Decode(_) | Self::Run { kind: RunKind::Input, .. } => "invalid",
            Self::UnknownModel { .. } | Self::UnknownVersion { .. } => "unknown_model",
            Self::NotReady { .. } => "not_ready",
            Self::NotOffered { .. } => "not_offered",
            Self::TooLarge { .. } | Self::Run { kind: RunKind::Memory, .. } => "too_large",
            Self::MediaType { .. } => "media_type",
            Self::SlowBody { .. } | Self::Body { .. } => "body",
            Self::QueueFull { .. } => "queue_full",
            Self::Overloaded { .. } => "overloaded",
            Self::InFlight { .. } => "in_flight",
            Self::Deadline => "deadline",
            Self::Closing => "closing",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden { .. } | Self::Origin { .. } => "forbidden",
            Self::Run { kind: RunKind::Internal, .. } | Self::Panicked => "internal",
            Self::NotFinite { .. } => "not_finite",
            Self::Load { .. } => "load",
            Self::Method { .. } | Self::NoRoute { .. } => "no_route",
        }
    }

    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Decode(_) | Self::Body { .. } | Self::Run { kind: RunKind::Input, .. } => {
                StatusCode::BAD_REQUEST
            }
            Self::UnknownModel { .. }
            | Self::UnknownVersion { .. }
            | Self::NotOffered { .. }
            | Self::NoRoute { .. } => StatusCode::NOT_FOUND,
            Self::NotReady { .. } | Self::Closing => StatusCode::SERVICE_UNAVAILABLE,
            Self::TooLarge { .. } | Self::Run { kind: RunKind::Memory, .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::MediaType { .. } => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::SlowBody { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::QueueFull { .. } | Self::Overloaded { .. } | Self::InFlight { .. } => {
                StatusCode::TOO_MANY_REQUESTS
            }
            Self::Deadline => StatusCode::GATEWAY_TIMEOUT,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden { .. } | Self::Origin { .. } => StatusCode::FORBIDDEN,
            Self::Run { kind: RunKind::Internal, .. } | Self::Panicked => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NotFinite { .. } | Self::Load { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
        }
    }

    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Decode(_)
            | Self::Body { .. }
            | Self::MediaType { .. }
            | Self::NotFinite { .. }
            | Self::TooLarge { .. }
            | Self::Run { kind: RunKind::Input, .. } => Code::InvalidArgument,
            Self::UnknownModel { .. } | Self::UnknownVersion { .. } | Self::NotOffered { .. } => {
                Code::NotFound
            }
            Self::NotReady { .. } | Self::Closing => Code::Unavailable,
            Self::QueueFull { .. }
            | Self::Overloaded { .. }
            | Self::InFlight { .. }
            | Self::Run { kind: RunKind::Memory, .. } => Code::ResourceExhausted,
            Self::Deadline | Self::SlowBody { .. } => Code::DeadlineExceeded,
            Self::Unauthorized => Code::Unauthenticated,
            Self::Forbidden { .. } | Self::Origin { .. } => Code::PermissionDenied,
            Self::Run { kind: RunKind::Internal, .. } | Self::Panicked => Code::Internal,
            Self::Load { .. } => Code::FailedPrecondition,
            Self::Method { .. } | Self::NoRoute { .. } => Code::Unimplemented,
        }
    }

    /// Seconds after which to try again, where that helps.
    pub(crate) fn retry_after(&self) -> Option<u64> {
        match self {
            Self::QueueFull { retry, .. } | Self::Overloaded { retry, .. } => Some(retry.as_secs().max(1)),
            Self::NotReady { .. } | Self::Closing | Self::InFlight { .. } => Some(RETRY),
            _ => None,
        }
    }
}

impl From<Refusal> for tonic::Status {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.code(), refusal.to_string())
    }
}
