//! Header blocks: pairs of names and values, compressed with one zlib context per direction of a connection
//! (SPDY Protocol, draft 3.1, section 2.6.10). A block that cannot be read spoils the context, so it ends the connection.

use std::io;

use flate2::{Compress, Compression, Decompress, FlushDecompress, Status};

use super::dictionary::dictionary;
use super::frame::{invalid, number};

/// The most bytes of one block once inflated; a peer cannot make a small block grow without end.
const MAX_BLOCK: usize = 64 << 10;
/// The most pairs of one block.
const MAX_PAIRS: usize = 128;
/// The smallest gap given to zlib to write into.
const STEP: usize = 1 << 10;

/// Names, in lower case, and their values. A name that came several times has its values separated by NUL.
pub(in super::super) type Pairs = Vec<(String, String)>;

/// Compresses the blocks that this side sends.
pub(in super::super) struct Deflater(Compress);

impl Deflater {
    pub(in super::super) fn new() -> Self {
        let mut zlib = Compress::new(Compression::fast(), true);
        zlib.set_dictionary(&dictionary()).expect("a fresh stream takes a dictionary");
        Self(zlib)
    }

    /// One block.
    pub(in super::super) fn block(&mut self, pairs: &[(&str, &str)]) -> io::Result<Vec<u8>> {
        let mut plain = Vec::new();
        let mut put = |bytes: &[u8]| {
            plain.extend_from_slice(&u32::try_from(bytes.len()).expect("a short text").to_be_bytes());
            plain.extend_from_slice(bytes);
        };
        pairs.iter().for_each(|(name, value)| {
            put(name.as_bytes());
            put(value.as_bytes());
        });
        let count = u32::try_from(pairs.len()).expect("few pairs").to_be_bytes();
        let plain = [&count[..], &plain].concat();
        let mut packed = Vec::with_capacity(plain.len() + STEP);
        let before = self.0.total_in();
        loop {
            let taken = usize::try_from(self.0.total_in() - before).expect("no more than was given");
            self.0.compress_vec(&plain[taken..], &mut packed, flate2::FlushCompress::Sync).map_err(io::Error::other)?;
            // A sync flush is complete once zlib leaves room unused.
            if self.0.total_in() - before == plain.len() as u64 && packed.len() < packed.capacity() {
                return Ok(packed);
            }
            packed.reserve(STEP);
        }
    }
}

/// Inflates the blocks that the peer sends.
pub(in super::super) struct Inflater {
    zlib: Decompress,
    begun: bool,
}

impl Inflater {
    pub(in super::super) fn new() -> Self {
        Self { zlib: Decompress::new(true), begun: false }
    }

    /// The pairs of one block.
    ///
    /// # Errors
    /// The block is not one, or is too large. The context is spoilt then.
    pub(in super::super) fn pairs(&mut self, block: &[u8]) -> io::Result<Pairs> {
        parse(&self.inflate(block)?)
    }

    fn inflate(&mut self, block: &[u8]) -> io::Result<Vec<u8>> {
        let mut plain = Vec::with_capacity(STEP);
        let start = self.zlib.total_in();
        loop {
            let taken = usize::try_from(self.zlib.total_in() - start).expect("no more than was given");
            match self.zlib.decompress_vec(&block[taken..], &mut plain, FlushDecompress::Sync) {
                Ok(Status::StreamEnd) => return Err(invalid("a SPDY header block that ends its stream")),
                Ok(Status::Ok | Status::BufError) => {}
                Err(error) if error.needs_dictionary().is_some() && !self.begun => {
                    self.begun = true;
                    self.zlib
                        .set_dictionary(&dictionary())
                        .map_err(|_| invalid("SPDY headers of another dictionary"))?;
                    continue;
                }
                Err(_) => return Err(invalid("a SPDY header block that cannot be inflated")),
            }
            if plain.len() > MAX_BLOCK {
                return Err(invalid(format!("a SPDY header block of more than {MAX_BLOCK} bytes")));
            }
            let all_taken = self.zlib.total_in() - start == block.len() as u64;
            if plain.len() < plain.capacity() {
                return if all_taken { Ok(plain) } else { Err(invalid("a SPDY header block with bytes left over")) };
            }
            plain.reserve(STEP);
        }
    }
}

fn parse(plain: &[u8]) -> io::Result<Pairs> {
    let count = number(plain, 0)? as usize;
    if count > MAX_PAIRS {
        return Err(invalid(format!("a SPDY header block of {count} pairs, more than {MAX_PAIRS}")));
    }
    let mut at = 4;
    let mut text = || -> io::Result<String> {
        let len = number(plain, at)? as usize;
        let end = (at + 4).checked_add(len).filter(|end| *end <= plain.len());
        let bytes = &plain[at + 4..end.ok_or_else(|| invalid("a SPDY header block that ends too early"))?];
        at += 4 + len;
        String::from_utf8(bytes.to_vec()).map_err(|_| invalid("a SPDY header that is not UTF-8"))
    };
    (0..count).map(|_| Ok((text()?.to_ascii_lowercase(), text()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::{Deflater, Inflater};

    #[test]
    fn blocks_share_one_context_and_come_back() {
        let (mut deflater, mut inflater) = (Deflater::new(), Inflater::new());
        let mut lens = Vec::new();
        for kind in ["stdin", "stdout", "stderr", "stdin"] {
            let block = deflater.block(&[("streamType", kind), ("port", "80")]).unwrap();
            lens.push(block.len());
            let pairs = inflater.pairs(&block).unwrap();
            assert_eq!(pairs, [("streamtype".to_owned(), kind.to_owned()), ("port".to_owned(), "80".to_owned())]);
        }
        assert!(lens[3] < lens[0], "the context is kept: {lens:?}");
        assert_eq!(inflater.pairs(&deflater.block(&[]).unwrap()).unwrap(), []);
    }

    #[test]
    fn long_values_come_back_and_endless_ones_are_refused() {
        let (mut deflater, mut inflater) = (Deflater::new(), Inflater::new());
        let long = "x".repeat(40_000);
        let pairs = inflater.pairs(&deflater.block(&[("a", &long)]).unwrap()).unwrap();
        assert_eq!(pairs[0].1, long);
        let bomb = "x".repeat(1 << 20);
        let error = inflater.pairs(&deflater.block(&[("a", &bomb)]).unwrap()).unwrap_err();
        assert!(error.to_string().contains("more than"), "{error}");
    }

    #[test]
    fn rubbish_is_an_error() {
        for block in [&b""[..], b"\x78", b"\x78\xbb\0\0\0\0", &[0xff; 64]] {
            assert!(Inflater::new().pairs(block).is_err(), "{block:?}");
        }
    }
}
