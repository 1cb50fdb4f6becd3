//! The container's root filesystem: the mounts of a create request, put on `rootfs` of the bundle and taken off again.
//!
//! All or nothing: when one mount fails, those before it are undone. Taking off never gives up: what is busy is detached.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use model::Mount;
use model::error::{Classify, Kind};
use model::mount_options::{MountFlags, MountOptions, parse, shorten};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::mount::OpenTreeFlags;

use crate::log;

/// What the kernel takes as data at most: a page, with the zero at its end.
const MAX_DATA_BYTES: usize = 4095;

/// How many mounts may lie on one point before we call it a loop.
const MAX_STACKED: usize = 128;

/// A mount that failed; everything before it was undone.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RootfsError {
    /// The kernel refused.
    #[error("failed to mount rootfs component: mount {kind} {mount_source:?} on {}", target.display())]
    Mount {
        /// The filesystem.
        kind: String,
        /// What was to be mounted.
        mount_source: String,
        /// Where.
        target: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// More layers than fit.
    #[error(
        "failed to mount rootfs component: the options of mount {kind} have {bytes} bytes, the kernel takes {MAX_DATA_BYTES}"
    )]
    TooLong {
        /// The filesystem.
        kind: String,
        /// Their size, as short as they could be made.
        bytes: usize,
    },
    /// An option that is more than a flag or data.
    #[error("failed to mount rootfs component: option {option:?} of mount {kind} is not supported")]
    Unsupported {
        /// The filesystem.
        kind: String,
        /// The option.
        option: String,
    },
    /// The place for a mount is not there.
    #[error("failed to mount rootfs component: no target {target:?} in {}", rootfs.display())]
    Target {
        /// Where it was to be, inside.
        target: String,
        /// The root.
        rootfs: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl Classify for RootfsError {
    fn kind(&self) -> Kind {
        match self {
            Self::Mount { .. } => Kind::Unknown,
            Self::TooLong { .. } => Kind::InvalidArgument,
            Self::Unsupported { .. } => Kind::Unimplemented,
            Self::Target { source, .. } => model::error::io_kind(source),
        }
    }
}

/// Mounts all of `mounts`, in order, on `rootfs`.
///
/// # Errors
/// See [`RootfsError`]; nothing stays mounted.
pub(crate) fn mount_all(mounts: &[Mount], rootfs: &Path) -> Result<(), RootfsError> {
    for each in mounts {
        if let Err(error) = mount_one(each, rootfs) {
            drop(unmount_all(rootfs));
            return Err(error);
        }
    }
    Ok(())
}

fn mount_one(each: &Mount, rootfs: &Path) -> Result<(), RootfsError> {
    let mut parsed = parse(each.options.iter().map(String::as_str));
    // Kernels that have the filesystem with files in place of devices need no loop device.
    parsed.special.retain(|option| option != "loop" || each.kind != "erofs");
    if let Some(option) = parsed.special.into_iter().next() {
        return Err(RootfsError::Unsupported { kind: each.kind.clone(), option });
    }
    parsed.special = Vec::new();
    let (_held, target) = resolve(&each.target, rootfs)?;
    let (folder, data) = fitting(each, &parsed)?;
    let failed = |source| RootfsError::Mount {
        kind: each.kind.clone(),
        mount_source: each.source.clone(),
        target: rootfs.join(&each.target),
        source,
    };
    perform(each, &parsed, &target, folder.as_deref(), &data).map_err(failed)
}

/// The data of the mount as one string, and the folder to be in when layers are named relative to it.
fn fitting(each: &Mount, parsed: &MountOptions) -> Result<(Option<String>, String), RootfsError> {
    let data = parsed.data.join(",");
    if data.len() <= MAX_DATA_BYTES {
        return Ok((None, data));
    }
    let (folder, data) = match shorten(&parsed.data).filter(|_| each.kind == "overlay") {
        Some((folder, data)) => (Some(folder), data.join(",")),
        None => (None, data),
    };
    if data.len() > MAX_DATA_BYTES {
        return Err(RootfsError::TooLong { kind: each.kind.clone(), bytes: data.len() });
    }
    Ok((folder, data))
}

/// Where a mount goes: the root, or a place inside that no link of the image can lead out of.
fn resolve(target: &str, rootfs: &Path) -> Result<(Option<OwnedFd>, PathBuf), RootfsError> {
    let inside = target.trim_matches('/');
    if inside.is_empty() {
        return Ok((None, rootfs.to_owned()));
    }
    let open = || -> io::Result<OwnedFd> {
        let root = rustix::fs::open(rootfs, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        Ok(rustix::fs::openat2(
            &root,
            inside,
            flags,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )?)
    };
    let fd = open().map_err(|source| RootfsError::Target {
        target: target.to_owned(),
        rootfs: rootfs.to_owned(),
        source,
    })?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    Ok((Some(fd), path))
}

fn perform(each: &Mount, parsed: &MountOptions, target: &Path, folder: Option<&str>, data: &str) -> io::Result<()> {
    let data = (!data.is_empty()).then(|| CString::new(data)).transpose()?;
    let kind = (!each.kind.is_empty() && each.kind != "bind").then_some(each.kind.as_str());
    let mut flags = native(parsed.flags);
    if each.kind == "bind" {
        flags |= MsFlags::MS_BIND;
    }
    let home = match folder {
        Some(folder) => {
            let home = rustix::fs::openat(CWD, ".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            std::env::set_current_dir(folder)?;
            Some(home)
        }
        None => None,
    };
    let mounted = mount(Some(each.source.as_str()), target, kind, flags, data.as_deref());
    if let Some(home) = home {
        rustix::process::fchdir(home)?;
    }
    mounted?;
    // A bind mount takes over the flags of what it shows; those asked for need a second call.
    let extra = flags.difference(MsFlags::MS_BIND | MsFlags::MS_REC | MsFlags::MS_REMOUNT);
    if flags.contains(MsFlags::MS_BIND) && !flags.contains(MsFlags::MS_REMOUNT) && !extra.is_empty() {
        let again = extra | MsFlags::MS_BIND | MsFlags::MS_REMOUNT;
        if let Err(error) = mount(None::<&str>, target, None::<&str>, again, None::<&str>) {
            let _ = umount2(target, MntFlags::MNT_DETACH);
            return Err(error.into());
        }
    }
    for propagation in &parsed.propagation {
        mount(None::<&str>, target, None::<&str>, native(*propagation), None::<&str>)?;
    }
    Ok(())
}

/// The same flags as the kernel's binding has them.
fn native(flags: MountFlags) -> MsFlags {
    MsFlags::from_bits_retain(flags.bits())
}

/// Unmounts all that is on and below `rootfs`, the deepest first. Nothing mounted is no error. What comes back is perhaps the
/// last hold on an overlay: to let go of it takes long, and nobody need wait for that.
pub(crate) fn unmount_all(rootfs: &Path) -> Option<OwnedFd> {
    let held = take_off(rootfs).unwrap_or_else(|error| {
        log::debug!("{}: unmounting it in place: {error}", rootfs.display());
        None
    });
    // The common case: one mount, nobody in it.
    if peel(rootfs) {
        return held;
    }
    for point in mount_points(rootfs).unwrap_or_default() {
        if !peel(&point) {
            log::warning!("{} is busy and was only detached", point.display());
            let _ = umount2(&point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
        }
    }
    if !peel(rootfs) {
        let _ = umount2(rootfs, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
    }
    held
}

/// Takes an overlay off its mount point at once; the caller lets go of it.
///
/// The last one to let go of an overlay waits until the whole filesystem below its upper folder is written to disk
/// (Linux, `fs/overlayfs/super.c`, `ovl_sync_fs`), which on a busy machine takes longer than the rest of a container's life.
/// Nobody relies on that: who needs the folder on disk, a commit for one, syncs it.
fn take_off(rootfs: &Path) -> io::Result<Option<OwnedFd>> {
    const OVERLAYFS_SUPER_MAGIC: i64 = 0x794c_7630;
    let kind = match rustix::fs::statfs(rootfs) {
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        answer => answer?.f_type,
    };
    if kind != OVERLAYFS_SUPER_MAGIC {
        return Ok(None);
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    let mounted = rustix::mount::open_tree(rustix::fs::CWD, rootfs, flags)?;
    umount2(rootfs, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?;
    Ok(Some(mounted))
}

/// Takes off every mount stacked on one point; false when one is busy.
fn peel(point: &Path) -> bool {
    for _ in 0..MAX_STACKED {
        match umount2(point, MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => return true,
            Err(_) => return false,
        }
    }
    false
}

/// All mount points at or below `root`, the youngest first.
fn mount_points(root: &Path) -> io::Result<Vec<PathBuf>> {
    let root = std::fs::canonicalize(root)?;
    let mut points = Vec::new();
    for line in io::BufRead::split(io::BufReader::new(File::open("/proc/self/mountinfo")?), b'\n') {
        let line = line?;
        if let Some(field) = line.split(|byte| *byte == b' ').nth(4) {
            let point = unescape(field);
            if point.starts_with(&root) {
                points.push(point);
            }
        }
    }
    points.reverse();
    Ok(points)
}

/// The kernel writes blanks and backslashes of a path as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let digits = (first == b'\\').then(|| tail.get(..3)).flatten();
        let value = digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        path.push(value.unwrap_or(first));
        rest = if value.is_some() { &tail[3..] } else { tail };
    }
    PathBuf::from(std::ffi::OsString::from_vec(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(source: &Path, options: &[&str]) -> Mount {
        Mount {
            kind: "bind".into(),
            source: source.display().to_string(),
            target: String::new(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        }
    }

    fn is_root() -> bool {
        let root = rustix::process::geteuid().is_root();
        if !root {
            eprintln!("skipped: mounting needs root");
        }
        root
    }

    #[test]
    fn kernel_escapes_are_undone() {
        assert_eq!(unescape(br"/a\040b\134c"), PathBuf::from(r"/a b\c"));
        assert_eq!(unescape(br"/a\04"), PathBuf::from(r"/a\04"));
    }

    #[test]
    fn a_read_only_bind_is_read_only_and_goes_away() {
        if !is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let (source, rootfs) = (folder.path().join("source"), folder.path().join("root fs"));
        std::fs::create_dir(&source).unwrap();
        std::fs::create_dir(&rootfs).unwrap();
        std::fs::write(source.join("file"), "x").unwrap();
        mount_all(&[bind(&source, &["rbind", "ro"])], &rootfs).unwrap();
        assert_eq!(std::fs::read_to_string(rootfs.join("file")).unwrap(), "x");
        let refused = std::fs::write(rootfs.join("file"), "y").unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
        drop(unmount_all(&rootfs));
        assert!(!rootfs.join("file").exists());
    }

    #[test]
    fn a_failure_undoes_what_was_mounted_and_names_it() {
        if !is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let rootfs = folder.path().join("rootfs");
        std::fs::create_dir(&rootfs).unwrap();
        let mut nested = bind(folder.path(), &[]);
        nested.target = "missing".into();
        let refused = mount_all(&[bind(folder.path(), &[]), nested], &rootfs).unwrap_err();
        assert!(matches!(refused, RootfsError::Target { .. }), "{refused}");
        assert_eq!(mount_points(&rootfs).unwrap(), Vec::<PathBuf>::new());
        let wrong = Mount { kind: "nosuchfs".into(), source: "x".into(), ..Mount::default() };
        let refused = mount_all(&[wrong], &rootfs).unwrap_err();
        assert!(refused.wire_message().contains("nosuchfs"), "{}", refused.wire_message());
    }

    #[test]
    fn nested_and_busy_mounts_are_all_taken_off() {
        if !is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let rootfs = folder.path().join("rootfs");
        std::fs::create_dir(&rootfs).unwrap();
        let source = folder.path().join("source");
        std::fs::create_dir_all(source.join("inner")).unwrap();
        let mut nested = bind(folder.path(), &[]);
        nested.target = "/inner".into();
        mount_all(&[bind(&source, &[]), nested], &rootfs).unwrap();
        let busy = File::open(rootfs.join("inner")).unwrap();
        assert_eq!(mount_points(&rootfs).unwrap().len(), 2);
        drop(unmount_all(&rootfs));
        drop(busy);
        assert_eq!(mount_points(&rootfs).unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn an_overlay_is_off_its_mount_point_at_once() {
        if !is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["lower", "upper", "work", "rootfs"] {
            std::fs::create_dir(path(name)).unwrap();
        }
        let option = |key: &str, name: &str| format!("{key}={}", path(name).display());
        let options = vec![option("lowerdir", "lower"), option("upperdir", "upper"), option("workdir", "work")];
        let overlay = Mount { kind: "overlay".into(), source: "overlay".into(), target: String::new(), options };
        mount_all(std::slice::from_ref(&overlay), &path("rootfs")).unwrap();
        std::fs::write(path("rootfs/kept"), "by the upper folder").unwrap();
        let held = take_off(&path("rootfs")).unwrap();
        assert!(held.is_some());
        assert_eq!(mount_points(&path("rootfs")).unwrap(), Vec::<PathBuf>::new());
        assert!(path("upper/kept").exists());
        // It can be mounted again at once, as a container that is started again needs it.
        mount_all(&[overlay], &path("rootfs")).unwrap();
        drop(unmount_all(&path("rootfs")));
        assert_eq!(mount_points(&path("rootfs")).unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn many_layers_fit_by_shorter_names() {
        if !is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let layers = folder.path().join("x".repeat(60));
        let rootfs = folder.path().join("rootfs");
        std::fs::create_dir(&rootfs).unwrap();
        let names: Vec<String> = (0..80).map(|n| layers.join(n.to_string()).display().to_string()).collect();
        for name in &names {
            std::fs::create_dir_all(name).unwrap();
        }
        std::fs::write(layers.join("79").join("deep"), "x").unwrap();
        let overlay = Mount {
            kind: "overlay".into(),
            source: "overlay".into(),
            target: String::new(),
            options: vec![format!("lowerdir={}", names.join(":"))],
        };
        assert!(overlay.options[0].len() > MAX_DATA_BYTES);
        let before = std::env::current_dir().unwrap();
        mount_all(&[overlay], &rootfs).unwrap();
        assert_eq!(std::env::current_dir().unwrap(), before);
        assert!(rootfs.join("deep").exists());
        drop(unmount_all(&rootfs));
    }
}
