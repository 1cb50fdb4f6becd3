//! Space kept back for the day when the disk is full.
//!
//! An engine needs room even to open, and to remove records, which is what makes room. So a file that holds nothing takes
//! some; when the engine failed it is given up. The next start takes the space again, if there is enough.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};

/// How much, in bytes: a few of sled's segments.
const RESERVE_BYTES: u64 = 4 * 1024 * 1024;

const NAME: &str = "reserve";

/// Takes the space, if it is not taken already. Without it all works as well, until the disk is full.
pub(crate) fn take(dir: &Path) {
    let path = dir.join(NAME);
    let taken = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .and_then(|file| fallocate(&file, FallocateFlags::empty(), 0, RESERVE_BYTES).map_err(io::Error::from));
    if let Err(error) = taken {
        tracing::warn!(%error, "no space reserved for the metadata store");
        // Part of the space is of no use, and may be what others lack.
        let _ = fs::remove_file(&path);
    }
}

/// Gives the space up; whether there was any.
pub(crate) fn give_up(dir: &Path) -> bool {
    fs::remove_file(dir.join(NAME)).is_ok()
}
