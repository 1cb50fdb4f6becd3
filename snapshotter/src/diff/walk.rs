//! Walks what is, beside what was, and writes down what changed: names in order, a folder before what is in it.

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{
    FileType, Mode, OFlags, SeekFrom, Stat, Timespec, fstat, major, minor, open, openat, readlinkat, seek,
};
use rustix::io::{Errno, pread};

use super::same::{File, attributes, same_file, same_looks, same_time};
use super::tar::{Meta, Segment, TarWriter, Type};
use super::{Changes, DiffError};
use crate::fs::xattrs::OverlayPrefix;
use crate::fs::{Descent, FOLDER, Id, Lowers, file_type, is_whiteout, look, mtime, names, xattrs};

const PREFIX: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
const CHUNK: usize = 128 * 1024;
/// Holes that together take less than this are written as zeros, which every reader understands.
const MIN_HOLES: u64 = 1 << 20;
/// More segments than this are written as zeros.
const MAX_SEGMENTS: usize = 1 << 16;
const BLOCK_BYTES: u64 = 512;
/// Attributes of upper folders that point at data elsewhere.
const REDIRECTS: [&str; 2] = ["redirect", "metacopy"];

/// What the tree is compared with.
enum Below {
    Nothing,
    Tree(Descent),
    /// Lower layers; without any it is unknown what is below, so everything counts as changed.
    Layers(Lowers),
}

/// What there was under a name.
struct Was {
    folder: OwnedFd,
    stat: Stat,
}

struct Level {
    /// The names still to look at, last first.
    names: Vec<Vec<u8>>,
    /// Whether there was a folder here.
    has_below: bool,
    /// The folder's own entry; the root has none here.
    folder: Option<Rc<Folder>>,
}

/// The entry of a folder, which is written when something in it is.
struct Folder {
    meta: Meta,
    written: Cell<bool>,
}

/// A name that did not change, and the folders it is in.
struct Unchanged {
    path: Vec<u8>,
    folders: Vec<Rc<Folder>>,
}

/// The names of one file.
#[derive(Default)]
struct Group {
    /// The name under which it was written.
    written: Option<Vec<u8>>,
    /// Names that did not change; they have to follow once another one is written.
    unchanged: Vec<Unchanged>,
}

pub(super) struct Walk<W: Write> {
    out: TarWriter<W>,
    root: PathBuf,
    upper: Descent,
    below: Below,
    /// For an overlay's upper folder: where its attributes are.
    overlay: Option<OverlayPrefix>,
    latest: Option<Timespec>,
    /// The names of the folders from the root to here.
    path: Vec<Vec<u8>>,
    levels: Vec<Level>,
    groups: HashMap<Id, Group>,
}

impl<W: Write> Walk<W> {
    pub(super) fn new(changes: &Changes, out: TarWriter<W>, latest: Option<Timespec>) -> Result<Self, DiffError> {
        let (upper, below, overlay) = match changes {
            Changes::Trees { lower: None, upper } => (upper, Below::Nothing, None),
            Changes::Trees { lower: Some(lower), upper } => (upper, Below::Tree(open_root(lower)?), None),
            Changes::Overlay { upper, lowers, whiteouts } => {
                let prefix = whiteouts.prefix();
                let failed = |source| DiffError::Read { doing: "open the layers below", path: upper.clone(), source };
                (upper, Below::Layers(Lowers::open(lowers, prefix).map_err(failed)?), Some(prefix))
            }
        };
        Ok(Self {
            out,
            root: upper.clone(),
            upper: open_root(upper)?,
            below,
            overlay,
            latest,
            path: Vec::new(),
            levels: Vec::new(),
            groups: HashMap::new(),
        })
    }

    /// Writes all changes and the end of the archive.
    pub(super) fn run(mut self) -> Result<TarWriter<W>, DiffError> {
        self.begin_root()?;
        while let Some(level) = self.levels.last_mut() {
            match level.names.pop() {
                Some(name) => self.visit(&name)?,
                None => self.leave()?,
            }
        }
        self.out.end().map_err(|source| DiffError::Write { source })?;
        Ok(self.out)
    }

    fn begin_root(&mut self) -> Result<(), DiffError> {
        let stat = fstat(&self.upper).map_err(|error| self.failed("read", b"")(error.into()))?;
        let was = self.was(b"").map_err(self.failed("read", b""))?;
        let here = File { folder: self.upper.as_fd(), name: b".", stat: &stat };
        let differs = match &was {
            None => matches!(self.below, Below::Nothing),
            Some(was) => {
                let before = File { folder: was.folder.as_fd(), name: b".", stat: &was.stat };
                // Its time changes with everything in it; that alone is not worth an entry.
                !same_looks(here, before).map_err(self.failed("read", b""))?
            }
        };
        let mut meta = self.meta(b".", Type::Directory, &stat).map_err(self.failed("read", b""))?;
        meta.name = b"./".to_vec();
        if differs {
            self.out.begin(&meta, 0).map_err(|source| DiffError::Write { source })?;
        }
        let has_below = !matches!(self.below, Below::Nothing);
        self.push_level(has_below, None)
    }

