//! One repository over HTTP.
//!
//! Blobs, uploads and tokens go by `oci-client`; documents are asked for here, because what the registry says they are (the
//! `Content-Type`) and how large they may be has to be seen. Both go to the same host with the same credentials.
//!
//! A request goes out as anybody; when the registry challenges that, the client is asked who we are, once, and the request is sent
//! again. Credentials go to the host they were asked for and to the token service it names, never over plain HTTP unless the
//! registry itself is spoken to so. On a redirect to another host they are left behind.

use std::io;
use std::sync::OnceLock;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use model::reference::Reference;
use model::{Descriptor, Digest};
use oci_distribution::client::{BlobResponse, ClientConfig, ClientProtocol};
use oci_distribution::errors::OciDistributionError;
use oci_distribution::secrets::RegistryAuth;
use oci_distribution::{Client, Reference as OciReference, RegistryOperation};
use proto::bytes::Bytes;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{RequestBuilder, Response, StatusCode, Url};
use tokio::sync::Mutex;

use super::auth::{Asker, Credentials, Secret};
use super::challenge::{self, TokenService};
use super::scheme::Scheme;
use super::{Fetched, Incoming, Registry, RegistryError, Version, error};
use crate::images::document::MAX_DOCUMENT_BYTES;

/// How long a connection may take to be made.
const CONNECT_TIME: Duration = Duration::from_secs(30);

/// How long a registry may send nothing.
const SILENCE: Duration = Duration::from_secs(60);

/// How much of the body of a refusal is read, in bytes.
const MAX_REFUSAL_BYTES: usize = 64 * 1024;

/// What programs tell registries about themselves.
const USER_AGENT: &str = concat!("gantry/", env!("CARGO_PKG_VERSION"));

