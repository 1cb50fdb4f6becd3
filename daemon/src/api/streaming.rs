//! The streaming service.

use futures_util::stream::{self, StreamExt};
use model::error::{Classify, Kind};
use prost_types::Any;
use proto::services::streaming::v1::StreamInit;
use proto::services::streaming::v1::streaming_server::Streaming as Server;
use tonic::{Request, Response, Status, Streaming};

use super::{Failure, Reply, bidirectional};
use crate::streaming::Streams;

/// The service.
#[derive(Debug, Clone)]
pub struct Service {
    streams: Streams,
}

impl Service {
    /// Serves `streams`.
    pub fn new(streams: Streams) -> Self {
        Self { streams }
    }
}

/// A stream that does not begin with its name.
#[derive(Debug, thiserror::Error)]
#[error("the first message of a stream must be {}", <StreamInit as prost::Name>::full_name())]
struct NoName;

impl Classify for NoName {
    fn kind(&self) -> Kind {
        Kind::InvalidArgument
    }
}

#[tonic::async_trait]
impl Server for Service {
    type StreamStream = Reply<Any>;

    async fn stream(&self, request: Request<Streaming<Any>>) -> Result<Response<Self::StreamStream>, Status> {
        bidirectional(request, async |scope, mut messages| {
            // A stream that ends or breaks before its name was never opened.
            let first = messages.message().await.ok().flatten().ok_or(NoName)?;
            let StreamInit { id } = proto::any::unpack(&first).ok().flatten().ok_or(NoName)?;
            let outgoing = self.streams.register(scope.namespace, id, messages)?;
            let known = stream::once(async { proto::any::pack(&()) });
            Ok(known.chain(outgoing).map(Ok::<_, Failure>))
        })
        .await
    }
}
