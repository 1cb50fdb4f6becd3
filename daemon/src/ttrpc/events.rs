//! The service through which shims tell what happened: `containerd.services.events.ttrpc.v1.Events`.
//!
//! It decodes and passes on; whether an envelope is acceptable, and whom it reaches, is the sink's business.

use std::future::Future;

use model::error::Kind;
use proto::services::events::ttrpc::v1::ForwardRequest;
use proto::status::{self, Failure};
use proto::ttrpc::{Request, Response};
use proto::{service, types::Envelope};

use super::Service;

/// Where envelopes go.
pub trait Sink: Send + Sync + 'static {
    /// Takes an envelope as a shim sent it. Once this returns, the shim forgets the event.
    fn take(&self, envelope: Envelope) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// The service, in front of a sink.
#[derive(Debug)]
pub struct Forward<S> {
    sink: S,
}

impl<S: Sink> Forward<S> {
    /// A service that hands every envelope to `sink`.
    pub fn new(sink: S) -> Self {
        Self { sink }
    }

    async fn forward(&self, request: &Request) -> Result<(), Failure> {
        let invalid = |message| Failure { kind: Kind::InvalidArgument, message };
        let request: ForwardRequest =
            request.message().map_err(|error| invalid(format!("cannot decode the event: {error}")))?;
        let envelope = request.envelope.ok_or_else(|| invalid("envelope must be set: invalid argument".into()))?;
        self.sink.take(envelope).await
    }
}

impl<S: Sink> Service for Forward<S> {
    async fn call(&self, request: Request) -> Response {
        if (request.service.as_str(), request.method.as_str()) != (service::EVENTS, "Forward") {
            return Response::unimplemented(&request.service, &request.method);
        }
        match self.forward(&request).await {
            Ok(()) => Response::ok(&()),
            Err(failure) => Response::failed(status::of(&failure)),
        }
    }
}
