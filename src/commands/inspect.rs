//! `poda inspect`.

use std::path::PathBuf;

use anyhow::Result;
use poda::inspection::{self, Inspection};
use poda_formats::Dim;
use poda_runtime::Model;
use serde::Serialize;

use crate::kernel_table;
use crate::passes::Listing;
use crate::runtime_args::RuntimeArgs;
use crate::shape_args::ShapeArgs;
use crate::table::{self, print, print_json};

/// Show a model: inputs, outputs, operators, weights, parameters, MACs, sparsity
///
/// Examples:
///   poda inspect model.onnx
///   poda inspect model.onnx --nodes --shape input_ids=1x128
///   poda inspect pruned.safetensors --kernels --threads 1
///   poda inspect model.onnx --passes --without-pass norms
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line say nothing of each other")]
pub(crate) struct Args {
    /// ONNX file or Poda artifact
    model: PathBuf,
    #[command(flatten)]
    shapes: ShapeArgs,
    /// List every node, with shapes and MACs
    #[arg(long)]
    nodes: bool,
    /// Show, for every weight, the kernels that were timed on this CPU, the winner first
    #[arg(long)]
    kernels: bool,
    /// Show what each pass that makes models faster does to this one
    #[arg(long)]
    passes: bool,
    #[command(flatten, next_help_heading = "With --kernels and --passes")]
    runtime: RuntimeArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let model = Model::open(&args.model)?;
    let sizes = args.shapes.sizes();
    let mut inspection = inspection::inspect(model.graph(), Some(&args.model), &sizes, args.nodes)?;
    if args.kernels {
        inspection.kernels = Some(kernel_table::choose(&args.model, &args.shapes, &args.runtime)?);
    }
    let passes = args.passes.then(|| {
        let resolved = sizes.resolve(model.graph()).ok();
        Listing::of(model.graph(), resolved.as_ref().map(|resolved| &resolved.shapes), args.runtime.passes())
    });
    let shown = Shown { inspection, passes: passes.transpose()? };
    if args.json { print_json(&shown) } else { show(&shown) }
}

/// What is shown.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    inspection: Inspection,
    #[serde(skip_serializing_if = "Option::is_none")]
    passes: Option<Listing>,
}

fn show(Shown { inspection, passes }: &Shown) -> Result<()> {
    if let (Some(path), Some(bytes)) = (&inspection.path, inspection.file_bytes) {
        print(format!("{}, {}", path.display(), table::bytes(bytes)))?;
    }
    let mut rows = table::table(&["", "name", "type", "shape"], 4);
    for (what, ports) in [("input", &inspection.inputs), ("output", &inspection.outputs)] {
        for port in ports {
            let dtype = port.dtype.as_deref().unwrap_or("unknown type");
            let shape = port.shape.as_ref().map_or_else(
                || "unknown shape".to_owned(),
                |dims| format!("[{}]", dims.iter().map(dim).collect::<Vec<_>>().join(", ")),
            );
            rows.add_row([what.to_owned(), port.name.clone(), dtype.to_owned(), shape]);
        }
    }
    print(rows)?;
    print(format!(
        "parameters {}, of which zero {}; weights take {}",
        table::count(inspection.parameters),
        table::percent(inspection.sparsity),
        table::bytes(inspection.weight_bytes)
    ))?;
    let told = |key: &str| inspection.provenance.get(key).map(String::as_str);
    if let (Some(version), Some(from)) = (told("version"), told("model")) {
        let data = told("data").map(|data| format!(", with {data}")).unwrap_or_default();
        print(format!("pruned: by Poda {version} from {from}{data}; --json has the recipe"))?;
    }
    if let (Some(macs), Some(nonzero)) = (inspection.macs, inspection.nonzero_macs) {
        print(format!(
            "MACs {}, on weights that are not zero {}",
            table::count(macs),
            table::count(nonzero)
        ))?;
    }
    let nodes: usize = inspection.operators.values().sum();
    let names: Vec<_> = inspection.operators.iter().map(|(name, n)| format!("{name} {n}")).collect();
    print(format!(
        "{nodes} nodes, {} supported: {}",
        table::percent(inspection.supported_fraction),
        names.join(", ")
    ))?;
    for unsupported in &inspection.unsupported {
        print(format!("not supported: {unsupported}"))?;
    }
    if let Some(kernels) = &inspection.kernels {
        kernel_table::show(kernels, true)?;
    }
    if let Some(passes) = passes {
        passes.show()?;
    }
    if let Some(bodies) = inspection.bodies {
        print(format!("note: {bodies}"))?;
    }
    if let Some(note) = &inspection.note {
        print(format!("note: {note}"))?;
    }
    let rounded = inspection.weights.iter().any(|w| w.rounding_error.is_some());
    let header = ["weight", "shape", "type", "layout", "zero", "bytes", "max error", "relative RMS"];
    let mut rows = table::table(&header[..if rounded { 8 } else { 6 }], 4);
    for w in inspection.weights.iter().filter(|w| w.shape.len() > 1) {
        let error = w.rounding_error.filter(|_| rounded);
        rows.add_row(
            [
                w.name.clone(),
                format!("{:?}", w.shape),
                w.values.map_or_else(|| w.dtype.clone(), |values| values.to_string()),
                w.layout.clone(),
                table::percent(w.sparsity),
                table::bytes(w.bytes),
                error.map_or_else(String::new, |e| format!("{:.1e}", e.max)),
                error.map_or_else(String::new, |e| format!("{:.1e}", e.relative_rms)),
            ]
            .into_iter()
            .take(if rounded { 8 } else { 6 }),
        );
    }
    print(format!("\n{rows}"))?;
    if !inspection.nodes.is_empty() {
        let mut rows = table::table(&["node", "op", "output", "MACs", "on nonzeros"], 3);
        for node in &inspection.nodes {
            let shapes: Vec<_> = node
                .outputs
                .iter()
                .map(|s| s.as_ref().map_or("?".to_owned(), |s| format!("{s:?}")))
                .collect();
            let macs = |m: Option<u64>| m.map_or(String::new(), table::count);
            rows.add_row([
                node.name.clone(),
                node.op.clone(),
                shapes.join(" "),
                macs(node.macs),
                macs(node.nonzero_macs),
            ]);
        }
        print(format!("\n{rows}"))?;
    }
    Ok(())
}

fn dim(dim: &Dim) -> String {
    match dim {
        Dim::Fixed(size) => size.to_string(),
        Dim::Symbol(symbol) if symbol.is_empty() => "?".to_owned(),
        Dim::Symbol(symbol) => symbol.clone(),
    }
}
