//! The elements that a weight stores: as the graph has them, or f32 rounded to a narrower type to save bytes.
//!
//! Rounding is to the nearest, ties to even. `bf16` and `f16` are rounded one by one; `int8` is symmetric with one f32
//! scale for each row of the matrix (each output channel), the greatest magnitude of the row over 127. Arithmetic stays
//! f32: a stored element stands for `element · scale[row]`.

use std::fmt;
use std::ops::Range;

use bytemuck::Zeroable;
use half::{bf16, f16};
use serde::{Deserialize, Serialize};

use crate::dtype::{DataType, Element};
use crate::storage::{AlignedBytes, Storage};
use crate::tensor::{Tensor, TensorError, checked_bytes};

/// Types that the f32 values of a weight may be stored as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum ValueType {
    F32,
    Bf16,
    F16,
    Int8,
}

impl ValueType {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::F32, Self::Bf16, Self::F16, Self::Int8];

    /// The name, as shown to people and given by them.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::Int8 => "int8",
        }
    }

    /// The one of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|to| to.name() == name)
    }

    /// The one whose elements are stored as `dtype`.
    pub fn of(dtype: DataType) -> Option<Self> {
        Self::ALL.into_iter().find(|to| to.dtype() == dtype)
    }

    /// Type of a stored element.
    pub const fn dtype(self) -> DataType {
        match self {
            Self::F32 => DataType::F32,
            Self::Bf16 => DataType::BF16,
            Self::F16 => DataType::F16,
            Self::Int8 => DataType::I8,
        }
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How far rounded values are from those that they were made of.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct RoundingError {
    /// Greatest distance of an element.
    pub max: f32,
    /// √(Σ (rounded − exact)² / Σ exact²); 0 when all are zero.
    pub relative_rms: f32,
}

/// Why values cannot be rounded to a narrower type.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum RoundError {
    #[error("element {value} in row {row} cannot be stored as {to}: only finite values can")]
    NotFinite { value: f32, row: usize, to: ValueType },
    #[error("element {value} in row {row} is beyond the range of {to}; int8 holds it")]
    Overflow { value: f32, row: usize, to: ValueType },
}

/// Why a tensor and scales are not the rounded values of a matrix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum ValuesError {
    #[error("values rounded from f32 are bf16, f16 or i8, found {found}")]
    Type { found: DataType },
    #[error("i8 values need scales")]
    NoScales,
    #[error("{found} scales for {rows} rows")]
    ScaleCount { rows: usize, found: usize },
    #[error("scale {scale} of row {row} is not finite")]
    Scale { row: usize, scale: String },
    #[error("rounding errors {max} and {relative_rms} must be finite and not negative")]
    Error { max: String, relative_rms: String },
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

/// The stored elements of a matrix, row by row. Cloning shares them.
#[derive(Debug, Clone, PartialEq)]
pub struct Values {
    tensor: Tensor,
    rounded: Option<Rounded>,
}

/// What is known of values that stand for f32.
#[derive(Debug, Clone, PartialEq)]
struct Rounded {
    /// f32 `[rows]`, finite.
    scales: Option<Tensor>,
    error: RoundingError,
}

impl From<Tensor> for Values {
    /// Values as the graph has them.
    fn from(tensor: Tensor) -> Self {
        Self { tensor, rounded: None }
    }
}

impl Values {
    /// Values that stand for f32: bf16, f16 or i8, with a scale for each of `rows` rows (i8 needs them). Reads the scales.
    ///
    /// # Errors
    /// When types or sizes do not fit, or a scale is not finite.
    pub fn rounded(
        tensor: Tensor,
        scales: Option<Tensor>,
        rows: usize,
        error: RoundingError,
    ) -> Result<Self, ValuesError> {
        match (tensor.dtype(), &scales) {
            (DataType::BF16 | DataType::F16, _) | (DataType::I8, Some(_)) => {}
            (DataType::I8, None) => return Err(ValuesError::NoScales),
            (found, _) => return Err(ValuesError::Type { found }),
        }
        let RoundingError { max, relative_rms } = error;
        if ![max, relative_rms].iter().all(|error| error.is_finite() && *error >= 0.0) {
            let (max, relative_rms) = (max.to_string(), relative_rms.to_string());
            return Err(ValuesError::Error { max, relative_rms });
        }
        if let Some(scales) = &scales {
            let scales = scales.as_slice::<f32>()?;
            if scales.len() != rows {
                return Err(ValuesError::ScaleCount { rows, found: scales.len() });
            }
            if let Some(row) = scales.iter().position(|scale| !scale.is_finite()) {
                return Err(ValuesError::Scale { row, scale: scales[row].to_string() });
            }
        }
        Ok(Self { tensor, rounded: Some(Rounded { scales, error }) })
    }

