//! Which folders are a process's cgroup, and how the host mounts them.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use super::{Cgroup, CgroupError, Mode, ROOT};

/// How cgroups are mounted under `root`.
pub fn probe(root: &Path) -> Mode {
    if root.join("cgroup.controllers").exists() {
        Mode::V2
    } else if root.join("unified/cgroup.procs").exists() {
        Mode::Hybrid
    } else {
        Mode::V1
    }
}

impl Cgroup {
    /// The cgroup that `pid` is in now.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Gone`] when there is no such process.
    pub fn of_pid(pid: i32) -> Result<Self, CgroupError> {
        Self::of_pid_under(Path::new(ROOT), Path::new("/proc"), pid)
    }

    /// [`of_pid`](Self::of_pid) with other mount points.
    ///
    /// # Errors
    ///
    /// See [`of_pid`](Self::of_pid).
    pub fn of_pid_under(root: &Path, proc: &Path, pid: i32) -> Result<Self, CgroupError> {
        let path = proc.join(pid.to_string()).join("cgroup");
        let text = std::fs::read_to_string(&path).map_err(|source| match source.raw_os_error() {
            Some(libc::ENOENT | libc::ESRCH) => CgroupError::Gone { path: path.clone() },
            _ => CgroupError::Io { path: path.clone(), source },
        })?;
        let mode = probe(root);
        Ok(Self { mode, folders: folders(root, mode, &text) })
    }

    /// Keeps only the folders that end in `suffix`: those that were made for the container, when a runtime joined
    /// fewer hierarchies than there are.
    pub(crate) fn only(mut self, suffix: &Path) -> Self {
        let suffix: PathBuf = suffix.components().filter(|part| matches!(part, Component::Normal(_))).collect();
        self.folders.retain(|_, folder| folder.ends_with(&suffix));
        self
    }

    /// The folders that `cgroups_path` names in every hierarchy, existing or not.
    pub(crate) fn at(root: &Path, cgroups_path: &Path) -> Self {
        let mode = probe(root);
        let mut folders = BTreeMap::new();
        if mode == Mode::V2 {
            folders.insert(String::new(), below(root, cgroups_path));
        } else {
            for entry in std::fs::read_dir(root).into_iter().flatten().filter_map(Result::ok) {
                let Ok(name) = entry.file_name().into_string() else { continue };
                let folder = below(&entry.path(), cgroups_path);
                if folder.join("cgroup.procs").exists() {
                    folders.insert(if name == "systemd" { "name=systemd".to_owned() } else { name }, folder);
                }
            }
        }
        Self { mode, folders }
    }
}

/// Reads `/proc/PID/cgroup`: lines of `number:controllers:path`.
fn folders(root: &Path, mode: Mode, text: &str) -> BTreeMap<String, PathBuf> {
    let mut folders = BTreeMap::new();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else { continue };
        match (mode, controllers) {
            (Mode::V2, "") => {
                folders.insert(String::new(), below(root, Path::new(path)));
            }
            (Mode::V2, _) | (Mode::V1, "") => {}
            (Mode::Hybrid, "") => {
                folders.insert("unified".to_owned(), below(&root.join("unified"), Path::new(path)));
            }
            (Mode::V1 | Mode::Hybrid, _) => {
                for controller in controllers.split(',') {
                    let mount = controller.strip_prefix("name=").unwrap_or(controller);
                    folders.insert(controller.to_owned(), below(&root.join(mount), Path::new(path)));
                }
            }
        }
    }
    folders
}

/// `path` under `root`, whatever it says about parents: the kernel shows `/..` for a cgroup outside of our namespace.
pub(crate) fn below(root: &Path, path: &Path) -> PathBuf {
    let mut folder = root.to_owned();
    folder.extend(path.components().filter(|part| matches!(part, Component::Normal(_))));
    folder
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_controller_of_a_v1_line_has_its_folder() {
        let text = "5:cpu,cpuacct:/a\n4:memory:/a/b\n1:name=systemd:/s\n0::/u\n";
        let found = folders(Path::new("/r"), Mode::Hybrid, text);
        let expected = [
            ("cpu", "/r/cpu/a"),
            ("cpuacct", "/r/cpuacct/a"),
            ("memory", "/r/memory/a/b"),
            ("name=systemd", "/r/systemd/s"),
            ("unified", "/r/unified/u"),
        ];
        assert_eq!(found, expected.map(|(name, path)| (name.to_owned(), PathBuf::from(path))).into());
    }

    #[test]
    fn a_v2_process_has_one_folder_and_parents_do_not_lead_out() {
        let found = folders(Path::new("/r"), Mode::V2, "0::/../x/y\n");
        assert_eq!(found, [(String::new(), PathBuf::from("/r/x/y"))].into());
    }
}
