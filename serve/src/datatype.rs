//! Element types by their names in the Open Inference Protocol.

use poda_formats::DataType;

const NAMES: &[(DataType, &str)] = &[
    (DataType::Bool, "BOOL"),
    (DataType::U8, "UINT8"),
    (DataType::U16, "UINT16"),
    (DataType::U32, "UINT32"),
    (DataType::U64, "UINT64"),
    (DataType::I8, "INT8"),
    (DataType::I16, "INT16"),
    (DataType::I32, "INT32"),
    (DataType::I64, "INT64"),
    (DataType::F16, "FP16"),
    (DataType::BF16, "BF16"),
    (DataType::F32, "FP32"),
    (DataType::F64, "FP64"),
];

/// The protocol's name.
pub(crate) fn name(dtype: DataType) -> &'static str {
    NAMES.iter().find(|(known, _)| *known == dtype).map_or("", |(_, name)| name)
}

/// The type that the protocol calls so.
pub(crate) fn parse(text: &str) -> Option<DataType> {
    NAMES.iter().find(|(_, name)| *name == text).map(|(dtype, _)| *dtype)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_a_name_of_its_own() {
        use DataType::*;
        for dtype in [Bool, U8, U16, U32, U64, I8, I16, I32, I64, F16, BF16, F32, F64] {
            assert_eq!(parse(name(dtype)), Some(dtype), "{dtype}");
        }
        assert_eq!(parse("BYTES"), None);
    }
}
