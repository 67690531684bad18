//! The kernels of a model's weights, as a table.

use std::path::Path;

use anyhow::{Context, Result};
use poda::kernels::{self, Choices, Prepared};
use poda_runtime::tune::Candidate;
use poda_runtime::{Model, NodeProfile, WeightProfile};

use crate::runtime_args::RuntimeArgs;
use crate::shape_args::ShapeArgs;
use crate::table::{self, print};

/// As [`kernels::choose`], of a file.
pub(crate) fn choose(path: &Path, shapes: &ShapeArgs, runtime: &RuntimeArgs) -> Result<Choices> {
    let chosen = kernels::choose(&Model::open(path)?, &shapes.sizes(), runtime.options()?);
    chosen.with_context(|| path.display().to_string())
}

/// As [`kernels::choose_and_keep`], of a file.
pub(crate) fn keep(path: &Path, shapes: &ShapeArgs, runtime: &RuntimeArgs, output: &Path) -> Result<Choices> {
    let graph = poda_formats::open(path)?;
    let chosen = kernels::choose_and_keep(graph, &shapes.sizes(), runtime.options()?, output);
    chosen.with_context(|| path.display().to_string())
}

/// Prints the winner of each layer, and with `all` every other candidate below it.
pub(crate) fn show(choices: &Choices, all: bool) -> Result<()> {
    print(format!("{}, {} threads", choices.machine, choices.threads))?;
    let layers = || choices.layers.iter().filter_map(|layer| Some((layer, layer.weight.as_ref()?)));
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
        let mut rows = table::table(&["layer", "kernel", "zeros", "columns", "µs", "× dense", "bytes"], 2);
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
    if let Some(assumed) = &choices.assumed {
        print(format!("note: {assumed}"))?;
    }
    if let Some(Prepared { path, file_bytes, packed_weights }) = &choices.output {
        let bytes = table::bytes(*file_bytes);
        print(format!("{} ({bytes}), with the packings of {packed_weights} of its weights", path.display()))?;
    }
    match (&choices.note, &choices.cache) {
        (Some(note), _) => print(format!("choices are not kept: {note}")),
        (None, Some(path)) => print(format!("choices are kept in {}", path.display())),
        (None, None) => print("choices are not kept: neither XDG_CACHE_HOME nor HOME is set"),
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
