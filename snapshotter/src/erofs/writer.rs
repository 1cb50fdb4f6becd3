//! Turns the entries of an archive into an image. The rules are those of unpacking into a folder: what comes later replaces what
//! came before, links are followed within the layer, a whiteout hides what is below and never what the layer itself brings.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};

use rustix::fs::{FileType, Mode, OFlags, Timespec, openat, readlinkat};

use super::finish::{Written, finish};
use super::format::{Layout, device, has_place_for, kind, type_bits, xattrs};
use super::image::{Image, Looks, Placed};
use super::tree::{Entry as Name, FolderId, FolderLooks, Lost, ROOT, Tree};
use crate::fs::xattrs::{OverlayPrefix, Xattrs};
use crate::fs::{Lowers, file_type, is_private, is_whiteout, mtime, names};
use crate::layer::archive::{Archive, Entry, EntryKind, Sparse};
use crate::layer::path::LayerPath;
use crate::layer::stream::Stream;
use crate::layer::unpack::{Cause, Doing, Failure, MAX_MAJOR, MAX_MINOR, refused};
use crate::layer::{Applied, Encoding, LayerError, Limits};

/// The most memory that the names of one layer may take, in bytes: some 250,000 of them.
const MAX_WEIGHT: usize = 32 << 20;
/// As much of a file of a layer below is copied at once.
const COPY_BYTES: usize = 128 * 1024;

/// What the layer stands on.
pub(crate) enum Below {
    /// Nothing: there is nothing to hide.
    Nothing,
    /// These folders.
    Known(Lowers),
    /// That will be told later.
    Unknown,
}

/// Writes the archive that `reader` yields as an image into an empty file.
///
/// # Errors
/// At the first entry that cannot be taken in; [`LayerError::NotAsImage`] and [`LayerError::ParentNeeded`] where another way can do it.
pub(crate) fn write(
    reader: impl Read,
    encoding: Encoding,
    limits: &Limits,
    file: File,
    below: Below,
) -> Result<(Applied, Written), LayerError> {
    let mut writer = Writer { image: Image::new(file), tree: Tree::new(), below, links: HashMap::new(), said: false };
    let mut archive = Archive::new(Stream::new(reader, encoding, limits.total_bytes)?, *limits);
    while let Some(entry) = archive.next()? {
        writer.entry(&entry, &mut archive)?;
    }
    // Before the folders are written: a damaged archive is not worth it.
    let applied = archive.finish()?;
    let written = writer.finish()?;
    Ok((applied, written))
}

struct Writer {
    image: Image,
    tree: Tree,
    below: Below,
    /// How many names files have that once had more than one.
    links: HashMap<u64, Placed>,
    /// Whether it was said already that attributes are left out.
    said: bool,
}

impl From<Lost> for Failure {
    fn from(lost: Lost) -> Self {
        let error = match lost {
            Lost::Missing => io::Error::from(rustix::io::Errno::NOENT),
            Lost::NotFolder => io::Error::from(rustix::io::Errno::NOTDIR),
            Lost::Loop => io::Error::from(rustix::io::Errno::LOOP),
        };
        Self { doing: "make the folder of", cause: Cause::System(error) }
    }
}

fn not_as_image(why: &'static str) -> Failure {
    LayerError::NotAsImage { why }.into()
}

impl Writer {
    fn entry(&mut self, entry: &Entry, archive: &mut Archive<'_>) -> Result<(), LayerError> {
        let outcome = self.try_entry(entry, archive).and_then(|()| {
            if self.tree.weight > MAX_WEIGHT { Err(not_as_image("it has too many files")) } else { Ok(()) }
        });
        outcome.map_err(|failure| failure.of(&entry.name))
    }

    fn try_entry(&mut self, entry: &Entry, archive: &mut Archive<'_>) -> Result<(), Failure> {
        let path = LayerPath::parse(&entry.name).map_err(refused)?;
        if path.is_root() {
            let EntryKind::Directory = entry.kind else { return Err(refused("only a folder can be the root")) };
            self.tree.folders[ROOT].looks = Some(self.folder_looks(entry)?);
            return Ok(());
        }
        if let Some(whiteout) = crate::layer::whiteout::Whiteout::of(&path).map_err(refused)? {
            return self.whiteout(&path, whiteout);
        }
        let folder = self.tree.make(path.parent())?;
        match entry.kind {
            EntryKind::File => self.file(folder, &path, entry, archive),
            EntryKind::Directory => self.directory(folder, &path, entry),
            EntryKind::Symlink => self.symlink(folder, &path, entry),
            EntryKind::HardLink => self.hard_link(folder, &path, entry),
            EntryKind::Fifo | EntryKind::CharDevice | EntryKind::BlockDevice => self.node(folder, &path, entry),
        }
    }

