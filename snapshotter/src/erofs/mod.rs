//! A layer as one EROFS image: written in one stream while its archive is read, for the kernel to mount.
//!
//! Contents and inodes go into the file as they come ([`image`]); only names are kept in memory ([`tree`]), and are written as folders
//! at the end. A layer that may be seen on top of others holds whiteouts as overlayfs knows them. What an image cannot hold, or what
//! would take too much memory, is refused as `LayerError::NotAsImage`: such a layer is unpacked into a folder.
//!
//! It mounts nothing, and syncs nothing.

mod dress;
mod finish;
mod format;
mod image;
mod tree;
mod writer;

pub(crate) use dress::dress;
pub(crate) use finish::Implied;
pub(crate) use writer::{Below, write};

/// A minimal image: an empty root. For asking a kernel whether it mounts such.
pub(crate) fn empty(file: std::fs::File) -> std::io::Result<()> {
    finish::finish(image::Image::new(file), tree::Tree::new(), None).map(drop)
}
