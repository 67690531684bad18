//! `poda tune`.

use std::path::PathBuf;

use anyhow::Result;

use crate::runtime_args::RuntimeArgs;
use crate::shape_args::ShapeArgs;
use crate::table::print_json;
use crate::{kernel_table, progress};

/// Choose the kernels of a model's weights on this CPU ahead of time
///
/// Times the kernels that fit each weight, for the given shapes and threads, and keeps the answers in the user's
/// cache directory ($XDG_CACHE_HOME/poda, or ~/.cache/poda): the next start times nothing.
///
/// Examples:
///   poda tune model.safetensors
///   poda tune model.onnx --batch 8 --threads 2
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// ONNX file or Poda artifact
    model: PathBuf,
    #[command(flatten)]
    shapes: ShapeArgs,
    #[command(flatten)]
    runtime: RuntimeArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let spinner = progress::spinner("timing kernels");
    let choices = kernel_table::choose(&args.model, &args.shapes, &args.runtime)?;
    spinner.finish_and_clear();
    if args.json { print_json(&choices) } else { kernel_table::show(&choices, false) }
}
