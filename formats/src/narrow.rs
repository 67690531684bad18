//! Matrices whose f32 elements are stored in a narrower type, and the rounding of a graph's weights.
//!
//! The type of the stored values and their layout are independent: [`Values`] says how an element is stored, and both
//! dense matrices (here) and sparse ones ([`CsrMatrix`]) hold them.

use std::collections::HashMap;
use std::ops::Range;

use half::{bf16, f16};
use serde::{Deserialize, Serialize};

use crate::dtype::DataType;
use crate::graph::{Graph, ValueId};
use crate::op::MatrixForm;
use crate::sparse::{CsrMatrix, SparseError, UncheckedUnstructured, bitmap, index_type};
use crate::storage::{AlignedBytes, Storage};
use crate::tensor::{Tensor, TensorError, checked_bytes};
use crate::values::{RoundError, RoundingError, ValueType, Values, ValuesError};
use crate::weight::{MatrixShapeError, UnstructuredWeight, Weight};

/// A dense row-major matrix `[rows, cols]` of rounded values. Valid by construction.
#[derive(Debug, Clone, PartialEq)]
pub struct NarrowMatrix {
    rows: usize,
    cols: usize,
    values: Values,
}

impl NarrowMatrix {
    /// A matrix of `rows · cols` rounded values.
    ///
    /// # Errors
    /// When there are more or fewer, or scales for another number of rows, or when the values are not rounded ones.
    pub fn new(rows: usize, cols: usize, values: Values) -> Result<Self, ValuesError> {
        let expected = rows.checked_mul(cols);
        if expected != Some(values.len()) {
            let (shape, dtype) = (vec![rows, cols], values.stored());
            let found = values.tensor().bytes().len();
            let expected = expected.unwrap_or(usize::MAX).saturating_mul(dtype.size());
            return Err(TensorError::Length { shape, dtype, expected, found }.into());
        }
        if values.rounding_error().is_none() {
            return Err(ValuesError::Type { found: values.stored() });
        }
        match values.scales() {
            Some(scales) if scales.len() != rows => {
                Err(ValuesError::ScaleCount { rows, found: scales.len() })
            }
            _ => Ok(Self { rows, cols, values: values.reshaped(vec![rows, cols])? }),
        }
    }

