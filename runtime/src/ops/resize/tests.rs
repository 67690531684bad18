use poda_formats::op::{
    AspectRatioPolicy, CoordinateTransform, NearestRounding, Op, ResizeAttributes, ResizeMode,
};

use super::super::OpError;
use super::super::testing::{apply, assert_close, floats, input};
use super::taps::{Line, nearest};

fn attributes(mode: ResizeMode, coordinates: CoordinateTransform) -> ResizeAttributes {
    ResizeAttributes {
        mode,
        coordinates,
        nearest: NearestRounding::RoundPreferFloor,
        antialias: false,
        axes: vec![],
        cubic_coeff_a: -0.75,
        exclude_outside: false,
        extrapolation_value: 0.0,
        keep_aspect_ratio: AspectRatioPolicy::Stretch,
    }
}

#[test]
fn lines_are_interpolated() {
    use CoordinateTransform::{AlignCorners, Asymmetric, HalfPixel, PytorchHalfPixel};
    use ResizeMode::{Cubic, Linear, Nearest};
    let cases: [(ResizeMode, CoordinateTransform, &[f32], i64, &[f32]); 9] = [
        (Nearest, Asymmetric, &[1.0, 2.0], 4, &[1.0, 1.0, 2.0, 2.0]),
        (Nearest, HalfPixel, &[1.0, 2.0, 3.0, 4.0], 2, &[1.0, 3.0]),
        (Linear, HalfPixel, &[1.0, 2.0], 4, &[1.0, 1.25, 1.75, 2.0]),
        (Linear, AlignCorners, &[1.0, 4.0], 4, &[1.0, 2.0, 3.0, 4.0]),
        (Linear, Asymmetric, &[1.0, 2.0], 4, &[1.0, 1.5, 2.0, 2.0]),
        (Linear, PytorchHalfPixel, &[1.0, 2.0, 3.0], 1, &[1.0]),
        (Linear, AlignCorners, &[1.0, 4.0], 1, &[1.0]),
        (Cubic, HalfPixel, &[5.0, 5.0, 5.0], 7, &[5.0; 7]),
        (Linear, HalfPixel, &[3.0], 3, &[3.0; 3]),
    ];
    for (mode, coordinates, x, size, expected) in cases {
        let op = Op::Resize(attributes(mode, coordinates));
        let result = apply(&op, &[input(&[x.len()], x), None, None, input(&[1], &[size])], 1).unwrap();
        assert_close(floats(&result[0]), expected, 1e-6);
    }
}

#[test]
fn the_nearest_is_that_of_f32_and_long_axes_keep_every_element() {
    // 1.5 / 0.6 - 0.5 is 2, where more digits of 0.6 give 1.9999999. (What ONNX Runtime 1.32 gives.)
    let op = Op::Resize(ResizeAttributes {
        nearest: NearestRounding::Floor,
        ..attributes(ResizeMode::Nearest, CoordinateTransform::HalfPixel)
    });
    let x = input(&[4], &[1.0_f32, 2.0, 3.0, 4.0]);
    let result = apply(&op, &[x, None, input(&[1], &[0.6_f32]), None], 1).unwrap();
    assert_eq!(floats(&result[0]), [1.0, 3.0]);
    // Beyond 2²⁴ f32 has no odd numbers: by an unrounded scale of 1 each element stays in its place.
    let long = Line { input: (1 << 24) + 8, output: (1 << 24) + 8, scale: 1.0, roi: [0.0, 1.0] };
    let of = attributes(ResizeMode::Nearest, CoordinateTransform::Asymmetric);
    for i in (1 << 24)..(1 << 24) + 8 {
        assert_eq!(nearest(&of, &long, i), i);
    }
}

#[test]
fn bytes_are_picked_and_sizes_kept_in_ratio() {
    let op = Op::Resize(attributes(ResizeMode::Nearest, CoordinateTransform::Asymmetric));
    let x = input(&[1, 2, 2], &[1_u8, 2, 3, 4]);
    let scales = input(&[3], &[1.0_f32, 1.5, 2.0]);
    let result = apply(&op, &[x.clone(), None, scales, None], 1).unwrap();
    assert_eq!(result[0].as_slice::<u8>().unwrap(), [1, 1, 2, 2, 3, 3, 4, 4, 3, 3, 4, 4]);
    let op = Op::Resize(ResizeAttributes {
        keep_aspect_ratio: AspectRatioPolicy::NotLarger,
        axes: vec![1, 2],
        ..attributes(ResizeMode::Linear, CoordinateTransform::HalfPixel)
    });
    let result = apply(&op, &[x, None, None, input(&[2], &[6_i64, 4])], 1).unwrap();
    assert_eq!(result[0].shape(), [1, 4, 4]);
}

#[test]
fn what_memory_does_not_hold_on_the_way_is_refused() {
    let x = input(&[2, 1 << 20], &vec![1_u8; 2 << 20]);
    for mode in [ResizeMode::Nearest, ResizeMode::Linear] {
        let op = Op::Resize(attributes(mode, CoordinateTransform::Asymmetric));
        let result = apply(&op, &[x.clone(), None, None, input(&[2], &[1_i64 << 22, 1])], 1);
        assert!(matches!(result, Err(OpError::TooLarge { .. })), "{result:?}");
    }
}

#[test]
fn misfits_are_errors() {
    let op = Op::Resize(attributes(ResizeMode::Linear, CoordinateTransform::HalfPixel));
    let x = || input(&[1, 2], &[1.0_f32, 2.0]);
    let scales = |values: &[f32]| input(&[values.len()], values);
    let sizes = |values: &[i64]| input(&[values.len()], values);
    assert!(apply(&op, &[x(), None, None, None], 1).is_err());
    assert!(apply(&op, &[x(), None, scales(&[2.0, 2.0]), sizes(&[2, 2])], 1).is_err());
    assert!(apply(&op, &[x(), None, scales(&[2.0]), None], 1).is_err());
    assert!(apply(&op, &[x(), None, scales(&[1.0, f32::INFINITY]), None], 1).is_err());
    assert!(apply(&op, &[x(), None, scales(&[1.0, -1.0]), None], 1).is_err());
    assert!(apply(&op, &[x(), None, None, sizes(&[1, i64::MAX])], 1).is_err());
    assert!(apply(&op, &[input::<f32>(&[1, 0], &[]), None, None, sizes(&[1, 2])], 1).is_err());
    let none = apply(&op, &[x(), None, None, sizes(&[1, 0])], 1).unwrap();
    assert_eq!(none[0].shape(), [1, 0]);
}
