//! The operations service: what is under way with images.

use std::time::Duration;

use futures_util::stream;
use model::Namespace;
use model::error::{Classify, Kind};
use proto::gantry::v1 as wire;
use proto::gantry::v1::operations_server::Operations as Server;
use tonic::{Request, Response, Status};

use super::{Failure, Reply, server_stream, unary};
use crate::images::operations::{Operations, Status as Operation};

/// How often a watcher hears how things are.
const PERIOD: Duration = Duration::from_millis(500);

/// The service.
#[derive(Debug, Clone)]
pub struct Service {
    operations: Operations,
}

/// There is no such operation, or no more.
#[derive(Debug, thiserror::Error)]
#[error("operation {id}")]
struct NotFound {
    id: u64,
}

impl Classify for NotFound {
    fn kind(&self) -> Kind {
        Kind::NotFound
    }
}

impl Service {
    /// Tells of `operations`.
    pub fn new(operations: Operations) -> Self {
        Self { operations }
    }
}

fn list(operations: &Operations, namespace: &Namespace, all: bool) -> wire::ListOperationsResponse {
    let only = if all { None } else { Some(namespace) };
    wire::ListOperationsResponse { operations: operations.list(only).into_iter().map(operation).collect() }
}

fn operation(status: Operation) -> wire::Operation {
    let Operation { id, kind, namespace, image, started_at, seen } = status;
    let remaining_seconds = remaining(seen.done_bytes, seen.total_bytes, seen.bytes_per_second);
    let part = |part: crate::images::progress::SeenPart| wire::Part {
        remaining_seconds: remaining(part.done_bytes, part.total_bytes, part.bytes_per_second),
        name: part.name,
        phase: part.phase,
        done_bytes: part.done_bytes,
        total_bytes: part.total_bytes,
        bytes_per_second: part.bytes_per_second,
    };
    wire::Operation {
        id,
        kind: kind.as_str().to_owned(),
        namespace: namespace.to_string(),
        image,
        started_at: Some(started_at.into()),
        phase: seen.phase,
        done_bytes: seen.done_bytes,
        total_bytes: seen.total_bytes,
        bytes_per_second: seen.bytes_per_second,
        remaining_seconds,
        parts: seen.parts.into_iter().map(part).collect(),
    }
}

/// How long the rest takes, in seconds, if anything moves.
fn remaining(done: u64, total: u64, rate: u64) -> Option<u64> {
    total.saturating_sub(done).checked_div(rate)
}

#[tonic::async_trait]
impl Server for Service {
    type WatchStream = Reply<wire::ListOperationsResponse>;

    async fn list(
        &self,
        request: Request<wire::ListOperationsRequest>,
    ) -> Result<Response<wire::ListOperationsResponse>, Status> {
        unary(request, async |scope, message| Ok(list(&self.operations, &scope.namespace, message.all_namespaces)))
            .await
    }

    async fn watch(
        &self,
        request: Request<wire::ListOperationsRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        server_stream(request, async |scope, message| {
            let first = (self.operations.clone(), scope.namespace, tokio::time::interval(PERIOD));
            Ok(stream::unfold(first, move |(operations, namespace, mut pause)| async move {
                pause.tick().await;
                let seen = list(&operations, &namespace, message.all_namespaces);
                Some((Ok::<_, Failure>(seen), (operations, namespace, pause)))
            }))
        })
        .await
    }

    async fn cancel(
        &self,
        request: Request<wire::CancelOperationRequest>,
    ) -> Result<Response<wire::CancelOperationResponse>, Status> {
        unary(request, async |_, wire::CancelOperationRequest { id }| match self.operations.cancel(id) {
            true => Ok(wire::CancelOperationResponse {}),
            false => Err(NotFound { id }.into()),
        })
        .await
    }
}