    /// A sparse matrix of rounded values, with its zeros.
    ///
    /// # Errors
    /// When its values are not rounded ones, or memory does not hold it.
    pub fn from_csr(csr: &CsrMatrix) -> Result<Self, ValuesError> {
        let ([rows, cols], dtype) = ([csr.rows(), csr.cols()], csr.values().stored());
        let too_large = || TensorError::TooLarge { shape: vec![rows, cols], dtype };
        let (size, bytes) = (dtype.size(), checked_bytes(dtype, &[rows, cols]).ok_or_else(too_large)?);
        let mut dense = AlignedBytes::try_zeroed(bytes).ok_or(TensorError::Memory { bytes })?;
        let mut stored = csr.values().tensor().bytes().chunks_exact(size);
        for row in 0..rows {
            for (col, value) in csr.row_columns(row).zip(&mut stored) {
                dense[(row * cols + col as usize) * size..][..size].copy_from_slice(value);
            }
        }
        let tensor = Tensor::new(dtype, vec![rows, cols], Storage::owned(dense))?;
        Self::new(rows, cols, csr.values().with_tensor(tensor))
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The elements, `[rows, cols]`.
    pub fn values(&self) -> &Values {
        &self.values
    }

    /// Where each row ends in the values.
    fn row_ends(&self) -> impl Iterator<Item = usize> + use<> {
        let cols = self.cols;
        (1..=self.rows).map(move |row| row * cols)
    }

    /// Some of the rows; shares the elements.
    ///
    /// # Panics
    /// When there are no such rows.
    #[must_use]
    pub fn row_range(&self, rows: Range<usize>) -> Self {
        let values = self.values.slice(rows.start * self.cols..rows.end * self.cols, rows.clone());
        Self::new(rows.len(), self.cols, values).expect("as many values and scales as these rows have")
    }

    /// The matrix with row `i` multiplied by `factors[i]`; shares the elements.
    ///
    /// # Errors
    /// Never; the values are rounded ones.
    pub fn scaled(&self, factors: &[f32]) -> Result<Self, TensorError> {
        Ok(Self { values: self.values.scaled(factors, self.row_ends())?, ..*self })
    }

    /// f32 `[rows, cols]`.
    ///
    /// # Errors
    /// When memory does not hold it.
    pub fn to_dense(&self) -> Result<Tensor, TensorError> {
        self.values.widened(self.row_ends())?.reshaped(vec![self.rows, self.cols])
    }

    /// Without the elements that are zero; `None` where 32 bits do not count them.
    pub fn to_csr(&self) -> Option<CsrMatrix> {
        let Self { rows, cols, values } = self;
        u32::try_from(*rows.max(cols).max(&values.len())).ok()?;
        let (tensor, wrap) = (values.tensor(), |tensor| values.with_tensor(tensor));
        Some(match tensor.dtype() {
            DataType::BF16 => CsrMatrix::gather(*rows, *cols, tensor.as_slice::<bf16>().ok()?, wrap),
            DataType::F16 => CsrMatrix::gather(*rows, *cols, tensor.as_slice::<f16>().ok()?, wrap),
            _ => CsrMatrix::gather(*rows, *cols, tensor.as_slice::<i8>().ok()?, wrap),
        })
    }

    /// The same with what is not zero, as CSR or with a bitmap, if that takes fewer bytes.
    fn sparse_if_smaller(&self) -> Option<UncheckedUnstructured> {
        let (size, nonzeros) = (self.values.stored().size(), self.values.nonzeros());
        let csr = (self.rows + 1) * size_of::<u32>() + nonzeros * index_type(self.cols).size();
        let places = csr.min(bitmap::bytes([self.rows, self.cols]));
        let smaller = places + nonzeros * size < self.values.len() * size;
        if smaller { self.to_csr().map(UncheckedUnstructured::smallest) } else { None }
    }
}

/// A tensor of rank 2 or more, f32 to the graph, stored as a [`NarrowMatrix`].
#[derive(Debug, Clone, PartialEq)]
pub struct NarrowWeight {
    shape: Vec<usize>,
    form: MatrixForm,
    matrix: NarrowMatrix,
}

impl NarrowWeight {
    /// A tensor of `shape` whose elements are those of a matrix.
    ///
    /// # Errors
    /// When the sizes do not fit.
    pub fn new(shape: Vec<usize>, form: MatrixForm, matrix: NarrowMatrix) -> Result<Self, MatrixShapeError> {
        MatrixShapeError::check([matrix.rows, matrix.cols], form, &shape)?;
        Ok(Self { shape, form, matrix })
    }

    /// Shape of the tensor.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// How the tensor lies as the matrix.
    pub fn form(&self) -> MatrixForm {
        self.form
    }

    /// The matrix.
    pub fn matrix(&self) -> &NarrowMatrix {
        &self.matrix
    }

    /// The f32 tensor.
    ///
    /// # Errors
    /// When memory does not hold it.
    pub fn to_dense(&self) -> Result<Tensor, TensorError> {
        let wide = self.matrix.to_dense()?;
        if !self.form.transposed {
            return wide.reshaped(self.shape.clone());
        }
        let bytes = wide.bytes().len();
        let mut out = AlignedBytes::try_zeroed(bytes).ok_or(TensorError::Memory { bytes })?;
        self.form.tensor_of(wide.as_slice::<f32>()?, bytemuck::cast_slice_mut(&mut out));
        Tensor::new(DataType::F32, self.shape.clone(), Storage::owned(out))
    }
}

/// Why the weights of a graph cannot be stored as asked.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum RoundWeightError {
    #[error("weight {weight:?}: {error}")]
    Round { weight: String, error: RoundError },
    #[error("weight {weight:?}: {error}")]
    Read { weight: String, error: SparseError },
}

enum Failure {
    Round(RoundError),
    Read(SparseError),
}

