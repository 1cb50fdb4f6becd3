//! Image documents: manifests, indexes and configs, read strictly (OCI image spec; Docker's schema 2, which is the same with other names).
//!
//! Pure: bytes in, values out. A document comes from outside. One that can be read as two things is refused, whoever sent it:
//! what one program verifies must be what another one runs (CVE-2021-41190).

use std::collections::BTreeMap;

pub use model::digest::chain_ids;
use model::error::{Classify, Kind};
use model::platform::Platform;
use model::{Descriptor, Digest};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

/// The largest document, in bytes. Registries refuse to store larger ones than half of it.
pub const MAX_DOCUMENT_BYTES: usize = 8 << 20;

/// The most layers of an image. Drivers and the kernel stop long before.
pub const MAX_LAYERS: usize = 1024;

/// The most entries of an index.
pub const MAX_ENTRIES: usize = 4096;

/// Media types of documents.
pub mod media_type {
    /// An OCI manifest.
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// An OCI index.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// An OCI config.
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// A Docker manifest.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// A Docker index.
    pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// A Docker config.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// A Docker layer, not compressed.
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
    /// A Docker layer, compressed.
    pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    /// What manifests of schema 1 begin with.
    pub const DOCKER_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+";
}

/// What a document is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DocumentKind {
    /// Names one image's config and layers.
    Manifest,
    /// Names manifests, one for each platform.
    Index,
}

impl DocumentKind {
    /// What a media type says it is; `None` for one that names no such document.
    pub fn of(media_type: &str) -> Option<Self> {
        match media_type {
            media_type::OCI_MANIFEST | media_type::DOCKER_MANIFEST => Some(Self::Manifest),
            media_type::OCI_INDEX | media_type::DOCKER_INDEX => Some(Self::Index),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Index => "index",
        }
    }
}

/// Why a document is refused.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// No JSON, or not of the form that is specified.
    #[error("{what} {digest} cannot be read")]
    Syntax {
        /// What was expected.
        what: &'static str,
        /// The digest of what came.
        digest: Digest,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// A manifest of Docker's first schema.
    #[error(
        "{digest} is a docker schema 1 manifest, which is no longer supported: its image has to be pushed again in the \
         docker schema 2 or the OCI format"
    )]
    Schema1 {
        /// Its digest.
        digest: Digest,
    },
    /// The document says to be something else than it was sent as.
    #[error("document {digest} was sent as {sent:?} but says that it is {says:?}")]
    Contradiction {
        /// Its digest.
        digest: Digest,
        /// The media type of whoever sent or named it.
        sent: String,
        /// The media type in the document.
        says: String,
    },
    /// The document could be read as a manifest and as an index.
    #[error("document {digest} is refused as ambiguous: a {kind} must not have {field:?}")]
    Ambiguous {
        /// Its digest.
        digest: Digest,
        /// What it was sent as.
        kind: &'static str,
        /// The field that does not belong there.
        field: &'static str,
    },
    /// A field without which it is of no use is missing.
    #[error("{kind} {digest} has no {field:?}")]
    Missing {
        /// Its digest.
        digest: Digest,
        /// What it is.
        kind: &'static str,
        /// The field.
        field: &'static str,
    },
    /// Neither a manifest nor an index.
    #[error("document {digest} of type {media_type:?} is neither a manifest nor an index")]
    Unknown {
        /// Its digest.
        digest: Digest,
        /// What it was sent as, or says to be.
        media_type: String,
    },
    /// More than is allowed.
    #[error("document {digest} names {count} {what}, more than the {limit} that are allowed")]
    TooMany {
        /// Its digest.
        digest: Digest,
        /// Of what.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many may be.
        limit: usize,
    },
    /// A size below zero.
    #[error("document {digest} gives {of} a size of {size} bytes")]
    Size {
        /// Its digest.
        digest: Digest,
        /// What has that size.
        of: Digest,
        /// The size.
        size: i64,
    },
    /// Config and manifest do not belong together.
    #[error("config {digest} has {diff_ids} diff ids, but its manifest has {layers} layers")]
    Mismatch {
        /// The digest of the config.
        digest: Digest,
        /// Diff ids in the config.
        diff_ids: usize,
        /// Layers in the manifest.
        layers: usize,
    },
}

impl Classify for DocumentError {
    fn kind(&self) -> Kind {
        match self {
            Self::Schema1 { .. } | Self::Unknown { .. } => Kind::Unimplemented,
            _ => Kind::InvalidArgument,
        }
    }
}

/// A descriptor as documents have it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RawDescriptor {
    /// The media type.
    #[serde(default)]
    pub media_type: String,
    /// The digest.
    pub digest: Digest,
    /// The size in bytes.
    pub size: i64,
    /// Free annotations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// For which platform it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<RawPlatform>,
    /// Where it is besides the registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub urls: Option<Vec<String>>,
}

