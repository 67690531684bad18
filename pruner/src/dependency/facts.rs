//! Concrete shapes and constants of every value, for several settings of the symbolic sizes.
//!
//! A size (or a constant) that is the same in all is taken as fixed; one that differs follows the inputs of a run.

use poda_formats::{Tensor, ValueId};
use poda_runtime::{Analysis, Info};

/// Analyses of one graph, by value.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    first: &'a Analysis,
    others: &'a [Analysis],
}

impl<'a> Facts<'a> {
    /// Facts from what is known of each value under settings of the symbolic sizes. When the graph has none, `others` is
    /// empty.
    ///
    /// # Panics
    /// When they are not of one graph.
    pub fn new(first: &'a Analysis, others: &'a [Analysis]) -> Self {
        assert!(others.iter().all(|other| other.infos.len() == first.infos.len()), "facts of one graph");
        Self { first, others }
    }

    /// What is known of a value under the first setting.
    pub fn info(&self, id: ValueId) -> Option<&'a Info> {
        self.first.info(id)
    }

    /// Shape under the first setting; `None` when it depends on data in some, or its rank on the setting.
    pub fn shape(&self, id: ValueId) -> Option<&'a [usize]> {
        let first = self.first.shape(id)?;
        self.others
            .iter()
            .all(|other| other.shape(id).is_some_and(|s| s.len() == first.len()))
            .then_some(first)
    }

    /// Whether a dimension has the same size under all settings.
    pub fn is_fixed(&self, id: ValueId, dim: usize) -> bool {
        let size = |analysis: &Analysis| analysis.shape(id).and_then(|shape| shape.get(dim).copied());
        let first = size(self.first);
        first.is_some() && self.others.iter().all(|other| size(other) == first)
    }

    /// The elements of a value, when all settings give the same.
    pub fn constant(&self, id: ValueId) -> Option<&'a Tensor> {
        let first = self.first.constant(id)?;
        let same = |other: &Tensor| {
            let shared = first.bytes().as_ptr() == other.bytes().as_ptr() && first.shape() == other.shape();
            shared || first == other
        };
        self.others.iter().all(|other| other.constant(id).is_some_and(same)).then_some(first)
    }

    /// The elements of a constant i64 or i32 value.
    pub fn integers(&self, id: ValueId) -> Option<Vec<i64>> {
        integers(self.constant(id)?)
    }

    /// The only element of a constant, as f64.
    pub fn scalar(&self, id: ValueId) -> Option<f64> {
        let tensor = self.constant(id)?;
        if tensor.len() != 1 {
            return None;
        }
        floats(tensor).and_then(|v| v.first().copied())
    }

    /// Whether a value is known to be zero everywhere.
    pub fn is_zero(&self, id: ValueId) -> bool {
        const LIMIT: usize = 1 << 18;
        self.constant(id).is_some_and(|t| t.bytes().len() <= LIMIT && t.bytes().iter().all(|&b| b == 0))
    }
}

/// The elements of an i64 or i32 tensor.
pub(crate) fn integers(tensor: &Tensor) -> Option<Vec<i64>> {
    if let Ok(values) = tensor.as_slice::<i64>() {
        return Some(values.to_vec());
    }
    tensor.as_slice::<i32>().ok().map(|values| values.iter().map(|&v| i64::from(v)).collect())
}

/// The elements of a small numeric tensor as f64.
pub(crate) fn floats(tensor: &Tensor) -> Option<Vec<f64>> {
    if let Some(values) = integers(tensor) {
        return Some(values.into_iter().map(|v| v as f64).collect());
    }
    if let Ok(values) = tensor.as_slice::<f32>() {
        return Some(values.iter().map(|&v| f64::from(v)).collect());
    }
    if let Ok(values) = tensor.as_slice::<half::f16>() {
        return Some(values.iter().map(|v| v.to_f64()).collect());
    }
    if let Ok(values) = tensor.as_slice::<half::bf16>() {
        return Some(values.iter().map(|v| v.to_f64()).collect());
    }
    tensor.as_slice::<f64>().ok().map(<[f64]>::to_vec)
}