impl From<SparseError> for Failure {
    fn from(error: SparseError) -> Self {
        Self::Read(error)
    }
}

impl From<TensorError> for Failure {
    fn from(error: TensorError) -> Self {
        Self::Read(error.into())
    }
}

impl Weight {
    /// The smallest form of a narrow weight, sparse if that takes fewer bytes.
    pub(crate) fn smallest_narrow(narrow: &NarrowWeight) -> Self {
        let csr = narrow.matrix.sparse_if_smaller();
        let csr = csr.and_then(|csr| UnstructuredWeight::new(narrow.shape.clone(), narrow.form, csr).ok());
        csr.map_or_else(|| Self::Narrow(narrow.clone()), Self::from)
    }

    /// This f32 weight with its values stored as `to`; a sparse one stays sparse where that takes fewer bytes.
    fn round(&self, form: MatrixForm, to: ValueType) -> Result<Option<Self>, Failure> {
        let [rows, cols] = form.size();
        if self.dtype() != DataType::F32 || self.values_type() == to.dtype() {
            return Ok(None);
        }
        if to == ValueType::F32 {
            return Ok(Some(match self {
                Self::Unstructured(csr) => {
                    let wide = csr.matrix()?.widened()?;
                    let wide = UncheckedUnstructured::smallest(wide);
                    UnstructuredWeight::new(csr.shape().to_vec(), csr.form(), wide)
                        .expect("the same shape")
                        .into()
                }
                Self::Dense(_) | Self::Narrow(_) | Self::Structured(_) => self.to_dense()?.into(),
            }));
        }
        let dense = self.to_dense()?;
        let dense = form.rows_of(dense.as_slice()?);
        let values = Values::round(&dense, [rows, cols], to).map_err(Failure::Round)?;
        let matrix = NarrowMatrix::new(rows, cols, values).expect("as many values and scales as rounded");
        let narrow = NarrowWeight { shape: self.shape().to_vec(), form, matrix };
        Ok(Some(match self {
            Self::Unstructured(_) | Self::Structured(_) => Self::smallest_narrow(&narrow),
            Self::Dense(_) | Self::Narrow(_) => Self::Narrow(narrow),
        }))
    }
}

/// A weight that was rounded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct RoundedWeight {
    pub weight: String,
    /// What it is stored as.
    pub values: ValueType,
    /// How far it is from the f32 that it was.
    pub error: RoundingError,
}

impl Graph {
    /// The weights that are stored narrower than the f32 that they stand for, bodies of control flow included.
    pub fn rounded_weights(&self) -> Vec<RoundedWeight> {
        let values = self.with_bodies().into_iter().flat_map(|graph| &graph.values);
        let rounded = values.filter_map(|value| {
            let weight = value.weight.as_ref()?;
            let (error, values) = (weight.rounding_error()?, ValueType::of(weight.values_type())?);
            Some(RoundedWeight { weight: value.name.clone(), values, error })
        });
        rounded.collect()
    }

    /// Stores the f32 weights of products and convolutions as `to`, bodies of control flow included. Returns how many
    /// changed. [`ValueType::F32`] widens those that were rounded before.
    ///
    /// A row of each matrix is one output, as for [`Graph::store_sparse`], which finds the zeros of what this leaves
    /// dense. A weight that has any other use as well keeps its values, and so do biases, norms and tables.
    ///
    /// # Errors
    /// When a weight holds a value that `to` cannot hold; the graph may then be rounded in part.
    pub fn round_weights(&mut self, to: ValueType) -> Result<usize, RoundWeightError> {
        let mut changed = 0;
        self.visit_mut(&mut |graph| {
            changed += graph.round_own_weights(to)?;
            Ok::<(), RoundWeightError>(())
        })?;
        Ok(changed)
    }