    /// Rounds the f32 elements of a matrix `[rows, cols]`.
    ///
    /// A value that f16 cannot hold (65 520 and beyond) is refused, not saturated; so are NaN and infinities. A row of
    /// zeros has the int8 scale 0.
    ///
    /// # Errors
    /// At the first element that the type cannot hold.
    ///
    /// # Panics
    /// When there are not `rows · cols` elements.
    pub fn round(exact: &[f32], [rows, cols]: [usize; 2], to: ValueType) -> Result<Self, RoundError> {
        assert_eq!(exact.len(), rows * cols, "[{rows}, {cols}]");
        if to == ValueType::F32 {
            return Ok(Tensor::from_slice(&[exact.len()], exact).into());
        }
        let row_of = |row: usize| row * cols..(row + 1) * cols;
        for row in 0..rows {
            let values = &exact[row_of(row)];
            if let Some(&value) = values.iter().find(|w| !w.is_finite()) {
                return Err(RoundError::NotFinite { value, row, to });
            }
            let fits = |w: f32| match to {
                ValueType::Bf16 => bf16::from_f32(w).is_finite(),
                ValueType::F16 => f16::from_f32(w).is_finite(),
                ValueType::F32 | ValueType::Int8 => true,
            };
            if let Some(&value) = values.iter().find(|&&w| !fits(w)) {
                return Err(RoundError::Overflow { value, row, to });
            }
        }
        let mut error = ErrorSum::default();
        let (tensor, scales) = match to {
            ValueType::Bf16 => (one_by_one(exact, bf16::from_f32, bf16::to_f32, &mut error), None),
            ValueType::F16 => (one_by_one(exact, f16::from_f32, f16::to_f32, &mut error), None),
            ValueType::F32 | ValueType::Int8 => {
                let mut bytes = AlignedBytes::zeroed(exact.len());
                let out: &mut [i8] = bytemuck::cast_slice_mut(&mut bytes);
                let mut scales = Vec::with_capacity(rows);
                for row in 0..rows {
                    let (exact, out) = (&exact[row_of(row)], &mut out[row_of(row)]);
                    let scale = exact.iter().fold(0.0_f32, |max, w| max.max(w.abs())) / 127.0;
                    // Of the greatest floats, 127 steps must not be infinite.
                    let scale = if (127.0 * scale).is_finite() { scale } else { scale.next_down() };
                    for (&w, out) in exact.iter().zip(out) {
                        // (A row of less than 127 times the least denormal has scale 0, too.)
                        let steps = if scale > 0.0 { (w / scale).round_ties_even() } else { 0.0 };
                        *out = steps.clamp(-127.0, 127.0) as i8;
                        error.add(w, f32::from(*out) * scale);
                    }
                    scales.push(scale);
                }
                let tensor = Tensor::new(DataType::I8, vec![exact.len()], Storage::owned(bytes));
                let scales = Tensor::from_slice(&[scales.len()], &scales);
                (tensor.expect("as many bytes as elements"), Some(scales))
            }
        };
        Ok(Self { tensor, rounded: Some(Rounded { scales, error: error.get() }) })
    }

    /// The type that they stand for.
    pub fn dtype(&self) -> DataType {
        if self.rounded.is_some() { DataType::F32 } else { self.tensor.dtype() }
    }

    /// The type that is stored.
    pub fn stored(&self) -> DataType {
        self.tensor.dtype()
    }

    /// The stored elements.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// The tensor of the scales, f32 `[rows]`.
    pub fn scales_tensor(&self) -> Option<&Tensor> {
        self.rounded.as_ref()?.scales.as_ref()
    }

    /// What the elements of each row are multiplied with, `[rows]`.
    pub fn scales(&self) -> Option<&[f32]> {
        self.scales_tensor().map(|scales| scales.as_slice().expect("f32, checked when made"))
    }

