//! The load: what clients do when they pull, run and clean up, a few at a time.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use client::Client;
use model::{Digest, Namespace};
use prost_types::Any;
use proto::services::containers::v1::container::Runtime;
use proto::services::containers::v1::{Container, CreateContainerRequest, DeleteContainerRequest};
use proto::services::content::v1::{WriteAction, WriteContentRequest};
use proto::services::diff::v1::ApplyRequest;
use proto::services::images::v1::{CreateImageRequest, Image};
use proto::services::leases::v1 as leases;
use proto::services::snapshots::v1::{CommitSnapshotRequest, PrepareSnapshotRequest};
use proto::types::Descriptor;

use crate::thing::{NAMESPACES, SNAPSHOTTER, archive, bytes, say};

/// Clients at the same time.
const WORKERS: u64 = 3;
/// The most bytes of one content.
const LARGEST: u64 = 400_000;
/// What is sent in one message.
const PIECE: usize = 64 << 10;

/// Works for ever.
pub(crate) async fn work(address: &Path, seed: u64) -> anyhow::Result<()> {
    let workers = (0..WORKERS).map(|number| async move {
        let namespace = NAMESPACES[number as usize % NAMESPACES.len()];
        let client = Client::connect(address, Namespace::new(namespace)?).await?;
        let mut worker = Worker { client, namespace, name: format!("{seed}-{number}"), parent: String::new() };
        for round in 0_u64.. {
            worker.round(round).await.with_context(|| format!("worker {number}, round {round}"))?;
        }
        anyhow::Ok(())
    });
    futures_util::future::try_join_all(workers).await.map(drop)
}

struct Worker {
    client: Client,
    namespace: &'static str,
    name: String,
    parent: String,
}

impl Worker {
    fn acknowledged(&self, what: &str, name: &str) -> anyhow::Result<()> {
        Ok(say(&format!("ACK {what} {} {name}", self.namespace))?)
    }

    async fn round(&mut self, round: u64) -> anyhow::Result<()> {
        let lease = format!("lease-{}-{round}", self.name);
        self.client.leases().create(leases::CreateRequest { id: lease.clone(), ..Default::default() }).await?;
        let leased = self.client.with_lease(&lease)?;

        let name = format!("blob-{}-{round}", self.name);
        let length = 1 + bytes(&name, 8).iter().fold(0, |sum, byte| sum * 256 + u64::from(*byte)) % LARGEST;
        let digest = self.write(&leased, &name, &bytes(&name, length as usize)).await?;
        let image = Image {
            name: format!("image-{}-{round}", self.name),
            target: Some(Descriptor {
                media_type: "application/octet-stream".to_owned(),
                digest: digest.to_string(),
                size: length as i64,
                ..Default::default()
            }),
            ..Default::default()
        };
        let image_name = image.name.clone();
        self.client.images().create(CreateImageRequest { image: Some(image), ..Default::default() }).await?;
        self.acknowledged("image", &format!("{image_name} {digest}"))?;

        self.layer(&leased, round).await?;
        let id = format!("container-{}-{round}", self.name);
        let container = Container {
            id: id.clone(),
            runtime: Some(Runtime { name: "io.containerd.runc.v2".to_owned(), options: None }),
            spec: Some(Any {
                type_url: "types.containerd.io/opencontainers/runtime-spec/1/Spec".to_owned(),
                value: format!("{{\"hostname\":\"{}\"}}", id.repeat(200)).into_bytes(),
            }),
            ..Default::default()
        };
        self.client.containers().create(CreateContainerRequest { container: Some(container) }).await?;
        self.acknowledged("container", &id)?;
        if round % 3 == 2 {
            let id = format!("container-{}-{}", self.name, round - 1);
            // From here until the answer it may be there or not.
            self.acknowledged("maybe-container", &id)?;
            self.client.containers().delete(DeleteContainerRequest { id: id.clone() }).await?;
            self.acknowledged("gone-container", &id)?;
        }
        self.client.leases().delete(leases::DeleteRequest { id: lease, sync: round % 4 == 3 }).await?;
        Ok(())
    }

    async fn write(&self, client: &Client, name: &str, bytes: &[u8]) -> anyhow::Result<Digest> {
        let digest = Digest::sha256(bytes);
        let request = |action: WriteAction, offset: usize, data: &[u8]| WriteContentRequest {
            action: action.into(),
            r#ref: name.to_owned(),
            total: bytes.len() as i64,
            expected: digest.to_string(),
            offset: offset as i64,
            data: data.to_vec().into(),
            ..Default::default()
        };
        let pieces = bytes.chunks(PIECE).enumerate();
        let mut requests: Vec<_> =
            pieces.map(|(number, piece)| request(WriteAction::Write, number * PIECE, piece)).collect();
        requests.push(request(WriteAction::Commit, bytes.len(), &[]));
        let mut answers = client.content().write(tokio_stream::iter(requests)).await?.into_inner();
        let mut committed = false;
        while let Some(answer) = answers.message().await? {
            committed |= answer.action == i32::from(WriteAction::Commit);
        }
        anyhow::ensure!(committed, "the commit was not answered");
        // Without something that holds it, it may be collected as soon as the lease has gone.
        if name.starts_with("blob-") {
            self.acknowledged("content", &format!("{digest} {name} {}", bytes.len()))?;
        }
        Ok(digest)
    }

    /// A layer, unpacked into a snapshot of its own; chains of up to three.
    async fn layer(&mut self, client: &Client, round: u64) -> anyhow::Result<()> {
        let name = format!("layer-{}-{round}", self.name);
        let archive = archive(&name)?;
        let digest = self.write(client, &format!("archive-{name}"), &archive).await?;
        let parent = if round.is_multiple_of(3) { String::new() } else { std::mem::take(&mut self.parent) };
        let key = format!("extract-{name}");
        let labels = BTreeMap::from([("containerd.io/gc.root".to_owned(), "1".to_owned())]);
        let prepare = PrepareSnapshotRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            key: key.clone(),
            parent: parent.clone(),
            labels: labels.clone(),
        };
        let mounts = client.snapshots().prepare(prepare).await?.into_inner().mounts;
        let diff = Descriptor {
            media_type: "application/vnd.oci.image.layer.v1.tar".to_owned(),
            digest: digest.to_string(),
            size: archive.len() as i64,
            ..Default::default()
        };
        client.diff().apply(ApplyRequest { diff: Some(diff), mounts, ..Default::default() }).await?;
        let commit = CommitSnapshotRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            name: name.clone(),
            key,
            labels,
            ..Default::default()
        };
        client.snapshots().commit(commit).await?;
        self.acknowledged("snapshot", &name)?;
        self.parent = name;
        Ok(())
    }
}
