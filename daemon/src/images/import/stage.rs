//! The entries of an archive into the store. Blocks.

use std::collections::HashMap;
use std::io::Read;

use model::Digest;

use super::super::TransferError;
use super::super::archive::{Archive, ArchiveError, Entry, EntryKind, clean};
use super::super::document::MAX_DOCUMENT_BYTES;
use crate::api::Scope;
use crate::meta::Meta;
use crate::meta::content::ContentError;
use crate::meta::content::write::{Commit, Open, Writer};
use crate::meta::leases::{nanoseconds, random_text};

/// How much of an entry is read at once, in bytes.
const READ_BYTES: usize = 256 * 1024;

/// How many links may lead to an entry.
const MAX_LINKS: usize = 8;

/// How files begin that are compressed as layers are.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// A file of the archive, as a blob of the store.
#[derive(Debug, Clone)]
pub(super) struct Blob {
    pub(super) digest: Digest,
    pub(super) size: u64,
    /// Whether it begins as compressed files do.
    pub(super) compressed: bool,
}

/// What came out of an archive.
#[derive(Debug, Default)]
pub(super) struct Staged {
    /// `oci-layout`.
    pub(super) layout: Option<Vec<u8>>,
    /// `index.json`.
    pub(super) index: Option<Vec<u8>>,
    /// `manifest.json`.
    pub(super) saved: Option<Vec<u8>>,
    blobs: HashMap<String, Blob>,
    links: HashMap<String, String>,
}

impl Staged {
    /// The blob at a path of the archive.
    pub(super) fn blob(&self, path: &str) -> Result<&Blob, ArchiveError> {
        let missing = || ArchiveError::Missing { what: format!("file {path:?}") };
        let mut at = clean(path).ok_or_else(missing)?;
        for _ in 0..MAX_LINKS {
            match (self.blobs.get(&at), self.links.get(&at)) {
                (Some(blob), _) => return Ok(blob),
                (None, Some(target)) => at.clone_from(target),
                (None, None) => break,
            }
        }
        Err(missing())
    }
}

/// Reads an archive into the store.
pub(super) struct Stage {
    meta: Meta,
    scope: Scope,
    /// Names the uploads of this import.
    name: String,
    staged: Staged,
}

impl Stage {
    pub(super) fn new(meta: Meta, scope: Scope) -> Self {
        let name = format!("import-{}-{}", nanoseconds(), random_text(6));
        Self { meta, scope, name, staged: Staged::default() }
    }

    pub(super) fn read(mut self, reader: impl Read) -> Result<Staged, TransferError> {
        let mut archive = Archive::new(reader)?;
        while let Some(entry) = archive.next_entry()? {
            self.entry(entry, &mut archive)?;
        }
        archive.finish()?;
        Ok(self.staged)
    }

    fn entry(&mut self, entry: Entry, archive: &mut Archive<'_>) -> Result<(), TransferError> {
        let Entry { path, kind, size } = entry;
        match kind {
            EntryKind::Folder => {}
            EntryKind::HardLink(target) => self.link(path, clean(&target)),
            EntryKind::Symlink(target) => {
                let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
                let target = clean(&format!("{folder}/{target}"));
                self.link(path, target);
            }
            EntryKind::File => match path.as_str() {
                "oci-layout" => self.staged.layout = Some(archive.read_whole(MAX_DOCUMENT_BYTES)?),
                "index.json" => self.staged.index = Some(archive.read_whole(MAX_DOCUMENT_BYTES)?),
                "manifest.json" => self.staged.saved = Some(archive.read_whole(MAX_DOCUMENT_BYTES)?),
                // What Docker's first format had.
                "repositories" => {}
                legacy if legacy.ends_with("/VERSION") || legacy.ends_with("/json") => {}
                _ => {
                    let blob = self.blob(&path, size, archive)?;
                    self.staged.blobs.insert(path, blob);
                }
            },
        }
        Ok(())
    }

    /// A link that leads out of the archive leads nowhere.
    fn link(&mut self, path: String, target: Option<String>) {
        if let Some(target) = target {
            self.staged.links.insert(path, target);
        }
    }

