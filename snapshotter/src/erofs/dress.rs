//! Changes an image that is whole in one respect: folders that it only implied get the looks of those below, once these are known.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::FileType;

use super::Implied;
use crate::fs::{Lowers, file_type, is_private, mtime, xattrs};

/// Gives a folder in the image the looks of the one below it. False when those need more room than its inode has.
pub(crate) fn dress(image: &File, implied: &Implied, below: &Lowers) -> io::Result<bool> {
    let Some(seen) = below.find(&implied.path)? else { return Ok(true) };
    if file_type(&seen.stat) != FileType::Directory {
        return Ok(true);
    }
    let name = implied.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let attributes = xattrs::list(&seen.folder, if name.is_empty() { b"." } else { name })?;
    if attributes.iter().any(|(key, _)| !is_private(key)) {
        return Ok(false);
    }
    let time = mtime(&seen.stat);
    // As a long inode has them; folders have no other.
    let mode = u16::try_from(seen.stat.st_mode & 0o7777).expect("twelve bits")
        | super::format::type_bits(super::format::kind::FOLDER);
    image.write_all_at(&mode.to_le_bytes(), implied.offset + 4)?;
    let mut owner_and_time = Vec::with_capacity(20);
    owner_and_time.extend_from_slice(&seen.stat.st_uid.to_le_bytes());
    owner_and_time.extend_from_slice(&seen.stat.st_gid.to_le_bytes());
    owner_and_time.extend_from_slice(&time.tv_sec.to_le_bytes());
    owner_and_time.extend_from_slice(&u32::try_from(time.tv_nsec).unwrap_or(0).to_le_bytes());
    image.write_all_at(&owner_and_time, implied.offset + 24)?;
    Ok(true)
}
