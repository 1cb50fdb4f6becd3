//! Descriptors. A bad digest or a negative size is refused here.

use model::{
    digest::DigestError,
    error::{Classify, Kind},
};

use crate::types;

/// Why a descriptor was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DescriptorError {
    /// Its digest is none.
    #[error("descriptor")]
    Digest(#[from] DigestError),
    /// Its size is below zero.
    #[error("descriptor has the size {size}")]
    Size {
        /// The size it came with.
        size: i64,
    },
}

impl Classify for DescriptorError {
    fn kind(&self) -> Kind {
        Kind::InvalidArgument
    }
}

impl From<model::Descriptor> for types::Descriptor {
    fn from(descriptor: model::Descriptor) -> Self {
        let model::Descriptor { media_type, digest, size, annotations } = descriptor;
        Self {
            media_type,
            digest: digest.as_str().to_owned(),
            // No blob comes near 8 EiB.
            size: i64::try_from(size).unwrap_or(i64::MAX),
            annotations,
        }
    }
}

impl TryFrom<types::Descriptor> for model::Descriptor {
    type Error = DescriptorError;

    fn try_from(descriptor: types::Descriptor) -> Result<Self, DescriptorError> {
        let types::Descriptor { media_type, digest, size, annotations } = descriptor;
        Ok(Self {
            media_type,
            digest: digest.parse::<model::Digest>()?,
            size: u64::try_from(size).map_err(|_| DescriptorError::Size { size })?,
            annotations,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire() -> types::Descriptor {
        types::Descriptor {
            media_type: "application/vnd.oci.image.layer.v1.tar".into(),
            digest: model::Digest::sha256(b"").as_str().to_owned(),
            size: 12,
            annotations: [("a".to_owned(), "b".to_owned())].into(),
        }
    }

    #[test]
    fn a_descriptor_comes_back_as_it_was() {
        assert_eq!(types::Descriptor::from(model::Descriptor::try_from(wire()).unwrap()), wire());
    }

    #[test]
    fn a_bad_digest_and_a_negative_size_are_invalid_arguments() {
        for bad in
            [types::Descriptor { digest: "sha256:zz".into(), ..wire() }, types::Descriptor { size: -1, ..wire() }]
        {
            assert_eq!(model::Descriptor::try_from(bad).unwrap_err().kind(), Kind::InvalidArgument);
        }
    }
}
