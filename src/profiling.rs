//! Where the time of a run goes: a table of its steps beside what the CPU could do, and a trace for a timeline.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use poda_formats::TensorView;
use poda_runtime::kernels::roof::Roofs;
use poda_runtime::{Executable, NodeProfile, RunError};
use serde::Serialize;
use serde_json::json;

use crate::table::{self, print};

/// Steps of a run, with the roofs of the CPU measured in the same process.
#[derive(Debug, Serialize)]
pub(crate) struct Profiled {
    pub(crate) nodes: Vec<Step>,
    pub(crate) arena_bytes: usize,
    /// Number of runs, of which each time is the median.
    pub(crate) runs: usize,
    pub(crate) total_ms: f64,
    /// How the batch is run, where it is run in parts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) batch: Option<String>,
    pub(crate) roofs: Roofs,
}

/// One step: a node, or several fused.
#[derive(Debug, Serialize)]
pub(crate) struct Step {
    #[serde(flatten)]
    pub(crate) node: NodeProfile,
    /// Of the time of all steps.
    pub(crate) share: f64,
    /// Multiplications and additions that the weights left ask for, 10⁹ a second.
    pub(crate) gflops: f64,
    /// Bytes read and written, 10⁹ a second.
    pub(crate) gb_per_second: f64,
    /// Of the nearer roof: arithmetic or memory.
    pub(crate) roof: f64,
}

/// Profiles for about half a second, and at least ten runs: medians of a few short runs are of cold caches.
pub(crate) fn profile(
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
        Step {
            share: node.ms / total_ms.max(1e-9),
            gflops: 2.0 * node.macs_nonzero as f64 / 1e6 / ms,
            gb_per_second: node.bytes as f64 / 1e6 / ms,
            roof: roofs.fraction(node.macs_nonzero, node.bytes, ms),
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

impl Profiled {
    /// Prints the steps, and the time by operator.
    pub(crate) fn show(&self) -> Result<()> {
        let mut rows = table::table(&["step", "kernel", "ms", "share", "rate", "of roof"], 2);
        for step in &self.nodes {
            let rate = match step.node.macs_nonzero {
                0 => format!("{} GB/s", table::ratio(step.gb_per_second)),
                _ => format!("{} GFLOP/s", table::ratio(step.gflops)),
            };
            rows.add_row([
                step.node.name.clone(),
                step.node.kernel.clone(),
                table::ms(step.node.ms),
                table::percent(step.share),
                rate,
                format!("{:.0} %", 100.0 * step.roof),
            ]);
        }
        print(rows)?;
        let mut operators: BTreeMap<&str, (usize, f64)> = BTreeMap::new();
        for step in &self.nodes {
            let (count, ms) = operators.entry(&step.node.op).or_default();
            *count += 1;
            *ms += step.node.ms;
        }
        let mut operators: Vec<_> = operators.into_iter().collect();
        operators.sort_by(|(_, (_, a)), (_, (_, b))| b.total_cmp(a));
        let mut rows = table::table(&["operator", "steps", "ms", "share"], 1);
        for (op, (count, ms)) in operators {
            let share = table::percent(ms / self.total_ms.max(1e-9));
            rows.add_row([op.to_owned(), count.to_string(), table::ms(ms), share]);
        }
        print("")?;
        print(rows)?;
        let memory = self.roofs.bandwidth.iter().map(|level| format!("{:.0}", level.gb_per_second));
        print(format!(
            "{} ms in all, medians of {} runs; activations in {}",
            table::ms(self.total_ms),
            self.runs,
            table::bytes(self.arena_bytes as u64)
        ))?;
        if let Some(batch) = &self.batch {
            print(format!("batch: {batch}"))?;
        }
        print(format!(
            "roofs measured now: {:.0} GFLOP/s; caches to memory {} GB/s",
            self.roofs.gflops,
            memory.collect::<Vec<_>>().join(", ")
        ))
    }
}

/// Runs shown in a trace.
const TRACED: usize = 5;

/// Writes some runs of each model, step after step, in Chrome's trace format, which Perfetto and `chrome://tracing` open.
/// A step begins where the one before it ended. Format: <https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU>.
pub(crate) fn write_trace(
    path: &Path,
    models: &[(&str, &Executable, Vec<(&str, TensorView<'_>)>)],
) -> Result<()> {
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
    let trace = json!({"displayTimeUnit": "ms", "traceEvents": events});
    std::fs::write(path, serde_json::to_vec(&trace)?).with_context(|| path.display().to_string())
}
