//! The folder of a task, as shims expect it (containerd's contract).
//!
//! ```text
//! <state>/io.containerd.runtime.v2.task/<ns>/<id>/   0700
//!     config.json     the spec, byte for byte        shim-binary-path   what was started
//!     rootfs/         0711, the shim mounts here     bootstrap.json     how to reach it (record.rs)
//!     log             fifo 0700 (log.rs)             work ─► <root>/io.containerd.runtime.v2.task/<ns>/<id>
//!     sandbox         whose shim it is, if the task has none of its own
//! ```
//!
//! The shim of a sandbox has a folder of the same kind below `io.containerd.sandbox.controller.v1.shim`.
//!
//! A folder is removed by renaming it to `.<id>` first, so that half a folder is never taken for a task. Nothing is deleted while
//! something is mounted below it: that would delete a container's files.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::{ContainerId, Namespace};
use nix::sys::stat::Mode;
use tempfile::TempDir;

use super::error::BundleError;
use super::log::LOG_FILE;
use super::record::write_binary;
use super::settings::Settings;
use super::unmount::{mounts_below, unmount_below};
use crate::blocking;

/// What the task is restored from.
const CHECKPOINT_FOLDER: &str = "checkpoint";

/// Names the sandbox in whose shim the task is.
const SANDBOX_FILE: &str = "sandbox";

/// Where a task's files are. The value names them; it does not say that they exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bundle {
    /// The folder.
    pub path: PathBuf,
    /// What a shim may keep across reboots.
    work: PathBuf,
}

impl Bundle {
    /// The folder of a container's task.
    pub(super) fn of(settings: &Settings, namespace: &Namespace, id: &ContainerId) -> Self {
        let below = |top: PathBuf| top.join(namespace.as_str()).join(id.as_str());
        Self { path: below(settings.bundles()), work: below(settings.works()) }
    }

    /// The folder of a sandbox's shim.
    pub(super) fn of_sandbox(settings: &Settings, namespace: &Namespace, id: &ContainerId) -> Self {
        let below = |top: PathBuf| top.join(namespace.as_str()).join(id.as_str());
        Self { path: below(settings.sandboxes()), work: below(settings.sandbox_works()) }
    }

    /// Writes down that the task is in the shim of a sandbox.
    pub(super) fn note_sandbox(&self, sandbox: &str) -> Result<(), BundleError> {
        let path = self.path.join(SANDBOX_FILE);
        fs::write(&path, sandbox).map_err(BundleError::at("write", path))
    }

    /// Makes a folder with a checkpoint a part of this one, and gives its path.
    pub(super) async fn take_checkpoint(&self, folder: Arc<TempDir>) -> Result<String, BundleError> {
        let path = self.path.join(CHECKPOINT_FOLDER);
        let to = path.clone();
        blocking::run(move || fs::rename(folder.path(), &to).map_err(BundleError::at("take over", to))).await?;
        Ok(path.display().to_string())
    }

    /// Whether the task is in the shim of a sandbox.
    pub(super) fn is_in_sandbox(&self) -> bool {
        self.path.join(SANDBOX_FILE).exists()
    }

