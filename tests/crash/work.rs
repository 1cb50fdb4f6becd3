//! What the clients do: one of everything that writes, in the order of a real client.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use client::Client;
use model::{Digest, Namespace};
use prost_types::Any;
use proto::services::containers::v1::container::Runtime;
use proto::services::containers::v1::{Container, CreateContainerRequest, DeleteContainerRequest};
use proto::services::content::v1::{WriteAction, WriteContentRequest};
use proto::services::images::v1::{CreateImageRequest, DeleteImageRequest, Image};
use proto::services::leases::v1 as leases;
use proto::services::snapshots::v1::{CommitSnapshotRequest, PrepareSnapshotRequest, RemoveSnapshotRequest};
use proto::types::Descriptor;
use tonic::Status;

use crate::daemon::Daemon;
use crate::ledger::{Kind, Ledger, Thing};

const SNAPSHOTTER: &str = "overlayfs";

/// How long the workers may take to come to a point.
const POINT_LIMIT: Duration = Duration::from_secs(30);

/// A client. It never uses a name twice, so that nothing is in its way that an earlier life left.
pub(crate) struct Worker {
    number: u64,
    round: u64,
    /// The last snapshot that it is sure of.
    parent: Option<String>,
}

/// Lets the workers work and kills the daemon at `moment`. A call that fails before that is a failure of the test.
pub(crate) async fn until_killed(
    workers: &mut [Worker],
    daemon: &mut Daemon,
    ledger: &Ledger,
    moment: Duration,
) -> anyhow::Result<()> {
    let killed = AtomicBool::new(false);
    let address = daemon.address();
    let work = workers.iter_mut().map(|worker| {
        let (killed, address) = (&killed, &address);
        async move {
            let client = Client::connect(address, Namespace::new(worker.namespace())?).await?;
            loop {
                worker.round += 1;
                if let Err(status) = worker.round(&client, ledger).await {
                    if killed.load(Ordering::SeqCst) {
                        return anyhow::Ok(());
                    }
                    return Err(status).with_context(|| format!("worker {}, round {}", worker.number, worker.round));
                }
            }
        }
    });
    let kill = async {
        tokio::time::sleep(moment).await;
        killed.store(true, Ordering::SeqCst);
        daemon.kill()
    };
    let (worked, killed) = tokio::join!(futures_util::future::join_all(work), kill);
    killed?;
    worked.into_iter().collect()
}

/// Lets the workers work until the daemon has ended at the point it was started for. Each of them notices.
pub(crate) async fn until_ended(workers: &mut [Worker], daemon: &mut Daemon, ledger: &Ledger) -> anyhow::Result<()> {
    let address = daemon.address();
    let work = workers.iter_mut().map(|worker| {
        let address = &address;
        async move {
            let Ok(client) = Client::connect(address, Namespace::new(worker.namespace())?).await else { return Ok(()) };
            loop {
                worker.round += 1;
                if worker.round(&client, ledger).await.is_err() {
                    return anyhow::Ok(());
                }
            }
        }
    });
    let mut working = std::pin::pin!(futures_util::future::join_all(work));
    let ended = tokio::select! {
        // They end with the daemon, or because of something else: what of it is seen below.
        worked = &mut working => {
            worked.into_iter().collect::<anyhow::Result<()>>()?;
            daemon.ended(POINT_LIMIT).await
        }
        ended = daemon.ended(POINT_LIMIT) => ended,
    };
    let status = ended.context("the point was not reached: are the programs built with their points (make build)?")?;
    anyhow::ensure!(std::os::unix::process::ExitStatusExt::signal(&status) == Some(9), "gantryd ended with {status}");
    Ok(())
}

/// Returns when everything was collected: what waits for that is the removal of a lease.
pub(crate) async fn collect(address: &Path) -> anyhow::Result<()> {
    let client = Client::connect(address, Namespace::new("ns0")?).await?;
    let id = "last".to_owned();
    client.leases().create(leases::CreateRequest { id: id.clone(), ..Default::default() }).await?;
    client.leases().delete(leases::DeleteRequest { id, sync: true }).await?;
    Ok(())
}

impl Worker {
    pub(crate) fn new(number: u64) -> Self {
        Self { number, round: 0, parent: None }
    }

    /// Two workers share a namespace.
    fn namespace(&self) -> String {
        format!("ns{}", self.number % 2)
    }

    fn name(&self, what: &str, round: u64) -> String {
        format!("{what}-{}-{round}", self.number)
    }

    fn thing(&self, kind: Kind, name: &str) -> Thing {
        Thing { namespace: self.namespace(), kind, name: name.to_owned() }
    }

    fn content(&self, round: u64) -> Vec<u8> {
        let length = if round.is_multiple_of(4) { 300_000 } else { 900 };
        let line = format!("content {} {round}\n", self.number);
        line.bytes().cycle().take(length).collect()
    }