/// The documents that can be read, the better liked first.
const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, */*";

/// How we are known at the registry by now.
#[derive(Clone, Default)]
enum Known {
    /// Nobody asked.
    #[default]
    Nobody,
    /// By name and password.
    Basic(String, Secret),
    /// By a token.
    Bearer(Secret),
}

/// One repository of a registry, over HTTP.
pub struct Remote {
    reference: Reference,
    /// The host that is spoken to.
    address: String,
    scheme: Scheme,
    operation: RegistryOperation,
    oci: Client,
    http: reqwest::Client,
    asker: Asker,
    login: Mutex<Login>,
}

/// How we are known, and how often that has changed: of several who are refused at once, one has to do something about it.
#[derive(Clone, Default)]
struct Login {
    known: Known,
    number: u64,
}

/// What a transfer is going to do at a registry, which it has to say when it asks for a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Read.
    Pull,
    /// Read and write.
    Push,
}

impl Remote {
    /// The repository that `reference` is in. Without a scheme the host decides.
    ///
    /// # Errors
    /// No HTTP client can be made.
    pub fn new(
        reference: Reference,
        scheme: Option<Scheme>,
        purpose: Purpose,
        asker: Asker,
    ) -> Result<Self, RegistryError> {
        use_ring();
        let setup = |cause: String| RegistryError::Setup { cause };
        let scheme = scheme.unwrap_or_else(|| Scheme::for_host(reference.host()));
        let address = match reference.host() {
            "docker.io" => "registry-1.docker.io".to_owned(),
            host => host.to_owned(),
        };
        // Nothing on this machine is behind a proxy: one that is never to be used keeps those of the environment out.
        let local = Scheme::for_host(&address) == Scheme::Http;
        let (http_proxy, no_proxy) =
            if local { (Some("http://localhost"), Some("localhost,127.0.0.0/8,::1")) } else { (None, None) };
        let config = ClientConfig {
            protocol: match scheme {
                Scheme::Http => ClientProtocol::Http,
                Scheme::Https => ClientProtocol::Https,
            },
            platform_resolver: None,
            use_monolithic_push: true,
            connect_timeout: Some(CONNECT_TIME),
            read_timeout: Some(SILENCE),
            user_agent: USER_AGENT,
            http_proxy: http_proxy.map(str::to_owned),
            no_proxy: no_proxy.map(str::to_owned),
            ..ClientConfig::default()
        };
        let oci = Client::try_from(config).map_err(|source| setup(error::causes(&source)))?;
        let http =
            reqwest::Client::builder().connect_timeout(CONNECT_TIME).read_timeout(SILENCE).user_agent(USER_AGENT);
        let http = if local { http.no_proxy() } else { http };
        let http = http.build().map_err(|source| setup(error::causes(&source)))?;
        let operation = match purpose {
            Purpose::Pull => RegistryOperation::Pull,
            Purpose::Push => RegistryOperation::Push,
        };
        Ok(Self { reference, address, scheme, operation, oci, http, asker, login: Mutex::default() })
    }

    /// How the registry client wants to be told of the repository. Built from parts: its own parser costs megabytes.
    fn repository_reference(&self) -> OciReference {
        OciReference::with_tag(self.address.clone(), self.reference.path().to_owned(), "latest".to_owned())
    }

    fn url(&self, rest: &str) -> String {
        format!("{}://{}/v2/{rest}", self.scheme.as_str(), self.address)
    }

    fn failed<'a>(&'a self, what: &'a str) -> impl Fn(OciDistributionError) -> RegistryError + 'a {
        move |source| RegistryError::oci(self.host(), what.to_owned(), source)
    }

    /// Sends a request, and once more with credentials if the registry wants to know who asks.
    async fn send(&self, what: &str, request: impl Fn() -> RequestBuilder) -> Result<Response, RegistryError> {
        let login = self.login.lock().await.clone();
        let response = self.send_as(what, request(), &login.known).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let known = self.log_in(what, response.headers(), login.number).await?;
        self.send_as(what, request(), &known).await
    }

    async fn send_as(&self, what: &str, request: RequestBuilder, known: &Known) -> Result<Response, RegistryError> {
        let request = match known {
            Known::Nobody => request,
            Known::Basic(user, password) => request.basic_auth(user, Some(password.expose())),
            Known::Bearer(token) => request.bearer_auth(token.expose()),
        };
        request.send().await.map_err(|source| RegistryError::http(self.host(), what.to_owned(), source))
    }

    /// Answers the challenges of the registry, unless somebody did since login `seen`.
    async fn log_in(&self, what: &str, headers: &HeaderMap, seen: u64) -> Result<Known, RegistryError> {
        let challenges: Vec<String> = headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok().map(str::to_owned))
            .collect();
        let refused = |why: String| RegistryError::Credentials { host: self.host().to_owned(), why };
        // One at a time: whoever waited here finds what the other one found out.
        let mut login = self.login.lock().await;
        if login.number != seen {
            return Ok(login.known.clone());
        }
        let credentials = self.asker.ask(&self.address, &self.reference.to_string(), &challenges).await;
        let credentials = credentials.map_err(|source| refused(error::causes(&source)))?;
        let auth = match credentials {
            Credentials::Anonymous => RegistryAuth::Anonymous,
            Credentials::Password { user, password } => {
                self.check_realm(&challenges)?;
                RegistryAuth::Basic(user, password.expose().to_owned())
            }
            Credentials::Refresh(token) => {
                self.check_realm(&challenges)?;
                let token = self.exchange(what, &challenges, &token).await?;
                RegistryAuth::Bearer(token.expose().to_owned())
            }
            Credentials::Header(value) => challenge::from_header(&value)
                .ok_or_else(|| refused("an Authorization header must be of the scheme Basic or Bearer".to_owned()))?,
        };
        let repository = self.repository_reference();
        let token = self.oci.auth(&repository, &auth, self.operation).await.map_err(self.failed(what))?;
        if self.operation == RegistryOperation::Push {
            // Looking whether a blob is there asks for the token of a pull; ours allows both.
            if let Some(token) = &token {
                use oci_distribution::token_cache::{RegistryToken, RegistryTokenType};
                let token = RegistryTokenType::Bearer(RegistryToken::Token { token: token.clone() });
                self.oci.tokens.insert(&repository, RegistryOperation::Pull, token).await;
            }
        }
        login.number += 1;
        login.known = match (token, auth) {
            (Some(token), _) => Known::Bearer(Secret::new(token)),
            (None, RegistryAuth::Basic(user, password)) => Known::Basic(user, Secret::new(password)),
            (None, _) => Known::Nobody,
        };
        Ok(login.known.clone())
    }

    /// Exchanges a refresh token for one that the registry takes.
    async fn exchange(&self, what: &str, challenges: &[String], refresh: &Secret) -> Result<Secret, RegistryError> {
        let refused = |why: String| RegistryError::Credentials { host: self.host().to_owned(), why };
        let service = challenge::token_services(challenges).into_iter().next();
        let service = service.ok_or_else(|| refused("it takes no refresh token".to_owned()))?;
        let actions = if self.operation == RegistryOperation::Push { "pull,push" } else { "pull" };
        let scope = format!("repository:{}:{actions}", self.reference.path());
        let mut form = vec![
            ("grant_type", "refresh_token"),
            ("client_id", "gantry"),
            ("refresh_token", refresh.expose()),
            ("scope", &scope),
        ];
        form.extend(service.service.iter().map(|name| ("service", name.as_str())));
        // An address only to write the form as addresses have it.
        let form = Url::parse_with_params("http://localhost", form).ok();
        let form = form.and_then(|url| url.query().map(str::to_owned)).unwrap_or_default();
        let request =
            self.http.post(&service.realm).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form);
        let response = self.send_as(what, request, &Known::Nobody).await?;
        let status = response.status();
        let body = read_body(response, MAX_REFUSAL_BYTES).await.unwrap_or_default().unwrap_or_default();
        if !status.is_success() {
            return Err(RegistryError::answer(self.host(), what.to_owned(), status.as_u16(), &body));
        }
        challenge::token(&body).ok_or_else(|| refused("its token service sends no token".to_owned()))
    }

    /// A password goes over an encrypted connection to the token service if it does to the registry.
    fn check_realm(&self, challenges: &[String]) -> Result<(), RegistryError> {
        if self.scheme == Scheme::Http {
            return Ok(());
        }
        for TokenService { realm, .. } in challenge::token_services(challenges) {
            if !realm.starts_with("https://") {
                return Err(RegistryError::Credentials {
                    host: self.host().to_owned(),
                    why: format!("its token service {:?} is not reached by https", error::clean(&realm)),
                });
            }
        }
        Ok(())
    }

    /// Makes sure that the registry client has what the registry wants, after it was refused.
    async fn log_in_again(&self, what: &str, seen: u64) -> Result<(), RegistryError> {
        if self.logins().await != seen {
            return Ok(());
        }
        let response = self.send_as(what, self.http.get(self.url("")), &Known::Nobody).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            self.log_in(what, response.headers(), seen).await?;
        }
        Ok(())
    }

    /// Whether what the registry client was refused is worth another try: it has new credentials then.
    async fn again(&self, what: &str, seen: u64, error: Option<&OciDistributionError>) -> Result<bool, RegistryError> {
        if !error.is_some_and(is_unauthorized) {
            return Ok(false);
        }
        self.log_in_again(what, seen).await?;
        Ok(true)
    }

    async fn logins(&self) -> u64 {
        self.login.lock().await.number
    }
}

impl Registry for Remote {
    fn host(&self) -> &str {
        self.reference.host()
    }

    fn repository(&self) -> &str {
        self.reference.path()
    }

    async fn document(&self, version: &Version) -> Result<Fetched, RegistryError> {
        let what = format!("{} of {}", version.as_str(), self.reference.path());
        let url = self.url(&format!("{}/manifests/{}", self.reference.path(), version.as_str()));
        let response = self.send(&what, || self.http.get(&url).header(ACCEPT, ACCEPTED)).await?;
        let status = response.status();
        if status != StatusCode::OK {
            let body = read_body(response, MAX_REFUSAL_BYTES).await.unwrap_or_default().unwrap_or_default();
            return Err(RegistryError::answer(self.host(), what, status.as_u16(), &body));
        }
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let content_type = header(CONTENT_TYPE.as_str()).unwrap_or_default();
        let media_type = content_type.split(';').next().unwrap_or_default().trim().to_owned();
        let claimed = header("docker-content-digest").and_then(|digest| digest.parse().ok());
        match read_body(response, MAX_DOCUMENT_BYTES).await {
            Ok(Some(bytes)) => Ok(Fetched { bytes: bytes.into(), media_type, claimed }),
            Ok(None) => Err(RegistryError::TooLarge { host: self.host().to_owned(), what, limit: MAX_DOCUMENT_BYTES }),
            Err(source) => Err(RegistryError::http(self.host(), what, source)),
        }
    }

    async fn blob(&self, blob: &Descriptor, offset: u64) -> Result<Incoming, RegistryError> {
        let what = format!("blob {} of {}", blob.digest, self.reference.path());
        let (repository, seen) = (self.repository_reference(), self.logins().await);
        let digest = blob.digest.as_str();
        // A part, even if it is all of it: then only we hash it, and once.
        if blob.size > 0 {
            let mut answer = self.oci.pull_blob_stream_partial(&repository, digest, offset, None).await;
            if self.again(&what, seen, answer.as_ref().err()).await? {
                answer = self.oci.pull_blob_stream_partial(&repository, digest, offset, None).await;
            }
            return Ok(match answer.map_err(self.failed(&what))? {
                BlobResponse::Full(stream) => Incoming { offset: 0, pieces: stream.stream },
                BlobResponse::Partial(stream) => Incoming { offset, pieces: stream.stream },
            });
        }
        let mut answer = self.oci.pull_blob_stream(&repository, digest).await;
        if self.again(&what, seen, answer.as_ref().err()).await? {
            answer = self.oci.pull_blob_stream(&repository, digest).await;
        }
        Ok(Incoming { offset: 0, pieces: answer.map_err(self.failed(&what))?.stream })
    }

    async fn has_blob(&self, digest: &Digest) -> Result<bool, RegistryError> {
        let what = format!("blob {digest} of {}", self.reference.path());
        let (repository, seen) = (self.repository_reference(), self.logins().await);
        let mut answer = self.oci.blob_exists(&repository, digest.as_str()).await;
        if self.again(&what, seen, answer.as_ref().err()).await? {
            answer = self.oci.blob_exists(&repository, digest.as_str()).await;
        }
        answer.map_err(self.failed(&what))
    }

    async fn mount_blob(&self, digest: &Digest, from: &str) -> Result<bool, RegistryError> {
        let what = format!("blob {digest} of {from}");
        let target = self.repository_reference();
        let source = OciReference::with_tag(self.address.clone(), from.to_owned(), "latest".to_owned());
        match self.oci.mount_blob(&target, &source, digest.as_str()).await {
            Ok(()) => Ok(true),
            // It began an upload instead, or refuses, as registries do that cannot or may not mount. The blob is sent then.
            Err(error) => {
                tracing::debug!(what, error = %RegistryError::oci(self.host(), what.clone(), error), "not mounted");
                Ok(false)
            }
        }
    }

    async fn push_blob(
        &self,
        blob: &Descriptor,
        pieces: BoxStream<'static, io::Result<Bytes>>,
    ) -> Result<(), RegistryError> {
        let what = format!("to take blob {} of {}", blob.digest, self.reference.path());
        let repository = self.repository_reference();
        let pieces = pieces.map(|piece| piece.map_err(OciDistributionError::from));
        let pushed = self.oci.push_blob_stream(&repository, pieces, blob.digest.as_str(), Some(blob.size)).await;
        pushed.map_err(self.failed(&what))?;
        Ok(())
    }

    async fn push_document(&self, version: &Version, media_type: &str, bytes: Bytes) -> Result<(), RegistryError> {
        let what = format!("to take {} of {}", version.as_str(), self.reference.path());
        let url = self.url(&format!("{}/manifests/{}", self.reference.path(), version.as_str()));
        let content_type = HeaderValue::from_str(media_type).map_err(|_| RegistryError::Protocol {
            host: self.host().to_owned(),
            what: what.clone(),
            cause: format!("{media_type:?} cannot be a media type"),
        })?;
        let request = || self.http.put(&url).header(CONTENT_TYPE, content_type.clone()).body(bytes.clone());
        let response = self.send(&what, request).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let body = read_body(response, MAX_REFUSAL_BYTES).await.unwrap_or_default().unwrap_or_default();
        Err(RegistryError::answer(self.host(), what, status.as_u16(), &body))
    }
}

/// The body of an answer; `None` if it has more than `limit` bytes.
async fn read_body(mut response: Response, limit: usize) -> Result<Option<Vec<u8>>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await? {
        if body.len() + piece.len() > limit {
            return Ok(None);
        }
        body.extend_from_slice(&piece);
    }
    Ok(Some(body))
}

fn is_unauthorized(error: &OciDistributionError) -> bool {
    match error {
        OciDistributionError::UnauthorizedError { .. } => true,
        OciDistributionError::ServerError { code, .. } => *code == 401,
        OciDistributionError::RequestError(error) => error.status() == Some(StatusCode::UNAUTHORIZED),
        _ => false,
    }
}

/// Chooses the cryptography of TLS, once for the process.
fn use_ring() {
    static CHOSEN: OnceLock<()> = OnceLock::new();
    CHOSEN.get_or_init(|| {
        // Somebody else's choice is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
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
    fn a_token_service_in_plain_text_gets_no_password() {
        let remote = |scheme| {
            let reference = "r.example/a:t".parse().unwrap();
            Remote::new(reference, Some(scheme), Purpose::Pull, Asker::default()).unwrap()
        };
        let challenge = |realm: &str| vec![format!(r#"Bearer realm="{realm}",service="s""#)];
        assert!(remote(Scheme::Https).check_realm(&challenge("https://t.example/token")).is_ok());
        assert!(remote(Scheme::Https).check_realm(&challenge("http://t.example/token")).is_err());
        assert!(remote(Scheme::Http).check_realm(&challenge("http://t.example/token")).is_ok());
        assert!(remote(Scheme::Https).check_realm(&["Basic realm=\"x\"".to_owned()]).is_ok());
    }

    #[test]
    fn secrets_are_not_printed() {
        let shown = format!("{:?}", Credentials::Password { user: "u".into(), password: Secret::new("hunter2") });
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
