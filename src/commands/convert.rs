//! `poda convert`.

use std::path::{Path, PathBuf};

use anyhow::Result;
use poda_formats::weight::SparseError;
use poda_formats::{FileFormat, RoundedWeight, ValueType, Weight};
use serde::Serialize;

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
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Converted<'a> {
    input: File<'a>,
    output: Output<'a>,
    rounded: Vec<RoundedWeight>,
}

#[derive(Serialize)]
struct Output<'a> {
    #[serde(flatten)]
    file: File<'a>,
    sparse_weights: usize,
}

#[derive(Serialize)]
struct File<'a> {
    path: &'a Path,
    file_bytes: u64,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut graph = poda_formats::open(&args.model)?;
    if let Some(values) = args.values {
        graph.round_weights(values)?;
    }
    if args.dense {
        graph.visit_mut(&mut |graph| {
            for weight in graph.values.iter_mut().filter_map(|value| value.weight.as_mut()) {
                if weight.is_sparse() {
                    *weight = Weight::Tensor(weight.to_dense()?);
                }
            }
            Ok::<(), SparseError>(())
        })?;
    }
    // An .onnx file says every zero.
    if !args.dense && FileFormat::of_name(&args.output) == Some(FileFormat::Artifact) {
        graph.store_sparse();
    }
    poda_formats::write(&graph, &args.output, &poda_formats::WriteOptions::default())?;
    let before = poda_formats::file_bytes(&args.model)?;
    let after = poda_formats::file_bytes(&args.output)?;
    let sparse = match FileFormat::of_name(&args.output) {
        Some(FileFormat::Artifact) => {
            let values = graph.with_bodies().into_iter().flat_map(|graph| &graph.values);
            values.filter(|value| value.weight.as_ref().is_some_and(Weight::is_sparse)).count()
        }
        Some(FileFormat::Onnx) | None => 0,
    };
    let rounded = graph.rounded_weights();
    if args.json {
        let input = File { path: &args.model, file_bytes: before };
        let file = File { path: &args.output, file_bytes: after };
        let output = Output { file, sparse_weights: sparse };
        return print_json(&Converted { input, output, rounded });
    }
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
        table::bytes(after),
    ))?;
    values::show(&rounded, FileFormat::of_name(&args.output))
}
