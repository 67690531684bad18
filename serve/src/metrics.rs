//! What a server counts: under Triton's names where it has one, so that people's dashboards work, and Poda's own beside them.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::core::Collector;
use prometheus::{
    Encoder as _, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder, exponential_buckets,
};

use crate::model::job::Times;

/// The families of one server.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    success: IntCounterVec,
    failure: IntCounterVec,
    inferences: IntCounterVec,
    executions: IntCounterVec,
    pending: IntGaugeVec,
    overloaded: IntGaugeVec,
    request_us: IntCounterVec,
    queue_us: IntCounterVec,
    input_us: IntCounterVec,
    infer_us: IntCounterVec,
    output_us: IntCounterVec,
    latency: HistogramVec,
    queue_time: HistogramVec,
    batch: HistogramVec,
    plan_misses: IntCounterVec,
    panics: IntCounterVec,
    packed_bytes: IntGaugeVec,
    file_bytes: IntGaugeVec,
    parameters: IntGaugeVec,
    nonzero: IntGaugeVec,
    kernels: IntGaugeVec,
    /// Loads that failed, by model.
    pub(crate) load_failures: IntCounterVec,
    /// Refused requests, by kind, whatever the model.
    pub(crate) refused: IntCounterVec,
    /// Open connections.
    pub(crate) connections: IntGauge,
    /// Connections that were closed at once for want of a place.
    pub(crate) connections_refused: IntCounter,
    /// Connections that could not be taken.
    pub(crate) accept_errors: IntCounter,
    /// Bytes of the bodies and tensors of requests under way.
    pub(crate) in_flight: IntGauge,
    /// Whether the server says that it is ready.
    pub(crate) ready: IntGauge,
    resident: IntGauge,
    descriptors: IntGauge,
}

/// The counters of one version of a model.
#[derive(Debug)]
pub(crate) struct ModelMetrics {
    labels: [String; 2],
    pub(crate) success: IntCounter,
    pub(crate) inferences: IntCounter,
    pub(crate) executions: IntCounter,
    pub(crate) pending: IntGauge,
    pub(crate) overloaded: IntGauge,
    pub(crate) request_us: IntCounter,
    pub(crate) queue_us: IntCounter,
    pub(crate) input_us: IntCounter,
    pub(crate) infer_us: IntCounter,
    pub(crate) output_us: IntCounter,
    pub(crate) failure: IntCounter,
    pub(crate) failure_us: AtomicU64,
    pub(crate) latency: Histogram,
    queue_time: Histogram,
    batch: Histogram,
    pub(crate) plan_misses: IntCounter,
    pub(crate) panics: IntCounter,
    pub(crate) packed_bytes: IntGauge,
    /// Of the last inference, in ms since 1970.
    pub(crate) last: AtomicU64,
    /// A run took about so many ns lately.
    run_ns: AtomicU64,
}

const MODEL: &[&str] = &["model", "version"];

