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
/// With --output, the model is also written as an artifact that keeps the answers, and its sparse weights as these kernels read them
/// beside the weights themselves. It takes about twice the space, and is ready sooner, without any cache: for containers and
/// functions. Elsewhere (another CPU, number of threads or shape) it runs as ever, and a note says that weights were packed anew.
///
/// Examples:
///   poda tune model.safetensors
///   poda tune model.onnx --batch 8 --threads 2
///   poda tune pruned.safetensors --shape sequence=128 -o prepared.safetensors
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// ONNX file or Poda artifact
    model: PathBuf,
    #[command(flatten)]
    shapes: ShapeArgs,
    #[command(flatten)]
    runtime: RuntimeArgs,
    /// Also write the model with what its kernels read
    #[arg(short, long, value_name = "FILE.safetensors")]
    output: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let spinner = progress::spinner("timing kernels");
    let choices = match &args.output {
        Some(output) => kernel_table::keep(&args.model, &args.shapes, &args.runtime, output)?,
        None => kernel_table::choose(&args.model, &args.shapes, &args.runtime)?,
    };
    spinner.finish_and_clear();
    if args.json { print_json(&choices) } else { kernel_table::show(&choices, false) }
}
