//! Weights in steps: what integers stand for, and the integers that stand for what has become of it.

use poda_formats::{DataType, Tensor};

/// How integers stand for real numbers: `(integer − zero) · scale`, with one scale, or one for each index of a dimension.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Steps {
    /// f32, of one element or of one for each index along `axis`.
    pub(super) scale: Tensor,
    /// Of the integers' type, as many as scales or one; `None` is zero.
    pub(super) zero: Option<Tensor>,
    pub(super) axis: i64,
}

/// The least and the greatest integer of a type that may be a weight's.
pub(super) fn range(dtype: DataType) -> Option<(i64, i64)> {
    Some(match dtype {
        DataType::I8 => (i64::from(i8::MIN), i64::from(i8::MAX)),
        DataType::U8 => (0, i64::from(u8::MAX)),
        DataType::I16 => (i64::from(i16::MIN), i64::from(i16::MAX)),
        DataType::U16 => (0, i64::from(u16::MAX)),
        DataType::I32 => (i64::from(i32::MIN), i64::from(i32::MAX)),
        _ => return None,
    })
}

/// The elements of a tensor of one of these types.
fn integers(tensor: &Tensor) -> Option<Vec<i64>> {
    fn wide<T: Copy + Into<i64>>(values: &[T]) -> Vec<i64> {
        values.iter().map(|&v| v.into()).collect()
    }
    Some(match tensor.dtype() {
        DataType::I8 => wide(tensor.as_slice::<i8>().ok()?),
        DataType::U8 => wide(tensor.as_slice::<u8>().ok()?),
        DataType::I16 => wide(tensor.as_slice::<i16>().ok()?),
        DataType::U16 => wide(tensor.as_slice::<u16>().ok()?),
        DataType::I32 => wide(tensor.as_slice::<i32>().ok()?),
        _ => return None,
    })
}

/// A tensor of integers that its type holds.
fn tensor_of(dtype: DataType, shape: &[usize], values: &[i64]) -> Option<Tensor> {
    fn narrow<T: TryFrom<i64>>(values: &[i64]) -> Option<Vec<T>> {
        values.iter().map(|&v| T::try_from(v).ok()).collect()
    }
    Some(match dtype {
        DataType::I8 => Tensor::from_slice(shape, &narrow::<i8>(values)?),
        DataType::U8 => Tensor::from_slice(shape, &narrow::<u8>(values)?),
        DataType::I16 => Tensor::from_slice(shape, &narrow::<i16>(values)?),
        DataType::U16 => Tensor::from_slice(shape, &narrow::<u16>(values)?),
        DataType::I32 => Tensor::from_slice(shape, &narrow::<i32>(values)?),
        _ => return None,
    })
}

/// A scale, the integer that stands for zero, and the integers that are used with both.
#[derive(Debug, Clone, Copy)]
struct Cell {
    scale: f32,
    zero: i64,
    low: i64,
    high: i64,
}

impl Cell {
    fn float(&self, integer: i64) -> f32 {
        (integer - self.zero) as f32 * self.scale
    }

    fn nearest(&self, value: f32) -> i64 {
        let steps =
            if self.scale > 0.0 { (f64::from(value) / f64::from(self.scale)).round_ties_even() } else { 0.0 };
        (steps as i64).saturating_add(self.zero).clamp(self.low, self.high)
    }

    /// Whether `value` is one of the cell's steps.
    fn holds(&self, value: f32) -> bool {
        self.float(self.nearest(value)) == value
    }

    /// The cell with the scale at which these values just fit.
    fn fitted(&self, values: impl Iterator<Item = f32>) -> Self {
        let side = |steps: i64, value: f32| if value > 0.0 { value / steps.max(1) as f32 } else { 0.0 };
        let (up, down) = (self.high - self.zero, self.zero - self.low);
        let scale = values.map(|v| side(up, v).max(side(down, -v))).fold(0.0_f32, f32::max);
        Self { scale: if scale > 0.0 { scale } else { self.scale }, ..*self }
    }
}

impl Steps {
    /// The least and the greatest number that a type can hold in steps of one scale.
    pub(super) fn bounds(&self, dtype: DataType) -> Option<[f32; 2]> {
        let (low, high) = range(dtype)?;
        let scale = *self.scale.as_slice::<f32>().ok()?.first()?;
        let zero = self.zero.as_ref().map_or(Some(0), |zero| integers(zero)?.first().copied())?;
        let cell = Cell { scale, zero, low, high };
        Some([low, high].map(|end| cell.float(end)))
    }

    fn dim(&self, rank: usize) -> Option<usize> {
        let axis = if self.axis < 0 { self.axis + rank as i64 } else { self.axis };
        usize::try_from(axis).ok().filter(|&axis| axis < rank)
    }