    fn push_level(&mut self, has_below: bool, folder: Option<Meta>) -> Result<(), DiffError> {
        let mut all: BTreeSet<Vec<u8>> = BTreeSet::new();
        all.extend(names(&self.upper).map_err(self.failed("list", b""))?.into_iter().map(|(name, _)| name));
        if let (true, Below::Tree(below)) = (has_below, &self.below) {
            all.extend(names(below).map_err(self.failed("list", b""))?.into_iter().map(|(name, _)| name));
        }
        let folder = folder.map(|meta| Rc::new(Folder { meta, written: Cell::new(false) }));
        self.levels.push(Level { names: all.into_iter().rev().collect(), has_below, folder });
        Ok(())
    }

    fn leave(&mut self) -> Result<(), DiffError> {
        let level = self.levels.pop().expect("it was looked at");
        if self.levels.is_empty() {
            return Ok(());
        }
        self.upper.leave().map_err(self.failed("leave", b""))?;
        if let (true, Below::Tree(below)) = (level.has_below, &mut self.below) {
            below.leave().map_err(|source| DiffError::Read { doing: "leave", path: self.root.clone(), source })?;
        }
        self.path.pop();
        Ok(())
    }

    fn visit(&mut self, name: &[u8]) -> Result<(), DiffError> {
        let failed = self.failed("read", name);
        let is = look(&self.upper, name).map_err(&failed)?;
        // Sockets live no longer than their process; nobody puts them into layers.
        let is = is.filter(|is| file_type(is) != FileType::Socket && !(self.overlay.is_some() && is_whiteout(is)));
        let was = self.was(name).map_err(&failed)?;
        let Some(is) = is else {
            let unknown = self.has_below() && matches!(&self.below, Below::Layers(layers) if layers.is_empty());
            return if was.is_some() || unknown { self.whiteout(PREFIX, name) } else { Ok(()) };
        };
        if name.starts_with(PREFIX) {
            let why = "in a layer its name means a deletion";
            return Err(DiffError::Unsupported { path: self.full(name), why });
        }
        if let Some(prefix) = self.overlay {
            self.check_redirects(name, prefix)?;
        }
        match file_type(&is) {
            FileType::Directory => self.folder(name, &is, was),
            _ => self.file(name, &is, was),
        }
    }

    fn folder(&mut self, name: &[u8], is: &Stat, was: Option<Was>) -> Result<(), DiffError> {
        let was = was.filter(|was| file_type(&was.stat) == FileType::Directory);
        let same = match &was {
            None => false,
            Some(was) => {
                let here = File { folder: self.upper.as_fd(), name, stat: is };
                let before = File { folder: was.folder.as_fd(), name, stat: &was.stat };
                same_time(is, &was.stat) && same_looks(here, before).map_err(self.failed("read", name))?
            }
        };
        let mut meta = self.meta(name, Type::Directory, is).map_err(self.failed("read", name))?;
        meta.name.push(b'/');
        let in_unknown = self.has_below() && matches!(&self.below, Below::Layers(layers) if layers.is_empty());
        let enter_below = was.is_some() || in_unknown;
        self.upper.enter(name).map_err(self.failed("open", name))?;
        let hides = match self.overlay {
            Some(prefix) => xattrs::is_opaque(&self.upper, prefix).map_err(self.failed("read", name))?,
            None => false,
        };
        if let (true, Below::Tree(below)) = (enter_below, &mut self.below) {
            below.enter(name).map_err(|source| DiffError::Read { doing: "open", path: self.root.clone(), source })?;
        }
        self.path.push(name.to_vec());
        self.push_level(enter_below && !hides, Some(meta))?;
        if !same {
            self.write_folders()?;
        }
        if hides && enter_below {
            self.whiteout(OPAQUE, b"")?;
        }
        Ok(())
    }

