//! Turns entries into files, folders, links and devices of the target.
//!
//! Each name is given to the kernel as one name in an open folder, never followed: what is there already is replaced, not
//! written through. The order within an entry matters: a new owner clears the set-user-id bit, writing clears file
//! capabilities, and everything changes times; so data, owner, mode, attributes, times. Folders get their times last of all.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Timespec, XattrFlags, chownat, fchmod, fchown, fsetxattr, ftruncate, futimens,
    linkat, makedev, mkdirat, mknodat, openat, symlinkat, utimensat,
};
use rustix::io::{Errno, pwrite, write};
use rustix::process::{Gid, Uid};

use super::archive::{Archive, Entry, EntryKind, Sparse};
use super::path::LayerPath;
use super::tree::{Folder, Implied, Tree};
use super::{LayerError, Target, Whiteouts};
use crate::fs::{
    DEFAULT_ACL, Lowers, both, copy_up, file_type, inherit, is_private, is_whiteout, look, mark_implied, mtime,
    open_folder, remove_all, unmark_implied, xattrs,
};

/// The widths of the kernel's device numbers (`MINORBITS`).
pub(crate) const MAX_MAJOR: i64 = (1 << 12) - 1;
pub(crate) const MAX_MINOR: i64 = (1 << 20) - 1;

/// A step on the disk that failed: what was being done, and what the system said.
pub(crate) struct Failure {
    pub(crate) doing: &'static str,
    pub(crate) cause: Cause,
}

pub(crate) enum Cause {
    System(io::Error),
    Refused(String),
    Layer(LayerError),
}

impl Failure {
    /// What to tell of it, for the entry of that name.
    pub(crate) fn of(self, name: &[u8]) -> LayerError {
        let name = String::from_utf8_lossy(name).into_owned();
        match self.cause {
            Cause::System(source) => LayerError::Write { doing: self.doing, name, source },
            Cause::Refused(why) => LayerError::Refused { name, why },
            Cause::Layer(error) => error,
        }
    }
}

impl From<LayerError> for Failure {
    fn from(error: LayerError) -> Self {
        Self { doing: "read", cause: Cause::Layer(error) }
    }
}

/// Names what was being done when a call failed.
pub(crate) trait Doing<T> {
    fn doing(self, doing: &'static str) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, doing: &'static str) -> Result<T, Failure> {
        self.map_err(|error| Failure { doing, cause: Cause::System(error.into()) })
    }
}

pub(crate) fn refused(why: impl Into<String>) -> Failure {
    Failure { doing: "unpack", cause: Cause::Refused(why.into()) }
}

/// What making files in a folder changes, or would be changed by.
struct Later {
    path: Vec<u8>,
    time: Timespec,
    default_acl: Option<Vec<u8>>,
}

pub(crate) struct Unpacker {
    pub(super) tree: Tree,
    pub(crate) whiteouts: Whiteouts,
    pub(crate) lowers: Lowers,
    /// The bits that the kernel takes from every new mode.
    umask: u32,
    /// Who new files belong to, if nothing is done about it.
    writer: (u32, u32),
    /// What is done to folders at the end, in this order.
    later: Vec<Later>,
    /// The default access list of the folder at hand.
    default_acl: Option<Vec<u8>>,
    /// Whether it was said already that attributes are left out.
    said: bool,
}

