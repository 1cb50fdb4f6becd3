//! A snapshotter that is a plugin: every call goes to it.
//!
//! Drivers are synchronous, so a call blocks its thread until the plugin has answered or the deadline is over; call it from
//! [`crate::blocking::run`] as all drivers. The plugin hears the namespace that a key begins with. Labels reach it as they
//! reach every driver; an `AlreadyExists` of `prepare` means that it has the layer, as with every driver.

use std::future::Future;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use model::error::Kind;
use model::snapshot::{SnapshotInfo, Usage};
use model::{Labels, Mount};
use prost_types::FieldMask;
use proto::convert::mount;
use proto::services::snapshots::v1 as wire;
use proto::services::snapshots::v1::snapshots_client::SnapshotsClient;
use snapshotter::{LabelMask, SnapshotError, Snapshotter, Update};
use tokio::runtime::Handle;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::{Plugin, connect};
use crate::api::call::NAMESPACE_KEY;

/// How long the plugin may take for most calls.
const CALL_TIME: Duration = Duration::from_secs(60);

/// How long it may take to prepare or commit a snapshot: it may fetch something for that.
const WORK_TIME: Duration = Duration::from_secs(600);

/// The largest message in either direction, in bytes (containerd's contract).
const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// The namespace for calls about all snapshots.
const ANY_NAMESPACE: &str = "default";

/// A plugin as a snapshotter.
#[derive(Debug)]
pub struct Snapshots {
    name: String,
    capabilities: Vec<String>,
    client: SnapshotsClient<Channel>,
    runtime: Handle,
}

impl Snapshots {
    /// The plugin under the name it is configured by. Call it inside a runtime; nothing is connected yet.
    pub fn new(name: &str, plugin: &Plugin) -> Self {
        let client = SnapshotsClient::new(connect(&plugin.address))
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let capabilities = plugin.capabilities.clone();
        Self { name: name.to_owned(), capabilities, client, runtime: Handle::current() }
    }

    /// Calls the plugin about `key` and waits for the answer.
    fn call<Q, A, F>(
        &self,
        limit: Duration,
        key: &str,
        message: Q,
        call: impl FnOnce(SnapshotsClient<Channel>, Request<Q>) -> F,
    ) -> Result<A, SnapshotError>
    where
        F: Future<Output = Result<A, Status>>,
    {
        let mut request = Request::new(message);
        if let Ok(namespace) = namespace_of(key).parse() {
            request.metadata_mut().insert(NAMESPACE_KEY, namespace);
        }
        let answer = call(self.client.clone(), request);
        let answered = self.runtime.block_on(async { tokio::time::timeout(limit, answer).await });
        answered
            .unwrap_or_else(|_| Err(Status::deadline_exceeded(format!("no answer within {limit:?}"))))
            .map_err(|status| self.failure(key, &status))
    }

    fn failure(&self, key: &str, status: &Status) -> SnapshotError {
        let key = key.to_owned();
        match status.code() {
            Code::NotFound => SnapshotError::NotFound { key },
            Code::AlreadyExists => SnapshotError::AlreadyExists { key },
            code => SnapshotError::Plugin {
                snapshotter: self.name.clone(),
                kind: proto::status::kind(code as i32),
                message: status.message().to_owned(),
            },
        }
    }

    fn info(&self, info: Option<wire::Info>) -> Result<SnapshotInfo, SnapshotError> {
        let malformed =
            |message: String| SnapshotError::Plugin { snapshotter: self.name.clone(), kind: Kind::Internal, message };
        let info = info.ok_or_else(|| malformed("it answered without a snapshot".to_owned()))?;
        SnapshotInfo::try_from(with_times(info)).map_err(|error| malformed(error.to_string()))
    }
}

/// The namespace that a driver's key begins with.
fn namespace_of(key: &str) -> &str {
    key.split_once('/').map_or(ANY_NAMESPACE, |(namespace, _)| namespace)
}

/// Some plugins keep no times; the beginning of time stands for that.
fn with_times(mut info: wire::Info) -> wire::Info {
    info.created_at.get_or_insert_default();
    info.updated_at.get_or_insert_default();
    info
}

fn some(parent: Option<&str>) -> String {
    parent.unwrap_or_default().to_owned()
}

impl Snapshotter for Snapshots {
    fn name(&self) -> &str {
        &self.name
    }

    fn root(&self) -> Option<&Path> {
        None
    }

    fn capabilities(&self) -> Vec<String> {
        self.capabilities.clone()
    }

    fn is_remote(&self) -> bool {
        true
    }

    fn prepare(&self, key: &str, parent: Option<&str>, labels: &Labels) -> Result<Vec<Mount>, SnapshotError> {
        let (snapshotter, labels) = (self.name.clone(), labels.clone());
        let message = wire::PrepareSnapshotRequest { snapshotter, key: key.to_owned(), parent: some(parent), labels };
        let answer = self.call(WORK_TIME, key, message, async |mut client, request| client.prepare(request).await)?;
        Ok(mount::from_wire(answer.into_inner().mounts))
    }

