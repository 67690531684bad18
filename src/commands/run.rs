//! `poda run`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use poda::arrays;
use poda::feeds::{self, NamedFile};
use poda_runtime::Model;
use serde_json::json;

use crate::progress;
use crate::runtime_args::RuntimeArgs;
use crate::shape_args::ShapeArgs;
use crate::table::{self, print, print_json};

/// Run a model once on given inputs and write its outputs
///
/// Examples:
///   poda run model.onnx --input images=batch.npy -o out.npz
///   poda run model.safetensors --input feeds.npz -o out.npz
///   poda run model.onnx --random --batch 8
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// ONNX file or Poda artifact
    model: PathBuf,
    /// Input array, NAME=FILE.npy; or a FILE.npz with arrays named like the inputs; may be repeated
    #[arg(long, value_name = "NAME=FILE", required_unless_present = "random", conflicts_with = "random")]
    input: Vec<NamedFile>,
    /// Make the inputs up, from shapes alone
    #[arg(long)]
    random: bool,
    /// Write the outputs to this .npz file, under their names
    #[arg(short, long, value_name = "FILE.npz")]
    output: Option<PathBuf>,
    #[command(flatten)]
    shapes: ShapeArgs,
    #[command(flatten)]
    runtime: RuntimeArgs,
    /// Print, for each node, the kernel, the time and the reason for the choice
    #[arg(long)]
    profile: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let spinner = progress::spinner("preparing");
    let model = Model::open(&args.model)?;
    let feeds = if args.random {
        feeds::random(model.graph(), &args.shapes.resolve(model.graph())?.shapes, 0)?
    } else {
        feeds::from_files(model.graph(), &args.input)?
    };
    let options = args.runtime.options()?;
    let at = || args.model.display().to_string();
    let executable = model.prepare(options).with_context(at)?;
    let outputs = executable.run(&feeds::views(&feeds)).with_context(at)?;
    let profile = if args.profile {
        // About half a second, and at least ten runs: medians of a few short runs are of cold caches.
        let once = executable.profile(&feeds::views(&feeds), 1).with_context(at)?.total_ms();
        let runs = (500.0 / once.max(0.01)).clamp(10.0, 5000.0) as usize;
        Some(executable.profile(&feeds::views(&feeds), runs).with_context(at)?)
    } else {
        None
    };
    spinner.finish_and_clear();
    if let Some(path) = &args.output {
        arrays::write_npz(path, &outputs)?;
    }
    if args.json {
        let outputs: Vec<_> = outputs
            .iter()
            .map(|(name, t)| json!({"name": name, "dtype": t.dtype().name(), "shape": t.shape()}))
            .collect();
        return print_json(&json!({"outputs": outputs, "file": args.output, "profile": profile}));
    }
    let mut rows = table::table(&["output", "type", "shape"], 3);
    for (name, tensor) in &outputs {
        rows.add_row([name.clone(), tensor.dtype().to_string(), format!("{:?}", tensor.shape())]);
    }
    print(rows)?;
    if let Some(path) = &args.output {
        print(format!("written to {}", path.display()))?;
    }
    if let Some(profile) = profile {
        let mut rows = table::table(&["node", "op", "kernel", "why", "ms", "MACs", "bytes"], 4);
        for node in &profile.nodes {
            rows.add_row([
                node.name.clone(),
                node.op.clone(),
                node.kernel.clone(),
                node.reason.clone(),
                table::ms(node.ms),
                table::count(node.macs_nonzero),
                table::bytes(node.bytes as u64),
            ]);
        }
        print(rows)?;
        print(format!(
            "{} ms in all, activations in {}",
            table::ms(profile.total_ms()),
            table::bytes(profile.arena_bytes as u64)
        ))?;
    }
    Ok(())
}
