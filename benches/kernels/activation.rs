//! Activation functions over a layer's output in cache, beside those of `rten-vecmath`.

use poda_runtime::Threads;
use poda_runtime::kernels::Activation;
use rten_simd::SimdUnaryOp;
use rten_vecmath::Gelu;

use crate::timing::{Variant, time};
use crate::weights::Random;

/// Elements of a row, as a kernel applies the function to them, and rows.
const CASES: [[usize; 2]; 2] = [[64, 3072], [1536, 128]];

pub(crate) fn activation(threads: &Threads) {
    for [row, rows] in CASES {
        let x = Random(3).values(row * rows);
        let (mut ours, mut others) = (x.clone(), x.clone());
        // (Copied each time: what is applied again and again becomes zeros.)
        let mut variants = [
            Variant::new("GELU", threads, || {
                ours.copy_from_slice(&x);
                ours.chunks_mut(row).for_each(|row| Activation::Gelu.apply(row));
            }),
            Variant::new("GELU, rten-vecmath", threads, || {
                others.copy_from_slice(&x);
                others.chunks_mut(row).for_each(|row| Gelu {}.map_mut(row));
            }),
        ];
        time(&mut variants);
        for v in &variants {
            println!("{rows} rows of {row}: {:<20} {:8.1} us", v.name, v.median() * 1e6);
        }
    }
}