    fn view(&self, key: &str, parent: Option<&str>, labels: &Labels) -> Result<Vec<Mount>, SnapshotError> {
        let (snapshotter, labels) = (self.name.clone(), labels.clone());
        let message = wire::ViewSnapshotRequest { snapshotter, key: key.to_owned(), parent: some(parent), labels };
        let answer = self.call(WORK_TIME, key, message, async |mut client, request| client.view(request).await)?;
        Ok(mount::from_wire(answer.into_inner().mounts))
    }

    fn mounts(&self, key: &str) -> Result<Vec<Mount>, SnapshotError> {
        let message = wire::MountsRequest { snapshotter: self.name.clone(), key: key.to_owned() };
        let answer = self.call(CALL_TIME, key, message, async |mut client, request| client.mounts(request).await)?;
        Ok(mount::from_wire(answer.into_inner().mounts))
    }

    fn commit(&self, name: &str, key: &str, labels: &Labels, parent: Option<&str>) -> Result<(), SnapshotError> {
        let message = wire::CommitSnapshotRequest {
            snapshotter: self.name.clone(),
            name: name.to_owned(),
            key: key.to_owned(),
            labels: labels.clone(),
            parent: some(parent),
        };
        self.call(WORK_TIME, key, message, async |mut client, request| client.commit(request).await)?;
        Ok(())
    }

    fn remove(&self, key: &str) -> Result<(), SnapshotError> {
        let message = wire::RemoveSnapshotRequest { snapshotter: self.name.clone(), key: key.to_owned() };
        self.call(CALL_TIME, key, message, async |mut client, request| client.remove(request).await)?;
        Ok(())
    }

    fn stat(&self, key: &str) -> Result<SnapshotInfo, SnapshotError> {
        let message = wire::StatSnapshotRequest { snapshotter: self.name.clone(), key: key.to_owned() };
        let answer = self.call(CALL_TIME, key, message, async |mut client, request| client.stat(request).await)?;
        self.info(answer.into_inner().info)
    }

    fn update(&self, update: &Update) -> Result<SnapshotInfo, SnapshotError> {
        let paths = match &update.mask {
            LabelMask::All => vec!["labels".to_owned()],
            LabelMask::Keys(keys) => keys.iter().map(|key| format!("labels.{key}")).collect(),
        };
        let info = wire::Info { name: update.name.clone(), labels: update.labels.clone(), ..Default::default() };
        let message = wire::UpdateSnapshotRequest {
            snapshotter: self.name.clone(),
            info: Some(info),
            update_mask: Some(FieldMask { paths }),
        };
        let call = async |mut client: SnapshotsClient<Channel>, request| client.update(request).await;
        let answer = self.call(CALL_TIME, &update.name, message, call)?;
        self.info(answer.into_inner().info)
    }

    fn walk(&self, each: &mut dyn FnMut(SnapshotInfo) -> ControlFlow<()>) -> Result<(), SnapshotError> {
        let message = wire::ListSnapshotsRequest { snapshotter: self.name.clone(), filters: Vec::new() };
        let answer = self.call(CALL_TIME, "", message, async |mut client, request| client.list(request).await)?;
        let mut stream = answer.into_inner();
        loop {
            let next = self.runtime.block_on(async { tokio::time::timeout(CALL_TIME, stream.message()).await });
            let next = next.unwrap_or_else(|_| Err(Status::deadline_exceeded("the list came to a halt")));
            let Some(message) = next.map_err(|status| self.failure("", &status))? else { return Ok(()) };
            for info in message.info {
                if each(self.info(Some(info))?).is_break() {
                    return Ok(());
                }
            }
        }
    }

    fn usage(&self, key: &str) -> Result<Usage, SnapshotError> {
        let message = wire::UsageRequest { snapshotter: self.name.clone(), key: key.to_owned() };
        let answer = self.call(CALL_TIME, key, message, async |mut client, request| client.usage(request).await)?;
        let wire::UsageResponse { size, inodes } = answer.into_inner();
        Ok(Usage { size_bytes: size.try_into().unwrap_or(0), inodes: inodes.try_into().unwrap_or(0) })
    }

    fn cleanup(&self) -> Result<(), SnapshotError> {
        let message = wire::CleanupRequest { snapshotter: self.name.clone() };
        match self.call(CALL_TIME, "", message, async |mut client, request| client.cleanup(request).await) {
            // Many plugins have nothing to clean up.
            Err(SnapshotError::Plugin { kind: Kind::Unimplemented, .. }) => Ok(()),
            answer => answer.map(drop),
        }
    }
}
