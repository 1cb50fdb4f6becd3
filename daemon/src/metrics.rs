//! Figures for Prometheus, and what a person looks at when something is odd: `/v1/metrics` on a TCP address, `/debug/vars` on a
//! unix socket. Both are off unless they have an address.
//!
//! Requests are counted where all of them pass; everything else is read when somebody asks, and costs nothing before.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Code;
use tracing::{debug, info, warn};

use crate::app::State;

/// The type of an answer in Prometheus' text form.
const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How long one connection may take to send the head of a request.
const HEAD_TIME: Duration = Duration::from_secs(10);

/// The largest head of a request, in bytes.
const MAX_HEAD_BYTES: usize = 16 << 10;

/// Most methods that are told apart; a client can make up names without end.
const MAX_METHODS: usize = 512;

/// Which method.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Method {
    grpc_service: String,
    grpc_method: String,
}

/// Which method, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Handled {
    grpc_service: String,
    grpc_method: String,
    grpc_code: String,
}

/// How many requests there were, how they ended and how long they took. Clones share the figures.
#[derive(Clone)]
pub struct Requests {
    started: Family<Method, Counter>,
    handled: Family<Handled, Counter>,
    seconds: Family<Method, Histogram, fn() -> Histogram>,
    known: std::sync::Arc<std::sync::Mutex<std::collections::HashSet<String>>>,
}

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Requests")
    }
}

/// From a tenth of a millisecond to about a hundred seconds.
fn buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.000_1, 4.0, 11))
}

impl Default for Requests {
    fn default() -> Self {
        Self::new()
    }
}

impl Requests {
    /// None yet.
    pub fn new() -> Self {
        let seconds = Family::new_with_constructor(buckets as fn() -> Histogram);
        Self { started: Family::default(), handled: Family::default(), seconds, known: std::sync::Arc::default() }
    }

    /// One begins; `path` is `/service/method`.
    pub fn begin(&self, path: &str) {
        self.started.get_or_create(&self.method(path)).inc();
    }

    /// It ended so, after that time.
    pub fn end(&self, path: &str, code: Code, took: Duration) {
        let method = self.method(path);
        let Method { grpc_service, grpc_method } = method.clone();
        let handled = Handled { grpc_service, grpc_method, grpc_code: format!("{code:?}") };
        self.handled.get_or_create(&handled).inc();
        self.seconds.get_or_create(&method).observe(took.as_secs_f64());
    }

    fn method(&self, path: &str) -> Method {
        let mut known = self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let is_known = known.contains(path) || (known.len() < MAX_METHODS && known.insert(path.to_owned()));
        let path = if is_known { path } else { "/other/other" };
        let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or((path, ""));
        Method { grpc_service: service.to_owned(), grpc_method: method.to_owned() }
    }

    fn register(&self, registry: &mut Registry, with_times: bool) {
        registry.register("grpc_server_started", "Requests that have begun", self.started.clone());
        registry.register("grpc_server_handled", "Requests that have ended, by code", self.handled.clone());
        if with_times {
            registry.register("grpc_server_handling_seconds", "How long requests took", self.seconds.clone());
        }
    }
}

/// All figures of a daemon, in Prometheus' text form.
pub fn text(state: &State, with_times: bool) -> String {
    let mut registry = Registry::default();
    state.requests().register(&mut registry, with_times);
    for (name, help, value) in state.figures() {
        let gauge = Gauge::<f64, AtomicU64>::default();
        gauge.set(value);
        registry.register(name, help, gauge);
    }
    let mut text = String::new();
    if encode(&mut text, &registry).is_err() {
        warn!("figures cannot be written");
    }
    text
}

/// Serves the figures on a TCP address until `stop`.
///
/// # Errors
/// The address cannot be had.
pub async fn serve(
    address: SocketAddr,
    with_times: bool,
    state: State,
    tracker: &TaskTracker,
    stop: CancellationToken,
) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    info!(%address, "serving metrics");
    let connections = tracker.clone();
    tracker.spawn(async move {
        while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
            let Ok((stream, _)) = accepted else { continue };
            let state = state.clone();
            let answer = move |request: Request<Incoming>| match request.uri().path() {
                "/v1/metrics" | "/metrics" => answer(StatusCode::OK, TEXT, text(&state, with_times)),
                _ => answer(StatusCode::NOT_FOUND, "text/plain", "there is only /v1/metrics\n".to_owned()),
            };
            connections.spawn(stop.clone().run_until_cancelled_owned(connection(stream, answer)));
        }
    });
    Ok(address)
}

/// Serves what a person may look at on a unix socket until `stop`.
///
/// # Errors
/// The runtime cannot use the socket.
pub fn serve_debug(
    listener: std::os::unix::net::UnixListener,
    state: State,
    tracker: &TaskTracker,
    stop: CancellationToken,
) -> io::Result<()> {
    let listener = UnixListener::from_std(listener)?;
    let connections = tracker.clone();
    tracker.spawn(async move {
        while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
            let Ok((stream, _)) = accepted else { continue };
            let state = state.clone();
            let answer = move |request: Request<Incoming>| match request.uri().path() {
                "/debug/vars" => answer(StatusCode::OK, "application/json", vars(&state).to_string()),
                path if path.starts_with("/debug/pprof") => {
                    let text = "there are no Go profiles of a Rust program; see /debug/vars\n".to_owned();
                    answer(StatusCode::NOT_IMPLEMENTED, "text/plain", text)
                }
                _ => answer(StatusCode::NOT_FOUND, "text/plain", "there is only /debug/vars\n".to_owned()),
            };
            connections.spawn(stop.clone().run_until_cancelled_owned(connection(stream, answer)));
        }
    });
    Ok(())
}

fn vars(state: &State) -> Value {
    let figures = state.figures().into_iter().map(|(name, _, value)| (name.to_owned(), Value::from(value)));
    Value::Object(figures.collect())
}

fn answer(status: StatusCode, kind: &'static str, text: String) -> Response<String> {
    let mut response = Response::new(text);
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: impl Fn(Request<Incoming>) -> Response<String>,
) {
    let service = service_fn(|request| std::future::ready(Ok::<_, Infallible>(answer(request))));
    let served = hyper::server::conn::http1::Builder::new()
        .max_buf_size(MAX_HEAD_BYTES)
        .timer(hyper_util::rt::TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        debug!(%error, "a request for figures was cut short");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_method_and_code() {
        let requests = Requests::new();
        requests.begin("/a.B/C");
        requests.end("/a.B/C", Code::NotFound, Duration::from_millis(3));
        for number in 0..2 * MAX_METHODS {
            requests.begin(&format!("/made.Up/{number}"));
        }
        let mut registry = Registry::default();
        requests.register(&mut registry, true);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "grpc_server_started_total{grpc_service=\"a.B\",grpc_method=\"C\"} 1",
            "grpc_server_handled_total{grpc_service=\"a.B\",grpc_method=\"C\",grpc_code=\"NotFound\"} 1",
            "grpc_server_handling_seconds_count{grpc_service=\"a.B\",grpc_method=\"C\"} 1",
            "grpc_service=\"other\"",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(text.lines().count() < 2 * MAX_METHODS);
    }
}
