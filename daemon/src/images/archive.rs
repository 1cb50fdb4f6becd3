//! Reads the archives that images are passed around in: tar, plain or compressed, from front to back.
//!
//! Nothing is ever written by the name of an entry; names only say what an entry is for. Still all of it comes from outside: headers
//! have a bound, names that lead elsewhere are refused, and what an archive claims to hold is believed only as it is read.
//! Layers are archives of another kind, for [`snapshotter::layer`].

mod header;

use std::io::{self, BufReader, Read};

use model::Digest;
use model::error::{Classify, Kind};

use header::{BLOCK_BYTES, Header};

/// The most entries of an archive.
pub const MAX_ENTRIES: usize = 65_536;

/// The longest name of an entry, in bytes.
pub const MAX_NAME_BYTES: usize = 4096;

/// The longest extended header, in bytes.
const MAX_HEADER_BYTES: u64 = 64 * 1024;

/// How much may follow the end of an archive, in bytes; tools pad to the size of a tape record.
const MAX_TRAILER_BYTES: u64 = 16 << 20;

/// How much is decompressed ahead, in bytes.
const BUFFER_BYTES: usize = 128 * 1024;

/// How many bytes tell the compression.
const START_BYTES: u64 = 6;

/// Why an archive cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It cannot be read.
    #[error("cannot read the archive")]
    Read {
        /// What is wrong.
        source: io::Error,
    },
    /// It ends too early.
    #[error("the archive is truncated: it ends {place} {name:?}")]
    Truncated {
        /// In or after what.
        place: &'static str,
        /// The entry.
        name: String,
    },
    /// It is no tar archive, or a damaged one.
    #[error("the archive is damaged behind {name:?}: {what}")]
    Damaged {
        /// The entry before.
        name: String,
        /// What is wrong.
        what: &'static str,
    },
    /// A compression that is not supported.
    #[error("the archive is compressed with {with}, which is not supported")]
    Compression {
        /// With what.
        with: &'static str,
    },
    /// An entry that no image archive has.
    #[error("entry {name:?} of the archive is refused: {why}")]
    Refused {
        /// The entry.
        name: String,
        /// Why.
        why: &'static str,
    },
    /// More than is allowed.
    #[error("the archive exceeds a limit: {what} is more than {limit}")]
    TooMuch {
        /// Of what.
        what: String,
        /// The limit.
        limit: u64,
    },
    /// The content of a blob is not what its name says.
    #[error("entry {name:?} of the archive holds {got}")]
    Digest {
        /// The entry.
        name: String,
        /// Its digest.
        got: Digest,
    },
    /// It has neither of the documents that say what is in it.
    #[error("the archive is no image: it has neither an index.json with an oci-layout nor a manifest.json")]
    NoImage,
    /// A document in it cannot be read.
    #[error("cannot read {name} of the archive")]
    Syntax {
        /// Which one.
        name: &'static str,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// It names something that is not in it.
    #[error("the archive has no {what}, which it names")]
    Missing {
        /// What.
        what: String,
    },
    /// An OCI layout of another version.
    #[error("the archive has an OCI layout of version {version:?}, only 1.0.0 is known")]
    Layout {
        /// The version.
        version: String,
    },
}

impl Classify for ArchiveError {
    fn kind(&self) -> Kind {
        match self {
            Self::Read { source } if source.kind() == io::ErrorKind::BrokenPipe => Kind::Canceled,
            Self::Compression { .. } | Self::Layout { .. } => Kind::Unimplemented,
            Self::TooMuch { .. } => Kind::ResourceExhausted,
            _ => Kind::InvalidArgument,
        }
    }
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A file; its content is read from the [`Archive`].
    File,
    /// Another name for an entry: a path, as from where the entry is.
    Symlink(String),
    /// Another name for an entry: a path, as from the root.
    HardLink(String),
    /// A folder.
    Folder,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its path, without `.` and without a slash at either end.
    pub path: String,
    /// What it is.
    pub kind: EntryKind,
    /// The size of its content in bytes.
    pub size: u64,
}

