//! Volumes that images declare: folders of the container's own, filled with what the image has in these places.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Component, Path, PathBuf};

use proto::cri::Mount;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};

use super::super::CriError;

/// The most volumes of an image.
const MAX_VOLUMES: usize = 256;

/// A volume to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Volume {
    /// Its folder.
    pub source: PathBuf,
    /// Where it goes in the container.
    pub target: String,
}

/// The volumes of an image whose places no mount of the pod takes. Pure.
///
/// # Errors
/// There are too many, or one leads nowhere.
pub(super) fn plan(declared: &[String], mounts: &[Mount], folder: &Path) -> Result<Vec<Volume>, CriError> {
    if declared.len() > MAX_VOLUMES {
        return Err(CriError::Invalid(format!(
            "the image declares {} volumes, {MAX_VOLUMES} are allowed",
            declared.len()
        )));
    }
    let mut planned: Vec<Volume> = Vec::new();
    for volume in declared {
        let target = clean(volume)?;
        let taken = mounts.iter().any(|mount| clean(&mount.container_path).is_ok_and(|path| path == target));
        if taken || planned.iter().any(|known| known.target == target) {
            continue;
        }
        // Nothing of the name goes into the path on the host.
        planned.push(Volume { source: folder.join("volumes").join(planned.len().to_string()), target });
    }
    Ok(planned)
}

/// A path as seen from the root, without any `..`.
fn clean(path: &str) -> Result<String, CriError> {
    let mut parts: Vec<&str> = Vec::new();
    for part in Path::new(path).components() {
        match part {
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            Component::ParentDir => drop(parts.pop()),
            Component::Normal(name) => parts.push(name.to_str().unwrap_or_default()),
        }
    }
    match parts.is_empty() || path.contains('\0') {
        true => Err(CriError::Invalid(format!("{path:?} is no place for a volume"))),
        false => Ok(format!("/{}", parts.join("/"))),
    }
}

/// Makes a volume and copies what the image, seen at `root`, has in its place. Blocks.
///
/// # Errors
/// It cannot be made or copied.
pub(super) fn make(volume: &Volume, root: &Path) -> Result<(), CriError> {
    let failed =
        |error: io::Error| CriError::Failed(format!("cannot make the volume for {:?}: {error}", volume.target));
    let made = || {
        if let Some(parent) = volume.source.parent() {
            DirBuilder::new().recursive(true).mode(0o711).create(parent)?;
        }
        DirBuilder::new().mode(0o755).create(&volume.source)?;
        let Some(from) = folder_below(root, &volume.target)? else { return Ok(()) };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let to = openat(CWD, &volume.source, flags, Mode::empty())?;
        snapshotter::copy_tree(from, to)
    };
    made().map_err(failed)
}

/// The folder that `path` means within `root`, wherever its links point; `None` if there is none.
fn folder_below(root: &Path, path: &str) -> io::Result<Option<OwnedFd>> {
    let root = openat(CWD, root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    match openat2(&root, path.trim_start_matches('/'), flags, Mode::empty(), resolve) {
        Ok(folder) => Ok(Some(folder)),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Removes the folder of a container with its volumes. Blocks.
///
/// # Errors
/// Something stays.
pub(super) fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn names_of_volumes_lead_nowhere_else() {
        let mount = Mount { container_path: "/taken/".into(), ..Mount::default() };
        let declared = ["/a", "../../b", "/c/../../etc", "/taken", "a/"].map(str::to_owned);
        let planned = plan(&declared, &[mount], Path::new("/f")).unwrap();
        let targets: Vec<_> = planned.iter().map(|volume| volume.target.as_str()).collect();
        assert_eq!(targets, ["/a", "/b", "/etc"]);
        assert!(planned.iter().all(|volume| volume.source.parent() == Some(Path::new("/f/volumes"))));
        for wrong in ["/", "", "..", "/a/..", "/\0"] {
            assert!(plan(&[wrong.to_owned()], &[], Path::new("/f")).is_err(), "{wrong:?}");
        }
        assert!(plan(&vec!["/a".to_owned(); MAX_VOLUMES + 1], &[], Path::new("/f")).is_err());
    }

    #[test]
    fn a_volume_has_what_the_image_has_and_nothing_of_the_host() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        fs::create_dir_all(root.join("real/deep")).unwrap();
        fs::write(root.join("real/deep/file"), "of the image").unwrap();
        fs::create_dir(folder.path().join("secret")).unwrap();
        fs::write(folder.path().join("secret/file"), "of the host").unwrap();
        symlink("/real", root.join("inside")).unwrap();
        symlink("../secret", root.join("outside")).unwrap();
        symlink(folder.path().join("secret"), root.join("absolute")).unwrap();
        let made = |number: u32, target: &str| {
            let source = folder.path().join("c/volumes").join(number.to_string());
            make(&Volume { source: source.clone(), target: target.into() }, &root).unwrap();
            fs::read_dir(source).unwrap().count()
        };
        assert_eq!(made(0, "/inside"), 1);
        assert_eq!(fs::read(folder.path().join("c/volumes/0/deep/file")).unwrap(), b"of the image");
        for (number, target) in [(1, "/outside"), (2, "/absolute"), (3, "/missing")] {
            assert_eq!(made(number, target), 0, "{target}");
        }
        remove(&folder.path().join("c")).unwrap();
        remove(&folder.path().join("c")).unwrap();
    }
}
