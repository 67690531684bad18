//! The passes, a file each.

pub(super) mod activations;
pub(super) mod fold;
pub(super) mod identity;
pub(super) mod norm_parameters;
pub(super) mod norms;
pub(super) mod pads;
pub(super) mod transposes;
