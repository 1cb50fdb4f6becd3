//! The snapshots service: root filesystems by layers.

use model::error::{Classify, Kind};
use proto::convert::mount;
use proto::services::snapshots::v1 as wire;
use tonic::{Request, Response, Status};

use super::{Failure, Reply, Scope, server_stream, unary};
use crate::blocking;
use crate::meta::Meta;
use crate::meta::snapshots::{Access, Commit, Prepare, SnapshotName};

/// The most snapshots in one message of a list.
const LIST_BATCH: usize = 100;

/// The service.
#[derive(Debug, Clone)]
pub struct Service {
    meta: Meta,
}

/// A request without the snapshot it is about.
#[derive(Debug, thiserror::Error)]
#[error("snapshot info must be set")]
struct Nothing;

impl Classify for Nothing {
    fn kind(&self) -> Kind {
        Kind::InvalidArgument
    }
}

impl Service {
    /// Serves the snapshots of `meta`.
    pub fn new(meta: Meta) -> Self {
        Self { meta }
    }

    /// Answers a request on the blocking pool, where the drivers are.
    async fn answer<Q: Send + 'static, A: Send + 'static>(
        &self,
        request: Request<Q>,
        work: impl FnOnce(&Meta, Scope, Q) -> Result<A, Failure> + Send + 'static,
    ) -> Result<Response<A>, Status> {
        unary(request, async |scope, message| {
            let meta = self.meta.clone();
            blocking::run(move || work(&meta, scope, message)).await
        })
        .await
    }
}

fn name(scope: &Scope, snapshotter: String, key: String) -> SnapshotName {
    SnapshotName { namespace: scope.namespace.clone(), snapshotter, key }
}

/// An empty name stands for none.
fn some(name: String) -> Option<String> {
    Some(name).filter(|name| !name.is_empty())
}

#[tonic::async_trait]
impl wire::snapshots_server::Snapshots for Service {
    async fn prepare(
        &self,
        request: Request<wire::PrepareSnapshotRequest>,
    ) -> Result<Response<wire::PrepareSnapshotResponse>, Status> {
        self.answer(request, |meta, scope, wire::PrepareSnapshotRequest { snapshotter, key, parent, labels }| {
            let name = name(&scope, snapshotter, key);
            let prepare = Prepare { name, parent: some(parent), labels, access: Access::Write };
            let mounts = meta.prepare_snapshot(scope, prepare)?;
            Ok(wire::PrepareSnapshotResponse { mounts: mount::to_wire(mounts) })
        })
        .await
    }

    async fn view(
        &self,
        request: Request<wire::ViewSnapshotRequest>,
    ) -> Result<Response<wire::ViewSnapshotResponse>, Status> {
        self.answer(request, |meta, scope, wire::ViewSnapshotRequest { snapshotter, key, parent, labels }| {
            let name = name(&scope, snapshotter, key);
            let prepare = Prepare { name, parent: some(parent), labels, access: Access::Read };
            let mounts = meta.prepare_snapshot(scope, prepare)?;
            Ok(wire::ViewSnapshotResponse { mounts: mount::to_wire(mounts) })
        })
        .await
    }

    async fn mounts(&self, request: Request<wire::MountsRequest>) -> Result<Response<wire::MountsResponse>, Status> {
        self.answer(request, |meta, scope, wire::MountsRequest { snapshotter, key }| {
            let mounts = meta.snapshot_mounts(&name(&scope, snapshotter, key))?;
            Ok(wire::MountsResponse { mounts: mount::to_wire(mounts) })
        })
        .await
    }

    async fn commit(&self, request: Request<wire::CommitSnapshotRequest>) -> Result<Response<()>, Status> {
        self.answer(request, |meta, scope, request| {
            let wire::CommitSnapshotRequest { snapshotter, name: committed, key, labels, parent } = request;
            let active = name(&scope, snapshotter, key);
            Ok(meta.commit_snapshot(scope, Commit { active, name: committed, labels, parent: some(parent) })?)
        })
        .await
    }

    async fn remove(&self, request: Request<wire::RemoveSnapshotRequest>) -> Result<Response<()>, Status> {
        self.answer(request, |meta, scope, wire::RemoveSnapshotRequest { snapshotter, key }| {
            let name = name(&scope, snapshotter, key);
            Ok(meta.remove_snapshot(scope, name)?)
        })
        .await
    }

    async fn stat(
        &self,
        request: Request<wire::StatSnapshotRequest>,
    ) -> Result<Response<wire::StatSnapshotResponse>, Status> {
        self.answer(request, |meta, scope, wire::StatSnapshotRequest { snapshotter, key }| {
            let info = meta.snapshot(&name(&scope, snapshotter, key))?;
            Ok(wire::StatSnapshotResponse { info: Some(info.into()) })
        })
        .await
    }

    async fn update(
        &self,
        request: Request<wire::UpdateSnapshotRequest>,
    ) -> Result<Response<wire::UpdateSnapshotResponse>, Status> {
        self.answer(request, |meta, scope, wire::UpdateSnapshotRequest { snapshotter, info, update_mask }| {
            let wire::Info { name: key, labels, .. } = info.ok_or(Nothing)?;
            let info = meta.update_snapshot(name(&scope, snapshotter, key), labels, update_mask)?;
            Ok(wire::UpdateSnapshotResponse { info: Some(info.into()) })
        })
        .await
    }

    type ListStream = Reply<wire::ListSnapshotsResponse>;

    async fn list(&self, request: Request<wire::ListSnapshotsRequest>) -> Result<Response<Self::ListStream>, Status> {
        server_stream(request, async |scope, wire::ListSnapshotsRequest { snapshotter, filters }| {
            let meta = self.meta.clone();
            let filters = meta.snapshot_filters(&snapshotter, &filters)?;
            Ok(blocking::search(move |found| {
                let mut after = None;
                loop {
                    let page =
                        meta.snapshots_page(&scope.namespace, &snapshotter, &filters, after.as_deref(), LIST_BATCH);
                    let (message, last) = match page {
                        Ok((infos, last)) => (
                            Ok(wire::ListSnapshotsResponse { info: infos.into_iter().map(Into::into).collect() }),
                            last,
                        ),
                        Err(error) => (Err(Failure::from(error)), None),
                    };
                    let empty = message.as_ref().is_ok_and(|message| message.info.is_empty());
                    if (!empty && found.give(message).is_break()) || last.is_none() {
                        return;
                    }
                    after = last;
                }
            }))
        })
        .await
    }

    async fn usage(&self, request: Request<wire::UsageRequest>) -> Result<Response<wire::UsageResponse>, Status> {
        self.answer(request, |meta, scope, wire::UsageRequest { snapshotter, key }| {
            Ok(meta.snapshot_usage(&name(&scope, snapshotter, key))?.into())
        })
        .await
    }

    async fn cleanup(&self, request: Request<wire::CleanupRequest>) -> Result<Response<()>, Status> {
        self.answer(request, |meta, _, wire::CleanupRequest { snapshotter }| Ok(meta.cleanup_snapshots(&snapshotter)?))
            .await
    }
}
