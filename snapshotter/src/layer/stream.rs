//! The bytes of an archive: decompressed, hashed as they come in, handed out from one buffer.

use std::cell::Cell;
use std::io::{self, BufReader, Cursor, ErrorKind, Read};
use std::rc::Rc;

use model::{Algorithm, Digest, Hasher};

use super::{Compression, Encoding, LayerError};

/// Small enough to stay in a core's cache between being inflated, hashed and written.
const BUFFER_BYTES: usize = 256 * 1024;
const COMPRESSED_BUFFER_BYTES: usize = 128 * 1024;
/// The largest window of a zstd frame, as a power of two: what a decoder must hold in memory.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

pub(crate) struct Stream<'r> {
    source: Box<dyn Read + 'r>,
    /// Whether the caller's reader failed, which is no fault of the archive.
    reader_failed: Rc<Cell<bool>>,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    hasher: Hasher,
    size_bytes: u64,
    limit_bytes: u64,
    /// The number of the entry at hand, for messages.
    pub(crate) entry: u64,
}

impl<'r> Stream<'r> {
    pub(crate) fn new(reader: impl Read + 'r, encoding: Encoding, limit_bytes: u64) -> Result<Self, LayerError> {
        let reader_failed = Rc::new(Cell::new(false));
        let mut watched = Watched { reader, failed: Rc::clone(&reader_failed) };
        let source: Box<dyn Read + 'r> = match encoding {
            Encoding::Plain => Box::new(watched),
            Encoding::Detected => {
                let start = first_bytes(&mut watched).map_err(|source| LayerError::Read { source })?;
                let compression = Compression::sniff(&start);
                let whole = Cursor::new(start).chain(watched);
                match compression {
                    Compression::None => Box::new(whole),
                    Compression::Gzip => {
                        let buffered = BufReader::with_capacity(COMPRESSED_BUFFER_BYTES, whole);
                        Box::new(flate2::bufread::MultiGzDecoder::new(buffered))
                    }
                    Compression::Zstd => {
                        let buffered = BufReader::with_capacity(COMPRESSED_BUFFER_BYTES, whole);
                        let mut decoder = zstd::stream::read::Decoder::with_buffer(buffered)
                            .map_err(|source| LayerError::Read { source })?;
                        decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(|source| LayerError::Read { source })?;
                        Box::new(decoder)
                    }
                }
            }
        };
        Ok(Self {
            source,
            reader_failed,
            buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
            start: 0,
            end: 0,
            hasher: Hasher::new(Algorithm::Sha256),
            size_bytes: 0,
            limit_bytes,
            entry: 0,
        })
    }

    /// The next bytes, at most `max` and at least one; none at the end.
    pub(crate) fn take(&mut self, max: u64) -> Result<&[u8], LayerError> {
        if self.start == self.end {
            self.fill()?;
        }
        let there = self.end - self.start;
        let length = usize::try_from(max).map_or(there, |max| max.min(there));
        let from = self.start;
        self.start += length;
        Ok(&self.buffer[from..from + length])
    }

    /// Fills `block` as far as the archive goes and says how far that is.
    pub(crate) fn read_block(&mut self, block: &mut [u8]) -> Result<usize, LayerError> {
        let mut filled = 0;
        while filled < block.len() {
            let missing = block.len() - filled;
            let bytes = self.take(missing as u64)?;
            if bytes.is_empty() {
                break;
            }
            block[filled..filled + bytes.len()].copy_from_slice(bytes);
            filled += bytes.len();
        }
        Ok(filled)
    }

    /// Reads to the end, so that the digest is that of the whole and the compression's own checksum was seen.
    pub(crate) fn finish(mut self) -> Result<(Digest, u64), LayerError> {
        while !self.take(u64::MAX)?.is_empty() {}
        Ok((self.hasher.finish(), self.size_bytes))
    }

    fn fill(&mut self) -> Result<(), LayerError> {
        let length = loop {
            match self.source.read(&mut self.buffer) {
                Ok(length) => break length,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.explain(error)),
            }
        };
        self.hasher.update(&self.buffer[..length]);
        self.size_bytes += length as u64;
        (self.start, self.end) = (0, length);
        if self.size_bytes > self.limit_bytes {
            return Err(LayerError::TooMuch { what: "the size of the uncompressed archive", limit: self.limit_bytes });
        }
        Ok(())
    }

    fn explain(&self, source: io::Error) -> LayerError {
        if self.reader_failed.get() {
            return LayerError::Read { source };
        }
        match source.kind() {
            ErrorKind::UnexpectedEof => LayerError::Truncated { place: "within its compression", entry: self.entry },
            ErrorKind::OutOfMemory => LayerError::Read { source },
            _ => LayerError::Damaged { what: format!("bad compression: {source}"), entry: self.entry },
        }
    }
}

/// Remembers whether it was the reader that failed, or what is stacked on it.
struct Watched<R> {
    reader: R,
    failed: Rc<Cell<bool>>,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = self.reader.read(buffer);
        if result.as_ref().is_err_and(|error| error.kind() != ErrorKind::Interrupted) {
            self.failed.set(true);
        }
        result
    }
}

fn first_bytes(reader: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut start = Vec::with_capacity(4);
    reader.take(4).read_to_end(&mut start)?;
    Ok(start)
}