impl Metrics {
    pub(crate) fn new() -> Self {
        let registry = Registry::new();
        let families = Families(&registry);
        let counter = |name, help| families.add(IntCounterVec::new(Opts::new(name, help), MODEL));
        let gauge = |name, help| families.add(IntGaugeVec::new(Opts::new(name, help), MODEL));
        let histogram = |name: &str, help: &str, buckets| {
            families.add(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), MODEL))
        };
        let labelled =
            |name, help, labels: &[&str]| families.add(IntCounterVec::new(Opts::new(name, help), labels));
        let one = |name, help| families.add(IntGauge::new(name, help));
        let count = |name, help| families.add(IntCounter::new(name, help));
        // From 15 µs to a minute.
        let times = || exponential_buckets(15e-6, 1.5, 38).expect("constants that fit");
        let sizes = exponential_buckets(1.0, 2.0, 11).expect("constants that fit");
        Self {
            success: counter("nv_inference_request_success", "Requests answered"),
            failure: counter("nv_inference_request_failure", "Requests that failed"),
            inferences: counter("nv_inference_count", "Samples inferred"),
            executions: counter("nv_inference_exec_count", "Runs, of one request or several"),
            pending: gauge("nv_inference_pending_request_count", "Requests that wait for a run"),
            overloaded: gauge("poda_overloaded", "Whether more requests come than can be run"),
            request_us: counter(
                "nv_inference_request_duration_us",
                "Microseconds of answered requests in all",
            ),
            queue_us: counter("nv_inference_queue_duration_us", "Microseconds that they waited"),
            input_us: counter("nv_inference_compute_input_duration_us", "Microseconds for gathering inputs"),
            infer_us: counter("nv_inference_compute_infer_duration_us", "Microseconds of runs"),
            output_us: counter(
                "nv_inference_compute_output_duration_us",
                "Microseconds for dealing out outputs",
            ),
            latency: histogram(
                "poda_request_duration_seconds",
                "From the request's arrival to its answer",
                times(),
            ),
            queue_time: histogram(
                "poda_queue_duration_seconds",
                "What a request waited for its run",
                times(),
            ),
            batch: histogram("poda_batch_size", "Samples in a run", sizes),
            plan_misses: counter("poda_plan_misses_total", "Requests of shapes for which there was no plan"),
            panics: counter("poda_panics_total", "Internal errors in runs"),
            packed_bytes: gauge("poda_model_packed_bytes", "Memory of the weights as kernels want them"),
            file_bytes: gauge("poda_model_file_bytes", "Bytes of the model's file"),
            parameters: gauge("poda_model_parameters", "Weights, zeros included"),
            nonzero: gauge("poda_model_nonzero_parameters", "Weights that are not zero"),
            kernels: families.add(IntGaugeVec::new(
                Opts::new(
                    "poda_model_kernel_nodes",
                    "Products of the model that a kernel computes, in the first plan",
                ),
                &["model", "version", "kernel"],
            )),
            load_failures: labelled("poda_model_load_failures_total", "Loads that failed", &["model"]),
            refused: labelled("poda_requests_refused_total", "Requests refused, by reason", &["reason"]),
            connections: one("poda_connections", "Open connections"),
            connections_refused: count("poda_connections_refused_total", "Connections beyond --connections"),
            accept_errors: count("poda_accept_errors_total", "Connections that the system did not give"),
            in_flight: one("poda_in_flight_bytes", "Bodies and tensors of requests under way"),
            ready: one("poda_ready", "Whether the server says that it is ready"),
            resident: one("process_resident_memory_bytes", "Resident memory of the process"),
            descriptors: one("process_open_fds", "Open file descriptors"),
            registry,
        }
    }

    /// The counters of a model, which go on counting after a reload.
    pub(crate) fn model(&self, model: &str, version: &str) -> Arc<ModelMetrics> {
        let labels = [model, version];
        let counter = |family: &IntCounterVec| family.with_label_values(&labels);
        let gauge = |family: &IntGaugeVec| family.with_label_values(&labels);
        let histogram = |family: &HistogramVec| family.with_label_values(&labels);
        Arc::new(ModelMetrics {
            labels: labels.map(str::to_owned),
            success: counter(&self.success),
            failure: counter(&self.failure),
            inferences: counter(&self.inferences),
            executions: counter(&self.executions),
            pending: gauge(&self.pending),
            overloaded: gauge(&self.overloaded),
            request_us: counter(&self.request_us),
            queue_us: counter(&self.queue_us),
            input_us: counter(&self.input_us),
            infer_us: counter(&self.infer_us),
            output_us: counter(&self.output_us),
            failure_us: AtomicU64::new(0),
            latency: histogram(&self.latency),
            queue_time: histogram(&self.queue_time),
            batch: histogram(&self.batch),
            plan_misses: counter(&self.plan_misses),
            panics: counter(&self.panics),
            packed_bytes: gauge(&self.packed_bytes),
            last: AtomicU64::new(0),
            run_ns: AtomicU64::new(0),
        })
    }

    /// What does not change while a model is loaded.
    pub(crate) fn describe(&self, of: &ModelMetrics, facts: &crate::model::Facts) {
        let [model, version] = &of.labels;
        let set = |family: &IntGaugeVec, value: u64| {
            family.with_label_values(&[model, version]).set(value as i64);
        };
        set(&self.file_bytes, facts.file_bytes);
        set(&self.parameters, facts.parameters);
        set(&self.nonzero, facts.nonzero_parameters);
        for (kernel, count) in &facts.kernels {
            self.kernels.with_label_values(&[model, version, kernel]).set(*count as i64);
        }
    }

    /// Ends the series of a version that is no longer served.
    pub(crate) fn forget(&self, of: &ModelMetrics, facts: &crate::model::Facts) {
        let [model, version] = &of.labels;
        let labels: [&str; 2] = [model, version];
        let counters = [
            &self.success,
            &self.failure,
            &self.inferences,
            &self.executions,
            &self.request_us,
            &self.queue_us,
            &self.input_us,
            &self.infer_us,
            &self.output_us,
            &self.plan_misses,
            &self.panics,
        ];
        let gauges = [
            &self.pending,
            &self.overloaded,
            &self.packed_bytes,
            &self.file_bytes,
            &self.parameters,
            &self.nonzero,
        ];
        // What was never counted has no series.
        counters.into_iter().for_each(|family| drop(family.remove_label_values(&labels)));
        gauges.into_iter().for_each(|family| drop(family.remove_label_values(&labels)));
        for family in [&self.latency, &self.queue_time, &self.batch] {
            drop(family.remove_label_values(&labels));
        }
        for kernel in facts.kernels.keys() {
            drop(self.kernels.remove_label_values(&[model, version, kernel]));
        }
    }

    /// In Prometheus' text format.
    pub(crate) fn text(&self) -> String {
        self.resident.set(resident_bytes() as i64);
        self.descriptors.set(fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as i64));
        let mut text = Vec::new();
        // Writing to memory does not fail, and a family without series is left out.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        String::from_utf8(text).unwrap_or_default()
    }
}