    /// For each scale its cell; `None` where they do not fit a tensor of `shape`.
    fn cells(&self, tensor: &Tensor) -> Option<Vec<Cell>> {
        let (low, high) = range(tensor.dtype())?;
        let scales = self.scale.as_slice::<f32>().ok()?;
        let zeros = match &self.zero {
            Some(zero) if zero.dtype() == tensor.dtype() => integers(zero)?,
            Some(_) => return None,
            None => vec![0],
        };
        let fits = scales.len() == 1 || tensor.shape().get(self.dim(tensor.rank())?) == Some(&scales.len());
        let numbers = scales.iter().all(|s| s.is_finite() && *s >= 0.0);
        if !fits || !numbers || !(zeros.len() == 1 || zeros.len() == scales.len()) {
            return None;
        }
        let cell = |(at, &scale): (usize, &f32)| {
            let zero = zeros[if zeros.len() == 1 { 0 } else { at }];
            Cell { scale, zero, low, high }
        };
        Some(scales.iter().enumerate().map(cell).collect())
    }

    /// Number of elements of which each run has one cell, where there are `cells` along the dimension.
    fn run(&self, shape: &[usize], cells: usize) -> usize {
        let dim = if cells == 1 { None } else { self.dim(shape.len()) };
        dim.map_or(usize::MAX, |dim| shape[dim + 1..].iter().product::<usize>().max(1))
    }

    /// The f32 that `tensor` stands for; `None` where scales and zero points do not fit it.
    pub(super) fn floats(&self, tensor: &Tensor) -> Option<Tensor> {
        let cells = self.cells(tensor)?;
        let run = self.run(tensor.shape(), cells.len());
        let values: Vec<f32> = integers(tensor)?
            .into_iter()
            .enumerate()
            .map(|(i, integer)| cells[i / run % cells.len()].float(integer))
            .collect();
        Some(Tensor::from_slice(tensor.shape(), &values))
    }

    /// The integers, of the type of `was`, that stand for `values`, and the steps that they are in.
    ///
    /// `was` are the integers that stood for all of it before: what has changed is rounded to the nearest of as many steps as
    /// those used, at a scale at which it just fits; what has not, or has become zero, keeps its scale. Where indices of the dimension
    /// have gone, each of those that stay has the next scale that its elements are steps of.
    pub(super) fn integers(&self, was: &Tensor, values: &Tensor) -> Option<(Tensor, Self)> {
        let (old, shape) = (self.cells(was)?, values.shape());
        let floats = values.as_slice::<f32>().ok()?;
        let most = {
            let run = self.run(was.shape(), old.len());
            let far = |(i, integer): (usize, i64)| (integer - old[i / run % old.len()].zero).abs();
            integers(was)?.into_iter().enumerate().map(far).max().unwrap_or(0).max(1)
        };
        let used = |cell: &Cell| Cell {
            low: cell.low.max(cell.zero - most),
            high: cell.high.min(cell.zero + most),
            ..*cell
        };
        let old: Vec<Cell> = old.iter().map(used).collect();
        let count = if old.len() == 1 { 1 } else { shape[self.dim(shape.len())?] };
        let run = self.run(shape, if old.len() == 1 { 1 } else { count.max(2) });
        let run_len = run.min(floats.len());
        let of = |cell: usize| {
            let starts = (cell * run_len..floats.len()).step_by((count * run_len).max(1));
            starts.flat_map(|start| floats[start..start + run_len].iter().copied())
        };
        let mut new = Vec::with_capacity(count);
        let mut next = 0;
        for at in 0..count {
            // As many must be left as are still to come.
            let last = old.len().saturating_sub(count - at);
            let next_old = if old.len() == count { at } else { next };
            let candidates = if old.len() == count { at..at + 1 } else { next..last.max(next) + 1 };
            let kept = candidates.filter(|&j| j < old.len()).find(|&j| of(at).all(|v| old[j].holds(v)));
            next = kept.map_or(next, |j| j + 1);
            new.push(match kept {
                Some(j) => (j, old[j]),
                None => {
                    let j = next_old.min(old.len() - 1);
                    (j, old[j].fitted(of(at)))
                }
            });
        }
        let nearest =
            |(i, &value): (usize, &f32)| if count == 0 { 0 } else { new[i / run % count].1.nearest(value) };
        let integers: Vec<i64> = floats.iter().enumerate().map(nearest).collect();
        let tensor = tensor_of(was.dtype(), shape, &integers)?;
        let scales: Vec<f32> = new.iter().map(|(_, cell)| cell.scale).collect();
        let scale = if self.scale.len() == 1 {
            Tensor::from_slice(self.scale.shape(), &scales)
        } else {
            Tensor::from_slice(&[count], &scales)
        };
        let zero = match &self.zero {
            Some(zero) if zero.len() > 1 => {
                let zeros: Vec<i64> = new.iter().map(|(_, cell)| cell.zero).collect();
                Some(tensor_of(zero.dtype(), &[count], &zeros)?)
            }
            zero => zero.clone(),
        };
        Some((tensor, Self { scale, zero, axis: self.axis }))
    }
}

