//! From a name to a digest; from here on only digests.

use model::reference::Reference;
use model::{Algorithm, Descriptor, Digest, Hasher};

use super::TransferError;
use super::document::Document;
use super::registry::{Fetched, Registry, Version};

/// What a name stands for now.
#[derive(Debug, Clone)]
pub(super) struct Resolved {
    /// The root of the image.
    pub(super) descriptor: Descriptor,
    /// The document, verified.
    pub(super) bytes: Vec<u8>,
}

/// Asks the registry what `reference` stands for.
pub(super) async fn resolve(registry: &impl Registry, reference: &Reference) -> Result<Resolved, TransferError> {
    let version =
        Version::of(reference).ok_or_else(|| TransferError::NoVersion { reference: reference.to_string() })?;
    let fetched = registry.document(&version).await;
    let fetched = fetched.map_err(|source| TransferError::Resolve { reference: reference.to_string(), source })?;
    let wanted = match &version {
        Version::Digest(digest) => Some(digest.clone()),
        Version::Tag(_) => fetched.claimed.clone(),
    };
    let algorithm = wanted.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
    let digest = hash(algorithm, &fetched.bytes);
    // Read before it is compared: documents of schema 1 are signed, and have other digests than registries say.
    let sent = |source| TransferError::Sent { host: registry.host().to_owned(), source };
    let (_, media_type) = Document::parse(&fetched.bytes, &digest, &fetched.media_type).map_err(sent)?;
    verify(registry, wanted.as_ref(), &digest)?;
    let descriptor =
        Descriptor { media_type, digest, size: fetched.bytes.len() as u64, annotations: Default::default() };
    Ok(Resolved { descriptor, bytes: fetched.bytes.into() })
}

/// Gets a document that another one names.
pub(super) async fn child(registry: &impl Registry, descriptor: &Descriptor) -> Result<Vec<u8>, TransferError> {
    let Fetched { bytes, media_type, .. } = registry.document(&Version::Digest(descriptor.digest.clone())).await?;
    verify(registry, Some(&descriptor.digest), &hash(descriptor.digest.algorithm(), &bytes))?;
    let got = bytes.len() as u64;
    if got != descriptor.size {
        return Err(TransferError::Length {
            host: registry.host().to_owned(),
            digest: descriptor.digest.clone(),
            got,
            wanted: descriptor.size,
        });
    }
    // The registry, the parent and the document itself must agree on what it is; parent and document are compared by the walk.
    let sent = |source| TransferError::Sent { host: registry.host().to_owned(), source };
    Document::parse(&bytes, &descriptor.digest, &media_type).map_err(sent)?;
    Ok(bytes.into())
}

fn hash(algorithm: Algorithm, bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::new(algorithm);
    hasher.update(bytes);
    hasher.finish()
}

fn verify(registry: &impl Registry, wanted: Option<&Digest>, got: &Digest) -> Result<(), TransferError> {
    match wanted {
        Some(wanted) if wanted != got => {
            Err(TransferError::Corrupt { host: registry.host().to_owned(), wanted: wanted.clone(), got: got.clone() })
        }
        _ => Ok(()),
    }
}
