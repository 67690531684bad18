//! Tensors of the file as weights: raw, typed and external data, dense and sparse.

use bytemuck::Pod;
use half::{bf16, f16};

use super::RANK_LIMIT;
use super::external::{ExternalData, ExternalError};
use crate::dtype::{Boolean, DataType, Element};
use crate::onnx::proto::{DataLocation, SparseTensorProto, TensorProto, data_type};
use crate::op::MatrixForm;
use crate::storage::{AlignedBytes, Storage};
use crate::tensor::{Tensor, TensorError, checked_bytes};
use crate::weight::{CsrMatrix, MatrixShapeError, MatrixWeight, SparseError, Weight};

/// Why a tensor of the file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum TensorProblem {
    #[error("element type {name} (code {code}) is not supported")]
    ElementType { name: &'static str, code: i32 },
    #[error("negative dimension in {dims:?}")]
    Dimension { dims: Vec<i64> },
    #[error("rank {rank} is more than {RANK_LIMIT}")]
    Rank { rank: usize },
    #[error("it is split into segments, which is not supported")]
    Segment,
    #[error("it has both raw and typed data")]
    TwoSources,
    #[error("{value} is not a value of {dtype}")]
    Range { value: i64, dtype: DataType },
    #[error("sparse tensor without {part}")]
    MissingPart { part: &'static str },
    #[error("sparse indices must be i64 [{nnz}] or [{nnz}, {rank}], found {dtype} {shape:?}")]
    IndexShape { nnz: usize, rank: usize, dtype: DataType, shape: Vec<usize> },
    #[error("sparse values must have rank 1, found {shape:?}")]
    ValueShape { shape: Vec<usize> },
    #[error("sparse index {position} is out of range or out of order in shape {shape:?}")]
    Index { position: usize, shape: Vec<usize> },
    #[error("sparse tensor of shape {shape:?} would take {bytes} bytes for {nnz} values")]
    TooSparse { shape: Vec<usize>, bytes: usize, nnz: usize },
    #[error(transparent)]
    External(#[from] ExternalError),
    #[error(transparent)]
    Tensor(#[from] TensorError),
    #[error(transparent)]
    Csr(#[from] SparseError),
    #[error(transparent)]
    CsrShape(#[from] MatrixShapeError),
}

/// Where the bytes of weights come from: the model's file, and files beside it.
pub(in crate::onnx) struct WeightSource {
    pub(super) file: Storage,
    pub(super) external: ExternalData,
}

impl WeightSource {
    /// Bytes of the files that weights come from.
    pub(super) fn bytes(&self) -> usize {
        self.file.len().saturating_add(self.external.bytes())
    }

    /// The dense tensor of a message.
    pub(in crate::onnx) fn tensor(&mut self, proto: &TensorProto) -> Result<Tensor, TensorProblem> {
        let code = proto.data_type;
        let dtype = data_type(code).map_err(|name| TensorProblem::ElementType { name, code })?;
        let shape = dimensions(&proto.dims)?;
        if proto.segment.is_some() {
            return Err(TensorProblem::Segment);
        }
        if proto.data_location == DataLocation::External as i32 {
            let Some(expected) = checked_bytes(dtype, &shape) else {
                return Err(TensorError::TooLarge { shape, dtype }.into());
            };
            let storage = self.external.get(&proto.external_data, expected)?;
            return Ok(from_file(dtype, shape, &storage)?);
        }
        let raw = proto.raw_data.as_ref().filter(|raw| !raw.is_empty());
        let typed = !(proto.float_data.is_empty()
            && proto.int32_data.is_empty()
            && proto.int64_data.is_empty()
            && proto.double_data.is_empty()
            && proto.uint64_data.is_empty());
        let storage = match raw {
            Some(_) if typed => return Err(TensorProblem::TwoSources),
            Some(raw) => {
                self.file.slice_of(raw).unwrap_or_else(|| Storage::owned(AlignedBytes::copy_of(raw)))
            }
            None => Storage::owned(typed_data(dtype, proto)?),
        };
        Ok(from_file(dtype, shape, &storage)?)
    }

    /// The weight of a sparse message: CSR for f32 of rank 2 or more, dense otherwise. What is built for zeros may take
    /// `affordable` bytes.
    pub(super) fn sparse(
        &mut self,
        proto: &SparseTensorProto,
        affordable: usize,
    ) -> Result<Weight, TensorProblem> {
        let part = |part| TensorProblem::MissingPart { part };
        let values = self.tensor(proto.values.as_ref().ok_or_else(|| part("values"))?)?;
        let shape = dimensions(&proto.dims)?;
        let &[nnz] = values.shape() else {
            return Err(TensorProblem::ValueShape { shape: values.shape().to_vec() });
        };
        if checked_bytes(DataType::U8, &shape).is_none() {
            return Err(TensorError::TooLarge { shape, dtype: DataType::U8 }.into());
        }
        let positions = match &proto.indices {
            Some(indices) => linear_indices(&self.tensor(indices)?, &shape, nnz)?,
            None if nnz == 0 => Vec::new(),
            None => return Err(part("indices")),
        };
        let dtype = values.dtype();
        let too_sparse = |bytes| TensorProblem::TooSparse { shape: shape.clone(), bytes, nnz };
        if let (DataType::F32, [rows, rest @ ..]) = (dtype, &shape[..])
            && !rest.is_empty()
        {
            let bytes = rows.saturating_mul(4);
            if bytes > affordable {
                return Err(too_sparse(bytes));
            }
            let cols = rest.iter().product();
            let matrix = csr(*rows, cols, &positions, values)?;
            let form = MatrixForm { parts: 1, rows: *rows, cols, transposed: false };
            return Ok(MatrixWeight::new(shape, form, matrix)?.into());
        }
        let bytes = checked_bytes(dtype, &shape).unwrap_or(usize::MAX);
        if bytes > affordable {
            return Err(too_sparse(bytes));
        }
        let mut dense = AlignedBytes::zeroed(bytes);
        for (&position, value) in positions.iter().zip(values.bytes().chunks_exact(dtype.size())) {
            dense[position * dtype.size()..][..dtype.size()].copy_from_slice(value);
        }
        Ok(Tensor::new(dtype, shape, Storage::owned(dense))?.into())
    }
}

fn dimensions(dims: &[i64]) -> Result<Vec<usize>, TensorProblem> {
    if dims.len() > RANK_LIMIT {
        return Err(TensorProblem::Rank { rank: dims.len() });
    }
    let sizes: Result<Vec<usize>, _> = dims.iter().map(|&d| usize::try_from(d)).collect();
    sizes.map_err(|_| TensorProblem::Dimension { dims: dims.to_vec() })
}

/// A tensor over `storage`. If it had to be copied, the pages that it was copied from stop counting as resident.
fn from_file(dtype: DataType, shape: Vec<usize>, storage: &Storage) -> Result<Tensor, TensorError> {
    let tensor = Tensor::from_file(dtype, shape, storage.clone())?;
    if storage.is_mapped() && !tensor.storage().is_mapped() {
        storage.release();
    }
    Ok(tensor)
}

fn typed_data(dtype: DataType, proto: &TensorProto) -> Result<AlignedBytes, TensorProblem> {
    let small = &proto.int32_data;
    Ok(match dtype {
        DataType::F32 => AlignedBytes::copy_of(bytemuck::cast_slice(&proto.float_data)),
        DataType::F64 => AlignedBytes::copy_of(bytemuck::cast_slice(&proto.double_data)),
        DataType::I32 => AlignedBytes::copy_of(bytemuck::cast_slice(small)),
        DataType::I64 => AlignedBytes::copy_of(bytemuck::cast_slice(&proto.int64_data)),
        DataType::U64 => AlignedBytes::copy_of(bytemuck::cast_slice(&proto.uint64_data)),
        DataType::U32 => narrow(dtype, &proto.uint64_data, |&v| u32::try_from(v).ok(), |&v| v as i64)?,
        DataType::I8 => narrow(dtype, small, |&v| i8::try_from(v).ok(), |&v| v.into())?,
        DataType::U8 => narrow(dtype, small, |&v| u8::try_from(v).ok(), |&v| v.into())?,
        DataType::I16 => narrow(dtype, small, |&v| i16::try_from(v).ok(), |&v| v.into())?,
        DataType::U16 => narrow(dtype, small, |&v| u16::try_from(v).ok(), |&v| v.into())?,
        DataType::Bool => narrow(dtype, small, |&v| Some(Boolean::from(v != 0)), |&v| v.into())?,
        DataType::F16 => narrow(dtype, small, |&v| u16::try_from(v).ok().map(f16::from_bits), |&v| v.into())?,
        DataType::BF16 => {
            narrow(dtype, small, |&v| u16::try_from(v).ok().map(bf16::from_bits), |&v| v.into())?
        }
    })
}

/// Typed data is stored in wider fields than its type: each value must fit.
fn narrow<W, N: Pod>(
    dtype: DataType,
    wide: &[W],
    fit: impl Fn(&W) -> Option<N>,
    show: impl Fn(&W) -> i64,
) -> Result<AlignedBytes, TensorProblem> {
    let narrow: Result<Vec<N>, _> = wide
        .iter()
        .map(|value| fit(value).ok_or_else(|| TensorProblem::Range { value: show(value), dtype }))
        .collect();
    Ok(AlignedBytes::copy_of(bytemuck::cast_slice(&narrow?)))
}

/// Row-major positions of a sparse tensor's values, checked to be ascending and in range. The number of elements of
/// `shape` does not overflow.
fn linear_indices(indices: &Tensor, shape: &[usize], nnz: usize) -> Result<Vec<usize>, TensorProblem> {
    let (rank, elements) = (shape.len(), shape.iter().product::<usize>());
    let bad_shape =
        || TensorProblem::IndexShape { nnz, rank, dtype: indices.dtype(), shape: indices.shape().to_vec() };
    let numbers = indices.as_slice::<i64>().map_err(|_| bad_shape())?;
    let linear = match *indices.shape() {
        [n] if n == nnz => true,
        [n, r] if n == nnz && r == rank => false,
        _ => return Err(bad_shape()),
    };
    let mut positions = Vec::with_capacity(nnz);
    for position in 0..nnz {
        let at = if linear {
            usize::try_from(numbers[position]).ok()
        } else {
            let coordinates = numbers[position * rank..][..rank].iter().zip(shape);
            coordinates.into_iter().try_fold(0, |at: usize, (&i, &dim)| {
                let i = usize::try_from(i).ok().filter(|&i| i < dim)?;
                Some(at * dim + i)
            })
        };
        match at {
            Some(at) if at < elements && positions.last().is_none_or(|&last| last < at) => positions.push(at),
            _ => return Err(TensorProblem::Index { position, shape: shape.to_vec() }),
        }
    }
    Ok(positions)
}

fn csr(rows: usize, cols: usize, positions: &[usize], values: Tensor) -> Result<CsrMatrix, TensorProblem> {
    let too_large = || SparseError::TooLarge { rows, cols, nnz: positions.len() };
    if u32::try_from(positions.len()).is_err() || u32::try_from(cols).is_err() {
        return Err(too_large().into());
    }
    let mut indptr = vec![0_u32; rows + 1];
    for position in positions {
        indptr[position / cols + 1] += 1;
    }
    for row in 0..rows {
        indptr[row + 1] += indptr[row];
    }
    let indptr = Tensor::from_slice(&[rows + 1], &indptr);
    let columns = positions.iter().map(|position| position % cols);
    let indices = if cols <= 1 << 16 {
        columns_as::<u16>(columns.map(|c| c as u16))
    } else {
        columns_as::<u32>(columns.map(|c| c as u32))
    };
    Ok(CsrMatrix::new(rows, cols, indptr, indices, values)?)
}

fn columns_as<T: Element>(columns: impl Iterator<Item = T>) -> Tensor {
    let columns: Vec<T> = columns.collect();
    Tensor::from_slice(&[columns.len()], &columns)
}
