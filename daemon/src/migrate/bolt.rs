//! Reads bbolt's files: nested buckets of keys and values in a tree of pages. Nothing is ever written.
//!
//! ```text
//! page     id u64 · flags u16 · count u16 · overflow u32 · elements      little-endian
//! meta     pages 0 and 1: magic, version, page size, root bucket, …, checksum; the newer one that is whole counts
//! branch   count × (position u32, key size u32, page u64)                position from the element's own start
//! leaf     count × (flags u32, position u32, key size u32, value size u32); flag 1: the value is a bucket
//! bucket   root page u64 · sequence u64, and with root 0 its only page follows
//! ```
//!
//! Every number in the file is checked against the file before it is used; a file that leads in a circle ends at a depth.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::MigrateError;

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
const BRANCH: u16 = 1;
const LEAF: u16 = 2;
const BUCKET: u32 = 1;

/// The bytes before the elements of a page.
const PAGE_HEADER: usize = 16;

/// The bytes of an element.
const ELEMENT: usize = 16;

/// The deepest tree: far more than a file of the largest size has.
const MAX_DEPTH: usize = 64;

/// The largest page with its overflow, in bytes.
const MAX_PAGE_BYTES: usize = 256 << 20;

/// A database.
#[derive(Debug)]
pub(super) struct Database {
    path: PathBuf,
    file: File,
    page_size: usize,
    root: u64,
}

/// A bucket: by its root page, or within the value that it is.
#[derive(Debug, Clone)]
pub(super) struct Bucket<'d> {
    database: &'d Database,
    root: Root,
}

#[derive(Debug, Clone)]
enum Root {
    Page(u64),
    Inline(Vec<u8>),
}

/// What is at a key.
#[derive(Debug, Clone)]
pub(super) enum Item<'d> {
    /// Bytes.
    Value(Vec<u8>),
    /// Another bucket.
    Bucket(Bucket<'d>),
}

impl Database {
    /// Opens a file that nobody writes to.
    pub(super) fn open(path: &Path) -> Result<Self, MigrateError> {
        let file = File::open(path).map_err(MigrateError::io("open", path))?;
        // Whoever writes to it holds this lock alone for as long as it is open.
        flock(&file, FlockOperation::NonBlockingLockShared)
            .map_err(|_| MigrateError::InUse { path: path.to_owned() })?;
        let mut database = Self { path: path.to_owned(), file, page_size: 0, root: 0 };
        let mut newest = None;
        let first = database.bytes(0, 4096)?;
        let mut candidates = vec![first.clone()];
        // The second one is one page further, whatever the size of a page is.
        let sizes = [number(&first, 24, 4).unwrap_or(4096) as usize, 4096, 16384, 65536];
        for size in sizes.into_iter().filter(|size| (512..=1 << 20).contains(size)) {
            candidates.extend(database.bytes(size as u64, 4096));
        }
        for page in candidates {
            let Some((transaction, page_size, root)) = meta(&page) else { continue };
            if newest.is_none_or(|(last, _, _)| last < transaction) {
                newest = Some((transaction, page_size, root));
            }
        }
        let (_, page_size, root) =
            newest.ok_or_else(|| database.damaged("it is no bbolt database, or both its heads are damaged"))?;
        database.page_size = page_size;
        database.root = root;
        Ok(database)
    }

    /// The bucket that holds all others.
    pub(super) fn root(&self) -> Bucket<'_> {
        Bucket { database: self, root: Root::Page(self.root) }
    }

    fn bytes(&self, offset: u64, size: usize) -> Result<Vec<u8>, MigrateError> {
        let mut bytes = vec![0; size];
        let failed = MigrateError::io("read", &self.path);
        self.file.read_exact_at(&mut bytes, offset).map_err(failed)?;
        Ok(bytes)
    }

    /// A page with its overflow.
    fn page(&self, id: u64) -> Result<Vec<u8>, MigrateError> {
        let offset = id.checked_mul(self.page_size as u64).ok_or_else(|| self.damaged("a page number is too large"))?;
        let header = self.bytes(offset, PAGE_HEADER)?;
        let pages = number(&header, 12, 4).unwrap_or(0) as usize + 1;
        let size = pages.checked_mul(self.page_size).filter(|size| *size <= MAX_PAGE_BYTES);
        self.bytes(offset, size.ok_or_else(|| self.damaged("a page is too large"))?)
    }

    fn damaged(&self, reason: impl Into<String>) -> MigrateError {
        MigrateError::Database { path: self.path.clone(), reason: reason.into() }
    }
}

