//! `f32` attributes in JSON, which has no infinities and no NaN: these are written as strings.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Float {
    Finite(f32),
    Other(Other),
}

#[derive(Serialize, Deserialize)]
enum Other {
    #[serde(rename = "inf")]
    Infinity,
    #[serde(rename = "-inf")]
    NegativeInfinity,
    #[serde(rename = "nan")]
    Nan,
}

impl From<f32> for Float {
    fn from(value: f32) -> Self {
        if value.is_finite() {
            Self::Finite(value)
        } else if value.is_nan() {
            Self::Other(Other::Nan)
        } else if value > 0.0 {
            Self::Other(Other::Infinity)
        } else {
            Self::Other(Other::NegativeInfinity)
        }
    }
}

impl From<Float> for f32 {
    fn from(value: Float) -> Self {
        match value {
            Float::Finite(value) => value,
            Float::Other(Other::Infinity) => Self::INFINITY,
            Float::Other(Other::NegativeInfinity) => Self::NEG_INFINITY,
            Float::Other(Other::Nan) => Self::NAN,
        }
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde gives the field by reference
pub(crate) fn serialize<S: Serializer>(value: &f32, serializer: S) -> Result<S::Ok, S::Error> {
    Float::from(*value).serialize(serializer)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f32, D::Error> {
    Float::deserialize(deserializer).map(f32::from)
}

/// The same for `Option<f32>`.
pub(crate) mod optional {
    use super::{Deserialize, Deserializer, Float, Serialize, Serializer};

    #[allow(clippy::ref_option, clippy::trivially_copy_pass_by_ref)] // serde gives the field by reference
    pub(crate) fn serialize<S: Serializer>(value: &Option<f32>, serializer: S) -> Result<S::Ok, S::Error> {
        value.map(Float::from).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f32>, D::Error> {
        Ok(Option::<Float>::deserialize(deserializer)?.map(f32::from))
    }
}

/// The same for `Vec<f32>`.
pub(crate) mod list {
    use super::{Deserialize, Deserializer, Float, Serializer};

    pub(crate) fn serialize<S: Serializer>(values: &[f32], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(values.iter().copied().map(Float::from))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f32>, D::Error> {
        Ok(Vec::<Float>::deserialize(deserializer)?.into_iter().map(f32::from).collect())
    }
}
