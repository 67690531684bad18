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
use std::io::Read;
use std::ops::ControlFlow;
use std::path::Path;

use npyz::WriterBuilder;
use poda_formats::op::{Op, Unary};
use poda_formats::{DataType, Dim, Graph, Tensor, WriteOptions};
use poda_pruner::finetune::{Batch, Data, DataError, Options, Progress, Rate, RateShape, Term, finetune};
use poda_pruner::gradients::loss::Loss;
use poda_runtime::Model;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

const WIDTHS: [usize; 4] = [784, 768, 512, 10];
const EPOCHS: u64 = 20;
const BATCH: usize = 128;
const LEARNING_RATE: f32 = 1e-3;
const L1: f32 = 2e-5;
/// Test samples kept for the demo.
const TEST_SAMPLES: usize = 2000;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The body of a gzipped IDX file with a header of `header` bytes.
fn read_idx(path: &Path, header: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(File::open(path)?).read_to_end(&mut bytes)?;
    if bytes.len() < header {
        return Err(format!("{}: shorter than its header", path.display()).into());
    }
    Ok(bytes.split_off(header))
}

/// Images `[n, 784]` in 0..1 and labels `[n]` of one split.
fn load(folder: &Path, split: &str) -> Result<Samples> {
    let images = read_idx(&folder.join(format!("{split}-images-idx3-ubyte.gz")), 16)?;
    let labels = read_idx(&folder.join(format!("{split}-labels-idx1-ubyte.gz")), 8)?;
    let images = images.into_iter().map(|p| f32::from(p) / 255.0).collect();
    Ok(Samples { images, labels: labels.into_iter().map(i64::from).collect() })
}

/// Images `[n, 784]` and labels `[n]`.
struct Samples {
    images: Vec<f32>,
    labels: Vec<i64>,
}

impl Data for Samples {
    fn len(&self) -> usize {
        self.labels.len()
    }

    fn batch(&self, samples: &[usize]) -> std::result::Result<Batch, DataError> {
        let images: Vec<f32> =
            samples.iter().flat_map(|&i| &self.images[i * WIDTHS[0]..][..WIDTHS[0]]).copied().collect();
        let labels: Vec<i64> = samples.iter().map(|&i| self.labels[i]).collect();
        let image = Tensor::from_slice(&[samples.len(), WIDTHS[0]], &images);
        let feeds = vec![("image".to_owned(), image)];
        Ok(Batch { feeds, targets: vec![Tensor::from_slice(&[samples.len()], &labels)] })
    }
}

/// Input `image` `[batch, 784]`, output `scores` `[batch, 10]`; He-uniform weights `[out, in]`, zero biases.
fn network(rng: &mut StdRng) -> Graph {
    let mut graph = Graph { name: "fashion_mnist_mlp".into(), ..Graph::default() };
    let shape = vec![Dim::Symbol("batch".into()), Dim::Fixed(WIDTHS[0])];
    let mut x = graph.add_input("image", DataType::F32, shape);
    for (index, pair) in WIDTHS.windows(2).enumerate() {
        let (k, m) = (pair[0], pair[1]);
        let layer = format!("fc{}", index + 1);
        let bound = (6.0 / k as f32).sqrt();
        let values: Vec<f32> = (0..m * k).map(|_| rng.random_range(-bound..bound)).collect();
        let weight = graph.add_weight(format!("{layer}.weight"), Tensor::from_slice(&[m, k], &values));
        let bias = graph.add_weight(format!("{layer}.bias"), Tensor::from_slice(&[m], &vec![0.0_f32; m]));
        let last = index + 2 == WIDTHS.len();
        let gemm = Op::Gemm { alpha: 1.0, beta: 1.0, trans_a: false, trans_b: true };
        x = graph.add_node(gemm, &[x, weight, bias], if last { "scores".into() } else { layer.clone() });
        if !last {
            x = graph.add_node(Op::Unary(Unary::Relu), &[x], format!("{layer}.relu"));
        }
    }
    graph.outputs.push(x);
    graph
}

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

fn accuracy(graph: &Graph, test: &Samples) -> std::result::Result<f64, DataError> {
    let executable = Model::from_graph(graph.clone())?.prepare(poda_runtime::Options::default())?;
    let all = test.batch(&(0..test.len()).collect::<Vec<_>>())?;
    let scores = executable.run(&[("image", all.feeds[0].1.view())])?.remove(0).1;
    let right = scores.as_slice::<f32>()?.chunks_exact(WIDTHS[WIDTHS.len() - 1]).zip(&test.labels);
    let best = |scores: &[f32]| (0..scores.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    Ok(right.filter(|(s, label)| best(s) == Some(**label as usize)).count() as f64 / test.len() as f64)
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [data, out] = &args[..] else {
        return Err("usage: train_fashion_mnist DATA_DIR OUT_DIR".into());
    };
    let (train, test) = (load(Path::new(data), "train")?, load(Path::new(data), "t10k")?);
    let start = network(&mut StdRng::seed_from_u64(7));
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
        if progress.step % (train.len() / BATCH) as u64 == 0 {
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
