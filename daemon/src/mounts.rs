//! Mounting what a snapshot says, for the few cases where its folders cannot be read off the mounts.
//!
//! Mounts are made below a folder of the daemon's and taken down when the guard is dropped; what a crash left is taken down at the
//! next start. Clients and shims mount for themselves; nothing here is for a container. It blocks.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use model::Mount;
use model::error::{Classify, Kind};
use model::mount_options::{parse, shorten};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use tracing::warn;

/// The kernel takes no more than a page of mount options.
const MAX_OPTION_BYTES: usize = 4096 - 1;

/// The most mounts in one list.
const MAX_LAYERS: usize = 64;

/// How often, and with which pause, a busy mount is tried again before it is only detached.
const UNMOUNT_TRIES: u32 = 5;
const UNMOUNT_PAUSE: Duration = Duration::from_millis(20);

/// Why something could not be mounted. Nothing stays mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// No mounts.
    #[error("there is nothing to mount")]
    Nothing,
    /// More mounts than anybody needs.
    #[error("{count} mounts on top of each other, {MAX_LAYERS} are allowed")]
    TooMany {
        /// How many.
        count: usize,
    },
    /// A kind of mount, or an option, that needs more than the kernel.
    #[error("mount of type {kind:?} with {what:?}")]
    Unsupported {
        /// The type.
        kind: String,
        /// What about it.
        what: String,
    },
    /// The place below the root is not inside it.
    #[error("mount target {target:?} is not below the root")]
    Target {
        /// The place.
        target: String,
    },
    /// More options than the kernel takes.
    #[error("mount options of {length} bytes, the kernel takes {MAX_OPTION_BYTES}")]
    TooLong {
        /// Their length.
        length: usize,
    },
    /// The folder for the mount cannot be made.
    #[error("cannot make {}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel refused.
    #[error("cannot mount {source_name:?} of type {kind:?}")]
    Kernel {
        /// What was to be mounted.
        source_name: String,
        /// Its type.
        kind: String,
        /// What the system said.
        source: io::Error,
    },
}

impl Classify for MountError {
    fn kind(&self) -> Kind {
        match self {
            Self::Nothing | Self::TooMany { .. } | Self::Target { .. } | Self::TooLong { .. } => Kind::InvalidArgument,
            Self::Unsupported { .. } => Kind::Unimplemented,
            Self::Folder { .. } | Self::Kernel { .. } => Kind::Unknown,
        }
    }
}

/// The folder below which the daemon mounts for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountDir {
    path: PathBuf,
}

impl MountDir {
    /// Uses the folder `path`, which is made when it is needed.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Takes down what an earlier process left, as far as that is possible.
    pub fn clear(&self) {
        let Ok(entries) = fs::read_dir(&self.path) else { return };
        for entry in entries.flatten() {
            // There may be mounts below it.
            take_down(&entry.path(), MntFlags::MNT_DETACH);
        }
    }

    /// Mounts these mounts on top of each other in a fresh folder.
    ///
    /// # Errors
    /// [`MountError`]; what was mounted until then is taken down.
    pub fn mount(&self, mounts: &[Mount]) -> Result<Mounted, MountError> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        if mounts.is_empty() {
            return Err(MountError::Nothing);
        }
        if mounts.len() > MAX_LAYERS {
            return Err(MountError::TooMany { count: mounts.len() });
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let path = self.path.join(format!("{now}-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.map_err(|source| MountError::Folder { path: path.clone(), source })?;
        // A root with mounts below it can only be detached together with them.
        let nested = mounts.iter().any(|mount| !mount.target.trim_start_matches('/').is_empty());
        let mounted = Mounted { path, flags: if nested { MntFlags::MNT_DETACH } else { MntFlags::empty() } };
        for mount in mounts {
            mount_one(&mounted.path, mount)?;
        }
        Ok(mounted)
    }
}

/// Something that is mounted, until this is dropped.
#[derive(Debug)]
#[must_use = "it is taken down at once"]
pub struct Mounted {
    path: PathBuf,
    flags: MntFlags,
}

impl Mounted {
    /// Where.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        take_down(&self.path, self.flags);
    }
}

/// Mounts these mounts on top of each other on the folder `path`, to stay there when this process has ended.
///
/// # Errors
/// [`MountError`]; what was mounted until then is taken down.
pub fn mount_at(path: &Path, mounts: &[Mount]) -> Result<(), MountError> {
    if mounts.is_empty() {
        return Err(MountError::Nothing);
    }
    if mounts.len() > MAX_LAYERS {
        return Err(MountError::TooMany { count: mounts.len() });
    }
    for (number, one) in mounts.iter().enumerate() {
        if let Err(error) = mount_one(path, one) {
            for _ in 0..number {
                // The error that is told is the one that came first.
                let _ = unmount(path, MntFlags::MNT_DETACH);
            }
            return Err(error);
        }
    }
    Ok(())
}

/// Unmounts everything at `path`; it is well if nothing is.
///
/// # Errors
/// The kernel refuses.
pub fn unmount_at(path: &Path) -> io::Result<()> {
    for _ in 0..MAX_LAYERS {
        if !unmount(path, MntFlags::empty())? {
            break;
        }
    }
    Ok(())
}

/// Whether something is mounted on `path`, which has no links in it.
pub fn is_mounted(path: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().any(|line| line.split(' ').nth(4).is_some_and(|point| Path::new(point) == path))
}

/// Unmounts everything at `path` and removes the folder, which is never done through a mount.
fn take_down(path: &Path, flags: MntFlags) {
    for _ in 0..MAX_LAYERS {
        match unmount(path, flags) {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => {
                warn!(path = %path.display(), %error, "cannot unmount");
                return;
            }
        }
    }
    if let Err(error) = fs::remove_dir(path) {
        warn!(path = %path.display(), %error, "cannot remove a mount point");
    }
}

/// Unmounts the uppermost mount at `path`, by detaching it if it stays busy; whether there was one.
fn unmount(path: &Path, flags: MntFlags) -> Result<bool, nix::Error> {
    for _ in 0..UNMOUNT_TRIES {
        match umount2(path, flags | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => return Ok(true),
            Err(nix::Error::EINVAL | nix::Error::ENOENT) => return Ok(false),
            Err(nix::Error::EBUSY) => std::thread::sleep(UNMOUNT_PAUSE),
            Err(_) => break,
        }
    }
    umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).map(|()| true)
}

