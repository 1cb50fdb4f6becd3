//! The names of a layer, in memory until the folders can be written: who is where, and what is said of folders.
//!
//! Links on the way to a file are followed within the layer only, as if it were the root of a system; what the layers below hold
//! is not seen here. Nothing of this meets a disk.

use std::collections::{BTreeMap, HashMap};

use rustix::fs::Timespec;

use super::image::Placed;

/// As many links as the kernel follows.
const MAX_LINKS: usize = 40;

/// Which folder: its place in [`Tree::folders`].
pub(super) type FolderId = usize;

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    Folder(FolderId),
    /// Anything that has an inode in the image already, by its type.
    File(Placed, u8),
    /// What is below is gone.
    Whiteout,
}

/// What is said of a folder.
#[derive(Debug, Clone)]
pub(super) struct FolderLooks {
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Timespec,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A folder.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) parent: FolderId,
    pub(super) entries: BTreeMap<Box<[u8]>, Entry>,
    /// None for one that is here only because something is in it: it looks as in the layers below.
    pub(super) looks: Option<FolderLooks>,
    /// Whether it hides what the layers below have under its name.
    pub(super) opaque: bool,
    /// Whether it came in the place of a whiteout, so that the folder below is another one.
    pub(super) is_other: bool,
}

/// The names.
pub(super) struct Tree {
    pub(super) folders: Vec<Folder>,
    /// Where the links of the layer lead, by the number of their inode.
    links: HashMap<u64, Box<[u8]>>,
    /// About how much memory all this takes, in bytes.
    pub(super) weight: usize,
}

/// Why a path leads nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    /// Something on the way does not exist.
    Missing,
    /// Something on the way is no folder.
    NotFolder,
    /// Links without end.
    Loop,
}

/// What there is about a path, on the way.
enum Step {
    At(FolderId),
    Missing(FolderId, Vec<u8>),
}

/// What a folder weighs beside its name: its map, and what is said of it.
const FOLDER_WEIGHT: usize = 256;
/// What an entry weighs beside its name.
const ENTRY_WEIGHT: usize = 80;

/// The root.
pub(super) const ROOT: FolderId = 0;

impl Tree {
    pub(super) fn new() -> Self {
        let root = Folder { parent: ROOT, entries: BTreeMap::new(), looks: None, opaque: false, is_other: false };
        Self { folders: vec![root], links: HashMap::new(), weight: FOLDER_WEIGHT }
    }

    pub(super) fn entry(&self, folder: FolderId, name: &[u8]) -> Option<Entry> {
        self.folders[folder].entries.get(name).copied()
    }

    /// Gives a name to something, whatever had it.
    pub(super) fn insert(&mut self, folder: FolderId, name: &[u8], entry: Entry) {
        if self.folders[folder].entries.insert(name.into(), entry).is_none() {
            self.weight += ENTRY_WEIGHT + name.len();
        }
    }

    /// Notes where a link leads.
    pub(super) fn note_link(&mut self, placed: Placed, target: &[u8]) {
        self.weight += ENTRY_WEIGHT + target.len();
        self.links.insert(placed.number, target.into());
    }

    /// Where a link leads.
    pub(super) fn link(&self, placed: Placed) -> Option<&[u8]> {
        self.links.get(&placed.number).map(|target| &**target)
    }

    /// Makes a folder under a name.
    pub(super) fn make_folder(&mut self, parent: FolderId, name: &[u8], looks: Option<FolderLooks>) -> FolderId {
        let is_other = matches!(self.entry(parent, name), Some(Entry::Whiteout));
        let id = self.folders.len();
        self.folders.push(Folder { parent, entries: BTreeMap::new(), looks, opaque: is_other, is_other });
        self.weight += FOLDER_WEIGHT;
        self.insert(parent, name, Entry::Folder(id));
        id
    }

    /// The folder at `path`.
    pub(super) fn find(&self, path: &[u8]) -> Result<FolderId, Lost> {
        match self.walk(path)? {
            Step::At(folder) => Ok(folder),
            Step::Missing(..) => Err(Lost::Missing),
        }
    }

    /// The folder at `path`, made with all those above it where missing.
    pub(super) fn make(&mut self, path: &[u8]) -> Result<FolderId, Lost> {
        loop {
            match self.walk(path)? {
                Step::At(folder) => return Ok(folder),
                Step::Missing(folder, name) => {
                    self.make_folder(folder, &name, None);
                }
            }
        }
    }