    /// Makes the folder. On failure there is none.
    ///
    /// # Errors
    /// There is one already, or the disk refuses.
    pub(super) fn create(&self, spec: &[u8], binary: &Path) -> Result<(), BundleError> {
        make_parents(&self.path)?;
        make_parents(&self.work)?;
        match fs::DirBuilder::new().mode(0o700).create(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(BundleError::Exists { path: self.path.clone() });
            }
            made => made.map_err(BundleError::at("make", &self.path))?,
        }
        self.fill(spec, binary).inspect_err(|_| {
            // Nothing is mounted and nobody knows it yet. What fails now is seen and removed at the next start.
            let _ = fs::remove_dir_all(&self.path);
            let _ = fs::remove_dir_all(&self.work);
        })
    }

    fn fill(&self, spec: &[u8], binary: &Path) -> Result<(), BundleError> {
        let rootfs = self.rootfs();
        // The umask must not take away what a container with its own users needs to pass.
        fs::DirBuilder::new().create(&rootfs).map_err(BundleError::at("make", &rootfs))?;
        fs::set_permissions(&rootfs, fs::Permissions::from_mode(0o711)).map_err(BundleError::at("chmod", &rootfs))?;
        if let Some(group) = mapped_root_group(spec).filter(|group| *group != 0) {
            std::os::unix::fs::chown(&self.path, None, Some(group)).map_err(BundleError::at("chown", &self.path))?;
            fs::set_permissions(&self.path, fs::Permissions::from_mode(0o710))
                .map_err(BundleError::at("chmod", &self.path))?;
        }
        let make_work = || fs::DirBuilder::new().mode(0o700).create(&self.work);
        match make_work() {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // It belongs to a task that no longer is.
                remove_tree(&self.work)?;
                make_work()
            }
            made => made,
        }
        .map_err(BundleError::at("make", &self.work))?;
        let link = self.path.join("work");
        std::os::unix::fs::symlink(&self.work, &link).map_err(BundleError::at("make", &link))?;
        let fifo = self.path.join(LOG_FILE);
        nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).map_err(io::Error::from).map_err(BundleError::at("make", &fifo))?;
        write_binary(&self.path, binary)?;
        if spec.is_empty() {
            // A sandbox need not have one.
            return Ok(());
        }
        let config = self.path.join("config.json");
        let write = || {
            use std::io::Write;
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&config)?.write_all(spec)
        };
        write().map_err(BundleError::at("write", &config))
    }

    /// Where the shim mounts the root filesystem.
    pub(super) fn rootfs(&self) -> PathBuf {
        self.path.join("rootfs")
    }

    /// Unmounts what is below the folder and removes it, and what the shim kept besides. None is no error.
    ///
    /// # Errors
    /// A mount stays, in which case nothing was deleted, or the disk refuses.
    pub(super) fn remove(&self) -> Result<(), BundleError> {
        unmount_below(&self.path).map_err(BundleError::at("unmount", &self.path))?;
        let (Some(parent), Some(name)) = (self.path.parent(), self.path.file_name()) else { return Ok(()) };
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        let hidden = parent.join(hidden);
        remove_tree(&hidden)?;
        match fs::rename(&self.path, &hidden) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            renamed => {
                renamed.map_err(BundleError::at("rename", &self.path))?;
                // That nothing is mounted there was seen above, and the table of mounts is long on a busy machine.
                fs::remove_dir_all(&hidden).map_err(BundleError::at("remove", &hidden))?;
            }
        }
        match fs::remove_dir(&self.work) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => remove_tree(&self.work),
            _ => Ok(()),
        }
    }
}

/// Deletes a folder with all that is in it, unless something is mounted there.
pub(super) fn remove_tree(folder: &Path) -> Result<(), BundleError> {
    match fs::symlink_metadata(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found.map_err(BundleError::at("look at", folder))?,
    };
    if let Some(path) = mounts_below(folder).map_err(BundleError::at("look below", folder))?.into_iter().next() {
        return Err(BundleError::Mounted { path });
    }
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(BundleError::at("remove", folder)),
    }
}

/// The two folders above a task's: passable for everybody, since a container with users of its own goes through them.
fn make_parents(path: &Path) -> Result<(), BundleError> {
    let Some(parent) = path.parent() else { return Ok(()) };
    fs::DirBuilder::new().recursive(true).mode(0o711).create(parent).map_err(BundleError::at("make", parent))
}

