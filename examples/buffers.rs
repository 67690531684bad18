//! Buffers of one's own: inputs are read where they lie, outputs written where they are wanted, nothing allocated between.
//!
//!     cargo run --release --example buffers -- MODEL
//!
//! Runs a model of f32 outputs a thousand times on made-up inputs.

use std::error::Error;
use std::time::Instant;

use poda::feeds::{self, views};
use poda::shapes::Sizes;
use poda::{Model, Options, TensorViewMut};

/// Runs.
const RUNS: u32 = 1000;

fn main() -> Result<(), Box<dyn Error>> {
    let model = Model::open(std::env::args().nth(1).ok_or("MODEL")?)?;
    let shapes = Sizes::default().resolve(model.graph())?.shapes;
    let feeds = feeds::random(model.graph(), &shapes, 0)?;
    let inputs = views(&feeds);

    // Plans, packings and kernels for these shapes are there before the first request.
    let executable = model.prepare(Options::default())?;
    let named: Vec<(&str, &[usize])> = feeds.iter().map(|(n, tensor)| (n.as_str(), tensor.shape())).collect();
    executable.warm(&named)?;

    let mut results = Vec::new();
    for (name, tensor) in executable.run(&inputs)? {
        results.push((name, tensor.shape().to_vec(), tensor.as_slice::<f32>()?.to_vec()));
    }
    let begun = Instant::now();
    for _ in 0..RUNS {
        let mut outputs: Vec<(&str, TensorViewMut<'_>)> = results
            .iter_mut()
            .map(|(name, shape, values)| (name.as_str(), TensorViewMut::from_slice(shape, values)))
            .collect();
        executable.run_into(&inputs, &mut outputs)?;
    }
    println!("{:.1} µs a run", begun.elapsed().as_secs_f64() * 1e6 / f64::from(RUNS));
    for (name, shape, values) in results {
        println!("{name} {shape:?}: {:?} …", &values[..values.len().min(4)]);
    }
    Ok(())
}
