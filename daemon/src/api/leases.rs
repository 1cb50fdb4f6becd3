//! The leases service: what garbage collection must spare.

use model::error::{Classify, Kind};
use proto::convert::time;
use proto::services::leases::v1 as wire;
use tonic::{Request, Response, Status};

use super::{Failure, unary};
use crate::blocking;
use crate::meta::Meta;
use crate::meta::leases::{Lease, Resource};

/// The service.
#[derive(Debug, Clone)]
pub struct Service {
    meta: Meta,
}

/// A request without the resource it is about.
#[derive(Debug, thiserror::Error)]
#[error("resource must be set")]
struct Nothing;

impl Classify for Nothing {
    fn kind(&self) -> Kind {
        Kind::InvalidArgument
    }
}

impl Service {
    /// Serves the leases of `meta`.
    pub fn new(meta: Meta) -> Self {
        Self { meta }
    }
}

fn to_wire(lease: Lease) -> wire::Lease {
    wire::Lease { id: lease.id, created_at: Some(time::to_wire(lease.created_at)), labels: lease.labels }
}

fn from_wire(resource: Option<wire::Resource>) -> Result<Resource, Failure> {
    let wire::Resource { id, r#type } = resource.ok_or(Nothing)?;
    Ok(Resource::parse(&r#type, &id)?)
}

#[tonic::async_trait]
impl wire::leases_server::Leases for Service {
    async fn create(&self, request: Request<wire::CreateRequest>) -> Result<Response<wire::CreateResponse>, Status> {
        unary(request, async |scope, wire::CreateRequest { id, labels }| {
            let lease = self.meta.create_lease(scope.namespace, id, labels).await?;
            Ok(wire::CreateResponse { lease: Some(to_wire(lease)) })
        })
        .await
    }

    async fn delete(&self, request: Request<wire::DeleteRequest>) -> Result<Response<()>, Status> {
        unary(request, async |scope, wire::DeleteRequest { id, sync }| {
            self.meta.delete_lease(scope.namespace, id).await?;
            if sync { self.meta.trigger().collect().await } else { Ok(()) }
        })
        .await
    }

    async fn list(&self, request: Request<wire::ListRequest>) -> Result<Response<wire::ListResponse>, Status> {
        unary(request, async |scope, wire::ListRequest { filters }| {
            let meta = self.meta.clone();
            let leases = blocking::run(move || meta.leases(&scope.namespace, &filters)).await?;
            Ok(wire::ListResponse { leases: leases.into_iter().map(to_wire).collect() })
        })
        .await
    }

    async fn add_resource(&self, request: Request<wire::AddResourceRequest>) -> Result<Response<()>, Status> {
        unary(request, async |scope, wire::AddResourceRequest { id, resource }| {
            Ok(self.meta.add_lease_resource(scope.namespace, id, from_wire(resource)?).await?)
        })
        .await
    }

    async fn delete_resource(&self, request: Request<wire::DeleteResourceRequest>) -> Result<Response<()>, Status> {
        unary(request, async |scope, wire::DeleteResourceRequest { id, resource }| {
            Ok(self.meta.delete_lease_resource(scope.namespace, id, from_wire(resource)?).await?)
        })
        .await
    }

    async fn list_resources(
        &self,
        request: Request<wire::ListResourcesRequest>,
    ) -> Result<Response<wire::ListResourcesResponse>, Status> {
        unary(request, async |scope, wire::ListResourcesRequest { id }| {
            let meta = self.meta.clone();
            let resources = blocking::run(move || meta.lease_resources(&scope.namespace, &id)).await?;
            let resources = resources.into_iter();
            let resources = resources.map(|one| wire::Resource { id: one.id().to_owned(), r#type: one.kind() });
            Ok(wire::ListResourcesResponse { resources: resources.collect() })
        })
        .await
    }
}
