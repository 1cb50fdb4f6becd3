//! A look into a root filesystem that is not running: mounted for a moment, read, unmounted.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use model::Mount;
use model::mount_options::parse;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::ClientError;

/// A root filesystem mounted read-only in a temporary folder, until dropped.
#[derive(Debug)]
pub struct Mounted {
    folder: PathBuf,
    mounted: bool,
}

impl Mounted {
    /// Mounts what a snapshotter returned, below the folder for temporary files.
    ///
    /// # Errors
    /// When the kernel refuses, for one because the caller is not root.
    pub fn new(mounts: &[Mount]) -> Result<Self, ClientError> {
        let folder = std::env::temp_dir().join(format!("gantry-look-{}", crate::image::unique()));
        std::fs::create_dir(&folder).map_err(ClientError::io(format!("make {}", folder.display())))?;
        let mut look = Self { folder, mounted: false };
        for one in mounts {
            perform(one, &look.folder)?;
            look.mounted = true;
        }
        Ok(look)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Reads a file inside, without following a symbolic link out. A missing one is empty.
    ///
    /// # Errors
    /// When it cannot be read, or is larger than `limit` bytes.
    pub fn read(&self, path: &str, limit: u64) -> Result<Vec<u8>, ClientError> {
        use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};
        let failed = |error: rustix::io::Errno| ClientError::io(format!("read {path} of the image"))(error.into());
        let root =
            open(&self.folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = match openat2(
            &root,
            path.trim_start_matches('/'),
            flags,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        ) {
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(Vec::new()),
            file => std::fs::File::from(file.map_err(failed)?),
        };
        let mut bytes = Vec::new();
        let read = std::io::Read::read_to_end(&mut std::io::Read::take(file, limit + 1), &mut bytes);
        read.map_err(ClientError::io(format!("read {path} of the image")))?;
        if bytes.len() as u64 > limit {
            return Err(ClientError::Invalid(format!("{path} of the image is larger than {limit} bytes")));
        }
        Ok(bytes)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.mounted {
            let _ = umount2(&self.folder, MntFlags::MNT_DETACH);
        }
        // Not recursive: if the unmount failed, nothing of the image may be removed.
        let _ = std::fs::remove_dir(&self.folder);
    }
}

/// Performs one mount of a root filesystem, read-only. Options that are not flags are data for the filesystem.
fn perform(one: &Mount, target: &Path) -> Result<(), ClientError> {
    let parsed = parse(one.options.iter().map(String::as_str));
    if let Some(option) = parsed.special.first() {
        return Err(ClientError::Invalid(format!("mount option {option} needs more than this command can do")));
    }
    let asked = MsFlags::from_bits_retain(parsed.flags.bits()) & (MsFlags::MS_BIND | MsFlags::MS_REC);
    let flags = asked | MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let failed =
        |error: nix::Error| ClientError::io(format!("mount {} of type {}", one.source, one.kind))(error.into());
    let data = parsed.data.join(",");
    let (kind, data) = (Some(one.kind.as_str()), (!data.is_empty()).then_some(data.as_bytes()));
    if !flags.contains(MsFlags::MS_BIND) {
        return mount(
            Some(one.source.as_str()),
            target,
            kind,
            flags | MsFlags::MS_RDONLY,
            data.map(std::ffi::OsStr::from_bytes),
        )
        .map_err(failed);
    }
    mount(Some(one.source.as_str()), target, None::<&str>, flags & (MsFlags::MS_BIND | MsFlags::MS_REC), None::<&str>)
        .map_err(failed)?;
    let again =
        mount(None::<&str>, target, None::<&str>, flags | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, None::<&str>);
    again.map_err(|error| {
        let _ = umount2(target, MntFlags::MNT_DETACH);
        failed(error)
    })
}
