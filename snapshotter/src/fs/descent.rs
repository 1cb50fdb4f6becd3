//! Walks down and up a tree of any depth with one descriptor: a hostile tree may be deeper than descriptors or stack reach.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Stat, fstat};

use super::open_folder;

/// Which folder or file one is, wherever it is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Id {
    device: u64,
    inode: u64,
}

impl Id {
    pub(crate) fn of(stat: &Stat) -> Self {
        Self { device: stat.st_dev, inode: stat.st_ino }
    }
}

/// A place in a tree, and the way back.
pub(crate) struct Descent {
    current: OwnedFd,
    here: Id,
    /// The folders above, with the name by which each was left downwards.
    above: Vec<(Id, Vec<u8>)>,
}

impl Descent {
    /// Starts at `root`.
    pub(crate) fn new(root: OwnedFd) -> io::Result<Self> {
        let here = Id::of(&fstat(&root)?);
        Ok(Self { current: root, here, above: Vec::new() })
    }

    pub(crate) fn id(&self) -> Id {
        self.here
    }

    pub(crate) fn depth(&self) -> usize {
        self.above.len()
    }

    /// Goes into the folder `name`.
    pub(crate) fn enter(&mut self, name: &[u8]) -> io::Result<()> {
        let next = open_folder(&self.current, name)?;
        let here = Id::of(&fstat(&next)?);
        self.above.push((self.here, name.to_vec()));
        (self.current, self.here) = (next, here);
        Ok(())
    }

    /// Goes back up, and says the name of the folder that was left. An error when the folder was moved meanwhile.
    pub(crate) fn leave(&mut self) -> io::Result<Vec<u8>> {
        let (id, name) =
            self.above.pop().ok_or_else(|| io::Error::other("there is nothing above the root of a tree"))?;
        let up = open_folder(&self.current, b"..")?;
        if Id::of(&fstat(&up)?) != id {
            return Err(io::Error::other("a folder was moved while its tree was walked"));
        }
        (self.current, self.here) = (up, id);
        Ok(name)
    }
}

impl AsFd for Descent {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.current.as_fd()
    }
}