    fn whiteout(&mut self, path: &LayerPath, whiteout: crate::layer::whiteout::Whiteout<'_>) -> Result<(), Failure> {
        use crate::layer::whiteout::Whiteout;
        if matches!(self.below, Below::Nothing) || matches!(whiteout, Whiteout::Meaningless) {
            // There is nothing below, and what the layer brings is not meant.
            return Ok(());
        }
        let folder = self.tree.make(path.parent())?;
        match whiteout {
            Whiteout::Meaningless => {}
            Whiteout::Name(gone) => self.cover(folder, gone),
            Whiteout::All => {
                self.tree.folders[folder].opaque = true;
                if folder == ROOT {
                    self.cover_lower_roots()?;
                }
            }
        }
        Ok(())
    }

    /// Hides `name` of the layers below.
    fn cover(&mut self, folder: FolderId, name: &[u8]) {
        match self.tree.entry(folder, name) {
            None => self.tree.insert(folder, name, Name::Whiteout),
            Some(Name::Folder(folder)) => self.tree.folders[folder].opaque = true,
            // A file of this layer hides as well as a whiteout does.
            Some(Name::File(..) | Name::Whiteout) => {}
        }
    }

    /// Overlayfs does not ask whether a root is opaque, so each name of the roots below is hidden on its own.
    fn cover_lower_roots(&mut self) -> Result<(), Failure> {
        let Below::Known(lowers) = &self.below else {
            return Err(LayerError::ParentNeeded { why: "its root hides everything below" }.into());
        };
        let mut below = Vec::new();
        for lower in lowers.roots() {
            below.extend(names(lower).doing("list")?.into_iter().map(|(name, _)| name));
        }
        for name in below {
            self.cover(ROOT, &name);
        }
        Ok(())
    }

    fn file(
        &mut self,
        folder: FolderId,
        path: &LayerPath,
        entry: &Entry,
        archive: &mut Archive<'_>,
    ) -> Result<(), Failure> {
        let looks = self.looks(entry, kind::FILE)?;
        let placed = match &entry.sparse {
            None => {
                let mut content = self.image.begin(archive.data_left());
                while archive.data_left() > 0 {
                    let bytes = archive.data(u64::MAX)?;
                    self.image.append(&mut content, bytes).doing("write")?;
                }
                self.image.end(content, &looks).doing("write")?
            }
            Some(sparse) => self.sparse(sparse, &looks, archive)?,
        };
        self.name(folder, path.name(), placed, kind::FILE);
        Ok(())
    }

    fn sparse(&mut self, sparse: &Sparse, looks: &Looks, archive: &mut Archive<'_>) -> Result<Placed, Failure> {
        let mut content = self.image.begin_sparse(sparse.size_bytes);
        for segment in &sparse.segments {
            let mut offset = segment.offset;
            let end = segment.offset + segment.length;
            while offset < end {
                let bytes = archive.data(end - offset)?;
                self.image.append_at(&mut content, offset, bytes).doing("write")?;
                offset += bytes.len() as u64;
            }
        }
        self.image.end_sparse(&content, looks).doing("write")
    }

    fn directory(&mut self, folder: FolderId, path: &LayerPath, entry: &Entry) -> Result<(), Failure> {
        let looks = self.folder_looks(entry)?;
        match self.tree.entry(folder, path.name()) {
            // An entry says all that is to be said about its folder.
            Some(Name::Folder(there)) => self.tree.folders[there].looks = Some(looks),
            _ => {
                self.tree.make_folder(folder, path.name(), Some(looks));
            }
        }
        Ok(())
    }

    fn symlink(&mut self, folder: FolderId, path: &LayerPath, entry: &Entry) -> Result<(), Failure> {
        if entry.link.contains(&0) {
            return Err(refused("its target holds a NUL"));
        }
        // As the kernel says of an empty target, and of one that is too long.
        if entry.link.is_empty() {
            return Err(io::Error::from(rustix::io::Errno::NOENT)).doing("create");
        }
        if entry.link.len() > MAX_LINK_BYTES {
            return Err(io::Error::from(rustix::io::Errno::NAMETOOLONG)).doing("create");
        }
        let mut looks = self.looks(entry, kind::SYMLINK)?;
        looks.mode = type_bits(kind::SYMLINK) | 0o777;
        self.put_symlink(folder, path.name(), &entry.link, &looks)
    }

    fn put_symlink(&mut self, folder: FolderId, name: &[u8], target: &[u8], looks: &Looks) -> Result<(), Failure> {
        let mut content = self.image.begin(target.len() as u64);
        self.image.append(&mut content, target).doing("write")?;
        let placed = self.image.end(content, looks).doing("write")?;
        self.tree.note_link(placed, target);
        self.name(folder, name, placed, kind::SYMLINK);
        Ok(())
    }

