//! The bytes of an EROFS image: superblock, inodes, attributes, folders. Pure; what goes where is decided elsewhere.
//!
//! Everything is little endian. An inode is found by its number alone: it begins at 32 bytes times that, since the place of
//! the metadata is said to be the beginning of the image. A short inode has no time of its own, but that of the superblock.

use rustix::fs::Timespec;

/// The size of a block, in bytes.
pub(super) const BLOCK: usize = 4096;
/// The same, for places in an image.
pub(super) const BLOCK_BYTES: u64 = BLOCK as u64;
/// What the number of an inode counts.
pub(super) const SLOT: u64 = 32;
/// Where the superblock is.
pub(super) const SUPER_OFFSET: usize = 1024;
/// Where the root is: its number has to fit into 16 bits, so it is right behind the superblock.
pub(super) const ROOT_OFFSET: u64 = 1152;
/// The longest list of attributes of one file, in bytes. The format allows four times that.
pub(super) const MAX_XATTR_BYTES: usize = 64 * 1024;

const MAGIC: u32 = 0xe0f5_e1e2;
/// The superblock's time is that of the inodes that have none.
const COMPAT_MTIME: u32 = 2;
const INCOMPAT_CHUNKED_FILE: u32 = 4;
const BLOCK_BITS: u8 = 12;
const ENTRY: usize = 12;
const XATTR_HEADER: usize = 12;

/// The types of files in folders.
pub(super) mod kind {
    pub(in crate::erofs) const FILE: u8 = 1;
    pub(in crate::erofs) const FOLDER: u8 = 2;
    pub(in crate::erofs) const CHAR: u8 = 3;
    pub(in crate::erofs) const BLOCK: u8 = 4;
    pub(in crate::erofs) const FIFO: u8 = 5;
    pub(in crate::erofs) const SYMLINK: u8 = 7;
}

/// The bits of a mode that say what a file is.
pub(super) fn type_bits(file_kind: u8) -> u16 {
    match file_kind {
        kind::FOLDER => 0o040_000,
        kind::CHAR => 0o020_000,
        kind::BLOCK => 0o060_000,
        kind::FIFO => 0o010_000,
        kind::SYMLINK => 0o120_000,
        _ => 0o100_000,
    }
}

/// Where the content of a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// In blocks from this one on.
    Plain(u32),
    /// Its whole blocks from this one on, the rest behind the inode.
    Inline(u32),
    /// In chunks of that many blocks as a power of two, by a table behind the inode.
    Chunks(u8),
    /// It has none, but a device number.
    Device(u32),
}

/// What an inode says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Inode {
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Timespec,
    pub(super) links: u32,
    pub(super) size_bytes: u64,
    pub(super) layout: Layout,
    /// The length of the attributes behind it.
    pub(super) xattr_bytes: usize,
    /// What stands for the file's number in old interfaces.
    pub(super) serial: u32,
}

/// Which of the two forms an inode has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Short,
    Long,
}

impl Form {
    pub(super) fn len(self) -> usize {
        match self {
            Self::Short => 32,
            Self::Long => 64,
        }
    }

    /// Where the number of links is in an inode, and how many bytes it has.
    pub(super) fn links(self) -> (u64, usize) {
        match self {
            Self::Short => (6, 2),
            Self::Long => (44, 4),
        }
    }
}

impl Inode {
    /// The form that it fits into, where `epoch` is the time of the superblock.
    pub(super) fn form(&self, epoch: Timespec) -> Form {
        let short = same_time(self.mtime, epoch)
            && self.uid <= u32::from(u16::MAX)
            && self.gid <= u32::from(u16::MAX)
            && self.links <= u32::from(u16::MAX)
            && u32::try_from(self.size_bytes).is_ok();
        if short { Form::Short } else { Form::Long }
    }

