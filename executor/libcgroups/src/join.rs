//! Making a cgroup and entering it.

use std::fs;
use std::path::{Component, Path};

use nix::unistd::Pid;

use crate::file::{self, Error};
use crate::places::Hierarchy;

/// The values that a new cpuset does not inherit, though without them nobody can enter it.
const CPUSET_FILES: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];

/// The controllers that a cgroup of v2 is to have, so that it can be given limits.
const CONTROLLERS_V2: [&str; 6] = ["cpu", "cpuset", "hugetlb", "io", "memory", "pids"];

/// A path below the root of a hierarchy: without the first slash, and it leads nowhere else.
pub(crate) fn checked(path: &Path) -> Result<&Path, Error> {
    let path = path.strip_prefix("/").unwrap_or(path);
    if path.as_os_str().is_empty() || !path.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(Error::Invalid { what: "the path of the cgroup is empty or leads elsewhere" });
    }
    Ok(path)
}

/// Moves a process into the cgroup at `path` of a hierarchy of v1, which is made if it is not there.
pub(crate) fn enter_v1(hierarchy: &Hierarchy, path: &Path, pid: Pid) -> Result<(), Error> {
    let folder = hierarchy.point.join(path);
    fs::create_dir_all(&folder).map_err(Error::at("make", &folder))?;
    if hierarchy.controllers.iter().any(|controller| controller == "cpuset") {
        inherit_cpuset(&hierarchy.point, path)?;
    }
    if pid == Pid::this() && is_one_thread() {
        // Without the lock that a process id would need.
        return file::write(&folder, "tasks", 0);
    }
    file::write(&folder, "cgroup.procs", pid)
}

/// Moves a process into the cgroup at `path` of v2, which is made if it is not there.
pub(crate) fn enter_v2(root: &Path, path: &Path, pid: Pid) -> Result<(), Error> {
    if pid == Pid::this() && is_in_v2(path) {
        return Ok(());
    }
    let mut folder = root.to_owned();
    for part in path.components() {
        let offered = file::read(&folder, "cgroup.controllers").unwrap_or_default();
        for controller in CONTROLLERS_V2.iter().filter(|wanted| offered.split_whitespace().any(|one| one == **wanted)) {
            // One by one, since one that is refused must not take the others along. What is missed is said when a limit is set.
            let _ = file::write(&folder, "cgroup.subtree_control", format!("+{controller}"));
        }
        folder.push(part);
        fs::create_dir_all(&folder).map_err(Error::at("make", &folder))?;
    }
    file::write(&folder, "cgroup.procs", pid)
}

fn is_one_thread() -> bool {
    fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1)
}

fn is_in_v2(path: &Path) -> bool {
    let Ok(table) = fs::read_to_string("/proc/self/cgroup") else { return false };
    let own = table.lines().find_map(|line| line.strip_prefix("0::/"));
    own.is_some_and(|own| Path::new(own) == path)
}

/// Gives every cpuset on the way the values of the one above, where it has none.
fn inherit_cpuset(root: &Path, path: &Path) -> Result<(), Error> {
    for file in CPUSET_FILES {
        let mut folder = root.to_owned();
        let mut above = None;
        for part in path.components() {
            let values = match above {
                Some(values) => values,
                None => file::read(&folder, file)?,
            };
            folder.push(part);
            let own = file::read(&folder, file)?;
            above = Some(if own.trim().is_empty() {
                file::write(&folder, file, &values)?;
                values
            } else {
                own
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        for path in ["", "/", "/a/../b", "../a", "./a"] {
            assert!(checked(Path::new(path)).is_err(), "{path}");
        }
        assert_eq!(checked(Path::new("/a/b")).ok(), Some(Path::new("a/b")));
    }

    #[test]
    fn a_cpuset_takes_over_what_it_lacks() {
        let root = std::env::temp_dir().join(format!("gantry-cpuset-{}", std::process::id()));
        fs::create_dir_all(root.join("a/b")).expect("a folder");
        for (file, text) in [("cpuset.cpus", "0-1\n"), ("cpuset.mems", "0\n")] {
            fs::write(root.join(file), text).expect("a file");
            fs::write(root.join("a").join(file), "\n").expect("a file");
            fs::write(root.join("a/b").join(file), "").expect("a file");
        }
        fs::write(root.join("a/cpuset.cpus"), "1\n").expect("a file");
        inherit_cpuset(&root, Path::new("a/b")).expect("all of it is there");
        let read = |name: &str| fs::read_to_string(root.join(name)).expect("a file");
        let all = ["a/cpuset.cpus", "a/b/cpuset.cpus", "a/cpuset.mems", "a/b/cpuset.mems"].map(read);
        assert_eq!(all, ["1\n", "1\n", "0\n", "0\n"]);
        fs::remove_dir_all(&root).expect("it is ours");
    }
}
