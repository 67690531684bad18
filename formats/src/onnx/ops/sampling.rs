//! Pooling, resizing and sampling.

use super::Around;
use super::convolution::{padding, positive};
use crate::graph::Dim;
use crate::onnx::read::{Call, Unsupported};
use crate::onnx::write::Form;
use crate::op::{
    AspectRatioPolicy, CoordinateTransform, GridSampleMode, GridSamplePadding, NearestRounding, Op, Padding,
    PoolAttributes, PoolKind, ResizeAttributes, ResizeMode, RoiAlignAttributes,
};
use crate::weight::Weight;

// Texts of attributes. The first is what an attribute is that is left out, and the first for a value is written.
const GRID_MODES: [(&str, GridSampleMode); 5] = [
    ("linear", GridSampleMode::Linear),
    ("bilinear", GridSampleMode::Linear),
    ("nearest", GridSampleMode::Nearest),
    ("cubic", GridSampleMode::Cubic),
    ("bicubic", GridSampleMode::Cubic),
];
const GRID_PADDINGS: [(&str, GridSamplePadding); 3] = [
    ("zeros", GridSamplePadding::Zeros),
    ("border", GridSamplePadding::Border),
    ("reflection", GridSamplePadding::Reflection),
];
const RESIZE_MODES: [(&str, ResizeMode); 4] = [
    ("nearest", ResizeMode::Nearest),
    ("linear", ResizeMode::Linear),
    ("bilinear", ResizeMode::Linear),
    ("cubic", ResizeMode::Cubic),
];
const COORDINATES: [(&str, CoordinateTransform); 6] = [
    ("half_pixel", CoordinateTransform::HalfPixel),
    ("half_pixel_symmetric", CoordinateTransform::HalfPixelSymmetric),
    ("pytorch_half_pixel", CoordinateTransform::PytorchHalfPixel),
    ("align_corners", CoordinateTransform::AlignCorners),
    ("asymmetric", CoordinateTransform::Asymmetric),
    ("tf_crop_and_resize", CoordinateTransform::TfCropAndResize),
];
const ROUNDINGS: [(&str, NearestRounding); 4] = [
    ("round_prefer_floor", NearestRounding::RoundPreferFloor),
    ("round_prefer_ceil", NearestRounding::RoundPreferCeil),
    ("floor", NearestRounding::Floor),
    ("ceil", NearestRounding::Ceil),
];
const ASPECT_RATIOS: [(&str, AspectRatioPolicy); 3] = [
    ("stretch", AspectRatioPolicy::Stretch),
    ("not_larger", AspectRatioPolicy::NotLarger),
    ("not_smaller", AspectRatioPolicy::NotSmaller),
];

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
            mode: attributes.choice("mode", &GRID_MODES)?,
            padding: attributes.choice("padding_mode", &GRID_PADDINGS)?,
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

/// The attributes of an operator of these.
pub(super) fn write(op: &Op, f: Form, around: &Around<'_>) -> Option<Form> {
    Some(match op {
        Op::Pool(attributes) => {
            let image = around.node.input(0).and_then(|id| around.graph.value(id).shape.as_deref());
            write_pool(f, attributes).since_if(22, newer_pool(attributes, image))
        }
        Op::GlobalPool { kind } => match kind {
            PoolKind::Average | PoolKind::Max => f,
            PoolKind::Lp { p } => f.int("p", (*p).into()),
        },
        Op::Resize(attributes) => write_resize(f, attributes),
        Op::GridSample { mode, padding, align_corners } => f
            .choice("mode", &GRID_MODES, mode)
            .choice("padding_mode", &GRID_PADDINGS, padding)
            .flag("align_corners", *align_corners)
            .since(20),
        Op::RoiAlign(roi) => f
            .string("mode", if roi.max { "max" } else { "avg" })
            .string(
                "coordinate_transformation_mode",
                if roi.half_pixel { "half_pixel" } else { "output_half_pixel" },
            )
            .size("output_height", roi.output_height)
            .size("output_width", roi.output_width)
            .size("sampling_ratio", roi.sampling_ratio)
            .float("spatial_scale", roi.spatial_scale),
        Op::NonMaxSuppression { center_point_box } => f.flag("center_point_box", *center_point_box),
        _ => return None,
    })
}

