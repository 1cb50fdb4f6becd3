//! One host over HTTP: requests, redirects, credentials, patience.
//!
//! ```text
//!   request as we are known ──► 401? log in, once ──► the same again
//!        │                                               │
//!        ├── redirect: to another host without anything that is ours
//!        └── busy or broken: again after a pause, if asking twice does no harm
//! ```
//!
//! Credentials, the headers of the configuration and our certificates go to the host they are for, and nowhere else. What comes back
//! is bounded where it is read; nothing of it is believed here.

use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use futures_util::stream::BoxStream;
use oci_distribution::secrets::RegistryAuth;
use proto::bytes::Bytes;
use reqwest::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER,
    WWW_AUTHENTICATE,
};
use reqwest::{Method, Response, StatusCode, Url, redirect};
use tokio::sync::Mutex;

use super::auth::{Credentials, Secret};
use super::challenge::{self, TokenService};
use super::client::{Context, Purpose};
use super::hosts::Host;
use super::scheme::Scheme;
use super::{RegistryError, error};

/// How many redirects are followed.
const MAX_REDIRECTS: usize = 10;

/// How often the same is asked where that does no harm.
const TRIES: u32 = 4;

/// How often a mirror is asked: there is somebody else to ask.
const MIRROR_TRIES: u32 = 2;

/// The first pause between tries; each is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// The longest a host may ask us to wait; then it is told that it is busy.
pub(crate) const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// How much of the body of a refusal is read, in bytes.
const MAX_REFUSAL_BYTES: usize = 64 * 1024;

/// The largest file with certificates, in bytes.
const MAX_CERTIFICATES_BYTES: u64 = 1 << 20;

/// What programs tell registries about themselves.
const USER_AGENT: &str = concat!("gantry/", env!("CARGO_PKG_VERSION"));

/// How we are known at a host by now.
#[derive(Clone, Default)]
pub(super) enum Known {
    /// Nobody asked.
    #[default]
    Nobody,
    /// By name and password.
    Basic(String, Secret),
    /// By a token.
    Bearer(Secret),
}

/// How we are known, and how often that has changed: of several who are refused at once, one has to do something about it.
#[derive(Clone, Default)]
struct Login {
    known: Known,
    number: u64,
}

/// What is sent.
pub(super) enum Body<'a> {
    None,
    Bytes(Bytes),
    /// So many bytes, made anew for each try.
    Stream(u64, &'a (dyn Fn() -> BoxStream<'static, std::io::Result<Bytes>> + Send + Sync)),
}

/// A request.
pub(super) struct Ask<'a> {
    pub(super) what: &'a str,
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) body: Body<'a>,
    /// What else than our repository a token has to allow.
    pub(super) scope: Option<String>,
}

/// One host.
pub(super) struct Endpoint {
    pub(super) host: Host,
    /// What messages call it.
    pub(super) name: String,
    /// For the host.
    http: reqwest::Client,
    /// For where it sends us.
    elsewhere: reqwest::Client,
    headers: HeaderMap,
    login: Mutex<Login>,
    /// Whether it is of no use for the rest of the transfer.
    failed: AtomicBool,
}

