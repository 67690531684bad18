//! Products with a constant weight (MatMul, Gemm, Conv, ConvTranspose), in a draft.

use poda_formats::op::ConvAttributes;
use poda_formats::{DataType, MatrixForm, Op, ValueId};

use super::call::{Call, Lowered, Preparation};
use super::packed::PackedProduct;
use super::transposed::Transposed;
use super::{Rewrite, Rewriter};
use crate::kernels::{Activation, Layout, Problem, Sums};
use crate::ops::OpError;
use crate::ops::geometry::Convolution;
use crate::packing::ConvGeometry;
use crate::plan::build::Context;
use crate::plan::draft::{Draft, DraftNode, Kind};
use crate::plan::weights::Source;

/// `activation(W · x + bias + residual)` with a constant `W` `[m, k]`. Inputs: x, and the residual if there is one.
#[derive(Debug, Clone)]
pub(crate) struct Product {
    pub(crate) source: Source,
    pub(crate) form: Form,
    /// The dimension of the output that counts rows of the weight. The form does not tell: a convolution whose window is
    /// its whole image has the form of a matrix product and the channels of a convolution.
    pub(crate) channel_axis: usize,
    /// `[channels]`
    pub(crate) bias: Option<Vec<f32>>,
    pub(crate) activation: Activation,
    pub(crate) residual: bool,
    /// Whether sums of floats are none of its sums, which are integers.
    pub(crate) integer: bool,
}

/// Shapes of a product.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub(crate) enum Form {
    /// `batch` matrices of `n` columns each, number `i` with part `i % parts` of the weight; there are `xs` matrices x, `batch`
    /// or one for all.
    Matrix { batch: usize, n: usize, x_layout: Layout, y_layout: Layout, parts: usize, xs: usize },
    /// Each of `images` is `groups` images of `geometry`.
    Conv { images: usize, groups: usize, geometry: ConvGeometry },
    /// Each channel on its own.
    Depthwise { images: usize, geometry: ConvGeometry },
    /// A transposed convolution.
    Transposed(Transposed),
}

impl Form {
    /// One weight for `batch` matrices.
    pub(crate) fn matrix(batch: usize, n: usize, x_layout: Layout, y_layout: Layout) -> Self {
        Self::Matrix { batch, n, x_layout, y_layout, parts: 1, xs: batch }
    }
}

/// A product and its inputs.
type Found = (Product, Vec<Option<ValueId>>);

pub(super) fn rewrite(r: &mut Rewriter<'_, '_>, at: usize) -> Option<Rewrite> {
    let (product, inputs) = Product::lower(r.draft, r.node(at))?;
    Some(Rewrite::new(Kind::lowered(product), inputs))
}

impl Product {
    /// A product for a node that is one, with a constant f32 weight.
    pub(super) fn lower(draft: &Draft<'_>, node: &DraftNode) -> Option<Found> {
        let Kind::Op(op) = &node.kind else { return None };
        let output = node.outputs.first().copied().flatten()?;
        if draft.dtype(output) != Some(DataType::F32) {
            return None;
        }
        let shapes: Vec<_> = node.inputs.iter().map(|id| draft.shape((*id)?)).collect();
        op.products(&shapes, None).into_iter().find_map(|product| {
            let weight = node.input(product.input).filter(|&id| draft.is_weight(id))?;
            let source = Source::new(weight, product.form);
            let left = product.input == 0;
            if matches!(op, Op::MatMul) {
                return if left { Self::left(draft, node, source) } else { Self::right(draft, node, source) };
            }
            if let Op::Gemm { alpha, beta, trans_a, trans_b } = op {
                let layout = |transposed| if transposed { Layout::FeatureMajor } else { Layout::TokenMajor };
                // A weight on the left gives its rows first, and takes the other as it takes a transposed A.
                let layouts =
                    if left { [layout(!trans_b), layout(true)] } else { [layout(*trans_a), layout(false)] };
                return Self::gemm(draft, node, source, [*alpha, *beta], layouts);
            }
            if let Op::Conv(attributes) = op {
                return Self::conv(draft, node, source, attributes);
            }
            if let Op::ConvTranspose { conv, output_padding, output_shape } = op {
                return Self::conv_transpose(draft, node, source, (conv, output_padding, output_shape));
            }
            None
        })
    }

