//! `poda convert`.

use std::path::PathBuf;

use anyhow::Result;
use poda::conversion::{self, Conversion, Converted};
use poda_formats::{FileFormat, ValueType};

use crate::table::{self, print, print_json};
use crate::values;

/// Convert between ONNX and Poda's artifact; weights that are mostly zero are stored sparse
///
/// The format of OUT follows from its extension: .onnx, or .safetensors for the artifact, which
/// opens without copying and stores the zeros of a model that was pruned elsewhere as nothing.
///
/// Examples:
///   poda convert pruned.onnx -o pruned.safetensors
///   poda convert pruned.safetensors -o back.onnx
///   poda convert model.onnx -o small.safetensors --values int8
///   poda convert pruned.safetensors -o weights.safetensors --weights-only
///   poda convert pruned.safetensors --weights tuned.safetensors -o tuned.onnx
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// ONNX file or Poda artifact
    model: PathBuf,
    /// File to write, .onnx or .safetensors
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// Store every weight dense
    #[arg(long)]
    dense: bool,
    /// Store the weights of products and convolutions in this type; what that loses is printed. An .onnx file
    /// holds the rounded values as f32
    #[arg(long, value_name = "TYPE", value_parser = values::parser())]
    values: Option<ValueType>,
    /// First set weights to these, dense ones by name, such as PyTorch's state_dict after fine-tuning
    #[arg(long, value_name = "FILE.safetensors")]
    weights: Option<PathBuf>,
    /// Write the weights alone, dense, by name: a safetensors file that is no model, for PyTorch and others
    #[arg(long, conflicts_with_all = ["dense", "values"])]
    weights_only: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let how = Conversion { dense: args.dense, values: args.values };
    let mut graph = poda_formats::open(&args.model)?;
    if let Some(path) = &args.weights {
        conversion::set_weights(&mut graph, path)?;
    }
    if args.weights_only {
        let count = conversion::write_weights(&graph, &args.output)?;
        return print(format!("{count} weights -> {}", args.output.display()));
    }
    let converted = conversion::convert(graph, Some(&args.model), &args.output, how)?;
    if args.json {
        return print_json(&converted);
    }
    let Converted { input, output, rounded } = converted;
    let (sparse, before) = (output.sparse_weights, input.map_or(0, |file| file.file_bytes));
    let stored = match sparse {
        0 => "every weight stored dense".to_owned(),
        1 => "1 weight stored sparse".to_owned(),
        _ => format!("{sparse} weights stored sparse"),
    };
    print(format!(
        "{} ({}) -> {} ({}), {stored}",
        args.model.display(),
        table::bytes(before),
        args.output.display(),
        table::bytes(output.file.file_bytes),
    ))?;
    values::show(&rounded, FileFormat::of_name(&args.output))
}