    fn round_own_weights(&mut self, to: ValueType) -> Result<usize, RoundWeightError> {
        let uses = self.matrix_uses();
        // Weights that share their bytes go on sharing.
        let mut seen: HashMap<(*const u8, Vec<usize>, MatrixForm), Option<Weight>> = HashMap::new();
        let mut changed = 0;
        for (index, value) in self.values.iter_mut().enumerate() {
            let form = uses.get(&ValueId(index as u32));
            let (Some(weight), Some(form)) = (&value.weight, form) else { continue };
            let place = match weight {
                Weight::Dense(tensor) => tensor.bytes().as_ptr(),
                Weight::Unstructured(csr) => csr.arrays().values().tensor().bytes().as_ptr(),
                Weight::Narrow(narrow) => narrow.matrix.values.tensor().bytes().as_ptr(),
                Weight::Structured(weight) => weight.arrays()[0].1.bytes().as_ptr(),
            };
            let key = (place, weight.shape().to_vec(), *form);
            let rounded = match seen.get(&key) {
                Some(rounded) => rounded.clone(),
                None => weight.round(*form, to).map_err(|failure| {
                    let weight = value.name.clone();
                    match failure {
                        Failure::Round(error) => RoundWeightError::Round { weight, error },
                        Failure::Read(error) => RoundWeightError::Read { weight, error },
                    }
                })?,
            };
            seen.insert(key, rounded.clone());
            if let Some(rounded) = rounded {
                value.weight = Some(rounded);
                changed += 1;
            }
        }
        Ok(changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Dim;
    use crate::op::Op;

    /// `x · w`, of which one element in `keep_every` is not zero, beside a table of the same values that is looked up.
    fn graph(keep_every: usize) -> Graph {
        let values = |i: usize| if i.is_multiple_of(keep_every) { (i % 37) as f32 / 7.0 - 2.0 } else { 0.0 };
        let values: Vec<f32> = (0..40 * 24).map(values).collect();
        let mut g = Graph::default();
        let x = g.add_input("x", DataType::F32, vec![Dim::Fixed(2), Dim::Fixed(40)]);
        let ids = g.add_input("ids", DataType::I64, vec![Dim::Fixed(2)]);
        let w = g.add_weight("w", Tensor::from_slice(&[40, 24], &values));
        let twin = g.add_weight("twin", g.weight(w).unwrap().clone());
        let table = g.add_weight("table", Tensor::from_slice(&[40, 24], &values));
        let y = g.add_node(Op::MatMul, &[x, w], "y");
        let z = g.add_node(Op::MatMul, &[x, twin], "z");
        let rows = g.add_node(Op::Gather { axis: 0 }, &[table, ids], "rows");
        g.outputs.extend([y, z, rows]);
        g
    }

    fn weight<'g>(graph: &'g Graph, name: &str) -> &'g Weight {
        graph.weight(graph.find(name).unwrap()).unwrap()
    }

    fn wide(graph: &Graph, name: &str) -> Vec<f32> {
        weight(graph, name).to_dense().unwrap().as_slice::<f32>().unwrap().to_vec()
    }

    #[test]
    fn products_are_rounded_and_tables_are_not() {
        for to in &ValueType::ALL[1..] {
            for (keep_every, layout) in [(1, "dense"), (8, "bitmap")] {
                let exact = graph(keep_every);
                let mut rounded = exact.clone();
                assert_eq!(rounded.round_weights(*to), Ok(2));
                let dense = wide(&rounded, "w");
                let Some(Weight::Narrow(narrow)) = rounded.weight(rounded.find("w").unwrap()) else {
                    panic!()
                };
                let csr = narrow.matrix().to_csr().unwrap();
                assert_eq!(&NarrowMatrix::from_csr(&csr).unwrap(), narrow.matrix());
                rounded.store_sparse();
                assert_eq!(wide(&rounded, "w"), dense, "{to}");
                assert_eq!(
                    (&*weight(&rounded, "w").layout(), weight(&rounded, "w").shape()),
                    (layout, &[40, 24][..])
                );
                assert_eq!(weight(&rounded, "table").values_type(), DataType::F32);
                assert_eq!(weight(&rounded, "w").dtype(), DataType::F32);
                assert_eq!(weight(&rounded, "w").values_type(), to.dtype());
                assert!(weight(&rounded, "w").bytes() < weight(&exact, "w").bytes() * 6 / 10);
                let error = weight(&rounded, "w").rounding_error().unwrap();
                let distance = dense.iter().zip(wide(&exact, "w")).map(|(a, b)| (a - b).abs());
                let max = distance.fold(0.0, f32::max);
                assert!((error.max - max).abs() < 1e-6 && max > 0.0, "{to}: {error:?} {max}");
                assert!(error.relative_rms > 1e-5 && error.relative_rms < 0.02, "{to}: {error:?}");

                // Widening gives the rounded values, and rounding them again changes nothing.
                let mut back = rounded.clone();
                assert_eq!(back.round_weights(ValueType::F32), Ok(2));
                assert_eq!((weight(&back, "w").rounding_error(), wide(&back, "w")), (None, dense.clone()));
                assert_eq!(back.round_weights(*to), Ok(2));
                assert_eq!(rounded.round_weights(*to), Ok(0));
                if *to != ValueType::Int8 {
                    assert_eq!(wide(&back, "w"), dense);
                }
            }
        }
    }

