//! `poda inspect`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;
use poda_formats::{Dim, Graph, Op, Parameters, RoundingError, ValueId, ValueType};
use poda_runtime::analysis::{self, Analysis};
use serde::Serialize;

use crate::kernels::{self, Choices};
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

#[derive(Serialize)]
struct Inspection {
    path: PathBuf,
    file_bytes: u64,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    /// Operators by name, with how often each occurs.
    operators: BTreeMap<String, usize>,
    /// Fraction of nodes whose operator Poda can run.
    supported_fraction: f64,
    unsupported: Vec<String>,
    parameters: u64,
    nonzero_parameters: u64,
    weight_bytes: u64,
    /// Fraction of zeros among all parameters.
    sparsity: f64,
    /// `None` when shapes are not known; say --shape.
    macs: Option<u64>,
    nonzero_macs: Option<u64>,
    weights: Vec<WeightRow>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    nodes: Vec<NodeRow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kernels: Option<Choices>,
    #[serde(skip_serializing_if = "Option::is_none")]
    passes: Option<Listing>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bodies: Option<&'static str>,
}

#[derive(Serialize)]
struct Port {
    name: String,
    dtype: Option<String>,
    shape: Option<Vec<Dim>>,
}

#[derive(Serialize)]
struct WeightRow {
    name: String,
    dtype: String,
    shape: Vec<usize>,
    layout: String,
    /// What the f32 elements are stored as, where that is narrower, and how far they are from what they were.
    #[serde(skip_serializing_if = "Option::is_none")]
    values: Option<ValueType>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rounding_error: Option<RoundingError>,
    nnz: u64,
    sparsity: f64,
    bytes: u64,
}

#[derive(Serialize)]
struct NodeRow {
    name: String,
    op: String,
    outputs: Vec<Option<Vec<usize>>>,
    macs: Option<u64>,
    nonzero_macs: Option<u64>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let graph = poda_formats::open(&args.model)?;
    let (resolved, note) = match args.shapes.resolve(&graph) {
        Ok(resolved) => {
            let note = resolved.note();
            (Some(resolved), note)
        }
        Err(error) if args.shapes.shape.is_empty() => {
            (None, Some(format!("MACs are not counted: {error:#}")))
        }
        Err(error) => return Err(error),
    };
    let analysis = resolved.as_ref().map(|resolved| analysis::analyze(&graph, &resolved.shapes));
    let mut inspection = inspect(args, &graph, analysis.as_ref())?;
    inspection.note = note;
    let has_bodies = graph.nodes.iter().any(|node| !node.op.bodies().is_empty());
    inspection.bodies =
        has_bodies.then_some("MACs are those outside of If and Loop: how often bodies run is not known");
    if args.kernels {
        inspection.kernels = Some(kernels::choose(&args.model, &args.shapes, &args.runtime)?);
    }
    if args.passes {
        let shapes = resolved.as_ref().map(|resolved| &resolved.shapes);
        inspection.passes = Some(Listing::of(&graph, shapes, args.runtime.passes())?);
    }
    if args.json { print_json(&inspection) } else { show(&inspection) }
}

fn inspect(args: &Args, graph: &Graph, analysis: Option<&Analysis>) -> Result<Inspection> {
    let ports = |ids: &[ValueId]| {
        let port = |&id: &ValueId| {
            let value = graph.value(id);
            let known = analysis.and_then(|a| a.info(id));
            Port {
                name: value.name.clone(),
                dtype: value.dtype.or(known.map(|i| i.dtype)).map(|d| d.to_string()),
                shape: value.shape.clone().or_else(|| {
                    known.and_then(|i| i.shape.clone()).map(|s| s.into_iter().map(Dim::Fixed).collect())
                }),
            }
        };
        ids.iter().map(port).collect()
    };
    let mut operators = BTreeMap::new();
    let mut unsupported = Vec::new();
    let graphs = graph.with_bodies();
    let all_nodes = graphs.iter().map(|graph| graph.nodes.len()).sum::<usize>();
    for node in graphs.iter().flat_map(|graph| &graph.nodes) {
        *operators.entry(node.op.name().to_owned()).or_insert(0) += 1;
        if let Op::Foreign(op) = &node.op {
            unsupported.push(format!("{:?} ({}): {}", node.name, op.op_type, op.reason));
        }
    }
    let weights: Vec<WeightRow> = graphs
        .iter()
        .flat_map(|graph| &graph.values)
        .filter_map(|value| value.weight.as_ref().map(|weight| (&value.name, weight)))
        .map(|(name, weight)| WeightRow {
            name: name.clone(),
            dtype: weight.dtype().to_string(),
            shape: weight.shape().to_vec(),
            layout: weight.layout().into_owned(),
            values: weight.rounding_error().and_then(|_| ValueType::of(weight.values_type())),
            rounding_error: weight.rounding_error(),
            nnz: weight.nnz() as u64,
            sparsity: fraction_of_zeros(weight.nnz() as u64, weight.len() as u64),
            bytes: weight.bytes() as u64,
        })
        .collect();
    let Parameters { count: parameters, nonzero: nonzero_parameters, .. } = graph.parameters();
    let all_macs = |index| analysis.and_then(|a| a.macs(graph, index));
    let macs = || (0..graph.nodes.len()).filter_map(all_macs);
    let nodes = graph.nodes.iter().enumerate().filter(|_| args.nodes).map(|(index, node)| NodeRow {
        name: node.name.clone(),
        op: node.op.name().to_owned(),
        outputs: node
            .outputs
            .iter()
            .flatten()
            .map(|&id| analysis.and_then(|a| a.shape(id)).map(<[usize]>::to_vec))
            .collect(),
        macs: all_macs(index).map(|m| m.dense),
        nonzero_macs: all_macs(index).map(|m| m.nonzero),
    });
    Ok(Inspection {
        path: args.model.clone(),
        file_bytes: poda_formats::file_bytes(&args.model)?,
        inputs: ports(&graph.inputs),
        outputs: ports(&graph.outputs),
        supported_fraction: 1.0 - unsupported.len() as f64 / all_nodes.max(1) as f64,
        operators,
        unsupported,
        parameters,
        nonzero_parameters,
        weight_bytes: weights.iter().map(|w| w.bytes).sum(),
        sparsity: fraction_of_zeros(nonzero_parameters, parameters),
        macs: analysis.map(|_| macs().map(|m| m.dense).sum()),
        nonzero_macs: analysis.map(|_| macs().map(|m| m.nonzero).sum()),
        weights,
        nodes: nodes.collect(),
        note: None,
        bodies: None,
        kernels: None,
        passes: None,
    })
}

fn fraction_of_zeros(nnz: u64, len: u64) -> f64 {
    1.0 - nnz as f64 / len.max(1) as f64 - if len == 0 { 1.0 } else { 0.0 }
}

fn show(inspection: &Inspection) -> Result<()> {
    print(format!("{}, {}", inspection.path.display(), table::bytes(inspection.file_bytes)))?;
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
        kernels.show(true)?;
    }
    if let Some(passes) = &inspection.passes {
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