/// An archive that is read from front to back. Reading gives the content of the last entry.
pub struct Archive<'r> {
    stream: Box<dyn Read + 'r>,
    entries: usize,
    last: String,
    data_left: u64,
    padding: u64,
}

impl<'r> Archive<'r> {
    /// Begins to read; the first bytes tell the compression.
    ///
    /// # Errors
    /// The beginning cannot be read, or is that of a compression that is not supported.
    pub fn new(mut reader: impl Read + 'r) -> Result<Self, ArchiveError> {
        let mut start = Vec::with_capacity(START_BYTES as usize);
        (&mut reader).take(START_BYTES).read_to_end(&mut start).map_err(|source| ArchiveError::Read { source })?;
        let reader = BufReader::with_capacity(BUFFER_BYTES, io::Cursor::new(start.clone()).chain(reader));
        let stream: Box<dyn Read + 'r> = match start[..] {
            [0x1f, 0x8b, ..] => {
                Box::new(BufReader::with_capacity(BUFFER_BYTES, flate2::bufread::MultiGzDecoder::new(reader)))
            }
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
                let decoder = zstd::stream::read::Decoder::with_buffer(reader);
                let decoder = decoder.map_err(|source| ArchiveError::Read { source })?;
                Box::new(BufReader::with_capacity(BUFFER_BYTES, decoder))
            }
            [0xfd, b'7', b'z', b'X', ..] => return Err(ArchiveError::Compression { with: "xz" }),
            [b'B', b'Z', b'h', ..] => return Err(ArchiveError::Compression { with: "bzip2" }),
            _ => Box::new(reader),
        };
        Ok(Self { stream, entries: 0, last: String::new(), data_left: 0, padding: 0 })
    }

    /// The next entry; none at the end. What is left of the last one's content is skipped.
    ///
    /// # Errors
    /// The archive is damaged, ends too early or exceeds a limit.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, ArchiveError> {
        self.skip(self.data_left + self.padding, "within")?;
        (self.data_left, self.padding) = (0, 0);
        let (mut name, mut link, mut size) = (None, None, None);
        loop {
            let Some(header) = self.header()? else { return Ok(None) };
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                return Err(ArchiveError::TooMuch {
                    what: "the number of entries".to_owned(),
                    limit: MAX_ENTRIES as u64,
                });
            }
            match header.kind {
                b'L' => name = Some(self.extension(&header)?),
                b'K' => link = Some(self.extension(&header)?),
                b'x' => {
                    let records = self.extension(&header)?;
                    for (key, value) in header::records(&records).map_err(|what| self.damaged(what))? {
                        match key {
                            b"path" => name = Some(value.to_vec()),
                            b"linkpath" => link = Some(value.to_vec()),
                            b"size" => size = Some(header::decimal(value).map_err(|what| self.damaged(what))?),
                            _ => {}
                        }
                    }
                }
                b'g' => drop(self.extension(&header)?),
                _ => return self.entry(header, name, link, size).map(Some),
            }
        }
    }

    /// Reads over what may follow the last entry, so that the sender is not cut off.
    ///
    /// # Errors
    /// The stream breaks.
    pub fn finish(mut self) -> Result<(), ArchiveError> {
        let rest = io::copy(&mut (&mut self.stream).take(MAX_TRAILER_BYTES), &mut io::sink());
        rest.map(drop).map_err(|source| ArchiveError::Read { source })
    }

    /// The whole content of the last entry, which is to be small.
    ///
    /// # Errors
    /// It is larger than `limit`, or cannot be read.
    pub fn read_whole(&mut self, limit: usize) -> Result<Vec<u8>, ArchiveError> {
        if self.data_left > limit as u64 {
            return Err(ArchiveError::TooMuch { what: format!("the size of {}", self.last), limit: limit as u64 });
        }
        let mut content = Vec::new();
        self.read_to_end(&mut content).map_err(|source| self.failed(source, "within"))?;
        Ok(content)
    }

    /// What a failed read of an entry's content means.
    pub fn failed(&self, source: io::Error, place: &'static str) -> ArchiveError {
        match source.kind() {
            io::ErrorKind::UnexpectedEof => ArchiveError::Truncated { place, name: self.last.clone() },
            _ => ArchiveError::Read { source },
        }
    }

    fn entry(
        &mut self,
        header: Header,
        name: Option<Vec<u8>>,
        link: Option<Vec<u8>>,
        size: Option<u64>,
    ) -> Result<Entry, ArchiveError> {
        let name = self.text(name.unwrap_or(header.name))?;
        self.last.clone_from(&name);
        let refused = |why| ArchiveError::Refused { name: name.clone(), why };
        let path = clean(&name).ok_or_else(|| refused("its name leads out of the archive"))?;
        let size = size.unwrap_or(header.size);
        let link = link.unwrap_or(header.link);
        let (kind, size) = match header.kind {
            b'0' | 0 | b'7' => (EntryKind::File, size),
            b'1' => (EntryKind::HardLink(self.text(link)?), 0),
            b'2' => (EntryKind::Symlink(self.text(link)?), 0),
            b'5' => (EntryKind::Folder, 0),
            b'S' => return Err(refused("it is a sparse file")),
            _ => return Err(refused("it is neither a file nor a link nor a folder")),
        };
        self.data_left = size;
        self.padding = size.next_multiple_of(BLOCK_BYTES as u64) - size;
        Ok(Entry { path, kind, size })
    }

    fn text(&self, bytes: Vec<u8>) -> Result<String, ArchiveError> {
        if bytes.len() > MAX_NAME_BYTES {
            return Err(ArchiveError::TooMuch {
                what: "the length of a name".to_owned(),
                limit: MAX_NAME_BYTES as u64,
            });
        }
        String::from_utf8(bytes).map_err(|_| self.damaged("a name is not UTF-8"))
    }

    /// The next header; none at the end of the archive, which is a block of zeros.
    fn header(&mut self) -> Result<Option<Header>, ArchiveError> {
        let mut block = [0; BLOCK_BYTES];
        self.stream.read_exact(&mut block).map_err(|source| self.failed(source, "behind"))?;
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        Header::parse(&block).map(Some).map_err(|what| self.damaged(what))
    }

    /// The content of an extended header.
    fn extension(&mut self, header: &Header) -> Result<Vec<u8>, ArchiveError> {
        if header.size > MAX_HEADER_BYTES {
            return Err(ArchiveError::TooMuch { what: "the size of a header".to_owned(), limit: MAX_HEADER_BYTES });
        }
        let mut content = vec![0; usize::try_from(header.size).expect("within the bound above")];
        self.stream.read_exact(&mut content).map_err(|source| self.failed(source, "in a header behind"))?;
        self.skip(header.size.next_multiple_of(BLOCK_BYTES as u64) - header.size, "in a header behind")?;
        // GNU tar ends them with a zero byte.
        let end = content.iter().position(|byte| *byte == 0).unwrap_or(content.len());
        if header.kind != b'x' {
            content.truncate(end);
        }
        Ok(content)
    }

    fn skip(&mut self, bytes: u64, place: &'static str) -> Result<(), ArchiveError> {
        let skipped = io::copy(&mut (&mut self.stream).take(bytes), &mut io::sink());
        match skipped {
            Ok(skipped) if skipped == bytes => Ok(()),
            Ok(_) => Err(ArchiveError::Truncated { place, name: self.last.clone() }),
            Err(source) => Err(self.failed(source, place)),
        }
    }

    fn damaged(&self, what: &'static str) -> ArchiveError {
        ArchiveError::Damaged { name: self.last.clone(), what }
    }
}

/// The content of the last entry.
impl Read for Archive<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.data_left).unwrap_or(buffer.len()).min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        let got = self.stream.read(&mut buffer[..wanted])?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.data_left -= got as u64;
        Ok(got)
    }
}

/// A path without `.`; `None` if it leads out of where it begins. A slash in front means nothing in an archive.
pub fn clean(path: &str) -> Option<String> {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests;