impl Unpacker {
    pub(crate) fn new(target: &Target) -> Result<Self, LayerError> {
        let open = |source| LayerError::Target { doing: "open", source };
        let overlay = (target.whiteouts != Whiteouts::Delete).then(|| target.whiteouts.prefix());
        Ok(Self {
            tree: Tree::open(&target.dir, overlay).map_err(open)?,
            whiteouts: target.whiteouts,
            lowers: Lowers::open(&target.parents, target.whiteouts.prefix()).map_err(open)?,
            umask: umask(),
            writer: (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
            later: Vec::new(),
            default_acl: None,
            said: false,
        })
    }

    /// Unpacks one entry, whose data `archive` yields next.
    pub(crate) fn entry(&mut self, entry: &Entry, archive: &mut Archive<'_>) -> Result<(), LayerError> {
        self.try_entry(entry, archive).map_err(|failure| failure.of(&entry.name))
    }

    /// Does what has to wait until every entry is there.
    pub(crate) fn finish(&mut self) -> Result<(), LayerError> {
        for Later { path, time, default_acl } in std::mem::take(&mut self.later) {
            let set = || -> io::Result<()> {
                // Something else may have taken its place.
                let Some(folder) = self.tree.reopen(&path)? else { return Ok(()) };
                if let Some(acl) = &default_acl {
                    xattrs::set(&folder, b".", DEFAULT_ACL, acl)?;
                }
                Ok(futimens(&folder, &both(time))?)
            };
            let name = || String::from_utf8_lossy(&path).into_owned();
            set().map_err(|source| LayerError::Write { doing: "set the time of", name: name(), source })?;
        }
        Ok(())
    }

    fn try_entry(&mut self, entry: &Entry, archive: &mut Archive<'_>) -> Result<(), Failure> {
        let path = LayerPath::parse(&entry.name).map_err(refused)?;
        if path.is_root() {
            return match entry.kind {
                EntryKind::Directory => self.root(entry),
                _ => Err(refused("only a folder can be the root")),
            };
        }
        if self.whiteout(&path)? {
            return Ok(());
        }
        let folder = self.folder(path.parent())?;
        match entry.kind {
            EntryKind::File => self.file(&folder, &path, entry, archive)?,
            EntryKind::Directory => self.directory(&folder, &path, entry)?,
            EntryKind::Symlink => self.symlink(&folder, &path, entry)?,
            EntryKind::HardLink => self.hard_link(&folder, &path, entry)?,
            EntryKind::Fifo | EntryKind::CharDevice | EntryKind::BlockDevice => self.node(&folder, &path, entry)?,
        }
        self.tree.mark(&folder, path.name());
        Ok(())
    }

    /// The folder at `path`. Where it is missing it is made, as it is in the layers below, if it is there.
    pub(super) fn folder(&mut self, path: &[u8]) -> Result<Rc<Folder>, Failure> {
        let mut implied = Vec::new();
        let folder = self.tree.make(path, &mut implied).doing("make the folder of")?;
        if implied.is_empty() {
            return Ok(folder);
        }
        for made in implied {
            self.dress_implied(&made).doing("make the folder of")?;
        }
        // They may have got the set-group-id bit, which an open folder knows about.
        self.tree.forget_open();
        self.tree.make(path, &mut Vec::new()).doing("make the folder of")
    }

    fn dress_implied(&mut self, made: &Implied) -> io::Result<()> {
        let below = if made.hides || self.lowers.is_empty() { None } else { self.lowers.find(&made.path)? };
        let Some(below) = below.filter(|below| file_type(&below.stat) == FileType::Directory) else {
            if self.writer != (0, 0) || made.folder.inherited_gid.is_some() || self.umask & 0o755 != 0 {
                fchmod(&made.folder, Mode::from_raw_mode(0o755))?;
            }
            if self.is_parent_unknown() && !made.hides {
                mark_implied(&made.folder)?;
            }
            return Ok(());
        };
        let name = made.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let default_acl = inherit(&made.folder, &below, name)?;
        self.later.push(Later { path: made.path.clone(), time: mtime(&below.stat), default_acl });
        Ok(())
    }

    /// Whether this is a layer of an overlay that will be told only later what it stands on.
    fn is_parent_unknown(&self) -> bool {
        self.whiteouts == Whiteouts::OverlayTrusted && self.lowers.is_empty()
    }

    fn root(&mut self, entry: &Entry) -> Result<(), Failure> {
        let root = open_folder(&**self.tree.root(), b".").doing("open")?;
        undress(&root, entry).doing("take an attribute from")?;
        self.dress(&root, entry, None)?;
        self.tree.renew_root().doing("look at")?;
        let default_acl = self.default_acl.take();
        self.later.push(Later { path: Vec::new(), time: entry.mtime, default_acl });
        Ok(())
    }

    fn file(
        &mut self,
        folder: &Folder,
        path: &LayerPath,
        entry: &Entry,
        archive: &mut Archive<'_>,
    ) -> Result<(), Failure> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let create = || openat(folder, path.name(), flags, Mode::from_raw_mode(entry.mode & 0o777));
        let file = self.replacing(folder, path, create)?;
        match &entry.sparse {
            None => write_all(&file, archive)?,
            Some(sparse) => write_sparse(&file, sparse, archive)?,
        }
        self.dress(&file, entry, folder.inherited_gid)?;
        futimens(&file, &both(entry.mtime)).doing("set the time of")
    }

