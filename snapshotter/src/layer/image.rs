//! A layer into one image, in place of a folder: `layer.erofs` in the folder of a snapshot.
//!
//! The image is written under another name and renamed when it is whole, so an image of that name is never half of one. Nothing is
//! synced here; the commit of the snapshot sees to that.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::{AtFlags, Mode, OFlags, openat, renameat, unlinkat};

use super::{Applied, Encoding, LayerError, Limits};
use crate::erofs::{Below, Implied, write};
use crate::fs::Lowers;
use crate::fs::xattrs::OverlayPrefix;

/// The image of a snapshot's layer.
pub(crate) const IMAGE: &str = "layer.erofs";
/// An image that is not whole yet.
const NEW: &str = "layer.new";
/// Which folders of the image are still to look as those below: place and path of each.
pub(crate) const IMPLIED: &str = "layer.implied";

/// What a layer stands on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StandsOn {
    /// Nothing: it is the lowest, so it hides nothing.
    Nothing,
    /// The layers in these folders, nearest first.
    Folders(Vec<PathBuf>),
    /// That will be told at its commit.
    Unknown,
}

/// The place for the layer of a snapshot as one image.
#[derive(Debug)]
pub struct ImageSlot {
    /// The folder of the snapshot.
    folder: OwnedFd,
    stands_on: StandsOn,
}

impl ImageSlot {
    pub(crate) fn new(folder: OwnedFd, stands_on: StandsOn) -> Self {
        Self { folder, stands_on }
    }

    /// Says that it will be told only at its commit what the layer stands on. Only for a snapshot without a parent.
    #[must_use]
    pub fn on_unknown(self) -> Self {
        Self { stands_on: StandsOn::Unknown, ..self }
    }

    /// Writes the layer that `reader` yields.
    ///
    /// # Errors
    /// [`LayerError`]; nothing is left of it then, so the layer can be unpacked in another way.
    pub fn write(&self, reader: impl Read, encoding: Encoding, limits: &Limits) -> Result<Applied, LayerError> {
        let outcome = self.write_new(reader, encoding, limits);
        if outcome.is_err() {
            let _ = unlinkat(&self.folder, NEW, AtFlags::empty());
            let _ = unlinkat(&self.folder, IMPLIED, AtFlags::empty());
        }
        outcome
    }

    /// Takes the image away again.
    pub fn clear(&self) {
        for name in [IMAGE, IMPLIED] {
            let _ = unlinkat(&self.folder, name, AtFlags::empty());
        }
    }

    /// Writes everything to disk.
    ///
    /// # Errors
    /// What the system said.
    pub fn sync(&self) -> io::Result<()> {
        sync(&self.folder)
    }

    fn write_new(&self, reader: impl Read, encoding: Encoding, limits: &Limits) -> Result<Applied, LayerError> {
        let failed = |doing| move |source: io::Error| LayerError::Target { doing, source };
        let file = create(&self.folder, NEW).map_err(failed("make the image of"))?;
        let below = match &self.stands_on {
            StandsOn::Nothing => Below::Nothing,
            StandsOn::Unknown => Below::Unknown,
            StandsOn::Folders(folders) => {
                Below::Known(Lowers::open(folders, OverlayPrefix::Trusted).map_err(failed("open what is below"))?)
            }
        };
        let (applied, written) = write(reader, encoding, limits, file, below)?;
        if !written.implied.is_empty() {
            note_implied(&self.folder, &written.implied).map_err(failed("write beside the image of"))?;
        }
        drop(written.file);
        let named = renameat(&self.folder, NEW, &self.folder, IMAGE);
        named.map_err(|error| failed("name the image of")(error.into()))?;
        tracing::debug!(inodes = written.inodes, entries = applied.entries, "layer written as an image");
        Ok(applied)
    }
}

/// Writes the image in a snapshot's folder to disk, with its name.
pub(crate) fn sync(folder: &OwnedFd) -> io::Result<()> {
    let image = openat(folder, IMAGE, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    rustix::fs::fsync(&image)?;
    Ok(rustix::fs::fsync(folder)?)
}

fn create(folder: &OwnedFd, name: &str) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(openat(folder, name, flags, Mode::RUSR | Mode::WUSR)?))
}

/// Each as its place, the length of its path, its path.
fn note_implied(folder: &OwnedFd, implied: &[Implied]) -> io::Result<()> {
    let mut bytes = Vec::new();
    for one in implied {
        let length = u32::try_from(one.path.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        bytes.extend_from_slice(&one.offset.to_le_bytes());
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&one.path);
    }
    let _ = unlinkat(folder, IMPLIED, AtFlags::empty());
    create(folder, IMPLIED)?.write_all(&bytes)
}

/// What [`note_implied`] noted; nothing when it did not.
pub(crate) fn implied(folder: &OwnedFd) -> io::Result<Vec<Implied>> {
    let file = match openat(folder, IMPLIED, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => return Ok(Vec::new()),
        file => File::from(file?),
    };
    let mut bytes = Vec::new();
    { file }.read_to_end(&mut bytes)?;
    let mut rest = &bytes[..];
    let mut all = Vec::new();
    while let Some((offset, after)) = rest.split_first_chunk::<8>() {
        let cut = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let (length, after) = after.split_first_chunk::<4>().ok_or_else(cut)?;
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let (path, after) = after.split_at_checked(length).ok_or_else(cut)?;
        all.push(Implied { path: path.to_vec(), offset: u64::from_le_bytes(*offset) });
        rest = after;
    }
    Ok(all)
}

/// Writes a layer into an open file as an image, for whoever wants nothing but that.
///
/// # Errors
/// [`LayerError`]; the file is then to be thrown away.
pub fn write_image(
    reader: impl Read,
    encoding: Encoding,
    limits: &Limits,
    file: File,
    stands_on: &StandsOn,
) -> Result<Applied, LayerError> {
    let below = match stands_on {
        StandsOn::Nothing => Below::Nothing,
        StandsOn::Unknown => Below::Unknown,
        StandsOn::Folders(folders) => {
            let opened = Lowers::open(folders, OverlayPrefix::Trusted);
            Below::Known(opened.map_err(|source| LayerError::Target { doing: "open what is below", source })?)
        }
    };
    write(reader, encoding, limits, file, below).map(|(applied, _)| applied)
}
