//! Where a layer goes: read from the mounts of a snapshot, so that nothing has to be mounted for it.

use std::path::PathBuf;

use model::Mount;
use model::error::{Classify, Kind};

use crate::fs::xattrs::OverlayPrefix;

/// How a deleted file of a lower layer is expressed in the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Whiteouts {
    /// As overlayfs does for root: a character device 0:0, an opaque folder by `trusted.overlay.opaque`.
    OverlayTrusted,
    /// As overlayfs does with `userxattr`: a character device 0:0, an opaque folder by `user.overlay.opaque`.
    OverlayUser,
    /// Not at all: the target holds the files of the lower layers too, and they are deleted.
    Delete,
}

impl Whiteouts {
    /// Where overlayfs keeps its attributes.
    pub(crate) fn prefix(self) -> OverlayPrefix {
        match self {
            Self::OverlayTrusted | Self::Delete => OverlayPrefix::Trusted,
            Self::OverlayUser => OverlayPrefix::User,
        }
    }
}

/// A folder to unpack into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The folder.
    pub dir: PathBuf,
    /// How deletions are expressed in it.
    pub whiteouts: Whiteouts,
    /// The folders that the target is seen on top of, nearest first (overlayfs's `lowerdir`). A layer may link to their files.
    pub parents: Vec<PathBuf>,
}

/// Why mounts lead to no folder that a layer can be unpacked into.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// They have to be mounted first.
    #[error("cannot unpack into {count} mounts of type {kind:?} without mounting them")]
    NotDirect {
        /// How many mounts there are.
        count: usize,
        /// The type of the last one.
        kind: String,
    },
    /// They are not writable.
    #[error("cannot unpack into a read-only snapshot")]
    ReadOnly,
}

impl Classify for TargetError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotDirect { .. } => Kind::Unimplemented,
            Self::ReadOnly => Kind::FailedPrecondition,
        }
    }
}

impl Target {
    /// The target that the mounts of a snapshot stand for: the source of one bind mount, or the upper folder of one overlay,
    /// which may have no lower ones.
    ///
    /// A snapshot of overlayfs that gets its parent only at its commit is a bind too. Its layer must be unpacked with
    /// [`Whiteouts::OverlayTrusted`] all the same, or its deletions are lost.
    ///
    /// # Errors
    /// [`TargetError::NotDirect`] for other mounts: mount them and unpack into the mount point, with [`Whiteouts::Delete`].
    pub fn from_mounts(mounts: &[Mount]) -> Result<Self, TargetError> {
        let not_direct = || {
            let kind = mounts.last().map_or_else(String::new, |mount| mount.kind.clone());
            TargetError::NotDirect { count: mounts.len(), kind }
        };
        let [mount] = mounts else { return Err(not_direct()) };
        if mount.options.iter().any(|option| option == "ro") {
            return Err(TargetError::ReadOnly);
        }
        let value = |name: &str| mount.options.iter().find_map(|option| option.strip_prefix(name)?.strip_prefix('='));
        match mount.kind.as_str() {
            "bind" => Ok(Self { dir: PathBuf::from(&mount.source), whiteouts: Whiteouts::Delete, parents: Vec::new() }),
            "overlay" => {
                let upper = value("upperdir").ok_or(TargetError::ReadOnly)?;
                let user = mount.options.iter().any(|option| option == "userxattr");
                let whiteouts = if user { Whiteouts::OverlayUser } else { Whiteouts::OverlayTrusted };
                let parents = value("lowerdir").map(split_lowers).unwrap_or_default();
                Ok(Self { dir: PathBuf::from(upper), whiteouts, parents })
            }
            _ => Err(not_direct()),
        }
    }
}

/// The folders of a `lowerdir` option, where a backslash takes the meaning from a colon.
pub(crate) fn split_lowers(option: &str) -> Vec<PathBuf> {
    let mut folders = vec![String::new()];
    let mut letters = option.chars();
    while let Some(letter) = letters.next() {
        match letter {
            ':' => folders.push(String::new()),
            '\\' => folders.last_mut().expect("there is always one").extend(letters.next()),
            letter => folders.last_mut().expect("there is always one").push(letter),
        }
    }
    folders.into_iter().filter(|folder| !folder.is_empty()).map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: &str, source: &str, options: &[&str]) -> Mount {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        Mount { kind: kind.into(), source: source.into(), target: String::new(), options }
    }

    #[test]
    fn an_overlay_is_its_upper_folder() {
        let target =
            Target::from_mounts(&[mount("overlay", "overlay", &["workdir=/w", "upperdir=/u", "lowerdir=/b\\:1:/a"])]);
        let parents = vec![PathBuf::from("/b:1"), PathBuf::from("/a")];
        assert_eq!(target, Ok(Target { dir: "/u".into(), whiteouts: Whiteouts::OverlayTrusted, parents }));
    }

    #[test]
    fn a_bind_is_its_source() {
        let target = Target::from_mounts(&[mount("bind", "/s", &["rw", "rbind"])]).unwrap();
        assert_eq!((target.dir, target.whiteouts), (PathBuf::from("/s"), Whiteouts::Delete));
    }

    #[test]
    fn views_and_strange_mounts_are_refused() {
        assert_eq!(Target::from_mounts(&[mount("bind", "/s", &["ro", "rbind"])]), Err(TargetError::ReadOnly));
        assert_eq!(
            Target::from_mounts(&[mount("overlay", "overlay", &["lowerdir=/a:/b"])]),
            Err(TargetError::ReadOnly)
        );
        assert!(matches!(Target::from_mounts(&[]), Err(TargetError::NotDirect { .. })));
        assert!(matches!(Target::from_mounts(&[mount("ext4", "/dev/x", &[])]), Err(TargetError::NotDirect { .. })));
    }
}
