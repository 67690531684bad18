//! Products of bytes over all bytes, against sums of integers.

use poda_formats::Tensor;

use super::tests::{LAYOUTS, Random};
use super::{Epilogue, Grid, Layout, Problem, WeightMatrix, X, all};
use crate::packing::{ConvGeometry, im2col};
use crate::threads::Threads;
use crate::tune::PackedWeight;

/// Bytes times bytes: inputs from `least` on in steps, rows with steps of their own, of multiples from `lowest` on.
fn check_bytes(
    shape: [usize; 2],
    n: usize,
    layouts: [Layout; 2],
    conv: Option<&ConvGeometry>,
    [least, lowest]: [i32; 2],
) -> usize {
    let ([m, k], step) = (shape, 0.037_f32);
    let mut random = Random((n + k) as u64);
    let mut bytes = |count: usize, least: i32| -> Vec<f32> {
        (0..count).map(|_| (least + ((random.next() + 1.0) * 127.99) as i32) as f32).collect()
    };
    let (w, row_step) = (bytes(m * k, lowest), |row: usize| 0.011 * (row as f32 + 0.3));
    let weight: Vec<f32> = w.iter().enumerate().map(|(i, w)| row_step(i / k.max(1)) * w).collect();
    let image = bytes(conv.map_or(k * n, ConvGeometry::image_len), least);
    let columns = conv.map_or_else(
        || image.clone(),
        |geometry| {
            let mut columns = vec![0.0; k * n];
            im2col(&image, geometry, &mut columns);
            columns
        },
    );
    let given: Vec<f32> = image.iter().map(|x| step * x).collect();
    // (Of some the least is found when they are there.)
    let known = (n + m).is_multiple_of(2) != conv.is_some_and(|conv| conv.stride() == [1; 2]);
    let grid = Grid::new(step, known.then_some([least as f32, (least + 255) as f32]));
    let problem = Problem { conv: conv.cloned(), grid, ..Problem::matrix(n, layouts[0], layouts[1]) };
    let weight = WeightMatrix::Dense(Tensor::from_slice(&shape, &weight));
    let mut found = 0;
    for kernel in all().filter(|kernel| kernel.name.contains("u8i8") && kernel.takes(&weight, &problem)) {
        for planned in [n, 1, 64] {
            let problem = Problem { n: planned, ..problem.clone() };
            let threads = Threads::new(1 + n % 2).unwrap();
            let params = kernel.guess(&weight, &problem, &threads);
            let packed = PackedWeight::with_kernel(&weight, &problem, kernel, params).unwrap();
            let x = match conv {
                Some(geometry) => X::Image { data: &given, geometry },
                None => X::Matrix { data: &given, layout: layouts[0] },
            };
            let mut y = vec![f32::NAN; m * n];
            packed.run(n, x, &mut y, layouts[1], &Epilogue::default(), &threads);
            for (row, column) in (0..m).flat_map(|row| (0..n).map(move |column| (row, column))) {
                let of = |i: usize, rows: usize, columns: usize, layout| match layout {
                    Layout::FeatureMajor => i * columns + column,
                    Layout::TokenMajor => column * rows + i,
                };
                let layout = if conv.is_some() { Layout::FeatureMajor } else { layouts[0] };
                let sum: i64 = (0..k).map(|i| (w[row * k + i] * columns[of(i, k, n, layout)]) as i64).sum();
                let expected = f64::from(step) * f64::from(row_step(row)) * sum as f64;
                let y = f64::from(y[of(row, m, n, layouts[1])]);
                // A sum of integers, and three roundings.
                assert!(
                    (y - expected).abs() <= 4e-7 * expected.abs(),
                    "{row}, {column}: {y}, {expected}, {problem:?}"
                );
            }
        }
        found += 1;
    }
    found
}

#[test]
fn bytes_are_multiplied_exactly_over_their_whole_range() {
    let mut found = Vec::new();
    for (i, least) in [-128, 0, -255, -37].into_iter().enumerate() {
        for layouts in LAYOUTS {
            // Features that fill elements of four or do not, and more than sums in registers.
            for (m, k, n) in [(1, 1, 1), (5, 4, 3), (70, 131, 2), (33, 66, 5), (14, 5000, 70), (67, 127, 200)]
            {
                found.push(check_bytes([m, k], n + i, layouts, None, [least, [-128, 0, -200, -127][i]]));
            }
        }
        for (channels, input, stride, pads) in [
            (3, [9, 40], [2, 2], [0, 0, 1, 1]),
            (8, [14, 14], [1, 1], [1; 4]),
            (5, [6, 7], [1, 1], [3, 0, 2, 1]),
        ] {
            let conv = ConvGeometry::new(channels, input, [3; 2], stride, [1; 2], pads).unwrap();
            for y_layout in [Layout::FeatureMajor, Layout::TokenMajor] {
                let layouts = [Layout::FeatureMajor, y_layout];
                found.push(check_bytes([13, conv.k()], conv.n(), layouts, Some(&conv), [least, -128]));
            }
        }
    }
    // All or none: whether this CPU and this build have the kernels.
    assert!(found.iter().all(|&kernels| kernels == found[0] && kernels <= 2), "{found:?}");
}
