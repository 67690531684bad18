//! The process of one Rust engine, which speaks the protocol that `python_worker.py` describes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use npyz::{NpyFile, Order, WriterBuilder};
use serde::Deserialize;
use serde_json::json;

/// Elements of an input.
pub enum Elements {
    F32(Vec<f32>),
    I64(Vec<i64>),
}

/// An input: shape and elements, row-major.
pub struct Array {
    pub shape: Vec<usize>,
    pub elements: Elements,
}

/// Inputs by name.
pub type Inputs = BTreeMap<String, Array>;

/// An output: shape and elements, row-major.
pub type Output = (Vec<usize>, Vec<f32>);

/// A model that is ready to run on its inputs.
pub trait Loaded {
    /// Runs once and drops the outputs.
    fn run(&self) -> Result<()>;
    /// Runs once and gives the first output.
    fn output(&self) -> Result<Output>;
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Request {
    Load { load: PathBuf, inputs: BTreeMap<String, PathBuf>, output: PathBuf },
    Time { time: f64 },
}

/// Serves requests from standard input until it ends; the number of threads is the argument of the program.
///
/// `package` is the engine's, whose version is told.
pub fn serve<L: Loaded>(package: &str, load: fn(&Path, Inputs, usize) -> Result<L>) -> Result<()> {
    let threads = std::env::args().nth(1).context("usage: ENGINE THREADS")?.parse()?;
    println!("{}", json!({ "version": locked_version(package) }));
    let mut loaded = None;
    for line in io::stdin().lines() {
        let reply = match serde_json::from_str(&line?)? {
            Request::Load { load: model, inputs, output } => {
                loaded = None;
                loaded_once(load, &model, inputs, &output, threads).map(|(ready, load_ms)| {
                    loaded = Some(ready);
                    json!({ "load_ms": load_ms })
                })
            }
            Request::Time { time } => {
                let ready = loaded.as_ref().context("no model is loaded")?;
                timed(ready, Duration::from_secs_f64(time)).map(|times| json!({ "times_ms": times }))
            }
        };
        println!("{}", reply.unwrap_or_else(|error| json!({ "error": format!("{error:#}") })));
    }
    Ok(())
}

/// The version of a dependency of this crate.
fn locked_version(package: &str) -> Option<&str> {
    let lock = include_str!("../Cargo.lock");
    let (_, after) = lock.split_once(&format!("name = \"{package}\"\nversion = \""))?;
    after.split('"').next()
}

fn loaded_once<L: Loaded>(
    load: fn(&Path, Inputs, usize) -> Result<L>,
    model: &Path,
    inputs: BTreeMap<String, PathBuf>,
    output: &Path,
    threads: usize,
) -> Result<(L, f64)> {
    let inputs = inputs.into_iter().map(|(name, path)| Ok((name, read(&path)?))).collect::<Result<_>>()?;
    let start = Instant::now();
    let ready = load(model, inputs, threads)?;
    let load_ms = start.elapsed().as_secs_f64() * 1e3;
    write(output, &ready.output()?)?;
    Ok((ready, load_ms))
}

/// Milliseconds of each run, after a quarter of the time to warm up, one run at least.
fn timed(model: &impl Loaded, seconds: Duration) -> Result<Vec<f64>> {
    let start = Instant::now();
    model.run()?;
    while start.elapsed() < seconds / 4 {
        model.run()?;
    }
    let mut times = Vec::new();
    let start = Instant::now();
    while times.is_empty() || start.elapsed() < seconds {
        let before = Instant::now();
        model.run()?;
        times.push(before.elapsed().as_secs_f64() * 1e3);
    }
    Ok(times)
}

fn read(path: &Path) -> Result<Array> {
    let at = || path.display().to_string();
    let npy = NpyFile::new(BufReader::new(File::open(path).with_context(at)?)).with_context(at)?;
    let shape = npy.shape().iter().map(|&size| size as usize).collect();
    ensure!(npy.order() == Order::C, "{}: not row-major", path.display());
    let elements = match npy.dtype().descr().as_str() {
        "'<f4'" => Elements::F32(npy.into_vec()?),
        "'<i8'" => Elements::I64(npy.into_vec()?),
        other => bail!("{}: elements of type {other}", path.display()),
    };
    Ok(Array { shape, elements })
}

fn write(path: &Path, (shape, elements): &Output) -> Result<()> {
    let shape: Vec<u64> = shape.iter().map(|&size| size as u64).collect();
    let file = BufWriter::new(File::create(path)?);
    let mut writer = npyz::WriteOptions::new().default_dtype().shape(&shape).writer(file).begin_nd()?;
    writer.extend(elements.iter())?;
    Ok(writer.finish()?)
}