    async fn round(&mut self, client: &Client, ledger: &Ledger) -> Result<(), Status> {
        let round = self.round;
        let lease = self.name("lease", round);
        let request = leases::CreateRequest { id: lease.clone(), ..Default::default() };
        ledger.change(self.thing(Kind::Lease, &lease), true, client.leases().create(request)).await?;
        let leased = client.with_lease(&lease).expect("it is ASCII");

        let digest = self.write_content(&leased, ledger, round).await?;
        let image = Image {
            name: self.name("image", round),
            target: Some(Descriptor {
                media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
                digest: digest.to_string(),
                size: 1,
                ..Default::default()
            }),
            ..Default::default()
        };
        let thing = self.thing(Kind::Image, &image.name);
        let request = CreateImageRequest { image: Some(image), ..Default::default() };
        ledger.change(thing, true, client.images().create(request)).await?;

        self.make_snapshot(&leased, ledger, round).await?;
        self.create_container(client, ledger, round).await?;
        if round.is_multiple_of(3) && round > 1 {
            let id = self.name("container", round - 1);
            let thing = self.thing(Kind::Container, &id);
            // In the first round of a life the container of the round before may never have come to be.
            let mut containers = client.containers();
            let delete = containers.delete(DeleteContainerRequest { id });
            ledger.change(thing, false, absent_is_fine(delete)).await?;
        }
        if round.is_multiple_of(5) && round > 2 {
            self.collect(client, ledger, round - 2).await?;
        }
        Ok(())
    }

    async fn write_content(&self, client: &Client, ledger: &Ledger, round: u64) -> Result<Digest, Status> {
        let bytes = self.content(round);
        let digest = Digest::sha256(&bytes);
        let first = WriteContentRequest {
            action: WriteAction::Write.into(),
            r#ref: self.name("ref", round),
            total: bytes.len() as i64,
            expected: digest.to_string(),
            data: bytes.clone().into(),
            ..Default::default()
        };
        let last = WriteContentRequest {
            action: WriteAction::Commit.into(),
            total: bytes.len() as i64,
            expected: digest.to_string(),
            offset: bytes.len() as i64,
            ..Default::default()
        };
        let call = async {
            let mut answers = client.content().write(tokio_stream::iter([first, last])).await?.into_inner();
            let mut committed = false;
            while let Some(answer) = answers.message().await? {
                committed |= answer.action == i32::from(WriteAction::Commit);
            }
            if committed { Ok(()) } else { Err(Status::internal("the commit was not answered")) }
        };
        ledger.change(self.thing(Kind::Content, digest.as_str()), true, call).await?;
        Ok(digest)
    }

    /// Chains of up to four, and now and then one that is thrown away.
    async fn make_snapshot(&mut self, client: &Client, ledger: &Ledger, round: u64) -> Result<(), Status> {
        let (key, name) = (self.name("active", round), self.name("layer", round));
        let parent = self.parent.take().filter(|_| !round.is_multiple_of(4)).unwrap_or_default();
        let kept = BTreeMap::from([("containerd.io/gc.root".to_owned(), "1".to_owned())]);
        let prepare = PrepareSnapshotRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            key: key.clone(),
            parent,
            labels: kept.clone(),
        };
        let active = self.thing(Kind::Snapshot, &key);
        ledger.change(active.clone(), true, client.snapshots().prepare(prepare)).await?;
        if round.is_multiple_of(3) {
            let remove = RemoveSnapshotRequest { snapshotter: SNAPSHOTTER.to_owned(), key };
            ledger.change(active, false, client.snapshots().remove(remove)).await?;
            return Ok(());
        }
        let commit = CommitSnapshotRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            name: name.clone(),
            key,
            labels: kept,
            ..Default::default()
        };
        ledger.forget(&active);
        ledger.change(self.thing(Kind::Snapshot, &name), true, client.snapshots().commit(commit)).await?;
        ledger.gone(active);
        self.parent = Some(name);
        Ok(())
    }

    async fn create_container(&self, client: &Client, ledger: &Ledger, round: u64) -> Result<(), Status> {
        let id = self.name("container", round);
        let thing = self.thing(Kind::Container, &id);
        let container = Container {
            runtime: Some(Runtime { name: "io.containerd.runc.v2".to_owned(), options: None }),
            spec: Some(spec(&id)),
            id,
            ..Default::default()
        };
        let request = CreateContainerRequest { container: Some(container) };
        ledger.change(thing, true, client.containers().create(request)).await?;
        Ok(())
    }

    /// Takes an image and its lease away: when that is acknowledged, its content is gone, too.
    async fn collect(&self, client: &Client, ledger: &Ledger, round: u64) -> Result<(), Status> {
        let content = self.thing(Kind::Content, Digest::sha256(&self.content(round)).as_str());
        let (image, lease) = (self.name("image", round), self.name("lease", round));
        ledger.forget(&content);
        let thing = self.thing(Kind::Image, &image);
        let mut images = client.images();
        let delete = images.delete(DeleteImageRequest { name: image, ..Default::default() });
        ledger.change(thing, false, absent_is_fine(delete)).await?;
        let thing = self.thing(Kind::Lease, &lease);
        let mut records = client.leases();
        let delete = records.delete(leases::DeleteRequest { id: lease, sync: true });
        ledger.change(thing, false, absent_is_fine(delete)).await?;
        ledger.gone(content);
        Ok(())
    }
}

/// The specification of a container: large enough to be kept in pieces.
pub(crate) fn spec(id: &str) -> Any {
    Any {
        type_url: "types.containerd.io/opencontainers/runtime-spec/1/Spec".to_owned(),
        value: format!("{{\"hostname\":\"{}\"}}", id.repeat(900)).into_bytes(),
    }
}

async fn absent_is_fine<T>(call: impl Future<Output = Result<T, Status>>) -> Result<(), Status> {
    match call.await {
        Err(status) if status.code() == tonic::Code::NotFound => Ok(()),
        answer => answer.map(drop),
    }
}
