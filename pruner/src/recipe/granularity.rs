//! What is removed at a time.

use std::fmt;
use std::str::FromStr;

use poda_formats::{Graph, Pattern, PatternError};
use serde::{Deserialize, Serialize};

use super::RecipeError;

/// What is removed at a time. Written `unstructured`, `channel`, `depth`, or as a [`Pattern`]: `block:4x1`, `nm:2:4`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Granularity {
    /// Single weights become zero; shapes stay.
    #[default]
    Unstructured,
    /// Whole blocks of weights become zero, or all but N of each M; shapes stay.
    Pattern(Pattern),
    /// Channels, heads and hidden units are removed; the network gets smaller.
    Channel,
    /// Whole residual blocks are removed; the network gets shorter.
    Depth,
}

impl Granularity {
    /// `graph` with its zeros stored as nothing, in the layout that suits what was removed; channels and whole blocks
    /// leave none.
    pub fn stored(self, graph: &Graph) -> Graph {
        let mut stored = graph.clone();
        match self {
            Self::Unstructured => stored.store_sparse(),
            Self::Pattern(pattern) => stored.store_sparse_by(&[pattern]),
            Self::Channel | Self::Depth => 0,
        };
        stored
    }
}

impl fmt::Display for Granularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unstructured => f.write_str("unstructured"),
            Self::Pattern(pattern) => pattern.fmt(f),
            Self::Channel => f.write_str("channel"),
            Self::Depth => f.write_str("depth"),
        }
    }
}

impl FromStr for Granularity {
    type Err = RecipeError;

    fn from_str(text: &str) -> Result<Self, RecipeError> {
        match text {
            "unstructured" => Ok(Self::Unstructured),
            "channel" => Ok(Self::Channel),
            "depth" => Ok(Self::Depth),
            _ => text.parse().map(Self::Pattern).map_err(|error| match error {
                PatternError::Syntax { found } => RecipeError::Granularity { found },
                error => RecipeError::Pattern(error),
            }),
        }
    }
}

impl TryFrom<String> for Granularity {
    type Error = RecipeError;

    fn try_from(text: String) -> Result<Self, RecipeError> {
        text.parse()
    }
}

impl From<Granularity> for String {
    fn from(granularity: Granularity) -> Self {
        granularity.to_string()
    }
}
