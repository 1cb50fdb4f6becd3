//! The end of an image: folders, whiteouts, block 0.
//!
//! Where every folder goes is decided first, then they are written in that order: their inodes with what fits behind them, then the
//! blocks of those that are large.

use std::fs::File;
use std::io;

use rustix::fs::Timespec;

use super::format::{
    BLOCK, BLOCK_BYTES, Form, Inode, Layout, ROOT_OFFSET, SLOT, SUPER_OFFSET, Super, folder, folder_len, kind,
    type_bits, xattrs,
};
use super::image::{Image, Looks, Placed, block_number, place};
use super::tree::{Entry, FolderId, FolderLooks, ROOT, Tree};
use super::writer::PREFIX;
use crate::fs::{Lowers, file_type, is_private, mtime};

/// A folder that a layer has files in and says nothing about, in a layer that does not know yet what it stands on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Implied {
    /// Its path, names joined by slashes.
    pub(crate) path: Vec<u8>,
    /// Where its inode is in the image.
    pub(crate) offset: u64,
}

/// What was written.
#[derive(Debug)]
pub(crate) struct Written {
    /// The image.
    pub(crate) file: File,
    /// The number of files in it.
    pub(crate) inodes: u64,
    /// Folders to be dressed once it is known what is below.
    pub(crate) implied: Vec<Implied>,
}

/// Where a folder goes.
struct Plan {
    folder: FolderId,
    looks: Looks,
    /// Where its inode is.
    at: u64,
    /// Its length.
    size_bytes: u64,
    /// How much of it is in blocks.
    in_blocks: u64,
    /// The first of those.
    block: u64,
    links: u32,
}

pub(super) fn finish(mut image: Image, mut tree: Tree, lowers: Option<&Lowers>) -> io::Result<Written> {
    let folders = tree.reachable();
    let whiteout = whiteout(&mut image, &tree, &folders)?;
    let mut implied = Vec::new();
    for &folder in &folders {
        if tree.folders[folder].looks.is_none() {
            let is_other = tree.folders[folder].is_other;
            let path = tree.path(folder);
            let below = match lowers {
                Some(lowers) if !is_other => inherited(lowers, &path)?,
                _ => None,
            };
            if below.is_none() && !is_other {
                implied.push((folder, path));
            }
            let plain = FolderLooks { mode: 0o755, uid: 0, gid: 0, mtime: image.epoch(), xattrs: Vec::new() };
            tree.folders[folder].looks = Some(below.unwrap_or(plain));
        }
    }
    let first = image.end_inodes()?;
    let (plans, blocks) = plan(&tree, &folders, first)?;
    let mut at = vec![0; tree.folders.len()];
    for plan in &plans {
        at[plan.folder] = plan.at;
    }
    let implied = implied.into_iter().map(|(folder, path)| Implied { path, offset: at[folder] }).collect();
    let inodes = count(&tree, &folders);
    let mut writer = Writer { image, tree: &tree, at, whiteout };
    let block0 = writer.all(&plans)?;
    let image = writer.image;
    let blocks = block_number(blocks)?;
    let epoch = image.epoch();
    let mut zero = [0; BLOCK];
    zero[..block0.len()].copy_from_slice(&block0);
    let mut uuid = [0; 16];
    uuid[..8].copy_from_slice(&inodes.to_le_bytes());
    uuid[8..12].copy_from_slice(&blocks.to_le_bytes());
    let head = Super { blocks, inodes, epoch, uuid }.bytes();
    zero[SUPER_OFFSET..SUPER_OFFSET + head.len()].copy_from_slice(&head);
    let file = image.finish(&zero, blocks)?;
    Ok(Written { file, inodes, implied })
}

