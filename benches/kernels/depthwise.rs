//! Depthwise convolution.

use poda_runtime::Threads;
use poda_runtime::kernels::{Activation, Depthwise, Epilogue};
use poda_runtime::packing::ConvGeometry;

use crate::timing::{Variant, time};
use crate::weights::Random;

/// Depthwise layers of EfficientNet-Lite0: channels, input side, kernel, stride.
const DEPTHWISE: [[usize; 4]; 12] = [
    [32, 112, 3, 1],
    [96, 112, 3, 2],
    [144, 56, 3, 1],
    [144, 56, 5, 2],
    [240, 28, 5, 1],
    [240, 28, 3, 2],
    [480, 14, 3, 1],
    [480, 14, 5, 1],
    [672, 14, 5, 1],
    [672, 14, 5, 2],
    [1152, 7, 5, 1],
    [1152, 7, 3, 1],
];

pub(crate) fn depthwise(threads: &Threads, roof: f64) {
    let mut total = 0.0;
    for [channels, side, kernel, stride] in DEPTHWISE {
        let pad = kernel / 2;
        let g = ConvGeometry::new(channels, [side; 2], [kernel; 2], [stride; 2], [1; 2], [pad; 4]).unwrap();
        let mut random = Random(3);
        let packed = Depthwise::prepare(&random.values(channels * kernel * kernel), &g);
        let x = random.values(g.image_len());
        let bias = random.values(channels);
        let mut y = vec![0.0; channels * g.n()];
        let epilogue = Epilogue {
            bias: Some(&bias),
            activation: Activation::Clip { min: 0.0, max: 6.0 },
            ..Epilogue::default()
        };
        let mut v = [Variant::new("depthwise", threads, || packed.run(&x, &g, &mut y, &epilogue, threads))];
        time(&mut v);
        let t = v[0].median();
        total += t;
        let gflops = 2.0 * (channels * g.n() * kernel * kernel) as f64 / t * 1e-9;
        println!(
            "depthwise {channels}x{side}x{side} {kernel}x{kernel} s{stride} {:8.2} us {gflops:6.1} GFLOP/s {:3.0}% of roof",
            t * 1e6,
            gflops / roof * 100.0
        );
    }
    println!("depthwise total {:.1} us", total * 1e6);
}
