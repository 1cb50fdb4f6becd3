//! What every request passes: one span with method, namespace, id and duration; its failure logged once, here.
//!
//! A request ends when its last byte of answer was taken, when its caller went away, or when it failed; the three are told
//! apart. How many are in flight is counted, so that a drain knows what it waits for. It must not change a request or an answer,
//! but for one thing: what nobody serves is named, since the router says only that it is not there.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Frame, SizeHint};
use proto::bytes::Bytes;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::{Span, debug, error, info_span, warn};

use super::call::NAMESPACE_KEY;
use crate::metrics::Requests;

/// Counts the requests and gives each its id. Clones share the counts.
#[derive(Debug, Clone, Default)]
pub struct Traffic {
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    begun: AtomicU64,
    requests: Requests,
    in_flight: AtomicUsize,
}

impl Traffic {
    /// Requests that have begun and not ended.
    pub fn in_flight(&self) -> usize {
        self.counts.in_flight.load(Ordering::Relaxed)
    }

    /// The figures about each method.
    pub fn requests(&self) -> Requests {
        self.counts.requests.clone()
    }

    /// Requests that have begun since the start.
    pub fn begun(&self) -> u64 {
        self.counts.begun.load(Ordering::Relaxed)
    }
}

impl<S> Layer<S> for Traffic {
    type Service = Traced<S>;

    fn layer(&self, inner: S) -> Traced<S> {
        Traced { inner, traffic: self.clone() }
    }
}

/// A service whose requests are traced.
#[derive(Debug, Clone)]
pub struct Traced<S> {
    inner: S,
    traffic: Traffic,
}

impl<S> Service<Request<Body>> for Traced<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Answering<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let journey = Journey::begin(&self.traffic, &request);
        let inner = journey.span.in_scope(|| self.inner.call(request));
        Answering { inner: Box::pin(inner), journey: Some(journey) }
    }
}

/// One request from its first byte to its last.
struct Journey {
    span: Span,
    path: String,
    counts: Arc<Counts>,
    began: Instant,
    ended: bool,
}

impl Journey {
    fn begin(traffic: &Traffic, request: &Request<Body>) -> Self {
        let counts = Arc::clone(&traffic.counts);
        let id = counts.begun.fetch_add(1, Ordering::Relaxed) + 1;
        counts.in_flight.fetch_add(1, Ordering::Relaxed);
        counts.requests.begin(request.uri().path());
        let method = short(request.uri().path());
        let ns = request.headers().get(NAMESPACE_KEY).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let span = info_span!("request", method, ns, id);
        Self { span, path: request.uri().path().to_owned(), counts, began: Instant::now(), ended: false }
    }

    /// Logs how the request ended, by the words of its severity: a broken machine is an error, foreign trouble a warning, and
    /// what clients ask in vain every day no more than a step.
    fn end(&mut self, status: Option<&Status>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let took = self.began.elapsed();
        self.counts.requests.end(&self.path, status.map_or(Code::Ok, Status::code), took);
        self.span.in_scope(|| match status {
            None => debug!(?took, "request done"),
            Some(status) => {
                let (code, error) = (status.code(), status.message());
                match code {
                    Code::Internal | Code::DataLoss => error!(?took, ?code, error, "request failed"),
                    Code::Unknown | Code::ResourceExhausted => warn!(?took, ?code, error, "request failed"),
                    _ => debug!(?took, ?code, error, "request failed"),
                }
            }
        });
    }
}

impl Drop for Journey {
    fn drop(&mut self) {
        self.counts.in_flight.fetch_sub(1, Ordering::Relaxed);
        if !self.ended {
            let took = self.began.elapsed();
            self.counts.requests.end(&self.path, Code::Cancelled, took);
            self.span.in_scope(|| debug!(?took, "request abandoned by its caller"));
        }
    }
}

/// The method without the words that all methods share: `tasks.v1.Tasks/Create`.
fn short(path: &str) -> &str {
    let path = path.strip_prefix('/').unwrap_or(path);
    path.strip_prefix("containerd.services.").unwrap_or(path)
}

/// Waits for the head of the answer.
pub struct Answering<F> {
    // Boxed, so that nothing here needs to be pinned by hand.
    inner: Pin<Box<F>>,
    journey: Option<Journey>,
}

impl<F, E> Future for Answering<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let _entered = this.journey.as_ref().map(|journey| journey.span.clone().entered());
        let mut response = ready!(this.inner.as_mut().poll(context))?;
        let journey = this.journey.take();
        Poll::Ready(Ok(match journey {
            Some(mut journey) => {
                name_unserved(&journey.path, response.headers_mut());
                // A failure before the first message is in the headers.
                if let Some(status) = failure(response.headers()) {
                    journey.end(Some(&status));
                }
                response.map(|inner| Body::new(Answer { inner, journey }))
            }
            None => response,
        }))
    }
}

/// The body of an answer, watched until its trailers.
struct Answer {
    inner: Body,
    journey: Journey,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let _entered = this.journey.span.clone().entered();
        let frame = ready!(Pin::new(&mut this.inner).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    this.journey.end(failure(trailers).as_ref());
                }
            }
            Some(Err(status)) => this.journey.end(Some(status)),
            None => this.journey.end(None),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Puts a text where the router left none.
fn name_unserved(path: &str, headers: &mut HeaderMap) {
    let bare = headers.get("grpc-status").is_some_and(|code| code.as_bytes() == b"12")
        && headers.get("grpc-message").is_none_or(HeaderValue::is_empty);
    if bare && let Some((service, method)) = path.trim_start_matches('/').split_once('/')
        // A path that cannot be a header is nothing a client would miss.
        && let Ok(text) = HeaderValue::from_str(&format!("unknown method {method} for service {service}"))
    {
        headers.insert("grpc-message", text);
    }
}

fn failure(headers: &HeaderMap) -> Option<Status> {
    Status::from_header_map(headers).filter(|status| status.code() != Code::Ok)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[test]
    fn methods_are_logged_without_the_words_they_share() {
        assert_eq!(short("/containerd.services.tasks.v1.Tasks/Create"), "tasks.v1.Tasks/Create");
        assert_eq!(short("/grpc.health.v1.Health/Check"), "grpc.health.v1.Health/Check");
    }

    /// A body that never ends.
    struct Endless;

    impl http_body::Body for Endless {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn a_request_is_in_flight_until_its_body_is_dropped() {
        let traffic = Traffic::default();
        let mut service = traffic
            .layer(tower::service_fn(async |_: Request<Body>| Ok::<_, Infallible>(Response::new(Body::new(Endless)))));
        let response = service.call(Request::new(Body::empty())).await.unwrap();
        assert_eq!((traffic.begun(), traffic.in_flight()), (1, 1));
        drop(response);
        assert_eq!(traffic.in_flight(), 0);
        drop(service.call(Request::new(Body::empty())));
        assert_eq!((traffic.begun(), traffic.in_flight()), (2, 0));
    }
}
