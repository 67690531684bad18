//! Small networks learn, zeros stay, and interrupted runs come to the same bits.

use std::ops::ControlFlow;
use std::time::Duration;

use poda_formats::op::{ConvAttributes, Op, Padding, PoolKind, Unary};
use poda_formats::{DataType, Dim, Graph, Tensor};
use poda_runtime::Model;

use super::*;

/// Numbers in −1..1, the same for the same seed.
fn noise(len: usize, seed: u64) -> Vec<f32> {
    use rand::{RngExt, SeedableRng};
    let mut random = rand::rngs::SmallRng::seed_from_u64(seed);
    (0..len).map(|_| random.random_range(-1.0..1.0)).collect()
}

/// Images `[1, 6, 6]` of a bright stripe, upright or lying: two classes.
pub(crate) struct Stripes(pub(crate) usize);

impl Data for Stripes {
    fn len(&self) -> usize {
        self.0
    }

    fn batch(&self, samples: &[usize]) -> Result<Batch, DataError> {
        let mut images = Vec::new();
        for &sample in samples {
            let mut image = noise(36, sample as u64);
            let line = sample / 2 % 6;
            (0..6).for_each(|i| image[if sample % 2 == 0 { i * 6 + line } else { line * 6 + i }] += 1.5);
            images.extend(image);
        }
        let labels: Vec<i64> = samples.iter().map(|&sample| (sample % 2) as i64).collect();
        let images = Tensor::from_slice(&[samples.len(), 1, 6, 6], &images);
        let labels = Tensor::from_slice(&[samples.len()], &labels);
        Ok(Batch { feeds: vec![("image".to_owned(), images)], targets: vec![labels] })
    }
}

/// Convolution, batch normalisation, ReLU, average over pixels, product; the tenth weights of the product are zero.
pub(crate) fn network() -> Graph {
    let mut graph = Graph::default();
    let dims = vec![Dim::Symbol("batch".into()), Dim::Fixed(1), Dim::Fixed(6), Dim::Fixed(6)];
    let x = graph.add_input("image", DataType::F32, dims);
    let w = graph.add_weight("conv.weight", Tensor::from_slice(&[8, 1, 3, 3], &noise(72, 1)));
    let conv = Op::Conv(ConvAttributes {
        group: 1,
        kernel: vec![3, 3],
        strides: vec![],
        dilations: vec![],
        padding: Padding::Explicit(vec![1; 4]),
    });
    let y = graph.add_node(conv, &[x, w], "conv");
    let ones = |graph: &mut Graph, name: &str, value: f32| {
        graph.add_weight(name, Tensor::from_slice(&[8], &[value; 8]))
    };
    let norm = [("scale", 1.0), ("bias", 0.0), ("mean", 0.0), ("variance", 1.0)];
    let norm = norm.map(|(name, value)| ones(&mut graph, name, value));
    let y = graph.add_node(Op::BatchNormalization { epsilon: 1e-5 }, &[&[y], &norm[..]].concat(), "norm");
    let y = graph.add_node(Op::Unary(Unary::Relu), &[y], "relu");
    let y = graph.add_node(Op::GlobalPool { kind: PoolKind::Average }, &[y], "pool");
    let y = graph.add_node(Op::Flatten { axis: 1 }, &[y], "flat");
    let mut head = noise(16, 2);
    head.iter_mut().step_by(10).for_each(|v| *v = 0.0);
    let head = graph.add_weight("head.weight", Tensor::from_slice(&[8, 2], &head));
    let bias = graph.add_weight("head.bias", Tensor::from_slice(&[2], &[0.0_f32; 2]));
    let gemm = Op::Gemm { alpha: 1.0, beta: 1.0, trans_a: false, trans_b: false };
    let y = graph.add_node(gemm, &[y, head, bias], "scores");
    graph.outputs.push(y);
    graph
}

pub(crate) fn accuracy(graph: &Graph) -> Result<f64, DataError> {
    let options = poda_runtime::Options { threads: Some(1), tune: false, ..Default::default() };
    let executable = Model::from_graph(graph.clone())?.prepare(options)?;
    // Samples that no training has seen.
    let samples: Vec<usize> = (1000..1100).collect();
    let batch = Stripes(0).batch(&samples)?;
    let (name, image) = &batch.feeds[0];
    let scores = executable.run(&[(name, image.view())])?.remove(0).1;
    let labels = batch.targets[0].as_slice::<i64>()?;
    let right = scores.as_slice::<f32>()?.chunks_exact(2).zip(labels);
    Ok(right.filter(|(s, label)| (s[1] > s[0]) == (**label == 1)).count() as f64 / samples.len() as f64)
}