    fn directory(&mut self, folder: &Folder, path: &LayerPath, entry: &Entry) -> Result<(), Failure> {
        let create = || mkdirat(folder, path.name(), Mode::from_raw_mode(entry.mode & 0o777));
        let mut is_new = true;
        match create() {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let there = look(folder, path.name()).doing("look at")?;
                if there.as_ref().is_some_and(|there| file_type(there) == FileType::Directory) {
                    is_new = false;
                } else {
                    let hides = there.as_ref().is_some_and(is_whiteout) && self.whiteouts != Whiteouts::Delete;
                    self.replacing(folder, path, create)?;
                    if hides {
                        // The whiteout is gone, so the folder must hide what the whiteout hid.
                        self.mark_opaque(folder, path.name()).doing("make opaque")?;
                    }
                }
            }
            Err(error) => return Err(error).doing("create"),
        }
        if !is_new || self.needs_dressing(entry, folder.inherited_gid, true) {
            let itself = open_folder(folder, path.name()).doing("open")?;
            if !is_new {
                // An entry says all that is to be said about its folder. An open one knows its old looks.
                undress(&itself, entry).doing("take an attribute from")?;
                self.tree.forget_open();
            }
            self.dress(&itself, entry, None)?;
            if !is_new && self.is_parent_unknown() {
                unmark_implied(&itself).doing("open")?;
            }
        }
        let default_acl = self.default_acl.take();
        self.later.push(Later { path: path.bytes().to_vec(), time: entry.mtime, default_acl });
        Ok(())
    }

    fn symlink(&mut self, folder: &Folder, path: &LayerPath, entry: &Entry) -> Result<(), Failure> {
        if entry.link.contains(&0) {
            return Err(refused("its target holds a NUL"));
        }
        self.replacing(folder, path, || symlinkat(&*entry.link, folder, path.name()))?;
        self.dress_unopened(folder, path, entry, false)
    }

    fn node(&mut self, folder: &Folder, path: &LayerPath, entry: &Entry) -> Result<(), Failure> {
        let kind = match entry.kind {
            EntryKind::CharDevice => FileType::CharacterDevice,
            EntryKind::BlockDevice => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        let (major, minor) = entry.device;
        if !(0..=MAX_MAJOR).contains(&major) || !(0..=MAX_MINOR).contains(&minor) {
            return Err(refused(format!("device number {major}:{minor} is out of range")));
        }
        let number = |number: i64| u32::try_from(number).expect("it was checked to be in range");
        let device = makedev(number(major), number(minor));
        let create = || mknodat(folder, path.name(), kind, Mode::from_raw_mode(entry.mode & 0o777), device);
        self.replacing(folder, path, create)?;
        self.dress_unopened(folder, path, entry, true)
    }

    fn hard_link(&mut self, folder: &Folder, path: &LayerPath, entry: &Entry) -> Result<(), Failure> {
        let target = LayerPath::parse(&entry.link).map_err(|why| refused(format!("its target is refused: {why}")))?;
        if target.is_root() {
            return Err(refused("it links to the root"));
        }
        let missing = || refused(format!("it links to {:?}, which is nowhere", String::from_utf8_lossy(&entry.link)));
        let mut source = self.tree.find(target.parent()).doing("find the target of")?;
        let mut there = match &source {
            Some(source) => look(source, target.name()).doing("find the target of")?,
            None => None,
        };
        if there.is_none() && !self.lowers.is_empty() {
            let below = self.lowers.find(target.bytes()).doing("find the target of")?.ok_or_else(missing)?;
            let upper = self.folder(target.parent())?;
            let copied = copy_up(&below, target.name(), &upper);
            if !copied.doing("copy up the target of")? {
                return Err(refused("it links to a folder"));
            }
            self.tree.mark(&upper, target.name());
            there = look(&upper, target.name()).doing("find the target of")?;
            source = Some(upper);
        }
        if there.is_none() && self.is_parent_unknown() {
            return Err(LayerError::ParentNeeded { why: "it links to a file which is nowhere in it" }.into());
        }
        let (Some(source), Some(stat)) = (source, there) else { return Err(missing()) };
        if file_type(&stat) == FileType::Directory {
            return Err(refused("it links to a folder"));
        }
        if is_whiteout(&stat) && self.whiteouts != Whiteouts::Delete {
            return Err(missing());
        }
        if source.id == folder.id && target.name() == path.name() {
            // A link to itself is there already.
            return Ok(());
        }
        // Without the flag to follow: a link to a symbolic link is a second name of that.
        self.replacing(folder, path, || linkat(&*source, target.name(), folder, path.name(), AtFlags::empty()))
    }

    /// Makes something, in the place of what is there.
    fn replacing<T>(
        &mut self,
        folder: &Folder,
        path: &LayerPath,
        create: impl Fn() -> rustix::io::Result<T>,
    ) -> Result<T, Failure> {
        match create() {
            Err(Errno::EXIST) => {
                self.tree.forget_open();
                remove_all(folder, path.name()).doing("replace")?;
                create().doing("create")
            }
            result => result.doing("create"),
        }
    }

    fn needs_owner(&self, entry: &Entry, inherited_gid: Option<u32>) -> bool {
        (entry.uid, entry.gid) != self.writer || inherited_gid.is_some()
    }

    fn needs_mode(&self, entry: &Entry, inherited_gid: Option<u32>, is_folder: bool) -> bool {
        // A folder made in one with the set-group-id bit has the bit too.
        entry.mode & (0o7000 | self.umask) != 0 || (is_folder && inherited_gid.is_some())
    }

    fn needs_dressing(&self, entry: &Entry, inherited_gid: Option<u32>, is_folder: bool) -> bool {
        self.needs_owner(entry, inherited_gid)
            || self.needs_mode(entry, inherited_gid, is_folder)
            || !entry.xattrs.is_empty()
    }

    /// Owner, mode and attributes of a new file that is open.
    fn dress(&mut self, file: impl AsFd, entry: &Entry, inherited_gid: Option<u32>) -> Result<(), Failure> {
        let is_folder = entry.kind == EntryKind::Directory;
        let owner = is_folder || self.needs_owner(entry, inherited_gid);
        if owner {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            fchown(&file, Some(uid), Some(gid)).doing("set the owner of")?;
        }
        // Where the owner was changed, the kernel took bits away.
        if is_folder || self.needs_mode(entry, inherited_gid, is_folder) {
            fchmod(&file, Mode::from_raw_mode(entry.mode)).doing("set the mode of")?;
        }
        self.set_xattrs(entry, |key, value| Ok(fsetxattr(&file, key, value, XattrFlags::empty())?))
    }

    /// Owner, mode, attributes and time of what cannot be opened without effect: links, pipes, devices.
    fn dress_unopened(
        &mut self,
        folder: &Folder,
        path: &LayerPath,
        entry: &Entry,
        has_mode: bool,
    ) -> Result<(), Failure> {
        let name = path.name();
        if self.needs_owner(entry, folder.inherited_gid) {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            chownat(folder, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).doing("set the owner of")?;
        }
        if has_mode && self.needs_mode(entry, folder.inherited_gid, false) {
            crate::fs::chmod_unopened(folder, name, entry.mode).doing("set the mode of")?;
        }
        self.set_xattrs(entry, |key, value| xattrs::set(folder, name, key, value))?;
        utimensat(folder, name, &both(entry.mtime), AtFlags::SYMLINK_NOFOLLOW).doing("set the time of")
    }

    fn set_xattrs(&mut self, entry: &Entry, set: impl Fn(&[u8], &[u8]) -> io::Result<()>) -> Result<(), Failure> {
        for (key, value) in &entry.xattrs {
            if key.is_empty() || key.contains(&0) {
                return Err(refused("it has an attribute with an impossible name"));
            }
            if entry.kind == EntryKind::Directory && key == DEFAULT_ACL {
                self.default_acl = Some(value.clone());
                continue;
            }
            let outcome = if is_private(key) { Err(Errno::OPNOTSUPP.into()) } else { set(key, value) };
            match outcome {
                Ok(()) => {}
                // As everywhere: attributes that the filesystem, or the rule above, has no place for do not stop an image.
                Err(error) if Errno::from_io_error(&error) == Some(Errno::OPNOTSUPP) => {
                    if !self.said {
                        let (key, name) = (String::from_utf8_lossy(key), String::from_utf8_lossy(&entry.name));
                        tracing::warn!(%key, file = %name, "extended attribute left out, as are others like it in this layer");
                        self.said = true;
                    }
                }
                Err(error) => return Err(error).doing("set an attribute of"),
            }
        }
        Ok(())
    }
}

