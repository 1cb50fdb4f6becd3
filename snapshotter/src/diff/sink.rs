//! Where the bytes of an archive go: hashed, then compressed, then to the caller's writer.

use std::io::{self, Write};

use flate2::write::GzEncoder;
use model::{Algorithm, Digest, Hasher};

use crate::layer::Compression;

const BUFFER_BYTES: usize = 256 * 1024;
/// What both formats call their usual trade between time and size.
const GZIP_LEVEL: u32 = 6;
const ZSTD_LEVEL: i32 = 3;

pub(super) struct Sink<W: Write> {
    encoder: Encoder<W>,
    hasher: Hasher,
    size_bytes: u64,
    /// Headers are small; hashing and compressing like long runs.
    buffer: Vec<u8>,
}

enum Encoder<W: Write> {
    Plain(W),
    Gzip(GzEncoder<W>),
    Zstd(zstd::stream::write::Encoder<'static, W>),
}

impl<W: Write> Sink<W> {
    pub(super) fn new(out: W, compression: Compression) -> io::Result<Self> {
        let encoder = match compression {
            Compression::None => Encoder::Plain(out),
            // Without a time or a name in its header, so that the same changes give the same bytes.
            Compression::Gzip => Encoder::Gzip(GzEncoder::new(out, flate2::Compression::new(GZIP_LEVEL))),
            Compression::Zstd => Encoder::Zstd(zstd::stream::write::Encoder::new(out, ZSTD_LEVEL)?),
        };
        let buffer = Vec::with_capacity(BUFFER_BYTES);
        Ok(Self { encoder, hasher: Hasher::new(Algorithm::Sha256), size_bytes: 0, buffer })
    }

    pub(super) fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let fits = bytes.len().min(BUFFER_BYTES - self.buffer.len());
            self.buffer.extend_from_slice(&bytes[..fits]);
            bytes = &bytes[fits..];
            if self.buffer.len() == BUFFER_BYTES {
                self.drain()?;
            }
        }
        Ok(())
    }

    /// Ends the stream; says the digest and the size of what was written before compression.
    pub(super) fn finish(mut self) -> io::Result<(Digest, u64)> {
        self.drain()?;
        let mut out = match self.encoder {
            Encoder::Plain(out) => out,
            Encoder::Gzip(encoder) => encoder.finish()?,
            Encoder::Zstd(encoder) => encoder.finish()?,
        };
        out.flush()?;
        Ok((self.hasher.finish(), self.size_bytes))
    }

    fn drain(&mut self) -> io::Result<()> {
        self.hasher.update(&self.buffer);
        self.size_bytes += self.buffer.len() as u64;
        match &mut self.encoder {
            Encoder::Plain(out) => out.write_all(&self.buffer)?,
            Encoder::Gzip(encoder) => encoder.write_all(&self.buffer)?,
            Encoder::Zstd(encoder) => encoder.write_all(&self.buffer)?,
        }
        self.buffer.clear();
        Ok(())
    }
}