    fn node(&mut self, folder: FolderId, path: &LayerPath, entry: &Entry) -> Result<(), Failure> {
        let file_kind = match entry.kind {
            EntryKind::CharDevice => kind::CHAR,
            EntryKind::BlockDevice => kind::BLOCK,
            _ => kind::FIFO,
        };
        let (major, minor) = entry.device;
        if !(0..=MAX_MAJOR).contains(&major) || !(0..=MAX_MINOR).contains(&minor) {
            return Err(refused(format!("device number {major}:{minor} is out of range")));
        }
        if file_kind == kind::CHAR && entry.device == (0, 0) && !matches!(self.below, Below::Nothing) {
            // This is what a whiteout is.
            self.tree.insert(folder, path.name(), Name::Whiteout);
            return Ok(());
        }
        let number = |number: i64| u32::try_from(number).expect("it was checked to be in range");
        let looks = self.looks(entry, file_kind)?;
        self.put_node(folder, path.name(), file_kind, device(number(major), number(minor)), &looks)
    }

    fn put_node(
        &mut self,
        folder: FolderId,
        name: &[u8],
        file_kind: u8,
        device: u32,
        looks: &Looks,
    ) -> Result<(), Failure> {
        let placed = self.image.inode(looks, 0, Layout::Device(device), &[]).doing("write")?;
        self.name(folder, name, placed, file_kind);
        Ok(())
    }

    fn hard_link(&mut self, folder: FolderId, path: &LayerPath, entry: &Entry) -> Result<(), Failure> {
        let target = LayerPath::parse(&entry.link).map_err(|why| refused(format!("its target is refused: {why}")))?;
        if target.is_root() {
            return Err(refused("it links to the root"));
        }
        let missing = || refused(format!("it links to {:?}, which is nowhere", String::from_utf8_lossy(&entry.link)));
        let mut source = self.tree.find(target.parent()).ok();
        if source.and_then(|source| self.tree.entry(source, target.name())).is_none() {
            source = Some(self.copy_up(&target)?.ok_or_else(missing)?);
        }
        let source = source.ok_or_else(missing)?;
        match self.tree.entry(source, target.name()) {
            None | Some(Name::Whiteout) => Err(missing()),
            Some(Name::Folder(_)) => Err(refused("it links to a folder")),
            // A link to itself is there already.
            Some(_) if source == folder && target.name() == path.name() => Ok(()),
            Some(Name::File(placed, file_kind)) => {
                self.links.insert(placed.number, placed);
                self.name(folder, path.name(), placed, file_kind);
                Ok(())
            }
        }
    }

    /// Copies a file of the layers below into this one, for a link to it; the folder it is in now, none when there is no such file.
    fn copy_up(&mut self, path: &LayerPath) -> Result<Option<FolderId>, Failure> {
        const DOING: &str = "copy up the target of";
        let lowers = match &self.below {
            Below::Nothing => return Ok(None),
            Below::Unknown => {
                return Err(LayerError::ParentNeeded { why: "it links to a file which is nowhere in it" }.into());
            }
            Below::Known(lowers) => lowers,
        };
        let Some(seen) = lowers.find(path.bytes()).doing(DOING)? else { return Ok(None) };
        if is_whiteout(&seen.stat) {
            return Ok(None);
        }
        let kept: Vec<_> = crate::fs::xattrs::list(&seen.folder, path.name()).doing(DOING)?;
        let kept: Vec<_> = kept.into_iter().filter(|(key, _)| !is_private(key) && has_place_for(key)).collect();
        let looks = |file_kind| {
            Ok::<_, Failure>(Looks {
                mode: u16::try_from(seen.stat.st_mode & 0o7777).expect("twelve bits") | type_bits(file_kind),
                uid: seen.stat.st_uid,
                gid: seen.stat.st_gid,
                mtime: mtime(&seen.stat),
                xattrs: xattrs(&kept).ok_or_else(|| not_as_image("a file has too many attributes"))?,
            })
        };
        let folder = match file_type(&seen.stat) {
            FileType::Directory => return Err(refused("it links to a folder")),
            FileType::Symlink => {
                let target = readlinkat(&seen.folder, path.name(), Vec::new()).doing(DOING)?.into_bytes();
                let looks = looks(kind::SYMLINK)?;
                let folder = self.tree.make(path.parent())?;
                self.put_symlink(folder, path.name(), &target, &looks)?;
                folder
            }
            FileType::RegularFile => {
                let looks = looks(kind::FILE)?;
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = openat(&seen.folder, path.name(), flags, Mode::empty()).doing(DOING)?;
                let placed = self.copy_file(File::from(file), seen.stat.st_size, &looks).doing(DOING)?;
                let folder = self.tree.make(path.parent())?;
                self.name(folder, path.name(), placed, kind::FILE);
                folder
            }
            _ => return Err(not_as_image("it links to a device of a layer below")),
        };
        Ok(Some(folder))
    }

