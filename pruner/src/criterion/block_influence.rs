//! Block influence: how much a residual block changes what it is fed. Men et al., "ShortGPT", 2024,
//! <https://arxiv.org/abs/2403.03853>.

use super::{Criterion, OfBlocks};

/// `1 − cos(x, x + f(x))`, over rows of the last axis, mean over all.
#[derive(Debug)]
pub struct BlockInfluence;

impl Criterion for BlockInfluence {
    fn name(&self) -> &'static str {
        "block-influence"
    }

    fn description(&self) -> &'static str {
        "angle between what a residual block is fed and gives, by its cosine; of whole blocks"
    }

    fn of_blocks(&self) -> Option<OfBlocks> {
        Some(OfBlocks::Likeness)
    }
}