    /// A blob that is here already, whatever the archive has under its name.
    fn known(&self, digest: Digest) -> Result<Blob, TransferError> {
        let reader = self.meta.content_reader(&self.scope.namespace, digest.clone())?;
        let mut start = [0; GZIP.len()];
        let got = reader.read_at(&mut start, 0).map_err(ContentError::from)?;
        Ok(Blob { digest, size: reader.size(), compressed: start[..got] == GZIP })
    }

    /// Makes a file a blob; one of an OCI layout must be what its name says.
    fn blob(&self, path: &str, size: u64, archive: &mut Archive<'_>) -> Result<Blob, TransferError> {
        let expected = expected_digest(path);
        let reference = format!("{}-{path}", self.name);
        let open = Open { reference: reference.clone(), total: size, expected };
        let mut writer = match self.meta.open_writer(self.scope.clone(), open) {
            Ok(writer) => writer,
            Err(ContentError::AlreadyExists { digest }) => return self.known(digest),
            Err(error) => return Err(error.into()),
        };
        match fill(&mut writer, size, archive) {
            Ok((digest, compressed)) => Ok(Blob { digest, size, compressed }),
            Err(error) => {
                drop(writer);
                // Nobody resumes an import.
                match self.meta.abort_ingest(self.scope.clone(), &reference) {
                    Ok(()) | Err(ContentError::NoIngest { .. }) => {}
                    Err(error) => tracing::warn!(reference, %error, "upload of a failed import not removed"),
                }
                match error {
                    TransferError::Content(ContentError::Digest { got, .. }) => {
                        Err(ArchiveError::Digest { name: path.to_owned(), got }.into())
                    }
                    error => Err(error),
                }
            }
        }
    }
}

/// Writes the content of an entry to its end, and makes it a blob.
fn fill(writer: &mut Writer, size: u64, archive: &mut Archive<'_>) -> Result<(Digest, bool), TransferError> {
    // Bytes that another namespace has are the same ones; they need no writing.
    let shared = size > 0 && writer.status().offset == size;
    let mut buffer = vec![0; READ_BYTES];
    let mut compressed = None;
    loop {
        let got = archive.read(&mut buffer).map_err(|source| archive.failed(source, "within"))?;
        if got == 0 {
            break;
        }
        compressed.get_or_insert(buffer.starts_with(&GZIP));
        if !shared {
            writer.append(&buffer[..got])?;
        }
    }
    match writer.commit(Commit::default()) {
        Ok(digest) | Err(ContentError::AlreadyExists { digest }) => Ok((digest, compressed.unwrap_or(false))),
        Err(error) => Err(error.into()),
    }
}

/// A layer, compressed. The same bytes come out of the same layer.
pub(super) fn compressed(meta: &Meta, scope: &Scope, plain: &Blob) -> Result<Blob, TransferError> {
    let reader = meta.content_reader(&scope.namespace, plain.digest.clone())?;
    let reference = format!("compress-{}-{}-{}", nanoseconds(), random_text(6), plain.digest);
    let open = Open { reference: reference.clone(), total: 0, expected: None };
    let mut writer = meta.open_writer(scope.clone(), open)?;
    let outcome = (|| {
        let mut encoder = flate2::read::GzEncoder::new(reader, flate2::Compression::default());
        let (mut buffer, mut size) = (vec![0; READ_BYTES], 0);
        loop {
            let got = encoder.read(&mut buffer).map_err(|source| ArchiveError::Read { source })?;
            if got == 0 {
                break;
            }
            writer.append(&buffer[..got])?;
            size += got as u64;
        }
        match writer.commit(Commit::default()) {
            Ok(digest) | Err(ContentError::AlreadyExists { digest }) => Ok(Blob { digest, size, compressed: true }),
            Err(error) => Err(TransferError::from(error)),
        }
    })();
    if outcome.is_err() {
        drop(writer);
        // Nobody resumes it.
        match meta.abort_ingest(scope.clone(), &reference) {
            Ok(()) | Err(ContentError::NoIngest { .. }) => {}
            Err(error) => tracing::warn!(reference, %error, "upload of a failed import not removed"),
        }
    }
    outcome
}

/// The digest that the path of a blob in an OCI layout promises.
fn expected_digest(path: &str) -> Option<Digest> {
    let (algorithm, hex) = path.strip_prefix("blobs/")?.split_once('/')?;
    format!("{algorithm}:{hex}").parse().ok()
}