/// Integers of i32 for a bias, in steps of `input` times the scale of each output's weights.
pub(super) fn bias(values: &Tensor, input: f32, weights: &Steps) -> Option<(Tensor, Steps)> {
    let floats = values.as_slice::<f32>().ok()?;
    let scales: Vec<f32> = weights.scale.as_slice::<f32>().ok()?.iter().map(|scale| scale * input).collect();
    if values.rank() != 1 || !(scales.len() == 1 || scales.len() == floats.len()) {
        return None;
    }
    let (low, high) = range(DataType::I32)?;
    let cell = |at: usize| Cell { scale: scales[if scales.len() == 1 { 0 } else { at }], zero: 0, low, high };
    let integers: Vec<i64> = floats.iter().enumerate().map(|(at, &v)| cell(at).nearest(v)).collect();
    let scale = Tensor::from_slice(if scales.len() == 1 { &[] } else { values.shape() }, &scales);
    Some((tensor_of(DataType::I32, values.shape(), &integers)?, Steps { scale, zero: None, axis: 0 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(scales: &[f32], zero: Option<Tensor>, axis: i64) -> Steps {
        Steps { scale: Tensor::from_slice(&[scales.len()], scales), zero, axis }
    }

    fn changed(values: &Tensor, change: impl Fn(usize, f32) -> f32) -> Tensor {
        let floats = values.as_slice::<f32>().unwrap();
        let changed: Vec<f32> = floats.iter().enumerate().map(|(i, &v)| change(i, v)).collect();
        Tensor::from_slice(values.shape(), &changed)
    }

    #[test]
    fn what_becomes_zero_is_its_zero_point_and_nothing_else_changes() {
        for (zero, at) in [(None, 0_i64), (Some(Tensor::from_slice(&[3], &[5_i8, -3, 0])), 5)] {
            let steps = steps(&[0.1, 0.7, 3.0], zero, 1);
            let was = Tensor::from_slice(&[2, 3], &[1_i8, -7, 127, -128, 3, 0]);
            let floats = steps.floats(&was).unwrap();
            assert_eq!(steps.integers(&was, &floats), Some((was.clone(), steps.clone())));
            let masked = changed(&floats, |i, v| if i == 3 { 0.0 } else { v });
            let (found, same) = steps.integers(&was, &masked).unwrap();
            assert_eq!(same, steps);
            assert_eq!(integers(&found).unwrap(), [1, -7, 127, at, 3, 0]);
        }
    }

    #[test]
    fn scales_go_with_the_rows_that_go() {
        let zero = Some(Tensor::from_slice(&[4], &[1_u8, 2, 3, 4]));
        let steps = steps(&[0.1, 0.37, 0.53, 0.91], zero, 0);
        let was = Tensor::from_slice(&[4, 2], &[11_u8, 3, 7, 255, 0, 13, 4, 40]);
        let floats = steps.floats(&was).unwrap();
        let floats = floats.as_slice::<f32>().unwrap();
        let left = Tensor::from_slice(&[2, 2], &[floats[2], floats[3], floats[6], floats[7]]);
        let (found, less) = steps.integers(&was, &left).unwrap();
        assert_eq!(integers(&found).unwrap(), [7, 255, 4, 40]);
        assert_eq!(less.scale.as_slice::<f32>().unwrap(), [0.37, 0.91]);
        assert_eq!(integers(&less.zero.unwrap()).unwrap(), [2, 4]);
    }

    #[test]
    fn what_has_changed_is_rounded_to_as_many_steps_as_were_used() {
        let steps = steps(&[0.5], None, 0);
        let was = Tensor::from_slice(&[4], &[64_i8, -63, 2, 0]);
        let values = Tensor::from_slice(&[4], &[12.8_f32, -6.4, 0.1, 0.0]);
        let (found, new) = steps.integers(&was, &values).unwrap();
        assert_eq!(integers(&found).unwrap(), [64, -32, 0, 0]);
        assert!((new.scale.as_slice::<f32>().unwrap()[0] - 0.2).abs() < 1e-7);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let tensor = Tensor::from_slice(&[2, 2], &[1_i8; 4]);
        assert!(steps(&[1.0; 3], None, 0).floats(&tensor).is_none());
        assert!(steps(&[1.0; 2], None, 2).floats(&tensor).is_none());
        assert!(steps(&[f32::NAN], None, 0).floats(&tensor).is_none());
        assert!(steps(&[1.0], Some(Tensor::from_slice(&[1], &[1_u8])), 0).floats(&tensor).is_none());
        assert!(steps(&[1.0], None, 0).floats(&Tensor::from_slice(&[1], &[1_i64])).is_none());
    }

    #[test]
    fn biases_are_in_steps_of_both_scales() {
        let values = Tensor::from_slice(&[2], &[1.0_f32, -0.3]);
        let (found, new) = bias(&values, 0.5, &steps(&[0.1, 0.2], None, 0)).unwrap();
        assert_eq!(integers(&found).unwrap(), [20, -3]);
        assert_eq!(new.scale.as_slice::<f32>().unwrap(), [0.05, 0.1]);
    }
}
