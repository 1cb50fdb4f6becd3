//! Blobs, read whole: for the small documents of an image only.

use model::Digest;
use proto::services::content::v1::ReadContentRequest;

use crate::{Client, ClientError};

/// The largest document that is read into memory, in bytes.
pub const MAX_DOCUMENT_BYTES: u64 = 8 * 1024 * 1024;

impl Client {
    /// Reads a blob whole.
    ///
    /// # Errors
    /// Fails when the blob is not there, or is larger than [`MAX_DOCUMENT_BYTES`].
    pub async fn read_document(&self, digest: &Digest) -> Result<Vec<u8>, ClientError> {
        let request = ReadContentRequest { digest: digest.to_string(), offset: 0, size: 0 };
        let mut pieces = self.content().read(request).await?.into_inner();
        let mut document = Vec::new();
        while let Some(piece) = pieces.message().await? {
            document.extend_from_slice(&piece.data);
            if document.len() as u64 > MAX_DOCUMENT_BYTES {
                return Err(ClientError::Invalid(format!(
                    "document {digest} is larger than {MAX_DOCUMENT_BYTES} bytes"
                )));
            }
        }
        Ok(document)
    }

    /// Reads a JSON document of an image.
    ///
    /// # Errors
    /// As [`Self::read_document`], and when the JSON is not what it should be.
    pub async fn read_json<T: serde::de::DeserializeOwned>(
        &self,
        digest: &Digest,
        what: &str,
    ) -> Result<T, ClientError> {
        let bytes = self.read_document(digest).await?;
        let what = || format!("{what} {digest}");
        serde_json::from_slice(&bytes).map_err(|source| ClientError::Document { what: what(), source })
    }
}
