//! Trains the network of `poda demo`: a 784-768-512-10 MLP on Fashion-MNIST, dense.
//!
//! Loss: cross-entropy plus an L1 penalty on the weights of the hidden layers (Han et al. 2015 discuss L1 before
//! pruning), so that the weights that do not matter end near zero, where magnitude pruning finds them, and units that
//! do not matter die. Adam, learning rate falling to zero along a half cosine. Seeded.
//!
//! ```text
//! cargo run --release -p poda-pruner --features finetune --example train_fashion_mnist -- DATA_DIR OUT_DIR
//! ```
//!
//! `DATA_DIR` holds the four IDX files of Fashion-MNIST, gzipped (Debian: package `dataset-fashion-mnist`).

use std::error::Error;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use candle_core::{D, DType, Device, Tensor, Var};
use candle_nn::{AdamW, Optimizer, ParamsAdamW, loss};
use npyz::WriterBuilder;
use poda_formats::op::{Op, Unary};
use poda_formats::{DataType, Dim, Graph, WriteOptions};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

const WIDTHS: [usize; 4] = [784, 768, 512, 10];
const EPOCHS: usize = 20;
const BATCH: usize = 128;
const LEARNING_RATE: f64 = 1e-3;
const L1: f64 = 2e-5;
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
fn load(folder: &Path, split: &str) -> Result<(Vec<f32>, Vec<u32>)> {
    let images = read_idx(&folder.join(format!("{split}-images-idx3-ubyte.gz")), 16)?;
    let labels = read_idx(&folder.join(format!("{split}-labels-idx1-ubyte.gz")), 8)?;
    let images = images.into_iter().map(|p| f32::from(p) / 255.0).collect();
    Ok((images, labels.into_iter().map(u32::from).collect()))
}

struct Mlp {
    layers: Vec<(Var, Var)>,
}

impl Mlp {
    /// He-uniform weights `[out, in]`, zero biases.
    fn new(rng: &mut StdRng, device: &Device) -> Result<Self> {
        let layers = WIDTHS.windows(2).map(|pair| {
            let (k, m) = (pair[0], pair[1]);
            let bound = (6.0 / k as f32).sqrt();
            let weight: Vec<f32> = (0..m * k).map(|_| rng.random_range(-bound..bound)).collect();
            let weight = Var::from_tensor(&Tensor::from_vec(weight, (m, k), device)?)?;
            Ok((weight, Var::zeros(m, DType::F32, device)?))
        });
        Ok(Self { layers: layers.collect::<Result<_>>()? })
    }

    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let mut x = x.clone();
        for (index, (weight, bias)) in self.layers.iter().enumerate() {
            x = x.matmul(&weight.t()?)?.broadcast_add(bias)?;
            if index + 1 < self.layers.len() {
                x = x.relu()?;
            }
        }
        Ok(x)
    }

    fn penalty(&self) -> candle_core::Result<Tensor> {
        let mut sum = self.layers[0].0.abs()?.sum_all()?;
        for (weight, _) in &self.layers[1..] {
            sum = (sum + weight.abs()?.sum_all()?)?;
        }
        sum.affine(L1, 0.0)
    }
}

/// As a graph: input `image` `[batch, 784]`, output `scores` `[batch, 10]`.
fn graph(model: &Mlp) -> Result<Graph> {
    let mut graph = Graph { name: "fashion_mnist_mlp".into(), ..Graph::default() };
    let shape = vec![Dim::Symbol("batch".into()), Dim::Fixed(WIDTHS[0])];
    let mut x = graph.add_input("image", DataType::F32, shape);
    for (index, (weight, bias)) in model.layers.iter().enumerate() {
        let layer = format!("fc{}", index + 1);
        let values = weight.flatten_all()?.to_vec1::<f32>()?;
        let weight = poda_formats::Tensor::from_slice(weight.dims(), &values);
        let weight = graph.add_weight(format!("{layer}.weight"), weight);
        let bias = poda_formats::Tensor::from_slice(bias.dims(), &bias.to_vec1::<f32>()?);
        let bias = graph.add_weight(format!("{layer}.bias"), bias);
        let last = index + 1 == model.layers.len();
        let gemm = Op::Gemm { alpha: 1.0, beta: 1.0, trans_a: false, trans_b: true };
        x = graph.add_node(gemm, &[x, weight, bias], if last { "scores".into() } else { layer.clone() });
        if !last {
            x = graph.add_node(Op::Unary(Unary::Relu), &[x], format!("{layer}.relu"));
        }
    }
    graph.outputs.push(x);
    Ok(graph)
}