    /// How far they are from the values that were rounded; `None` of values that are as the graph has them.
    pub fn rounding_error(&self) -> Option<RoundingError> {
        self.rounded.as_ref().map(|rounded| rounded.error)
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.tensor.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.tensor.is_empty()
    }

    /// Bytes of elements and scales.
    pub fn bytes(&self) -> usize {
        self.tensor.bytes().len() + self.scales_tensor().map_or(0, |scales| scales.bytes().len())
    }

    /// The same elements in another shape.
    pub(super) fn reshaped(self, shape: Vec<usize>) -> Result<Self, TensorError> {
        Ok(Self { tensor: self.tensor.reshaped(shape)?, ..self })
    }

    /// Other elements of the same type, rows and scales.
    pub(super) fn with_tensor(&self, tensor: Tensor) -> Self {
        Self { tensor, rounded: self.rounded.clone() }
    }

    /// Elements `range` of rows `rows`.
    pub(super) fn slice(&self, range: Range<usize>, rows: Range<usize>) -> Self {
        let part = |tensor: &Tensor, range: Range<usize>| {
            let (size, len) = (tensor.dtype().size(), range.len());
            let storage = tensor.storage().slice(range.start * size..range.end * size);
            Tensor::new(tensor.dtype(), vec![len], storage.expect("within the tensor"))
                .expect("as many bytes")
        };
        let rounded = self.rounded.as_ref().map(|rounded| Rounded {
            scales: rounded.scales.as_ref().map(|scales| part(scales, rows)),
            error: rounded.error,
        });
        Self { tensor: part(&self.tensor, range), rounded }
    }

    /// Some of the elements, in another order.
    pub(super) fn gathered(&self, from: &[usize]) -> Self {
        let (size, bytes) = (self.tensor.dtype().size(), self.tensor.bytes());
        let mut out = AlignedBytes::zeroed(from.len() * size);
        for (out, &at) in out.chunks_exact_mut(size).zip(from) {
            out.copy_from_slice(&bytes[at * size..][..size]);
        }
        let tensor = Tensor::new(self.tensor.dtype(), vec![from.len()], Storage::owned(out));
        self.with_tensor(tensor.expect("as many bytes as elements"))
    }

    /// The elements at places `to` of `shape`, among zeros.
    pub(super) fn scattered(&self, shape: &[usize], to: &[usize]) -> Self {
        let size = self.tensor.dtype().size();
        let mut out = AlignedBytes::zeroed(shape.iter().product::<usize>() * size);
        for (element, &at) in self.tensor.bytes().chunks_exact(size).zip(to) {
            out[at * size..][..size].copy_from_slice(element);
        }
        let tensor = Tensor::new(self.tensor.dtype(), shape.to_vec(), Storage::owned(out));
        self.with_tensor(tensor.expect("as many bytes as elements"))
    }

    /// The same with row `i` multiplied by `factors[i]`: its scale is, if the values are rounded ones. `runs` calls with rows
    /// and what lies in them.
    ///
    /// # Errors
    /// When the values do not stand for f32.
    pub(super) fn scaled(
        &self,
        factors: &[f32],
        runs: impl FnOnce(&mut dyn FnMut(usize, Range<usize>)),
    ) -> Result<Self, TensorError> {
        if let Some(Rounded { error, .. }) = self.rounded {
            let scale =
                |(row, factor): (usize, &f32)| factor * self.scales().map_or(1.0, |scales| scales[row]);
            let scales: Vec<f32> = factors.iter().enumerate().map(scale).collect();
            let scales = Some(Tensor::from_slice(&[scales.len()], &scales));
            return Ok(Self { tensor: self.tensor.clone(), rounded: Some(Rounded { scales, error }) });
        }
        let mut values = self.tensor.as_slice::<f32>()?.to_vec();
        runs(&mut |row, range| values[range].iter_mut().for_each(|w| *w *= factors[row]));
        Ok(Tensor::from_slice(self.tensor.shape(), &values).into())
    }

    /// The f32 that elements `range`, all of one row, stand for.
    ///
    /// # Errors
    /// When they do not stand for f32.
    ///
    /// # Panics
    /// When `out` does not hold as many.
    pub fn widen(&self, row: usize, range: Range<usize>, out: &mut [f32]) -> Result<(), TensorError> {
        assert_eq!(range.len(), out.len());
        if self.rounded.is_none() {
            out.copy_from_slice(&self.tensor.as_slice::<f32>()?[range]);
            return Ok(());
        }
        let scale = self.scales().map_or(1.0, |scales| scales[row]);
        match self.tensor.dtype() {
            DataType::BF16 => each(&self.tensor.as_slice::<bf16>()?[range], out, |w| w.to_f32() * scale),
            DataType::F16 => each(&self.tensor.as_slice::<f16>()?[range], out, |w| w.to_f32() * scale),
            _ => each(&self.tensor.as_slice::<i8>()?[range], out, |w| f32::from(w) * scale),
        }
        Ok(())
    }