/// One whiteout, for all names that need one.
fn whiteout(image: &mut Image, tree: &Tree, folders: &[FolderId]) -> io::Result<Option<Placed>> {
    let all = folders.iter().flat_map(|folder| tree.folders[*folder].entries.values());
    let names = all.filter(|entry| matches!(entry, Entry::Whiteout)).count();
    if names == 0 {
        return Ok(None);
    }
    let mtime = image.settle_epoch();
    // Only the long form counts so many names, and it is chosen for an inode with a time of its own.
    let looks = Looks { mode: type_bits(kind::CHAR), uid: 0, gid: 0, mtime, xattrs: Vec::new() };
    let looks = if names > usize::from(u16::MAX) {
        Looks { mtime: Timespec { tv_sec: mtime.tv_sec + 1, ..mtime }, ..looks }
    } else {
        looks
    };
    let placed = image.inode(&looks, 0, Layout::Device(0), &[])?;
    image.set_links(placed, u32::try_from(names).unwrap_or(u32::MAX))?;
    Ok(Some(placed))
}

/// What the layers below say of a folder.
fn inherited(lowers: &Lowers, path: &[u8]) -> io::Result<Option<FolderLooks>> {
    let Some(seen) = lowers.find(path)? else { return Ok(None) };
    if file_type(&seen.stat) != rustix::fs::FileType::Directory {
        return Ok(None);
    }
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let mut kept = crate::fs::xattrs::list(&seen.folder, if name.is_empty() { b"." } else { name })?;
    kept.retain(|(key, _)| !is_private(key));
    Ok(Some(FolderLooks {
        mode: u16::try_from(seen.stat.st_mode & 0o7777).expect("twelve bits"),
        uid: seen.stat.st_uid,
        gid: seen.stat.st_gid,
        mtime: mtime(&seen.stat),
        xattrs: kept,
    }))
}

/// How many files there are, each once.
fn count(tree: &Tree, folders: &[FolderId]) -> u64 {
    let mut files: Vec<u64> = Vec::new();
    let mut others = folders.len() as u64;
    for folder in folders {
        for entry in tree.folders[*folder].entries.values() {
            match entry {
                Entry::File(placed, _) => files.push(placed.number),
                Entry::Whiteout => others += 1,
                Entry::Folder(_) => {}
            }
        }
    }
    files.sort_unstable();
    files.dedup();
    files.len() as u64 + others
}

/// The names in a folder with those of itself and the one above, in order.
fn names_in(tree: &Tree, folder: FolderId) -> Vec<&[u8]> {
    let own = tree.folders[folder].entries.keys().map(|name| &**name);
    let mut names: Vec<&[u8]> = [&b"."[..], b".."].into_iter().chain(own).collect();
    names.sort_unstable();
    names
}

/// Where all folders go, from block `first` on, and the number of blocks with them.
fn plan(tree: &Tree, folders: &[FolderId], first: u64) -> io::Result<(Vec<Plan>, u64)> {
    let mut plans = Vec::with_capacity(folders.len());
    let mut next = first * BLOCK_BYTES;
    for &folder in folders {
        let node = &tree.folders[folder];
        let said = node.looks.as_ref().expect("it was given looks");
        let mut kept = said.xattrs.clone();
        if node.opaque {
            kept.push((PREFIX.key("opaque"), b"y".to_vec()));
        }
        let kept = xattrs(&kept).ok_or_else(|| io::Error::other("a folder has too many attributes"))?;
        let looks = Looks {
            mode: said.mode | type_bits(kind::FOLDER),
            uid: said.uid,
            gid: said.gid,
            mtime: said.mtime,
            xattrs: kept,
        };
        let size_bytes = folder_len(names_in(tree, folder).into_iter());
        let head = Form::Long.len() + looks.xattrs.len();
        let room = if folder == ROOT {
            let room = BLOCK - usize::try_from(ROOT_OFFSET).expect("it is in the first block");
            if head > room {
                return Err(io::Error::other("the root has too many attributes"));
            }
            room
        } else {
            BLOCK
        };
        let tail = usize::try_from(size_bytes % BLOCK_BYTES).expect("less than a block");
        let tail = if head + tail <= room { tail } else { 0 };
        let at = if folder == ROOT { ROOT_OFFSET } else { place(next, Form::Long, head, tail) };
        if folder != ROOT {
            next = at + (head + tail) as u64;
        }
        let below = node.entries.values().filter(|entry| matches!(entry, Entry::Folder(_))).count();
        plans.push(Plan {
            folder,
            looks,
            at,
            size_bytes,
            in_blocks: size_bytes - tail as u64,
            block: 0,
            links: 2 + u32::try_from(below).unwrap_or(u32::MAX - 2),
        });
    }
    let mut block = next.div_ceil(BLOCK_BYTES);
    for plan in &mut plans {
        plan.block = block;
        block += plan.in_blocks.div_ceil(BLOCK_BYTES);
    }
    Ok((plans, block))
}

