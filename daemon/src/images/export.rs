//! Images out of the store, as an OCI layout in tar that old Docker can load too.
//!
//! Blobs go out as they are, byte for byte. The documents that say what is in the archive come first, so that a reader can begin
//! to use it before it has all of it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use model::platform::Platform;
use model::{Descriptor, Digest, Namespace};
use proto::bytes::{Bytes, BytesMut};
use serde::Serialize;
use tokio::sync::mpsc;

use super::document::{Document, RawDescriptor, is_non_distributable};
use super::names::{self, ANNOTATION_NAME, ANNOTATION_REF};
use super::progress::Reporter;
use super::tree::Tree;
use super::{Images, TransferError, Wanted, lease};
use crate::api::Scope;
use crate::blocking;
use crate::meta::Meta;
use crate::meta::content::ContentError;
use crate::streaming::bytes::Sender;

/// Pieces that wait for the client; then the writer waits.
const PIECES_AHEAD: usize = 4;

/// How large a piece is, in bytes.
const PIECE_BYTES: usize = 256 * 1024;

/// What to leave out of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LeaveOut {
    /// `manifest.json`, which old Docker needs.
    pub compatibility: bool,
    /// Layers that may not be passed on.
    pub non_distributable: bool,
}

/// `manifest.json`: one for each image.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Vec<String>,
    layers: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    media_type: &'static str,
    manifests: Vec<RawDescriptor>,
}

/// What goes into an archive.
#[derive(Default)]
struct Plan {
    index: Vec<u8>,
    saved: Option<Vec<u8>>,
    blobs: BTreeMap<Digest, u64>,
}

impl Images {
    /// Sends an archive of the wanted images.
    ///
    /// # Errors
    /// An image or something that it names is not here, or the client is gone.
    pub async fn export(
        &self,
        scope: Scope,
        wanted: &Wanted,
        leave_out: LeaveOut,
        mut target: Sender,
        reporter: &Reporter,
    ) -> Result<(), TransferError> {
        let held = lease::Held::new(&self.meta, scope).await?;
        reporter.say("Exporting");
        let plan = self.plan(held.scope(), wanted, leave_out).await?;
        let (pieces, mut queue) = mpsc::channel(PIECES_AHEAD);
        let (meta, namespace) = (self.meta.clone(), held.scope().namespace.clone());
        let writing = blocking::run(move || write(&meta, &namespace, &plan, Pieces { pieces, piece: BytesMut::new() }));
        let sending = async {
            while let Some(piece) = queue.recv().await {
                target.send(piece).await?;
            }
            // Held till here: the writer ends when nobody takes its pieces.
            drop(queue);
            Ok::<_, TransferError>(())
        };
        let (written, sent) = tokio::join!(writing, sending);
        // If the client is gone, that is why writing failed.
        sent?;
        written?;
        held.release().await?;
        Ok(())
    }

    async fn plan(&self, scope: &Scope, wanted: &Wanted, leave_out: LeaveOut) -> Result<Plan, TransferError> {
        let mut plan = Plan::default();
        let (mut manifests, mut saved) = (Vec::new(), Vec::new());
        for name in self.named(&scope.namespace, wanted)? {
            let image = self.meta.image(&scope.namespace, &name)?.record.target;
            let tree = self.local_tree(scope, &name, &image, &wanted.platforms).await?;
            self.check_documents(scope, &tree, &image)?;
            for (blob, _) in tree.blobs() {
                if leave_out.non_distributable && is_non_distributable(&blob.media_type) {
                    continue;
                }
                plan.blobs.insert(blob.digest.clone(), self.size(scope, &blob.digest)?);
            }
            for node in &tree.nodes {
                plan.blobs.insert(node.descriptor.digest.clone(), node.descriptor.size);
            }
            if let Some(one) = compatible(&tree, &name, &wanted.platforms) {
                saved.push(one);
            }
            let mut annotations = image.annotations.clone();
            annotations.insert(ANNOTATION_NAME.to_owned(), name.clone());
            annotations.insert(ANNOTATION_REF.to_owned(), names::tag(&name).to_owned());
            manifests.push(RawDescriptor::from(Descriptor { annotations, ..image }));
        }
        let index = Index { schema_version: 2, media_type: super::document::media_type::OCI_INDEX, manifests };
        plan.index = json(&index);
        plan.saved = (!leave_out.compatibility && !saved.is_empty()).then(|| json(&saved));
        Ok(plan)
    }

