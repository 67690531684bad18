//! Where the time of a run goes: a table of its steps beside what the CPU could do, and a trace for a timeline.

use poda_formats::TensorView;
use poda_runtime::kernels;
use poda_runtime::kernels::roof::Roofs;
use poda_runtime::{Executable, NodeProfile, RunError};
use serde::Serialize;
use serde_json::{Value, json};

/// Steps of a run, with the roofs of the CPU measured in the same process.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct Profiled {
    pub nodes: Vec<Step>,
    pub arena_bytes: usize,
    /// Number of runs, of which each time is the median.
    pub runs: usize,
    pub total_ms: f64,
    /// How the batch is run, where it is run in parts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<String>,
    pub roofs: Roofs,
}

/// One step: a node, or several fused.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct Step {
    #[serde(flatten)]
    pub node: NodeProfile,
    /// Of the time of all steps.
    pub share: f64,
    /// Multiplications and additions that the weights left ask for, 10⁹ a second.
    pub gflops: f64,
    /// Bytes read and written, 10⁹ a second.
    pub gb_per_second: f64,
    /// Of the nearer roof: arithmetic or memory.
    pub roof: f64,
}

/// Profiles for about half a second, and at least ten runs: medians of a few short runs are of cold caches.
///
/// # Errors
/// When the model does not run.
pub fn profile(
    executable: &Executable,
    feeds: &[(&str, TensorView<'_>)],
    roofs: &Roofs,
) -> Result<Profiled, RunError> {
    let once = executable.profile(feeds, 1)?.total_ms();
    let runs = (500.0 / once.max(0.01)).clamp(10.0, 5000.0) as usize;
    let profile = executable.profile(feeds, runs)?;
    let total_ms = profile.total_ms();
    let step = |node: NodeProfile| {
        // The clock does not tell less than this.
        let ms = node.ms.max(1e-5);
        // The roof is that of floats, of which bytes are a fourth.
        let kernel = kernels::all().find(|kernel| node.kernel.split(' ').next() == Some(kernel.name));
        let per = if kernel.is_some_and(|kernel| kernel.integer) { 4 } else { 1 };
        Step {
            share: node.ms / total_ms.max(1e-9),
            gflops: 2.0 * node.macs_nonzero as f64 / 1e6 / ms,
            gb_per_second: node.bytes as f64 / 1e6 / ms,
            roof: roofs.fraction(node.macs_nonzero / per, node.bytes, ms),
            node,
        }
    };
    Ok(Profiled {
        nodes: profile.nodes.into_iter().map(step).collect(),
        arena_bytes: profile.arena_bytes,
        runs,
        total_ms,
        batch: profile.batch,
        roofs: roofs.clone(),
    })
}

/// Runs shown in a trace.
const TRACED: usize = 5;

/// Some runs of each model, step after step, in Chrome's trace format, which Perfetto and `chrome://tracing` open.
/// A step begins where the one before it ended. Format: <https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU>.
///
/// # Errors
/// When a model does not run.
pub fn trace(models: &[(&str, &Executable, Vec<(&str, TensorView<'_>)>)]) -> Result<Value, RunError> {
    let mut events = Vec::new();
    for (process, (name, executable, feeds)) in models.iter().enumerate() {
        let about = |what: &str, name: &str| json!({"name": what, "ph": "M", "pid": process, "tid": 0, "args": {"name": name}});
        events.push(about("process_name", name));
        events.push(about("thread_name", "steps"));
        let mut now = 0.0;
        for run in 0..TRACED {
            let profile = executable.profile(feeds, 1)?;
            let total = profile.total_ms() * 1e3;
            events.push(json!({
                "name": format!("run {run}"), "cat": "run", "ph": "X", "pid": process, "tid": 0, "ts": now, "dur": total,
            }));
            for node in &profile.nodes {
                let dur = node.ms * 1e3;
                events.push(json!({
                    "name": node.name, "cat": node.op, "ph": "X", "pid": process, "tid": 0, "ts": now, "dur": dur,
                    "args": {
                        "operator": node.op, "kernel": node.kernel, "why": node.reason,
                        "inputs": node.inputs, "outputs": node.outputs,
                        "macs": node.macs, "macs_nonzero": node.macs_nonzero, "bytes": node.bytes,
                    },
                }));
                now += dur;
            }
        }
    }
    Ok(json!({"displayTimeUnit": "ms", "traceEvents": events}))
}
