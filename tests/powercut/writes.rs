//! The writes of a guest to its disk, as the emulator logged them, and disks as they may be found after the power went.
//!
//! The log has the form of the kernel's dm-log-writes: a sector that describes the log, then for each write a sector that describes it and its
//! data. A disk may keep what it was sent in its own memory until it is told to flush. So after a cut all writes before the last
//! flush are there, and any of those after it: which, chance decides here.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, ensure};

/// What the log begins with.
const MAGIC: u64 = 0x006a_7366_7773_6872;
/// The unit of the log.
const SECTOR: usize = 512;
/// The disk was told to flush.
const FLUSH: u64 = 1;
/// This write is durable by itself.
const FUA: u64 = 2;
/// Sectors that are no longer needed; without data.
const DISCARD: u64 = 4;

/// One write.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Write {
    sector: u64,
    flags: u64,
    data: Vec<u8>,
}

/// All writes of one life of a guest.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Writes(Vec<Write>);

impl Writes {
    /// Reads a log, as far as it is whole: the emulator was killed.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let mut bytes = Vec::new();
        File::open(path)?.read_to_end(&mut bytes)?;
        Self::parse(&bytes)
    }

    fn parse(bytes: &[u8]) -> anyhow::Result<Self> {
        let number = |at: usize| -> Option<u64> { Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?)) };
        ensure!(number(0) == Some(MAGIC), "this is no log of writes");
        let (mut writes, mut at) = (Vec::new(), SECTOR);
        while let (Some(sector), Some(count), Some(flags)) = (number(at), number(at + 8), number(at + 16)) {
            if (count, flags) == (0, 0) {
                break;
            }
            let length = if flags & DISCARD != 0 { 0 } else { usize::try_from(count)? * SECTOR };
            let Some(data) = bytes.get(at + SECTOR..at + SECTOR + length) else { break };
            writes.push(Write { sector, flags, data: data.to_vec() });
            at += SECTOR + length;
        }
        Ok(Self(writes))
    }

    /// How many writes and how many flushes there are.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.0.len(), self.0.iter().filter(|write| write.flags & FLUSH != 0).count())
    }

    /// Makes `disk`, which is as it was before the first write, what may be left after a cut. `chance` says of each write that
    /// was not flushed whether it got through.
    pub(crate) fn cut(&self, disk: &Path, mut chance: impl FnMut() -> bool) -> anyhow::Result<()> {
        let file = File::options().write(true).open(disk).with_context(|| format!("open {}", disk.display()))?;
        let flushed = self.0.iter().rposition(|write| write.flags & FLUSH != 0).map_or(0, |last| last + 1);
        for (at, write) in self.0.iter().enumerate() {
            if at < flushed || write.flags & FUA != 0 || chance() {
                file.write_all_at(&write.data, write.sector * SECTOR as u64)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(writes: &[(u64, u64, u8)]) -> Vec<u8> {
        let mut bytes = vec![0; SECTOR];
        bytes[..8].copy_from_slice(&MAGIC.to_le_bytes());
        for (sector, flags, byte) in writes {
            let count = u64::from(*byte != 0);
            let mut head = vec![0; SECTOR];
            for (at, number) in [*sector, count, *flags].into_iter().enumerate() {
                head[at * 8..at * 8 + 8].copy_from_slice(&number.to_le_bytes());
            }
            bytes.extend(head);
            bytes.extend(vec![*byte; usize::try_from(count).unwrap() * SECTOR]);
        }
        bytes
    }

    #[test]
    fn what_was_flushed_is_there_and_the_rest_by_chance() {
        let mut bytes = log(&[(0, 0, b'a'), (1, 0, b'b'), (0, FLUSH, 0), (1, 0, b'c'), (2, FUA, b'd'), (3, 0, b'e')]);
        let whole = Writes::parse(&bytes).unwrap();
        assert_eq!(whole.counts(), (6, 1));
        bytes.truncate(bytes.len() - 1);
        assert_eq!(Writes::parse(&bytes).unwrap().counts(), (5, 1));
        for (luck, expected) in [(false, *b"abd\0"), (true, *b"acde")] {
            let disk = tempfile::NamedTempFile::new().unwrap();
            disk.as_file().set_len(4 * SECTOR as u64).unwrap();
            whole.cut(disk.path(), || luck).unwrap();
            let found = std::fs::read(disk.path()).unwrap();
            assert_eq!([0, 1, 2, 3].map(|sector| found[sector * SECTOR]), expected);
        }
        assert!(Writes::parse(b"something else").is_err());
    }
}