    /// Appends it.
    pub(super) fn write(&self, form: Form, out: &mut Vec<u8>) {
        let (layout, place) = match self.layout {
            Layout::Plain(block) => (0, block),
            Layout::Inline(block) => (2, block),
            Layout::Chunks(bits) => (4, u32::from(bits)),
            Layout::Device(number) => (0, number),
        };
        let long = u16::from(form == Form::Long);
        put16(out, layout << 1 | long);
        let xattrs = if self.xattr_bytes == 0 { 0 } else { (self.xattr_bytes - XATTR_HEADER) / 4 + 1 };
        put16(out, u16::try_from(xattrs).expect("attributes are bounded"));
        put16(out, self.mode);
        match form {
            Form::Short => {
                put16(out, u16::try_from(self.links).expect("the form was chosen by it"));
                put32(out, u32::try_from(self.size_bytes).expect("the form was chosen by it"));
                put32(out, 0);
                put32(out, place);
                put32(out, self.serial);
                put16(out, u16::try_from(self.uid).expect("the form was chosen by it"));
                put16(out, u16::try_from(self.gid).expect("the form was chosen by it"));
                put32(out, 0);
            }
            Form::Long => {
                put16(out, 0);
                put64(out, self.size_bytes);
                put32(out, place);
                put32(out, self.serial);
                put32(out, self.uid);
                put32(out, self.gid);
                out.extend_from_slice(&self.mtime.tv_sec.to_le_bytes());
                put32(out, nanoseconds(self.mtime));
                put32(out, self.links);
                out.extend_from_slice(&[0; 16]);
            }
        }
    }
}

/// What the superblock says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Super {
    pub(super) blocks: u32,
    pub(super) inodes: u64,
    pub(super) epoch: Timespec,
    pub(super) uuid: [u8; 16],
}

impl Super {
    pub(super) fn bytes(&self) -> [u8; 128] {
        let mut out = Vec::with_capacity(128);
        put32(&mut out, MAGIC);
        put32(&mut out, 0);
        put32(&mut out, COMPAT_MTIME);
        out.extend_from_slice(&[BLOCK_BITS, 0]);
        put16(&mut out, u16::try_from(ROOT_OFFSET / SLOT).expect("it is a constant"));
        put64(&mut out, self.inodes);
        out.extend_from_slice(&self.epoch.tv_sec.to_le_bytes());
        put32(&mut out, nanoseconds(self.epoch));
        put32(&mut out, self.blocks);
        // Inodes and shared attributes are counted from the beginning.
        put32(&mut out, 0);
        put32(&mut out, 0);
        out.extend_from_slice(&self.uuid);
        out.extend_from_slice(&[0; 16]);
        put32(&mut out, INCOMPAT_CHUNKED_FILE);
        out.resize(128, 0);
        out.try_into().expect("it is that long")
    }
}

/// The attributes of a file as they stand behind its inode; nothing for none. `None` when the format has no place for them.
pub(super) fn xattrs(all: &[(Vec<u8>, Vec<u8>)]) -> Option<Vec<u8>> {
    if all.is_empty() {
        return Some(Vec::new());
    }
    let mut out = vec![0; XATTR_HEADER];
    for (key, value) in all {
        let (index, name) = split_key(key)?;
        out.extend_from_slice(&[u8::try_from(name.len()).ok()?, index]);
        put16(&mut out, u16::try_from(value.len()).ok()?);
        out.extend_from_slice(name);
        out.extend_from_slice(value);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    (out.len() <= MAX_XATTR_BYTES).then_some(out)
}

/// The number that stands for the first part of an attribute's name, and the rest of the name.
fn split_key(key: &[u8]) -> Option<(u8, &[u8])> {
    match key {
        b"system.posix_acl_access" => return Some((2, b"")),
        b"system.posix_acl_default" => return Some((3, b"")),
        _ => {}
    }
    let prefixes: [(u8, &[u8]); 3] = [(1, b"user."), (4, b"trusted."), (6, b"security.")];
    prefixes.into_iter().find_map(|(index, prefix)| Some((index, key.strip_prefix(prefix)?)))
}

/// Whether the format has a place for an attribute of this name.
pub(super) fn has_place_for(key: &[u8]) -> bool {
    split_key(key).is_some_and(|(_, name)| name.len() <= usize::from(u8::MAX))
}

/// The length of a folder with these names, in the order they are in it.
pub(super) fn folder_len<'n>(names: impl Iterator<Item = &'n [u8]>) -> u64 {
    let (mut blocks, mut used) = (0_u64, 0);
    for name in names {
        let length = ENTRY + name.len();
        if used + length > BLOCK {
            blocks += 1;
            used = 0;
        }
        used += length;
    }
    blocks * BLOCK_BYTES + used as u64
}

