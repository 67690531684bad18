//! The kernels that were chosen for a model's weights, and what else was considered.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use poda::feeds;
use poda::shapes::Shapes;
use poda_runtime::tune::Candidate;
use poda_runtime::{Model, NodeProfile, WeightProfile};
use serde::Serialize;

use crate::machine::Machine;
use crate::runtime_args::RuntimeArgs;
use crate::shape_args::ShapeArgs;
use crate::table::{self, print};

/// What was chosen for a model on this CPU.
#[derive(Serialize)]
pub(crate) struct Choices {
    #[serde(flatten)]
    pub(crate) machine: Machine,
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
        machine: Machine::this(),
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
        print(format!("{}, {} threads", self.machine, self.threads))?;
        let layers = || self.layers.iter().filter_map(|layer| Some((layer, layer.weight.as_ref()?)));
        if all {
            for (layer, weight) in layers() {
                let zeros = table::percent(weight.sparsity());
                let columns = match columns(layer, weight) {
                    1 => "1 column".to_owned(),
                    columns => format!("{columns} columns"),
                };
                print(format!(
                    "\n{}: {}×{}, {zeros} zero, {columns}: {}",
                    layer.name, weight.rows, weight.cols, layer.reason
                ))?;
                let mut rows = table::table(&["  kernel", "µs", "× dense", "bytes", "× least"], 1);
                for candidate in &weight.candidates {
                    let [micros, ratio, bytes, least] = figures(weight, candidate);
                    rows.add_row([format!("  {}", candidate.kernel), micros, ratio, bytes, least]);
                }
                print(rows)?;
            }
            print("")?;
        } else {
            let mut rows =
                table::table(&["layer", "kernel", "zeros", "columns", "µs", "× dense", "bytes"], 2);
            for (layer, weight) in layers() {
                let [micros, ratio, bytes, _] = figures(weight, &weight.candidates[0]);
                rows.add_row([
                    layer.name.clone(),
                    weight.candidates[0].kernel.clone(),
                    table::percent(weight.sparsity()),
                    columns(layer, weight).to_string(),
                    micros,
                    ratio,
                    bytes,
                ]);
            }
            print(rows)?;
        }
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

/// Columns of the product, of each group.
fn columns(layer: &NodeProfile, weight: &WeightProfile) -> u64 {
    layer.macs / (weight.rows * weight.cols * weight.groups).max(1) as u64
}

/// Time, ratio to dense, bytes, and ratio to the smallest lossless format.
fn figures(weight: &WeightProfile, candidate: &Candidate) -> [String; 4] {
    let ratio = weight.dense_micros().zip(candidate.micros).map(|(dense, own)| dense / own);
    let least = candidate.bytes.map(|bytes| bytes as f64 / weight.smallest_bytes.max(1) as f64);
    let [ratio, least] = [ratio, least].map(|figure| figure.map_or_else(String::new, table::ratio));
    let micros = candidate.micros.map_or_else(String::new, table::ms);
    [micros, ratio, candidate.bytes.map_or_else(String::new, |bytes| table::bytes(bytes as u64)), least]
}
