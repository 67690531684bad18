//! The iterations of Loops within Loops, counted together: ten of them, of a thousand each, would never end.

use std::cell::Cell;

use crate::ops::OpError;

/// Iterations after which Loops count as never ending. Tests reach it sooner.
const MOST_ITERATIONS: i64 = if cfg!(test) { 10_000 } else { 10_000_000 };

thread_local! {
    /// Of the outermost Loop being run or analysed on this thread and of those inside it.
    static ITERATIONS: Cell<i64> = const { Cell::new(0) };
}

/// Held while a Loop runs, or while its shapes are inferred: what is counted then counts for the outermost Loop.
pub(super) struct Iterations {
    outermost: bool,
}

impl Iterations {
    pub(super) fn start() -> Self {
        Self { outermost: ITERATIONS.get() == 0 }
    }

    /// Counts one iteration, or so many for what takes as long.
    pub(super) fn count(iterations: usize) -> Result<(), OpError> {
        let value = ITERATIONS.get().saturating_add_unsigned(iterations as u64);
        ITERATIONS.set(value);
        if value > MOST_ITERATIONS {
            return Err(OpError::OutOfRange { name: "iteration", value, bound: MOST_ITERATIONS });
        }
        Ok(())
    }
}

impl Drop for Iterations {
    fn drop(&mut self) {
        if self.outermost {
            ITERATIONS.set(0);
        }
    }
}