fn write_pool(f: Form, pool: &PoolAttributes) -> Form {
    let dilated = pool.dilations.iter().any(|&d| d != 1);
    let f = match pool.kind {
        PoolKind::Average if dilated => f.sizes("dilations", &pool.dilations).since(19),
        PoolKind::Average => f,
        PoolKind::Max => f.sizes("dilations", &pool.dilations).flag("storage_order", pool.column_major),
        PoolKind::Lp { p } => f.sizes("dilations", &pool.dilations).int("p", p.into()),
    };
    let average = pool.kind == PoolKind::Average;
    f.sizes("kernel_shape", &pool.kernel)
        .sizes("strides", &pool.strides)
        .padding(&pool.padding)
        .flag("ceil_mode", pool.ceil_mode)
        .maybe(average.then_some(pool.count_include_pad), |f, include| f.flag("count_include_pad", include))
}

/// Whether older operator sets than 22 mean, or may mean, something else: they place windows differently that begin beyond
/// an image (of this declared shape) and its first padding, and some ask for less than no padding.
fn newer_pool(pool: &PoolAttributes, image: Option<&[Dim]>) -> bool {
    let of = |list: &[usize], axis: usize| list.get(axis).copied().unwrap_or(1);
    let strided = (0..pool.kernel.len()).any(|axis| of(&pool.strides, axis) > pool.kernel[axis]);
    let dilated = pool.dilations.iter().any(|&d| d != 1);
    let (padded, same) = match &pool.padding {
        Padding::Explicit(pads) => (pads.iter().any(|&pad| pad != 0), false),
        Padding::Valid => (false, false),
        Padding::SameUpper | Padding::SameLower => (true, true),
    };
    let sizes = image.unwrap_or_default().iter().skip(2).zip(&pool.kernel);
    let small = sizes.into_iter().any(|(size, kernel)| matches!(size, Dim::Fixed(size) if size < kernel));
    same && strided || small || pool.ceil_mode && (strided || padded || dilated)
}

fn write_resize(f: Form, resize: &ResizeAttributes) -> Form {
    f.choice("mode", &RESIZE_MODES, &resize.mode)
        .choice("coordinate_transformation_mode", &COORDINATES, &resize.coordinates)
        .since_if(19, resize.coordinates == CoordinateTransform::HalfPixelSymmetric)
        .choice("nearest_mode", &ROUNDINGS, &resize.nearest)
        .flag("antialias", resize.antialias)
        .ints("axes", &resize.axes)
        .float("cubic_coeff_a", resize.cubic_coeff_a)
        .flag("exclude_outside", resize.exclude_outside)
        .float("extrapolation_value", resize.extrapolation_value)
        .choice("keep_aspect_ratio_policy", &ASPECT_RATIOS, &resize.keep_aspect_ratio)
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
    call.attributes.choice("mode", &RESIZE_MODES)
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
        coordinates: attributes.choice("coordinate_transformation_mode", &COORDINATES)?,
        nearest: attributes.choice("nearest_mode", &ROUNDINGS)?,
        antialias: attributes.flag("antialias", false)?,
        axes: attributes.ints("axes")?.unwrap_or(&[]).to_vec(),
        cubic_coeff_a: attributes.float("cubic_coeff_a", -0.75)?,
        exclude_outside: attributes.flag("exclude_outside", false)?,
        extrapolation_value: attributes.float("extrapolation_value", 0.0)?,
        keep_aspect_ratio: attributes.choice("keep_aspect_ratio_policy", &ASPECT_RATIOS)?,
    }))
}