/// The transaction, the page size and the root of a head, if it is whole.
fn meta(page: &[u8]) -> Option<(u64, usize, u64)> {
    let body = page.get(PAGE_HEADER..)?;
    let sum = body
        .get(..56)?
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
    let is_whole = number(body, 0, 4)? == u64::from(MAGIC)
        && number(body, 4, 4)? == u64::from(VERSION)
        && number(body, 56, 8)? == sum;
    let page_size = usize::try_from(number(body, 8, 4)?).ok().filter(|size| (512..=1 << 20).contains(size))?;
    is_whole.then_some((number(body, 48, 8)?, page_size, number(body, 16, 8)?))
}

/// A little-endian number within bytes.
fn number(bytes: &[u8], at: usize, size: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(size)?)?;
    Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

impl<'d> Bucket<'d> {
    /// Everything in it, in the order of the keys.
    pub(super) fn items(&self) -> Result<Vec<(Vec<u8>, Item<'d>)>, MigrateError> {
        let mut items = Vec::new();
        match &self.root {
            Root::Page(id) => self.walk(&self.database.page(*id)?, 0, &mut items)?,
            Root::Inline(page) => self.walk(page, 0, &mut items)?,
        }
        Ok(items)
    }

    /// The buckets in it, by names that are text.
    pub(super) fn buckets(&self) -> Result<Vec<(String, Bucket<'d>)>, MigrateError> {
        let named = self.items()?.into_iter().filter_map(|(key, item)| match item {
            Item::Bucket(bucket) => Some((String::from_utf8(key).ok()?, bucket)),
            Item::Value(_) => None,
        });
        Ok(named.collect())
    }

    /// The bucket at a key.
    pub(super) fn bucket(&self, name: &str) -> Result<Option<Bucket<'d>>, MigrateError> {
        Ok(self.items()?.into_iter().find_map(|(key, item)| match item {
            Item::Bucket(bucket) if key == name.as_bytes() => Some(bucket),
            _ => None,
        }))
    }

    fn walk(&self, page: &[u8], depth: usize, items: &mut Vec<(Vec<u8>, Item<'d>)>) -> Result<(), MigrateError> {
        let database = self.database;
        let short = || database.damaged("a page is shorter than what it says to have");
        if depth > MAX_DEPTH {
            return Err(database.damaged("its pages lead in a circle"));
        }
        let flags = number(page, 8, 2).ok_or_else(short)? as u16;
        let count = number(page, 10, 2).ok_or_else(short)? as usize;
        for at in (0..count).map(|index| PAGE_HEADER + index * ELEMENT) {
            let field = |offset, size| number(page, at + offset, size).ok_or_else(short);
            match flags & (BRANCH | LEAF) {
                BRANCH => {
                    let child = database.page(field(8, 8)?)?;
                    self.walk(&child, depth + 1, items)?;
                }
                LEAF => {
                    let start = at + field(4, 4)? as usize;
                    let (key_size, value_size) = (field(8, 4)? as usize, field(12, 4)? as usize);
                    let key = page.get(start..start + key_size).ok_or_else(short)?.to_vec();
                    let value = page.get(start + key_size..start + key_size + value_size).ok_or_else(short)?;
                    let item = if field(0, 4)? as u32 & BUCKET == 0 {
                        Item::Value(value.to_vec())
                    } else {
                        let root = match number(value, 0, 8).ok_or_else(short)? {
                            0 => Root::Inline(value.get(16..).ok_or_else(short)?.to_vec()),
                            id => Root::Page(id),
                        };
                        Item::Bucket(Bucket { database, root })
                    };
                    items.push((key, item));
                }
                _ => return Err(database.damaged(format!("a page is of kind {flags:#x}"))),
            }
        }
        Ok(())
    }
}