/// A platform as documents have it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RawPlatform {
    /// The processor.
    #[serde(default)]
    pub architecture: String,
    /// The operating system.
    #[serde(default)]
    pub os: String,
    /// The variant of the processor.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

impl From<RawPlatform> for Platform {
    fn from(raw: RawPlatform) -> Self {
        Self { os: raw.os, architecture: raw.architecture, variant: raw.variant }
    }
}

impl From<Platform> for RawPlatform {
    fn from(platform: Platform) -> Self {
        Self { os: platform.os, architecture: platform.architecture, variant: platform.variant }
    }
}

impl From<Descriptor> for RawDescriptor {
    fn from(descriptor: Descriptor) -> Self {
        let annotations = Some(descriptor.annotations).filter(|annotations| !annotations.is_empty());
        let size = i64::try_from(descriptor.size).unwrap_or(i64::MAX);
        Self {
            media_type: descriptor.media_type,
            digest: descriptor.digest,
            size,
            annotations,
            platform: None,
            urls: None,
        }
    }
}

impl RawDescriptor {
    fn checked(self, digest: &Digest) -> Result<Descriptor, DocumentError> {
        let size = u64::try_from(self.size).map_err(|_| DocumentError::Size {
            digest: digest.clone(),
            of: self.digest.clone(),
            size: self.size,
        })?;
        let annotations = self.annotations.unwrap_or_default();
        Ok(Descriptor { media_type: self.media_type, digest: self.digest, size, annotations })
    }
}

/// Both kinds of documents at once, so that a mixture is seen.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: Option<u32>,
    #[serde(default)]
    media_type: String,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
    manifests: Option<Vec<RawDescriptor>>,
    fs_layers: Option<IgnoredAny>,
    history: Option<IgnoredAny>,
}

/// An image: its config and its layers, the lowest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The config.
    pub config: Descriptor,
    /// The layers.
    pub layers: Vec<Descriptor>,
    /// Where layers are that registries may not have.
    pub urls: BTreeMap<Digest, Vec<String>>,
}

/// One entry of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// A manifest, or another index.
    pub descriptor: Descriptor,
    /// For which platform it is.
    pub platform: Option<Platform>,
}

/// A manifest or an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// Images for several platforms.
    Index(Vec<Entry>),
}

impl Document {
    /// Reads a document; `sent_as` is the media type of whoever sent it or named it, empty if nobody did. Gives also the media
    /// type that it has.
    ///
    /// # Errors
    /// It cannot be read, is of another type than it was sent as, or is ambiguous.
    pub fn parse(bytes: &[u8], digest: &Digest, sent_as: &str) -> Result<(Self, String), DocumentError> {
        let schema1 = || DocumentError::Schema1 { digest: digest.clone() };
        if sent_as.starts_with(media_type::DOCKER_SCHEMA1) {
            return Err(schema1());
        }
        let raw: Raw = serde_json::from_slice(bytes).map_err(|source| DocumentError::Syntax {
            what: "document",
            digest: digest.clone(),
            source,
        })?;
        if raw.schema_version == Some(1) || raw.media_type.starts_with(media_type::DOCKER_SCHEMA1) {
            return Err(schema1());
        }
        let media_type = raw.media_type(digest, sent_as)?;
        let kind = DocumentKind::of(&media_type);
        let kind =
            kind.ok_or_else(|| DocumentError::Unknown { digest: digest.clone(), media_type: media_type.clone() })?;
        Ok((raw.document(digest, kind)?, media_type))
    }
}

impl Raw {
    /// The one media type that everybody agrees on.
    fn media_type(&self, digest: &Digest, sent_as: &str) -> Result<String, DocumentError> {
        let sent = DocumentKind::of(sent_as);
        match (sent, self.media_type.as_str()) {
            (Some(_), "") => Ok(sent_as.to_owned()),
            (Some(_), says) if says == sent_as => Ok(says.to_owned()),
            (None, says) if !says.is_empty() => Ok(says.to_owned()),
            (Some(_), says) => Err(DocumentError::Contradiction {
                digest: digest.clone(),
                sent: sent_as.to_owned(),
                says: says.to_owned(),
            }),
            // Nobody says anything, which OCI allowed at first; the fields decide.
            (None, _) if self.manifests.is_some() => Ok(media_type::OCI_INDEX.to_owned()),
            (None, _) if self.layers.is_some() => Ok(media_type::OCI_MANIFEST.to_owned()),
            (None, _) => Err(DocumentError::Unknown { digest: digest.clone(), media_type: sent_as.to_owned() }),
        }
    }