pub(crate) fn terms(graph: &Graph) -> [Term; 1] {
    [Term { loss: Loss::CrossEntropy, output: graph.outputs[0], factor: 1.0 }]
}

fn options() -> Options {
    let rate = Rate { peak: 0.03, shape: RateShape::Cosine, warm_up: 0.1 };
    Options { epochs: 6, batch: 16, rate, threads: Some(1), ..Options::default() }
}

fn run(
    options: &Options,
    checkpoint: Option<&Checkpoint>,
    stop: u64,
) -> Result<(Graph, Report), FineTuneError> {
    let graph = network();
    let mut observe = |progress: &Progress| {
        if progress.step == stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    finetune(&graph, &Stripes(200), &terms(&graph), options, Some(&accuracy), checkpoint, &mut observe)
}

pub(crate) fn values(graph: &Graph, name: &str) -> Vec<f32> {
    let weight = graph.weight(graph.find(name).unwrap()).unwrap().to_dense().unwrap();
    weight.as_slice::<f32>().unwrap().to_vec()
}

#[test]
fn a_network_learns_and_zeros_stay() {
    let (tuned, report) = run(&options(), None, u64::MAX).unwrap();
    assert!(report.before.unwrap() < 0.8 && report.best.unwrap() > 0.95, "{report:?}");
    assert!(report.epochs[5].loss < report.epochs[0].loss);
    assert_eq!(report.best, Some(accuracy(&tuned).unwrap()), "the result is the best state");
    let (before, after) = (values(&network(), "head.weight"), values(&tuned, "head.weight"));
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(*before == 0.0, *after == 0.0);
    }
    assert!(values(&tuned, "head.bias").iter().all(|&v| v != 0.0), "biases are free to leave zero");
    assert_eq!((report.zeros, report.parameters), (2, 72 + 16 + 14 + 2));
    // Statistics are those of the samples, not the given ones.
    let variance = values(&tuned, "variance");
    assert!(variance.iter().all(|&v| (v - 1.0).abs() > 1e-3), "{variance:?}");
}

#[test]
fn a_start_that_no_epoch_betters_is_kept_and_said() {
    let (trained, _) = run(&options(), None, u64::MAX).unwrap();
    let rate = Rate { peak: 1e-12, shape: RateShape::Constant, warm_up: 0.0 };
    let still = Options { epochs: 2, rate, batch_statistics: false, ..options() };
    let mut go_on = |_: &Progress| ControlFlow::Continue(());
    let of = |validation: Option<Validation<'_>>, go_on: &mut dyn FnMut(&Progress) -> ControlFlow<()>| {
        finetune(&trained, &Stripes(200), &terms(&trained), &still, validation, None, go_on).unwrap().1
    };
    let report = of(Some(&accuracy), &mut go_on);
    assert!(report.kept_start() && report.best_epoch == 0 && report.best == report.before, "{report:?}");
    assert!(report.notes[0].starts_with("no epoch scored better than the start"), "{:?}", report.notes);
    // Without a score the last state is the result.
    let report = of(None, &mut go_on);
    assert!(!report.kept_start() && report.notes.is_empty(), "{report:?}");
}

