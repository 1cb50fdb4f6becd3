//! Taking down what is mounted below a folder. A shim does it itself; this is for shims that died.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};

/// How often the table of mounts is read anew while there still are mounts.
const ROUNDS: usize = 8;

/// The usual size of the table of mounts, so that it is read at once.
const TABLE_BYTES: usize = 64 << 10;

/// Unmounts everything at or below `folder`, the last mounted first. Mounts that are busy are detached: they vanish from
/// here at once, and altogether when their last user is gone.
///
/// # Errors
/// The table of mounts cannot be read, or a mount stays.
pub(super) fn unmount_below(folder: &Path) -> io::Result<()> {
    for _ in 0..ROUNDS {
        let points = mounts_below(folder)?;
        if points.is_empty() {
            return Ok(());
        }
        for point in points.iter().rev() {
            match umount2(point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
                // Gone together with the one above it.
                Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Err(io::Error::other(format!("{} does not become free of mounts", folder.display())))
}

/// Where something is mounted at or below `folder`, in the order of mounting.
pub(super) fn mounts_below(folder: &Path) -> io::Result<Vec<PathBuf>> {
    use std::io::Read;
    let mut table = Vec::with_capacity(TABLE_BYTES);
    fs::File::open("/proc/self/mountinfo")?.read_to_end(&mut table)?;
    Ok(points(&table).filter(|point| point.starts_with(folder)).collect())
}

/// The mount points of a table in the form of `/proc/PID/mountinfo`.
fn points(table: &[u8]) -> impl Iterator<Item = PathBuf> {
    table.split(|byte| *byte == b'\n').filter_map(|line| {
        let field = line.split(|byte| *byte == b' ').nth(4)?;
        Some(PathBuf::from(std::ffi::OsString::from_vec(unescape(field))))
    })
}

/// Undoes the kernel's escapes: a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let octal = |digits: &[u8]| {
            digits
                .iter()
                .try_fold(0_u32, |sum, digit| digit.is_ascii_digit().then(|| sum * 8 + u32::from(digit - b'0')))
        };
        match (first, after.get(..3).and_then(octal)) {
            (b'\\', Some(value)) => {
                out.push(u8::try_from(value & 0xff).expect("masked"));
                rest = &after[3..];
            }
            _ => {
                out.push(first);
                rest = after;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_read_with_their_escapes() {
        let table = b"36 35 98:0 / /run/a\\040b rw - overlay overlay rw\n37 35 0:1 / /run/c rw - tmpfs t rw\n\n";
        assert_eq!(points(table).collect::<Vec<_>>(), [PathBuf::from("/run/a b"), "/run/c".into()]);
    }

    #[test]
    fn a_folder_does_not_hold_its_longer_namesake() {
        let table = b"1 0 0:1 / /b/one rw - a a rw\n2 0 0:1 / /b/one/x rw - a a rw\n3 0 0:1 / /b/onetwo rw - a a rw\n";
        let below: Vec<_> = points(table).filter(|point| point.starts_with("/b/one")).collect();
        assert_eq!(below, [PathBuf::from("/b/one"), "/b/one/x".into()]);
    }
}
