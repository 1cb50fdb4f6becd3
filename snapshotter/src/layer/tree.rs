//! The folder that a layer goes into, walked by descriptor. Links are resolved as if it were the root of the system; the kernel
//! sees to that (openat2(2)), so neither what an archive holds nor what somebody swaps meanwhile leads out of it.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, fstat, mkdirat, open, openat2, readlinkat, unlinkat};
use rustix::io::Errno;

use crate::fs::xattrs::{self, OverlayPrefix};
use crate::fs::{FOLDER, Id, is_whiteout, look};

/// Folders that are kept open, so that the files of one folder cost no walk each.
const OPEN_FOLDERS: usize = 128;
/// How often openat2 is asked again when something was renamed under it.
const RACE_RETRIES: usize = 64;
/// As many links as the kernel follows.
const MAX_LINKS: usize = 40;

/// An open folder of the tree.
pub(super) struct Folder {
    fd: OwnedFd,
    pub(super) id: Id,
    /// The group that new files get instead of the writer's own, from a folder with the set-group-id bit.
    pub(super) inherited_gid: Option<u32>,
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

pub(super) struct Tree {
    root: Rc<Folder>,
    open: HashMap<Vec<u8>, Rc<Folder>>,
    /// What this layer made or mentioned, by the hash of its folder and name: sixteen times smaller than the names themselves.
    made: HashSet<u64>,
    hashing: RandomState,
    /// For an overlay's upper folder: where its attributes are.
    overlay: Option<OverlayPrefix>,
}

/// How far [`Tree::make_until_link`] came.
enum Made {
    All(Rc<Folder>),
    /// A link to nothing ends here in the path.
    LinkAt(usize),
}

/// A folder that had to be made because an entry is in it.
pub(super) struct Implied {
    pub(super) path: Vec<u8>,
    pub(super) folder: Rc<Folder>,
    /// Whether it has nothing to do with a folder of that name below.
    pub(super) hides: bool,
}

impl Tree {
    pub(super) fn open(dir: &Path, overlay: Option<OverlayPrefix>) -> io::Result<Self> {
        let fd = open(dir, FOLDER.difference(OFlags::NOFOLLOW), Mode::empty())?;
        let root = Rc::new(Folder::new(fd)?);
        Ok(Self { root, open: HashMap::new(), made: HashSet::new(), hashing: RandomState::new(), overlay })
    }

    pub(super) fn root(&self) -> &Rc<Folder> {
        &self.root
    }