/// Takes the attributes away that the entry does not have.
fn undress(folder: &OwnedFd, entry: &Entry) -> io::Result<()> {
    for (key, _) in xattrs::list(folder, b".")? {
        if xattrs::is_portable(&key) && !entry.xattrs.iter().any(|(kept, _)| *kept == key) {
            xattrs::remove(folder, b".", &key)?;
        }
    }
    Ok(())
}

fn write_all(file: &OwnedFd, archive: &mut Archive<'_>) -> Result<(), Failure> {
    while archive.data_left() > 0 {
        let mut bytes = archive.data(u64::MAX)?;
        while !bytes.is_empty() {
            match write(file, bytes) {
                Ok(length) => bytes = &bytes[length..],
                Err(Errno::INTR) => {}
                Err(error) => return Err(error).doing("write"),
            }
        }
    }
    Ok(())
}

fn write_sparse(file: &OwnedFd, sparse: &Sparse, archive: &mut Archive<'_>) -> Result<(), Failure> {
    for segment in &sparse.segments {
        let mut offset = segment.offset;
        let end = segment.offset + segment.length;
        while offset < end {
            let mut bytes = archive.data(end - offset)?;
            while !bytes.is_empty() {
                match pwrite(file, bytes, offset) {
                    Ok(length) => {
                        offset += length as u64;
                        bytes = &bytes[length..];
                    }
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(error).doing("write"),
                }
            }
        }
    }
    ftruncate(file, sparse.size_bytes).doing("set the size of")
}

/// The process's file mode creation mask. It can be read in one place only without changing it.
fn umask() -> u32 {
    const ALL: u32 = 0o777;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let stated = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    stated.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok()).unwrap_or(ALL)
}