/// The flags and the data of a list of options.
fn options(kind: &str, all: &[String]) -> Result<(MsFlags, Vec<String>), MountError> {
    let parsed = parse(all.iter().map(String::as_str));
    // Nothing below a mount of ours changes, so how that would spread is nobody's concern.
    match parsed.special.into_iter().next() {
        Some(what) => Err(MountError::Unsupported { kind: kind.to_owned(), what }),
        None => Ok((MsFlags::from_bits_retain(parsed.flags.bits()), parsed.data)),
    }
}

fn mount_one(root: &Path, one: &Mount) -> Result<(), MountError> {
    if one.kind.contains('/') {
        // Types with a prefix are for a mount manager.
        return Err(MountError::Unsupported { kind: one.kind.clone(), what: one.source.clone() });
    }
    let (mut flags, data) = options(&one.kind, &one.options)?;
    if one.kind == "bind" {
        flags |= MsFlags::MS_BIND;
    }
    let refused = |error: nix::Error| MountError::Kernel {
        source_name: one.source.clone(),
        kind: one.kind.clone(),
        source: error.into(),
    };
    let place = Place::below(root, &one.target)?;
    let joined = data.join(",");
    let is_bind = flags.contains(MsFlags::MS_BIND);
    if joined.len() > MAX_OPTION_BYTES {
        return mount_from_common_folder(one, &data, flags, &place.path).unwrap_or_else(|error| Err(refused(error)));
    }
    let kind = (!is_bind).then_some(one.kind.as_str());
    let data = Some(joined.as_str()).filter(|data| !data.is_empty() && !is_bind);
    mount(Some(one.source.as_str()), &place.path, kind, flags, data).map_err(refused)?;
    if is_bind && flags.intersects(!(MsFlags::MS_BIND | MsFlags::MS_REC)) {
        // The kernel looks at the other flags of a bind mount only when it is mounted again. For a place below the root the
        // descriptor shows what is underneath, so it has to be looked up anew.
        let place = Place::below(root, &one.target)?;
        let again = (flags - MsFlags::MS_REC) | MsFlags::MS_BIND | MsFlags::MS_REMOUNT;
        mount(None::<&str>, &place.path, None::<&str>, again, None::<&str>).map_err(refused)?;
    }
    Ok(())
}

/// Where to mount, held so that no link in it can lead elsewhere meanwhile.
struct Place {
    path: PathBuf,
    _held: Option<OwnedFd>,
}

impl Place {
    fn below(root: &Path, target: &str) -> Result<Self, MountError> {
        let relative = target.trim_start_matches('/');
        if relative.is_empty() {
            return Ok(Self { path: root.to_owned(), _held: None });
        }
        let outside = || MountError::Target { target: target.to_owned() };
        if Path::new(relative).components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
            return Err(outside());
        }
        let root = openat2(
            CWD,
            root,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::empty(),
        );
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let found = root.and_then(|root| openat2(root.as_fd(), relative, flags, Mode::empty(), ResolveFlags::IN_ROOT));
        let found = found.map_err(|error| MountError::Folder { path: target.into(), source: error.into() })?;
        Ok(Self { path: format!("/proc/self/fd/{}", found.as_raw_fd()).into(), _held: Some(found) })
    }
}