    fn copy_file(&mut self, mut from: File, size: i64, looks: &Looks) -> io::Result<Placed> {
        let mut left = u64::try_from(size).unwrap_or(0);
        let mut content = self.image.begin(left);
        let mut buffer = vec![0; COPY_BYTES];
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(COPY_BYTES).min(COPY_BYTES);
            from.read_exact(&mut buffer[..wanted])?;
            self.image.append(&mut content, &buffer[..wanted])?;
            left -= wanted as u64;
        }
        self.image.end(content, looks)
    }

    /// Gives a name to what was placed. What had the name may be left without one; it stays in the image then.
    fn name(&mut self, folder: FolderId, name: &[u8], placed: Placed, file_kind: u8) {
        self.tree.insert(folder, name, Name::File(placed, file_kind));
    }

    fn looks(&mut self, entry: &Entry, file_kind: u8) -> Result<Looks, Failure> {
        let kept = self.kept_xattrs(entry)?;
        Ok(Looks {
            mode: mode(entry) | type_bits(file_kind),
            uid: entry.uid,
            gid: entry.gid,
            mtime: valid(entry.mtime),
            xattrs: xattrs(&kept).ok_or_else(|| not_as_image("a file has too many attributes"))?,
        })
    }

    fn folder_looks(&mut self, entry: &Entry) -> Result<FolderLooks, Failure> {
        let kept = self.kept_xattrs(entry)?;
        Ok(FolderLooks { mode: mode(entry), uid: entry.uid, gid: entry.gid, mtime: valid(entry.mtime), xattrs: kept })
    }

    /// The attributes that belong into a layer.
    fn kept_xattrs(&mut self, entry: &Entry) -> Result<Xattrs, Failure> {
        let mut kept = Vec::with_capacity(entry.xattrs.len());
        for (key, value) in &entry.xattrs {
            if key.is_empty() || key.contains(&0) {
                return Err(refused("it has an attribute with an impossible name"));
            }
            if is_private(key) || !has_place_for(key) {
                if !self.said {
                    let (key, name) = (String::from_utf8_lossy(key), String::from_utf8_lossy(&entry.name));
                    tracing::warn!(%key, file = %name, "extended attribute left out, as are others like it in this layer");
                    self.said = true;
                }
                continue;
            }
            if key.starts_with(b"system.posix_acl_") && !is_acl(value) {
                return Err(io::Error::from(rustix::io::Errno::INVAL)).doing("set an attribute of");
            }
            kept.push((key.clone(), value.clone()));
        }
        kept.sort();
        Ok(kept)
    }

    fn finish(self) -> Result<Written, LayerError> {
        let Self { mut image, tree, below, links, .. } = self;
        let mut names: HashMap<u64, u32> = HashMap::with_capacity(links.len());
        if !links.is_empty() {
            for folder in tree.reachable() {
                for entry in tree.folders[folder].entries.values() {
                    if let Name::File(placed, _) = entry
                        && links.contains_key(&placed.number)
                    {
                        *names.entry(placed.number).or_default() += 1;
                    }
                }
            }
        }
        let failed = |source| LayerError::Target { doing: "write the image of", source };
        for (number, names) in names {
            image.set_links(links[&number], names).map_err(failed)?;
        }
        let lowers = match &below {
            Below::Known(lowers) => Some(lowers),
            Below::Nothing | Below::Unknown => None,
        };
        let written = finish(image, tree, lowers).map_err(failed)?;
        Ok(if matches!(below, Below::Unknown) { written } else { Written { implied: Vec::new(), ..written } })
    }
}

/// The longest target of a link that the kernel takes.
const MAX_LINK_BYTES: usize = 4095;

fn mode(entry: &Entry) -> u16 {
    u16::try_from(entry.mode & 0o7777).expect("twelve bits")
}

/// A time whose nanoseconds are some.
fn valid(time: Timespec) -> Timespec {
    Timespec { tv_sec: time.tv_sec, tv_nsec: time.tv_nsec.clamp(0, 999_999_999) }
}

/// Whether this is an access list as the kernel has them: a version and entries.
fn is_acl(value: &[u8]) -> bool {
    value.starts_with(&[2, 0, 0, 0]) && (value.len() - 4).is_multiple_of(8)
}

/// Where overlayfs keeps its attributes in images. Only root mounts them.
pub(super) const PREFIX: OverlayPrefix = OverlayPrefix::Trusted;
