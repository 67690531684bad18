//! How many CPUs this thread may run on.
//!
//! (`std::thread::available_parallelism` takes a container's quota into account, too, but rounds it down.)

use std::fs;
use std::num::NonZero;

/// CPUs of the affinity mask.
pub(super) fn cpus() -> usize {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    allowed(&status).unwrap_or_else(|| std::thread::available_parallelism().map_or(1, NonZero::get))
}

/// What `Cpus_allowed_list` counts, as `0-3,8`.
fn allowed(status: &str) -> Option<usize> {
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let count = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let [first, last]: [usize; 2] = [first.parse().ok()?, last.parse().ok()?];
        last.checked_sub(first)?.checked_add(1)
    };
    list.trim().split(',').map(count).sum::<Option<usize>>().filter(|&cpus| cpus > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus_are_counted() {
        let of =
            |list: &str| allowed(&format!("Name:\tpoda\nCpus_allowed_list:\t{list}\nMems_allowed:\t1\n"));
        assert_eq!(of("0-1"), Some(2));
        assert_eq!(of("3"), Some(1));
        assert_eq!(of("0-3,8,10-11"), Some(7));
        assert_eq!(of(""), None);
        assert_eq!(of("7-3"), None);
        assert_eq!(allowed("Name:\tpoda\n"), None);
        assert!(cpus() >= 1);
    }
}
