//! An image that is written from front to back: the content of files as it comes, their inodes in between.
//!
//! ```text
//!   block 0            contents   inodes      contents   inodes      …   folders
//!   superblock, root   ─────────  ──────────  ─────────  ──────────      ───────
//! ```
//!
//! Inodes, with the ends of files that do not fill a block, are gathered in chunks. The place of a chunk is taken when its first
//! inode comes, it is written when it is full; all else goes to the end of the file. So memory is one chunk and one buffer,
//! whatever the layer.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;

use rustix::fs::{Advice, Timespec, fadvise};

use super::format::{BLOCK, BLOCK_BYTES, Form, Inode, Layout, SLOT};

/// The room for inodes that is taken at once.
const CHUNK: usize = 256 * 1024;
/// What is gathered before it is written.
const BUFFER: usize = 512 * 1024;
/// Ends of files up to this length are kept with the inode. Longer ones are cheaper in a block of their own.
const MAX_TAIL: usize = 2048;
/// After so many bytes the kernel is asked to begin writing them, so that the sync at the end has little left to do.
const WRITEBACK: u64 = 8 << 20;
/// The longest table of one sparse file.
const MAX_CHUNKS: u64 = 16 * 1024;

/// What an inode says that does not depend on where things are.
#[derive(Debug, Clone)]
pub(super) struct Looks {
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Timespec,
    /// As [`super::format::xattrs`] makes them.
    pub(super) xattrs: Vec<u8>,
}

/// The number of an inode, and its form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) number: u64,
    pub(super) form: Form,
}

/// An image that is being written.
pub(super) struct Image {
    file: File,
    /// The next block that nobody has.
    next_block: u64,
    /// What is to be written next, and where.
    buffer: Vec<u8>,
    buffer_at: u64,
    chunk: Vec<u8>,
    chunk_at: u64,
    /// How much of the chunk is taken. None is left before there is a first one.
    chunk_used: usize,
    /// Up to where the kernel was asked to write.
    submitted: u64,
    epoch: Option<Timespec>,
    serial: u32,
}

/// The content of one file, on its way in.
pub(super) struct Content {
    first_block: u64,
    size_bytes: u64,
    written: u64,
    /// What is behind the last whole block.
    tail: Vec<u8>,
}

/// The content of a sparse file, on its way in.
pub(super) struct SparseContent {
    size_bytes: u64,
    /// Blocks in a chunk, as a power of two.
    bits: u8,
    /// The first block of each chunk.
    table: Vec<u32>,
}

/// A chunk without content.
const HOLE: u32 = u32::MAX;
/// What stands for no block at all.
pub(super) const NO_BLOCK: u32 = u32::MAX;

impl Image {
    /// Begins an image in an empty file.
    pub(super) fn new(file: File) -> Self {
        Self {
            file,
            next_block: 1,
            buffer: Vec::with_capacity(BUFFER),
            buffer_at: BLOCK_BYTES,
            chunk: Vec::new(),
            chunk_at: 0,
            chunk_used: CHUNK,
            submitted: 0,
            epoch: None,
            serial: 1,
        }
    }

    /// The time of inodes that have none of their own: that of the first one.
    pub(super) fn epoch(&self) -> Timespec {
        self.epoch.unwrap_or(Timespec { tv_sec: 0, tv_nsec: 0 })
    }

    /// The same, which no inode that comes later changes.
    pub(super) fn settle_epoch(&mut self) -> Timespec {
        *self.epoch.get_or_insert(Timespec { tv_sec: 0, tv_nsec: 0 })
    }

    /// A new number for interfaces that have no room for the real one.
    pub(super) fn serial(&mut self) -> u32 {
        self.serial = self.serial.wrapping_add(1);
        self.serial
    }

    /// Begins a file of that size.
    pub(super) fn begin(&self, size_bytes: u64) -> Content {
        Content { first_block: self.next_block, size_bytes, written: 0, tail: Vec::new() }
    }

    /// Adds to a file. Nothing else is to be written before it is ended.
    pub(super) fn append(&mut self, content: &mut Content, mut bytes: &[u8]) -> io::Result<()> {
        let whole = content.size_bytes / BLOCK_BYTES * BLOCK_BYTES;
        if content.written < whole {
            let length = usize::try_from(whole - content.written).unwrap_or(usize::MAX).min(bytes.len());
            self.write(&bytes[..length])?;
            content.written += length as u64;
            bytes = &bytes[length..];
        }
        content.tail.extend_from_slice(bytes);
        content.written += bytes.len() as u64;
        Ok(())
    }

