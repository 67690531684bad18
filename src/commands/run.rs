//! `poda run`.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use poda::feeds::{self, NamedFile};
use poda::score::numbers;
use poda::{Tensor, arrays, profiling, shapes};
use poda_runtime::Model;
use poda_runtime::kernels::roof::Roofs;
use serde_json::json;

use crate::runtime_args::RuntimeArgs;
use crate::shape_args::{ShapeArgs, warn_of_conflicts};
use crate::table::{self, print, print_json};
use crate::{profile_table, progress};

/// Run a model once on given inputs, show its outputs, and write them
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
    #[arg(long, value_name = "NAME=FILE", conflicts_with = "random")]
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
    /// Print, for each step, kernel, time, rate, and share of what this CPU can do
    #[arg(long)]
    profile: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let spinner = progress::spinner("preparing");
    let model = Model::open(&args.model)?;
    let graph = model.graph();
    let at = || args.model.display().to_string();
    let mut note = None;
    let feeds = if args.random {
        let resolved = args.shapes.resolve(graph).with_context(at)?;
        note = resolved.note();
        feeds::random(graph, &resolved.shapes, 0).with_context(at)?
    } else {
        ensure!(
            !args.input.is_empty() || graph.inputs.is_empty(),
            "{}: nothing to feed it: say --input NAME=FILE, or --random; {}",
            at(),
            shapes::describe_inputs(graph)
        );
        feeds::from_files(graph, &args.input)?
    };
    warn_of_conflicts(graph, &feeds);
    let executable = model.prepare(args.runtime.options()?).with_context(at)?;
    spinner.set_message("running");
    let outputs = executable.run(&feeds::views(&feeds)).with_context(at)?;
    let profile = if args.profile {
        spinner.set_message("profiling");
        let roofs = Roofs::measure(executable.threads());
        Some(profiling::profile(&executable, &feeds::views(&feeds), &roofs).with_context(at)?)
    } else {
        None
    };
    spinner.finish_and_clear();
    let packings = executable.kept_packings().note();
    if let Some(path) = &args.output {
        arrays::write_npz(path, &outputs)?;
    }
    if args.json {
        let outputs: Vec<_> = outputs
            .iter()
            .map(|(name, t)| {
                let values = numbers(t).unwrap_or_default();
                let first = &values[..values.len().min(SHOWN)];
                json!({"name": name, "dtype": t.dtype().name(), "shape": t.shape(), "first": first})
            })
            .collect();
        let said = json!({"outputs": outputs, "file": args.output, "profile": profile, "note": note, "packings": packings});
        return print_json(&said);
    }
    for (name, tensor) in &outputs {
        let name = table::elided(name, table::columns() / 2);
        print(format!("{name}  {} {:?}\n  {}", tensor.dtype(), tensor.shape(), glance(tensor)?))?;
    }
    if let Some(path) = &args.output {
        print(format!("written to {}", path.display()))?;
    }
    if let Some(profile) = profile {
        print("")?;
        profile_table::show(&profile)?;
    }
    note.into_iter().chain(packings).try_for_each(|note| print(format!("note: {note}")))
}

/// Values that are printed of an output.
const SHOWN: usize = 5;

/// The greatest scores of one sample, `[1, classes]`, with their classes; of other outputs the first values.
fn glance(tensor: &Tensor) -> Result<String> {
    let values = numbers(tensor)?;
    let short = |value: f64| {
        if tensor.dtype().is_float() { format!("{value:.4}") } else { format!("{value}") }
    };
    let sample = matches!(tensor.shape(), [1, classes] | [classes] if *classes > SHOWN);
    if sample && tensor.dtype().is_float() && values.iter().all(|value| !value.is_nan()) {
        let mut ranked: Vec<(usize, f64)> = values.into_iter().enumerate().collect();
        ranked.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        let best = ranked.iter().take(SHOWN).map(|&(class, score)| format!("{class}: {}", short(score)));
        return Ok(format!("greatest at {}", best.collect::<Vec<_>>().join(", ")));
    }
    let mut shown: Vec<String> = values.iter().take(SHOWN).map(|&value| short(value)).collect();
    if values.len() > SHOWN {
        shown.push("…".to_owned());
    }
    Ok(shown.join(", "))
}
