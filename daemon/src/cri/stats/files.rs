//! The small files of cgroupfs, read by descriptor into one buffer.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};

/// The longest file of interest is `memory.stat`, some 3 KiB.
const LONGEST: usize = 16 << 10;

/// A folder of cgroupfs.
#[derive(Debug)]
pub(super) struct Folder(OwnedFd);

/// What files are read into; one for a whole pass.
#[derive(Debug)]
pub(super) struct Buffer(Vec<u8>);

impl Buffer {
    pub(super) fn new() -> Self {
        Self(vec![0; LONGEST])
    }
}

impl Folder {
    /// Opens a folder; nothing if it is gone.
    pub(super) fn open(path: &Path) -> Option<Self> {
        openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok().map(Self)
    }

    /// The text of a file; nothing if it is not there or cannot be read.
    pub(super) fn text<'a>(&self, name: &str, buffer: &'a mut Buffer) -> Option<&'a str> {
        let file = openat(&self.0, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let mut len = 0;
        while len < buffer.0.len() {
            match rustix::io::read(&file, &mut buffer.0[len..]) {
                Ok(0) => break,
                Ok(read) => len += read,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return None,
            }
        }
        std::str::from_utf8(&buffer.0[..len]).ok()
    }

    /// The number in a file that holds nothing else; `max` is no number.
    pub(super) fn number(&self, name: &str, buffer: &mut Buffer) -> Option<u64> {
        self.text(name, buffer)?.trim().parse().ok()
    }
}

/// The lines `name number` of a text.
pub(super) fn pairs(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (name, number) = line.split_once(' ')?;
        Some((name, number.trim().parse().ok()?))
    })
}

/// A device as the kernel writes it, `8:16`.
pub(super) fn device(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
