//! Writes entries: ustar headers, extended by pax records for what does not fit.

use std::io::{self, Write};

use rustix::fs::Timespec;

use super::sink::Sink;

const BLOCK: u64 = 512;
const NAME_BYTES: usize = 100;
const PREFIX_BYTES: usize = 155;
/// What fits into eleven and seven octal digits.
const MAX_SIZE: u64 = 0o77_777_777_777;
const MAX_ID: u32 = 0o7_777_777;

/// The types of entries, as the format numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    File = b'0' as isize,
    HardLink = b'1' as isize,
    Symlink = b'2' as isize,
    CharDevice = b'3' as isize,
    BlockDevice = b'4' as isize,
    Directory = b'5' as isize,
    Fifo = b'6' as isize,
}

/// An entry without its data.
#[derive(Debug, Clone)]
pub(super) struct Meta {
    pub(super) name: Vec<u8>,
    pub(super) kind: Type,
    pub(super) link: Vec<u8>,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Timespec,
    /// Major and minor number.
    pub(super) device: (u32, u32),
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A run of data in a sparse file: offset and length.
pub(super) type Segment = (u64, u64);

pub(super) struct TarWriter<W: Write> {
    pub(super) sink: Sink<W>,
    pub(super) entries: u64,
}

impl<W: Write> TarWriter<W> {
    pub(super) fn new(sink: Sink<W>) -> Self {
        Self { sink, entries: 0 }
    }

    /// Begins an entry with `size` bytes of data, which the caller writes to the sink, and ends with [`Self::pad`].
    pub(super) fn begin(&mut self, meta: &Meta, size: u64) -> io::Result<()> {
        self.header(meta, &meta.name, size, Vec::new())
    }

    /// Begins a sparse file, in the form that GNU tar calls pax 1.0; only the data of `segments` is to be written.
    pub(super) fn begin_sparse(&mut self, meta: &Meta, size: u64, segments: &[Segment]) -> io::Result<u64> {
        let mut map = format!("{}\n", segments.len());
        for (offset, length) in segments {
            map.push_str(&format!("{offset}\n{length}\n"));
        }
        let mut map = map.into_bytes();
        map.resize(map.len().next_multiple_of(BLOCK as usize), 0);
        let mut records = Vec::new();
        record(&mut records, b"GNU.sparse.major", b"1");
        record(&mut records, b"GNU.sparse.minor", b"0");
        record(&mut records, b"GNU.sparse.name", &meta.name);
        record(&mut records, b"GNU.sparse.realsize", size.to_string().as_bytes());
        let stored = map.len() as u64 + segments.iter().map(|(_, length)| length).sum::<u64>();
        // Readers that do not know sparse files must not take this for the file.
        let stand_in =
            [&b"GNUSparseFile.0/"[..], meta.name.rsplit(|byte| *byte == b'/').next().unwrap_or_default()].concat();
        self.header(meta, &stand_in, stored, records)?;
        self.sink.write(&map)?;
        Ok(stored)
    }

    /// Fills the last block of `size` bytes of data.
    pub(super) fn pad(&mut self, size: u64) -> io::Result<()> {
        let missing = size.wrapping_neg() % BLOCK;
        self.sink.write(&[0; BLOCK as usize][..usize::try_from(missing).expect("less than a block")])
    }

    /// Ends the archive.
    pub(super) fn end(&mut self) -> io::Result<()> {
        self.sink.write(&[0; 2 * BLOCK as usize])
    }