struct Writer<'t> {
    image: Image,
    tree: &'t Tree,
    /// Where the inode of each folder is.
    at: Vec<u64>,
    whiteout: Option<Placed>,
}

impl Writer<'_> {
    /// Writes all folders; what is to be in block 0 is the result.
    fn all(&mut self, plans: &[Plan]) -> io::Result<Vec<u8>> {
        let mut block0 = Vec::new();
        let mut bytes = Vec::new();
        let mut content = Vec::new();
        for plan in plans {
            bytes.clear();
            content.clear();
            let in_blocks = usize::try_from(plan.in_blocks).map_err(|_| io::ErrorKind::FileTooLarge)?;
            let inode = self.inode(plan)?;
            inode.write(Form::Long, &mut bytes);
            bytes.extend_from_slice(&plan.looks.xattrs);
            self.content(plan.folder, &mut content);
            bytes.extend_from_slice(&content[in_blocks..]);
            if plan.folder == ROOT {
                block0.resize(usize::try_from(ROOT_OFFSET).expect("it is in the first block"), 0);
                block0.extend_from_slice(&bytes);
                continue;
            }
            self.pad_to(plan.at)?;
            self.image.write(&bytes)?;
        }
        for plan in plans.iter().filter(|plan| plan.in_blocks > 0) {
            content.clear();
            self.content(plan.folder, &mut content);
            self.pad_to(plan.block * BLOCK_BYTES)?;
            self.image.write(&content[..usize::try_from(plan.in_blocks).map_err(|_| io::ErrorKind::FileTooLarge)?])?;
        }
        Ok(block0)
    }

    fn inode(&mut self, plan: &Plan) -> io::Result<Inode> {
        let block = block_number(plan.block)?;
        Ok(Inode {
            mode: plan.looks.mode,
            uid: plan.looks.uid,
            gid: plan.looks.gid,
            mtime: plan.looks.mtime,
            links: plan.links,
            size_bytes: plan.size_bytes,
            layout: if plan.in_blocks == plan.size_bytes { Layout::Plain(block) } else { Layout::Inline(block) },
            xattr_bytes: plan.looks.xattrs.len(),
            serial: self.image.serial(),
        })
    }

    fn content(&self, id: FolderId, out: &mut Vec<u8>) {
        let node = &self.tree.folders[id];
        let number = |folder: FolderId| self.at[folder] / SLOT;
        let entries = names_in(self.tree, id).into_iter().map(|name| match (name, node.entries.get(name)) {
            (name, Some(Entry::Folder(folder))) => (name, number(*folder), kind::FOLDER),
            (name, Some(Entry::File(placed, file_kind))) => (name, placed.number, *file_kind),
            (name, Some(Entry::Whiteout)) => (name, self.whiteout.map_or(0, |placed| placed.number), kind::CHAR),
            (b".", None) => (name, number(id), kind::FOLDER),
            (name, None) => (name, number(node.parent), kind::FOLDER),
        });
        folder(entries, out);
    }

    fn pad_to(&mut self, place: u64) -> io::Result<()> {
        const ZEROS: [u8; BLOCK] = [0; BLOCK];
        while self.image.end_of_file() < place {
            let missing = usize::try_from(place - self.image.end_of_file()).unwrap_or(BLOCK).min(BLOCK);
            self.image.write(&ZEROS[..missing])?;
        }
        Ok(())
    }
}
