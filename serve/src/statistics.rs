//! The statistics extension of the Open Inference Protocol: counts and nanoseconds since a model was first loaded.

use std::sync::atomic::Ordering;

use serde::Serialize;

use crate::model::Served;

/// How often, and how long in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Spent {
    pub(crate) count: u64,
    pub(crate) ns: u64,
}

/// Where the time of requests went.
#[derive(Debug, Serialize)]
pub(crate) struct InferStatistics {
    pub(crate) success: Spent,
    pub(crate) fail: Spent,
    pub(crate) queue: Spent,
    pub(crate) compute_input: Spent,
    pub(crate) compute_infer: Spent,
    pub(crate) compute_output: Spent,
}

/// Of one version of a model.
#[derive(Debug, Serialize)]
pub(crate) struct ModelStatistics {
    pub(crate) name: String,
    pub(crate) version: String,
    /// Milliseconds since 1970.
    pub(crate) last_inference: u64,
    pub(crate) inference_count: u64,
    pub(crate) execution_count: u64,
    pub(crate) inference_stats: InferStatistics,
    /// Not kept; there is a histogram of batch sizes among the metrics.
    pub(crate) batch_stats: [Spent; 0],
}

impl ModelStatistics {
    pub(crate) fn of(model: &Served) -> Self {
        let metrics = &model.metrics;
        let success = metrics.success.get();
        let spent = |micros: u64| Spent { count: success, ns: micros * 1000 };
        let fail =
            Spent { count: metrics.failure.get(), ns: metrics.failure_us.load(Ordering::Relaxed) * 1000 };
        Self {
            name: model.name.clone(),
            version: model.version.clone(),
            last_inference: metrics.last.load(Ordering::Relaxed),
            inference_count: metrics.inferences.get(),
            execution_count: metrics.executions.get(),
            inference_stats: InferStatistics {
                success: spent(metrics.request_us.get()),
                fail,
                queue: spent(metrics.queue_us.get()),
                compute_input: spent(metrics.input_us.get()),
                compute_infer: spent(metrics.infer_us.get()),
                compute_output: spent(metrics.output_us.get()),
            },
            batch_stats: [],
        }
    }
}
