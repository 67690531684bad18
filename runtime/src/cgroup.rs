//! What a container lets this process use: the limits of its control groups, of both versions.
//!
//! A process lies in a group of each hierarchy, and every group on the way up to the root limits it. Within a container the
//! path that `/proc/self/cgroup` tells may be the host's, of which only the top is mounted: groups that are not there limit
//! nothing.

use std::fs;
use std::path::Path;

/// Where the hierarchies are mounted.
const ROOT: &str = "/sys/fs/cgroup";

/// CPUs that the quotas allow, rounded up; `None` without a quota.
pub(crate) fn cpus() -> Option<usize> {
    cpus_under(ROOT.as_ref(), &own())
}

/// Bytes that the process may take; `None` without a limit.
pub(crate) fn memory() -> Option<usize> {
    memory_under(ROOT.as_ref(), &own())
}

fn own() -> String {
    fs::read_to_string("/proc/self/cgroup").unwrap_or_default()
}

fn cpus_under(root: &Path, own: &str) -> Option<usize> {
    let version2 = |group: &Path| {
        let text = read(group, "cpu.max")?;
        let (quota, period) = text.split_once(' ')?;
        ratio(quota, period)
    };
    let version1 =
        |group: &Path| ratio(&read(group, "cpu.cfs_quota_us")?, &read(group, "cpu.cfs_period_us")?);
    let quotas = limits(root, own, "cpu", version2, version1);
    quotas.into_iter().reduce(f64::min).map(|cpus| (cpus.ceil() as usize).max(1))
}

fn memory_under(root: &Path, own: &str) -> Option<usize> {
    let bytes = |group: &Path, name| read(group, name)?.parse::<usize>().ok();
    let version1 = |group: &Path| {
        // Without a limit it is the largest number of whole pages.
        bytes(group, "memory.limit_in_bytes").filter(|&bytes| bytes < isize::MAX as usize >> 12 << 12)
    };
    let limits = limits(root, own, "memory", |group| bytes(group, "memory.max"), version1);
    limits.into_iter().min()
}

/// The limits that the groups of a process and those above them set, where they do.
fn limits<T>(
    root: &Path,
    own: &str,
    controller: &str,
    version2: impl Fn(&Path) -> Option<T>,
    version1: impl Fn(&Path) -> Option<T>,
) -> Vec<T> {
    let mut found = Vec::new();
    for line in own.lines() {
        // `hierarchy:controllers:path`; version 2 has no controllers.
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let of_version2 = controllers.is_empty();
        if !of_version2 && controllers.split(',').all(|c| c != controller) {
            continue;
        }
        // A hierarchy is mounted under its controllers' names, or one of them; version 2 beside others in `unified`.
        let mounts = if of_version2 { ["", "unified"] } else { [controllers, controller] };
        let groups = Path::new(path.trim_start_matches('/'));
        // A path that leads out of the mounted part tells nothing of what lies there.
        let groups = if path.contains("..") { Path::new("") } else { groups };
        for mount in mounts.map(|mount| root.join(mount)) {
            for group in groups.ancestors().map(|group| mount.join(group)) {
                found.extend(if of_version2 { version2(&group) } else { version1(&group) });
            }
        }
    }
    found
}

fn read(group: &Path, name: &str) -> Option<String> {
    Some(fs::read_to_string(group.join(name)).ok()?.trim().to_owned())
}

/// Quota over period; `None` when unlimited (`max`, or a negative number).
fn ratio(quota: &str, period: &str) -> Option<f64> {
    let quota: f64 = quota.parse().ok()?;
    let period: f64 = period.parse().ok()?;
    (quota > 0.0 && period > 0.0).then_some(quota / period)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Mounted(tempfile::TempDir);

    impl Mounted {
        fn new(files: &[(&str, &str)]) -> Self {
            let root = tempfile::tempdir().unwrap();
            for (path, text) in files {
                let path = root.path().join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            Self(root)
        }

        fn cpus(&self, own: &str) -> Option<usize> {
            cpus_under(self.0.path(), own)
        }

        fn memory(&self, own: &str) -> Option<usize> {
            memory_under(self.0.path(), own)
        }
    }

    #[test]
    fn quotas_of_both_versions_are_read_on_the_way_up() {
        let groups = Mounted::new(&[
            ("outer/inner/cpu.max", "max 100000\n"),
            ("outer/cpu.max", "150000 100000\n"),
            ("outer/cpu.max.burst", "0\n"),
        ]);
        assert_eq!(groups.cpus("0::/outer/inner\n"), Some(2), "1.5 CPUs keep 2 threads busy");
        assert_eq!(groups.cpus("0::/elsewhere\n"), None);
        assert_eq!(groups.cpus("0::/../outer\n"), None);
        assert_eq!(groups.cpus(""), None);

        let groups = Mounted::new(&[
            ("cpu,cpuacct/box/cpu.cfs_quota_us", "300000\n"),
            ("cpu,cpuacct/box/cpu.cfs_period_us", "100000\n"),
            ("cpu,cpuacct/free/cpu.cfs_quota_us", "-1\n"),
            ("cpu,cpuacct/free/cpu.cfs_period_us", "100000\n"),
            ("cpu,cpuacct/tiny/cpu.cfs_quota_us", "1000\n"),
            ("cpu,cpuacct/tiny/cpu.cfs_period_us", "100000\n"),
        ]);
        assert_eq!(groups.cpus("4:cpu,cpuacct:/box\n3:memory:/box\n"), Some(3));
        assert_eq!(groups.cpus("4:cpu,cpuacct:/free\n"), None);
        assert_eq!(groups.cpus("4:cpu,cpuacct:/tiny\n0::/\n"), Some(1));
        assert_eq!(groups.cpus("3:memory:/box\n"), None);
    }

    #[test]
    fn a_container_sees_its_own_group_at_the_top() {
        // The path is the host's; the container's group is mounted as the root.
        let groups = Mounted::new(&[
            ("cpu/cpu.cfs_quota_us", "150000\n"),
            ("cpu/cpu.cfs_period_us", "100000\n"),
            ("memory/memory.limit_in_bytes", "1073741824\n"),
        ]);
        assert_eq!(groups.cpus("2:cpu:/docker/0123\n"), Some(2));
        assert_eq!(groups.memory("5:memory:/docker/0123\n2:cpu:/docker/0123\n"), Some(1 << 30));
        let groups = Mounted::new(&[("cpu.max", "50000 100000\n"), ("memory.max", "536870912\n")]);
        assert_eq!(groups.cpus("0::/\n"), Some(1));
        assert_eq!(groups.memory("0::/\n"), Some(512 << 20));
    }

    #[test]
    fn the_tightest_memory_limit_holds() {
        let groups = Mounted::new(&[
            ("unified/a/b/memory.max", "max\n"),
            ("unified/a/memory.max", "2147483648\n"),
            ("memory/x/y/memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory/x/memory.limit_in_bytes", "4294967296\n"),
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ]);
        assert_eq!(groups.memory("5:memory:/x/y\n"), Some(4 << 30));
        assert_eq!(groups.memory("5:memory:/z\n"), None);
        // Both versions side by side.
        assert_eq!(groups.memory("5:memory:/x/y\n0::/a/b\n"), Some(2 << 30));
    }
}