    pub(super) fn new(source: Source, form: Form, channel_axis: usize) -> Self {
        Self {
            source,
            form,
            channel_axis,
            bias: None,
            activation: Activation::None,
            residual: false,
            integer: false,
        }
    }

    /// Channels of the output: rows of the weight, of one part where each part has its own matrices.
    pub(crate) fn channels(&self) -> usize {
        match &self.form {
            Form::Matrix { parts, .. } => self.source.m() / (*parts).max(1),
            Form::Conv { .. } | Form::Depthwise { .. } => self.source.m(),
            Form::Transposed(transposed) => transposed.filters,
        }
    }

    /// Multiplies each channel by a factor.
    pub(crate) fn scale(&mut self, factors: &[f32]) {
        let rows: Vec<f32> = match &self.form {
            Form::Matrix { parts, .. } => factors.repeat(*parts),
            Form::Conv { .. } | Form::Depthwise { .. } => factors.to_vec(),
            Form::Transposed(transposed) => {
                factors.iter().flat_map(|&f| std::iter::repeat_n(f, transposed.taps())).collect()
            }
        };
        self.source.scale_rows(&rows);
        self.bias.iter_mut().flatten().zip(factors).for_each(|(b, f)| *b *= f);
    }

    /// `x · W`, with `W` `[…, k, m]`.
    fn right(draft: &Draft<'_>, node: &DraftNode, source: Source) -> Option<Found> {
        let (x, w) = (node.inputs[0]?, node.inputs[1]?);
        let (x_shape, w_shape) = (draft.shape(x)?, draft.shape(w)?);
        let MatrixForm { parts, cols, .. } = source.form;
        if x_shape.last() != Some(&cols) {
            return None;
        }
        let layout = Layout::TokenMajor;
        let w_batch = &w_shape[..w_shape.len() - 2];
        if parts == 1 && (w_batch.is_empty() || x_shape.len() >= w_shape.len()) {
            let n = x_shape[..x_shape.len() - 1].iter().product();
            // A vector on the left gives a vector.
            return Some((
                Self::new(source, Form::matrix(1, n, layout, layout), x_shape.len() - 1),
                vec![Some(x)],
            ));
        }
        let [ref x_batch @ .., n, _] = *x_shape else { return None };
        let axis = x_shape.len().max(w_shape.len()) - 1;
        let (batch, xs) = if x_batch.ends_with(w_batch) {
            let batch = x_batch.iter().product();
            (batch, batch)
        } else if x_batch.iter().all(|&d| d == 1) && x_batch.len() <= w_batch.len() {
            (parts, 1)
        } else {
            return None;
        };
        let form = Form::Matrix { batch, n, x_layout: layout, y_layout: layout, parts, xs };
        Some((Self::new(source, form, axis), vec![Some(x)]))
    }

    /// `W · x`, with `W` `[m, k]`.
    fn left(draft: &Draft<'_>, node: &DraftNode, source: Source) -> Option<Found> {
        let x = node.inputs[1]?;
        let layout = Layout::FeatureMajor;
        let (batch, k, n, axis) = match *draft.shape(x)? {
            // One column, which the result does not name.
            [k] => (1, k, 1, 0),
            [ref batch @ .., k, n] => (batch.iter().product(), k, n, batch.len()),
            [] => return None,
        };
        let form = Form::matrix(batch, n, layout, layout);
        (k == source.k()).then(|| (Self::new(source, form, axis), vec![Some(x)]))
    }

    fn gemm(
        draft: &Draft<'_>,
        node: &DraftNode,
        mut source: Source,
        [alpha, beta]: [f32; 2],
        [x_layout, y_layout]: [Layout; 2],
    ) -> Option<Found> {
        let left = y_layout == Layout::FeatureMajor;
        let x = node.input(usize::from(left))?;
        let &[a, b] = draft.shape(x)? else { return None };
        let (n, k) = if x_layout == Layout::FeatureMajor { (b, a) } else { (a, b) };
        let m = source.m();
        if k != source.k() {
            return None;
        }
        if alpha != 1.0 {
            source.scale_rows(&vec![alpha; m]);
        }
        let (shape, axis) = if left { ([m, n], 0) } else { ([n, m], 1) };
        let mut product = Self::new(source, Form::matrix(1, n, x_layout, y_layout), axis);
        let mut inputs = vec![Some(x)];
        if let Some(c) = node.input(2).filter(|_| beta != 0.0) {
            if let Some(bias) = draft.channel_constant(c, &shape, axis) {
                product.bias = Some(bias.iter().map(|v| beta * v).collect());
            } else if beta == 1.0 && draft.shape(c)? == shape {
                product.residual = true;
                inputs.push(Some(c));
            } else {
                return None;
            }
        }
        Some((product, inputs))
    }