/// Where families are registered.
struct Families<'a>(&'a Registry);

impl Families<'_> {
    fn add<T: Collector + Clone + 'static>(&self, family: prometheus::Result<T>) -> T {
        let family = family.expect("names and labels are constants that fit");
        self.0.register(Box::new(family.clone())).expect("names differ");
        family
    }
}

impl ModelMetrics {
    /// A run of so many samples.
    pub(crate) fn ran(&self, samples: usize, took: Duration) {
        self.executions.inc();
        self.batch.observe(samples as f64);
        let (took, last) = (took.as_nanos() as u64, self.run_ns.load(Ordering::Relaxed));
        let mean = if last == 0 { took } else { last - last / 8 + took / 8 };
        self.run_ns.store(mean, Ordering::Relaxed);
    }

    /// What a run takes.
    pub(crate) fn run_time(&self) -> Duration {
        Duration::from_nanos(self.run_ns.load(Ordering::Relaxed))
    }

    /// A request of so many samples was answered.
    pub(crate) fn answered(&self, samples: usize, took: Duration, times: &Times) {
        let micros = |time: Duration| time.as_micros() as u64;
        self.success.inc();
        self.inferences.inc_by(samples as u64);
        self.request_us.inc_by(micros(took));
        self.queue_us.inc_by(micros(times.queue));
        self.input_us.inc_by(micros(times.input));
        self.infer_us.inc_by(micros(times.infer));
        self.output_us.inc_by(micros(times.output));
        self.latency.observe(took.as_secs_f64());
        self.queue_time.observe(times.queue.as_secs_f64());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.last.store(now.as_millis() as u64, Ordering::Relaxed);
    }

    /// Upper bounds in seconds, and how many requests took at most so long, for those that any took.
    pub(crate) fn latency_buckets(&self) -> Vec<(f64, u64)> {
        let families = self.latency.collect();
        let metrics = families.iter().flat_map(prometheus::proto::MetricFamily::get_metric);
        let buckets = metrics.flat_map(|metric| metric.get_histogram().get_bucket().to_vec());
        buckets.map(|bucket| (bucket.upper_bound(), bucket.cumulative_count())).collect()
    }

    /// A request failed.
    pub(crate) fn failed(&self, took: Duration) {
        self.failure.inc();
        self.failure_us.fetch_add(took.as_micros() as u64, Ordering::Relaxed);
    }
}

/// Resident memory of this process; 0 where the system does not tell.
fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_come_and_go_with_models() {
        let metrics = Metrics::new();
        let model = metrics.model("m", "1");
        let facts =
            crate::model::Facts { file_bytes: 5, kernels: [("spmm".into(), 2)].into(), ..Default::default() };
        metrics.describe(&model, &facts);
        model.ran(4, Duration::from_millis(1));
        model.answered(4, Duration::from_millis(2), &Times::default());
        let text = metrics.text();
        for line in [
            "nv_inference_request_success{model=\"m\",version=\"1\"} 1",
            "nv_inference_count{model=\"m\",version=\"1\"} 4",
            "nv_inference_request_duration_us{model=\"m\",version=\"1\"} 2000",
            "poda_batch_size_bucket{model=\"m\",version=\"1\",le=\"4\"} 1",
            "poda_model_kernel_nodes{kernel=\"spmm\",model=\"m\",version=\"1\"} 2",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        // A reload goes on counting.
        metrics.model("m", "1").answered(1, Duration::ZERO, &Times::default());
        assert!(metrics.text().contains("nv_inference_request_success{model=\"m\",version=\"1\"} 2"));
        metrics.forget(&model, &facts);
        assert!(!metrics.text().contains("model=\"m\""));
        assert!(metrics.text().contains("process_resident_memory_bytes"));
    }
}
