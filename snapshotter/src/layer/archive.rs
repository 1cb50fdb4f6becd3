//! Reads entries off an archive: all the ways in which tar writers say what did not fit into 512 bytes are hidden here.

use rustix::fs::Timespec;

use super::header::{self, BLOCK, Header, Segment};
use super::stream::Stream;
use super::{Applied, LayerError, Limits};

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryKind {
    File,
    Directory,
    Symlink,
    HardLink,
    Fifo,
    CharDevice,
    BlockDevice,
}

/// One entry, with nothing resolved or trusted yet.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) kind: EntryKind,
    /// The lower twelve bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Timespec,
    pub(crate) device: (i64, i64),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) sparse: Option<Sparse>,
}

/// Where the data of a sparse file goes.
#[derive(Debug)]
pub(crate) struct Sparse {
    pub(crate) segments: Vec<Segment>,
    pub(crate) size_bytes: u64,
}

/// An archive that is read from front to back.
pub(crate) struct Archive<'r> {
    stream: Stream<'r>,
    limits: Limits,
    /// What is left of the entry's data, and the padding after it.
    data_left: u64,
    padding: u64,
    /// What the extended headers of the entry at hand amount to.
    extension_bytes: usize,
}

/// What extended headers said about the next entry.
#[derive(Default)]
struct Extended {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    gnu_name: Option<Vec<u8>>,
    gnu_link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<Timespec>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: PaxSparse,
}

#[derive(Default)]
struct PaxSparse {
    version: (Option<u64>, Option<u64>),
    name: Option<Vec<u8>>,
    size: Option<u64>,
    segments: Option<Vec<Segment>>,
    offset: Option<u64>,
}

impl<'r> Archive<'r> {
    pub(crate) fn new(stream: Stream<'r>, limits: Limits) -> Self {
        Self { stream, limits, data_left: 0, padding: 0, extension_bytes: 0 }
    }

