//! Rounding a graph's weights: f32 elements stored in a narrower type.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::dense::DenseMatrix;
use super::layout::Layout;
use super::{MatrixWeight, RoundError, RoundingError, SparseError, ValueType, Values, Weight};
use crate::dtype::DataType;
use crate::graph::{Graph, ValueId};
use crate::op::MatrixForm;
use crate::tensor::TensorError;

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
    /// This f32 weight with its values stored as `to`. What is sparse stays so: by its pattern, or in whichever form takes the
    /// fewest bytes.
    fn round(&self, form: MatrixForm, to: ValueType) -> Result<Option<Self>, Failure> {
        let [rows, cols] = form.size();
        if self.dtype() != DataType::F32 || self.values_type() == to.dtype() {
            return Ok(None);
        }
        if to == ValueType::F32 {
            return Ok(Some(match self {
                Self::Matrix(weight) if self.is_sparse() => {
                    let wide = weight.matrix()?.widened()?;
                    MatrixWeight::new(weight.shape().to_vec(), weight.form(), wide)
                        .expect("the same shape")
                        .into()
                }
                Self::Tensor(_) | Self::Matrix(_) => self.to_dense()?.into(),
            }));
        }
        let dense = self.to_dense()?;
        let dense = form.rows_of(dense.as_slice()?);
        let values = Values::round(&dense, [rows, cols], to).map_err(Failure::Round)?;
        let dense = DenseMatrix::new(rows, cols, values).expect("as many values and scales as rounded");
        let weight = |matrix| MatrixWeight::new(self.shape().to_vec(), form, matrix).expect("of this shape");
        let smallest = || weight(dense.clone().into()).smallest_of(&dense, &[]);
        let rounded = match self {
            Self::Matrix(stored) if stored.form() == form => match stored.layout() {
                Layout::Dense(_) => weight(dense.into()),
                // Rounding makes zeros of small elements.
                Layout::Csr(_) | Layout::Bitmap(_) => smallest(),
                Layout::Block(_) | Layout::NofM(_) => weight(stored.matrix()?.refilled(dense.values())),
            },
            Self::Matrix(_) if self.is_sparse() => smallest(),
            Self::Tensor(_) | Self::Matrix(_) => weight(dense.into()),
        };
        Ok(Some(rounded.into()))
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
                Weight::Tensor(tensor) => tensor.bytes().as_ptr(),
                Weight::Matrix(matrix) => matrix.values().tensor().bytes().as_ptr(),
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
    use crate::tensor::Tensor;

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
                let Weight::Matrix(narrow) = weight(&rounded, "w") else { panic!() };
                let narrow = narrow.dense().unwrap();
                assert_eq!(DenseMatrix::from_csr(&narrow.to_csr()).unwrap(), narrow);
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
    fn patterns_stay_when_values_are_rounded() {
        // Rows of two by two blocks, and two of four.
        let blocks = |i: usize| (i / 48 + i % 24 / 2).is_multiple_of(5);
        let groups = |i: usize| i / 24 % 4 < 2;
        for (layout, kept) in [("block:2x2", &blocks as &dyn Fn(usize) -> bool), ("nm:2:4", &groups)] {
            let values: Vec<f32> =
                (0..960).map(|i| if kept(i) { (i % 37) as f32 / 7.0 - 2.6 } else { 0.0 }).collect();
            let mut g = graph(1);
            g.value_mut(g.find("w").unwrap()).weight = Some(Tensor::from_slice(&[40, 24], &values).into());
            g.store_sparse();
            assert_eq!(weight(&g, "w").layout(), layout);
            for to in [ValueType::Bf16, ValueType::Int8] {
                let mut dense = graph(1);
                dense.value_mut(dense.find("w").unwrap()).weight =
                    Some(Tensor::from_slice(&[40, 24], &values).into());
                dense.round_weights(to).unwrap();
                let mut rounded = g.clone();
                rounded.round_weights(to).unwrap();
                assert_eq!(weight(&rounded, "w").layout(), layout, "{to}");
                assert_eq!(weight(&rounded, "w").values_type(), to.dtype());
                assert_eq!(wide(&rounded, "w"), wide(&dense, "w"), "{to}");
                dense.store_sparse();
                assert_eq!(weight(&dense, "w").layout(), layout, "{to}");
                assert_eq!(wide(&rounded, "w"), wide(&dense, "w"), "{to}");
                rounded.round_weights(ValueType::F32).unwrap();
                assert_eq!(weight(&rounded, "w").layout(), layout, "{to}");
                assert_eq!(wide(&rounded, "w"), wide(&dense, "w"), "{to}");
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
        let Some(Weight::Matrix(narrow)) = g.weight(w) else { panic!("{:?}", g.weight(w)) };
        assert_eq!(narrow.values().tensor().as_slice::<i8>().unwrap(), [127, 64, 127, -64]);
        assert_eq!(narrow.values().scales().unwrap(), [1.0 / 127.0, 100.0 / 127.0]);
        assert!((wide(&g, "w")[1] - 100.0).abs() < 1e-4);
        let part = narrow.dense().unwrap().row_range(1..2).scaled(&[2.0]).unwrap();
        let part = part.to_tensor().unwrap();
        assert_eq!(
            (part.shape(), (part.as_slice::<f32>().unwrap()[0] - 200.0).abs() < 1e-3),
            (&[1, 2][..], true)
        );
    }
}
