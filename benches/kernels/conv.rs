//! Dense convolutions as a network runs them: one layer after another, so that weights and images come from where they would.

use poda_formats::Tensor;
use poda_formats::storage::AlignedBytes;
use poda_runtime::Threads;
use poda_runtime::kernels::{self, Activation, Epilogue, Kernel, Layout, Level, Problem, WeightMatrix, X};
use poda_runtime::packing::ConvGeometry;
use poda_runtime::tune::PackedWeight;

use crate::timing::{now, roof};
use crate::weights::{Random, aligned};

/// Layers of ResNet-50, one of each kind: channels, features, input side, kernel, stride, whether a residual is added.
const RESNET: [([usize; 5], bool); 20] = [
    ([3, 64, 224, 7, 2], false),
    ([64, 64, 56, 1, 1], false),
    ([64, 64, 56, 3, 1], false),
    ([64, 256, 56, 1, 1], true),
    ([256, 64, 56, 1, 1], false),
    ([256, 128, 56, 1, 1], false),
    ([128, 128, 56, 3, 2], false),
    ([128, 512, 28, 1, 1], true),
    ([512, 128, 28, 1, 1], false),
    ([128, 128, 28, 3, 1], false),
    ([256, 512, 56, 1, 2], false),
    ([512, 256, 28, 1, 1], false),
    ([256, 256, 28, 3, 2], false),
    ([256, 1024, 14, 1, 1], true),
    ([1024, 256, 14, 1, 1], false),
    ([256, 256, 14, 3, 1], false),
    ([1024, 512, 14, 1, 1], false),
    ([512, 512, 7, 3, 1], false),
    ([512, 2048, 7, 1, 1], true),
    ([2048, 512, 7, 1, 1], false),
];

/// Each layer's part of the FMA roof, which is measured again in every round, with every dense kernel that takes it. (That of Winograd,
/// with a quarter of the multiplications, may be above the roof.)
pub(crate) fn conv(threads: &Threads) {
    let rounds: usize = std::env::var("ROUNDS").map_or(21, |r| r.parse().expect("ROUNDS is a number"));
    let dense: Vec<_> = kernels::all().filter(|k| k.level == Level::best() && k.dense).collect();
    let mut random = Random(3);
    let mut layers: Vec<_> = RESNET
        .iter()
        .flat_map(|&(shape, residual)| {
            let [channels, features, side, size, stride] = shape;
            let g = ConvGeometry::new(channels, [side; 2], [size; 2], [stride; 2], [1; 2], [size / 2; 4])
                .unwrap();
            let weight =
                WeightMatrix::Dense(Tensor::from_slice(&[features, g.k()], &random.values(features * g.k())));
            let problem = Problem::image(g.clone());
            let takes = dense.iter().filter(|kernel| kernel.takes(&weight, &problem));
            let layer = |&kernel: &&'static Kernel| {
                let params = kernel.guess(&weight, &problem, threads);
                let packed = PackedWeight::with_kernel(&weight, &problem, kernel, params).unwrap();
                let x = aligned(&random.values(g.image_len()));
                let y = AlignedBytes::zeroed(4 * features * g.n());
                let added = residual.then(|| aligned(&random.values(features * g.n())));
                (shape, g.clone(), packed, random.values(features), x, y, added)
            };
            takes.map(layer).collect::<Vec<_>>()
        })
        .collect();
    let mut seconds = vec![Vec::new(); layers.len() + 1];
    for _ in 0..rounds {
        seconds[layers.len()].push(roof());
        threads.install(|| {
            for _ in 0..3 {
                for ((_, g, packed, bias, x, y, residual), seconds) in layers.iter_mut().zip(&mut seconds) {
                    let epilogue = Epilogue {
                        bias: Some(bias),
                        residual: residual.as_ref().map(|r| r.as_slice().unwrap()),
                        activation: Activation::Clip { min: 0.0, max: f32::INFINITY },
                    };
                    let start = now();
                    packed.run(
                        g.n(),
                        X::Image { data: x.as_slice().unwrap(), geometry: g },
                        bytemuck::cast_slice_mut(y),
                        Layout::FeatureMajor,
                        &epilogue,
                        threads,
                    );
                    seconds.push(now() - start);
                }
            }
        });
    }
    let medians: Vec<f64> = seconds
        .iter_mut()
        .map(|seconds| {
            seconds.sort_by(f64::total_cmp);
            seconds[seconds.len() / 2]
        })
        .collect();
    let roof = medians[layers.len()];
    let mut total = [0.0; 2];
    for ((shape, g, packed, ..), t) in layers.iter().zip(&medians) {
        let [channels, features, side, size, stride] = shape;
        let work = 2.0 * (features * g.k() * g.n()) as f64 * 1e-9;
        let kernel = packed.kernel();
        if kernel == dense[0].name {
            total = [total[0] + work, total[1] + t];
        }
        println!(
            "conv {channels}→{features} {side}x{side} {size}x{size} s{stride} {kernel:24} {:8.1} us {:6.1} GFLOP/s {:3.0}% of roof",
            t * 1e6,
            work / t,
            work / t / roof * 100.0
        );
    }
    let [work, t] = total;
    println!(
        "conv in all by {} {:.1} us, {:.1} GFLOP/s, {:.1}% of roof ({roof:.1})",
        dense[0].name,
        t * 1e6,
        work / t,
        work / t / roof * 100.0
    );
}