impl Endpoint {
    /// Reads certificates; blocks.
    pub(super) fn new(context: &Context, host: Host) -> Result<Self, RegistryError> {
        use_ring();
        let name = match host.is_mirror {
            true => format!("{} (mirror of {})", host.address, context.reference.host()),
            false => context.reference.host().to_owned(),
        };
        let setup = |cause: String| RegistryError::Setup { host: name.clone(), cause };
        let mut headers = HeaderMap::new();
        for (key, value) in &host.headers {
            let key: HeaderName = key.parse().map_err(|_| setup(format!("{key:?} cannot be the name of a header")))?;
            let mut value =
                HeaderValue::from_str(value).map_err(|_| setup(format!("the value of header {key} cannot be sent")))?;
            // It may be a token.
            value.set_sensitive(true);
            headers.append(key, value);
        }
        // Nothing on this machine is behind a proxy.
        let local = Scheme::for_host(&host.address) == Scheme::Http;
        let builder = || {
            let builder = reqwest::Client::builder()
                .connect_timeout(host.dial_time)
                .read_timeout(context.patience.silence)
                .redirect(redirect::Policy::none())
                .user_agent(USER_AGENT);
            if local { builder.no_proxy() } else { builder }
        };
        let mut authorities = Vec::new();
        for file in &host.tls.authorities {
            let found = reqwest::Certificate::from_pem_bundle(&pem(file).map_err(&setup)?);
            let found = found.map_err(|error| setup(format!("{}: {}", file.display(), error::causes(&error))))?;
            if found.is_empty() {
                return Err(setup(format!("{} has no certificate", file.display())));
            }
            authorities.extend(found);
        }
        let trusting = |builder: reqwest::ClientBuilder| {
            let builder = builder.tls_danger_accept_invalid_certs(host.tls.skip_verify);
            if authorities.is_empty() { builder } else { builder.tls_certs_merge(authorities.iter().cloned()) }
        };
        let build = |builder: reqwest::ClientBuilder| builder.build().map_err(|source| setup(error::causes(&source)));
        let elsewhere = build(trusting(builder()))?;
        let http = match host.tls.identities.first() {
            None => elsewhere.clone(),
            Some((certificate, key)) => {
                let mut both = pem(certificate).map_err(&setup)?;
                if let Some(key) = key {
                    both.push(b'\n');
                    both.extend(pem(key).map_err(&setup)?);
                }
                let identity = reqwest::Identity::from_pem(&both)
                    .map_err(|error| setup(format!("{}: {}", certificate.display(), error::causes(&error))))?;
                build(trusting(builder()).identity(identity))?
            }
        };
        for (unused, _) in host.tls.identities.iter().skip(1) {
            tracing::warn!(host = name, certificate = %unused.display(), "only the first client certificate is used");
        }
        Ok(Self { host, name, http, elsewhere, headers, login: Mutex::default(), failed: AtomicBool::new(false) })
    }

    /// The address of something of the registry's interface, `rest` without a slash at the beginning.
    pub(super) fn url(&self, context: &Context, rest: &str) -> Result<Url, RegistryError> {
        let text = format!("{}://{}{}/{rest}", self.host.scheme.as_str(), self.host.address, self.host.path);
        let mut url = Url::parse(&text).map_err(|error| RegistryError::Setup {
            host: self.name.clone(),
            cause: format!("{text:?} is no address: {error}"),
        })?;
        if self.host.is_mirror {
            url.query_pairs_mut().append_pair("ns", context.reference.host());
        }
        Ok(url)
    }

    /// Whether it is of no use for the rest of the transfer.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// It is of no use for the rest of the transfer.
    pub(super) fn give_up(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    /// Sends a request, and once more with credentials if the host wants to know who asks.
    pub(super) async fn send(&self, context: &Context, ask: &Ask<'_>) -> Result<Response, RegistryError> {
        let login = self.login.lock().await.clone();
        let response = self.follow(context, ask, &login.known).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let known = self.log_in(context, ask.what, response.headers(), login.number, ask.scope.as_deref()).await?;
        self.follow(context, ask, &known).await
    }

    /// The same, again and again while it may help; what it says in the end has one of the `wanted` statuses.
    pub(super) async fn ask(
        &self,
        context: &Context,
        ask: &Ask<'_>,
        wanted: &[StatusCode],
    ) -> Result<Response, RegistryError> {
        let tries = if self.host.is_mirror { MIRROR_TRIES } else { TRIES };
        let mut pause = FIRST_PAUSE;
        let mut at = 1;
        loop {
            let error = match self.send(context, ask).await {
                Ok(response) if wanted.contains(&response.status()) => return Ok(response),
                Ok(response) => self.refusal(ask.what, response).await,
                Err(error) => error,
            };
            if at >= tries || !error.is_transient() {
                return Err(error);
            }
            let wait = error.retry_after().unwrap_or(pause);
            tracing::debug!(host = self.name, %error, "asking again");
            tokio::time::sleep(wait).await;
            (pause, at) = (pause * 2, at + 1);
        }
    }

    /// What an answer that is not wanted says.
    pub(super) async fn refusal(&self, what: &str, response: Response) -> RegistryError {
        let (status, after) = (response.status().as_u16(), retry_after(response.headers()));
        let body = read_body(response, MAX_REFUSAL_BYTES).await.unwrap_or_default().unwrap_or_default();
        RegistryError::answer(&self.name, what.to_owned(), status, &body).after(after)
    }

    /// Sends a request to where it leads in the end.
    async fn follow(&self, context: &Context, ask: &Ask<'_>, known: &Known) -> Result<Response, RegistryError> {
        let protocol =
            |cause: String| RegistryError::Protocol { host: self.name.clone(), what: ask.what.to_owned(), cause };
        let mut url = ask.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.once(context, ask, url.clone(), known).await?;
            let status = response.status();
            let moved = match status.as_u16() {
                307 | 308 => true,
                301..=303 => ask.method == Method::GET || ask.method == Method::HEAD,
                _ => false,
            };
            let target = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let Some(target) = target.filter(|_| moved) else { return Ok(response) };
            let next = url.join(target).map_err(|_| protocol("it redirects to what is no address".to_owned()))?;
            if !matches!(next.scheme(), "http" | "https") || (url.scheme() == "https" && next.scheme() == "http") {
                return Err(protocol(format!("it redirects to {}, without encryption", next.scheme())));
            }
            url = next;
        }
        Err(protocol(format!("it redirects more than {MAX_REDIRECTS} times")))
    }

