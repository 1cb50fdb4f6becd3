//! What every method does around its own work: read the scope of the request, call, map the failure.
//!
//! This is the only place where a failure becomes a [`tonic::Status`]; which code a kind has is said in [`proto::status`].
//! It must not know any service.

use std::pin::Pin;

use futures_util::{Stream, StreamExt};
use model::Namespace;
use model::error::{Classify, Kind};
use model::id::IdError;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

/// The metadata key that names the namespace.
pub const NAMESPACE_KEY: &str = "containerd-namespace";

/// The metadata key that names the lease that holds what the request makes.
pub const LEASE_KEY: &str = "containerd-lease";

/// For whom a request works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// The namespace; all names in the request are in it.
    pub namespace: Namespace,
    /// The lease that holds what the request makes, not yet known to exist. Not an identifier: real ones hold `:`.
    pub lease: Option<String>,
}

/// A failed call: what the caller may do about it, and the whole text for the wire.
///
/// Every error that classifies itself becomes one by `?`, so that a method may fail in several ways.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    kind: Kind,
    message: String,
}

impl Failure {
    /// What the caller may do about it.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The text for the wire.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl<E: Classify> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { kind: error.kind(), message: error.wire_message() }
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        Self::new(proto::status::grpc_code(failure.kind), failure.message)
    }
}

/// Why a request has no usable scope.
#[derive(Debug, thiserror::Error)]
pub enum ScopeError {
    /// No namespace in the metadata.
    #[error("namespace is required")]
    Missing,
    /// The namespace breaks the identifier rule.
    #[error("namespace validation")]
    Malformed(#[source] IdError),
    /// A value of the metadata is not text.
    #[error("metadata {key} is not printable text")]
    NotText {
        /// The key.
        key: &'static str,
    },
}

impl Classify for ScopeError {
    fn kind(&self) -> Kind {
        match self {
            Self::Missing => Kind::FailedPrecondition,
            Self::Malformed(_) | Self::NotText { .. } => Kind::InvalidArgument,
        }
    }
}

/// Reads the scope from the metadata of a request; of several values the first counts.
///
/// # Errors
/// No namespace, or one that breaks the identifier rule.
pub fn scope_of(metadata: &MetadataMap) -> Result<Scope, ScopeError> {
    let namespace = text(metadata, NAMESPACE_KEY)?.ok_or(ScopeError::Missing)?;
    let namespace = Namespace::new(namespace).map_err(ScopeError::Malformed)?;
    let lease = text(metadata, LEASE_KEY)?.map(str::to_owned);
    Ok(Scope { namespace, lease })
}

/// The first value of `key`; an empty one counts as none.
fn text<'a>(metadata: &'a MetadataMap, key: &'static str) -> Result<Option<&'a str>, ScopeError> {
    let Some(value) = metadata.get(key) else { return Ok(None) };
    let value = value.to_str().map_err(|_| ScopeError::NotText { key })?;
    Ok(Some(value).filter(|value| !value.is_empty()))
}

/// Answers a request of a namespace with one message.
///
/// # Errors
/// The request has no scope, or `work` failed.
pub async fn unary<Q, A>(
    request: Request<Q>,
    work: impl AsyncFnOnce(Scope, Q) -> Result<A, Failure>,
) -> Result<Response<A>, Status> {
    let (metadata, _, message) = request.into_parts();
    let scope = scope_of(&metadata).map_err(Failure::from)?;
    Ok(Response::new(work(scope, message).await?))
}

/// Answers a request that needs no namespace with one message.
///
/// # Errors
/// `work` failed.
pub async fn unscoped<Q, A>(
    request: Request<Q>,
    work: impl AsyncFnOnce(Q) -> Result<A, Failure>,
) -> Result<Response<A>, Status> {
    Ok(Response::new(work(request.into_inner()).await?))
}

/// A stream of answers as tonic takes it.
pub type Reply<A> = Pin<Box<dyn Stream<Item = Result<A, Status>> + Send>>;

/// Answers a request of a namespace with a stream.
///
/// # Errors
/// The request has no scope, or `work` failed before the stream began.
pub async fn server_stream<Q, A, S>(
    request: Request<Q>,
    work: impl AsyncFnOnce(Scope, Q) -> Result<S, Failure>,
) -> Result<Response<Reply<A>>, Status>
where
    S: Stream<Item = Result<A, Failure>> + Send + 'static,
{
    let (metadata, _, message) = request.into_parts();
    let scope = scope_of(&metadata).map_err(Failure::from)?;
    Ok(Response::new(reply(work(scope, message).await?)))
}

/// Answers a stream of requests of a namespace with a stream. A failure of the client's side reaches `work` as a `Status`.
///
/// # Errors
/// The request has no scope, or `work` failed before the answers began.
pub async fn bidirectional<Q, A, S>(
    request: Request<Streaming<Q>>,
    work: impl AsyncFnOnce(Scope, Streaming<Q>) -> Result<S, Failure>,
) -> Result<Response<Reply<A>>, Status>
where
    S: Stream<Item = Result<A, Failure>> + Send + 'static,
{
    let (metadata, _, messages) = request.into_parts();
    let scope = scope_of(&metadata).map_err(Failure::from)?;
    Ok(Response::new(reply(work(scope, messages).await?)))
}

/// Makes a stream that may fail one that tonic takes.
pub fn reply<A>(stream: impl Stream<Item = Result<A, Failure>> + Send + 'static) -> Reply<A> {
    Box::pin(stream.map(|item| item.map_err(Status::from)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    fn request(pairs: &[(&'static str, &'static str)]) -> Request<&'static str> {
        let mut request = Request::new("message");
        for (key, value) in pairs {
            request.metadata_mut().append(*key, value.parse().unwrap());
        }
        request
    }

    #[tokio::test]
    async fn the_scope_comes_from_the_metadata() {
        for (pairs, answer) in [
            (&[(NAMESPACE_KEY, "default")][..], Ok(("default", None))),
            (&[(NAMESPACE_KEY, "a"), (NAMESPACE_KEY, "b"), (LEASE_KEY, "x:y")], Ok(("a", Some("x:y")))),
            (&[(NAMESPACE_KEY, "a"), (LEASE_KEY, "")], Ok(("a", None))),
            (&[], Err((Code::FailedPrecondition, "namespace is required"))),
            (&[(NAMESPACE_KEY, "")], Err((Code::FailedPrecondition, "namespace is required"))),
            (&[(NAMESPACE_KEY, "-")], Err((Code::InvalidArgument, "namespace validation: identifier"))),
        ] {
            let got = unary(request(pairs), async |scope, _| Ok(scope)).await;
            match answer {
                Ok((namespace, lease)) => {
                    let scope = got.unwrap().into_inner();
                    assert_eq!((scope.namespace.as_str(), scope.lease.as_deref()), (namespace, lease));
                }
                Err((code, text)) => {
                    let status = got.unwrap_err();
                    assert_eq!(status.code(), code, "{pairs:?}");
                    assert!(status.message().starts_with(text), "{}", status.message());
                }
            }
        }
    }
}
