//! Weights that are numbers: a NaN or an infinity has no importance, and is named before anything is cut.

use poda_formats::{Graph, Tensor, Value, ValueId};
use rayon::prelude::*;

use crate::criterion::float_values;

/// Why weights cannot be ranked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum ValuesError {
    #[error(
        "weight {weight:?} has {nan} NaN and {infinite} infinite elements of {len}, the first at position {first}; mend the \
         model, or leave the weight alone (exclude)"
    )]
    NotFinite { weight: String, nan: usize, infinite: usize, len: usize, first: usize },
    #[error("weight {weight:?} does not read back as it was stored; please report this model")]
    Stored { weight: String },
}

/// Checks that every element of `weights` is a finite number.
///
/// # Errors
/// The first weight that has others.
pub fn all_finite(graph: &Graph, weights: &[ValueId]) -> Result<(), ValuesError> {
    let bad = weights.par_iter().filter_map(|&id| {
        let values = float_values(&graph.weight(id)?.to_dense().ok()?)?;
        let first = values.iter().position(|v| !v.is_finite())?;
        let nan = values.iter().filter(|v| v.is_nan()).count();
        let infinite = values.iter().filter(|v| v.is_infinite()).count();
        let (weight, len) = (graph.value(id).name.clone(), values.len());
        Some(ValuesError::NotFinite { weight, nan, infinite, len, first })
    });
    bad.collect::<Vec<_>>().into_iter().next().map_or(Ok(()), Err)
}

/// Checks that the weights of two graphs have the same elements, however they are stored.
///
/// # Errors
/// The first weight that differs.
pub fn all_same(expected: &Graph, found: &Graph) -> Result<(), ValuesError> {
    let pairs: Vec<_> = expected.values.iter().zip(&found.values).collect();
    let same = |a: &Tensor, b: &Tensor| match (float_values(a), float_values(b)) {
        // A zero has a sign only where it is stored.
        (Some(x), Some(y)) => {
            let mut pairs = x.iter().zip(&y);
            a.shape() == b.shape() && pairs.all(|(x, y)| x == y || x.is_nan() && y.is_nan())
        }
        _ => a == b,
    };
    let differ = |(a, b): &&(&Value, &Value)| match (&a.weight, &b.weight) {
        (Some(a), Some(b)) => match (a.to_dense(), b.to_dense()) {
            (Ok(a), Ok(b)) => !same(&a, &b),
            (a, b) => a.is_ok() != b.is_ok(),
        },
        (a, b) => a.is_some() != b.is_some(),
    };
    match pairs.par_iter().find_first(|pair| differ(pair)) {
        Some((a, _)) => Err(ValuesError::Stored { weight: a.name.clone() }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_is_named() {
        let mut graph = Graph::default();
        let good = graph.add_weight("good", Tensor::from_slice(&[2], &[1.0_f32, f32::MAX]));
        let bad = graph.add_weight("bad", Tensor::from_slice(&[3], &[1.0_f32, f32::INFINITY, f32::NAN]));
        assert_eq!(all_finite(&graph, &[good]), Ok(()));
        let error = all_finite(&graph, &[good, bad]).unwrap_err();
        let want = ValuesError::NotFinite { weight: "bad".into(), nan: 1, infinite: 1, len: 3, first: 1 };
        assert_eq!(error, want);
    }
}
