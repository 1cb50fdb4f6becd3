//! Images: found, resolved to what this machine runs, and unpacked.

use std::collections::BTreeMap;

use model::Digest;
use model::digest::chain_ids;
use model::platform::Platform;
use proto::services::diff::v1::ApplyRequest;
use proto::services::images::v1::{GetImageRequest, Image};
use proto::services::leases::v1::{CreateRequest, DeleteRequest};
use proto::services::snapshots::v1::{CommitSnapshotRequest, PrepareSnapshotRequest, StatSnapshotRequest};
use proto::types;

use crate::{Client, ClientError};

/// How deep an index may refer to another one.
const MAX_INDEX_DEPTH: usize = 4;

/// How long a lease made here lives if nobody deletes it.
const LEASE_LIFE: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

/// An image as this machine runs it.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The image's name.
    pub name: String,
    /// The descriptor that the name stands for.
    pub target: types::Descriptor,
    /// What the configuration says of the process.
    pub config: ProcessConfig,
    /// The digest of the configuration: what Docker calls the image's id.
    pub config_digest: Digest,
    layers: Vec<types::Descriptor>,
    diff_ids: Vec<Digest>,
}

impl Resolved {
    /// The name of the snapshot that has all layers: the chain id of the OCI image spec, config.md.
    pub fn chain_id(&self) -> Option<String> {
        chain_ids(&self.diff_ids).pop().map(|chain| chain.to_string())
    }

    /// The sum of the layers' sizes as they are stored, in bytes.
    pub fn layers_size(&self) -> i64 {
        self.layers.iter().map(|layer| layer.size).sum()
    }
}

/// What an image's configuration says of the process (OCI image spec, config.md).
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default)]
pub struct ProcessConfig {
    /// The user, as `user[:group]` by name or number.
    #[serde(rename = "User")]
    pub user: String,
    /// `NAME=value` lines.
    #[serde(rename = "Env", deserialize_with = "null_is_empty")]
    pub env: Vec<String>,
    /// The first part of the command line.
    #[serde(rename = "Entrypoint", deserialize_with = "null_is_empty")]
    pub entrypoint: Vec<String>,
    /// The rest of the command line, replaced by what the user gives.
    #[serde(rename = "Cmd", deserialize_with = "null_is_empty")]
    pub cmd: Vec<String>,
    /// The working directory.
    #[serde(rename = "WorkingDir")]
    pub working_dir: String,
    /// The signal that asks the process to end.
    #[serde(rename = "StopSignal")]
    pub stop_signal: String,
}

/// Docker writes `null` where the specification has an empty list.
fn null_is_empty<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let list: Option<Vec<String>> = serde::Deserialize::deserialize(deserializer)?;
    Ok(list.unwrap_or_default())
}

#[derive(serde::Deserialize)]
struct Configuration {
    #[serde(default)]
    config: Option<ProcessConfig>,
    rootfs: RootFs,
}

#[derive(serde::Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<Digest>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonDescriptor {
    #[serde(default)]
    media_type: String,
    digest: Digest,
    size: i64,
    #[serde(default)]
    platform: Option<Platform>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

impl From<JsonDescriptor> for types::Descriptor {
    fn from(json: JsonDescriptor) -> Self {
        Self { media_type: json.media_type, digest: json.digest.into(), size: json.size, annotations: json.annotations }
    }
}

/// A manifest or an index: which one it is, its fields tell.
#[derive(serde::Deserialize)]
struct Document {
    #[serde(default)]
    config: Option<JsonDescriptor>,
    #[serde(default)]
    layers: Vec<JsonDescriptor>,
    #[serde(default)]
    manifests: Vec<JsonDescriptor>,
}

impl Client {
    /// The record of an image.
    ///
    /// # Errors
    /// Not found when there is none of that name.
    pub async fn image(&self, name: &str) -> Result<Image, ClientError> {
        let answer = self.images().get(GetImageRequest { name: name.to_owned() }).await?;
        answer.into_inner().image.ok_or(ClientError::Incomplete("image"))
    }

