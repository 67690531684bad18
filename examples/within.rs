//! A model within the program: nothing to install beside it, nothing to find on disk.
//!
//!     cargo run --release --example within
//!
//! The network is that of `poda demo`, 784-768-512-10, which tells ten kinds of clothes apart.

use std::error::Error;

use poda::{Model, Options, Tensor};

static MODEL: &[u8] = include_bytes!("../src/commands/demo/fashion_mnist.onnx");

fn main() -> Result<(), Box<dyn Error>> {
    let executable = Model::from_bytes(MODEL)?.prepare(Options::default())?;
    // A bright square on black ground.
    let inside = |i: usize| (4..24).contains(&(i % 28)) && (4..24).contains(&(i / 28));
    let image: Vec<f32> = (0..784).map(|i| f32::from(u8::from(inside(i)))).collect();
    let image = Tensor::from_slice(&[1, 784], &image);
    let outputs = executable.run(&[("image", image.view())])?;
    let scores = outputs[0].1.as_slice::<f32>()?;
    let (class, score) = scores.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).ok_or("no scores")?;
    println!("class {class}, score {score:.2}");
    Ok(())
}
