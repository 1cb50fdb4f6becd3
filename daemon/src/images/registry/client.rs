//! One repository of a registry over HTTP, by whichever of its hosts can be had.
//!
//! ```text
//!   tag     ─► hosts that may resolve ─┐  the first that answers counts; one that fails is
//!   digest  ─► hosts that may pull    ─┼─ left out for the rest of the transfer, but the last
//!   uploads ─► the first that may push ┘
//! ```
//!
//! What is asked for here is documents and blobs; how one host is spoken to is in [`super::endpoint`], how it takes blobs in
//! [`super::upload`]. Which bytes came is verified by who asked, and by [`Remote::document`] where a mirror may have been wrong.

use std::io;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use model::reference::Reference;
use model::{Descriptor, Digest, Hasher};
use proto::bytes::Bytes;
use reqwest::header::{ACCEPT, CONTENT_RANGE, CONTENT_TYPE, HeaderName, HeaderValue, RANGE};
use reqwest::{Method, Response, StatusCode, Url};

use super::auth::Asker;
use super::endpoint::{Ask, Body, Endpoint, read_body};
use super::hosts::{Capabilities, Host, Sources};
use super::scheme::Scheme;
use super::trace::Trace;
use super::{Fetched, Incoming, Registry, RegistryError, Version, upload};
use crate::blocking;
use crate::images::document::MAX_DOCUMENT_BYTES;

