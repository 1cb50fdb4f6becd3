//! What the daemon acknowledged, and whether it keeps its word.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};

use anyhow::{Context as _, ensure};
use client::Client;
use model::{Digest, Namespace};
use proto::services::containers::v1::GetContainerRequest;
use proto::services::content::v1::InfoRequest;
use proto::services::images::v1::GetImageRequest;
use proto::services::snapshots::v1::StatSnapshotRequest;
use tonic::{Code, Status};

/// A thing in the daemon, by its namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Thing {
    pub(crate) namespace: String,
    pub(crate) kind: Kind,
    pub(crate) name: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Container,
    Content,
    Image,
    Lease,
    Snapshot,
}

/// What was acknowledged: whether each thing is there. A thing that is being changed is not in it, since a kill may come
/// before or after the change.
#[derive(Default)]
pub(crate) struct Ledger {
    things: Mutex<BTreeMap<Thing, bool>>,
}

impl Ledger {
    /// Runs a change of `thing`, and notes that it then is `there` if that was acknowledged.
    pub(crate) async fn change<T>(
        &self,
        thing: Thing,
        there: bool,
        call: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        self.things().remove(&thing);
        let answer = call.await?;
        self.things().insert(thing, there);
        Ok(answer)
    }

    /// Forgets what cannot be known: it is being collected, or not.
    pub(crate) fn forget(&self, thing: &Thing) {
        self.things().remove(thing);
    }

    /// Notes that a thing is gone.
    pub(crate) fn gone(&self, thing: Thing) {
        self.things().insert(thing, false);
    }

    /// How many things are there, and how many are gone.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let things = self.things();
        let there = things.values().filter(|there| **there).count() as u64;
        (there, things.len() as u64 - there)
    }

    /// Asks the daemon for every thing.
    pub(crate) async fn verify(&self, address: PathBuf) -> anyhow::Result<()> {
        let things = self.things().clone();
        let mut clients = BTreeMap::new();
        for (thing, there) in things {
            if !clients.contains_key(&thing.namespace) {
                let client = Client::connect(&address, Namespace::new(thing.namespace.as_str())?).await?;
                clients.insert(thing.namespace.clone(), client);
            }
            let client = &clients[&thing.namespace];
            let found = match ask(client, &thing).await {
                Ok(()) => true,
                Err(error) => match error.downcast_ref::<Status>() {
                    Some(status) if status.code() == Code::NotFound => false,
                    _ => return Err(error).with_context(|| format!("{thing:?}")),
                },
            };
            ensure!(found == there, "{thing:?} is there: {found}, acknowledged as there: {there}");
        }
        Ok(())
    }

    fn things(&self) -> MutexGuard<'_, BTreeMap<Thing, bool>> {
        self.things.lock().expect("nobody panics with it")
    }
}

async fn ask(client: &Client, thing: &Thing) -> anyhow::Result<()> {
    let name = thing.name.clone();
    match thing.kind {
        Kind::Container => {
            let answer = client.containers().get(GetContainerRequest { id: name.clone() }).await?.into_inner();
            let spec = answer.container.and_then(|container| container.spec).context("it has a specification")?;
            ensure!(spec.value == crate::work::spec(&name).value, "its specification is another");
        }
        Kind::Content => {
            let info = client.content().info(InfoRequest { digest: name.clone() }).await?.into_inner();
            let digest: Digest = name.parse()?;
            let bytes = client.read_document(&digest).await?;
            ensure!(Digest::sha256(&bytes) == digest, "it is not what its name says");
            ensure!(info.info.context("it has information")?.size == bytes.len() as i64, "its size is another");
        }
        Kind::Image => drop(client.images().get(GetImageRequest { name }).await?),
        Kind::Lease => {
            let request = proto::services::leases::v1::ListResourcesRequest { id: name };
            drop(client.leases().list_resources(request).await?);
        }
        Kind::Snapshot => {
            let request = StatSnapshotRequest { snapshotter: "overlayfs".to_owned(), key: name };
            drop(client.snapshots().stat(request).await?);
        }
    }
    Ok(())
}
