//! Unpacks layer archives: tar, plain or compressed, into a folder and never out of it.

pub(crate) mod archive;
mod encoding;
mod error;
mod header;
pub(crate) mod image;
pub(crate) mod path;
pub(crate) mod stream;
mod target;
mod tree;
pub(crate) mod unpack;
pub(crate) mod whiteout;

use std::io::Read;

use model::Digest;

use archive::Archive;
use stream::Stream;
use unpack::Unpacker;

pub use encoding::{Compression, Encoding};
pub use error::LayerError;
pub use image::{ImageSlot, StandsOn, write_image};
pub(crate) use target::split_lowers;
pub use target::{Target, TargetError, Whiteouts};

/// The bounds on what one archive may ask for. The defaults are far above real images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The number of entries.
    pub entries: u64,
    /// The length of a name or a link target, in bytes.
    pub name_bytes: usize,
    /// The length of the extended headers of one entry (pax records, GNU long names), in bytes.
    pub header_bytes: usize,
    /// The number of data segments of one sparse file.
    pub sparse_segments: usize,
    /// The size of the uncompressed archive, in bytes.
    pub total_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 4_000_000,
            name_bytes: 4096,
            header_bytes: 1 << 20,
            sparse_segments: 1 << 18,
            total_bytes: 1 << 40,
        }
    }
}

/// What [`apply`] does before it returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Leaves writing to the system; the commit of the snapshot sees to it.
    Later,
    /// Writes everything to disk.
    Synced,
}

/// What came out of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The digest of the uncompressed archive, to its very last byte.
    pub diff_id: Digest,
    /// The size of the uncompressed archive, in bytes.
    pub size_bytes: u64,
    /// The number of entries.
    pub entries: u64,
}

/// Unpacks the archive that `reader` yields into `target`.
///
/// # Errors
/// At the first entry that cannot be unpacked; the entries before it stay, so the target is to be thrown away.
pub fn apply(
    reader: impl Read,
    encoding: Encoding,
    target: &Target,
    limits: &Limits,
    durability: Durability,
) -> Result<Applied, LayerError> {
    let mut unpacker = Unpacker::new(target)?;
    let mut archive = Archive::new(Stream::new(reader, encoding, limits.total_bytes)?, *limits);
    while let Some(entry) = archive.next()? {
        unpacker.entry(&entry, &mut archive)?;
    }
    unpacker.finish()?;
    let applied = archive.finish()?;
    if durability == Durability::Synced {
        let root = unpacker.tree.root();
        rustix::fs::syncfs(&**root).map_err(|error| LayerError::Target { doing: "sync", source: error.into() })?;
    }
    Ok(applied)
}