/// The documents that can be read, the better liked first.
const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, */*";

/// The most addresses a layer may say it is at besides the registry.
const MAX_URLS: usize = 8;

/// What a transfer is going to do at a registry, which it has to say when it asks for a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Read.
    Pull,
    /// Read and write.
    Push,
}

/// How long a registry is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// How long it may send nothing, or next to nothing.
    pub silence: Duration,
}

/// How long a registry may send nothing unless configured.
pub const SILENCE: Duration = Duration::from_secs(60);

impl Default for Patience {
    fn default() -> Self {
        Self { silence: SILENCE }
    }
}

/// How to speak to a registry.
#[derive(Debug)]
pub struct Options {
    /// With or without encryption, where neither address nor files say it.
    pub scheme: Option<Scheme>,
    /// What for.
    pub purpose: Purpose,
    /// Who we are.
    pub asker: Asker,
    /// Where its content can be had.
    pub sources: Sources,
    /// How long it is waited for.
    pub patience: Patience,
    /// Who wants to see it.
    pub trace: Trace,
}

/// What all hosts of a transfer share.
pub(super) struct Context {
    pub(super) reference: Reference,
    pub(super) purpose: Purpose,
    pub(super) asker: Asker,
    pub(super) patience: Patience,
    pub(super) trace: Trace,
}

/// One repository of a registry, over HTTP.
pub struct Remote {
    context: Context,
    /// Never empty.
    endpoints: Vec<Endpoint>,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let hosts: Vec<_> = self.endpoints.iter().map(|endpoint| &endpoint.name).collect();
        f.debug_struct("Remote").field("reference", &self.context.reference).field("hosts", &hosts).finish()
    }
}

impl Remote {
    /// The repository that `reference` is in. Reads what is configured for its registry; opens no connection.
    ///
    /// # Errors
    /// The configuration of a host cannot be used.
    pub async fn new(reference: Reference, options: Options) -> Result<Self, RegistryError> {
        let Options { scheme, purpose, asker, sources, patience, trace } = options;
        blocking::run(move || {
            let hosts = sources.hosts(reference.host(), scheme)?;
            let context = Context { reference, purpose, asker, patience, trace };
            let endpoints = hosts.into_iter().map(|host| Endpoint::new(&context, host)).collect::<Result<_, _>>()?;
            Ok(Self { context, endpoints })
        })
        .await
    }

    /// The hosts that may be asked, and are of use so far; the last of them whether or not it is.
    fn hosts(
        &self,
        what: &'static str,
        may: impl Fn(&Capabilities) -> bool,
    ) -> Result<Vec<(usize, &Endpoint)>, RegistryError> {
        let able = self.endpoints.iter().enumerate().filter(|(_, endpoint)| may(&endpoint.host.capabilities));
        let able: Vec<_> = able.collect();
        let Some(last) = able.last().map(|(at, _)| *at) else {
            return Err(RegistryError::Nobody { registry: self.host().to_owned(), what });
        };
        Ok(able.into_iter().filter(|(at, endpoint)| *at == last || !endpoint.has_failed()).collect())
    }

    /// The host that takes what is pushed, or where it is looked for.
    fn target(&self) -> Result<&Endpoint, RegistryError> {
        let push = self.context.purpose == Purpose::Push;
        let able = self.hosts("take content", |may| if push { may.push } else { may.pull })?;
        Ok(able[0].1)
    }

    fn path(&self, rest: &str) -> String {
        format!("{}/{rest}", self.context.reference.path())
    }

    async fn document_of(&self, endpoint: &Endpoint, version: &Version, what: &str) -> Result<Fetched, RegistryError> {
        let ask = Ask {
            what,
            method: Method::GET,
            url: endpoint.url(&self.context, &self.path(&format!("manifests/{}", version.as_str())))?,
            headers: vec![(ACCEPT, HeaderValue::from_static(ACCEPTED))],
            body: Body::None,
            scope: None,
        };
        let response = endpoint.ask(&self.context, &ask, &[StatusCode::OK]).await?;
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let content_type = header(CONTENT_TYPE.as_str()).unwrap_or_default();
        let media_type = content_type.split(';').next().unwrap_or_default().trim().to_owned();
        let claimed = header("docker-content-digest").and_then(|digest| digest.parse().ok());
        let host = endpoint.name.clone();
        match read_body(response, MAX_DOCUMENT_BYTES).await {
            Ok(Some(bytes)) => Ok(Fetched { bytes: bytes.into(), media_type, claimed }),
            Ok(None) => Err(RegistryError::TooLarge { host, what: what.to_owned(), limit: MAX_DOCUMENT_BYTES }),
            Err(source) => Err(RegistryError::http(&host, what.to_owned(), source)),
        }
    }

    async fn blob_of(
        &self,
        (source, endpoint): (usize, &Endpoint),
        blob: &Descriptor,
        part: Part,
        what: &str,
    ) -> Result<Incoming, RegistryError> {
        let url = endpoint.url(&self.context, &self.path(&format!("blobs/{}", blob.digest)))?;
        let headers = part.header().into_iter().collect();
        let ask = Ask { what, method: Method::GET, url, headers, body: Body::None, scope: None };
        let response = endpoint.send(&self.context, &ask).await?;
        part.incoming(endpoint, source, what, response).await
    }

    /// Gets a layer from where its manifest says that it is, as anybody.
    async fn elsewhere(&self, urls: &[String], part: Part, what: &str) -> Result<Incoming, RegistryError> {
        let mut tried = Vec::new();
        for text in urls.iter().take(MAX_URLS) {
            let Ok(url) = Url::parse(text) else { continue };
            if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
                continue;
            }
            let outcome = async {
                let name = url.host_str().unwrap_or_default();
                let address = url.port().map_or_else(|| name.to_owned(), |port| format!("{name}:{port}"));
                let scheme = if url.scheme() == "http" { Scheme::Http } else { Scheme::Https };
                let host = Host::itself(&address, Some(scheme));
                let anybody = Context {
                    reference: self.context.reference.clone(),
                    purpose: Purpose::Pull,
                    asker: Asker::default(),
                    patience: self.context.patience,
                    trace: self.context.trace.clone(),
                };
                let mut endpoint = Endpoint::new(&anybody, host)?;
                endpoint.name = address;
                let headers = part.header().into_iter().collect();
                let ask = Ask { what, method: Method::GET, url: url.clone(), headers, body: Body::None, scope: None };
                let response = endpoint.send(&anybody, &ask).await?;
                part.incoming(&endpoint, usize::MAX, what, response).await
            };
            match outcome.await {
                Ok(incoming) => return Ok(incoming),
                Err(error) => tried.push(error),
            }
        }
        match tried.pop() {
            Some(last) => Err(last.after_others(&tried)),
            None => Err(RegistryError::Protocol {
                host: self.host().to_owned(),
                what: what.to_owned(),
                cause: "its manifest names no address of it that can be used".to_owned(),
            }),
        }
    }
}

/// Which bytes of a blob are asked for.
#[derive(Debug, Clone, Copy)]
struct Part {
    offset: u64,
    /// `None` is to the end.
    length: Option<u64>,
}

impl Part {
    fn is_whole(self) -> bool {
        self.offset == 0 && self.length.is_none()
    }

    fn header(self) -> Option<(HeaderName, HeaderValue)> {
        if self.is_whole() {
            return None;
        }
        let end = self.length.map(|length| (self.offset + length).saturating_sub(1).to_string()).unwrap_or_default();
        let value = HeaderValue::from_str(&format!("bytes={}-{end}", self.offset));
        Some((RANGE, value.expect("digits can be sent")))
    }

    /// The bytes in an answer.
    async fn incoming(
        self,
        endpoint: &Endpoint,
        source: usize,
        what: &str,
        response: Response,
    ) -> Result<Incoming, RegistryError> {
        let offset = match response.status() {
            StatusCode::OK => 0,
            StatusCode::PARTIAL_CONTENT => {
                let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
                let begins = range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse().ok());
                match begins {
                    None => self.offset,
                    Some(offset) if offset == self.offset => offset,
                    Some(other) => {
                        return Err(RegistryError::Protocol {
                            host: endpoint.name.clone(),
                            what: what.to_owned(),
                            cause: format!("it sends bytes from {other} on instead of {}", self.offset),
                        });
                    }
                }
            }
            _ => return Err(endpoint.refusal(what, response).await),
        };
        // One that ignores what was asked for sends all.
        let is_part = response.status() == StatusCode::PARTIAL_CONTENT;
        let pieces = response.bytes_stream().map(|piece| piece.map_err(io::Error::other)).boxed();
        Ok(Incoming { host: endpoint.name.clone(), offset, is_part, source, pieces })
    }
}

impl Registry for Remote {
    fn host(&self) -> &str {
        self.context.reference.host()
    }

    fn repository(&self) -> &str {
        self.context.reference.path()
    }

    fn patience(&self) -> Patience {
        self.context.patience
    }

    async fn document(&self, version: &Version) -> Result<Fetched, RegistryError> {
        let what = format!("{} of {}", version.as_str(), self.repository());
        let hosts = match version {
            Version::Tag(_) => self.hosts("resolve tags", |may| may.resolve)?,
            Version::Digest(_) => self.hosts("give content", |may| may.pull)?,
        };
        let (mut tried, last) = (Vec::new(), hosts.len() - 1);
        for (at, (_, endpoint)) in hosts.into_iter().enumerate() {
            let error = match self.document_of(endpoint, version, &what).await {
                Ok(fetched) if at == last || is_wanted(version, &fetched) => return Ok(fetched),
                Ok(_) => RegistryError::Protocol {
                    host: endpoint.name.clone(),
                    what: what.clone(),
                    cause: "it sends another document".to_owned(),
                },
                Err(error) => error,
            };
            if at == last {
                return Err(error.after_others(&tried));
            }
            tracing::debug!(host = endpoint.name, %error, "asking the next host");
            if !matches!(error, RegistryError::NotFound { .. }) {
                endpoint.give_up();
            }
            tried.push(error);
        }
        unreachable!("the last host was asked")
    }

    async fn blob(
        &self,
        blob: &Descriptor,
        urls: &[String],
        offset: u64,
        length: Option<u64>,
    ) -> Result<Incoming, RegistryError> {
        let what = format!("blob {} of {}", blob.digest, self.repository());
        let hosts = self.hosts("give content", |may| may.pull)?;
        let part = Part { offset, length };
        let (mut tried, last) = (Vec::new(), hosts.len() - 1);
        for (at, host) in hosts.into_iter().enumerate() {
            let error = match self.blob_of(host, blob, part, &what).await {
                Ok(incoming) => return Ok(incoming),
                Err(error) => error,
            };
            if at == last {
                if matches!(error, RegistryError::NotFound { .. }) && !urls.is_empty() {
                    return self.elsewhere(urls, part, &what).await;
                }
                return Err(error.after_others(&tried));
            }
            tracing::debug!(host = host.1.name, %error, "asking the next host");
            if !matches!(error, RegistryError::NotFound { .. }) {
                host.1.give_up();
            }
            tried.push(error);
        }
        unreachable!("the last host was asked")
    }

    fn distrust(&self, source: usize) -> bool {
        match self.endpoints.get(source) {
            Some(endpoint) if source + 1 < self.endpoints.len() && !endpoint.has_failed() => {
                endpoint.give_up();
                true
            }
            _ => false,
        }
    }

    async fn has_blob(&self, digest: &Digest) -> Result<bool, RegistryError> {
        let what = format!("blob {digest} of {}", self.repository());
        let endpoint = self.target()?;
        let url = endpoint.url(&self.context, &self.path(&format!("blobs/{digest}")))?;
        let ask = Ask { what: &what, method: Method::HEAD, url, headers: Vec::new(), body: Body::None, scope: None };
        let response = endpoint.ask(&self.context, &ask, &[StatusCode::OK, StatusCode::NOT_FOUND]).await?;
        Ok(response.status() == StatusCode::OK)
    }

    async fn mount_blob(&self, digest: &Digest, from: &str) -> Result<bool, RegistryError> {
        upload::mount(&self.context, self.target()?, digest, from).await
    }

    async fn push_blob(
        &self,
        blob: &Descriptor,
        pieces: &(dyn Fn() -> BoxStream<'static, io::Result<Bytes>> + Send + Sync),
    ) -> Result<(), RegistryError> {
        upload::blob(&self.context, self.target()?, blob, pieces).await
    }

    async fn push_document(&self, version: &Version, media_type: &str, bytes: Bytes) -> Result<(), RegistryError> {
        let what = format!("to take {} of {}", version.as_str(), self.repository());
        let endpoint = self.target()?;
        let content_type = HeaderValue::from_str(media_type).map_err(|_| RegistryError::Protocol {
            host: self.host().to_owned(),
            what: what.clone(),
            cause: format!("{media_type:?} cannot be a media type"),
        })?;
        let ask = Ask {
            what: &what,
            method: Method::PUT,
            url: endpoint.url(&self.context, &self.path(&format!("manifests/{}", version.as_str())))?,
            headers: vec![(CONTENT_TYPE, content_type)],
            body: Body::Bytes(bytes),
            scope: None,
        };
        // The same document under the same name: sending it twice does no harm.
        let fine = [StatusCode::CREATED, StatusCode::OK, StatusCode::ACCEPTED, StatusCode::NO_CONTENT];
        endpoint.ask(&self.context, &ask, &fine).await.map(drop)
    }
}

/// Whether a document is the one that was asked for.
fn is_wanted(version: &Version, fetched: &Fetched) -> bool {
    let Version::Digest(digest) = version else { return true };
    let mut hasher = Hasher::new(digest.algorithm());
    hasher.update(&fetched.bytes);
    hasher.finish() == *digest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::document::media_type;

    #[test]
    fn documents_that_can_be_read_are_asked_for() {
        for wanted in
            [media_type::OCI_INDEX, media_type::OCI_MANIFEST, media_type::DOCKER_INDEX, media_type::DOCKER_MANIFEST]
        {
            assert!(ACCEPTED.split(", ").any(|accepted| accepted == wanted), "{wanted}");
        }
    }

    #[test]
    fn parts_are_asked_for_as_ranges() {
        let header =
            |offset, length| Part { offset, length }.header().map(|(_, value)| value.to_str().unwrap().to_owned());
        assert_eq!(header(0, None), None);
        assert_eq!(header(7, None).as_deref(), Some("bytes=7-"));
        assert_eq!(header(0, Some(10)).as_deref(), Some("bytes=0-9"));
    }
}
