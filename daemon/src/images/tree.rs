//! What hangs on an image: documents from the root down, of the wanted platforms.
//!
//! ```text
//!   index ─► index ─► manifest ─► config, layers
//!         └► manifest …                            at most MAX_DEPTH indexes, MAX_MANIFESTS documents
//! ```
//!
//! The walk asks for one document at a time and does not care where it comes from. Pure.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use model::platform::Platform;
use model::{Descriptor, Digest, Labels};

use super::TransferError;
use super::document::{Document, DocumentKind, Manifest, media_type, select, upload_name};
use super::local::LABEL_CONTENT;

/// How many indexes may be within each other.
pub(super) const MAX_DEPTH: usize = 4;

/// How many documents may hang on an image.
pub(super) const MAX_MANIFESTS: usize = 4096;

/// One image of one platform.
#[derive(Debug, Clone)]
pub(super) struct Image {
    /// Its manifest.
    pub(super) manifest: Manifest,
}

/// One document with what it names.
#[derive(Debug, Clone)]
pub(super) struct Node {
    /// The document.
    pub(super) descriptor: Descriptor,
    /// What is in it.
    pub(super) document: Document,
    /// Under what it is shown.
    pub(super) parents: Vec<String>,
    /// Whether what it names is wanted, too; else only the documents are.
    pub(super) wanted: bool,
}

/// The documents of an image that are here, the root first.
#[derive(Debug, Clone, Default)]
pub(super) struct Tree {
    /// The documents.
    pub(super) nodes: Vec<Node>,
}

/// What is wanted of an index.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Choice<'a> {
    /// Only these platforms; none is all.
    pub(super) platforms: &'a [Platform],
    /// Whether the documents of other platforms are wanted all the same.
    pub(super) all_metadata: bool,
    /// How many manifests at most.
    pub(super) limit: Option<usize>,
}

impl<'a> Choice<'a> {
    /// Only these platforms; none is all.
    pub(super) fn of(platforms: &'a [Platform]) -> Self {
        Self { platforms, ..Self::default() }
    }
}

/// A walk that is under way: [`Walk::next`] says which document is wanted, [`Walk::found`] takes it in.
pub(super) struct Walk<'a> {
    /// How the image is called, for messages.
    name: &'a str,
    choice: Choice<'a>,
    tree: Tree,
    seen: HashSet<Digest>,
    queue: VecDeque<Step>,
    current: Option<Step>,
}

/// A document to come to.
#[derive(Debug, Clone)]
struct Step {
    descriptor: Descriptor,
    depth: usize,
    parents: Vec<String>,
    wanted: bool,
}

impl<'a> Walk<'a> {
    /// Begins at `root`.
    pub(super) fn new(name: &'a str, root: Descriptor, choice: Choice<'a>) -> Self {
        let first = Step { descriptor: root, depth: 0, parents: vec![name.to_owned()], wanted: true };
        Self {
            name,
            choice,
            tree: Tree::default(),
            seen: HashSet::new(),
            queue: VecDeque::from([first]),
            current: None,
        }
    }

    /// The next document that is wanted, and under what it is shown. One that was wanted and not found is left out.
    pub(super) fn next(&mut self) -> Result<Option<(Descriptor, Vec<String>)>, TransferError> {
        self.current = None;
        while let Some(step) = self.queue.pop_front() {
            if !self.seen.insert(step.descriptor.digest.clone()) {
                continue;
            }
            if self.seen.len() > MAX_MANIFESTS {
                return Err(TransferError::TooManyManifests { image: self.name.to_owned(), limit: MAX_MANIFESTS });
            }
            let wanted = (step.descriptor.clone(), step.parents.clone());
            self.current = Some(step);
            return Ok(Some(wanted));
        }
        Ok(None)
    }

    /// Takes in the document that was wanted.
    pub(super) fn found(&mut self, bytes: &[u8]) -> Result<(), TransferError> {
        let Some(Step { mut descriptor, depth, parents, wanted }) = self.current.take() else { return Ok(()) };
        let (document, media_type) = Document::parse(bytes, &descriptor.digest, &descriptor.media_type)?;
        descriptor.media_type = media_type;
        if let Document::Index(entries) = &document {
            if depth == MAX_DEPTH {
                return Err(TransferError::TooDeep { image: self.name.to_owned(), limit: MAX_DEPTH });
            }
            let mut chosen = if wanted { select(entries, self.choice.platforms) } else { Vec::new() };
            chosen.truncate(self.choice.limit.unwrap_or(usize::MAX));
            if chosen.is_empty() && depth == 0 && !entries.is_empty() && self.choice.limit != Some(0) {
                return Err(self.no_platform(entries));
            }
            let below = vec![upload_name(&descriptor)];
            let step = |entry: &super::document::Entry, wanted| Step {
                descriptor: entry.descriptor.clone(),
                depth: depth + 1,
                parents: below.clone(),
                wanted,
            };
            // What is wanted comes first, so that it is not seen as what is not.
            self.queue.extend(chosen.iter().map(|entry| step(entry, true)));
            if self.choice.all_metadata {
                let others = entries
                    .iter()
                    .filter(|entry| !chosen.iter().any(|one| one.descriptor.digest == entry.descriptor.digest));
                self.queue.extend(others.map(|entry| step(entry, false)));
            }
        }
        self.tree.nodes.push(Node { descriptor, document, parents, wanted });
        Ok(())
    }

