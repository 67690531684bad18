//! Trains networks on Fashion-MNIST, dense: that of `poda demo`, a 784-768-512-10 MLP; LeNet-300-100; a small ResNet;
//! and a small VGG.
//!
//! Loss: cross-entropy; for the demo plus an L1 penalty on the weights of the hidden layers (Han et al. 2015 discuss L1 before
//! pruning), so that the weights that do not matter end near zero, where magnitude pruning finds them, and units that
//! do not matter die. Adam, learning rate falling to zero along a half cosine. Seeded.
//!
//! ```text
//! cargo run --release -p poda-pruner --example train_fashion_mnist -- DATA_DIR OUT_DIR [demo|lenet|resnet|vgg [EPOCHS]]
//! ```
//!
//! For the others than the demo, `fashion_train.npz` and `fashion_test.npz` are written as well, whole.
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

use fashion_mnist::{PIXELS, Samples, accuracy, load, network, resnet, vgg};

mod fashion_mnist;

const DEMO: [usize; 4] = [784, 768, 512, 10];
const LENET: [usize; 4] = [784, 300, 100, 10];
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
    let shape = [labels.len() as u64, PIXELS as u64];
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
    let (Some(data), Some(out)) = (args.first().map(Path::new), args.get(1).map(Path::new)) else {
        return Err("usage: train_fashion_mnist DATA_DIR OUT_DIR [demo|lenet|resnet|vgg [EPOCHS]]".into());
    };
    let (train, test) = (load(data, "train")?, load(data, "t10k")?);
    let mut rng = StdRng::seed_from_u64(7);
    let name = args.get(2).map_or("demo", String::as_str);
    let (start, l1) = match name {
        "demo" => (network(&DEMO, &mut rng), L1),
        "lenet" => (network(&LENET, &mut rng), 0.0),
        "resnet" => (resnet(&mut rng), 0.0),
        "vgg" => (vgg(&mut rng), 0.0),
        _ => return Err(format!("{name}: there are demo, lenet, resnet, vgg").into()),
    };
    let options = Options {
        epochs: args.get(3).map_or(Ok(EPOCHS), |epochs| epochs.parse())?,
        batch: BATCH,
        rate: Rate { peak: LEARNING_RATE, shape: RateShape::Cosine, warm_up: 0.0 },
        l1,
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
    let write = |file: &str, samples: &Samples, count: usize| {
        write_samples(&out.join(file), &samples.images[..count * PIXELS], &samples.labels[..count])
    };
    if name == "demo" {
        poda_formats::write(&trained, out.join("fashion_mnist.onnx"), &WriteOptions::default())?;
        return write("fashion_mnist_test.npz", &test, TEST_SAMPLES);
    }
    poda_formats::write(&trained, out.join(format!("{name}.onnx")), &WriteOptions::default())?;
    write("fashion_train.npz", &train, train.labels.len())?;
    write("fashion_test.npz", &test, test.labels.len())
}
