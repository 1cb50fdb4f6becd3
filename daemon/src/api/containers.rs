//! The containers service.

use std::ops::ControlFlow;

use model::error::{Classify, Kind};
use model::filter::Filters;
use proto::convert::time;
use proto::services::containers::v1 as wire;
use store::record::{ContainerRecord, Runtime};
use tonic::{Request, Response, Status};

use super::{Failure, Reply, fields, server_stream, unary};
use crate::blocking;
use crate::containers::{Container, Containers, any_from_wire, any_to_wire};
use crate::images::Images;

/// The service.
#[derive(Debug, Clone)]
pub struct Service {
    containers: Containers,
    images: Images,
}

/// A request without the container it is about.
#[derive(Debug, thiserror::Error)]
#[error("container must be set")]
struct Nothing;

impl Classify for Nothing {
    fn kind(&self) -> Kind {
        Kind::InvalidArgument
    }
}

impl Service {
    /// Serves `containers`; those of `images` are judged before they get one.
    pub fn new(containers: Containers, images: Images) -> Self {
        Self { containers, images }
    }
}

/// For the wire.
pub fn to_wire(container: Container) -> wire::Container {
    let Container { id, record } = container;
    wire::Container {
        id,
        labels: record.labels,
        image: record.image,
        runtime: Some(wire::container::Runtime {
            name: record.runtime.name,
            options: record.runtime.options.map(any_to_wire),
        }),
        spec: record.spec.map(any_to_wire),
        snapshotter: record.snapshotter,
        snapshot_key: record.snapshot_key,
        created_at: Some(time::to_wire(record.created_at)),
        updated_at: Some(time::to_wire(record.updated_at)),
        extensions: record.extensions.into_iter().map(|(key, any)| (key, any_to_wire(any))).collect(),
        sandbox: record.sandbox,
    }
}

/// From the wire. The times are the server's business, whatever was sent.
fn from_wire(container: Option<wire::Container>) -> Result<Container, Nothing> {
    let container = container.ok_or(Nothing)?;
    let runtime = container.runtime.unwrap_or_default();
    let record = ContainerRecord {
        labels: container.labels,
        image: container.image,
        runtime: Runtime { name: runtime.name, options: runtime.options.map(any_from_wire) },
        spec: container.spec.map(any_from_wire),
        snapshotter: container.snapshotter,
        snapshot_key: container.snapshot_key,
        extensions: container.extensions.into_iter().map(|(key, any)| (key, any_from_wire(any))).collect(),
        sandbox: container.sandbox,
        created_at: std::time::SystemTime::UNIX_EPOCH,
        updated_at: std::time::SystemTime::UNIX_EPOCH,
    };
    Ok(Container { id: container.id, record })
}

#[tonic::async_trait]
impl wire::containers_server::Containers for Service {
    async fn get(
        &self,
        request: Request<wire::GetContainerRequest>,
    ) -> Result<Response<wire::GetContainerResponse>, Status> {
        unary(request, async |scope, wire::GetContainerRequest { id }| {
            let container = self.containers.get(&scope.namespace, &id).await?;
            Ok(wire::GetContainerResponse { container: Some(to_wire(container)) })
        })
        .await
    }

    async fn list(
        &self,
        request: Request<wire::ListContainersRequest>,
    ) -> Result<Response<wire::ListContainersResponse>, Status> {
        unary(request, async |scope, wire::ListContainersRequest { filters }| {
            let (all, filters) = (self.containers.clone(), Filters::parse(&filters)?);
            let containers = blocking::run(move || {
                let mut containers = Vec::new();
                all.walk(&scope.namespace, &filters, |container| {
                    containers.push(to_wire(container));
                    ControlFlow::Continue(())
                })?;
                Ok::<_, Failure>(containers)
            });
            Ok(wire::ListContainersResponse { containers: containers.await? })
        })
        .await
    }

    type ListStreamStream = Reply<wire::ListContainerMessage>;

    async fn list_stream(
        &self,
        request: Request<wire::ListContainersRequest>,
    ) -> Result<Response<Self::ListStreamStream>, Status> {
        server_stream(request, async |scope, wire::ListContainersRequest { filters }| {
            let (all, filters) = (self.containers.clone(), Filters::parse(&filters)?);
            Ok(blocking::search(move |found| {
                let message = |container| wire::ListContainerMessage { container: Some(to_wire(container)) };
                let walked = all.walk(&scope.namespace, &filters, |container| found.give(Ok(message(container))));
                if let Err(error) = walked {
                    // If nobody hears of it, nobody needs to.
                    let _ = found.give(Err(error.into()));
                }
            }))
        })
        .await
    }

    async fn create(
        &self,
        request: Request<wire::CreateContainerRequest>,
    ) -> Result<Response<wire::CreateContainerResponse>, Status> {
        unary(request, async |scope, wire::CreateContainerRequest { container }| {
            let container = from_wire(container)?;
            if !container.record.image.is_empty() {
                self.images.judge(&scope.namespace, &container.record.image).await?;
            }
            let container = self.containers.create(&scope.namespace, container).await?;
            Ok(wire::CreateContainerResponse { container: Some(to_wire(container)) })
        })
        .await
    }

    async fn update(
        &self,
        request: Request<wire::UpdateContainerRequest>,
    ) -> Result<Response<wire::UpdateContainerResponse>, Status> {
        unary(request, async |scope, wire::UpdateContainerRequest { container, update_mask }| {
            let paths = fields::paths(update_mask.as_ref());
            let container = self.containers.update(&scope.namespace, from_wire(container)?, paths).await?;
            Ok(wire::UpdateContainerResponse { container: Some(to_wire(container)) })
        })
        .await
    }

    async fn delete(&self, request: Request<wire::DeleteContainerRequest>) -> Result<Response<()>, Status> {
        unary(request, async |scope, wire::DeleteContainerRequest { id }| {
            Ok(self.containers.delete(&scope.namespace, id).await?)
        })
        .await
    }
}
