//! The kernels that were chosen for a model's weights, and what else was considered.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use poda::feeds;
use poda::shapes::Shapes;
use poda_runtime::{Model, NodeProfile};
use serde::Serialize;

use crate::runtime_args::RuntimeArgs;
use crate::shape_args::ShapeArgs;
use crate::table::{self, print};

/// What was chosen for a model on this CPU.
#[derive(Serialize)]
pub(crate) struct Choices {
    pub(crate) cpu: String,
    pub(crate) threads: usize,
    /// Of the inputs.
    pub(crate) shapes: Shapes,
    /// The layers with a constant weight, with the median time of each in the whole model.
    pub(crate) layers: Vec<NodeProfile>,
    /// Where the choices are kept.
    pub(crate) cache: Option<PathBuf>,
    /// Why they are not, if they are not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) note: Option<String>,
    /// Sizes that nobody gave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) assumed: Option<String>,
}

/// Prepares a model, which times the kernels of its weights unless the answers are known, and runs it a few times.
pub(crate) fn choose(path: &Path, shapes: &ShapeArgs, runtime: &RuntimeArgs) -> Result<Choices> {
    let at = || path.display().to_string();
    let model = Model::open(path)?;
    let shapes = shapes.resolve(model.graph()).with_context(at)?;
    let feeds = feeds::random(model.graph(), &shapes.shapes, 0).with_context(at)?;
    let executable = model.prepare(runtime.options()?).with_context(at)?;
    let profile = executable.profile(&feeds::views(&feeds), 10).with_context(at)?;
    let tuner = executable.tuner();
    tuner.save();
    Ok(Choices {
        cpu: crate::commands::cpu_name(),
        shapes: shapes.shapes.clone(),
        threads: executable.threads(),
        layers: profile.nodes.into_iter().filter(|node| node.weight.is_some()).collect(),
        cache: tuner.cache_path(),
        note: tuner.cache_note(),
        assumed: shapes.note(),
    })
}

impl Choices {
    /// Prints the winner of each layer, and with `all` every other candidate below it.
    pub(crate) fn show(&self, all: bool) -> Result<()> {
        let header =
            ["layer", "rows×cols", "zeros", "columns", "kernel", "µs", "× dense", "bytes", "× least", "why"];
        let mut rows = table::table(&header, 2);
        for (layer, weight) in self.layers.iter().filter_map(|layer| Some((layer, layer.weight.as_ref()?))) {
            let columns = layer.macs / (weight.rows * weight.cols * weight.groups).max(1) as u64;
            let shown = if all { weight.candidates.len() } else { 1 };
            for (i, candidate) in weight.candidates.iter().take(shown).enumerate() {
                let first = |text: String| if i == 0 { text } else { String::new() };
                let ratio = weight.dense_micros().zip(candidate.micros).map(|(dense, own)| dense / own);
                rows.add_row([
                    first(layer.name.clone()),
                    first(format!("{}×{}", weight.rows, weight.cols)),
                    first(table::percent(weight.sparsity())),
                    first(columns.to_string()),
                    candidate.kernel.clone(),
                    candidate.micros.map_or_else(String::new, |t| format!("{t:.2}")),
                    ratio.map_or_else(String::new, |r| format!("{r:.2}")),
                    candidate.bytes.map_or_else(String::new, |b| table::bytes(b as u64)),
                    candidate.bytes.map_or_else(String::new, |b| {
                        format!("{:.2}", b as f64 / weight.smallest_bytes.max(1) as f64)
                    }),
                    first(layer.reason.clone()),
                ]);
            }
        }
        print(format!("{}, {} threads", self.cpu, self.threads))?;
        print(rows)?;
        if let Some(assumed) = &self.assumed {
            print(format!("note: {assumed}"))?;
        }
        match (&self.note, &self.cache) {
            (Some(note), _) => print(format!("choices are not kept: {note}")),
            (None, Some(path)) => print(format!("choices are kept in {}", path.display())),
            (None, None) => print("choices are not kept: neither XDG_CACHE_HOME nor HOME is set"),
        }
    }
}
