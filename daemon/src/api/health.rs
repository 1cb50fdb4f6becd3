//! The health service. It is served only while the daemon serves, so the whole server is either healthy or stopping.

use std::future::ready;
use std::pin::Pin;

use futures_util::{Stream, StreamExt, stream};
use model::error::{Classify, Kind};
use proto::grpc::health::v1::health_check_response::ServingStatus;
use proto::grpc::health::v1::{HealthCheckRequest, HealthCheckResponse, health_server};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{Failure, Reply, call, unscoped};

/// The service.
#[derive(Debug, Clone)]
pub struct Health {
    stop: CancellationToken,
    services: &'static [&'static str],
}

/// A service that this server does not have.
#[derive(Debug, thiserror::Error)]
#[error("unknown service {service:?}")]
struct UnknownService {
    service: String,
}

impl Classify for UnknownService {
    fn kind(&self) -> Kind {
        Kind::NotFound
    }
}

impl Health {
    /// Healthy until `stop`; `services` can be asked for by name.
    pub fn new(stop: CancellationToken, services: &'static [&'static str]) -> Self {
        Self { stop, services }
    }

    fn now(&self) -> ServingStatus {
        if self.stop.is_cancelled() { ServingStatus::NotServing } else { ServingStatus::Serving }
    }

    fn knows(&self, service: &str) -> bool {
        service.is_empty() || self.services.contains(&service)
    }

    /// The state now, and the one change there can be.
    fn changes(&self, service: &str) -> Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Failure>> + Send>> {
        let stop = self.stop.clone();
        if !self.knows(service) {
            let unknown = stream::once(ready(Ok(state(ServingStatus::ServiceUnknown))));
            return Box::pin(unknown.chain(stream::pending().take_until(stop.cancelled_owned())));
        }
        let now = self.now();
        let later = stream::once(async move {
            stop.cancelled().await;
            Ok(state(ServingStatus::NotServing))
        });
        let later = later.filter(move |_| ready(now == ServingStatus::Serving));
        Box::pin(stream::once(ready(Ok(state(now)))).chain(later))
    }
}

fn state(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        unscoped(request, async |HealthCheckRequest { service }| {
            if self.knows(&service) { Ok(state(self.now())) } else { Err(UnknownService { service }.into()) }
        })
        .await
    }

    type WatchStream = Reply<HealthCheckResponse>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Ok(Response::new(call::reply(self.changes(&request.get_ref().service))))
    }
}
