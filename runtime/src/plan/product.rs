//! Products with a constant weight (MatMul, Gemm, Conv, ConvTranspose) with their epilogue, from draft to run.

use std::sync::Arc;

use poda_formats::op::ConvAttributes;
use poda_formats::{DataType, MatrixForm, Op, ValueId, Weight};

use super::draft::{Draft, DraftNode, Explanation, Kind};
use super::transposed::Transposed;
use super::weights::{Packed, Source, Weights};
use crate::kernels::{Activation, Epilogue, Layout, Problem, X};
use crate::ops::OpError;
use crate::ops::geometry::Convolution;
use crate::packing::ConvGeometry;
use crate::profile::WeightProfile;
use crate::threads::{self, Threads};
use crate::tune::PackedWeight;

/// Columns of a sparse product that are no longer worth merging with those of the next image: few vectors are not full.
const COLUMNS: usize = 1024;

/// `activation(W · x + bias + residual)` with a constant `W` `[m, k]`. Inputs: x, and the residual if there is one.
#[derive(Debug, Clone)]
pub(crate) struct Product {
    /// The node that it stands for, whatever its epilogue takes in.
    pub(crate) node: usize,
    pub(crate) source: Source,
    pub(crate) form: Form,
    /// The dimension of the output that counts rows of the weight. The form does not tell: a convolution whose window is
    /// its whole image has the form of a matrix product and the channels of a convolution.
    pub(crate) channel_axis: usize,
    /// `[channels]`
    pub(crate) bias: Option<Vec<f32>>,
    pub(crate) activation: Activation,
    pub(crate) residual: bool,
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

/// A lowered node and its inputs.
pub(crate) type Lowered = (Product, Vec<Option<ValueId>>);

impl Product {
    /// A product for a node that is one, with a constant f32 weight.
    pub(crate) fn lower(draft: &Draft<'_>, node: &DraftNode) -> Option<Lowered> {
        let Kind::Op(op) = &node.kind else { return None };
        let output = node.outputs.first().copied().flatten()?;
        if draft.dtype(output) != Some(DataType::F32) {
            return None;
        }
        let shapes: Vec<_> = node.inputs.iter().map(|id| draft.shape((*id)?)).collect();
        let lowered = op.products(&shapes, None).into_iter().find_map(|product| {
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
        });
        lowered.map(|(product, inputs)| (Self { node: node.node, ..product }, inputs))
    }

