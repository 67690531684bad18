//! Products with a constant weight, packed, with their epilogue.

use std::sync::Arc;

use poda_formats::TensorView;

use super::call::{Call, floats, planned};
use super::product::Form;
use crate::kernels::{Activation, Epilogue, Layout, X};
use crate::ops::OpError;
use crate::output::Output;
use crate::plan::draft::Explanation;
use crate::plan::weights::Packed;
use crate::profile::WeightProfile;
use crate::threads::{self, Threads};
use crate::tune::PackedWeight;

/// Columns of a sparse product that are no longer worth merging with those of the next image: few vectors are not full.
const COLUMNS: usize = 1024;

/// A product whose weight is packed.
#[derive(Debug)]
pub(crate) struct PackedProduct {
    pub(super) form: Form,
    pub(super) bias: Option<Vec<f32>>,
    pub(super) activation: Activation,
    pub(super) packed: Arc<Packed>,
}

impl PackedProduct {
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
}

impl Call for PackedProduct {
    fn explain(&self) -> Explanation {
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
            // (Of those with parameters the name alone.)
            let function = format!("{:?}", self.activation).to_lowercase();
            name.push_str(" + ");
            name.push_str(function.split([' ', '(']).next().unwrap_or_default());
        }
        explanation.name = name;
        explanation
    }

    fn run(
        &self,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [Output<'_>],
        threads: &Threads,
    ) -> Result<(), OpError> {
        /// For parts that run beside each other.
        static ALONE: Threads = Threads::single();
        let x = floats(inputs, 0)?;
        let residual = inputs.get(1).copied().flatten().map(|view| view.as_slice()).transpose()?;
        let y = planned(outputs);
        if y.is_empty() {
            return Ok(());
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
            let residual = residual.map(|r: &[f32]| &r[first * y_len..][..y.len()]);
            self.part(first, &x[first % xs * x_len..][..count * x_len], residual, y, threads);
        };
        // Several parts for each thread share no work and wait for each other once.
        if threads.count() > 1 && parts >= 2 * threads.count() {
            threads::for_each_chunk(y, together * y_len, 1, |i, y| part(i, y, &ALONE));
        } else {
            y.chunks_mut(together * y_len).enumerate().for_each(|(i, y)| part(i, y, threads));
        }
        Ok(())
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