/// The host's group that is root in the container, if it has users of its own.
fn mapped_root_group(spec: &[u8]) -> Option<u32> {
    #[derive(serde::Deserialize)]
    struct Spec {
        linux: Option<Linux>,
    }
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Linux {
        #[serde(default)]
        gid_mappings: Vec<Mapping>,
    }
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Mapping {
        #[serde(rename = "containerID")]
        container_id: u32,
        #[serde(rename = "hostID")]
        host_id: u32,
    }
    // A spec that makes no sense is for the runtime to refuse, in words that clients know.
    let spec: Spec = serde_json::from_slice(spec).ok()?;
    let mappings = spec.linux?.gid_mappings;
    mappings.iter().find(|mapping| mapping.container_id == 0).map(|mapping| mapping.host_id)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};

    use super::super::tests::settings;
    use super::*;

    fn bundle(folder: &Path) -> Bundle {
        let (namespace, id) = (Namespace::new("ns").unwrap(), ContainerId::new("c1").unwrap());
        Bundle::of(&settings(folder), &namespace, &id)
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn entries_and_modes_as_a_table() {
        let folder = tempfile::tempdir().unwrap();
        let bundle = bundle(folder.path());
        assert!(bundle.path.ends_with("state/io.containerd.runtime.v2.task/ns/c1"), "{:?}", bundle.path);
        bundle.create(b"{\"spec\": true}", Path::new("/bin/shim")).unwrap();
        for (name, wanted) in
            [("", 0o700), ("rootfs", 0o711), ("log", 0o700), ("config.json", 0o600), ("shim-binary-path", 0o600)]
        {
            assert_eq!(mode(&bundle.path.join(name)), wanted, "{name}: {:o}", mode(&bundle.path.join(name)));
        }
        assert_eq!(mode(bundle.path.parent().unwrap()), 0o711);
        assert!(fs::symlink_metadata(bundle.path.join("log")).unwrap().file_type().is_fifo());
        assert_eq!(fs::read_link(bundle.path.join("work")).unwrap(), bundle.work);
        assert_eq!(mode(&bundle.work), 0o700);
        assert_eq!(fs::read(bundle.path.join("config.json")).unwrap(), b"{\"spec\": true}");
        assert_eq!(fs::read(bundle.path.join("shim-binary-path")).unwrap(), b"/bin/shim");

        bundle.remove().unwrap();
        assert!(!bundle.path.exists() && !bundle.work.exists());
        assert_eq!(fs::read_dir(bundle.path.parent().unwrap()).unwrap().count(), 0);
        bundle.remove().unwrap();
    }

    #[test]
    fn a_second_bundle_is_refused_and_the_first_stays() {
        let folder = tempfile::tempdir().unwrap();
        let bundle = bundle(folder.path());
        bundle.create(b"1", Path::new("/s")).unwrap();
        assert!(matches!(bundle.create(b"2", Path::new("/s")), Err(BundleError::Exists { .. })));
        assert_eq!(fs::read(bundle.path.join("config.json")).unwrap(), b"1");
    }

    #[test]
    fn a_failed_creation_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let bundle = bundle(folder.path());
        // The work folder cannot be made where a file is in the way of its parent.
        fs::create_dir_all(folder.path().join("root/io.containerd.runtime.v2.task")).unwrap();
        fs::write(folder.path().join("root/io.containerd.runtime.v2.task/ns"), "in the way").unwrap();
        assert!(bundle.create(b"1", Path::new("/s")).is_err());
        assert!(!bundle.path.exists());
    }

    #[test]
    fn work_left_by_another_task_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let bundle = bundle(folder.path());
        fs::create_dir_all(&bundle.work).unwrap();
        fs::write(bundle.work.join("old"), "").unwrap();
        bundle.create(b"1", Path::new("/s")).unwrap();
        assert_eq!(fs::read_dir(&bundle.work).unwrap().count(), 0);
    }

    #[test]
    fn the_group_of_a_mapped_root_may_pass() {
        for (spec, group) in [
            (r#"{"linux":{"gidMappings":[{"containerID":1,"hostID":5},{"containerID":0,"hostID":7}]}}"#, Some(7)),
            (r#"{"linux":{"gidMappings":[]}}"#, None),
            (r#"{"linux":{}}"#, None),
            ("{}", None),
            ("no json", None),
        ] {
            assert_eq!(mapped_root_group(spec.as_bytes()), group, "{spec}");
        }
        if !nix::unistd::geteuid().is_root() {
            return eprintln!("skipped: chown needs root");
        }
        let folder = tempfile::tempdir().unwrap();
        let bundle = bundle(folder.path());
        let spec = br#"{"linux":{"gidMappings":[{"containerID":0,"hostID":100000,"size":1}]}}"#;
        bundle.create(spec, Path::new("/s")).unwrap();
        assert_eq!((mode(&bundle.path), fs::metadata(&bundle.path).unwrap().gid()), (0o710, 100_000));
    }

    #[test]
    fn mounts_are_taken_down_before_anything_is_deleted() {
        if !nix::unistd::geteuid().is_root() {
            return eprintln!("skipped: mounting needs root");
        }
        let folder = tempfile::tempdir().unwrap();
        let bundle = bundle(folder.path());
        bundle.create(b"1", Path::new("/s")).unwrap();
        let precious = folder.path().join("precious");
        fs::create_dir(&precious).unwrap();
        fs::write(precious.join("file"), "keep me").unwrap();
        let none: Option<&str> = None;
        for _ in 0..2 {
            nix::mount::mount(Some(&precious), &bundle.rootfs(), none, nix::mount::MsFlags::MS_BIND, none).unwrap();
        }
        assert!(matches!(remove_tree(&bundle.path), Err(BundleError::Mounted { .. })));
        bundle.remove().unwrap();
        assert_eq!(fs::read(precious.join("file")).unwrap(), b"keep me");
        assert!(!bundle.path.exists());
        assert_eq!(mounts_below(folder.path()).unwrap(), Vec::<PathBuf>::new());
    }
}
