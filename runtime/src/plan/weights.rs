//! Weights of products: from how the graph holds them to how kernels want them, packed once for all plans.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use poda_formats::{CsrMatrix, NarrowMatrix, Tensor, ValueId, Weight};

use crate::kernels::{Depthwise, KernelError, Layout, PackedWeight, Problem, WeightMatrix};
use crate::ops::OpError;
use crate::packing::ConvGeometry;
use crate::threads::Threads;
use crate::tune::Tuner;

/// A dense weight with at least this fraction of zeros is also offered to the sparse kernels; below it none of them has
/// been measured to win.
const SPARSE_FROM: f64 = 0.3;

/// The matrix `[m, k]` of a product: a constant of the graph, perhaps with scaled rows.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) value: ValueId,
    pub(crate) m: usize,
    pub(crate) k: usize,
    /// Whether the constant is stored as `[k, m]`.
    pub(crate) transposed: bool,
    /// Factor of each row, `[m]`: a folded batch-norm.
    pub(crate) scale: Option<Vec<f32>>,
}

impl Source {
    /// Multiplies row `i` by `factors[i]`.
    pub(crate) fn scale_rows(&mut self, factors: &[f32]) {
        match &mut self.scale {
            Some(scale) => scale.iter_mut().zip(factors).for_each(|(s, f)| *s *= f),
            None => self.scale = Some(factors.to_vec()),
        }
    }

    /// The matrix in `groups` parts of `m / groups` rows. Zeros are found here.
    fn matrices(&self, weight: &Weight, groups: usize) -> Result<Vec<WeightMatrix>, OpError> {
        if let Weight::Unstructured(csr) = weight
            && csr.is_transposed() == self.transposed
        {
            let matrix = csr.matrix().map_err(|e| OpError::Invalid(e.to_string()))?;
            let (matrix, rows) = (self.scaled(&matrix)?, self.m / groups.max(1));
            let part = |g: usize| match groups {
                1 => matrix.clone(),
                _ => matrix.row_range(g * rows..(g + 1) * rows),
            };
            return Ok((0..groups).map(|g| WeightMatrix::Csr(part(g))).collect());
        }
        if let Weight::Narrow(narrow) = weight
            && narrow.is_transposed() == self.transposed
        {
            return self.narrow_matrices(narrow.matrix(), groups);
        }
        if groups == 1
            && let Some(matrix) = self.structured(weight)?
        {
            return Ok(vec![matrix]);
        }
        let tensor = weight.to_dense().map_err(|e| OpError::Invalid(e.to_string()))?;
        let values = tensor.as_slice::<f32>()?;
        let zeros = values.iter().filter(|&&w| w == 0.0).count();
        let sparse = zeros as f64 >= SPARSE_FROM * values.len() as f64 && zeros > 0;
        let rows = self.m / groups.max(1);
        // A model pruned elsewhere may keep to a pattern, too.
        if sparse
            && groups == 1
            && let Some(matrix) = self.structured(&Weight::smallest(&tensor, self.transposed))?
        {
            return Ok(vec![matrix]);
        }
        if self.transposed && sparse {
            let matrix = CsrMatrix::from_dense_transposed(self.m, self.k, values);
            return Ok(vec![WeightMatrix::Csr(self.scaled(&matrix)?)]);
        }
        let tensor = match (&self.scale, self.transposed) {
            (None, false) => tensor.clone(),
            _ => self.transposed_and_scaled(values),
        };
        let values = tensor.as_slice::<f32>()?;
        if sparse {
            let part =
                |g: usize| CsrMatrix::from_dense(rows, self.k, &values[g * rows * self.k..][..rows * self.k]);
            return Ok((0..groups).map(|g| WeightMatrix::Csr(part(g))).collect());
        }
        let bytes = rows * self.k * size_of::<f32>();
        let part = |g: usize| {
            let storage = tensor.storage().slice(g * bytes..(g + 1) * bytes).expect("within the tensor");
            Tensor::new(tensor.dtype(), vec![rows, self.k], storage).map(WeightMatrix::Dense)
        };
        Ok((0..groups).map(part).collect::<Result<_, _>>()?)
    }

    /// The matrix of a weight that is stored by a pattern as this product uses it.
    fn structured(&self, weight: &Weight) -> Result<Option<WeightMatrix>, OpError> {
        let Weight::Structured(weight) = weight else { return Ok(None) };
        if weight.is_transposed() != self.transposed {
            return Ok(None);
        }
        let matrix = weight.matrix().map_err(|e| OpError::Invalid(e.to_string()))?;
        Ok(Some(match &self.scale {
            Some(scale) => matrix.scaled(scale)?.into(),
            None => matrix.clone().into(),
        }))
    }

    /// As [`Source::matrices`], of a matrix that lies as it is wanted: values stay narrow.
    fn narrow_matrices(&self, matrix: &NarrowMatrix, groups: usize) -> Result<Vec<WeightMatrix>, OpError> {
        let scaled;
        let matrix = match &self.scale {
            Some(scale) => {
                scaled = matrix.scaled(scale)?;
                &scaled
            }
            None => matrix,
        };
        let zeros = matrix.values().len() - matrix.values().nonzeros();
        let sparse = zeros as f64 >= SPARSE_FROM * matrix.values().len() as f64 && zeros > 0;
        let rows = self.m / groups.max(1);
        let part = |g: usize| {
            let part = matrix.row_range(g * rows..(g + 1) * rows);
            let csr = if sparse { part.to_csr() } else { None };
            csr.map_or(WeightMatrix::Narrow(part), WeightMatrix::Csr)
        };
        Ok((0..groups).map(part).collect())
    }