    fn header(&mut self, meta: &Meta, name: &[u8], size: u64, mut records: Vec<u8>) -> io::Result<()> {
        self.entries += 1;
        let split = split_name(name);
        if split.is_none() {
            record(&mut records, b"path", name);
        }
        if meta.link.len() > NAME_BYTES {
            record(&mut records, b"linkpath", &meta.link);
        }
        if size > MAX_SIZE {
            record(&mut records, b"size", size.to_string().as_bytes());
        }
        for (key, id) in [(&b"uid"[..], meta.uid), (b"gid", meta.gid)] {
            if id > MAX_ID {
                record(&mut records, key, id.to_string().as_bytes());
            }
        }
        let seconds = u64::try_from(meta.mtime.tv_sec).ok().filter(|seconds| *seconds <= MAX_SIZE);
        if seconds.is_none() || meta.mtime.tv_nsec != 0 {
            record(&mut records, b"mtime", time(meta.mtime).as_bytes());
        }
        for (key, value) in &meta.xattrs {
            record(&mut records, &[b"SCHILY.xattr.", &**key].concat(), value);
        }
        let (prefix, short) = split.unwrap_or((b"", &name[..name.len().min(NAME_BYTES)]));
        if !records.is_empty() {
            let blank = Meta {
                kind: Type::File,
                link: Vec::new(),
                mode: 0o644,
                uid: 0,
                gid: 0,
                device: (0, 0),
                ..meta.clone()
            };
            let block = block(b'x', b"PaxHeader", b"", &blank, records.len() as u64, 0);
            self.sink.write(&block)?;
            self.sink.write(&records)?;
            self.pad(records.len() as u64)?;
        }
        let kind = u8::try_from(meta.kind as isize).expect("types are letters");
        let block = block(kind, short, prefix, meta, size.min(MAX_SIZE), seconds.unwrap_or(0));
        self.sink.write(&block)
    }
}

fn block(kind: u8, name: &[u8], prefix: &[u8], meta: &Meta, size: u64, seconds: u64) -> [u8; BLOCK as usize] {
    let mut block = [0; BLOCK as usize];
    put(&mut block[0..100], name);
    octal(&mut block[100..108], u64::from(meta.mode));
    octal(&mut block[108..116], u64::from(meta.uid.min(MAX_ID)));
    octal(&mut block[116..124], u64::from(meta.gid.min(MAX_ID)));
    octal(&mut block[124..136], size);
    octal(&mut block[136..148], seconds);
    block[148..156].fill(b' ');
    block[156] = kind;
    put(&mut block[157..257], &meta.link[..meta.link.len().min(NAME_BYTES)]);
    put(&mut block[257..265], b"ustar\x0000");
    octal(&mut block[329..337], u64::from(meta.device.0));
    octal(&mut block[337..345], u64::from(meta.device.1));
    put(&mut block[345..500], prefix);
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    octal(&mut block[148..155], sum);
    block
}

fn put(field: &mut [u8], text: &[u8]) {
    field[..text.len()].copy_from_slice(text);
}

/// A number in digits that fill the field but for its last byte.
fn octal(field: &mut [u8], mut number: u64) {
    let digits = field.len() - 1;
    for digit in field[..digits].iter_mut().rev() {
        *digit = b'0' + u8::try_from(number & 7).expect("an octal digit");
        number >>= 3;
    }
}

/// Prefix and rest of a name, none if it is too long for both.
fn split_name(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if name.len() <= NAME_BYTES {
        return Some((b"", name));
    }
    let first = name.len() - NAME_BYTES - 1;
    // The slash that ends a folder's name is no place to split.
    let slash = (first..(name.len() - 1).min(PREFIX_BYTES + 1)).find(|at| name[*at] == b'/')?;
    (slash > 0).then(|| (&name[..slash], &name[slash + 1..]))
}

/// Appends one record, whose length counts its own digits.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(format!("{length} ").as_bytes());
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

fn time(time: Timespec) -> String {
    let (sign, seconds, nanos) = match (time.tv_sec < 0, time.tv_nsec) {
        (false, nanos) => ("", time.tv_sec.unsigned_abs(), nanos),
        (true, 0) => ("-", time.tv_sec.unsigned_abs(), 0),
        (true, nanos) => ("-", time.tv_sec.unsigned_abs() - 1, 1_000_000_000 - nanos),
    };
    let text = format!("{sign}{seconds}.{nanos:09}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_digits() {
        for (value, expected) in [("", "5 a=\n"), ("1234", "9 a=1234\n"), ("12345", "11 a=12345\n")] {
            let mut records = Vec::new();
            record(&mut records, b"a", value.as_bytes());
            assert_eq!(String::from_utf8(records).unwrap(), expected);
        }
    }

    #[test]
    fn times_before_1970_are_written_with_their_sign() {
        let text = |tv_sec, tv_nsec| time(Timespec { tv_sec, tv_nsec });
        assert_eq!(text(5, 0), "5");
        assert_eq!(text(5, 120_000_000), "5.12");
        assert_eq!(text(-5, 0), "-5");
        assert_eq!(text(-2, 750_000_000), "-1.25");
        assert_eq!(text(-1, 750_000_000), "-0.25");
        assert_eq!(text(100, 0), "100");
    }

    #[test]
    fn long_names_are_split_at_a_slash() {
        let long = [vec![b'a'; 90], vec![b'b'; 90]].join(&b'/');
        let (prefix, rest) = split_name(&long).unwrap();
        assert_eq!((prefix.len(), rest.len()), (90, 90));
        assert!(split_name(&[b'a'; 101]).is_none());
        assert!(split_name(&[vec![b'a'; 150], b"/".to_vec()].concat()).is_none());
        assert!(split_name(&[vec![b'a'; 200], vec![b'b'; 50]].join(&b'/')).is_none());
    }
}