    fn document(self, digest: &Digest, kind: DocumentKind) -> Result<Document, DocumentError> {
        let foreign = [
            (DocumentKind::Index, "config", self.config.is_some()),
            (DocumentKind::Index, "layers", self.layers.is_some()),
            (DocumentKind::Manifest, "manifests", self.manifests.is_some()),
        ];
        let never = [("fsLayers", self.fs_layers.is_some()), ("history", self.history.is_some())];
        let foreign = foreign.into_iter().filter(|(of, _, there)| *of == kind && *there).map(|(_, field, _)| field);
        let never = never.into_iter().filter(|(_, there)| *there).map(|(field, _)| field);
        if let Some(field) = foreign.chain(never).next() {
            return Err(DocumentError::Ambiguous { digest: digest.clone(), kind: kind.name(), field });
        }
        let missing = |field| DocumentError::Missing { digest: digest.clone(), kind: kind.name(), field };
        let bounded = |what, count, limit| {
            if count > limit {
                Err(DocumentError::TooMany { digest: digest.clone(), what, count, limit })
            } else {
                Ok(())
            }
        };
        match kind {
            DocumentKind::Manifest => {
                let config = self.config.ok_or_else(|| missing("config"))?.checked(digest)?;
                let layers = self.layers.ok_or_else(|| missing("layers"))?;
                bounded("layers", layers.len(), MAX_LAYERS)?;
                let urls =
                    layers.iter().filter_map(|layer| Some((layer.digest.clone(), layer.urls.clone()?))).collect();
                let layers = layers.into_iter().map(|layer| layer.checked(digest)).collect::<Result<_, _>>()?;
                Ok(Document::Manifest(Manifest { config, layers, urls }))
            }
            DocumentKind::Index => {
                let entries = self.manifests.ok_or_else(|| missing("manifests"))?;
                bounded("manifests", entries.len(), MAX_ENTRIES)?;
                let entry = |mut raw: RawDescriptor| {
                    let platform = raw.platform.take().map(Platform::from);
                    Ok(Entry { descriptor: raw.checked(digest)?, platform })
                };
                Ok(Document::Index(entries.into_iter().map(entry).collect::<Result<_, _>>()?))
            }
        }
    }
}

/// What unpacking needs of a config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// For which platform the image is.
    pub platform: Platform,
    /// The digests of the layers, uncompressed, the lowest first.
    pub diff_ids: Vec<Digest>,
}

impl Config {
    /// Reads a config; one that is of another kind of artifact has no diff ids.
    ///
    /// # Errors
    /// It is no JSON object of the specified form.
    pub fn parse(bytes: &[u8], digest: &Digest) -> Result<Self, DocumentError> {
        #[derive(Deserialize)]
        struct Raw {
            #[serde(flatten)]
            platform: RawPlatform,
            #[serde(default)]
            rootfs: RootFs,
        }
        #[derive(Default, Deserialize)]
        struct RootFs {
            #[serde(default)]
            diff_ids: Option<Vec<Digest>>,
        }
        let raw: Raw = serde_json::from_slice(bytes).map_err(|source| DocumentError::Syntax {
            what: "config",
            digest: digest.clone(),
            source,
        })?;
        Ok(Self { platform: raw.platform.into(), diff_ids: raw.rootfs.diff_ids.unwrap_or_default() })
    }
}

/// Of an index, the entries that are wanted: for each platform the one that fits best, and those that do not say for which platform
/// they are; or all without platforms.
pub fn select<'a>(entries: &'a [Entry], platforms: &[Platform]) -> Vec<&'a Entry> {
    if platforms.is_empty() {
        return entries.iter().collect();
    }
    let mut chosen: Vec<&Entry> = entries.iter().filter(|entry| entry.platform.is_none()).collect();
    for wanted in platforms {
        let best = wanted.best(entries.iter().filter_map(|entry| Some((entry.platform.as_ref()?, entry))));
        chosen.extend(
            best.filter(|entry| !chosen.iter().any(|other| other.descriptor.digest == entry.descriptor.digest)),
        );
    }
    chosen
}

/// The name of the upload of a blob, as other tools call it: they show it as progress, and join it.
pub fn upload_name(descriptor: &Descriptor) -> String {
    let kind = match descriptor.media_type.as_str() {
        media_type::OCI_MANIFEST | media_type::DOCKER_MANIFEST => "manifest",
        media_type::OCI_INDEX | media_type::DOCKER_INDEX => "index",
        media_type::OCI_CONFIG | media_type::DOCKER_CONFIG => "config",
        other if is_layer(other) => "layer",
        "application/vnd.in-toto+json" => "attestation",
        _ => "unknown",
    };
    format!("{kind}-{}", descriptor.digest)
}

/// Whether a layer may not be passed on: registries need not have it, its manifest says where it is.
pub fn is_non_distributable(media_type: &str) -> bool {
    is_layer(media_type) && (media_type.contains(".nondistributable.") || media_type.contains(".foreign."))
}

/// Whether a media type is that of a layer, whether or not we can unpack it.
pub fn is_layer(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.oci.image.layer.")
        || media_type.starts_with("application/vnd.docker.image.rootfs.")
}

#[cfg(test)]
mod tests;
