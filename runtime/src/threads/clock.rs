//! How long the calling thread has had a CPU.

/// Nanoseconds that it has run; nothing where the system does not tell.
#[cfg(unix)]
pub(super) fn cpu_nanos() -> Option<u64> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).ok()?;
    Some(seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).ok()?)
}

#[cfg(not(unix))]
pub(super) fn cpu_nanos() -> Option<u64> {
    None
}

#[cfg(all(test, unix))]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn sleep_does_not_count_and_work_does() {
        let before = cpu_nanos().unwrap();
        std::thread::sleep(Duration::from_millis(30));
        let slept = cpu_nanos().unwrap();
        assert!(slept - before < 20_000_000, "{}", slept - before);
        while cpu_nanos().unwrap() < slept + 1_000_000 {}
    }
}