    fn file(&mut self, name: &[u8], is: &Stat, was: Option<Was>) -> Result<(), DiffError> {
        let unchanged = match &was {
            None => false,
            Some(was) => {
                let here = File { folder: self.upper.as_fd(), name, stat: is };
                let before = File { folder: was.folder.as_fd(), name, stat: &was.stat };
                same_file(here, before).map_err(self.failed("compare", name))?
            }
        };
        if is.st_nlink < 2 {
            return if unchanged { Ok(()) } else { self.write_file(name, is) };
        }
        let (id, path) = (Id::of(is), self.archive_path(name));
        let group = self.groups.entry(id).or_default();
        if let Some(written) = group.written.clone() {
            // Even if it did not change: the file it is a name of was made anew.
            self.write_folders()?;
            return self.write_link(name, path, written, is);
        }
        if unchanged {
            let folders = self.levels.iter().filter_map(|level| level.folder.clone()).collect();
            group.unchanged.push(Unchanged { path, folders });
            return Ok(());
        }
        group.written = Some(path.clone());
        let followers = std::mem::take(&mut group.unchanged);
        self.write_file(name, is)?;
        for follower in followers {
            self.write_each(&follower.folders)?;
            self.write_link(name, follower.path, path.clone(), is)?;
        }
        Ok(())
    }

    /// Writes the folders from the root to here.
    fn write_folders(&mut self) -> Result<(), DiffError> {
        let folders: Vec<_> = self.levels.iter().filter_map(|level| level.folder.clone()).collect();
        self.write_each(&folders)
    }

    /// Writes those of the folders that are not written yet.
    fn write_each(&mut self, folders: &[Rc<Folder>]) -> Result<(), DiffError> {
        for folder in folders {
            if !folder.written.replace(true) {
                self.out.begin(&folder.meta, 0).map_err(|source| DiffError::Write { source })?;
            }
        }
        Ok(())
    }

    fn whiteout(&mut self, prefix: &[u8], name: &[u8]) -> Result<(), DiffError> {
        self.write_folders()?;
        let meta = Meta {
            name: self.archive_path(&[prefix, name].concat()),
            kind: Type::File,
            link: Vec::new(),
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: Timespec { tv_sec: 0, tv_nsec: 0 },
            device: (0, 0),
            xattrs: Vec::new(),
        };
        self.out.begin(&meta, 0).map_err(|source| DiffError::Write { source })
    }

    fn write_link(&mut self, name: &[u8], path: Vec<u8>, target: Vec<u8>, stat: &Stat) -> Result<(), DiffError> {
        let mut meta = self.meta(name, Type::HardLink, stat).map_err(self.failed("read", name))?;
        (meta.name, meta.link, meta.xattrs) = (path, target, Vec::new());
        self.out.begin(&meta, 0).map_err(|source| DiffError::Write { source })
    }

    fn write_file(&mut self, name: &[u8], stat: &Stat) -> Result<(), DiffError> {
        self.write_folders()?;
        let kind = match file_type(stat) {
            FileType::RegularFile => return self.write_regular(name),
            FileType::Symlink => Type::Symlink,
            FileType::Fifo => Type::Fifo,
            FileType::CharacterDevice => Type::CharDevice,
            FileType::BlockDevice => Type::BlockDevice,
            FileType::Directory | FileType::Socket | FileType::Unknown => {
                return Err(DiffError::Unsupported { path: self.full(name), why: "its type is unknown" });
            }
        };
        let mut meta = self.meta(name, kind, stat).map_err(self.failed("read", name))?;
        if kind == Type::Symlink {
            let target = readlinkat(&self.upper, name, Vec::new());
            meta.link = target.map_err(|error| self.failed("read", name)(error.into()))?.into_bytes();
        }
        self.out.begin(&meta, 0).map_err(|source| DiffError::Write { source })
    }

