//! Products with a constant weight (MatMul, Gemm, Conv) with their epilogue, from draft to run.

use std::sync::Arc;

use poda_formats::op::ConvAttributes;
use poda_formats::{DataType, Op, Weight};

use super::draft::{Draft, DraftNode, Explanation, Kind};
use super::weights::{Packed, Source, Weights};
use crate::kernels::{Activation, Epilogue, Layout, Problem, X};
use crate::ops::OpError;
use crate::ops::geometry::Convolution;
use crate::packing::ConvGeometry;
use crate::profile::WeightProfile;
use crate::threads::{self, Threads};

/// `activation(W · x + bias + residual)` with a constant `W` `[m, k]`. Inputs: x, and the residual if there is one.
#[derive(Debug, Clone)]
pub(crate) struct Product {
    /// The node that it stands for, whatever its epilogue takes in.
    pub(crate) node: usize,
    pub(crate) source: Source,
    pub(crate) form: Form,
    /// `[m]`
    pub(crate) bias: Option<Vec<f32>>,
    pub(crate) activation: Activation,
    pub(crate) residual: bool,
}

/// Shapes of a product.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub(crate) enum Form {
    /// `batch` matrices of `n` columns each.
    Matrix { batch: usize, n: usize, x_layout: Layout, y_layout: Layout },
    /// Each of `images` is `groups` images of `geometry`.
    Conv { images: usize, groups: usize, geometry: ConvGeometry },
    /// Each channel on its own.
    Depthwise { images: usize, geometry: ConvGeometry },
}

impl Product {
    /// The dimension of the output, of rank `rank`, that counts rows of the weight.
    pub(crate) fn channel_axis(&self, rank: usize) -> usize {
        match &self.form {
            Form::Matrix { y_layout: Layout::TokenMajor, .. } => rank - 1,
            Form::Matrix { y_layout: Layout::FeatureMajor, .. } => rank.saturating_sub(2),
            Form::Conv { .. } | Form::Depthwise { .. } => 1,
        }
    }

    /// A product for a node that is one, with a constant f32 weight.
    pub(crate) fn lower(
        draft: &Draft<'_>,
        node: &DraftNode,
    ) -> Option<(Self, Vec<Option<poda_formats::ValueId>>)> {
        let Kind::Op(op) = &node.kind else { return None };
        let output = node.outputs.first().copied().flatten()?;
        if draft.dtype(output) != Some(DataType::F32) {
            return None;
        }
        let (product, inputs) = match op {
            Op::MatMul => Self::matmul(draft, node),
            Op::Gemm { alpha, beta, trans_a, trans_b } => {
                Self::gemm(draft, node, [*alpha, *beta], *trans_a, *trans_b)
            }
            Op::Conv(attributes) => Self::conv(draft, node, attributes),
            _ => None,
        }?;
        Some((Self { node: node.node, ..product }, inputs))
    }

    fn new(source: Source, form: Form) -> Self {
        Self { node: 0, source, form, bias: None, activation: Activation::None, residual: false }
    }

    fn matmul(draft: &Draft<'_>, node: &DraftNode) -> Option<(Self, Vec<Option<poda_formats::ValueId>>)> {
        let (a, b) = (node.inputs[0]?, node.inputs[1]?);
        let (a_shape, b_shape) = (draft.shape(a)?, draft.shape(b)?);
        if draft.is_weight(b)
            && let [ref ones @ .., k, m] = *b_shape
            && ones.iter().all(|&d| d == 1)
            && (ones.is_empty() || a_shape.len() >= b_shape.len())
            && a_shape.last() == Some(&k)
        {
            let n = a_shape[..a_shape.len() - 1].iter().product();
            let source = Source { value: b, m, k, transposed: true, scale: None };
            let layout = Layout::TokenMajor;
            let form = Form::Matrix { batch: 1, n, x_layout: layout, y_layout: layout };
            return Some((Self::new(source, form), vec![Some(a)]));
        }
        if draft.is_weight(a)
            && let [m, k] = *a_shape
            && let [ref batch @ .., rows, n] = *b_shape
            && rows == k
        {
            let source = Source { value: a, m, k, transposed: false, scale: None };
            let layout = Layout::FeatureMajor;
            let form = Form::Matrix { batch: batch.iter().product(), n, x_layout: layout, y_layout: layout };
            return Some((Self::new(source, form), vec![Some(b)]));
        }
        None
    }

