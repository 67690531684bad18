//! How two lists of numbers go together.

/// Deviations below this are rounding.
const ROUNDING: f64 = 1e-10;

/// Whether all values are alike, but for rounding: nothing correlates with them.
pub fn is_constant(values: &[f64]) -> bool {
    let squares = deviations(values).iter().map(|v| v * v).sum::<f64>();
    (squares / values.len() as f64).sqrt() < ROUNDING
}

/// Pearson's correlation of as many values; 0 where those of one list are all alike: they tell nothing.
///
/// # Panics
/// When there are not as many.
pub fn pearson(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    if is_constant(a) || is_constant(b) {
        return 0.0;
    }
    let (a, b) = (deviations(a), deviations(b));
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt()
}

/// Spearman's: Pearson's of the ranks.
///
/// # Panics
/// When there are not as many.
pub fn spearman(a: &[f64], b: &[f64]) -> f64 {
    pearson(&ranks(a), &ranks(b))
}

fn deviations(values: &[f64]) -> Vec<f64> {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    values.iter().map(|v| v - mean).collect()
}

/// Ranks from 1; equal values share the mean of theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let (mut ranks, mut start) = (vec![0.0; values.len()], 0);
    for alike in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let rank = start as f64 + (alike.len() + 1) as f64 / 2.0;
        alike.iter().for_each(|&at| ranks[at] = rank);
        start += alike.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn correlations_are_those_of_a_calculation_by_hand() {
        // Deviations (−1, 0, 1) and (−2, −1, 3): 5 / √(2 · 14). Ranks agree.
        let (a, b) = ([1.0, 2.0, 3.0], [0.0, 1.0, 5.0]);
        assert!((pearson(&a, &b) - 5.0 / 28.0_f64.sqrt()).abs() < 1e-12);
        assert_eq!(spearman(&a, &b), 1.0);
        // Ranks (1, 2.5, 2.5, 4) and (4, 3, 2, 1): deviations (−1.5, 0, 0, 1.5), (1.5, .5, −.5, −1.5): −4.5 / √(4.5 · 5).
        let found = spearman(&[0.0, 1.0, 1.0, 9.0], &[4.0, 3.0, 2.0, 1.0]);
        assert!((found + 4.5 / 22.5_f64.sqrt()).abs() < 1e-12);
        assert_eq!(pearson(&[0.5; 3], &b), 0.0);
        assert_eq!(spearman(&b, &[0.5; 3]), 0.0);
    }
}