    /// Resolves an image to the manifest that this machine runs best.
    ///
    /// # Errors
    /// Fails when the image or one of its documents is missing, or when it has nothing for this platform.
    pub async fn resolve(&self, image: &Image) -> Result<Resolved, ClientError> {
        let target = image.target.clone().ok_or(ClientError::Incomplete("target"))?;
        let mut digest = parse_digest(&target.digest)?;
        for _ in 0..MAX_INDEX_DEPTH {
            let document: Document = self.read_json(&digest, "manifest").await?;
            let Some(config) = document.config else {
                digest = choose(document.manifests).ok_or_else(|| {
                    let host = Platform::host().to_text();
                    ClientError::Invalid(format!("image {} has no manifest for {host}", image.name))
                })?;
                continue;
            };
            let configuration: Configuration = self.read_json(&config.digest, "configuration").await?;
            let (layers, diff_ids) = (document.layers, configuration.rootfs.diff_ids);
            if layers.len() != diff_ids.len() {
                let text = format!("image {} has {} layers but {} diff ids", image.name, layers.len(), diff_ids.len());
                return Err(ClientError::Invalid(text));
            }
            return Ok(Resolved {
                name: image.name.clone(),
                target,
                config: configuration.config.unwrap_or_default(),
                config_digest: config.digest,
                layers: layers.into_iter().map(Into::into).collect(),
                diff_ids,
            });
        }
        Err(ClientError::Invalid(format!(
            "image {}: indexes refer to each other more than {MAX_INDEX_DEPTH} deep",
            image.name
        )))
    }

    /// Unpacks what of an image is not unpacked yet, layer after layer.
    ///
    /// # Errors
    /// Fails when a layer is missing or is not what the configuration says; layers before it stay unpacked.
    pub async fn unpack(&self, image: &Resolved, snapshotter: &str) -> Result<(), ClientError> {
        let chain: Vec<String> = chain_ids(&image.diff_ids).iter().map(Digest::to_string).collect();
        let Some(last) = chain.last() else { return Ok(()) };
        if self.has_snapshot(snapshotter, last).await? {
            return Ok(());
        }
        let lease = self.lease().await?;
        let leased = self.with_lease(&lease)?;
        let mut outcome = Ok(());
        for (index, name) in chain.iter().enumerate() {
            let parent = index.checked_sub(1).map(|before| chain[before].as_str()).unwrap_or_default();
            outcome =
                leased.unpack_layer(&image.layers[index], &image.diff_ids[index], snapshotter, name, parent).await;
            if outcome.is_err() {
                break;
            }
        }
        if outcome.is_ok() {
            outcome = leased.hold_snapshot(&image.config_digest, snapshotter, last).await;
        }
        self.end_lease(&lease).await;
        outcome
    }

    async fn unpack_layer(
        &self,
        layer: &types::Descriptor,
        diff_id: &Digest,
        snapshotter: &str,
        name: &str,
        parent: &str,
    ) -> Result<(), ClientError> {
        if self.has_snapshot(snapshotter, name).await? {
            return Ok(());
        }
        let key = format!("extract-{} {name}", unique());
        let prepare = PrepareSnapshotRequest {
            snapshotter: snapshotter.into(),
            key: key.clone(),
            parent: parent.into(),
            ..Default::default()
        };
        let mounts = self.snapshots().prepare(prepare).await?.into_inner().mounts;
        let work = async {
            let apply = ApplyRequest { diff: Some(layer.clone()), mounts, ..Default::default() };
            let applied =
                self.diff().apply(apply).await?.into_inner().applied.ok_or(ClientError::Incomplete("applied layer"))?;
            if applied.digest != diff_id.as_str() {
                return Err(ClientError::Invalid(format!(
                    "layer {} unpacks to {}, its image says {diff_id}",
                    layer.digest, applied.digest
                )));
            }
            let commit = CommitSnapshotRequest {
                snapshotter: snapshotter.into(),
                name: name.into(),
                key: key.clone(),
                ..Default::default()
            };
            match self.snapshots().commit(commit).await {
                Err(status) if status.code() != tonic::Code::AlreadyExists => Err(status.into()),
                _ => Ok(()),
            }
        };
        let outcome: Result<(), ClientError> = work.await;
        if outcome.is_err() {
            let remove = proto::services::snapshots::v1::RemoveSnapshotRequest { snapshotter: snapshotter.into(), key };
            // The lease ends soon and the snapshot with it; the first error is the one to tell.
            let _ = self.snapshots().remove(remove).await;
        }
        outcome
    }

