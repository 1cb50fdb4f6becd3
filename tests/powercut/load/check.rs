//! The check: all that was acknowledged is there, and all that is there is whole, acknowledged or not.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, ensure};
use client::Client;
use client::rootfs::Mounted;
use model::{Digest, Namespace};
use proto::services::containers::v1::GetContainerRequest;
use proto::services::content::v1::{ListContentRequest, ReadContentRequest};
use proto::services::images::v1::GetImageRequest;
use proto::services::snapshots::v1::{
    Kind, ListSnapshotsRequest, RemoveSnapshotRequest, StatSnapshotRequest, ViewSnapshotRequest,
};
use tonic::{Code, Status};

use crate::thing::{NAMESPACES, SNAPSHOTTER, bytes, files, say};

/// Larger than any file of a layer.
const FILE_LIMIT: u64 = 1 << 20;

/// Gives how much was looked at.
pub(crate) async fn check(address: &Path, file: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let mut counts = [0; 3];
    let mut bad = 0;
    for namespace in NAMESPACES {
        let client = Client::connect(address, Namespace::new(namespace)?).await?;
        let mut check = Check { client, bad: Vec::new() };
        counts[0] += check.acknowledged(&of_namespace(&text, namespace)).await?;
        counts[1] += check.contents().await?;
        counts[2] += check.snapshots().await?;
        let found = check.bad.len();
        for line in check.bad.drain(..) {
            say(&format!("BAD {namespace}: {line}"))?;
        }
        bad += found;
        // It must be able to find fault.
        let never = BTreeMap::from([(("image", "never made"), ("image", ""))]);
        check.acknowledged(&never).await?;
        ensure!(check.bad.len() == 1, "the check does not notice what is missing");
    }
    say("SELF-TEST ok")?;
    ensure!(bad == 0, "{bad} findings");
    Ok(format!("{} acknowledged, {} contents, {} snapshots", counts[0], counts[1], counts[2]))
}

/// What was acknowledged last of each thing.
type Acknowledged<'a> = BTreeMap<(&'a str, &'a str), (&'a str, &'a str)>;

fn of_namespace<'a>(text: &'a str, namespace: &str) -> Acknowledged<'a> {
    let mut all = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.splitn(4, ' ');
        let (Some(what), Some(of), Some(name)) = (words.next(), words.next(), words.next()) else { continue };
        if of == namespace {
            let kind = what.strip_prefix("gone-").or(what.strip_prefix("maybe-")).unwrap_or(what);
            all.insert((kind, name), (what, words.next().unwrap_or_default()));
        }
    }
    all
}

struct Check {
    client: Client,
    bad: Vec<String>,
}

impl Check {
    async fn acknowledged(&mut self, all: &Acknowledged<'_>) -> anyhow::Result<u64> {
        for ((kind, name), (what, rest)) in all {
            let there = match *kind {
                "container" => {
                    found(self.client.containers().get(GetContainerRequest { id: (*name).to_owned() }).await)?
                }
                "image" => found(self.client.images().get(GetImageRequest { name: (*name).to_owned() }).await)?,
                "snapshot" => {
                    let request = StatSnapshotRequest { snapshotter: SNAPSHOTTER.to_owned(), key: (*name).to_owned() };
                    found(self.client.snapshots().stat(request).await)?
                }
                "content" => {
                    let (blob, length) = rest.split_once(' ').context("a content has a name and a length")?;
                    let expected = bytes(blob, length.parse()?);
                    match self.read(name).await {
                        Ok(found) => {
                            if found != expected {
                                self.bad.push(format!("{what} {name} is not what was written"));
                            }
                            true
                        }
                        Err(status) if status.code() == Code::NotFound => false,
                        Err(status) => {
                            self.bad.push(format!("{what} {name} cannot be read: {}", status.message()));
                            true
                        }
                    }
                }
                other => anyhow::bail!("{other} is no kind of thing"),
            };
            if there == what.starts_with("gone-") && !what.starts_with("maybe-") {
                self.bad.push(format!("{what} {name}: there is {}", if there { "one" } else { "none" }));
            }
        }
        Ok(all.len() as u64)
    }

    async fn read(&self, digest: &str) -> Result<Vec<u8>, Status> {
        let request = ReadContentRequest { digest: digest.to_owned(), offset: 0, size: 0 };
        let mut pieces = self.client.content().read(request).await?.into_inner();
        let mut all = Vec::new();
        while let Some(piece) = pieces.message().await? {
            all.extend_from_slice(&piece.data);
        }
        Ok(all)
    }

    /// Every content that is recorded has the digest that it is recorded under.
    async fn contents(&mut self) -> anyhow::Result<u64> {
        let mut digests = BTreeSet::new();
        let mut pages = self.client.content().list(ListContentRequest::default()).await?.into_inner();
        while let Some(page) = pages.message().await? {
            digests.extend(page.info.into_iter().map(|info| info.digest));
        }
        for digest in &digests {
            match self.read(digest).await {
                Ok(bytes) if Digest::sha256(&bytes).as_str() == digest => {}
                Ok(bytes) => self.bad.push(format!("content {digest} hashes differently, {} bytes", bytes.len())),
                Err(status) => {
                    self.bad.push(format!("content {digest} is listed, but cannot be read: {}", status.message()));
                }
            }
        }
        Ok(digests.len() as u64)
    }

    /// Every committed snapshot has all files of its layer, as they were.
    async fn snapshots(&mut self) -> anyhow::Result<u64> {
        let mut names = BTreeSet::new();
        let request = ListSnapshotsRequest { snapshotter: SNAPSHOTTER.to_owned(), ..Default::default() };
        let mut pages = self.client.snapshots().list(request).await?.into_inner();
        while let Some(page) = pages.message().await? {
            let committed = page.info.into_iter().filter(|info| info.kind() == Kind::Committed);
            names.extend(committed.map(|info| info.name).filter(|name| name.starts_with("layer-")));
        }
        for name in &names {
            if let Err(error) = self.snapshot(name).await {
                self.bad.push(format!("snapshot {name}: {error:#}"));
            }
        }
        Ok(names.len() as u64)
    }

    async fn snapshot(&self, name: &str) -> anyhow::Result<()> {
        let key = format!("look-{name}");
        let view = ViewSnapshotRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            key: key.clone(),
            parent: name.to_owned(),
            ..Default::default()
        };
        let mounts = self.client.snapshots().view(view).await?.into_inner().mounts;
        let mounts: Vec<model::Mount> = mounts
            .into_iter()
            .map(|mount| model::Mount {
                kind: mount.r#type,
                source: mount.source,
                target: mount.target,
                options: mount.options,
            })
            .collect();
        let looked = (|| {
            let mounted = Mounted::new(&mounts)?;
            for (path, length) in files(name) {
                let found = mounted.read(&path, FILE_LIMIT)?;
                ensure!(
                    found == bytes(&path, length),
                    "{path} has {} bytes, and they are not what was unpacked",
                    found.len()
                );
            }
            Ok(())
        })();
        let remove = RemoveSnapshotRequest { snapshotter: SNAPSHOTTER.to_owned(), key };
        self.client.snapshots().remove(remove).await?;
        looked
    }
}

fn found<T>(answer: Result<T, Status>) -> anyhow::Result<bool> {
    match answer {
        Ok(_) => Ok(true),
        Err(status) if status.code() == Code::NotFound => Ok(false),
        Err(status) => Err(status.into()),
    }
}
