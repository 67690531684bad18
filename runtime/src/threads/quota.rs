//! How many CPUs a container may use.

use std::fs;

/// CPUs that the cgroup's quota allows, rounded up; `None` without a quota.
pub(super) fn cgroup_quota() -> Option<usize> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    quota_under("/sys/fs/cgroup".as_ref(), &own)
}

/// The tightest quota on the way from this process's group up to the root, for both versions of cgroups.
fn quota_under(root: &std::path::Path, own: &str) -> Option<usize> {
    let mut tightest: Option<f64> = None;
    for line in own.lines() {
        // `hierarchy:controllers:path`; version 2 has no controllers.
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let version2 = controllers.is_empty();
        if !version2 && !controllers.split(',').any(|c| c == "cpu") {
            continue;
        }
        let base = if version2 { root.to_path_buf() } else { root.join(controllers) };
        let base = if base.is_dir() { base } else { root.join("cpu") };
        let mut group = Some(std::path::Path::new(path.trim_start_matches('/')));
        while let Some(relative) = group {
            let directory = base.join(relative);
            let cpus = if version2 {
                fs::read_to_string(directory.join("cpu.max")).ok().and_then(|text| {
                    let (quota, period) = text.trim().split_once(' ')?;
                    ratio(quota, period)
                })
            } else {
                let read = |name| fs::read_to_string(directory.join(name)).ok();
                read("cpu.cfs_quota_us").zip(read("cpu.cfs_period_us")).and_then(|(q, p)| ratio(&q, &p))
            };
            if let Some(cpus) = cpus {
                tightest = Some(tightest.map_or(cpus, |t| t.min(cpus)));
            }
            group = relative.parent();
        }
    }
    tightest.map(|cpus| (cpus.ceil() as usize).max(1))
}

/// Quota over period; `None` when unlimited (`max`, or a negative number).
fn ratio(quota: &str, period: &str) -> Option<f64> {
    let quota: f64 = quota.trim().parse().ok()?;
    let period: f64 = period.trim().parse().ok()?;
    (quota > 0.0 && period > 0.0).then_some(quota / period)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quota_of_both_versions_is_read() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("outer/inner/cpu.max", "max 100000\n");
        write("outer/cpu.max", "150000 100000\n");
        assert_eq!(quota_under(root.path(), "0::/outer/inner\n"), Some(2));
        assert_eq!(quota_under(root.path(), "0::/elsewhere\n"), None);

        write("cpu,cpuacct/box/cpu.cfs_quota_us", "300000\n");
        write("cpu,cpuacct/box/cpu.cfs_period_us", "100000\n");
        assert_eq!(quota_under(root.path(), "4:cpu,cpuacct:/box\n3:memory:/box\n"), Some(3));
        write("cpu,cpuacct/box/cpu.cfs_quota_us", "-1\n");
        assert_eq!(quota_under(root.path(), "4:cpu,cpuacct:/box\n"), None);
    }
}
