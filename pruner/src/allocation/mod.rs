//! How much goes where: from scores of units and a share to remove, to a set of units.

mod choose;
mod layers;
mod search;
mod width;

pub use choose::{Scope, allocate, keep_enough_of_each};
pub use layers::{FEW_INPUTS, LayerShare, LayerShareError, Shares, erdos_renyi, share_of, spare_few_inputs};
pub use search::{Allocate, Choice, Levels, Loss};
pub use width::{native_lanes, units_to_keep};