    async fn once(&self, context: &Context, ask: &Ask<'_>, url: Url, known: &Known) -> Result<Response, RegistryError> {
        let ours = self.is_ours(&url);
        let http = if ours { &self.http } else { &self.elsewhere };
        let mut request = http.request(ask.method.clone(), url.clone());
        let mut headers: HeaderMap = ask.headers.iter().cloned().collect();
        if ours {
            headers.extend(self.headers.clone());
            request = match known {
                Known::Nobody => request,
                // A header of the configuration counts more.
                _ if headers.contains_key(AUTHORIZATION) => request,
                Known::Basic(user, password) => request.basic_auth(user, Some(password.expose())),
                Known::Bearer(token) => request.bearer_auth(token.expose()),
            };
        }
        let number = context.trace.request(&ask.method, &url, &headers);
        request = request.headers(headers);
        request = match &ask.body {
            Body::None if ask.method == Method::POST || ask.method == Method::PUT => request.header(CONTENT_LENGTH, 0),
            Body::None => request,
            Body::Bytes(bytes) => request.body(bytes.clone()),
            Body::Stream(size, stream) => {
                request.header(CONTENT_LENGTH, *size).body(reqwest::Body::wrap_stream(stream()))
            }
        };
        let begun = Instant::now();
        match request.send().await {
            Ok(response) => {
                context.trace.answer(number, &response, begun.elapsed());
                warnings(&self.name, response.headers());
                Ok(response)
            }
            Err(source) => {
                let error = RegistryError::http(&self.name, ask.what.to_owned(), source);
                context.trace.failed(number, &error.to_string());
                Err(error)
            }
        }
    }

    /// Whether an address is at this host.
    fn is_ours(&self, url: &Url) -> bool {
        let own = format!("{}://{}", self.host.scheme.as_str(), self.host.address);
        Url::parse(&own).is_ok_and(|own| own.origin() == url.origin())
    }

