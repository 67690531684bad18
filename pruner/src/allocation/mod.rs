//! How much goes where: from scores of units and a share to remove, to a set of units.

mod choose;
mod width;

pub use choose::{Scope, allocate, keep_enough_of_each};
pub use width::{native_lanes, units_to_keep};