    fn conv(
        draft: &Draft<'_>,
        node: &DraftNode,
        source: Source,
        attributes: &ConvAttributes,
    ) -> Option<Found> {
        let (x, w) = (node.inputs[0]?, node.inputs[1]?);
        let (x_shape, w_shape) = (draft.shape(x)?, draft.shape(w)?);
        // More than two spatial axes stay with the general form, and so does an image without pixels, of which only the pads
        // are seen.
        if x_shape.contains(&0) {
            return None;
        }
        let convolution = Convolution::new(attributes, x_shape, w_shape).ok()?;
        let Convolution { batch: images, channels, filters: m, groups, windows } = convolution;
        let group_channels = channels / groups;
        let depthwise = group_channels == 1 && groups > 1;
        let geometry = windows.image(if depthwise { channels } else { group_channels })?;
        let form = if depthwise {
            Form::Depthwise { images, geometry }
        } else if groups == 1
            && geometry.n() == 1
            && geometry.kernel() == geometry.input()
            && geometry.pads() == [0; 4]
        {
            // The window is the whole image: a product of vectors, one for each image.
            let layout = Layout::TokenMajor;
            Form::matrix(1, images, layout, layout)
        } else {
            Form::Conv { images, groups, geometry }
        };
        let product = Self::new(source, form, 1).with_bias(draft, node.input(2), m)?;
        Some((product, vec![Some(x)]))
    }

    fn conv_transpose(
        draft: &Draft<'_>,
        node: &DraftNode,
        source: Source,
        (conv, output_padding, output_shape): (&ConvAttributes, &[usize], &[usize]),
    ) -> Option<Found> {
        let (x, w) = (node.inputs[0]?, node.inputs[1]?);
        let shapes = [draft.shape(x)?, draft.shape(w)?];
        let transposed = Transposed::new(conv, output_padding, output_shape, shapes)?;
        let filters = transposed.filters;
        let product = Self::new(source, Form::Transposed(transposed), 1);
        Some((product.with_bias(draft, node.input(2), filters)?, vec![Some(x)]))
    }

    /// The product with a constant bias, if there is an operand for it.
    fn with_bias(mut self, draft: &Draft<'_>, bias: Option<ValueId>, channels: usize) -> Option<Self> {
        if let Some(bias) = bias {
            self.bias = Some(draft.f32s(bias)?.to_vec()).filter(|bias| bias.len() == channels);
            self.bias.as_ref()?;
        }
        Some(self)
    }
}

impl Lowered for Product {
    fn prepare(&self, with: &Preparation<'_>) -> Result<Box<dyn Call>, OpError> {
        let weight = with.draft.weight(self.source.value).expect("a product has a weight");
        let Context { weights, threads, .. } = with.context;
        let sums = match self.activation.rounds() {
            _ if self.integer => Sums::Integer,
            true => Sums::Whole,
            false => Sums::Near,
        };
        let grid = with.node.input(0).and_then(|x| with.draft.grid(x));
        let m = self.source.m();
        let even = |parts: usize| vec![m / parts.max(1); parts];
        let packed = match &self.form {
            Form::Matrix { n, x_layout, y_layout, parts, .. } => {
                let problem = Problem { sums, grid, ..Problem::matrix(*n, *x_layout, *y_layout) };
                weights.product(&self.source, &weight, &even(*parts), &problem, threads)?
            }
            Form::Conv { groups, geometry, .. } => {
                let problem = Problem { sums, grid, ..Problem::image(geometry.clone()) };
                weights.product(&self.source, &weight, &even(*groups), &problem, threads)?
            }
            Form::Depthwise { geometry, .. } => weights.depthwise(&self.source, &weight, geometry)?,
            Form::Transposed(transposed) => {
                let layout = Layout::FeatureMajor;
                let problem = Problem::matrix(transposed.pixels(), layout, layout);
                weights.product(&self.source, &weight, &transposed.cuts(), &problem, threads)?
            }
        };
        let (form, bias) = (self.form.clone(), self.bias.clone());
        Ok(Box::new(PackedProduct { form, bias, activation: self.activation, packed }))
    }
}