    /// The names of the wanted images.
    pub(super) fn named(&self, namespace: &Namespace, wanted: &Wanted) -> Result<BTreeSet<String>, TransferError> {
        let mut all: BTreeSet<String> = BTreeSet::from([wanted.name.clone()]);
        all.extend(wanted.references.iter().filter(|naming| !naming.is_prefix).map(|naming| naming.name.clone()));
        all.remove("");
        for naming in wanted.references.iter().filter(|naming| naming.is_prefix) {
            let images = self.meta.images(namespace, &[])?.into_iter().map(|image| image.name);
            all.extend(images.filter(|name| name.starts_with(&naming.name)));
        }
        if all.is_empty() { Err(TransferError::NothingNamed) } else { Ok(all) }
    }

    /// Every chosen document has to be here.
    fn check_documents(&self, scope: &Scope, tree: &Tree, root: &Descriptor) -> Result<(), TransferError> {
        if tree.nodes.is_empty() {
            return Err(ContentError::NotFound { digest: root.digest.clone() }.into());
        }
        if tree.images().next().is_none() {
            let entries = tree.nodes.iter().filter_map(|node| match &node.document {
                Document::Index(entries) => Some(entries),
                Document::Manifest(_) => None,
            });
            for entry in entries.flatten() {
                self.size(scope, &entry.descriptor.digest)?;
            }
        }
        Ok(())
    }

    pub(super) fn size(&self, scope: &Scope, digest: &Digest) -> Result<u64, ContentError> {
        Ok(self.meta.content(&scope.namespace, digest.clone())?.record.size)
    }
}

/// What old Docker reads: one image, the one for the wanted platform if there are several.
fn compatible(tree: &Tree, name: &str, platforms: &[Platform]) -> Option<Saved> {
    let images: Vec<_> = tree.images().collect();
    // Of several, nothing tells here which is which; one that was chosen by its platform is alone.
    let image = match &images[..] {
        [image] => image,
        [image, ..] if !platforms.is_empty() => image,
        _ => return None,
    };
    Some(Saved {
        config: path(&image.manifest.config.digest),
        repo_tags: vec![name.to_owned()],
        layers: image.manifest.layers.iter().map(|layer| path(&layer.digest)).collect(),
    })
}

fn path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

fn json(document: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(document).expect("a document of strings and numbers is JSON")
}

/// Writes the archive. Blocks.
fn write(meta: &Meta, namespace: &Namespace, plan: &Plan, pieces: Pieces) -> Result<(), TransferError> {
    let gone = |_: io::Error| TransferError::Stream(crate::streaming::StreamError::Closed);
    let mut archive = tar::Builder::new(pieces);
    let layout = br#"{"imageLayoutVersion":"1.0.0"}"#;
    append(&mut archive, "oci-layout", layout.len() as u64, &layout[..]).map_err(gone)?;
    append(&mut archive, "index.json", plan.index.len() as u64, &plan.index[..]).map_err(gone)?;
    if let Some(saved) = &plan.saved {
        append(&mut archive, "manifest.json", saved.len() as u64, &saved[..]).map_err(gone)?;
    }
    folder(&mut archive, "blobs/").map_err(gone)?;
    let algorithms: BTreeSet<_> = plan.blobs.keys().map(|digest| digest.algorithm().name()).collect();
    for algorithm in algorithms {
        folder(&mut archive, &format!("blobs/{algorithm}/")).map_err(gone)?;
    }
    for (digest, size) in &plan.blobs {
        let blob = meta.content_reader(namespace, digest.clone())?;
        append(&mut archive, &path(digest), *size, io::Read::take(blob, *size)).map_err(gone)?;
    }
    archive.into_inner().and_then(|mut pieces| pieces.flush()).map_err(gone)
}

fn append(archive: &mut tar::Builder<Pieces>, path: &str, size: u64, content: impl io::Read) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(size);
    header.set_mode(0o444);
    header.set_entry_type(tar::EntryType::Regular);
    archive.append_data(&mut header, path, content)
}

fn folder(archive: &mut tar::Builder<Pieces>, path: &str) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(0);
    header.set_mode(0o755);
    header.set_entry_type(tar::EntryType::Directory);
    archive.append_data(&mut header, path, io::empty())
}

/// Takes bytes from blocking code to the client.
struct Pieces {
    pieces: mpsc::Sender<Bytes>,
    piece: BytesMut,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = self.piece.split().freeze();
        if piece.is_empty() {
            return Ok(());
        }
        self.pieces.blocking_send(piece).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
