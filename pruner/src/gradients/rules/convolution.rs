//! Convolutions. The gradient of the image is a transposed convolution of the result's with the same weight, that of the
//! weight a product over all windows ([`Op::ConvGradient`]). Dumoulin and Visin, <https://arxiv.org/abs/1603.07285>.

use poda_formats::ValueId;
use poda_formats::op::{ConvAttributes, Op, Padding};

use super::{Call, Inputs};
use crate::gradients::{Emit, Refusal};

/// How a window slides along one axis.
#[derive(Debug, Clone, Copy)]
pub(super) struct Axis {
    pub(super) input: usize,
    pub(super) output: usize,
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) dilation: usize,
    pub(super) begin: i64,
}

impl Axis {
    /// From the start of the first window to the end of the last.
    fn full(&self) -> i64 {
        (self.output.saturating_sub(1) * self.stride + (self.kernel - 1) * self.dilation + 1) as i64
    }

    /// What is left of the input after the last window, negative where that reaches beyond.
    fn end(&self) -> i64 {
        self.full() - self.begin - self.input as i64
    }
}

/// The windows over `input` that give `output`, both without batch and channels.
pub(super) fn axes(
    input: &[usize],
    output: &[usize],
    kernel: &[usize],
    [strides, dilations]: [&[usize]; 2],
    padding: &Padding,
) -> Vec<Axis> {
    let or_one = |given: &[usize], i: usize| given.get(i).copied().unwrap_or(1);
    (0..input.len())
        .map(|i| {
            let (stride, dilation) = (or_one(strides, i), or_one(dilations, i));
            let mut axis =
                Axis { input: input[i], output: output[i], kernel: kernel[i], stride, dilation, begin: 0 };
            let needed = (axis.full() - input[i] as i64).max(0);
            axis.begin = match padding {
                Padding::Explicit(pads) => pads.get(i).copied().unwrap_or(0),
                Padding::SameUpper => needed / 2,
                Padding::SameLower => needed - needed / 2,
                Padding::Valid => 0,
            };
            axis
        })
        .collect()
}

/// The attributes of a convolution with exactly these windows.
fn attributes(axes: &[Axis], group: usize) -> ConvAttributes {
    let of = |value: fn(&Axis) -> usize| axes.iter().map(value).collect();
    let pads = axes.iter().map(|a| a.begin).chain(axes.iter().map(Axis::end)).collect();
    ConvAttributes {
        group,
        kernel: of(|a| a.kernel),
        strides: of(|a| a.stride),
        dilations: of(|a| a.dilation),
        padding: Padding::Explicit(pads),
    }
}

/// From the gradient of the result back to that of the image.
pub(super) fn image_gradient(
    e: &mut Emit,
    g: ValueId,
    w: ValueId,
    axes: &[Axis],
    group: usize,
) -> Result<ValueId, Refusal> {
    let mut conv = attributes(axes, group);
    // What no window reaches at the end is added as padding of the output.
    let pads = axes.iter().map(|a| a.begin).chain(axes.iter().map(|a| a.end().max(0))).collect();
    conv.padding = Padding::Explicit(pads);
    let output_padding = axes.iter().map(|a| (-a.end()).max(0) as usize).collect();
    e.node(Op::ConvTranspose { conv, output_padding, output_shape: Vec::new() }, &[g, w])
}

/// Over batch and pixels: the gradient of a bias.
fn bias_gradient(e: &mut Emit, g: ValueId) -> Result<ValueId, Refusal> {
    let shape = e.shape(g)?;
    let axes: Vec<usize> = (0..shape.len()).filter(|&axis| axis != 1).collect();
    let sum = e.sum(g, &axes)?;
    e.reshape(sum, &shape[1..2])
}

pub(super) fn conv(e: &mut Emit, call: &Call<'_>) -> Inputs {
    let Op::Conv(conv) = &call.node.op else { return Err(Refusal::NoRule) };
    let (x, w, g) = (call.input(0)?, call.input(1)?, call.gradient()?);
    let (x_shape, w_shape, g_shape) = (e.shape(x)?, e.shape(w)?, e.shape(g)?);
    let slide = [&conv.strides[..], &conv.dilations];
    let axes = axes(&x_shape[2..], &g_shape[2..], &w_shape[2..], slide, &conv.padding);
    let mut gradients = vec![None; 3];
    if e.wants(Some(x)) {
        gradients[0] = Some(image_gradient(e, g, w, &axes, conv.group)?);
    }
    if e.wants(Some(w)) {
        gradients[1] = Some(weight_gradient(e, x, g, &axes, conv.group)?);
    }
    if e.wants(call.node.input(2)) {
        gradients[2] = Some(bias_gradient(e, g)?);
    }
    Ok(gradients)
}

fn weight_gradient(
    e: &mut Emit,
    x: ValueId,
    g: ValueId,
    axes: &[Axis],
    group: usize,
) -> Result<ValueId, Refusal> {
    e.node(Op::ConvGradient(attributes(axes, group)), &[x, g])
}

/// The convolution from the result back to the image has the same weight.
pub(super) fn conv_transpose(e: &mut Emit, call: &Call<'_>) -> Inputs {
    let Op::ConvTranspose { conv, output_shape, .. } = &call.node.op else { return Err(Refusal::NoRule) };
    if !output_shape.is_empty() || matches!(conv.padding, Padding::SameUpper | Padding::SameLower) {
        return Err(Refusal::Unsupported("its pads follow from the size of the output"));
    }
    let (x, w, g) = (call.input(0)?, call.input(1)?, call.gradient()?);
    let (x_shape, w_shape, g_shape) = (e.shape(x)?, e.shape(w)?, e.shape(g)?);
    let slide = [&conv.strides[..], &conv.dilations];
    let axes = axes(&g_shape[2..], &x_shape[2..], &w_shape[2..], slide, &conv.padding);
    let mut gradients = vec![None; 3];
    if e.wants(Some(x)) {
        gradients[0] = Some(e.node(Op::Conv(attributes(&axes, conv.group)), &[g, w])?);
    }
    if e.wants(Some(w)) {
        gradients[1] = Some(weight_gradient(e, g, x, &axes, conv.group)?);
    }
    if e.wants(call.node.input(2)) {
        gradients[2] = Some(bias_gradient(e, g)?);
    }
    Ok(gradients)
}
