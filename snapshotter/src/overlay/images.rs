//! Layers that are one image each: whether this machine mounts such, and their mounts.
//!
//! The image of a committed snapshot is mounted where its files would be, when somebody is about to stand on it, and stays mounted
//! until the snapshot is removed. Whether it is mounted is asked of the kernel each time, so nothing here can be out of date: not
//! after a restart, not after a reboot, not after somebody unmounted it. An overlay that stands on a layer has a mount of its own
//! of it, so taking ours down disturbs nobody.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::fs::stat;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::{LayerFormat, dirs};
use crate::SnapshotError;
use crate::folders::Folders;

/// The file system of images.
const EROFS: &str = "erofs";

pub(super) struct Images {
    format: LayerFormat,
    root: PathBuf,
    /// Whether images can be mounted here; asked once, when the first layer comes.
    usable: OnceLock<bool>,
    /// Only one at a time mounts.
    mounting: Mutex<()>,
    /// Snapshots whose layer is known to be a folder: it stays one.
    are_folders: Mutex<HashSet<u64>>,
    /// Active snapshots that were made for an extraction by this process, and nothing else.
    extractions: Mutex<HashSet<u64>>,
}

impl Images {
    pub(super) fn new(root: &Path, format: LayerFormat) -> Self {
        Self {
            format,
            root: root.to_owned(),
            usable: OnceLock::new(),
            mounting: Mutex::new(()),
            are_folders: Mutex::default(),
            extractions: Mutex::default(),
        }
    }

    /// Whether new layers are to be images.
    ///
    /// # Errors
    /// They are to be, and this machine cannot mount them.
    pub(super) fn wanted(&self) -> Result<bool, SnapshotError> {
        if self.format == LayerFormat::Dir {
            return Ok(false);
        }
        let usable = *self.usable.get_or_init(|| match probe(&self.root.join("probe")) {
            Ok(()) => true,
            Err(error) => {
                tracing::info!(root = %self.root.display(), %error, "layers are kept as folders: images cannot be mounted here");
                false
            }
        });
        if !usable && self.format == LayerFormat::Erofs {
            let source = io::Error::from(io::ErrorKind::Unsupported);
            return Err(SnapshotError::Io { doing: "mount EROFS images below", path: self.root.clone(), source });
        }
        Ok(usable)
    }

    /// Notes that an active snapshot was made for an extraction.
    pub(super) fn begin(&self, id: u64) {
        lock(&self.extractions).insert(id);
    }

    /// Whether an active snapshot was made for an extraction and nobody asked for its mounts again.
    pub(super) fn is_extraction(&self, id: u64) -> bool {
        lock(&self.extractions).contains(&id)
    }

    /// Notes that an active snapshot is no longer for an extraction alone.
    pub(super) fn end(&self, id: u64) {
        lock(&self.extractions).remove(&id);
    }

    /// Makes sure that the files of these committed snapshots can be seen.
    pub(super) fn show(&self, folders: &Folders, ids: &[u64]) -> Result<(), SnapshotError> {
        ids.iter().try_for_each(|id| self.show_one(&folders.path(*id), *id))
    }

    fn show_one(&self, snapshot: &Path, id: u64) -> Result<(), SnapshotError> {
        if lock(&self.are_folders).contains(&id) {
            return Ok(());
        }
        let image = dirs::image(snapshot);
        if !image.exists() {
            lock(&self.are_folders).insert(id);
            return Ok(());
        }
        let place = dirs::fs(snapshot);
        let failed = |error: Errno| SnapshotError::io("mount", &*image)(error);
        if is_mounted(snapshot, &place).map_err(failed)? {
            return Ok(());
        }
        let _one = lock(&self.mounting);
        if !is_mounted(snapshot, &place).map_err(failed)? {
            mount_image(&image, &place).map_err(failed)?;
        }
        Ok(())
    }

    /// Takes down what [`Self::show`] mounted.
    pub(super) fn hide(&self, snapshot: &Path, id: u64) {
        self.end(id);
        lock(&self.are_folders).remove(&id);
        take_down(&dirs::fs(snapshot));
    }

    /// Mounts an image elsewhere, for as long as `look` takes.
    pub(super) fn with<T>(&self, snapshot: &Path, look: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
        let place = dirs::look(snapshot);
        let _one = lock(&self.mounting);
        take_down(&place);
        match fs::create_dir(&place) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        mount_image(&dirs::image(snapshot), &place)?;
        let outcome = look(&place);
        take_down(&place);
        fs::remove_dir(&place)?;
        outcome
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Sets stay whole whatever happens.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether something is mounted on a folder of the snapshot's.
fn is_mounted(snapshot: &Path, place: &Path) -> rustix::io::Result<bool> {
    Ok(stat(place)?.st_dev != stat(snapshot)?.st_dev)
}

fn mount_image(image: &Path, place: &Path) -> rustix::io::Result<()> {
    mount(image, place, EROFS, MountFlags::RDONLY, None)
}

/// Unmounts what is mounted at a place, if anything is. Those who have it open keep it.
fn take_down(place: &Path) {
    loop {
        match unmount(place, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT | Errno::PERM) => return,
            Err(error) => {
                tracing::warn!(path = %place.display(), %error, "layer not unmounted");
                return;
            }
        }
    }
}

/// Whether the kernel mounts an image from a file, and an overlay on top of it.
fn probe(place: &Path) -> io::Result<()> {
    let [image, lower, other, top] = ["image", "lower", "other", "top"].map(|name| place.join(name));
    for folder in [&lower, &other, &top] {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let file = File::options().write(true).create(true).truncate(true).open(&image)?;
    crate::erofs::empty(file)?;
    let outcome = mount_image(&image, &lower).and_then(|()| {
        let options = std::ffi::CString::new(format!("lowerdir={}:{}", lower.display(), other.display()))
            .map_err(|_| Errno::INVAL)?;
        let outcome = mount("overlay", &top, "overlay", MountFlags::RDONLY, &*options);
        take_down(&top);
        outcome
    });
    take_down(&lower);
    fs::remove_dir_all(place)?;
    Ok(outcome?)
}
