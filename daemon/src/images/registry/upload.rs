//! Blobs into a registry: taken over from another repository, in one piece, or in chunks where one piece is too much.
//!
//! The usual host is served by `oci-client`. It carries no client certificates, headers or paths, so hosts of which the configuration
//! says such things are served by the requests here, which are the same ones. Whichever it is, a stream that breaks is
//! sent anew from its beginning.

use std::io;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use model::{Descriptor, Digest};
use oci_distribution::client::{ClientConfig, ClientProtocol};
use oci_distribution::errors::OciDistributionError;
use oci_distribution::token_cache::{RegistryToken, RegistryTokenType};
use oci_distribution::{Client, Reference as OciReference, RegistryOperation};
use proto::bytes::{Bytes, BytesMut};
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION};
use reqwest::{Method, Response, StatusCode, Url};

use super::client::Context;
use super::endpoint::{Ask, Body, Endpoint, Known};
use super::scheme::Scheme;
use super::{RegistryError, error};

/// How often a blob is sent.
const TRIES: u32 = 4;

/// The first pause between tries.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// How large a chunk is, in bytes.
const CHUNK_BYTES: usize = 4 << 20;

/// Makes the bytes of a blob, each time anew.
type Pieces<'a> = &'a (dyn Fn() -> BoxStream<'static, io::Result<Bytes>> + Send + Sync);

/// How a blob is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Whole,
    Chunks,
}

/// Asks the host to take a blob over from another repository; whether it did.
pub(super) async fn mount(
    context: &Context,
    endpoint: &Endpoint,
    digest: &Digest,
    from: &str,
) -> Result<bool, RegistryError> {
    let what = format!("blob {digest} of {from}");
    let mut url = endpoint.url(context, &format!("{}/blobs/uploads/", context.reference.path()))?;
    url.query_pairs_mut().append_pair("mount", digest.as_str()).append_pair("from", from);
    let scope = Some(format!("repository:{from}:pull"));
    let ask = Ask { what: &what, method: Method::POST, url, headers: Vec::new(), body: Body::None, scope };
    match endpoint.send(context, &ask).await {
        Ok(response) if response.status() == StatusCode::CREATED => Ok(true),
        // It began an upload instead, or refuses, as registries do that cannot or may not mount. The blob is sent then.
        Ok(response) => {
            tracing::debug!(what, status = response.status().as_u16(), "not mounted");
            Ok(false)
        }
        Err(error) => {
            tracing::debug!(what, %error, "not mounted");
            Ok(false)
        }
    }
}

/// Sends a blob.
pub(super) async fn blob(
    context: &Context,
    endpoint: &Endpoint,
    blob: &Descriptor,
    pieces: Pieces<'_>,
) -> Result<(), RegistryError> {
    let what = format!("to take blob {} of {}", blob.digest, context.reference.path());
    let plain = endpoint.host.is_plain() && !context.trace.is_on();
    let (mut form, mut pause) = (Form::Whole, FIRST_PAUSE);
    let mut at = 1;
    loop {
        // Passwords are not taken along by the client that streams.
        let usual = plain && !matches!(endpoint.known().await, Known::Basic(..));
        let sent = match usual {
            true => by_client(context, endpoint, &what, blob, pieces, form).await,
            false => by_requests(context, endpoint, &what, blob, pieces, form).await,
        };
        let Err(error) = sent else { return Ok(()) };
        if form == Form::Whole && wants_chunks(&error) {
            form = Form::Chunks;
            continue;
        }
        if at >= TRIES || !(error.is_transient() || matches!(error, RegistryError::Denied { status: 401, .. })) {
            return Err(error);
        }
        if matches!(error, RegistryError::Denied { .. }) && !log_in(context, endpoint, &what).await? {
            return Err(error);
        }
        tracing::debug!(host = endpoint.name, %error, "sending again");
        tokio::time::sleep(error.retry_after().unwrap_or(pause)).await;
        (pause, at) = (pause * 2, at + 1);
    }
}

/// Whether the host may take the same in smaller pieces.
fn wants_chunks(error: &RegistryError) -> bool {
    matches!(error, RegistryError::Status { status: 400 | 405 | 411 | 413 | 415 | 501, .. })
}

/// Looks whether we are known, and makes us known if not; whether we are then.
async fn log_in(context: &Context, endpoint: &Endpoint, what: &str) -> Result<bool, RegistryError> {
    let url = endpoint.url(context, "")?;
    let ask = Ask { what, method: Method::GET, url, headers: Vec::new(), body: Body::None, scope: None };
    Ok(endpoint.send(context, &ask).await?.status() != StatusCode::UNAUTHORIZED)
}

