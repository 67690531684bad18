//! Trains the network of `poda demo`: a 784-768-512-10 MLP on Fashion-MNIST, dense.
//!
//! Loss: cross-entropy plus an L1 penalty on the weights of the hidden layers (Han et al. 2015 discuss L1 before
//! pruning), so that the weights that do not matter end near zero, where magnitude pruning finds them, and units that
//! do not matter die. Adam, learning rate falling to zero along a half cosine. Seeded.
//!
//! ```text
//! cargo run --release -p poda-pruner --example train_fashion_mnist -- DATA_DIR OUT_DIR
//! ```
//!
//! `DATA_DIR` holds the four IDX files of Fashion-MNIST, gzipped (Debian: package `dataset-fashion-mnist`).

use std::error::Error;
use std::fs::File;
use std::ops::ControlFlow;
use std::path::Path;

use npyz::WriterBuilder;
use poda_formats::WriteOptions;
use poda_pruner::finetune::{Data, Options, Progress, Rate, RateShape, Term, finetune};
use poda_pruner::gradients::loss::Loss;
use rand::SeedableRng;
use rand::rngs::StdRng;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use fashion_mnist::{accuracy, load, network};

mod fashion_mnist;

const WIDTHS: [usize; 4] = [784, 768, 512, 10];
const EPOCHS: u64 = 20;
const BATCH: usize = 128;
const LEARNING_RATE: f32 = 1e-3;
const L1: f32 = 2e-5;
/// Test samples kept for the demo.
const TEST_SAMPLES: usize = 2000;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// An `.npz` with `image` f32 `[n, 784]` and `labels` i64 `[n]`, compressed.
fn write_samples(path: &Path, images: &[f32], labels: &[i64]) -> Result<()> {
    let mut zip = ZipWriter::new(File::create(path)?);
    let options = SimpleFileOptions::default().compression_level(Some(9));
    zip.start_file("image.npy", options)?;
    let shape = [labels.len() as u64, WIDTHS[0] as u64];
    let mut npy = npyz::WriteOptions::new().default_dtype().shape(&shape).writer(&mut zip).begin_nd()?;
    npy.extend(images.iter().copied())?;
    npy.finish()?;
    zip.start_file("labels.npy", options)?;
    let mut npy = npyz::WriteOptions::new().default_dtype().shape(&shape[..1]).writer(&mut zip).begin_nd()?;
    npy.extend(labels.iter().copied())?;
    npy.finish()?;
    zip.finish()?;
    Ok(())
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [data, out] = &args[..] else {
        return Err("usage: train_fashion_mnist DATA_DIR OUT_DIR".into());
    };
    let (train, test) = (load(Path::new(data), "train")?, load(Path::new(data), "t10k")?);
    let start = network(&WIDTHS, &mut StdRng::seed_from_u64(7));
    let options = Options {
        epochs: EPOCHS,
        batch: BATCH,
        rate: Rate { peak: LEARNING_RATE, shape: RateShape::Cosine, warm_up: 0.0 },
        l1: L1,
        seed: 7,
        ..Options::default()
    };
    let terms = [Term { loss: Loss::CrossEntropy, output: start.outputs[0], factor: 1.0 }];
    let mut observe = |progress: &Progress| {
        if progress.step.is_multiple_of((train.len() / BATCH) as u64) {
            println!("epoch {}: loss {:.4}", progress.epoch, progress.loss);
        }
        ControlFlow::Continue(())
    };
    let (trained, _) = finetune(&start, &train, &terms, &options, None, None, &mut observe)?;
    println!("test accuracy {:.4}", accuracy(&trained, &test).map_err(|error| error.to_string())?);
    let out = Path::new(out);
    poda_formats::write(&trained, out.join("fashion_mnist.onnx"), &WriteOptions::default())?;
    let images = &test.images[..TEST_SAMPLES * WIDTHS[0]];
    write_samples(&out.join("fashion_mnist_test.npz"), images, &test.labels[..TEST_SAMPLES])?;
    Ok(())
}