    /// Answers the challenges of the host, unless somebody did since login `seen`.
    async fn log_in(
        &self,
        context: &Context,
        what: &str,
        headers: &HeaderMap,
        seen: u64,
        scope: Option<&str>,
    ) -> Result<Known, RegistryError> {
        let challenges: Vec<String> = headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok().map(str::to_owned))
            .collect();
        let refused = |why: String| RegistryError::Credentials { host: self.name.clone(), why };
        // One at a time: whoever waited here finds what the other one found out.
        let mut login = self.login.lock().await;
        if login.number != seen {
            return Ok(login.known.clone());
        }
        let asked = context.asker.ask(&self.host.address, &context.reference.to_string(), &challenges).await;
        let credentials = match asked.map_err(|source| refused(error::causes(&source)))? {
            // What the caller has counts more than what is configured.
            Credentials::Anonymous => self.host.credentials.clone().unwrap_or(Credentials::Anonymous),
            credentials => credentials,
        };
        let service = challenge::token_services(&challenges).into_iter().next();
        let credentials = match credentials {
            Credentials::Header(value) => match challenge::from_header(&value) {
                Some(RegistryAuth::Basic(user, password)) => {
                    Credentials::Password { user, password: Secret::new(password) }
                }
                Some(RegistryAuth::Bearer(token)) => {
                    login.number += 1;
                    login.known = Known::Bearer(Secret::new(token));
                    return Ok(login.known.clone());
                }
                _ => {
                    let why = "an Authorization header must be of the scheme Basic or Bearer";
                    return Err(refused(why.to_owned()));
                }
            },
            credentials => credentials,
        };
        let known = match (credentials, service) {
            (Credentials::Refresh(_), None) => return Err(refused("it takes no refresh token".to_owned())),
            (Credentials::Password { user, password }, None) => Known::Basic(user, password),
            (_, None) => Known::Nobody,
            (credentials, Some(service)) => {
                Known::Bearer(self.token(context, what, &service, &credentials, scope).await?)
            }
        };
        login.number += 1;
        login.known = known;
        Ok(login.known.clone())
    }

    /// Gets a token: with nothing or a password by asking for it, with a refresh token by exchanging it (OAuth2).
    async fn token(
        &self,
        context: &Context,
        what: &str,
        service: &TokenService,
        credentials: &Credentials,
        scope: Option<&str>,
    ) -> Result<Secret, RegistryError> {
        let refused = |why: String| RegistryError::Credentials { host: self.name.clone(), why };
        let mut url = Url::parse(&service.realm)
            .map_err(|_| refused(format!("its token service {:?} is no address", error::clean(&service.realm))))?;
        if !matches!(credentials, Credentials::Anonymous) {
            self.check_realm(&url)?;
        }
        let actions = if context.purpose == Purpose::Push { "pull,push" } else { "pull" };
        let own = format!("repository:{}:{actions}", context.reference.path());
        let scopes: Vec<&str> = std::iter::once(own.as_str()).chain(scope).collect();
        let http = if self.is_ours(&url) { &self.http } else { &self.elsewhere };
        let request = if let Credentials::Refresh(refresh) = credentials {
            let scopes = scopes.join(" ");
            let mut form = vec![
                ("grant_type", "refresh_token"),
                ("client_id", "gantry"),
                ("refresh_token", refresh.expose()),
                ("scope", &scopes),
            ];
            form.extend(service.service.iter().map(|name| ("service", name.as_str())));
            // An address only to write the form as addresses have it.
            let form = Url::parse_with_params("http://localhost", form).ok();
            let form = form.and_then(|url| url.query().map(str::to_owned)).unwrap_or_default();
            http.post(url).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form)
        } else {
            {
                let mut query = url.query_pairs_mut();
                for scope in scopes {
                    query.append_pair("scope", scope);
                }
                if let Some(name) = &service.service {
                    query.append_pair("service", name);
                }
            }
            match credentials {
                Credentials::Password { user, password } => http.get(url).basic_auth(user, Some(password.expose())),
                _ => http.get(url),
            }
        };
        let asked = format!("a token for {what}");
        let response = request.send().await.map_err(|source| RegistryError::http(&self.name, asked.clone(), source))?;
        if !response.status().is_success() {
            return Err(self.refusal(&asked, response).await);
        }
        let body = read_body(response, MAX_REFUSAL_BYTES).await.unwrap_or_default().unwrap_or_default();
        challenge::token(&body).ok_or_else(|| refused("its token service sends no token".to_owned()))
    }

    /// A password goes over an encrypted connection to the token service if it does to the host.
    fn check_realm(&self, realm: &Url) -> Result<(), RegistryError> {
        if self.host.scheme == Scheme::Http || realm.scheme() == "https" {
            return Ok(());
        }
        let mut shown = realm.clone();
        shown.set_query(None);
        Err(RegistryError::Credentials {
            host: self.name.clone(),
            why: format!("its token service {:?} is not reached by https", error::clean(shown.as_str())),
        })
    }

    /// How we are known by now.
    pub(super) async fn known(&self) -> Known {
        self.login.lock().await.known.clone()
    }
}