    /// Lets the image's configuration keep the snapshot, as garbage collection expects it (containerd's contract).
    async fn hold_snapshot(&self, config: &Digest, snapshotter: &str, name: &str) -> Result<(), ClientError> {
        let key = format!("containerd.io/gc.ref.snapshot.{snapshotter}");
        let info = proto::services::content::v1::Info {
            digest: config.to_string(),
            labels: BTreeMap::from([(key.clone(), name.to_owned())]),
            ..Default::default()
        };
        let mask = proto::prost_types::FieldMask { paths: vec![format!("labels.{key}")] };
        let update = proto::services::content::v1::UpdateRequest { info: Some(info), update_mask: Some(mask) };
        self.content().update(update).await?;
        Ok(())
    }

    async fn has_snapshot(&self, snapshotter: &str, name: &str) -> Result<bool, ClientError> {
        let request = StatSnapshotRequest { snapshotter: snapshotter.into(), key: name.into() };
        match self.snapshots().stat(request).await {
            Ok(_) => Ok(true),
            Err(status) if status.code() == tonic::Code::NotFound => Ok(false),
            Err(status) => Err(status.into()),
        }
    }

    /// Makes a lease that ends by itself after a day, should nobody end it before.
    ///
    /// # Errors
    /// What the daemon says.
    pub async fn lease(&self) -> Result<String, ClientError> {
        let expire = proto::prost_types::Timestamp::from(std::time::SystemTime::now() + LEASE_LIFE).to_string();
        let labels = BTreeMap::from([("containerd.io/gc.expire".to_owned(), expire)]);
        let answer = self.leases().create(CreateRequest { id: String::new(), labels }).await?;
        Ok(answer.into_inner().lease.ok_or(ClientError::Incomplete("lease"))?.id)
    }

    /// Ends a lease. That it is gone already, or cannot be ended now, changes nothing: it expires by itself.
    pub async fn end_lease(&self, id: &str) {
        let _ = self.leases().delete(DeleteRequest { id: id.to_owned(), sync: false }).await;
    }
}

fn parse_digest(text: &str) -> Result<Digest, ClientError> {
    text.parse().map_err(|error: model::digest::DigestError| ClientError::Invalid(error.to_string()))
}

/// The manifest of an index that this machine runs best. One that names no platform is taken where nothing fits better.
fn choose(manifests: Vec<JsonDescriptor>) -> Option<Digest> {
    let offered = manifests.iter().filter_map(|manifest| Some((manifest.platform.as_ref()?, manifest)));
    let any = || manifests.iter().find(|manifest| manifest.platform.is_none());
    Platform::host().best(offered).or_else(any).map(|manifest| manifest.digest.clone())
}

/// Something no other call of this name has: nanoseconds and the process.
pub(crate) fn unique() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let nanos =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_nanos());
    format!("{nanos}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(digest: &str, platform: Option<(&str, &str)>) -> JsonDescriptor {
        let platform = platform.map(|(architecture, variant)| Platform {
            os: "linux".into(),
            architecture: architecture.into(),
            variant: variant.into(),
        });
        JsonDescriptor {
            media_type: String::new(),
            digest: Digest::sha256(digest.as_bytes()),
            size: 1,
            platform,
            annotations: BTreeMap::new(),
        }
    }

    #[test]
    fn the_manifest_for_this_machine_is_chosen() {
        let host = Platform::host();
        let own = Some((host.architecture.as_str(), host.variant.as_str()));
        let listed = vec![manifest("any", None), manifest("other", Some(("s390x", ""))), manifest("own", own)];
        assert_eq!(choose(listed), Some(Digest::sha256(b"own")));
        assert_eq!(choose(vec![manifest("other", Some(("s390x", "")))]), None);
        assert_eq!(choose(vec![manifest("any", None)]), Some(Digest::sha256(b"any")));
    }
}
