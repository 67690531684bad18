//! One vector of the vectors of a text's tokens.

use poda_formats::Tensor;

use super::config::Pooling;

/// One vector `[size]` for each text: of `[texts, length, size]` by the first tokens of each, as many as `lengths` says; of
/// `[texts, size]` the rows.
pub(crate) fn pool(output: &Tensor, lengths: &[usize], pooling: Pooling) -> Result<Vec<Vec<f32>>, String> {
    let wrong = || format!("the model's first output is {} {:?}, no vectors", output.dtype(), output.shape());
    let values = output.as_slice::<f32>().map_err(|_| wrong())?;
    match *output.shape() {
        [texts, size] if texts == lengths.len() && size > 0 => {
            Ok(values.chunks(size).map(<[f32]>::to_vec).collect())
        }
        [texts, length, size] if texts == lengths.len() && length > 0 && size > 0 => {
            let text = |(values, &tokens): (&[f32], &usize)| {
                let rows = values.chunks(size).take(tokens.clamp(1, length));
                pool_rows(rows, size, pooling)
            };
            Ok(values.chunks(length * size).zip(lengths).map(text).collect())
        }
        _ => Err(wrong()),
    }
}

fn pool_rows<'a>(
    mut rows: impl ExactSizeIterator<Item = &'a [f32]>,
    size: usize,
    pooling: Pooling,
) -> Vec<f32> {
    let count = rows.len() as f32;
    match pooling {
        Pooling::Cls => rows.next().map_or_else(Vec::new, <[f32]>::to_vec),
        Pooling::Mean => {
            let mut sum = vec![0.0_f32; size];
            rows.for_each(|row| sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x));
            sum.iter_mut().for_each(|x| *x /= count);
            sum
        }
        Pooling::Max => {
            let mut most = vec![f32::NEG_INFINITY; size];
            rows.for_each(|row| most.iter_mut().zip(row).for_each(|(most, x)| *most = most.max(*x)));
            most
        }
    }
}

/// To length 1; a vector of zeros stays.
pub(crate) fn normalize(vector: &mut [f32]) {
    let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    if norm > 0.0 {
        vector.iter_mut().for_each(|x| *x /= norm);
    }
}

/// Probabilities of logits.
pub(crate) fn softmax(logits: &[f32]) -> Vec<f32> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f32> = logits.iter().map(|x| (x - most).exp()).collect();
    let sum: f32 = powers.iter().sum();
    powers.into_iter().map(|x| x / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_texts_own_tokens_count() {
        let output = Tensor::from_slice(&[2, 2, 2], &[1.0_f32, 2.0, 3.0, 6.0, 5.0, 5.0, f32::NAN, 9.0]);
        assert_eq!(pool(&output, &[2, 1], Pooling::Mean).unwrap(), [[2.0, 4.0], [5.0, 5.0]]);
        assert_eq!(pool(&output, &[2, 1], Pooling::Cls).unwrap(), [[1.0, 2.0], [5.0, 5.0]]);
        assert_eq!(pool(&output, &[2, 1], Pooling::Max).unwrap(), [[3.0, 6.0], [5.0, 5.0]]);
        let rows = Tensor::from_slice(&[2, 1], &[1.0_f32, 2.0]);
        assert_eq!(pool(&rows, &[1, 1], Pooling::Mean).unwrap(), [[1.0], [2.0]]);
        assert!(pool(&rows, &[1], Pooling::Mean).is_err());
        assert!(pool(&Tensor::from_slice(&[1], &[1_i64]), &[1], Pooling::Mean).is_err());
    }

    #[test]
    fn lengths_and_probabilities_are_one() {
        let mut vector = [3.0, 4.0];
        normalize(&mut vector);
        assert_eq!(vector, [0.6, 0.8]);
        normalize(&mut [0.0]);
        assert_eq!(softmax(&[1000.0, 1000.0]), [0.5, 0.5]);
    }
}