    fn write_regular(&mut self, name: &[u8]) -> Result<(), DiffError> {
        let failed = self.failed("read", name);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(&self.upper, name, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
        let stat = fstat(&file).map_err(|error| failed(error.into()))?;
        let meta = self.meta(name, Type::File, &stat).map_err(&failed)?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let allocated = u64::try_from(stat.st_blocks).unwrap_or(0) * BLOCK_BYTES;
        let segments = if size.saturating_sub(allocated) < MIN_HOLES { None } else { segments(&file, size) };
        let write = |source| DiffError::Write { source };
        let path = self.full(name);
        let (stored, segments) = match segments {
            Some(segments) => (self.out.begin_sparse(&meta, size, &segments).map_err(write)?, segments),
            None => {
                self.out.begin(&meta, size).map_err(write)?;
                (size, vec![(0, size)])
            }
        };
        for (offset, length) in segments {
            self.write_data(&file, offset, length, &path)?;
        }
        self.out.pad(stored).map_err(write)
    }

    fn write_data(&mut self, file: &OwnedFd, mut offset: u64, length: u64, path: &Path) -> Result<(), DiffError> {
        let mut buffer = vec![0; usize::try_from(length).map_or(CHUNK, |length| length.min(CHUNK))];
        let end = offset + length;
        while offset < end {
            let wanted = usize::try_from(end - offset).map_or(buffer.len(), |left| left.min(buffer.len()));
            match pread(file, &mut buffer[..wanted], offset) {
                // The header has promised more.
                Ok(0) => return Err(DiffError::Changed { path: path.to_owned() }),
                Ok(length) => {
                    self.out.sink.write(&buffer[..length]).map_err(|source| DiffError::Write { source })?;
                    offset += length as u64;
                }
                Err(Errno::INTR) => {}
                Err(error) => {
                    return Err(DiffError::Read { doing: "read", path: path.to_owned(), source: error.into() });
                }
            }
        }
        Ok(())
    }

    fn check_redirects(&self, name: &[u8], prefix: OverlayPrefix) -> Result<(), DiffError> {
        for key in REDIRECTS {
            if xattrs::get(&self.upper, name, &prefix.key(key)).map_err(self.failed("read", name))?.is_some() {
                let why =
                    "overlayfs keeps its data elsewhere (redirect_dir or metacopy); compare mounted trees instead";
                return Err(DiffError::Unsupported { path: self.full(name), why });
            }
        }
        Ok(())
    }

    fn meta(&self, name: &[u8], kind: Type, stat: &Stat) -> io::Result<Meta> {
        let time = mtime(stat);
        let later = |latest: &Timespec| (time.tv_sec, time.tv_nsec) > (latest.tv_sec, latest.tv_nsec);
        Ok(Meta {
            name: self.archive_path(name),
            kind,
            link: Vec::new(),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: self.latest.filter(later).unwrap_or(time),
            device: (major(stat.st_rdev), minor(stat.st_rdev)),
            xattrs: attributes(self.upper.as_fd(), name)?,
        })
    }

    /// Whether there was a folder where this one is.
    fn has_below(&self) -> bool {
        self.levels.last().is_some_and(|level| level.has_below)
    }

    /// What there was under `name` in this folder; the empty name is the folder itself.
    fn was(&self, name: &[u8]) -> io::Result<Option<Was>> {
        if !name.is_empty() && !self.has_below() {
            return Ok(None);
        }
        match &self.below {
            Below::Nothing => Ok(None),
            Below::Tree(below) => {
                let stat = if name.is_empty() { Some(fstat(below)?) } else { look(below, name)? };
                let folder = below.as_fd().try_clone_to_owned()?;
                Ok(stat.map(|stat| Was { folder, stat }))
            }
            Below::Layers(layers) => {
                let seen = layers.find(&self.archive_path(name))?;
                Ok(seen.map(|seen| Was { folder: seen.folder, stat: seen.stat }))
            }
        }
    }

    fn archive_path(&self, name: &[u8]) -> Vec<u8> {
        let mut path = self.path.join(&b'/');
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        path
    }

    fn full(&self, name: &[u8]) -> PathBuf {
        self.root.join(std::ffi::OsStr::from_bytes(&self.archive_path(name)))
    }

    fn failed(&self, doing: &'static str, name: &[u8]) -> impl Fn(io::Error) -> DiffError + use<W> {
        let path = self.full(name);
        move |source| DiffError::Read { doing, path: path.clone(), source }
    }
}

fn open_root(path: &Path) -> Result<Descent, DiffError> {
    let opened = open(path, FOLDER.difference(OFlags::NOFOLLOW), Mode::empty());
    let root = opened.map_err(io::Error::from).and_then(Descent::new);
    root.map_err(|source| DiffError::Read { doing: "open", path: path.to_owned(), source })
}

/// Where the data of a file is; none if that is not worth knowing.
fn segments(file: &OwnedFd, size: u64) -> Option<Vec<Segment>> {
    let mut segments = Vec::new();
    let (mut offset, mut data) = (0, 0);
    while offset < size {
        let start = match seek(file, SeekFrom::Data(offset)) {
            Ok(start) => start.min(size),
            Err(Errno::NXIO) => break,
            Err(_) => return None,
        };
        let end = seek(file, SeekFrom::Hole(start)).ok()?.min(size);
        if end <= start {
            break;
        }
        segments.push((start, end - start));
        data += end - start;
        offset = end;
        if segments.len() > MAX_SEGMENTS {
            return None;
        }
    }
    // A hole at the end is said by an empty segment behind it.
    if segments.last().is_none_or(|(start, length)| start + length < size) {
        segments.push((size, 0));
    }
    (size - data >= MIN_HOLES).then_some(segments)
}