    /// What was found.
    pub(super) fn finish(self) -> Tree {
        self.tree
    }

    fn no_platform(&self, entries: &[super::document::Entry]) -> TransferError {
        let offered: Vec<String> =
            entries.iter().filter_map(|entry| entry.platform.as_ref()).map(Platform::to_text).take(16).collect();
        let wanted: Vec<String> = self.choice.platforms.iter().map(Platform::to_text).collect();
        TransferError::Platform { image: self.name.to_owned(), wanted: wanted.join(", "), offered: offered.join(", ") }
    }
}

impl Tree {
    /// The images.
    pub(super) fn images(&self) -> impl Iterator<Item = Image> + '_ {
        self.nodes.iter().filter(|node| node.wanted).filter_map(|node| match &node.document {
            Document::Manifest(manifest) => Some(Image { manifest: manifest.clone() }),
            Document::Index(_) => None,
        })
    }

    /// Where layers are that registries may not have.
    pub(super) fn urls(&self) -> BTreeMap<Digest, Vec<String>> {
        let manifests = self.nodes.iter().filter_map(|node| match &node.document {
            Document::Manifest(manifest) => Some(&manifest.urls),
            Document::Index(_) => None,
        });
        manifests.flatten().map(|(digest, urls)| (digest.clone(), urls.clone())).collect()
    }

    /// All that is in it and is wanted.
    pub(super) fn digests(&self) -> impl Iterator<Item = &Digest> {
        let blobs = self.nodes.iter().flat_map(named);
        self.nodes.iter().map(|node| &node.descriptor).chain(blobs).map(|descriptor| &descriptor.digest)
    }

    /// Everything that manifests name and is wanted, each once, configs before layers, with what to show it under.
    pub(super) fn blobs(&self) -> Vec<(Descriptor, Vec<String>)> {
        let mut seen: HashMap<&Digest, usize> = HashMap::new();
        let mut blobs: Vec<(Descriptor, Vec<String>)> = Vec::new();
        for node in &self.nodes {
            let parent = upload_name(&node.descriptor);
            for blob in named(node) {
                let at = *seen.entry(&blob.digest).or_insert(blobs.len());
                match blobs.get_mut(at) {
                    // A manifest may have the same layer twice.
                    Some((_, parents)) if parents.last() == Some(&parent) => {}
                    Some((_, parents)) => parents.push(parent.clone()),
                    None => blobs.push((blob.clone(), vec![parent.clone()])),
                }
            }
        }
        blobs
    }

    /// The labels by which each document keeps what it names, for what `is_here`; what is named first is labelled first.
    pub(super) fn references(&self, is_here: impl Fn(&Digest) -> bool) -> Vec<(Digest, Labels)> {
        let labels = |node: &Node| match &node.document {
            Document::Manifest(manifest) => {
                let config = [("config".to_owned(), &manifest.config.digest)];
                let layers = manifest.layers.iter().enumerate().map(|(at, layer)| (format!("l.{at}"), &layer.digest));
                label(config.into_iter().chain(layers), &is_here)
            }
            Document::Index(entries) => {
                let entries = entries.iter().enumerate().map(|(at, entry)| {
                    let prefix = if DocumentKind::of(&entry.descriptor.media_type).is_some() { "m." } else { "" };
                    (format!("{prefix}{at}"), &entry.descriptor.digest)
                });
                label(entries, &is_here)
            }
        };
        self.nodes.iter().rev().map(|node| (node.descriptor.digest.clone(), labels(node))).collect()
    }
}

/// What a manifest names and is wanted: config and layers, or the config alone.
fn named(node: &Node) -> impl Iterator<Item = &Descriptor> {
    let manifest = match &node.document {
        Document::Manifest(manifest) => Some(manifest),
        Document::Index(_) => None,
    };
    let layers = manifest.map(|manifest| &manifest.layers[..]).filter(|_| node.wanted).unwrap_or_default();
    manifest.map(|manifest| &manifest.config).into_iter().chain(layers)
}

fn label<'a>(named: impl Iterator<Item = (String, &'a Digest)>, is_here: impl Fn(&Digest) -> bool) -> Labels {
    let here = named.filter(|(_, digest)| is_here(digest));
    here.map(|(name, digest)| (format!("{LABEL_CONTENT}{name}"), digest.to_string())).collect()
}

/// Whether a config is that of an image that can be unpacked.
pub(super) fn is_image_config(config: &Descriptor) -> bool {
    matches!(config.media_type.as_str(), media_type::OCI_CONFIG | media_type::DOCKER_CONFIG)
}
