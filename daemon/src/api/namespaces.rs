//! The namespaces service.

use std::collections::BTreeSet;

use model::error::{Classify, Kind};
use model::{Labels, Namespace};
use proto::services::namespaces::v1 as wire;
use tonic::{Request, Response, Status};

use super::{Failure, fields, unscoped};
use crate::namespaces::{LabelChange, Namespaces};

/// The service.
#[derive(Debug, Clone)]
pub struct Service {
    namespaces: Namespaces,
}

/// A request without the namespace it is about.
#[derive(Debug, thiserror::Error)]
#[error("namespace must be set")]
struct Nothing;

impl Classify for Nothing {
    fn kind(&self) -> Kind {
        Kind::InvalidArgument
    }
}

impl Service {
    /// Serves `namespaces`.
    pub fn new(namespaces: Namespaces) -> Self {
        Self { namespaces }
    }
}

fn to_wire(name: impl ToString, labels: Labels) -> wire::Namespace {
    wire::Namespace { name: name.to_string(), labels }
}

fn from_wire(namespace: Option<wire::Namespace>) -> Result<(Namespace, Labels), Failure> {
    let wire::Namespace { name, labels } = namespace.ok_or(Nothing)?;
    Ok((Namespace::new(name)?, labels))
}

/// Only single labels have a path.
fn change(name: &Namespace, mask: Option<&prost_types::FieldMask>) -> Result<LabelChange, fields::UnknownPath> {
    let Some(paths) = fields::paths(mask) else { return Ok(LabelChange::All) };
    let mut keys = BTreeSet::new();
    for path in paths {
        match path.parts() {
            ("labels", Some(key)) => keys.insert(key.to_owned()),
            _ => return Err(path.unknown(name.as_str())),
        };
    }
    Ok(LabelChange::Keys(keys))
}

#[tonic::async_trait]
impl wire::namespaces_server::Namespaces for Service {
    async fn get(
        &self,
        request: Request<wire::GetNamespaceRequest>,
    ) -> Result<Response<wire::GetNamespaceResponse>, Status> {
        unscoped(request, async |wire::GetNamespaceRequest { name }| {
            let labels = self.namespaces.labels(&name).await?;
            Ok(wire::GetNamespaceResponse { namespace: Some(to_wire(name, labels)) })
        })
        .await
    }

    async fn list(
        &self,
        request: Request<wire::ListNamespacesRequest>,
    ) -> Result<Response<wire::ListNamespacesResponse>, Status> {
        unscoped(request, async |_| {
            let all = self.namespaces.list().await?;
            let namespaces = all.into_iter().map(|(name, labels)| to_wire(name, labels)).collect();
            Ok(wire::ListNamespacesResponse { namespaces })
        })
        .await
    }

    async fn create(
        &self,
        request: Request<wire::CreateNamespaceRequest>,
    ) -> Result<Response<wire::CreateNamespaceResponse>, Status> {
        unscoped(request, async |wire::CreateNamespaceRequest { namespace }| {
            let (name, labels) = from_wire(namespace)?;
            let labels = self.namespaces.create(name.clone(), labels).await?;
            Ok(wire::CreateNamespaceResponse { namespace: Some(to_wire(name, labels)) })
        })
        .await
    }

    async fn update(
        &self,
        request: Request<wire::UpdateNamespaceRequest>,
    ) -> Result<Response<wire::UpdateNamespaceResponse>, Status> {
        unscoped(request, async |wire::UpdateNamespaceRequest { namespace, update_mask }| {
            let (name, labels) = from_wire(namespace)?;
            let which = change(&name, update_mask.as_ref())?;
            let labels = self.namespaces.update(name.clone(), labels, which).await?;
            Ok(wire::UpdateNamespaceResponse { namespace: Some(to_wire(name, labels)) })
        })
        .await
    }

    async fn delete(&self, request: Request<wire::DeleteNamespaceRequest>) -> Result<Response<()>, Status> {
        unscoped(request, async |wire::DeleteNamespaceRequest { name }| Ok(self.namespaces.delete(name).await?)).await
    }
}
