//! How much memory this process may hope for.

use std::fs;
use std::sync::OnceLock;

use crate::cgroup;

/// The smallest of the address space limit, the container's limit and the machine's memory, in bytes; `isize::MAX` where
/// none is known. A single buffer beyond it is refused instead of tried.
pub(crate) fn limit() -> usize {
    static LIMIT: OnceLock<usize> = OnceLock::new();
    *LIMIT.get_or_init(|| {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        [address_space(&read("/proc/self/limits")), cgroup::memory(), total(&read("/proc/meminfo"))]
            .into_iter()
            .flatten()
            .fold(isize::MAX as usize, usize::min)
    })
}

/// `len` copies of `value`, or `None` where memory does not hold them.
pub(crate) fn filled<T: Clone>(value: T, len: usize) -> Option<Vec<T>> {
    let mut values = Vec::new();
    if len.checked_mul(size_of::<T>())? > limit() || values.try_reserve_exact(len).is_err() {
        return None;
    }
    values.resize(len, value);
    Some(values)
}

fn address_space(limits: &str) -> Option<usize> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn total(meminfo: &str) -> Option<usize> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.split_whitespace().next()?.parse::<usize>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_where_there_are_any() {
        assert_eq!(
            address_space("Max address space         6442450944           unlimited            bytes"),
            Some(6 << 30)
        );
        assert_eq!(
            address_space("Max address space         unlimited            unlimited            bytes"),
            None
        );
        assert_eq!(total("MemTotal:       24689588 kB\nMemFree: 1 kB\n"), Some(24_689_588 * 1024));
        assert!(limit() > 0);
        assert_eq!(filled(7_u8, 3), Some(vec![7; 3]));
        assert_eq!(filled(0_u64, usize::MAX / 4), None);
        assert_eq!(filled(0_u64, isize::MAX as usize / 8), None);
    }
}
