//! Containers: made from an image, listed, removed with what belongs to them.

use std::collections::BTreeMap;

use proto::prost_types::Any;
use proto::services::containers::v1::{
    Container, CreateContainerRequest, DeleteContainerRequest, GetContainerRequest, ListContainersRequest,
    container::Runtime,
};
use proto::services::snapshots::v1::{MountsRequest, PrepareSnapshotRequest, RemoveSnapshotRequest};

use crate::image::Resolved;
use crate::rootfs::Mounted;
use crate::spec::{SPEC_URL, Wanted};
use crate::user::{self, User};
use crate::{Client, ClientError};

/// The label that keeps where a container's output goes, for `gantry logs`.
pub const LOG_URI_LABEL: &str = "gantry.io/log-uri";

/// The label that keeps the signal which asks the container to end, as images and nerdctl name it.
pub const STOP_SIGNAL_LABEL: &str = "org.opencontainers.image.stopSignal";

/// The largest `/etc/passwd` or `/etc/group` of an image, in bytes.
const MAX_USER_FILE_BYTES: u64 = 1024 * 1024;

/// What a new container is made of.
#[derive(Debug, Clone)]
pub struct NewContainer<'a> {
    /// Its id.
    pub id: &'a str,
    /// The image it runs.
    pub image: &'a Resolved,
    /// The snapshotter of its root filesystem.
    pub snapshotter: &'a str,
    /// The runtime's name.
    pub runtime: &'a str,
    /// Options of the runtime.
    pub runtime_options: Option<Any>,
    /// `user[:group]`, replacing the image's.
    pub user: Option<&'a str>,
    /// Everything about the process and its surroundings.
    pub wanted: &'a Wanted,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

impl Client {
    /// Makes a container and its root filesystem. Nothing runs yet. On an error nothing stays behind.
    ///
    /// # Errors
    /// When the id is taken, the image is not unpacked, or the wish makes no sense.
    pub async fn create_container(&self, new: NewContainer<'_>) -> Result<Container, ClientError> {
        let lease = self.lease().await?;
        let created = self.with_lease(&lease)?.create_leased(new).await;
        self.end_lease(&lease).await;
        created
    }

    async fn create_leased(&self, new: NewContainer<'_>) -> Result<Container, ClientError> {
        let parent = new.image.chain_id().unwrap_or_default();
        let prepare = PrepareSnapshotRequest {
            snapshotter: new.snapshotter.into(),
            key: new.id.into(),
            parent,
            ..Default::default()
        };
        let mounts = self.snapshots().prepare(prepare).await?.into_inner().mounts;
        let outcome = async {
            let text = new.user.unwrap_or(&new.image.config.user);
            let user = self.find_user(text, mounts)?;
            let spec = crate::spec::build(self.namespace().as_str(), new.id, &new.image.config, &user, new.wanted)?;
            let value = serde_json::to_vec(&spec)
                .map_err(|source| ClientError::Document { what: "the specification just made".into(), source })?;
            let mut labels = new.labels;
            if !new.image.config.stop_signal.is_empty() {
                labels.insert(STOP_SIGNAL_LABEL.into(), new.image.config.stop_signal.clone());
            }
            let container = Container {
                id: new.id.into(),
                labels,
                image: new.image.name.clone(),
                runtime: Some(Runtime { name: new.runtime.into(), options: new.runtime_options }),
                spec: Some(Any { type_url: SPEC_URL.into(), value }),
                snapshotter: new.snapshotter.into(),
                snapshot_key: new.id.into(),
                ..Default::default()
            };
            let answer = self.containers().create(CreateContainerRequest { container: Some(container) }).await?;
            answer.into_inner().container.ok_or(ClientError::Incomplete("container"))
        }
        .await;
        if outcome.is_err() {
            self.remove_snapshot(new.snapshotter, new.id).await;
        }
        outcome
    }

    fn find_user(&self, text: &str, mounts: Vec<proto::types::Mount>) -> Result<User, ClientError> {
        if !user::needs_files(text) {
            return user::resolve(text, "", "");
        }
        let mounted = Mounted::new(&proto::convert::mount::from_wire(mounts))?;
        let read =
            |path| mounted.read(path, MAX_USER_FILE_BYTES).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        user::resolve(text, &read("/etc/passwd")?, &read("/etc/group")?)
    }

    /// The user of an exec in an existing container, by the files in its root filesystem as they are now.
    ///
    /// # Errors
    /// When the name is not there.
    pub async fn exec_user(&self, container: &Container, text: &str) -> Result<User, ClientError> {
        let request = MountsRequest { snapshotter: container.snapshotter.clone(), key: container.snapshot_key.clone() };
        let mounts = if user::needs_files(text) {
            self.snapshots().mounts(request).await?.into_inner().mounts
        } else {
            Vec::new()
        };
        self.find_user(text, mounts)
    }

    /// The record of a container.
    ///
    /// # Errors
    /// Not found when there is none of that id.
    pub async fn container(&self, id: &str) -> Result<Container, ClientError> {
        let answer = self.containers().get(GetContainerRequest { id: id.into() }).await?;
        answer.into_inner().container.ok_or(ClientError::Incomplete("container"))
    }

    /// All containers that match `filters`, or all.
    ///
    /// # Errors
    /// What the daemon says of the filters.
    pub async fn list_containers(&self, filters: Vec<String>) -> Result<Vec<Container>, ClientError> {
        let mut stream = self.containers().list_stream(ListContainersRequest { filters }).await?.into_inner();
        let mut containers = Vec::new();
        while let Some(message) = stream.message().await? {
            containers.extend(message.container);
        }
        Ok(containers)
    }

    /// Removes a container's record and its root filesystem. Its task must be gone.
    ///
    /// # Errors
    /// Not found when there is none of that id.
    pub async fn remove_container(&self, container: &Container) -> Result<(), ClientError> {
        if !container.snapshot_key.is_empty() {
            self.remove_snapshot(&container.snapshotter, &container.snapshot_key).await;
        }
        self.containers().delete(DeleteContainerRequest { id: container.id.clone() }).await?;
        Ok(())
    }

    /// Removes a snapshot. One that stays is no longer held by anything and is collected.
    async fn remove_snapshot(&self, snapshotter: &str, key: &str) {
        let _ =
            self.snapshots().remove(RemoveSnapshotRequest { snapshotter: snapshotter.into(), key: key.into() }).await;
    }
}
