//! The diff service: layers to filesystems and back.

use std::sync::Arc;

use model::error::{Classify, Kind};
use proto::convert::{mount, time};
use proto::services::diff::v1 as wire;
use snapshotter::layer::Durability;
use tonic::{Request, Response, Status};

use super::{Failure, unary};
use crate::blocking;
use crate::meta::Meta;
use crate::meta::layers::{MakeDiff, Processing, Processors};
use crate::mounts::MountDir;

/// The service.
#[derive(Debug, Clone)]
pub struct Service {
    meta: Meta,
    mounts: MountDir,
    processors: Arc<Processors>,
}

/// A request without the layer it is about.
#[derive(Debug, thiserror::Error)]
#[error("diff must be set")]
struct Nothing;

impl Classify for Nothing {
    fn kind(&self) -> Kind {
        Kind::InvalidArgument
    }
}

impl Service {
    /// Serves layers over the content and snapshots of `meta`; what has to be mounted is mounted below `mounts`, and layers of
    /// types that are not known go through `processors`.
    pub fn new(meta: Meta, mounts: MountDir, processors: Processors) -> Self {
        Self { meta, mounts, processors: Arc::new(processors) }
    }
}

#[tonic::async_trait]
impl wire::diff_server::Diff for Service {
    async fn apply(&self, request: Request<wire::ApplyRequest>) -> Result<Response<wire::ApplyResponse>, Status> {
        unary(request, async |scope, wire::ApplyRequest { diff, mounts, payloads, sync_fs }| {
            let layer = diff.ok_or(Nothing)?.try_into()?;
            let durability = if sync_fs { Durability::Synced } else { Durability::Later };
            let (meta, place) = (self.meta.clone(), self.mounts.clone());
            let processing = Processing { processors: Arc::clone(&self.processors), payloads };
            let applied = blocking::run(move || {
                meta.apply_layer(&scope, &layer, &mount::from_wire(mounts), durability, &place, &processing)
            });
            Ok(wire::ApplyResponse { applied: Some(applied.await?.into()) })
        })
        .await
    }

    async fn diff(&self, request: Request<wire::DiffRequest>) -> Result<Response<wire::DiffResponse>, Status> {
        unary(request, async |scope, request| {
            let wire::DiffRequest { left, right, media_type, r#ref, labels, source_date_epoch } = request;
            let source_date_epoch = source_date_epoch.map(time::from_wire).transpose()?;
            let make = MakeDiff {
                left: mount::from_wire(left),
                right: mount::from_wire(right),
                media_type,
                reference: r#ref,
                labels,
                source_date_epoch,
            };
            let (meta, place) = (self.meta.clone(), self.mounts.clone());
            let diff = blocking::run(move || meta.make_diff(scope, make, &place)).await.map_err(Failure::from)?;
            Ok(wire::DiffResponse { diff: Some(diff.into()) })
        })
        .await
    }
}