    /// Follows `path` to its end, or to the first name that is missing.
    fn walk(&self, path: &[u8]) -> Result<Step, Lost> {
        let mut rest: Vec<Vec<u8>> = parts(path).rev().map(<[u8]>::to_vec).collect();
        let mut at = ROOT;
        let mut links = 0;
        while let Some(name) = rest.pop() {
            if name == b".." {
                at = self.folders[at].parent;
                continue;
            }
            match self.entry(at, &name) {
                Some(Entry::Folder(folder)) => at = folder,
                None | Some(Entry::Whiteout) => return Ok(Step::Missing(at, name)),
                Some(Entry::File(placed, _)) => {
                    let target = self.link(placed).ok_or(Lost::NotFolder)?;
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Lost::Loop);
                    }
                    if target.starts_with(b"/") {
                        at = ROOT;
                    }
                    rest.extend(parts(target).rev().map(<[u8]>::to_vec));
                }
            }
        }
        Ok(Step::At(at))
    }

    /// All folders that have a name, each after the one it is in, with their paths.
    pub(super) fn reachable(&self) -> Vec<FolderId> {
        let mut found = vec![ROOT];
        let mut next = 0;
        let mut stack = vec![ROOT];
        // Depth first, so that what is near in the tree is near in the image.
        while let Some(folder) = stack.pop() {
            if next > 0 {
                found.push(folder);
            }
            next += 1;
            let below = self.folders[folder].entries.values().rev();
            stack.extend(below.filter_map(|entry| match entry {
                Entry::Folder(folder) => Some(*folder),
                Entry::File(..) | Entry::Whiteout => None,
            }));
        }
        found
    }

    /// The path of a folder, names joined by slashes.
    pub(super) fn path(&self, mut folder: FolderId) -> Vec<u8> {
        let mut names: Vec<&[u8]> = Vec::new();
        while folder != ROOT {
            let parent = self.folders[folder].parent;
            let own = self.folders[parent].entries.iter().find(|(_, entry)| **entry == Entry::Folder(folder));
            names.push(own.map_or(&b""[..], |(name, _)| name));
            folder = parent;
        }
        names.reverse();
        names.join(&b'/')
    }
}

/// The names of a path that say something.
fn parts(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b"."))
}

#[cfg(test)]
mod tests {
    use super::super::format::{Form, kind};
    use super::*;

    fn link(tree: &mut Tree, folder: FolderId, name: &[u8], number: u64, target: &[u8]) {
        let placed = Placed { number, form: Form::Long };
        tree.insert(folder, name, Entry::File(placed, kind::SYMLINK));
        tree.note_link(placed, target);
    }

    #[test]
    fn links_are_followed_within_the_layer() {
        let mut tree = Tree::new();
        let deep = tree.make(b"usr/lib/deep").unwrap();
        link(&mut tree, ROOT, b"lib", 100, b"usr/lib");
        link(&mut tree, deep, b"up", 101, b"../../../../usr");
        link(&mut tree, ROOT, b"abs", 102, b"/usr/lib/deep");
        link(&mut tree, ROOT, b"loop", 103, b"loop");
        link(&mut tree, ROOT, b"new", 104, b"nowhere/yet");
        assert_eq!(tree.find(b"lib/deep"), Ok(deep));
        assert_eq!(tree.find(b"abs/up/lib/deep"), Ok(deep));
        assert_eq!(tree.find(b"loop/x"), Err(Lost::Loop));
        assert_eq!(tree.find(b"new/x"), Err(Lost::Missing));
        let made = tree.make(b"new/x").unwrap();
        assert_eq!(tree.find(b"nowhere/yet/x"), Ok(made));
        assert_eq!(tree.path(made), b"nowhere/yet/x");
    }

    #[test]
    fn files_are_no_folders_and_whiteouts_are_replaced() {
        let mut tree = Tree::new();
        tree.insert(ROOT, b"file", Entry::File(Placed { number: 99, form: Form::Long }, kind::FILE));
        assert_eq!(tree.make(b"file/x"), Err(Lost::NotFolder));
        tree.insert(ROOT, b"gone", Entry::Whiteout);
        let made = tree.make(b"gone").unwrap();
        assert!(tree.folders[made].opaque && tree.folders[made].is_other);
        assert_eq!(tree.reachable(), [ROOT, made]);
    }
}
