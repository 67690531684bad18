//! Pooling, resizing and sampling.

use super::convolution::{padding, positive};
use crate::onnx::read::attributes::Unsupported;
use crate::onnx::read::call::Call;
use crate::op::{
    AspectRatioPolicy, CoordinateTransform, GridSampleMode, GridSamplePadding, NearestRounding, Op,
    PoolAttributes, PoolKind, ResizeAttributes, ResizeMode, RoiAlignAttributes,
};
use crate::weight::Weight;

pub(super) fn read(call: &mut Call) -> Result<Option<Op>, Unsupported> {
    let attributes = &call.attributes;
    Ok(Some(match call.op_type {
        "AveragePool" => pool(call, PoolKind::Average)?,
        "MaxPool" => pool(call, PoolKind::Max)?,
        "LpPool" => pool(call, PoolKind::Lp { p: p(call)? })?,
        "GlobalAveragePool" => Op::GlobalPool { kind: PoolKind::Average },
        "GlobalMaxPool" => Op::GlobalPool { kind: PoolKind::Max },
        "GlobalLpPool" => Op::GlobalPool { kind: PoolKind::Lp { p: p(call)? } },
        "Resize" => resize(call)?,
        "Upsample" => upsample(call)?,
        "GridSample" => Op::GridSample {
            mode: attributes.choice(
                "mode",
                &[
                    ("linear", GridSampleMode::Linear),
                    ("bilinear", GridSampleMode::Linear),
                    ("nearest", GridSampleMode::Nearest),
                    ("cubic", GridSampleMode::Cubic),
                    ("bicubic", GridSampleMode::Cubic),
                ],
            )?,
            padding: attributes.choice(
                "padding_mode",
                &[
                    ("zeros", GridSamplePadding::Zeros),
                    ("border", GridSamplePadding::Border),
                    ("reflection", GridSamplePadding::Reflection),
                ],
            )?,
            align_corners: attributes.flag("align_corners", false)?,
        },
        "RoiAlign" => Op::RoiAlign(RoiAlignAttributes {
            max: attributes.choice("mode", &[("avg", false), ("max", true)])?,
            // Opset 10 had no choice: what is now called `output_half_pixel`.
            half_pixel: call.version >= 16
                && attributes.choice(
                    "coordinate_transformation_mode",
                    &[("half_pixel", true), ("output_half_pixel", false)],
                )?,
            output_height: attributes.size("output_height", 1)?,
            output_width: attributes.size("output_width", 1)?,
            sampling_ratio: attributes.size("sampling_ratio", 0)?,
            spatial_scale: attributes.float("spatial_scale", 1.0)?,
        }),
        "NonMaxSuppression" => {
            Op::NonMaxSuppression { center_point_box: attributes.flag("center_point_box", false)? }
        }
        _ => return Ok(None),
    }))
}

fn p(call: &Call) -> Result<u32, Unsupported> {
    let p = call.attributes.int("p", 2)?;
    u32::try_from(p)
        .ok()
        .filter(|&p| p > 0)
        .ok_or(Unsupported::AttributeValue { name: "p", value: p.to_string() })
}

fn pool(call: &Call, kind: PoolKind) -> Result<Op, Unsupported> {
    let kernel = positive(call, "kernel_shape")?;
    if kernel.is_empty() {
        return Err(Unsupported::MissingAttribute { name: "kernel_shape" });
    }
    Ok(Op::Pool(PoolAttributes {
        kind,
        kernel,
        strides: positive(call, "strides")?,
        dilations: positive(call, "dilations")?,
        padding: padding(call)?,
        ceil_mode: call.attributes.flag("ceil_mode", false)?,
        count_include_pad: call.attributes.flag("count_include_pad", false)?,
        column_major: call.attributes.flag("storage_order", false)?,
    }))
}

fn resize_mode(call: &Call) -> Result<ResizeMode, Unsupported> {
    call.attributes.choice(
        "mode",
        &[
            ("nearest", ResizeMode::Nearest),
            ("linear", ResizeMode::Linear),
            ("bilinear", ResizeMode::Linear),
            ("cubic", ResizeMode::Cubic),
        ],
    )
}

/// What Upsample and Resize did before there was a choice.
fn asymmetric(mode: ResizeMode) -> Op {
    Op::Resize(ResizeAttributes {
        mode,
        coordinates: CoordinateTransform::Asymmetric,
        nearest: NearestRounding::Floor,
        antialias: false,
        axes: Vec::new(),
        cubic_coeff_a: -0.75,
        exclude_outside: false,
        extrapolation_value: 0.0,
        keep_aspect_ratio: AspectRatioPolicy::Stretch,
    })
}

fn upsample(call: &mut Call) -> Result<Op, Unsupported> {
    let mode = resize_mode(call)?;
    let x = call.input(0);
    let scales = if call.version < 9 {
        call.at_most_inputs(1)?;
        match call.attributes.floats("scales")? {
            [] => return Err(Unsupported::MissingAttribute { name: "scales" }),
            scales => call.vector("scales", scales),
        }
    } else {
        call.at_most_inputs(2)?;
        call.required(1)?
    };
    call.inputs = vec![x, None, Some(scales)];
    Ok(asymmetric(mode))
}

fn resize(call: &mut Call) -> Result<Op, Unsupported> {
    if call.version < 11 {
        return upsample(call);
    }
    // Exporters give an empty constant for an input that they leave out.
    for index in 1..call.inputs.len() {
        if call.input(index).is_some_and(|id| call.builder.graph.weight(id).is_some_and(Weight::is_empty)) {
            call.inputs[index] = None;
        }
    }
    let attributes = &call.attributes;
    Ok(Op::Resize(ResizeAttributes {
        mode: resize_mode(call)?,
        coordinates: attributes.choice(
            "coordinate_transformation_mode",
            &[
                ("half_pixel", CoordinateTransform::HalfPixel),
                ("half_pixel_symmetric", CoordinateTransform::HalfPixelSymmetric),
                ("pytorch_half_pixel", CoordinateTransform::PytorchHalfPixel),
                ("align_corners", CoordinateTransform::AlignCorners),
                ("asymmetric", CoordinateTransform::Asymmetric),
                ("tf_crop_and_resize", CoordinateTransform::TfCropAndResize),
            ],
        )?,
        nearest: attributes.choice(
            "nearest_mode",
            &[
                ("round_prefer_floor", NearestRounding::RoundPreferFloor),
                ("round_prefer_ceil", NearestRounding::RoundPreferCeil),
                ("floor", NearestRounding::Floor),
                ("ceil", NearestRounding::Ceil),
            ],
        )?,
        antialias: attributes.flag("antialias", false)?,
        axes: attributes.ints("axes")?.unwrap_or(&[]).to_vec(),
        cubic_coeff_a: attributes.float("cubic_coeff_a", -0.75)?,
        exclude_outside: attributes.flag("exclude_outside", false)?,
        extrapolation_value: attributes.float("extrapolation_value", 0.0)?,
        keep_aspect_ratio: attributes.choice(
            "keep_aspect_ratio_policy",
            &[
                ("stretch", AspectRatioPolicy::Stretch),
                ("not_larger", AspectRatioPolicy::NotLarger),
                ("not_smaller", AspectRatioPolicy::NotSmaller),
            ],
        )?,
    }))
}
