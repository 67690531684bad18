//! Measures of size: what the model holds, and how much work a sample is.

use super::{Good, Measure, Unit};
use crate::judge::JudgeError;

pub(super) const SPARSITY: Measure = Measure {
    name: "sparsity",
    description: "share removed, of what the granularity counts",
    unit: Unit::Share,
    good: Good::Large,
    of: |candidate| Ok(candidate.sparsity),
};

pub(super) const NONZEROS: Measure = Measure {
    name: "nonzeros",
    description: "parameters that are not zero",
    unit: Unit::Count,
    good: Good::Small,
    of: |candidate| Ok(candidate.totals.nnz as f64),
};

pub(super) const PARAMETERS: Measure = Measure {
    name: "parameters",
    description: "parameters, zero or not",
    unit: Unit::Count,
    good: Good::Small,
    of: |candidate| Ok(candidate.totals.parameters as f64),
};

pub(super) const MACS: Measure = Measure {
    name: "macs",
    description: "multiply-accumulates on what is not zero, as a share of the dense model's",
    unit: Unit::Share,
    good: Good::Small,
    of: |candidate| Ok(candidate.totals.nonzero_macs as f64 / candidate.dense.nonzero_macs.max(1) as f64),
};

pub(super) const BYTES: Measure = Measure {
    name: "bytes",
    description: "bytes of the weights as stored, which are those that become resident",
    unit: Unit::Bytes,
    good: Good::Small,
    of: |candidate| Ok(candidate.totals.bytes as f64),
};

pub(super) const FILE_BYTES: Measure = Measure {
    name: "file-bytes",
    description: "bytes of the .safetensors file",
    unit: Unit::Bytes,
    good: Good::Small,
    of: |candidate| {
        let bytes = poda_formats::artifact::written_bytes(candidate.graph);
        bytes.map(|bytes| bytes as f64).map_err(JudgeError::failed)
    },
};
