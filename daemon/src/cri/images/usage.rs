//! What images take on disk.

use std::path::Path;

use model::snapshot::{SnapshotKind, Usage};

use super::*;

/// Snapshots that are read at a time.
const PAGE: usize = 256;

impl Cri {
    pub(in crate::cri) async fn image_fs_info(
        &self,
        _request: wire::ImageFsInfoRequest,
    ) -> Result<wire::ImageFsInfoResponse, Failure> {
        let mut snapshotters = vec![self.inner.settings.snapshotter.clone()];
        for handler in self.inner.settings.handlers.values() {
            if let Some(name) = &handler.snapshotter
                && !snapshotters.contains(name)
            {
                snapshotters.push(name.clone());
            }
        }
        let mut image_filesystems = Vec::new();
        for name in snapshotters {
            let Some(driver) = self.inner.meta.drivers().get(&name) else { continue };
            let Some(root) = driver.root().map(Path::to_owned) else { continue };
            let usage = self.usage_of(&name).await?;
            image_filesystems.push(wire::FilesystemUsage {
                timestamp: record::now(),
                fs_id: Some(wire::FilesystemIdentifier { mountpoint: root.display().to_string() }),
                used_bytes: Some(wire::UInt64Value { value: usage.size_bytes }),
                inodes_used: Some(wire::UInt64Value { value: usage.inodes }),
            });
        }
        if image_filesystems.is_empty() {
            let name = &self.inner.settings.snapshotter;
            return Err(CriError::Failed(format!("snapshotter {name:?} has no folder here")).into());
        }
        Ok(wire::ImageFsInfoResponse { image_filesystems, container_filesystems: Vec::new() })
    }

    /// What all snapshots of a snapshotter take, of namespace `k8s.io`.
    async fn usage_of(&self, snapshotter: &str) -> Result<Usage, Failure> {
        let (meta, namespace, snapshotter) =
            (self.inner.meta.clone(), self.inner.namespace.clone(), snapshotter.to_owned());
        let total = blocking::run(move || {
            let filters = meta.snapshot_filters(&snapshotter, &[])?;
            let mut total = Usage::default();
            let mut after: Option<Vec<u8>> = None;
            loop {
                let (page, last) = meta.snapshots_page(&namespace, &snapshotter, &filters, after.as_deref(), PAGE)?;
                // Those that are in use belong to containers, whose use is theirs.
                for info in page.into_iter().filter(|info| info.kind == SnapshotKind::Committed) {
                    let name =
                        SnapshotName { namespace: namespace.clone(), snapshotter: snapshotter.clone(), key: info.name };
                    match meta.snapshot_usage(&name) {
                        Ok(usage) => {
                            total.size_bytes += usage.size_bytes;
                            total.inodes += usage.inodes;
                        }
                        // It was removed meanwhile.
                        Err(SnapshotsError::NotFound { .. }) => {}
                        Err(error) => return Err(error),
                    }
                }
                if last.is_none() {
                    return Ok::<_, SnapshotsError>(total);
                }
                after = last;
            }
        });
        Ok(total.await?)
    }
}
