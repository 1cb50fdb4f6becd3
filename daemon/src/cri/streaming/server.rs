//! The HTTP server: takes a connection, finds the request of its token, and upgrades it to what the client speaks.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::session::{Backend, Session};
use super::tokens::{Tokens, TooMany};
use super::{forward, remote, spdy, websocket};

/// Connections at one time; a session is one.
const MAX_CONNECTIONS: usize = 4096;
/// How long a client may take to send its request, or to agree on TLS.
const GREETING: Duration = Duration::from_secs(30);
/// The longest head of a request.
const MAX_HEAD: usize = 32 << 10;
/// How long to wait before the next try when a connection cannot be accepted, for want of descriptors for one.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// Versions that the client can choose from, or has chosen.
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// Versions that the client could have chosen from.
const ACCEPTED_PROTOCOLS: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");
const SPDY: &str = "SPDY/3.1";

/// How the server is set up.
pub struct Settings {
    /// TLS, if clients are to use it.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// A session through which nothing passes for so long is ended.
    pub idle: Duration,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings").field("tls", &self.tls.is_some()).field("idle", &self.idle).finish()
    }
}

/// The streaming server, as the rest of the CRI sees it.
#[derive(Clone)]
pub struct Server {
    inner: Arc<Inner>,
}

struct Inner {
    tokens: Tokens,
    address: SocketAddr,
    settings: Settings,
    backend: Arc<dyn Backend>,
    tracker: TaskTracker,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("address", &self.inner.address)
            .field("settings", &self.inner.settings)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// Serves `listener` in the background, on `tracker`, until `stop`; sessions under way go on until the process ends.
    ///
    /// # Errors
    /// The listener has no address.
    pub fn start(
        listener: TcpListener,
        settings: Settings,
        backend: Arc<dyn Backend>,
        tracker: TaskTracker,
        stop: CancellationToken,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let inner = Inner { tokens: Tokens::default(), address, settings, backend, tracker: tracker.clone() };
        let server = Self { inner: Arc::new(inner) };
        let serving = server.clone();
        tracker.spawn(async move { stop.run_until_cancelled(serving.accept(listener)).await });
        Ok(server)
    }

    /// The address to which the client of a checked request is sent; it is good once, for a minute.
    ///
    /// # Errors
    /// [`TooMany`] requests wait for their clients.
    pub fn url(&self, session: Session) -> Result<String, TooMany> {
        let scheme = if self.inner.settings.tls.is_some() { "https" } else { "http" };
        let verb = session.verb();
        let token = self.inner.tokens.give(session, Instant::now())?;
        Ok(format!("{scheme}://{}/{verb}/{token}", self.inner.address))
    }

    async fn accept(self, listener: TcpListener) {
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(place) = room.clone().acquire_owned().await else { return };
            let socket = match listener.accept().await {
                Ok((socket, _)) => socket,
                Err(error) => {
                    warn!(error = %error, "cannot accept a streaming connection");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                    continue;
                }
            };
            // Keystrokes are small, and somebody waits for each.
            drop(socket.set_nodelay(true));
            let server = self.clone();
            self.inner.tracker.spawn(async move {
                match server.inner.settings.tls.clone() {
                    None => server.connection(socket).await,
                    Some(tls) => match timeout(GREETING, TlsAcceptor::from(tls).accept(socket)).await {
                        Ok(Ok(stream)) => server.connection(stream).await,
                        Ok(Err(error)) => debug!(error = %error, "no TLS with a streaming client"),
                        Err(_) => debug!("a streaming client took too long over TLS"),
                    },
                }
                drop(place);
            });
        }
    }

    async fn connection<I: AsyncRead + AsyncWrite + Send + Unpin + 'static>(self, io: I) {
        // The session runs here, so that it counts as this connection until its end.
        let (start, started) = tokio::sync::oneshot::channel();
        let start = std::sync::Mutex::new(Some(start));
        let service = hyper::service::service_fn(|mut request: Request<Incoming>| {
            let upgrade = hyper::upgrade::on(&mut request);
            let (response, begun) = self.answer(&request);
            if let Some(begun) = begun
                && let Some(start) = start.lock().expect("nobody panics with it held").take()
            {
                drop(start.send((upgrade, begun)));
            }
            std::future::ready(Ok::<_, Infallible>(response))
        });
        let served = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(GREETING)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(io), service)
            .with_upgrades()
            .await;
        if let Err(error) = served {
            debug!(error = %error, "streaming request ended");
        }
        drop(start);
        if let Ok((upgrade, begun)) = started.await {
            self.run(upgrade, begun).await;
        }
    }

    /// The answer to a request, and what begins with it if it is an upgrade.
    fn answer(&self, request: &Request<Incoming>) -> (Response<String>, Option<Begun>) {
        if request.method() != Method::GET && request.method() != Method::POST {
            return (plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and POST are served here"), None);
        }
        let mut path = request.uri().path().trim_start_matches('/').split('/');
        let (Some(verb), Some(token), None) = (path.next(), path.next(), path.next()) else {
            return (plain(StatusCode::NOT_FOUND, "there is nothing here"), None);
        };
        let Some(session) = self.inner.tokens.take(verb, token, Instant::now()) else {
            return (
                plain(StatusCode::NOT_FOUND, "no such request: its token is unknown, was used, or has expired"),
                None,
            );
        };
        match upgrade(request.headers(), session) {
            Ok((response, begun)) => (response, Some(begun)),
            Err(response) => (response, None),
        }
    }

    async fn run(&self, upgrade: OnUpgrade, begun: Begun) {
        let io = match upgrade.await {
            Ok(io) => TokioIo::new(io),
            Err(error) => return debug!(error = %error, "streaming connection was not upgraded"),
        };
        let Inner { settings, backend, tracker, .. } = &*self.inner;
        let Begun { spdy, protocol, session } = begun;
        let protocol = protocol.as_deref();
        let io = if spdy {
            spdy::Connection::new(io, settings.idle, tracker)
        } else {
            let socket = websocket::accept(io).await;
            match session {
                Session::Forward { .. } if protocol == Some(websocket::TUNNEL) => {
                    spdy::Connection::new(websocket::tunnel(socket, tracker), settings.idle, tracker)
                }
                Session::Forward { pod, ports } => {
                    let target = (pod, ports);
                    return websocket::serve_forward(socket, target, protocol, backend.clone(), settings.idle, tracker)
                        .await;
                }
                session => {
                    return websocket::serve_remote(socket, session, protocol, &**backend, settings.idle, tracker)
                        .await;
                }
            }
        };
        match session {
            Session::Forward { pod, .. } => forward::serve(io, pod, backend.clone(), tracker).await,
            session => remote::serve(io, session, protocol, &**backend, tracker).await,
        }
    }
}