    /// Ends a file, all of which was added.
    pub(super) fn end(&mut self, content: Content, looks: &Looks) -> io::Result<Placed> {
        debug_assert_eq!(content.written, content.size_bytes, "all of the file was added");
        let Content { first_block, size_bytes, tail, .. } = content;
        // A file without a whole block has no first one.
        let block = if size_bytes < BLOCK_BYTES { NO_BLOCK } else { block_number(first_block)? };
        self.next_block = first_block + size_bytes / BLOCK_BYTES;
        // Where it fits is known once its form is.
        let fits =
            !tail.is_empty() && tail.len() <= MAX_TAIL && Form::Long.len() + looks.xattrs.len() + tail.len() <= BLOCK;
        if fits {
            return self.inode(looks, size_bytes, Layout::Inline(block), &tail);
        }
        if tail.is_empty() {
            return self.inode(looks, size_bytes, Layout::Plain(block), &[]);
        }
        let block = block_number(first_block)?;
        self.write(&tail)?;
        self.write(&[0; BLOCK][tail.len()..])?;
        self.next_block += 1;
        self.inode(looks, size_bytes, Layout::Plain(block), &[])
    }

    /// Begins a sparse file.
    pub(super) fn begin_sparse(&self, size_bytes: u64) -> SparseContent {
        let blocks = size_bytes.div_ceil(BLOCK_BYTES);
        let bits = (0..31).find(|bits| blocks.div_ceil(1 << bits) <= MAX_CHUNKS).unwrap_or(31);
        let chunks = usize::try_from(blocks.div_ceil(1 << bits)).unwrap_or(0);
        SparseContent { size_bytes, bits, table: vec![HOLE; chunks] }
    }

    /// Adds to a sparse file at an offset within it.
    pub(super) fn append_at(
        &mut self,
        content: &mut SparseContent,
        mut offset: u64,
        mut bytes: &[u8],
    ) -> io::Result<()> {
        let chunk_bytes = BLOCK_BYTES << content.bits;
        while !bytes.is_empty() {
            let (at, within) = (offset / chunk_bytes, offset % chunk_bytes);
            let chunk = usize::try_from(at).map_err(|_| io::ErrorKind::InvalidInput)?;
            let chunk = content.table.get_mut(chunk).ok_or(io::ErrorKind::InvalidInput)?;
            if *chunk == HOLE {
                self.flush()?;
                *chunk = block_number(self.next_block)?;
                let length = chunk_bytes.min(content.size_bytes - at * chunk_bytes);
                self.next_block += length.div_ceil(BLOCK_BYTES);
                self.buffer_at = self.next_block * BLOCK_BYTES;
            }
            let length = usize::try_from(chunk_bytes - within).unwrap_or(usize::MAX).min(bytes.len());
            self.file.write_all_at(&bytes[..length], u64::from(*chunk) * BLOCK_BYTES + within)?;
            offset += length as u64;
            bytes = &bytes[length..];
        }
        Ok(())
    }

    /// Ends a sparse file.
    pub(super) fn end_sparse(&mut self, content: &SparseContent, looks: &Looks) -> io::Result<Placed> {
        let table: Vec<u8> = content.table.iter().flat_map(|block| block.to_le_bytes()).collect();
        self.inode(looks, content.size_bytes, Layout::Chunks(content.bits), &table)
    }

    /// Places an inode with what stands behind it.
    pub(super) fn inode(
        &mut self,
        looks: &Looks,
        size_bytes: u64,
        layout: Layout,
        behind: &[u8],
    ) -> io::Result<Placed> {
        let epoch = *self.epoch.get_or_insert(looks.mtime);
        let serial = self.serial();
        let inode = Inode {
            mode: looks.mode,
            uid: looks.uid,
            gid: looks.gid,
            mtime: looks.mtime,
            links: 1,
            size_bytes,
            layout,
            xattr_bytes: looks.xattrs.len(),
            serial,
        };
        let form = inode.form(epoch);
        let head = form.len() + looks.xattrs.len();
        let tail = if matches!(layout, Layout::Inline(_)) { behind.len() } else { 0 };
        let mut at = place(self.chunk_used as u64, form, head, tail);
        if at + (head + behind.len()) as u64 > CHUNK as u64 {
            self.next_chunk()?;
            at = 0;
        }
        let start = usize::try_from(at).expect("it is within a chunk");
        let number = (self.chunk_at + at) / SLOT;
        let mut bytes = Vec::with_capacity(head);
        inode.write(form, &mut bytes);
        bytes.extend_from_slice(&looks.xattrs);
        bytes.extend_from_slice(behind);
        self.chunk[start..start + bytes.len()].copy_from_slice(&bytes);
        self.chunk_used = start + bytes.len();
        Ok(Placed { number, form })
    }