/// The body of an answer; `None` if it has more than `limit` bytes.
pub(super) async fn read_body(mut response: Response, limit: usize) -> Result<Option<Vec<u8>>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await? {
        if body.len() + piece.len() > limit {
            return Ok(None);
        }
        body.extend_from_slice(&piece);
    }
    Ok(Some(body))
}

/// How long the host asks us to wait.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = httpdate::parse_http_date(text).ok()?;
    Some(until.duration_since(SystemTime::now()).unwrap_or_default())
}

/// What the registry wants people to know, into the log.
fn warnings(host: &str, headers: &HeaderMap) {
    for value in headers.get_all("warning").iter().filter_map(|value| value.to_str().ok()).take(4) {
        // As registries write it: 299 - "words".
        if let Some(words) = value.strip_prefix("299 - ") {
            tracing::warn!(host, words = error::clean(words.trim_matches('"')), "the registry warns");
        }
    }
}

/// A file with certificates or a key.
fn pem(file: &Path) -> Result<Vec<u8>, String> {
    let read = || {
        let size = std::fs::metadata(file)?.len();
        if size > MAX_CERTIFICATES_BYTES {
            return Err(std::io::Error::other(format!("it has {size} bytes")));
        }
        std::fs::read(file)
    };
    read().map_err(|error| format!("cannot read {}: {error}", file.display()))
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
    use crate::images::registry::auth::Asker;
    use crate::images::registry::client::Patience;
    use crate::images::registry::trace::Trace;

    fn context() -> Context {
        Context {
            reference: "r.example/a:t".parse().unwrap(),
            purpose: Purpose::Pull,
            asker: Asker::default(),
            patience: Patience::default(),
            trace: Trace::off(),
        }
    }

    #[test]
    fn a_token_service_in_plain_text_gets_no_password() {
        let endpoint = |scheme| Endpoint::new(&context(), Host::itself("r.example", Some(scheme))).unwrap();
        let realm = |text: &str| Url::parse(text).unwrap();
        assert!(endpoint(Scheme::Https).check_realm(&realm("https://t.example/token")).is_ok());
        assert!(endpoint(Scheme::Https).check_realm(&realm("http://t.example/token")).is_err());
        assert!(endpoint(Scheme::Http).check_realm(&realm("http://t.example/token")).is_ok());
    }

    #[test]
    fn a_mirror_hears_for_whom_it_stands() {
        let mut host = Host::itself("m.example:5000", Some(Scheme::Https));
        (host.is_mirror, host.path) = (true, "/cache/v2".to_owned());
        let endpoint = Endpoint::new(&context(), host).unwrap();
        let url = endpoint.url(&context(), "a/manifests/t").unwrap();
        assert_eq!(url.as_str(), "https://m.example:5000/cache/v2/a/manifests/t?ns=r.example");
        assert!(endpoint.name.contains("m.example:5000") && endpoint.name.contains("r.example"));
    }

    #[test]
    fn what_is_ours_has_scheme_name_and_port_of_the_host() {
        let endpoint = Endpoint::new(&context(), Host::itself("r.example", Some(Scheme::Https))).unwrap();
        for (url, ours) in [
            ("https://r.example/x", true),
            ("https://r.example:443/x", true),
            ("https://r.example:444/x", false),
            ("http://r.example/x", false),
            ("https://r.example.evil/x", false),
        ] {
            assert_eq!(endpoint.is_ours(&Url::parse(url).unwrap()), ours, "{url}");
        }
    }

    #[test]
    fn waiting_is_read_in_two_forms() {
        let after = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_static(text));
            retry_after(&headers)
        };
        assert_eq!(after("7"), Some(Duration::from_secs(7)));
        assert_eq!(after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert_eq!(after("soon"), None);
    }
}