/// Appends a folder: entries of name, inode number and type, in the order of their bytes. Every block but the last is whole.
pub(super) fn folder<'n>(entries: impl Iterator<Item = (&'n [u8], u64, u8)>, out: &mut Vec<u8>) {
    let mut block: Vec<(&[u8], u64, u8)> = Vec::new();
    let mut used = 0;
    let start = out.len();
    for entry in entries {
        let length = ENTRY + entry.0.len();
        if used + length > BLOCK {
            folder_block(&block, out);
            out.resize(start + (out.len() - start).next_multiple_of(BLOCK), 0);
            block.clear();
            used = 0;
        }
        used += length;
        block.push(entry);
    }
    folder_block(&block, out);
}

fn folder_block(entries: &[(&[u8], u64, u8)], out: &mut Vec<u8>) {
    let mut name_at = entries.len() * ENTRY;
    for (name, number, kind) in entries {
        put64(out, *number);
        put16(out, u16::try_from(name_at).expect("it is within a block"));
        out.extend_from_slice(&[*kind, 0]);
        name_at += name.len();
    }
    for (name, ..) in entries {
        out.extend_from_slice(name);
    }
}

/// A device number as Linux packs it.
pub(super) fn device(major: u32, minor: u32) -> u32 {
    minor & 0xff | major << 8 | (minor & !0xff) << 12
}

pub(super) fn same_time(left: Timespec, right: Timespec) -> bool {
    (left.tv_sec, left.tv_nsec) == (right.tv_sec, right.tv_nsec)
}

fn nanoseconds(time: Timespec) -> u32 {
    u32::try_from(time.tv_nsec).unwrap_or(0)
}

fn put16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Timespec = Timespec { tv_sec: 1_700_000_000, tv_nsec: 5 };

    fn inode() -> Inode {
        Inode {
            mode: 0o100_644,
            uid: 0,
            gid: 0,
            mtime: TIME,
            links: 1,
            size_bytes: 10,
            layout: Layout::Plain(7),
            xattr_bytes: 0,
            serial: 3,
        }
    }

    #[test]
    fn an_inode_is_long_when_it_says_more() {
        assert_eq!(inode().form(TIME), Form::Short);
        for inode in [
            Inode { mtime: Timespec { tv_sec: 0, tv_nsec: 0 }, ..inode() },
            Inode { uid: 65_536, ..inode() },
            Inode { gid: 65_536, ..inode() },
            Inode { links: 65_536, ..inode() },
            Inode { size_bytes: 1 << 32, ..inode() },
        ] {
            assert_eq!(inode.form(TIME), Form::Long);
        }
    }

    #[test]
    fn inodes_are_as_long_as_they_say() {
        for form in [Form::Short, Form::Long] {
            let mut out = Vec::new();
            inode().write(form, &mut out);
            assert_eq!(out.len(), form.len());
            let (at, length) = form.links();
            let at = usize::try_from(at).unwrap();
            assert_eq!(out[at], 1);
            assert!(out[at + 1..at + length].iter().all(|byte| *byte == 0));
        }
        assert_eq!(Super { blocks: 1, inodes: 1, epoch: TIME, uuid: [0; 16] }.bytes().len(), 128);
    }

    #[test]
    fn folders_fill_blocks() {
        let names: Vec<Vec<u8>> =
            (0..300).map(|number| format!("a-name-of-some-length-{number:05}").into_bytes()).collect();
        let mut out = Vec::new();
        folder(names.iter().map(|name| (&**name, 1, kind::FILE)), &mut out);
        assert_eq!(out.len() as u64, folder_len(names.iter().map(Vec::as_slice)));
        assert!(out.len() > BLOCK);
    }

    #[test]
    fn attributes_have_their_place_or_none() {
        let of = |key: &str, length: usize| xattrs(&[(key.as_bytes().to_vec(), vec![1; length])]);
        assert_eq!(of("user.a", 1).map(|bytes| bytes.len()), Some(12 + 8));
        assert_eq!(of("system.posix_acl_access", 4).map(|bytes| bytes.len()), Some(12 + 8));
        assert_eq!(of("strange.a", 1), None);
        assert_eq!(of("user.a", 65_536), None);
        assert_eq!(xattrs(&[]), Some(Vec::new()));
    }

    #[test]
    fn device_numbers_are_packed_as_linux_does() {
        assert_eq!(device(1, 3), 0x103);
        assert_eq!(device(0xfff, 0xf_ffff), 0xffff_ffff);
    }
}