/// What a connection becomes.
struct Begun {
    spdy: bool,
    protocol: Option<String>,
    session: Session,
}

/// Agrees on what is spoken.
#[expect(clippy::result_large_err, reason = "the refusal is an answer, made once a connection")]
fn upgrade(headers: &HeaderMap, session: Session) -> Result<(Response<String>, Begun), Response<String>> {
    let forward = matches!(session, Session::Forward { .. });
    let asked = words(headers, &UPGRADE);
    let has = |wanted: &str| asked.iter().any(|name| name.eq_ignore_ascii_case(wanted));
    let mut response = plain(StatusCode::SWITCHING_PROTOCOLS, "");
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    if has(SPDY) {
        let known: &[&str] = if forward { &[forward::PROTOCOL] } else { &remote::PROTOCOLS };
        let protocol = choose(&words(headers, &STREAM_PROTOCOL), known).map_err(|why| {
            let mut response = plain(StatusCode::FORBIDDEN, &why);
            for name in known {
                response.headers_mut().append(ACCEPTED_PROTOCOLS, HeaderValue::from_static(name));
            }
            response
        })?;
        response.headers_mut().insert(UPGRADE, HeaderValue::from_static(SPDY));
        if let Some(name) = protocol {
            response.headers_mut().insert(STREAM_PROTOCOL, HeaderValue::from_static(name));
        }
        return Ok((response, Begun { spdy: true, protocol: protocol.map(str::to_owned), session }));
    }
    if !has("websocket") {
        return Err(plain(StatusCode::BAD_REQUEST, "an upgrade to SPDY/3.1 or to a WebSocket is needed here"));
    }
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        let mut response = plain(StatusCode::UPGRADE_REQUIRED, "only version 13 of the WebSocket protocol is spoken");
        response.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        return Err(response);
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).ok_or_else(|| plain(StatusCode::BAD_REQUEST, "no Sec-WebSocket-Key"))?;
    let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes())).expect("base64 is a header value");
    let known: &[&str] = if forward { &websocket::FORWARD_PROTOCOLS } else { &websocket::PROTOCOLS };
    let protocol =
        choose(&words(headers, &SEC_WEBSOCKET_PROTOCOL), known).map_err(|why| plain(StatusCode::FORBIDDEN, &why))?;
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
    response.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(name) = protocol {
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
    }
    Ok((response, Begun { spdy: false, protocol: protocol.map(str::to_owned), session }))
}

/// The first name that the client offers and that is known; none if it offers none, which means the oldest.
fn choose(offered: &[&str], known: &[&'static str]) -> Result<Option<&'static str>, String> {
    if offered.is_empty() {
        return Ok(None);
    }
    let found = offered.iter().find_map(|name| known.iter().find(|known| *known == name));
    found.map(|name| Some(*name)).ok_or_else(|| format!("none of the protocols {offered:?} is served, only {known:?}"))
}

/// The words of a header that may come several times, and have several words each time.
fn words<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|word| !word.is_empty()).collect()
}

fn plain(status: StatusCode, text: &str) -> Response<String> {
    let mut response = Response::new(text.to_owned());
    *response.status_mut() = status;
    response
}
