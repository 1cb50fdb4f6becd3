//! Counts what a tree takes on disk.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;

use model::snapshot::Usage;
use rustix::fs::{FileType, Stat, fstat};

use super::{Descent, Id, file_type, look, names};

const BLOCK_BYTES: u64 = 512;

/// What the tree at `root` takes, the root included. A file with several names counts once; one that vanishes meanwhile, never.
pub(crate) fn usage(root: OwnedFd) -> io::Result<Usage> {
    let mut usage = Usage::default();
    let mut linked = HashSet::new();
    let mut count = |stat: &Stat| {
        let folder = file_type(stat) == FileType::Directory;
        if folder || stat.st_nlink < 2 || linked.insert(Id::of(stat)) {
            usage.inodes += 1;
            usage.size_bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * BLOCK_BYTES;
        }
        folder
    };
    count(&fstat(&root)?);
    let mut tree = Descent::new(root)?;
    let mut levels = vec![names(&tree)?];
    while let Some(level) = levels.last_mut() {
        let Some((name, _)) = level.pop() else {
            levels.pop();
            if tree.depth() > 0 {
                tree.leave()?;
            }
            continue;
        };
        let Some(stat) = look(&tree, &name)? else { continue };
        if count(&stat) {
            match tree.enter(&name) {
                Ok(()) => levels.push(names(&tree)?),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(usage)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_file_with_two_names_counts_once() {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir(temp.path().join("folder")).unwrap();
        fs::write(temp.path().join("folder/a"), vec![1; 10_000]).unwrap();
        fs::hard_link(temp.path().join("folder/a"), temp.path().join("b")).unwrap();
        let root = || rustix::fs::open(temp.path(), super::super::FOLDER, rustix::fs::Mode::empty()).unwrap();
        let before = usage(root()).unwrap();
        assert_eq!(before.inodes, 3);
        assert!((10_000..40_000).contains(&before.size_bytes), "{before:?}");
        fs::write(temp.path().join("c"), vec![1; 10_000]).unwrap();
        let after = usage(root()).unwrap();
        assert_eq!((after.inodes, after.size_bytes), (4, before.size_bytes + 12_288));
    }
}
