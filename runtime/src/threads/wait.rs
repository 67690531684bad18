//! How a thread passes the time until another has done something.

use std::time::{Duration, Instant};

/// Looks before a thread offers its CPU to others each time.
const SPINS: u32 = 2000;
/// How long it offers its CPU before it should sleep.
pub(super) const PATIENCE: Duration = Duration::from_micros(50);

/// Looks in vain so far.
#[derive(Debug, Default)]
pub(super) struct Wait {
    spins: u32,
    since: Option<Instant>,
}

impl Wait {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// One look in vain. False when it is time to sleep.
    pub(super) fn patient(&mut self) -> bool {
        if self.spins < SPINS {
            self.spins += 1;
            std::hint::spin_loop();
            return true;
        }
        std::thread::yield_now();
        self.since.get_or_insert_with(Instant::now).elapsed() < PATIENCE
    }
}
