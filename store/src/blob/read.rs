//! Reading a blob.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use super::error::{BlobError, IoContext};

/// A blob, open for reading. It stays readable when it is deleted meanwhile.
#[derive(Debug)]
pub struct BlobReader {
    file: File,
    size: u64,
}

impl BlobReader {
    pub(super) fn new(file: File) -> Result<Self, BlobError> {
        let size = file.metadata().during("looking up content")?.len();
        Ok(Self { file, size })
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Fills `buffer` from `offset` on, as far as there are bytes; how many were read.
    ///
    /// # Errors
    /// [`BlobError::OutOfRange`] when `offset` is behind the end, or what the file system said.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, BlobError> {
        if offset > self.size {
            return Err(BlobError::OutOfRange { offset, end: self.size });
        }
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(got) => filled += got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).during("reading content"),
            }
        }
        Ok(filled)
    }

    /// All of it, if it has no more than `limit` bytes.
    ///
    /// # Errors
    /// [`BlobError::TooLarge`], or what the file system said.
    pub fn read_whole(&self, limit: usize) -> Result<Vec<u8>, BlobError> {
        let length = usize::try_from(self.size).ok().filter(|size| *size <= limit);
        let mut bytes = vec![0; length.ok_or(BlobError::TooLarge { size: self.size, limit })?];
        let got = self.read_at(&mut bytes, 0)?;
        bytes.truncate(got);
        Ok(bytes)
    }

    /// The file, at its beginning unless it was read from.
    pub fn into_file(self) -> File {
        self.file
    }
}

/// From the beginning on, independent of [`BlobReader::read_at`].
impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}
