//! Runs models and compares their outputs with those that another engine gave.
//!
//!     cargo run --release --example compare -- [--threads N] [--without-pass NAMES] [--profile RUNS] MODEL.onnx… DIRECTORY…
//!
//! `NAME.onnx` is fed the arrays `in:INPUT` of `NAME.npz` beside it and must give its arrays `out:OUTPUT`. Prints a line
//! for each model that fails or is refused, and a summary. With `--profile`, times each model and its nodes too.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};

use poda::formats::Element;
use poda::{DataType, Executable, Model, Options, Passes, Tensor, TensorView, arrays};

type Any = Box<dyn Error>;

fn main() -> Result<(), Any> {
    let mut options = Options { threads: Some(1), tune: false, ..Options::default() };
    let mut models = Vec::new();
    let mut runs = 0;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--threads" => options.threads = Some(args.next().ok_or("--threads N")?.parse()?),
            "--without-pass" => {
                options.passes = Passes::without(&args.next().ok_or("--without-pass NAMES")?)?;
            }
            "--profile" => runs = args.next().ok_or("--profile RUNS")?.parse()?,
            _ => collect(Path::new(&arg), &mut models)?,
        }
    }
    models.sort();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for model in &models {
        let (verdict, text) = match compare(model, &options, runs) {
            Ok(worst) if worst <= 1e-3 => ("agrees", String::new()),
            Ok(worst) => ("differs", format!("by {worst:.1e} of the largest output")),
            Err(error) => ("fails", error.to_string()),
        };
        *counts.entry(verdict).or_default() += 1;
        if verdict != "agrees" {
            println!("{verdict} {}: {text}", model.display());
        }
    }
    println!("{counts:?}");
    Ok(())
}

fn collect(path: &Path, models: &mut Vec<PathBuf>) -> Result<(), Any> {
    if path.is_dir() {
        for entry in std::fs::read_dir(path)? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "onnx") && path.with_extension("npz").exists() {
                models.push(path);
            }
        }
    } else {
        models.push(path.to_owned());
    }
    Ok(())
}

/// The largest difference, relative to the largest magnitude of its output.
fn compare(model: &Path, options: &Options, runs: usize) -> Result<f64, Any> {
    let arrays = arrays::read(model.with_extension("npz"))?;
    let executable = Model::open(model)?.prepare(options.clone())?;
    let feeds: Vec<_> =
        arrays.iter().filter_map(|(name, tensor)| Some((name.strip_prefix("in:")?, tensor.view()))).collect();
    let found = executable.run(&feeds)?;
    if runs > 0 {
        profile(model, &executable, &feeds, runs)?;
    }
    let mut worst = 0.0_f64;
    for (name, expected) in arrays.iter().filter_map(|(n, t)| Some((n.strip_prefix("out:")?, t))) {
        let (_, found) = found.iter().find(|(n, _)| n == name).ok_or(format!("no output {name:?}"))?;
        if found.shape() != expected.shape() {
            return Err(
                format!("output {name:?} has shape {:?}, not {:?}", found.shape(), expected.shape()).into()
            );
        }
        let (found, expected) = (numbers(found)?, numbers(expected)?);
        let largest = expected.iter().filter(|v| v.is_finite()).fold(1e-6_f64, |m, v| m.max(v.abs()));
        for (&a, &b) in found.iter().zip(&expected) {
            let same = a == b || (a.is_nan() && b.is_nan());
            let difference = if same { 0.0 } else { (a - b).abs() / largest };
            worst = worst.max(if difference.is_nan() { f64::INFINITY } else { difference });
        }
    }
    Ok(worst)
}

/// Prints the median time of a run, and where it goes.
fn profile(
    model: &Path,
    executable: &Executable,
    feeds: &[(&str, TensorView<'_>)],
    runs: usize,
) -> Result<(), Any> {
    let mut times = Vec::with_capacity(runs);
    for _ in 0..runs {
        let start = std::time::Instant::now();
        executable.run(feeds)?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    println!("{}: min {:.3} ms, median {:.3} ms", model.display(), times[0], times[runs / 2]);
    let profile = executable.profile(feeds, runs)?;
    let mut nodes: Vec<_> = profile.nodes.iter().collect();
    nodes.sort_by(|a, b| b.ms.total_cmp(&a.ms));
    for node in nodes.iter().take(40) {
        let rate = node.macs as f64 / node.ms / 1e6;
        let (kernel, name) = (&node.kernel, &node.name);
        println!(
            "{:8.3} ms {rate:7.1} GMAC/s {kernel} {:?} -> {:?} {name}",
            node.ms, node.inputs, node.outputs
        );
    }
    let sum = profile.total_ms();
    println!("{:8.3} ms in {} steps; arena {} bytes", sum, profile.nodes.len(), profile.arena_bytes);
    Ok(())
}

fn numbers(tensor: &Tensor) -> Result<Vec<f64>, Any> {
    fn all<T: Element>(tensor: &Tensor, f: impl Fn(T) -> f64) -> Result<Vec<f64>, Any> {
        Ok(tensor.as_slice::<T>()?.iter().map(|&v| f(v)).collect())
    }
    match tensor.dtype() {
        DataType::F32 => all::<f32>(tensor, f64::from),
        DataType::F64 => all::<f64>(tensor, |v| v),
        DataType::F16 => all::<half::f16>(tensor, f64::from),
        DataType::I64 => all::<i64>(tensor, |v| v as f64),
        DataType::I32 => all::<i32>(tensor, f64::from),
        DataType::U8 => all::<u8>(tensor, f64::from),
        DataType::I8 => all::<i8>(tensor, f64::from),
        DataType::Bool => Ok(tensor.bytes().iter().map(|&v| f64::from(v)).collect()),
        other => Err(format!("comparing {other} is not supported").into()),
    }
}