#[test]
fn an_interrupted_run_comes_to_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, report) = run(&options(), None, u64::MAX).unwrap();
    let other = run(&Options { threads: Some(2), ..options() }, None, u64::MAX).unwrap().0;
    let bits = |graph: &Graph| {
        ["conv.weight", "head.weight", "head.bias", "scale", "bias", "mean", "variance"]
            .map(|name| values(graph, name).iter().map(|v| v.to_bits()).collect::<Vec<_>>())
    };
    assert_eq!(bits(&whole), bits(&other), "with other threads");
    let path = folder.path().join("state");
    for every in [Duration::ZERO, Duration::from_hours(1)] {
        let checkpoint = Checkpoint::new(&path, every);
        // In the middle of an epoch, at its end, and once more.
        for stop in [5, 12, 40] {
            assert!(matches!(run(&options(), Some(&checkpoint), stop), Err(FineTuneError::Stopped { .. })));
        }
        let (resumed, again) = run(&options(), Some(&checkpoint), u64::MAX).unwrap();
        assert_eq!(bits(&whole), bits(&resumed));
        assert_eq!((again.resumed, &again.epochs, again.best), (Some(40), &report.epochs, report.best));
        // Over, and started again.
        let (finished, _) = run(&options(), Some(&checkpoint), u64::MAX).unwrap();
        assert_eq!(bits(&whole), bits(&finished));
        let changed = Options { seed: 1, ..options() };
        let error = run(&changed, Some(&checkpoint), u64::MAX).unwrap_err().to_string();
        assert!(error.contains("is of another run (with other options)"), "{error}");
        checkpoint.remove().unwrap();
    }
    std::fs::write(&path, "no such file").unwrap();
    let error = run(&options(), Some(&Checkpoint::new(&path, Duration::ZERO)), 1).unwrap_err();
    assert!(matches!(error, FineTuneError::Read { .. }), "{error}");
}

#[test]
fn what_cannot_be_trained_is_refused() {
    let rate = Rate { peak: 1e30, shape: RateShape::Constant, warm_up: 0.0 };
    let sgd = Options { rate, optimizer: Optimizer::SGD, ..options() };
    let error = run(&sgd, None, u64::MAX).unwrap_err();
    assert!(matches!(error, FineTuneError::Diverged { step: 1.., .. }), "{error}");
    let frozen = Options { freeze: vec!["*".to_owned()], ..options() };
    assert!(matches!(run(&frozen, None, 1), Err(FineTuneError::NoWeights { .. })));
    let missing = Options { freeze: vec!["haed*".to_owned()], ..options() };
    assert!(matches!(run(&missing, None, 1), Err(FineTuneError::Names(_))));
    assert!(matches!(run(&Options { batch: 0, ..options() }, None, 1), Err(FineTuneError::Options(_))));
    let mut broken = network();
    let id = broken.find("conv.weight").unwrap();
    broken.value_mut(id).weight = Some(Tensor::from_slice(&[8, 1, 3, 3], &[f32::NAN; 72]).into());
    let mut go_on = |_: &Progress| ControlFlow::Continue(());
    let error =
        finetune(&broken, &Stripes(50), &terms(&broken), &options(), None, None, &mut go_on).unwrap_err();
    assert_eq!(error.to_string(), "weight \"conv.weight\" holds numbers that are none (NaN or infinity)");
}

/// Scores of another network, for distillation.
struct Taught(Model);

impl Data for Taught {
    fn len(&self) -> usize {
        96
    }

    fn batch(&self, samples: &[usize]) -> Result<Batch, DataError> {
        let batch = Stripes(0).batch(samples)?;
        let options = poda_runtime::Options { threads: Some(1), tune: false, ..Default::default() };
        let executable = self.0.prepare(options)?;
        let scores = executable.run(&[("image", batch.feeds[0].1.view())])?.remove(0).1;
        Ok(Batch { targets: vec![scores], ..batch })
    }
}

#[test]
fn a_student_follows_its_teacher() {
    let mut teacher = network();
    let id = teacher.find("conv.weight").unwrap();
    teacher.value_mut(id).weight = Some(Tensor::from_slice(&[8, 1, 3, 3], &noise(72, 9)).into());
    let data = Taught(Model::from_graph(teacher).unwrap());
    let student = network();
    for loss in [Loss::Mse, Loss::Kl { temperature: 2.0 }, Loss::Cosine] {
        let terms = [Term { loss, output: student.outputs[0], factor: 0.5 }];
        let options = Options { batch_statistics: false, batch: 8, ..options() };
        let mut go_on = |_: &Progress| ControlFlow::Continue(());
        let (_, report) = finetune(&student, &data, &terms, &options, None, None, &mut go_on).unwrap();
        let [first, .., last] = &report.epochs[..] else { panic!("epochs") };
        assert!(last.loss < 0.5 * first.loss && last.loss >= 0.0, "{loss:?}: {first:?} {last:?}");
        assert_eq!(report.best_epoch, 6, "without a score the last state is taken");
    }
}
