//! Removes trees.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, FileType, unlinkat};
use rustix::io::Errno;

use super::{Descent, Id, file_type, look, names, open_folder};

/// Removes `name` from `parent`, with everything below it. It is no error if there is none.
pub(crate) fn remove_all(parent: impl AsFd, name: &[u8]) -> io::Result<()> {
    remove_except(parent, name, false, &|_, _| false).map(drop)
}

struct Level {
    folders: Vec<Vec<u8>>,
    /// Whether something in the folder, or the folder itself, stays.
    kept: bool,
}

/// Removes `name` from `parent`, with everything below it for which `keep` (asked with a folder and a name in it) does not hold;
/// folders that something is kept in stay. `keep` is not asked about `name` itself, a folder that stays with `keep_folder`. Says
/// whether all of it is gone.
pub(crate) fn remove_except(
    parent: impl AsFd,
    name: &[u8],
    keep_folder: bool,
    keep: &dyn Fn(Id, &[u8]) -> bool,
) -> io::Result<bool> {
    match unlinkat(&parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(true),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let mut tree = Descent::new(open_folder(&parent, name)?)?;
    let mut levels = vec![empty(&tree, keep, keep_folder)?];
    loop {
        let level = levels.last_mut().expect("the last level returns");
        if let Some(folder) = level.folders.pop() {
            let kept = keep(tree.id(), &folder);
            tree.enter(&folder)?;
            let level = empty(&tree, keep, kept)?;
            levels.push(level);
            continue;
        }
        let kept = level.kept;
        levels.pop();
        let Some(above) = levels.last_mut() else {
            return Ok(!kept && remove_folder(&parent, name)?);
        };
        let folder = tree.leave()?;
        if kept || !remove_folder(&tree, &folder)? {
            above.kept = true;
        }
    }
}

/// Removes everything but folders from the folder at hand, and lists those.
fn empty(folder: &Descent, keep: &dyn Fn(Id, &[u8]) -> bool, kept: bool) -> io::Result<Level> {
    let mut level = Level { folders: Vec::new(), kept };
    for (name, kind) in names(folder)? {
        let kind = match kind {
            FileType::Unknown => look(folder, &name)?.map_or(FileType::Unknown, |stat| file_type(&stat)),
            kind => kind,
        };
        if kind == FileType::Directory {
            level.folders.push(name);
        } else if keep(folder.id(), &name) {
            level.kept = true;
        } else {
            match unlinkat(folder, &*name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(level)
}

/// Whether the folder is gone: it stays when something was put into it meanwhile.
fn remove_folder(parent: impl AsFd, name: &[u8]) -> io::Result<bool> {
    match unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::fd::OwnedFd;

    fn folder(path: &std::path::Path) -> OwnedFd {
        rustix::fs::open(path, super::super::FOLDER, rustix::fs::Mode::empty()).unwrap()
    }

    #[test]
    fn links_are_removed_and_not_followed() {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir_all(temp.path().join("out")).unwrap();
        fs::write(temp.path().join("out/file"), "x").unwrap();
        fs::create_dir_all(temp.path().join("tree/a/b")).unwrap();
        std::os::unix::fs::symlink("../../out", temp.path().join("tree/a/link")).unwrap();
        remove_all(folder(temp.path()), b"tree").unwrap();
        assert!(!temp.path().join("tree").exists());
        assert!(temp.path().join("out/file").exists());
        remove_all(folder(temp.path()), b"tree").unwrap();
    }

    #[test]
    fn a_tree_may_be_deeper_than_descriptors_reach() {
        let temp = tempfile::tempdir().unwrap();
        let mut at = folder(temp.path());
        for _ in 0..3000 {
            rustix::fs::mkdirat(&at, "d", rustix::fs::Mode::RWXU).unwrap();
            at = open_folder(&at, b"d").unwrap();
        }
        remove_all(folder(temp.path()), b"d").unwrap();
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_kept_keeps_its_folders() {
        let temp = tempfile::tempdir().unwrap();
        for path in ["tree/keep/deep", "tree/go/deep"] {
            fs::create_dir_all(temp.path().join(path)).unwrap();
            fs::write(temp.path().join(path).join("kept"), "").unwrap();
            fs::write(temp.path().join(path).join("gone"), "").unwrap();
        }
        fs::remove_file(temp.path().join("tree/go/deep/kept")).unwrap();
        let gone = remove_except(folder(temp.path()), b"tree", false, &|_, name| name == b"kept").unwrap();
        assert!(!gone);
        assert!(temp.path().join("tree/keep/deep/kept").exists());
        assert!(!temp.path().join("tree/keep/deep/gone").exists());
        assert!(!temp.path().join("tree/go").exists());
    }
}
