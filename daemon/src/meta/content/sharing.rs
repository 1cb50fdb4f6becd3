//! Whether a namespace may have what another one has without sending it.

use model::{Digest, Namespace};
use store::{Read, StoreError, tables};

/// The label of a namespace whose content others may have even when content is isolated.
const LABEL_SHAREABLE: &str = "containerd.io/namespace.shareable";

/// The configured policy (`content_sharing_policy`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sharing {
    /// Who names the digest of what any namespace has gets it.
    #[default]
    Shared,
    /// Who wants content must send it, except what namespaces with the label `containerd.io/namespace.shareable=true` have.
    Isolated,
}

impl Sharing {
    /// Whether some other namespace has the blob and shares it.
    pub(crate) fn offers(self, read: &impl Read, digest: &Digest) -> Result<bool, StoreError> {
        let prefix = store::prefix(&[digest.as_str()])?;
        if self == Self::Shared {
            return read.any(&tables::BLOB_HOLDERS, &prefix);
        }
        for holder in read.keys(&tables::BLOB_HOLDERS, &prefix)? {
            let Some(Ok(holder)) = store::last_part(&holder).map(Namespace::new) else { continue };
            let record = read.get(&tables::NAMESPACES, &store::key(&[holder.as_str()])?)?;
            if record.is_some_and(|record| record.labels.get(LABEL_SHAREABLE).is_some_and(|value| value == "true")) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