    fn transposed_and_scaled(&self, values: &[f32]) -> Tensor {
        let (m, k) = (self.m, self.k);
        let mut out = vec![0.0; m * k];
        if self.transposed {
            // Tiles of 16 so that both sides stay in cache.
            for row in (0..m).step_by(16) {
                for col in 0..k {
                    for r in row..(row + 16).min(m) {
                        out[r * k + col] = values[col * m + r];
                    }
                }
            }
        } else {
            out.copy_from_slice(values);
        }
        if let (Some(scale), true) = (&self.scale, k > 0) {
            for (row, factor) in out.chunks_exact_mut(k).zip(scale) {
                for w in row {
                    *w *= factor;
                }
            }
        }
        Tensor::from_slice(&[m, k], &out)
    }

    fn scaled(&self, matrix: &CsrMatrix) -> Result<CsrMatrix, OpError> {
        match &self.scale {
            Some(scale) => Ok(matrix.scaled(scale)?),
            None => Ok(matrix.clone()),
        }
    }
}

/// A weight ready for its kernel.
#[derive(Debug)]
pub(crate) enum Packed {
    /// One matrix for each group.
    Product(Vec<PackedWeight>),
    /// The weights of a depthwise convolution.
    Depthwise(Depthwise),
}

/// What tells packed weights apart. The number of columns counts by class: kernels packed for one take the others of
/// its class about as well.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    value: ValueId,
    transposed: bool,
    scale: Option<Vec<u32>>,
    groups: usize,
    n_class: u8,
    layouts: (Layout, Layout),
    window: Option<[[usize; 2]; 3]>,
    depthwise: bool,
}

fn n_class(n: usize) -> u8 {
    match n {
        0..=1 => 0,
        2..=8 => 1,
        9..=32 => 2,
        _ => 3,
    }
}

fn window(conv: &ConvGeometry) -> [[usize; 2]; 3] {
    [conv.kernel(), conv.stride(), conv.dilation()]
}

/// All packed weights of an executable.
#[derive(Debug)]
pub(crate) struct Weights {
    tuner: Tuner,
    /// By [`ValueId`]: constants that do not depend on the shapes of the inputs. Only these are packed once for all plans.
    stable: Vec<bool>,
    /// Kept alive by the plans that use them.
    packed: Mutex<HashMap<Key, Weak<Packed>>>,
}

impl Weights {
    /// No weights yet.
    pub(crate) fn new(tuner: Tuner, stable: Vec<bool>) -> Self {
        Self { tuner, stable, packed: Mutex::default() }
    }

    /// What chooses the kernels.
    pub(crate) fn tuner(&self) -> &Tuner {
        &self.tuner
    }

    /// The weight packed for a problem, split in `groups`.
    ///
    /// # Errors
    /// When the weight cannot be read.
    pub(crate) fn product(
        &self,
        source: &Source,
        weight: &Weight,
        groups: usize,
        problem: &Problem,
        threads: &Threads,
    ) -> Result<Arc<Packed>, OpError> {
        let key = Key {
            value: source.value,
            transposed: source.transposed,
            scale: source.scale.as_ref().map(|s| s.iter().map(|f| f.to_bits()).collect()),
            groups,
            n_class: n_class(problem.n),
            layouts: (problem.x_layout, problem.y_layout),
            window: problem.conv.as_ref().map(window),
            depthwise: false,
        };
        self.pack(key, weight, || {
            let invalid = |e: KernelError| OpError::Invalid(e.to_string());
            let matrices = source.matrices(weight, groups)?;
            let packed = matrices.iter().map(|m| PackedWeight::prepare(m, problem, &self.tuner, threads));
            Ok(Packed::Product(packed.collect::<Result<_, _>>().map_err(invalid)?))
        })
    }

    /// The weight of a depthwise convolution, packed.
    ///
    /// # Errors
    /// As [`Weights::product`].
    pub(crate) fn depthwise(
        &self,
        source: &Source,
        weight: &Weight,
        geometry: &ConvGeometry,
    ) -> Result<Arc<Packed>, OpError> {
        let key = Key {
            value: source.value,
            transposed: source.transposed,
            scale: source.scale.as_ref().map(|s| s.iter().map(|f| f.to_bits()).collect()),
            groups: geometry.channels(),
            n_class: 0,
            layouts: (Layout::FeatureMajor, Layout::FeatureMajor),
            window: Some(window(geometry)),
            depthwise: true,
        };
        self.pack(key, weight, || {
            let tensor = weight.to_dense().map_err(|e| OpError::Invalid(e.to_string()))?;
            let tensor = match &source.scale {
                Some(_) => source.transposed_and_scaled(tensor.as_slice()?),
                None => tensor,
            };
            Ok(Packed::Depthwise(Depthwise::prepare(tensor.as_slice()?, geometry)))
        })
    }

    fn pack(
        &self,
        key: Key,
        weight: &Weight,
        make: impl FnOnce() -> Result<Packed, OpError>,
    ) -> Result<Arc<Packed>, OpError> {
        // Held while packing, so that two plans made at once do not pack the same weight twice.
        let mut all = self.packed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(packed) = all.get(&key).and_then(Weak::upgrade) {
            return Ok(packed);
        }
        let packed = Arc::new(super::guard(make)?);
        release(weight);
        if self.stable.get(key.value.index()).copied().unwrap_or(false) {
            all.insert(key, Arc::downgrade(&packed));
        }
        Ok(packed)
    }
}

/// Lets the pages of a mapped weight go: from here on its packed form is what is read.
fn release(weight: &Weight) {
    weight.tensors().into_iter().for_each(|tensor| tensor.storage().release());
}
