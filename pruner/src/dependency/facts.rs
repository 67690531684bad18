//! Concrete shapes and constants of every value, for two settings of the symbolic sizes.
//!
//! A size (or a constant) that is the same in both is taken as fixed; one that differs follows the inputs of a run.

use poda_formats::{Tensor, ValueId};
use poda_runtime::Info;

/// Two analyses of one graph, by value.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    first: &'a [Option<Info>],
    second: &'a [Option<Info>],
}

impl<'a> Facts<'a> {
    /// Facts from what is known of each value under two settings of the symbolic sizes. When the graph has none, both
    /// may be the same.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn new(first: &'a [Option<Info>], second: &'a [Option<Info>]) -> Self {
        assert_eq!(first.len(), second.len(), "facts of one graph");
        Self { first, second }
    }

    /// What is known of a value under the first setting.
    pub fn info(&self, id: ValueId) -> Option<&'a Info> {
        self.first.get(id.index())?.as_ref()
    }

    /// Shape under the first setting; `None` when it depends on data in either.
    pub fn shape(&self, id: ValueId) -> Option<&'a [usize]> {
        let first = self.info(id)?.shape.as_deref()?;
        let second = self.second[id.index()].as_ref()?.shape.as_deref()?;
        (first.len() == second.len()).then_some(first)
    }

    /// Whether a dimension has the same size under both settings.
    pub fn is_fixed(&self, id: ValueId, dim: usize) -> bool {
        let size = |infos: &[Option<Info>]| {
            infos[id.index()].as_ref().and_then(|i| i.shape.as_deref()).and_then(|s| s.get(dim).copied())
        };
        size(self.first).is_some() && size(self.first) == size(self.second)
    }

    /// The elements of a value, when both settings give the same.
    pub fn constant(&self, id: ValueId) -> Option<&'a Tensor> {
        let first = self.info(id)?.value.as_ref()?;
        let second = self.second[id.index()].as_ref()?.value.as_ref()?;
        let shared = first.bytes().as_ptr() == second.bytes().as_ptr() && first.shape() == second.shape();
        (shared || first == second).then_some(first)
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