/// Sends a blob by `oci-client`.
async fn by_client(
    context: &Context,
    endpoint: &Endpoint,
    what: &str,
    blob: &Descriptor,
    pieces: Pieces<'_>,
    form: Form,
) -> Result<(), RegistryError> {
    let failed = |source| RegistryError::oci(&endpoint.name, what.to_owned(), source);
    let client = client(context, endpoint, form)?;
    // Built from parts: its own parser costs megabytes.
    let path = context.reference.path().to_owned();
    let repository = OciReference::with_tag(endpoint.host.address.clone(), path, "latest".to_owned());
    let token = match endpoint.known().await {
        Known::Nobody => None,
        Known::Basic(user, password) => Some(RegistryTokenType::Basic(user, password.expose().to_owned())),
        Known::Bearer(token) => {
            Some(RegistryTokenType::Bearer(RegistryToken::Token { token: token.expose().to_owned() }))
        }
    };
    if let Some(token) = token {
        client.tokens.insert(&repository, RegistryOperation::Push, token).await;
    }
    let pieces = pieces().map(|piece| piece.map_err(OciDistributionError::from));
    let sent = client.push_blob_stream(&repository, pieces, blob.digest.as_str(), Some(blob.size)).await;
    sent.map(drop).map_err(failed)
}

fn client(context: &Context, endpoint: &Endpoint, form: Form) -> Result<Client, RegistryError> {
    // Nothing on this machine is behind a proxy: one that is never to be used keeps those of the environment out.
    let local = Scheme::for_host(&endpoint.host.address) == Scheme::Http;
    let (http_proxy, no_proxy) =
        if local { (Some("http://localhost"), Some("localhost,127.0.0.0/8,::1")) } else { (None, None) };
    let config = ClientConfig {
        protocol: match endpoint.host.scheme {
            Scheme::Http => ClientProtocol::Http,
            Scheme::Https => ClientProtocol::Https,
        },
        platform_resolver: None,
        use_monolithic_push: form == Form::Whole,
        connect_timeout: Some(endpoint.host.dial_time),
        read_timeout: Some(context.patience.silence),
        http_proxy: http_proxy.map(str::to_owned),
        https_proxy: http_proxy.map(str::to_owned),
        no_proxy: no_proxy.map(str::to_owned),
        ..ClientConfig::default()
    };
    Client::try_from(config)
        .map_err(|source| RegistryError::Setup { host: endpoint.name.clone(), cause: error::causes(&source) })
}

/// Sends a blob by the requests of the OCI distribution specification.
async fn by_requests(
    context: &Context,
    endpoint: &Endpoint,
    what: &str,
    blob: &Descriptor,
    pieces: Pieces<'_>,
    form: Form,
) -> Result<(), RegistryError> {
    let upload = Upload { context, endpoint, what };
    let begin = endpoint.url(context, &format!("{}/blobs/uploads/", context.reference.path()))?;
    let accepted = upload.send(Method::POST, begin.clone(), Vec::new(), Body::None, StatusCode::ACCEPTED).await?;
    let mut location = upload.location(&begin, &accepted)?;
    let kind = (CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    let body = if form == Form::Whole {
        Body::Stream(blob.size, pieces)
    } else {
        location = upload.chunks(location, pieces(), &kind).await?;
        Body::None
    };
    location.query_pairs_mut().append_pair("digest", blob.digest.as_str());
    upload.send(Method::PUT, location, vec![kind], body, StatusCode::CREATED).await?;
    Ok(())
}

struct Upload<'a> {
    context: &'a Context,
    endpoint: &'a Endpoint,
    what: &'a str,
}

impl Upload<'_> {
    async fn send(
        &self,
        method: Method,
        url: Url,
        headers: Vec<(HeaderName, HeaderValue)>,
        body: Body<'_>,
        wanted: StatusCode,
    ) -> Result<Response, RegistryError> {
        let ask = Ask { what: self.what, method, url, headers, body, scope: None };
        let response = self.endpoint.send(self.context, &ask).await?;
        if response.status() == wanted {
            return Ok(response);
        }
        Err(self.endpoint.refusal(self.what, response).await)
    }

    /// Where the upload goes on.
    fn location(&self, from: &Url, response: &Response) -> Result<Url, RegistryError> {
        let location = response.headers().get(LOCATION).and_then(|value| from.join(value.to_str().ok()?).ok());
        location.ok_or_else(|| RegistryError::Protocol {
            host: self.endpoint.name.clone(),
            what: self.what.to_owned(),
            cause: "it does not say where to send the blob".to_owned(),
        })
    }

    /// Sends all in chunks; where the upload goes on then.
    async fn chunks(
        &self,
        mut location: Url,
        mut pieces: BoxStream<'static, io::Result<Bytes>>,
        kind: &(HeaderName, HeaderValue),
    ) -> Result<Url, RegistryError> {
        let (mut chunk, mut at, mut more) = (BytesMut::new(), 0_u64, true);
        while more {
            match pieces.next().await {
                Some(Ok(piece)) => chunk.extend_from_slice(&piece),
                Some(Err(source)) => {
                    return Err(RegistryError::interrupted(&self.endpoint.name, self.what.to_owned(), &source));
                }
                None => more = false,
            }
            while chunk.len() >= CHUNK_BYTES || (!more && !chunk.is_empty()) {
                let bytes = chunk.split_to(chunk.len().min(CHUNK_BYTES)).freeze();
                let end = at + bytes.len() as u64;
                let range = HeaderValue::from_str(&format!("{at}-{}", end - 1)).expect("digits can be sent");
                let headers = vec![kind.clone(), (CONTENT_RANGE, range)];
                let body = Body::Bytes(bytes);
                let answer = self.send(Method::PATCH, location.clone(), headers, body, StatusCode::ACCEPTED).await?;
                location = self.location(&location, &answer)?;
                at = end;
            }
        }
        Ok(location)
    }
}
