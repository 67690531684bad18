//! A program as small as it gets: runs an artifact on numbers from standard input.
//!
//!     cargo build --profile small --no-default-features --example small
//!     small MODEL.safetensors < input.f32 > output.f32
//!
//! The model has one input and one output, of f32; a batch as large as what comes in is run at once. How many bytes such a
//! program has is in docs/embedding.md.

use std::error::Error;
use std::io::{Read, Write, stdin, stdout};
use std::process::ExitCode;

use poda::formats::Dim;
use poda::{DataType, Model, Options, TensorView};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let model = Model::open(std::env::args().nth(1).ok_or("MODEL.safetensors < input.f32 > output.f32")?)?;
    let [input] = &model.inputs()[..] else { return Err("a model of one input is needed".into()) };
    let mut shape = Vec::new();
    for dim in input.shape.as_deref().ok_or("the input's shape is not known")? {
        shape.push(match dim {
            Dim::Fixed(size) => *size,
            Dim::Symbol(_) => 1,
        });
    }
    let mut bytes = Vec::new();
    stdin().read_to_end(&mut bytes)?;
    let sample = shape.iter().skip(1).product::<usize>() * DataType::F32.size();
    if sample == 0 || !bytes.len().is_multiple_of(sample) {
        return Err(format!("{} bytes came in, which are no samples of {sample}", bytes.len()).into());
    }
    if let Some(batch) = shape.first_mut() {
        *batch = bytes.len() / sample;
    }

    let executable = model.prepare(Options::default())?;
    let input = TensorView::from_bytes(DataType::F32, &shape, &bytes)?;
    let outputs = executable.run(&[(model.inputs()[0].name.as_str(), input)])?;
    stdout().write_all(outputs[0].1.bytes())?;
    Ok(())
}
