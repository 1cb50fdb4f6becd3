//! Replaces a whole file, or does nothing at all; and the syncs that this takes. No partial writes.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// What the names of unfinished files begin with. Such a file has no owner and may be removed.
pub(crate) const UNFINISHED: &str = ".new-";

/// Makes `path` hold exactly `bytes`, with permissions `mode`. Returns when that is on disk; whenever it is interrupted,
/// the file is as it was before.
///
/// # Errors
/// What the file system said; the file is then unchanged, unless only the sync of its folder failed.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let unfinished = unfinished_name(path)?;
    let written = write_new(&unfinished, bytes, mode).and_then(|()| fs::rename(&unfinished, path));
    if written.is_err() {
        // The first error is the one to tell; what stays is known by its name.
        let _ = fs::remove_file(&unfinished);
    }
    written?;
    sync_parent(path)
}

/// Returns when the entries of the folder are on disk.
///
/// # Errors
/// What the file system said.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Returns when the entry of `path` in its folder is on disk.
///
/// # Errors
/// What the file system said.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => sync_dir(Path::new(".")),
        Some(parent) => sync_dir(parent),
        None => Ok(()),
    }
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn unfinished_name(path: &Path) -> io::Result<PathBuf> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut unfinished = std::ffi::OsString::from(UNFINISHED);
    unfinished.push(format!("{}-{}-", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
    unfinished.push(name);
    Ok(path.with_file_name(unfinished))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_is_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        replace(&path, b"one", 0o600).unwrap();
        replace(&path, b"two", 0o644).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_replacement_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("folder");
        fs::create_dir_all(path.join("full")).unwrap();
        replace(&path, b"x", 0o600).unwrap_err();
        assert!(path.join("full").is_dir());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