/// An `.npz` with `image` f32 `[n, 784]` and `labels` i64 `[n]`, compressed.
fn write_samples(path: &Path, images: &[f32], labels: &[u32]) -> Result<()> {
    let labels: Vec<i64> = labels.iter().map(|&label| label.into()).collect();
    let mut zip = ZipWriter::new(File::create(path)?);
    let options = SimpleFileOptions::default().compression_level(Some(9));
    zip.start_file("image.npy", options)?;
    let shape = [labels.len() as u64, WIDTHS[0] as u64];
    let mut npy = npyz::WriteOptions::new().default_dtype().shape(&shape).writer(&mut zip).begin_nd()?;
    npy.extend(images.iter().copied())?;
    npy.finish()?;
    zip.start_file("labels.npy", options)?;
    let mut npy = npyz::WriteOptions::new().default_dtype().shape(&shape[..1]).writer(&mut zip).begin_nd()?;
    npy.extend(labels)?;
    npy.finish()?;
    zip.finish()?;
    Ok(())
}

fn accuracy(model: &Mlp, images: &Tensor, labels: &[u32]) -> Result<f64> {
    let predicted = model.forward(images)?.argmax(D::Minus1)?.to_vec1::<u32>()?;
    let right = predicted.iter().zip(labels).filter(|(a, b)| a == b).count();
    Ok(right as f64 / labels.len() as f64)
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [data, out] = &args[..] else {
        return Err("usage: train_fashion_mnist DATA_DIR OUT_DIR".into());
    };
    let device = Device::Cpu;
    let (train, labels) = load(Path::new(data), "train")?;
    let (test, test_labels) = load(Path::new(data), "t10k")?;
    let test = Tensor::from_vec(test, (test_labels.len(), WIDTHS[0]), &device)?;

    let mut rng = StdRng::seed_from_u64(7);
    let model = Mlp::new(&mut rng, &device)?;
    let vars = model.layers.iter().flat_map(|(w, b)| [w.clone(), b.clone()]).collect();
    let params = ParamsAdamW { lr: LEARNING_RATE, weight_decay: 0.0, ..ParamsAdamW::default() };
    let mut optimizer = AdamW::new(vars, params)?;
    let mut order: Vec<usize> = (0..labels.len()).collect();
    let steps = labels.len() / BATCH * EPOCHS;
    let mut step = 0_usize;
    for epoch in 0..EPOCHS {
        order.shuffle(&mut rng);
        let mut total = 0.0;
        for batch in order.chunks_exact(BATCH) {
            let x: Vec<f32> =
                batch.iter().flat_map(|&i| &train[i * WIDTHS[0]..][..WIDTHS[0]]).copied().collect();
            let x = Tensor::from_vec(x, (BATCH, WIDTHS[0]), &device)?;
            let y: Vec<u32> = batch.iter().map(|&i| labels[i]).collect();
            let y = Tensor::from_vec(y, BATCH, &device)?;
            let loss = loss::cross_entropy(&model.forward(&x)?, &y)?;
            total += f64::from(loss.to_scalar::<f32>()?);
            let progress = step as f64 / steps as f64;
            optimizer
                .set_learning_rate(LEARNING_RATE * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()));
            optimizer.backward_step(&(loss + model.penalty()?)?)?;
            step += 1;
        }
        let mean = total / (labels.len() / BATCH) as f64;
        println!(
            "epoch {epoch}: loss {mean:.4}, test accuracy {:.4}",
            accuracy(&model, &test, &test_labels)?
        );
    }
    let out = Path::new(out);
    poda_formats::write(&graph(&model)?, out.join("fashion_mnist.onnx"), &WriteOptions::default())?;
    let test = test.narrow(0, 0, TEST_SAMPLES)?.flatten_all()?.to_vec1::<f32>()?;
    write_samples(&out.join("fashion_mnist_test.npz"), &test, &test_labels[..TEST_SAMPLES])?;
    Ok(())
}
