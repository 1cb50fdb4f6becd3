//! Where hierarchies are mounted.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{CgroupSetup, GetCgroupSetupError};
use crate::file::Error;

/// Where every distribution mounts them.
pub const DEFAULT_CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// The controllers that are given limits; other hierarchies are left alone.
const CONTROLLERS: [&str; 12] = [
    "blkio",
    "cpu",
    "cpuacct",
    "cpuset",
    "devices",
    "freezer",
    "hugetlb",
    "memory",
    "net_cls",
    "net_prio",
    "perf_event",
    "pids",
];

/// A mount of a hierarchy.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    /// Where it is mounted.
    pub point: PathBuf,
    /// Its controllers; those that are not known here are left out.
    pub controllers: Vec<String>,
}

/// Which hierarchies this machine has, by what is mounted in the usual place.
///
/// # Errors
/// Nothing is.
pub fn get_cgroup_setup() -> Result<CgroupSetup, GetCgroupSetupError> {
    let all = mount_table()?;
    let at_root = |kind: &str| parse(&all, kind).iter().any(|mount| mount.point == Path::new(DEFAULT_CGROUP_ROOT));
    let below = |kind: &str| parse(&all, kind).iter().any(|mount| mount.point.starts_with(DEFAULT_CGROUP_ROOT));
    if at_root("cgroup2") {
        Ok(CgroupSetup::Unified)
    } else if below("cgroup") {
        Ok(if below("cgroup2") { CgroupSetup::Hybrid } else { CgroupSetup::Legacy })
    } else {
        Err(Error::Missing { controller: "cgroup" }.into())
    }
}

/// The mounts of one kind, `cgroup` or `cgroup2`.
pub(crate) fn mounts(kind: &str) -> Result<Vec<Hierarchy>, Error> {
    Ok(parse(&mount_table()?, kind))
}

/// The hierarchies of v1 that have controllers, every controller once.
pub(crate) fn hierarchies() -> Result<Vec<Hierarchy>, Error> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for mount in mounts("cgroup")? {
        let is_known = found.iter().flat_map(|known| &known.controllers).any(|known| mount.controllers.contains(known));
        if !mount.controllers.is_empty() && !is_known {
            found.push(mount);
        }
    }
    Ok(found)
}

fn mount_table() -> Result<String, Error> {
    let path = Path::new("/proc/self/mountinfo");
    fs::read_to_string(path).map_err(Error::at("read", path))
}

fn parse(table: &str, kind: &str) -> Vec<Hierarchy> {
    let mount = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let mut right = right.split(' ');
        (right.next()? == kind).then_some(())?;
        let options = right.nth(1)?;
        // Nobody mounts them where a path has to be escaped.
        let point = left.split(' ').nth(4).filter(|point| !point.contains('\\'))?;
        let controllers = options.split(',').filter(|option| CONTROLLERS.contains(option)).map(str::to_owned);
        Some(Hierarchy { point: PathBuf::from(point), controllers: controllers.collect() })
    };
    table.lines().filter_map(mount).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_told_by_kind_and_controllers() {
        let table = "\
            30 20 0:25 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
            31 30 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
            32 30 0:27 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
            33 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
            36 30 0:30 / /sys/fs/cgroup/misc rw - cgroup cgroup rw,misc\n";
        let is = |point: &str, controllers: &[&str]| Hierarchy {
            point: point.into(),
            controllers: controllers.iter().map(|one| (*one).to_owned()).collect(),
        };
        let v1 = [
            is("/sys/fs/cgroup/systemd", &[]),
            is("/sys/fs/cgroup/cpu,cpuacct", &["cpu", "cpuacct"]),
            is("/sys/fs/cgroup/misc", &[]),
        ];
        assert_eq!(parse(table, "cgroup"), v1);
        assert_eq!(parse(table, "cgroup2"), [is("/sys/fs/cgroup/unified", &[])]);
    }
}