    /// The folder at `path`; none when there is no folder there.
    pub(super) fn find(&mut self, path: &[u8]) -> io::Result<Option<Rc<Folder>>> {
        if path.is_empty() {
            return Ok(Some(Rc::clone(&self.root)));
        }
        if let Some(folder) = self.open.get(path) {
            return Ok(Some(Rc::clone(folder)));
        }
        match self.resolve(path, FOLDER.difference(OFlags::NOFOLLOW)) {
            Ok(fd) => {
                let folder = Rc::new(Folder::new(fd)?);
                if self.open.len() >= OPEN_FOLDERS {
                    self.open.clear();
                }
                self.open.insert(path.to_vec(), Rc::clone(&folder));
                Ok(Some(folder))
            }
            Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::NOENT | Errno::NOTDIR)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The folder at `path`, made with all those above it where missing. Those that were made are added to `implied`.
    pub(super) fn make(&mut self, path: &[u8], implied: &mut Vec<Implied>) -> io::Result<Rc<Folder>> {
        if let Some(folder) = self.find(path)? {
            return Ok(folder);
        }
        let mut path = path.to_vec();
        for _ in 0..MAX_LINKS {
            match self.make_until_link(&path, implied)? {
                Made::All(folder) => return Ok(folder),
                Made::LinkAt(end) => path = self.past_link(&path, end)?,
            }
        }
        Err(Errno::LOOP.into())
    }

    /// Makes the missing folders of `path`, up to a link to what does not exist.
    fn make_until_link(&mut self, path: &[u8], implied: &mut Vec<Implied>) -> io::Result<Made> {
        let mut folder = Rc::clone(&self.root);
        for (start, end) in parts(path) {
            let so_far = &path[..end];
            if let Some(found) = self.find(so_far)? {
                folder = found;
                continue;
            }
            let name = &path[start..end];
            let hides = match mkdirat(&folder, name, Mode::from_raw_mode(0o755)) {
                Ok(()) => false,
                Err(Errno::EXIST) if self.replace_whiteout(&folder, name)? => true,
                Err(Errno::EXIST) => return Ok(Made::LinkAt(end)),
                Err(error) => return Err(error.into()),
            };
            self.mark(&folder, name);
            folder = self.find(so_far)?.ok_or(Errno::NOENT)?;
            implied.push(Implied { path: so_far.to_vec(), folder: Rc::clone(&folder), hides });
        }
        Ok(Made::All(folder))
    }

    /// If `name` is a whiteout, makes it a folder that hides as much.
    fn replace_whiteout(&self, folder: &Folder, name: &[u8]) -> io::Result<bool> {
        let Some(prefix) = self.overlay else { return Ok(false) };
        if !look(folder, name)?.as_ref().is_some_and(is_whiteout) {
            return Ok(false);
        }
        unlinkat(folder, name, AtFlags::empty())?;
        mkdirat(folder, name, Mode::from_raw_mode(0o755))?;
        xattrs::set(folder, name, &prefix.key("opaque"), b"y")?;
        Ok(true)
    }

    /// `path` with the link that ends at `end` replaced by what it says. Where that is, is left to the kernel, like everything else.
    fn past_link(&mut self, path: &[u8], end: usize) -> io::Result<Vec<u8>> {
        let start = path[..end].iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        let above = &path[..start.saturating_sub(1)];
        let folder = self.find(above)?.ok_or(Errno::NOENT)?;
        let target = readlinkat(&folder, &path[start..end], Vec::new()).map_err(|_| Errno::NOTDIR)?.into_bytes();
        let base = if target.starts_with(b"/") { &b""[..] } else { above };
        let pieces = [base, &target, &path[end..]];
        let names = pieces.iter().flat_map(|piece| piece.split(|byte| *byte == b'/'));
        Ok(names.filter(|name| !matches!(*name, b"" | b".")).collect::<Vec<_>>().join(&b'/'))
    }

    /// The folder at `path` itself, not what a link there leads to; none when there is something else.
    pub(super) fn reopen(&self, path: &[u8]) -> io::Result<Option<OwnedFd>> {
        if path.is_empty() {
            return Ok(Some(self.root.fd.try_clone()?));
        }
        match self.resolve(path, FOLDER) {
            Ok(fd) => Ok(Some(fd)),
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
                _ => Err(error),
            },
        }
    }

    /// Forgets the open folders: one of them may have been removed, or a link to it, or it looks different now.
    pub(super) fn forget_open(&mut self) {
        self.open.clear();
    }

    /// Looks at the root again.
    pub(super) fn renew_root(&mut self) -> io::Result<()> {
        self.root = Rc::new(Folder::new(self.root.fd.try_clone()?)?);
        Ok(())
    }

    /// Notes that `name` in `folder` is this layer's.
    pub(super) fn mark(&mut self, folder: &Folder, name: &[u8]) {
        let hash = self.hash(folder.id, name);
        self.made.insert(hash);
    }

    /// Whether `name` in `folder` is this layer's.
    pub(super) fn is_made(&self, folder: Id, name: &[u8]) -> bool {
        self.made.contains(&self.hash(folder, name))
    }

    fn hash(&self, folder: Id, name: &[u8]) -> u64 {
        self.hashing.hash_one((folder, name))
    }

    fn resolve(&self, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
        let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..RACE_RETRIES {
            match openat2(&self.root.fd, path, flags, Mode::empty(), within) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(Errno::NOSYS) => return Err(io::Error::other("openat2 is missing: Linux 5.6 or later is needed")),
                result => return Ok(result?),
            }
        }
        Err(Errno::AGAIN.into())
    }
}

/// Where each name of a path begins and ends.
fn parts(path: &[u8]) -> impl Iterator<Item = (usize, usize)> {
    let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at).chain([path.len()]);
    ends.scan(0, |start, end| {
        let part = (*start, end);
        *start = end + 1;
        Some(part)
    })
}

impl Folder {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        const SET_GROUP_ID: u32 = 0o2000;
        let stat = fstat(&fd)?;
        let inherited_gid = (stat.st_mode & SET_GROUP_ID != 0).then_some(stat.st_gid);
        Ok(Self { fd, id: Id::of(&stat), inherited_gid })
    }
}