    /// All of them as f32; `runs` calls with rows and what lies in them.
    ///
    /// # Errors
    /// When they do not stand for f32, or memory does not hold them.
    pub(super) fn widened(
        &self,
        runs: impl FnOnce(&mut dyn FnMut(usize, Range<usize>)),
    ) -> Result<Tensor, TensorError> {
        if self.rounded.is_none() && self.tensor.dtype() == DataType::F32 {
            return Ok(self.tensor.clone());
        }
        if self.rounded.is_none() {
            return Err(TensorError::DataType { expected: DataType::F32, found: self.tensor.dtype() });
        }
        let shape = self.tensor.shape().to_vec();
        let bytes = checked_bytes(DataType::F32, &shape)
            .ok_or_else(|| TensorError::TooLarge { shape: shape.clone(), dtype: DataType::F32 })?;
        let mut out = AlignedBytes::try_zeroed(bytes).ok_or(TensorError::Memory { bytes })?;
        let values: &mut [f32] = bytemuck::cast_slice_mut(&mut out);
        runs(&mut |row, range| {
            self.widen(row, range.clone(), &mut values[range]).expect("rounded values stand for f32");
        });
        Tensor::new(DataType::F32, shape, Storage::owned(out))
    }

    /// Number of elements that are not zero.
    pub fn nonzeros(&self) -> usize {
        fn count<T: Element + Zeroable>(tensor: &Tensor) -> Option<usize> {
            Some(tensor.as_slice::<T>().ok()?.iter().filter(|w| **w != T::zeroed()).count())
        }
        let size = self.tensor.dtype().size();
        let floats = count::<f32>(&self.tensor)
            .or_else(|| count::<bf16>(&self.tensor))
            .or_else(|| count::<f16>(&self.tensor));
        let set = |element: &&[u8]| element.iter().any(|&b| b != 0);
        floats.unwrap_or_else(|| self.tensor.bytes().chunks_exact(size).filter(set).count())
    }
}

fn each<T: Copy>(from: &[T], to: &mut [f32], widen: impl Fn(T) -> f32) {
    from.iter().zip(to).for_each(|(&from, to)| *to = widen(from));
}

fn one_by_one<T: Element>(
    exact: &[f32],
    round: impl Fn(f32) -> T,
    widen: impl Fn(T) -> f32,
    error: &mut ErrorSum,
) -> Tensor {
    let mut bytes = AlignedBytes::zeroed(size_of_val(exact) / size_of::<f32>() * size_of::<T>());
    for (&w, out) in exact.iter().zip(bytemuck::cast_slice_mut::<_, T>(&mut bytes)) {
        *out = round(w);
        error.add(w, widen(*out));
    }
    Tensor::new(T::DTYPE, vec![exact.len()], Storage::owned(bytes)).expect("as many bytes as elements")
}

#[derive(Default)]
struct ErrorSum {
    max: f32,
    error: f64,
    exact: f64,
}

impl ErrorSum {
    fn add(&mut self, exact: f32, rounded: f32) {
        let distance = rounded - exact;
        self.max = self.max.max(distance.abs());
        self.error += f64::from(distance) * f64::from(distance);
        self.exact += f64::from(exact) * f64::from(exact);
    }