    /// Notes how many names an inode has.
    pub(super) fn set_links(&mut self, placed: Placed, links: u32) -> io::Result<()> {
        let (at, length) = placed.form.links();
        if length == 2 && links > u32::from(u16::MAX) {
            return Err(io::Error::other("a file has too many names"));
        }
        let at = placed.number * SLOT + at;
        let bytes = &links.to_le_bytes()[..length];
        if let Some(within) = at.checked_sub(self.chunk_at)
            && within < self.chunk.len() as u64
        {
            let within = usize::try_from(within).expect("it is within a chunk");
            self.chunk[within..within + length].copy_from_slice(bytes);
            return Ok(());
        }
        self.file.write_all_at(bytes, at)
    }

    /// Writes the last chunk. No inode can be placed after this; the number of the first free block.
    pub(super) fn end_inodes(&mut self) -> io::Result<u64> {
        self.write_chunk()?;
        if self.chunk_at > 0 {
            // What the last chunk does not need, if it is at the end.
            let end = (self.chunk_at + self.chunk_used as u64).div_ceil(BLOCK_BYTES);
            if self.chunk_at / BLOCK_BYTES + (CHUNK / BLOCK) as u64 == self.next_block && self.buffer.is_empty() {
                self.next_block = end;
            }
        }
        self.flush()?;
        self.buffer_at = self.next_block * BLOCK_BYTES;
        self.chunk = Vec::new();
        self.chunk_used = CHUNK;
        Ok(self.next_block)
    }

    /// Appends bytes at the end of all.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.buffer.len() + bytes.len() > BUFFER {
            self.flush()?;
        }
        if bytes.len() >= BUFFER {
            self.file.write_all_at(bytes, self.buffer_at)?;
            self.buffer_at += bytes.len() as u64;
            return self.begin_writeback();
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// Where the next byte goes that is appended.
    pub(super) fn end_of_file(&self) -> u64 {
        self.buffer_at + self.buffer.len() as u64
    }

    /// Writes block 0 and gives the file its length.
    pub(super) fn finish(mut self, first: &[u8; BLOCK], blocks: u32) -> io::Result<File> {
        self.flush()?;
        self.file.write_all_at(first, 0)?;
        self.file.set_len(u64::from(blocks) * BLOCK_BYTES)?;
        Ok(self.file)
    }

    fn next_chunk(&mut self) -> io::Result<()> {
        self.write_chunk()?;
        self.flush()?;
        self.chunk_at = self.next_block * BLOCK_BYTES;
        self.next_block += (CHUNK / BLOCK) as u64;
        block_number(self.next_block)?;
        self.buffer_at = self.next_block * BLOCK_BYTES;
        self.chunk.clear();
        self.chunk.resize(CHUNK, 0);
        self.chunk_used = 0;
        Ok(())
    }

    fn write_chunk(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        self.file.write_all_at(&self.chunk[..self.chunk_used.next_multiple_of(BLOCK).min(CHUNK)], self.chunk_at)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.file.write_all_at(&self.buffer, self.buffer_at)?;
        self.buffer_at += self.buffer.len() as u64;
        self.buffer.clear();
        self.begin_writeback()
    }

    /// Asks the kernel to begin writing what came since the last time.
    #[expect(clippy::unnecessary_wraps, reason = "it ends functions that can fail")]
    fn begin_writeback(&mut self) -> io::Result<()> {
        let length = self.buffer_at.saturating_sub(self.submitted);
        if length >= WRITEBACK {
            // Only a hint: a file system that does not take it is slower at the end.
            let _ = fadvise(&self.file, self.submitted, NonZeroU64::new(length), Advice::DontNeed);
            self.submitted = self.buffer_at;
        }
        Ok(())
    }
}

/// The first place from `at` on for an inode of that form with `head` bytes in all and an end of a file of `tail` bytes behind it:
/// neither the inode nor the end may be in two blocks.
pub(super) fn place(at: u64, form: Form, head: usize, tail: usize) -> u64 {
    let at = at.next_multiple_of(SLOT);
    let within = usize::try_from(at % BLOCK_BYTES).expect("less than a block");
    let split = within + form.len() > BLOCK;
    let tail_split = tail > 0 && (within + head) / BLOCK != (within + head + tail - 1) / BLOCK;
    if split || tail_split { at.next_multiple_of(BLOCK_BYTES) } else { at }
}

/// The number of a block, which has 32 bits.
pub(super) fn block_number(block: u64) -> io::Result<u32> {
    u32::try_from(block).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))
}