    fn gemm(
        draft: &Draft<'_>,
        node: &DraftNode,
        [alpha, beta]: [f32; 2],
        trans_a: bool,
        trans_b: bool,
    ) -> Option<(Self, Vec<Option<poda_formats::ValueId>>)> {
        let (a, b) = (node.inputs[0]?, node.inputs[1]?);
        let ([rows, cols], [b_rows, b_cols]) = (draft.shape(a)?, draft.shape(b)?) else { return None };
        let (n, k) = if trans_a { (*cols, *rows) } else { (*rows, *cols) };
        let (m, b_k) = if trans_b { (*b_rows, *b_cols) } else { (*b_cols, *b_rows) };
        if !draft.is_weight(b) || k != b_k {
            return None;
        }
        let mut source = Source { value: b, m, k, transposed: !trans_b, scale: None };
        if alpha != 1.0 {
            source.scale_rows(&vec![alpha; m]);
        }
        let x_layout = if trans_a { Layout::FeatureMajor } else { Layout::TokenMajor };
        let form = Form::Matrix { batch: 1, n, x_layout, y_layout: Layout::TokenMajor };
        let mut product = Self::new(source, form);
        let mut inputs = vec![Some(a)];
        if let Some(c) = node.input(2).filter(|_| beta != 0.0) {
            if let Some(bias) = draft.channel_constant(c, &[n, m], 1) {
                product.bias = Some(bias.iter().map(|v| beta * v).collect());
            } else if beta == 1.0 && draft.shape(c)? == [n, m] {
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
        attributes: &ConvAttributes,
    ) -> Option<(Self, Vec<Option<poda_formats::ValueId>>)> {
        let (x, w) = (node.inputs[0]?, node.inputs[1]?);
        let (x_shape, w_shape) = (draft.shape(x)?, draft.shape(w)?);
        if !draft.is_weight(w) {
            return None;
        }
        // More than two spatial axes stay with the general form.
        let convolution = Convolution::new(attributes, x_shape, w_shape).ok()?;
        let Convolution { batch: images, channels, filters: m, groups, windows } = convolution;
        let group_channels = channels / groups;
        let depthwise = group_channels == 1 && groups > 1;
        let geometry = windows.image(if depthwise { channels } else { group_channels })?;
        let k = group_channels * windows.taps();
        let source = Source { value: w, m, k, transposed: false, scale: None };
        let form = if depthwise {
            Form::Depthwise { images, geometry }
        } else if groups == 1
            && geometry.n() == 1
            && geometry.kernel() == geometry.input()
            && geometry.pads() == [0; 4]
        {
            // The window is the whole image: a product of vectors, one for each image.
            let layout = Layout::TokenMajor;
            Form::Matrix { batch: 1, n: images, x_layout: layout, y_layout: layout }
        } else {
            Form::Conv { images, groups, geometry }
        };
        let mut product = Self::new(source, form);
        if let Some(bias) = node.input(2) {
            product.bias = Some(draft.f32s(bias)?.to_vec()).filter(|bias| bias.len() == m);
            product.bias.as_ref()?;
        }
        Some((product, vec![Some(x)]))
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
        let packed = match &self.form {
            Form::Matrix { n, x_layout, y_layout, .. } => {
                let problem = Problem { n: *n, x_layout: *x_layout, y_layout: *y_layout, conv: None };
                weights.product(&self.source, weight, 1, &problem, threads)?
            }
            Form::Conv { groups, geometry, .. } => {
                let layout = Layout::FeatureMajor;
                let conv = Some(geometry.clone()).filter(|g| !g.is_pointwise());
                let problem = Problem { n: geometry.n(), x_layout: layout, y_layout: layout, conv };
                weights.product(&self.source, weight, *groups, &problem, threads)?
            }
            Form::Depthwise { geometry, .. } => weights.depthwise(&self.source, weight, geometry)?,
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
        let parts = match &self.form {
            Form::Matrix { batch, .. } => *batch,
            Form::Conv { images, groups, .. } => images * groups,
            Form::Depthwise { images, .. } => *images,
        };
        let [x_len, y_len] = [x.len() / parts, y.len() / parts];
        let part = |i: usize, y: &mut [f32], threads: &Threads| {
            let residual = residual.map(|r| &r[i * y_len..][..y_len]);
            self.part(i, &x[i * x_len..][..x_len], residual, y, threads);
        };
        // Several parts for each thread share no work and wait for each other once.
        if threads.count() > 1 && parts >= 2 * threads.count() {
            threads::for_each_chunk(y, y_len, 1, |i, y| part(i, y, &ALONE));
        } else {
            y.chunks_exact_mut(y_len).enumerate().for_each(|(i, y)| part(i, y, threads));
        }
    }

    /// One matrix of a batch, or one group of channels of one image.
    fn part(&self, i: usize, data: &[f32], residual: Option<&[f32]>, y: &mut [f32], threads: &Threads) {
        let epilogue = Epilogue { bias: self.bias.as_deref(), residual, activation: self.activation };
        match (&self.form, &*self.packed) {
            (Form::Matrix { n, x_layout, y_layout, .. }, Packed::Product(weights)) => {
                let x = X::Matrix { data, layout: *x_layout };
                weights[0].run(*n, x, y, *y_layout, &epilogue, threads);
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
            (form, packed) => unreachable!("{form:?} is not packed as {packed:?}"),
        }
    }

    /// Number of multiply-accumulates as if dense, and of those whose weight is not zero.
    pub(crate) fn explain(&self) -> Explanation {
        let mut name = String::new();
        let mut explanation = Explanation::default();
        let columns = match &self.form {
            Form::Matrix { batch, n, .. } => batch * n,
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
                    let [rows, cols] = weight.shape();
                    explanation.weight = Some(WeightProfile {
                        rows,
                        cols,
                        nnz: weight.nnz(),
                        groups: weights.len(),
                        bytes: weight.bytes(),
                        smallest_bytes: weight.smallest_bytes(),
                        candidates: weight.choice().candidates.clone(),
                    });
                }
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