    pub(super) fn new(source: Source, form: Form, channel_axis: usize) -> Self {
        Self {
            node: 0,
            source,
            form,
            channel_axis,
            bias: None,
            activation: Activation::None,
            residual: false,
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
    fn right(draft: &Draft<'_>, node: &DraftNode, source: Source) -> Option<Lowered> {
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
    fn left(draft: &Draft<'_>, node: &DraftNode, source: Source) -> Option<Lowered> {
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
    ) -> Option<Lowered> {
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
    ) -> Option<Lowered> {
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
    ) -> Option<Lowered> {
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

    /// Packs the weight.
    ///
    /// # Errors
    /// When the weight cannot be read.
    pub(crate) fn pack(
        self,
        weight: &Weight,
        weights: &Weights,
        threads: &Threads,
    ) -> Result<PackedProduct, OpError> {
        let m = self.source.m();
        let even = |parts: usize| vec![m / parts.max(1); parts];
        let packed = match &self.form {
            Form::Matrix { n, x_layout, y_layout, parts, .. } => {
                let problem = Problem { n: *n, x_layout: *x_layout, y_layout: *y_layout, conv: None };
                weights.product(&self.source, weight, &even(*parts), &problem, threads)?
            }
            Form::Conv { groups, geometry, .. } => {
                let layout = Layout::FeatureMajor;
                let conv = Some(geometry.clone()).filter(|g| !g.is_pointwise());
                let problem = Problem { n: geometry.n(), x_layout: layout, y_layout: layout, conv };
                weights.product(&self.source, weight, &even(*groups), &problem, threads)?
            }
            Form::Depthwise { geometry, .. } => weights.depthwise(&self.source, weight, geometry)?,
            Form::Transposed(transposed) => {
                let layout = Layout::FeatureMajor;
                let problem =
                    Problem { n: transposed.pixels(), x_layout: layout, y_layout: layout, conv: None };
                weights.product(&self.source, weight, &transposed.cuts(), &problem, threads)?
            }
        };
        Ok(PackedProduct { form: self.form, bias: self.bias, activation: self.activation, packed })
    }
}

/// A product whose weight is packed.
#[derive(Debug)]
pub(crate) struct PackedProduct {
    form: Form,
    bias: Option<Vec<f32>>,
    activation: Activation,
    packed: Arc<Packed>,
}

impl PackedProduct {
    /// Writes every element of `y`.
    ///
    /// # Panics
    /// When a slice has not the length that the form gives it.
    pub(crate) fn run(&self, x: &[f32], residual: Option<&[f32]>, y: &mut [f32], threads: &Threads) {
        /// For parts that run beside each other.
        static ALONE: Threads = Threads::single();
        if y.is_empty() {
            return;
        }
        let (count, xs) = match &self.form {
            Form::Matrix { batch, xs, .. } => (*batch, *xs),
            Form::Conv { images, groups, .. } => (images * groups, images * groups),
            Form::Depthwise { images, .. } => (*images, *images),
            Form::Transposed(transposed) => (transposed.images, transposed.images),
        };
        let (together, [x_len, y_len]) = (self.together(), [x.len() / xs, y.len() / count]);
        let parts = count.div_ceil(together);
        let part = |i: usize, y: &mut [f32], threads: &Threads| {
            let (first, count) = (i * together, y.len() / y_len);
            let residual = residual.map(|r| &r[first * y_len..][..y.len()]);
            self.part(first, &x[first % xs * x_len..][..count * x_len], residual, y, threads);
        };
        // Several parts for each thread share no work and wait for each other once.
        if threads.count() > 1 && parts >= 2 * threads.count() {
            threads::for_each_chunk(y, together * y_len, 1, |i, y| part(i, y, &ALONE));
        } else {
            y.chunks_mut(together * y_len).enumerate().for_each(|(i, y)| part(i, y, threads));
        }
    }

    /// Images whose columns make one product: as many as give [`COLUMNS`], where the kernel takes several.
    fn together(&self) -> usize {
        match (&self.form, &*self.packed) {
            (Form::Conv { images, groups: 1, geometry }, Packed::Product(weights))
                if weights[0].takes_images() =>
            {
                let most = COLUMNS.div_ceil(geometry.n().max(1));
                images.div_ceil(images.div_ceil(most))
            }
            _ => 1,
        }
    }

    /// One matrix of a batch, one group of channels of one image, or several images; the first is number `i`.
    fn part(&self, i: usize, data: &[f32], residual: Option<&[f32]>, y: &mut [f32], threads: &Threads) {
        let epilogue = Epilogue { bias: self.bias.as_deref(), residual, activation: self.activation };
        match (&self.form, &*self.packed) {
            (Form::Matrix { n, x_layout, y_layout, parts, .. }, Packed::Product(weights)) => {
                let x = X::Matrix { data, layout: *x_layout };
                weights[i % parts].run(*n, x, y, *y_layout, &epilogue, threads);
            }
            (Form::Conv { geometry, .. }, Packed::Product(weights)) if data.len() > geometry.image_len() => {
                weights[0].run_images(
                    data.len() / geometry.image_len(),
                    data,
                    geometry,
                    y,
                    &epilogue,
                    threads,
                );
            }
            (Form::Conv { groups, geometry, .. }, Packed::Product(weights)) => {
                let (weight, group) = (&weights[i % groups], i % groups);
                let x = if geometry.is_pointwise() {
                    X::Matrix { data, layout: Layout::FeatureMajor }
                } else {
                    X::Image { data, geometry }
                };
                let [m, _] = weight.shape();
                let epilogue = Epilogue { bias: epilogue.bias.map(|b| &b[group * m..][..m]), ..epilogue };
                weight.run(geometry.n(), x, y, Layout::FeatureMajor, &epilogue, threads);
            }
            (Form::Depthwise { geometry, .. }, Packed::Depthwise(depthwise)) => {
                depthwise.run(data, geometry, y, &epilogue, threads);
            }
            (Form::Transposed(transposed), Packed::Product(weights)) => {
                transposed.run(weights, data, y, &epilogue, threads);
            }
            (form, packed) => unreachable!("{form:?} is not packed as {packed:?}"),
        }
    }

    /// Number of multiply-accumulates as if dense, and of those whose weight is not zero.
    pub(crate) fn explain(&self) -> Explanation {
        let mut name = String::new();
        let mut explanation = Explanation::default();
        let columns = match &self.form {
            Form::Matrix { batch, n, parts, .. } => batch / (*parts).max(1) * n,
            Form::Transposed(transposed) => transposed.images * transposed.pixels(),
            Form::Conv { images, geometry, .. } | Form::Depthwise { images, geometry } => {
                images * geometry.n()
            }
        } as u64;
        match &*self.packed {
            Packed::Product(weights) => {
                for weight in weights {
                    let [m, k] = weight.shape();
                    explanation.macs += columns * (m * k) as u64;
                    explanation.macs_nonzero += columns * weight.nnz() as u64;
                    explanation.weight_bytes += weight.bytes();
                }
                if let Some(weight) = weights.first() {
                    weight.kernel().clone_into(&mut name);
                    weight.reason().clone_into(&mut explanation.reason);
                }
                explanation.weight = weight_profile(weights);
            }
            Packed::Depthwise(depthwise) => {
                "depthwise_f32".clone_into(&mut name);
                explanation.weight_bytes = depthwise.bytes();
                explanation.macs = columns * (depthwise.bytes() / size_of::<f32>()) as u64;
                explanation.macs_nonzero = explanation.macs;
            }
        }
        if self.bias.is_some() {
            name.push_str(" + bias");
        }
        if self.activation != Activation::None {
            name.push_str(&format!(" + {:?}", self.activation).to_lowercase());
        }
        explanation.name = name;
        explanation
    }
}

/// What a profile says of the parts of a weight: the first, and how many there are.
pub(super) fn weight_profile(weights: &[PackedWeight]) -> Option<WeightProfile> {
    let weight = weights.first()?;
    let [rows, cols] = weight.shape();
    Some(WeightProfile {
        rows,
        cols,
        nnz: weight.nnz(),
        groups: weights.len(),
        bytes: weight.bytes(),
        smallest_bytes: weight.smallest_bytes(),
        candidates: weight.choice().candidates.clone(),
    })
}