/// Mounts an overlay of so many layers that their names do not fit: from within the folder that they share, with short names.
/// A thread of its own goes there, so that nobody else's current folder changes.
fn mount_from_common_folder(
    one: &Mount,
    data: &[String],
    flags: MsFlags,
    place: &Path,
) -> Result<Result<(), MountError>, nix::Error> {
    let too_long = |length| Ok(Err(MountError::TooLong { length }));
    let Some((common, shortened)) = shorten(data) else { return too_long(data.join(",").len()) };
    let shortened = shortened.join(",");
    if shortened.len() > MAX_OPTION_BYTES {
        return too_long(shortened.len());
    }
    let mounted = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS)?;
            nix::unistd::chdir(common.as_str())?;
            mount(Some(one.source.as_str()), place, Some(one.kind.as_str()), flags, Some(shortened.as_str()))
        });
        thread.join().unwrap_or(Err(nix::Error::EIO))
    });
    mounted.map(Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(kind: &str, source: &Path, target: &str, options: &[&str]) -> Mount {
        Mount {
            kind: kind.into(),
            source: source.display().to_string(),
            target: target.into(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        }
    }

    #[test]
    fn options_are_flags_or_for_the_filesystem() {
        let read = |all: &[&str]| options("overlay", &all.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>());
        let read = |all: &[&str]| read(all).ok().map(|(flags, data)| (flags, data.join(",")));
        assert_eq!(
            read(&["ro", "rbind"]),
            Some((MsFlags::MS_RDONLY | MsFlags::MS_BIND | MsFlags::MS_REC, String::new()))
        );
        assert_eq!(
            read(&["ro", "rw", "", "index=off", "lowerdir=/a:/b"]),
            Some((MsFlags::empty(), "index=off,lowerdir=/a:/b".into()))
        );
        assert_eq!(read(&["loop"]), None);
        assert_eq!(read(&["uidmap=0:1:1"]), None);
    }

    #[test]
    fn targets_stay_below_the_root() {
        for bad in ["..", "a/../..", "/../x"] {
            assert!(matches!(Place::below(Path::new("/tmp"), bad), Err(MountError::Target { .. })), "{bad}");
        }
    }

    fn is_root() -> bool {
        let root = nix::unistd::geteuid().is_root();
        if !root {
            eprintln!("skipped: mounting needs root");
        }
        root
    }

    #[test]
    fn binds_and_overlays_come_and_go() {
        if !is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["a", "b", "up", "work", "sub"] {
            fs::create_dir(path(name)).unwrap();
        }
        fs::write(path("a").join("from-a"), "a").unwrap();
        fs::create_dir(path("b").join("inner")).unwrap();
        fs::write(path("sub").join("file"), "s").unwrap();
        let mounts = MountDir::new(path("mounts"));
        let lower = format!("lowerdir={}:{}", path("a").display(), path("b").display());
        let upper = format!("upperdir={}", path("up").display());
        let work = format!("workdir={}", path("work").display());
        let place = {
            let mounted = mounts
                .mount(&[
                    one("overlay", Path::new("overlay"), "", &[&lower, &upper, &work]),
                    one("bind", &path("sub"), "inner", &["rbind", "ro"]),
                ])
                .unwrap();
            assert_eq!(fs::read_to_string(mounted.path().join("from-a")).unwrap(), "a");
            assert_eq!(fs::read_to_string(mounted.path().join("inner/file")).unwrap(), "s");
            assert!(fs::write(mounted.path().join("inner/file"), "x").is_err(), "the bind is read-only");
            fs::write(mounted.path().join("new"), "n").unwrap();
            mounted.path().to_owned()
        };
        assert!(!place.exists());
        assert_eq!(fs::read_to_string(path("up").join("new")).unwrap(), "n");
        assert!(matches!(mounts.mount(&[]), Err(MountError::Nothing)));
        let missing = mounts.mount(&[one("bind", &path("missing"), "", &["rbind"])]);
        assert!(matches!(missing, Err(MountError::Kernel { .. })), "{missing:?}");
        assert_eq!(fs::read_dir(path("mounts")).unwrap().count(), 0);
    }

    #[test]
    fn hundreds_of_layers_are_mounted() {
        if !is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let layers: Vec<String> = (0..200)
            .map(|layer| {
                let path = dir.path().join(format!("snapshots-with-a-long-name/{layer}/fs"));
                fs::create_dir_all(&path).unwrap();
                fs::write(path.join(format!("file-{layer}")), "").unwrap();
                path.display().to_string()
            })
            .collect();
        let lower = format!("lowerdir={}", layers.join(":"));
        assert!(lower.len() > MAX_OPTION_BYTES);
        let before = std::env::current_dir().unwrap();
        let mounted =
            MountDir::new(dir.path().join("m")).mount(&[one("overlay", Path::new("overlay"), "", &[&lower])]).unwrap();
        assert_eq!(fs::read_dir(mounted.path()).unwrap().count(), 200);
        assert_eq!(std::env::current_dir().unwrap(), before);
    }
}