    #[test]
    fn a_weight_that_does_not_fit_is_named() {
        let mut g = graph(1);
        g.value_mut(g.find("w").unwrap()).weight =
            Some(Tensor::from_slice(&[40, 24], &[1e6_f32; 960]).into());
        let error = g.clone().round_weights(ValueType::F16).unwrap_err().to_string();
        assert_eq!(error, "weight \"w\": element 1000000 in row 0 is beyond the range of f16; int8 holds it");
        assert_eq!(g.round_weights(ValueType::Bf16), Ok(2));
    }

    #[test]
    fn rows_are_outputs_also_of_transposed_weights() {
        let dense = [1.0_f32, 100.0, 0.5, -50.0];
        let mut g = Graph::default();
        let x = g.add_input("x", DataType::F32, vec![Dim::Fixed(1), Dim::Fixed(2)]);
        let w = g.add_weight("w", Tensor::from_slice(&[2, 2], &dense));
        let y = g.add_node(Op::MatMul, &[x, w], "y");
        g.outputs.push(y);
        g.round_weights(ValueType::Int8).unwrap();
        let Some(Weight::Narrow(narrow)) = g.weight(w) else { panic!("{:?}", g.weight(w)) };
        assert_eq!(narrow.matrix().values().tensor().as_slice::<i8>().unwrap(), [127, 64, 127, -64]);
        assert_eq!(narrow.matrix().values().scales().unwrap(), [1.0 / 127.0, 100.0 / 127.0]);
        assert!((wide(&g, "w")[1] - 100.0).abs() < 1e-4);
        let part = narrow.matrix().row_range(1..2).scaled(&[2.0]).unwrap();
        let part = part.to_dense().unwrap();
        assert_eq!(
            (part.shape(), (part.as_slice::<f32>().unwrap()[0] - 200.0).abs() < 1e-3),
            (&[1, 2][..], true)
        );
    }

    #[test]
    fn sizes_must_fit() {
        let values = Values::round(&[1.0; 6], [2, 3], ValueType::Int8).unwrap();
        assert!(NarrowMatrix::new(2, 3, values.clone()).is_ok());
        assert!(matches!(NarrowMatrix::new(3, 3, values.clone()), Err(ValuesError::Tensor(_))));
        assert!(matches!(
            NarrowMatrix::new(3, 2, values),
            Err(ValuesError::ScaleCount { rows: 3, found: 2 })
        ));
        let exact = Values::from(Tensor::from_slice(&[1], &[1.0_f32]));
        assert!(matches!(NarrowMatrix::new(1, 1, exact), Err(ValuesError::Type { .. })));
        let matrix =
            NarrowMatrix::new(1, 2, Values::round(&[1.0; 2], [1, 2], ValueType::Bf16).unwrap()).unwrap();
        assert!(
            NarrowWeight::new(vec![2, 2], MatrixForm::of(&[1, 2], false).unwrap(), matrix.clone()).is_err()
        );
        assert!(NarrowWeight::new(vec![2, 1], MatrixForm::of(&[2, 1], true).unwrap(), matrix).is_ok());
    }
}
