//! Resident memory of this process, from the kernel's own count.

use std::fs;

/// Resident bytes, now and at most so far; zeros where the system does not tell.
#[derive(Debug, Clone, Copy, Default)]
pub struct Resident {
    /// Now (`VmRSS`).
    pub now: u64,
    /// The most so far (`VmHWM`).
    pub peak: u64,
}

/// Reads `/proc/self/status`.
pub fn resident() -> Resident {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.trim_start_matches(':').trim().trim_end_matches("kB").trim().parse().ok()?;
        Some(kib << 10)
    };
    Resident { now: field("VmRSS").unwrap_or(0), peak: field("VmHWM").unwrap_or(0) }
}
