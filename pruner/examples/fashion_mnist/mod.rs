//! Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017, <https://arxiv.org/abs/1708.07747>) and networks for it.

mod convolutional;

use std::error::Error;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use poda_formats::op::{Op, Unary};
use poda_formats::{DataType, Dim, Graph, Tensor};
use poda_pruner::finetune::{Batch, Data, DataError};
use poda_runtime::Model;
use rand::RngExt;
use rand::rngs::StdRng;

pub(crate) use convolutional::{resnet, vgg};

pub(crate) const PIXELS: usize = 784;
pub(crate) const CLASSES: usize = 10;

/// The body of a gzipped IDX file with a header of `header` bytes.
fn read_idx(path: &Path, header: usize) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(File::open(path)?).read_to_end(&mut bytes)?;
    if bytes.len() < header {
        return Err(format!("{}: shorter than its header", path.display()).into());
    }
    Ok(bytes.split_off(header))
}

/// Images `[n, 784]` in 0..1 and labels `[n]` of one split.
pub(crate) fn load(folder: &Path, split: &str) -> Result<Samples, Box<dyn Error>> {
    let images = read_idx(&folder.join(format!("{split}-images-idx3-ubyte.gz")), 16)?;
    let labels = read_idx(&folder.join(format!("{split}-labels-idx1-ubyte.gz")), 8)?;
    let images = images.into_iter().map(|p| f32::from(p) / 255.0).collect();
    Ok(Samples { images, labels: labels.into_iter().map(i64::from).collect() })
}

/// Images `[n, 784]` and labels `[n]`.
pub(crate) struct Samples {
    pub(crate) images: Vec<f32>,
    pub(crate) labels: Vec<i64>,
}

impl Data for Samples {
    fn len(&self) -> usize {
        self.labels.len()
    }

    fn batch(&self, samples: &[usize]) -> Result<Batch, DataError> {
        let images: Vec<f32> =
            samples.iter().flat_map(|&i| &self.images[i * PIXELS..][..PIXELS]).copied().collect();
        let labels: Vec<i64> = samples.iter().map(|&i| self.labels[i]).collect();
        let image = Tensor::from_slice(&[samples.len(), PIXELS], &images);
        let feeds = vec![("image".to_owned(), image)];
        Ok(Batch { feeds, targets: vec![Tensor::from_slice(&[samples.len()], &labels)] })
    }
}

/// Layers of these widths: input `image` `[batch, 784]`, output `scores` `[batch, 10]`; He-uniform weights `[out, in]`, zero biases.
pub(crate) fn network(widths: &[usize], rng: &mut StdRng) -> Graph {
    let mut graph = Graph { name: "fashion_mnist_mlp".into(), ..Graph::default() };
    let shape = vec![Dim::Symbol("batch".into()), Dim::Fixed(PIXELS)];
    let mut x = graph.add_input("image", DataType::F32, shape);
    for (index, pair) in widths.windows(2).enumerate() {
        let (k, m) = (pair[0], pair[1]);
        let layer = format!("fc{}", index + 1);
        let bound = (6.0 / k as f32).sqrt();
        let values: Vec<f32> = (0..m * k).map(|_| rng.random_range(-bound..bound)).collect();
        let weight = graph.add_weight(format!("{layer}.weight"), Tensor::from_slice(&[m, k], &values));
        let bias = graph.add_weight(format!("{layer}.bias"), Tensor::from_slice(&[m], &vec![0.0_f32; m]));
        let last = index + 2 == widths.len();
        let gemm = Op::Gemm { alpha: 1.0, beta: 1.0, trans_a: false, trans_b: true };
        x = graph.add_node(gemm, &[x, weight, bias], if last { "scores".into() } else { layer.clone() });
        if !last {
            x = graph.add_node(Op::Unary(Unary::Relu), &[x], format!("{layer}.relu"));
        }
    }
    graph.outputs.push(x);
    graph
}

/// Share of the samples whose label has the greatest score.
pub(crate) fn accuracy(graph: &Graph, test: &Samples) -> Result<f64, DataError> {
    let executable = Model::from_graph(graph.clone())?.prepare(poda_runtime::Options::default())?;
    let all = test.batch(&(0..test.len()).collect::<Vec<_>>())?;
    let scores = executable.run(&[("image", all.feeds[0].1.view())])?.remove(0).1;
    let right = scores.as_slice::<f32>()?.chunks_exact(CLASSES).zip(&test.labels);
    let best = |scores: &[f32]| (0..scores.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    Ok(right.filter(|(s, label)| best(s) == Some(**label as usize)).count() as f64 / test.len() as f64)
}