    fn get(&self) -> RoundingError {
        let relative = if self.exact > 0.0 { (self.error / self.exact).sqrt() } else { 0.0 };
        RoundingError { max: self.max, relative_rms: relative as f32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds, and gives what the values stand for.
    fn through(exact: &[f32], cols: usize, to: ValueType) -> (Values, Vec<f32>) {
        let values = Values::round(exact, [exact.len() / cols, cols], to).unwrap();
        let rows = 0..exact.len() / cols;
        let runs = |f: &mut dyn FnMut(usize, Range<usize>)| {
            rows.for_each(|row| f(row, row * cols..(row + 1) * cols));
        };
        let wide = values.widened(runs).unwrap().as_slice::<f32>().unwrap().to_vec();
        (values, wide)
    }

    #[test]
    fn ties_go_to_even() {
        // bf16 has 8 bits of precision, f16 11.
        let ulp = |bits: i32| 2.0_f32.powi(1 - bits);
        for (to, bits) in [(ValueType::Bf16, 8), (ValueType::F16, 11)] {
            let (_, wide) = through(&[1.0 + ulp(bits) / 2.0, 1.0 + 1.5 * ulp(bits), -1.0], 3, to);
            assert_eq!(wide, [1.0, 1.0 + 2.0 * ulp(bits), -1.0], "{to}");
        }
        // Scale 1: halves are ties.
        let (values, wide) = through(&[127.0, 0.5, 1.5, -2.5], 4, ValueType::Int8);
        assert_eq!(values.scales(), Some(&[1.0][..]));
        assert_eq!(wide, [127.0, 0.0, 2.0, -2.0]);
        let error = values.rounding_error().unwrap();
        assert_eq!(error.max, 0.5);
        let expected = (0.75_f64 / (127.0 * 127.0 + 0.25 + 2.25 + 6.25)).sqrt();
        assert!((f64::from(error.relative_rms) / expected - 1.0).abs() < 1e-6);
    }

    #[test]
    fn rows_have_scales_of_their_own() {
        let (values, wide) = through(&[1.0, -0.5, 0.0, 0.0, 1e-3, 2e-3, 1e-45, 0.0], 2, ValueType::Int8);
        assert_eq!(values.scales().unwrap()[1], 0.0);
        assert_eq!(values.tensor().as_slice::<i8>().unwrap(), [127, -64, 0, 0, 64, 127, 0, 0]);
        assert_eq!(wide[2..4], [0.0, 0.0]);
        assert!((wide[5] / 2e-3 - 1.0).abs() < 1e-6);
        assert_eq!((values.dtype(), values.stored(), values.bytes()), (DataType::F32, DataType::I8, 8 + 16));
        assert_eq!(values.nonzeros(), 4);
    }

    #[test]
    fn what_a_type_cannot_hold_is_refused() {
        for bad in [f32::NAN, f32::INFINITY] {
            for to in &ValueType::ALL[1..] {
                let error = Values::round(&[0.0, 0.0, 1.0, bad], [2, 2], *to).unwrap_err();
                assert!(matches!(error, RoundError::NotFinite { row: 1, .. }), "{error}");
            }
        }
        let error = Values::round(&[65_520.0], [1, 1], ValueType::F16).unwrap_err();
        assert_eq!(error, RoundError::Overflow { value: 65_520.0, row: 0, to: ValueType::F16 });
        assert_eq!(through(&[65_519.0], 1, ValueType::F16).1, [65_504.0]);
        assert!(Values::round(&[f32::MAX], [1, 1], ValueType::Bf16).is_err());
        let wide = through(&[f32::MAX], 1, ValueType::Int8).1[0];
        assert!(wide.is_finite() && wide > f32::MAX * 0.999_999);
    }

    #[test]
    fn scales_are_checked() {
        let tensor = || Tensor::from_slice(&[4], &[1_i8; 4]);
        let make = |scales: Option<&[f32]>| {
            let scales = scales.map(|s| Tensor::from_slice(&[s.len()], s));
            Values::rounded(tensor(), scales, 2, RoundingError::default())
        };
        assert!(make(Some(&[1.0, -2.0])).is_ok());
        assert_eq!(make(None).unwrap_err(), ValuesError::NoScales);
        assert_eq!(make(Some(&[1.0])).unwrap_err(), ValuesError::ScaleCount { rows: 2, found: 1 });
        assert!(matches!(make(Some(&[1.0, f32::NAN])), Err(ValuesError::Scale { row: 1, .. })));
        let wide = Tensor::from_slice(&[1], &[1.0_f64]);
        let error = Values::rounded(wide, None, 1, RoundingError::default()).unwrap_err();
        assert_eq!(error, ValuesError::Type { found: DataType::F64 });
        let error = RoundingError { max: f32::INFINITY, relative_rms: 0.0 };
        let scales = Tensor::from_slice(&[2], &[1.0_f32; 2]);
        assert!(matches!(Values::rounded(tensor(), Some(scales), 2, error), Err(ValuesError::Error { .. })));
    }
}