    /// The next entry; none at the end of the archive. What is left of the last entry's data is skipped.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, LayerError> {
        self.skip_data()?;
        self.stream.entry += 1;
        self.extension_bytes = 0;
        let mut extended = Extended::default();
        let mut pending = false;
        loop {
            let mut block = [0; BLOCK];
            if !self.read_header(&mut block)? {
                if pending {
                    return Err(self.truncated("after an extended header"));
                }
                self.stream.entry -= 1;
                return Ok(None);
            }
            if self.stream.entry > self.limits.entries {
                return Err(LayerError::TooMuch { what: "the number of entries", limit: self.limits.entries });
            }
            let header = Header::parse(&block).map_err(|what| self.damaged(what))?;
            match header.kind() {
                b'x' => {
                    let records = self.read_extension(&header)?;
                    self.read_records(&records, &mut extended)?;
                }
                b'L' => extended.gnu_name = Some(header::text(&self.read_extension(&header)?).to_vec()),
                b'K' => extended.gnu_link = Some(header::text(&self.read_extension(&header)?).to_vec()),
                // Defaults for all entries: no image tool gives them a meaning, so they are read over as everywhere else.
                b'g' => {
                    self.read_extension(&header)?;
                    continue;
                }
                _ => return self.entry(&header, extended).map(Some),
            }
            pending = true;
        }
    }

    /// The next bytes of the entry's data, at most `max`; none when there are no more.
    pub(crate) fn data(&mut self, max: u64) -> Result<&[u8], LayerError> {
        let wanted = self.data_left.min(max);
        if wanted == 0 {
            return Ok(&[]);
        }
        let entry = self.stream.entry;
        let bytes = self.stream.take(wanted)?;
        if bytes.is_empty() {
            return Err(LayerError::Truncated { place: "within a file", entry });
        }
        self.data_left -= bytes.len() as u64;
        Ok(bytes)
    }

    /// The number of bytes of data that the entry has left.
    pub(crate) fn data_left(&self) -> u64 {
        self.data_left
    }

    /// Reads whatever follows the last entry and names the whole.
    pub(crate) fn finish(self) -> Result<Applied, LayerError> {
        let entries = self.stream.entry;
        let (diff_id, size_bytes) = self.stream.finish()?;
        Ok(Applied { diff_id, size_bytes, entries })
    }

    /// A new message about a wrong entry.
    pub(crate) fn damaged(&self, what: impl Into<String>) -> LayerError {
        LayerError::Damaged { what: what.into(), entry: self.stream.entry }
    }

    fn truncated(&self, place: &'static str) -> LayerError {
        LayerError::Truncated { place, entry: self.stream.entry }
    }

    fn skip_data(&mut self) -> Result<(), LayerError> {
        while self.data_left > 0 {
            self.data(u64::MAX)?;
        }
        while self.padding > 0 {
            let skipped = self.stream.take(self.padding)?.len() as u64;
            if skipped == 0 {
                // Some writers end right after the data of the last file, umoci for one: all of it is there.
                self.padding = 0;
                return Ok(());
            }
            self.padding -= skipped;
        }
        Ok(())
    }

    /// Whether there is another header. The end is two blocks of zeros, or the end of the bytes, which some writers leave it at.
    fn read_header(&mut self, block: &mut [u8; BLOCK]) -> Result<bool, LayerError> {
        let mut zeros = 0;
        loop {
            match self.stream.read_block(block)? {
                0 => break,
                BLOCK => {}
                _ => return Err(self.truncated("within a header")),
            }
            if block.iter().any(|byte| *byte != 0) {
                if zeros > 0 {
                    return Err(self.damaged("one empty block between entries"));
                }
                return Ok(true);
            }
            zeros += 1;
            if zeros == 2 {
                break;
            }
        }
        Ok(false)
    }

    fn begin_data(&mut self, size_bytes: u64) {
        self.data_left = size_bytes;
        self.padding = size_bytes.wrapping_neg() % BLOCK as u64;
    }

    /// The whole data of an extended header. All those of one entry share one limit.
    fn read_extension(&mut self, header: &Header<'_>) -> Result<Vec<u8>, LayerError> {
        let size_bytes = header.size().map_err(|what| self.damaged(what))?;
        let limit = self.limits.header_bytes;
        let length = usize::try_from(size_bytes).unwrap_or(usize::MAX);
        self.extension_bytes = self.extension_bytes.saturating_add(length);
        if self.extension_bytes > limit {
            return Err(LayerError::TooMuch { what: "the length of an extended header", limit: limit as u64 });
        }
        self.begin_data(size_bytes);
        let mut bytes = vec![0; length];
        if self.stream.read_block(&mut bytes)? < length {
            return Err(self.truncated("within an extended header"));
        }
        self.data_left = 0;
        self.skip_data()?;
        Ok(bytes)
    }

    fn read_records(&self, mut bytes: &[u8], extended: &mut Extended) -> Result<(), LayerError> {
        while !bytes.is_empty() {
            let (record, rest) = header::record(bytes).map_err(|what| self.damaged(what))?;
            bytes = rest;
            self.read_record(record.key, record.value, extended)
                .map_err(|what| self.damaged(format!("{what} in an extended header")))?;
        }
        Ok(())
    }

    fn read_record(&self, key: &[u8], value: &[u8], extended: &mut Extended) -> Result<(), &'static str> {
        let sparse = &mut extended.sparse;
        let number = || header::decimal(value).ok_or("bad number");
        match key {
            // An empty value takes an earlier record back.
            b"path" => extended.name = (!value.is_empty()).then(|| value.to_vec()),
            b"linkpath" => extended.link = (!value.is_empty()).then(|| value.to_vec()),
            b"size" if !value.is_empty() => extended.size = Some(number()?),
            b"uid" if !value.is_empty() => extended.uid = Some(number()?),
            b"gid" if !value.is_empty() => extended.gid = Some(number()?),
            b"mtime" if !value.is_empty() => extended.mtime = Some(header::time(value).ok_or("bad time")?),
            b"GNU.sparse.major" => sparse.version.0 = Some(number()?),
            b"GNU.sparse.minor" => sparse.version.1 = Some(number()?),
            b"GNU.sparse.name" => sparse.name = Some(value.to_vec()),
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => sparse.size = Some(number()?),
            b"GNU.sparse.numblocks" => sparse.segments = Some(Vec::new()),
            b"GNU.sparse.offset" => sparse.offset = Some(number()?),
            b"GNU.sparse.numbytes" => {
                let offset = sparse.offset.take().ok_or("bad sparse map")?;
                let segment = Segment { offset, length: number()? };
                // Bounded by the length of the header.
                sparse.segments.get_or_insert_default().push(segment);
            }
            b"GNU.sparse.map" => {
                let numbers: Option<Vec<u64>> = value.split(|byte| *byte == b',').map(header::decimal).collect();
                let numbers = if value.is_empty() { Vec::new() } else { numbers.ok_or("bad sparse map")? };
                let (pairs, []) = numbers.as_chunks::<2>() else { return Err("bad sparse map") };
                let segment = |[offset, length]: &[u64; 2]| Segment { offset: *offset, length: *length };
                sparse.segments = Some(pairs.iter().map(segment).collect());
            }
            key => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    extended.xattrs.retain(|(known, _)| known != name);
                    extended.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }

    fn entry(&mut self, header: &Header<'_>, extended: Extended) -> Result<Entry, LayerError> {
        let bad = |archive: &Self, what: &'static str| archive.damaged(what);
        let name =
            extended.sparse.name.clone().or(extended.name).or(extended.gnu_name).unwrap_or_else(|| header.name());
        let link = extended.link.or(extended.gnu_link).unwrap_or_else(|| header.link());
        self.check_length(&name)?;
        self.check_length(&link)?;
        let kind = match header.kind() {
            // Before there was a type for folders, a slash said so.
            0 | b'0' if name.ends_with(b"/") => EntryKind::Directory,
            0 | b'0' | b'7' | b'S' => EntryKind::File,
            b'1' => EntryKind::HardLink,
            b'2' => EntryKind::Symlink,
            b'3' => EntryKind::CharDevice,
            b'4' => EntryKind::BlockDevice,
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            other => {
                let why = format!("unknown type {:?}", char::from(other));
                return Err(LayerError::Refused { name: String::from_utf8_lossy(&name).into_owned(), why });
            }
        };
        let device = match kind {
            EntryKind::CharDevice | EntryKind::BlockDevice => header.device().map_err(|what| bad(self, what))?,
            _ => (0, 0),
        };
        let owner = |wide: Option<u64>, short: Result<i64, header::Bad>| match wide {
            Some(wide) => Ok(i64::try_from(wide).unwrap_or(i64::MAX)),
            None => short,
        };
        let uid = owner(extended.uid, header.uid()).map_err(|what| bad(self, what))?;
        let gid = owner(extended.gid, header.gid()).map_err(|what| bad(self, what))?;
        let mtime = match extended.mtime {
            Some(mtime) => mtime,
            None => header.mtime().map_err(|what| bad(self, what))?,
        };
        // Only files have data. Old writers gave hard links the size of their file, without the data.
        let size = match (kind, extended.size) {
            (EntryKind::File, Some(size)) => size,
            (EntryKind::File, None) => header.size().map_err(|what| bad(self, what))?,
            _ => 0,
        };
        self.begin_data(size);
        let sparse = match kind {
            EntryKind::File if header.kind() == b'S' => Some(self.old_sparse(header)?),
            EntryKind::File => self.pax_sparse(extended.sparse)?,
            _ => None,
        };
        if let Some(sparse) = &sparse {
            self.check_sparse(sparse)?;
        }
        Ok(Entry {
            mode: header.mode().map_err(|what| bad(self, what))?,
            uid: self.id(uid)?,
            gid: self.id(gid)?,
            xattrs: extended.xattrs,
            name,
            link,
            kind,
            mtime,
            device,
            sparse,
        })
    }

    fn check_length(&self, name: &[u8]) -> Result<(), LayerError> {
        let limit = self.limits.name_bytes;
        if name.len() > limit {
            return Err(LayerError::TooMuch { what: "the length of a name", limit: limit as u64 });
        }
        Ok(())
    }

    /// An owner or a group. The highest number means "leave it as it is" to the kernel, so it is none.
    fn id(&self, id: i64) -> Result<u32, LayerError> {
        u32::try_from(id)
            .ok()
            .filter(|id| *id != u32::MAX)
            .ok_or_else(|| self.damaged(format!("owner {id} is out of range")))
    }

    fn old_sparse(&mut self, header: &Header<'_>) -> Result<Sparse, LayerError> {
        let (mut segments, mut more, size_bytes) = header.old_sparse().map_err(|what| self.damaged(what))?;
        while more {
            let mut block = [0; BLOCK];
            if self.stream.read_block(&mut block)? < BLOCK {
                return Err(self.truncated("within a sparse map"));
            }
            let (further, again) = header::old_sparse_block(&block).map_err(|what| self.damaged(what))?;
            segments.extend(further);
            more = again;
            self.check_segments(segments.len())?;
        }
        Ok(Sparse { segments, size_bytes })
    }

    fn pax_sparse(&mut self, sparse: PaxSparse) -> Result<Option<Sparse>, LayerError> {
        let segments = match (sparse.version, sparse.segments) {
            ((Some(1), Some(0)), _) => self.read_sparse_map()?,
            ((None, None) | (Some(0), Some(0 | 1)), Some(segments)) => segments,
            ((None, None), None) => return Ok(None),
            _ => return Err(self.damaged("unknown kind of sparse file")),
        };
        self.check_segments(segments.len())?;
        let size_bytes = sparse.size.ok_or_else(|| self.damaged("sparse file without a size"))?;
        Ok(Some(Sparse { segments, size_bytes }))
    }

    /// The map in front of the data, in lines: the number of segments, then offset and length of each. It fills whole blocks.
    fn read_sparse_map(&mut self) -> Result<Vec<Segment>, LayerError> {
        const LONGEST_NUMBER: usize = 20;
        let mut numbers = Vec::new();
        let mut wanted = 1;
        let mut digits = Vec::with_capacity(LONGEST_NUMBER);
        while numbers.len() < wanted {
            let mut block = [0; BLOCK];
            if self.data_left < BLOCK as u64 {
                return Err(self.damaged("sparse map is longer than the file"));
            }
            if self.stream.read_block(&mut block)? < BLOCK {
                return Err(self.truncated("within a sparse map"));
            }
            self.data_left -= BLOCK as u64;
            for byte in block {
                if numbers.len() == wanted {
                    break;
                }
                if byte != b'\n' {
                    digits.push(byte);
                    if digits.len() > LONGEST_NUMBER {
                        return Err(self.damaged("bad sparse map"));
                    }
                    continue;
                }
                let number = header::decimal(&digits).ok_or_else(|| self.damaged("bad sparse map"))?;
                digits.clear();
                if numbers.is_empty() {
                    let count = usize::try_from(number).unwrap_or(usize::MAX);
                    self.check_segments(count)?;
                    wanted = 1 + 2 * count;
                }
                numbers.push(number);
            }
        }
        let segment = |[offset, length]: &[u64; 2]| Segment { offset: *offset, length: *length };
        Ok(numbers[1..].as_chunks::<2>().0.iter().map(segment).collect())
    }

    fn check_segments(&self, count: usize) -> Result<(), LayerError> {
        let limit = self.limits.sparse_segments;
        if count > limit {
            return Err(LayerError::TooMuch { what: "the number of segments of a sparse file", limit: limit as u64 });
        }
        Ok(())
    }

    /// Segments go upwards, stay within the file, and are exactly the data that follows.
    fn check_sparse(&self, sparse: &Sparse) -> Result<(), LayerError> {
        let wrong = || self.damaged("impossible sparse map");
        let (mut end, mut sum) = (0_u64, 0_u64);
        for segment in &sparse.segments {
            if segment.offset < end {
                return Err(wrong());
            }
            end = segment.offset.checked_add(segment.length).ok_or_else(wrong)?;
            sum += segment.length;
        }
        if end > sparse.size_bytes || sum != self.data_left { Err(wrong()) } else { Ok(()) }
    }
}
