//! The passes, a file each.

pub(super) mod transposes;
