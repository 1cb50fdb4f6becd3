//! Checkpoints: what a shim saved of a task, as content, and back (containerd's contract).
//!
//! A checkpoint is two blobs: the folder that the executor wrote, as an archive, and the container's spec. With a folder of the
//! client's in the options there are none: the files stay there. What goes wrong half-way leaves no folder, and blobs that the lease of the
//! caller, or nobody, holds.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use model::error::{Classify, Kind, io_kind};
use model::{Descriptor, Labels, Mount, Namespace};
use proto::prost::Message as _;
use proto::prost_types::Any;
use proto::runc::v1::CheckpointOptions;
use snapshotter::layer::{self, Durability, Encoding, LayerError, Limits, Target, Whiteouts};
use tempfile::TempDir;

use crate::api::Scope;
use crate::blocking;
use crate::meta::Meta;
use crate::meta::content::ContentError;
use crate::meta::content::write::{Commit, Open};
use crate::meta::layers::{LayersError, MakeDiff};
use crate::mounts::MountDir;
use crate::tasks::{TaskError, Tasks};

/// The media type of what the executor wrote.
pub const MEDIA_TYPE: &str = "application/vnd.containerd.container.criu.checkpoint.criu.tar";
/// The media type of the spec.
const SPEC_MEDIA_TYPE: &str = "application/vnd.containerd.container.checkpoint.config.v1+proto";
/// The type of the archive, as layers have it: it is not compressed.
const ARCHIVE: &str = "application/vnd.oci.image.layer.v1.tar";

/// Why a task could not be saved, or its checkpoint not be opened.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The shim refused, or there is no such task.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// The options are of another type.
    #[error("invalid task checkpoint option for {found:?}")]
    Options {
        /// Their type.
        found: String,
    },
    /// The descriptor is of something else.
    #[error("unsupported checkpoint type {found:?}")]
    MediaType {
        /// Its type.
        found: String,
    },
    /// A folder for it cannot be made.
    #[error("cannot make a folder for the checkpoint")]
    Folder(#[source] std::io::Error),
    /// It cannot be archived or stored.
    #[error("cannot store the checkpoint")]
    Store(#[from] LayersError),
    /// The spec cannot be stored, or the archive not be read.
    #[error("checkpoint content")]
    Content(#[from] ContentError),
    /// The archive cannot be unpacked.
    #[error("cannot unpack the checkpoint")]
    Unpack(#[from] LayerError),
}

impl Classify for CheckpointError {
    fn kind(&self) -> Kind {
        match self {
            Self::Task(error) => error.kind(),
            Self::Options { .. } | Self::MediaType { .. } => Kind::InvalidArgument,
            Self::Folder(error) => io_kind(error),
            Self::Store(error) => error.kind(),
            Self::Content(error) => error.kind(),
            Self::Unpack(error) => error.kind(),
        }
    }
}

/// Makes checkpoints and opens them. Clones are the same.
#[derive(Debug, Clone)]
pub struct Checkpoints {
    tasks: Tasks,
    meta: Meta,
    mounts: MountDir,
}

impl Checkpoints {
    /// Checkpoints of `tasks`, kept in the content of `meta`.
    pub fn new(tasks: Tasks, meta: Meta, mounts: MountDir) -> Self {
        Self { tasks, meta, mounts }
    }

    /// Saves a task. Answers with the archive and the spec, or with nothing if the options name a folder to save it to.
    ///
    /// # Errors
    /// See [`CheckpointError`].
    pub async fn save(&self, scope: Scope, id: &str, options: Option<Any>) -> Result<Vec<Descriptor>, CheckpointError> {
        let image_path = image_path(options.as_ref())?;
        if !image_path.is_empty() {
            self.tasks.checkpoint(scope.namespace, id, Path::new(&image_path), options).await?;
            return Ok(Vec::new());
        }
        let folder = blocking::run(|| folder(None)).await?;
        let spec = self.tasks.checkpoint(scope.namespace.clone(), id, folder.path(), options).await?;
        let (meta, mounts) = (self.meta.clone(), self.mounts.clone());
        blocking::run(move || {
            let make = MakeDiff {
                left: Vec::new(),
                right: vec![Mount {
                    kind: "bind".into(),
                    source: folder.path().display().to_string(),
                    options: vec!["rbind".into(), "ro".into()],
                    ..Mount::default()
                }],
                media_type: ARCHIVE.into(),
                reference: String::new(),
                labels: Labels::new(),
                source_date_epoch: None,
            };
            let archive = meta.make_diff(scope.clone(), make, &mounts)?;
            let spec = write_blob(&meta, scope, &spec.encode_to_vec())?;
            Ok(vec![Descriptor { media_type: MEDIA_TYPE.into(), ..archive }, spec])
        })
        .await
    }

    /// Unpacks a checkpoint into a folder, which goes with the value.
    ///
    /// # Errors
    /// See [`CheckpointError`].
    pub async fn open(&self, namespace: &Namespace, checkpoint: Descriptor) -> Result<TempDir, CheckpointError> {
        if checkpoint.media_type != MEDIA_TYPE {
            return Err(CheckpointError::MediaType { found: checkpoint.media_type });
        }
        let (meta, namespace, scratch) = (self.meta.clone(), namespace.clone(), self.tasks.scratch());
        blocking::run(move || {
            let blob = meta.content_reader(&namespace, checkpoint.digest)?;
            let folder = folder(Some(&scratch))?;
            let target = Target { dir: folder.path().to_owned(), whiteouts: Whiteouts::Delete, parents: Vec::new() };
            let encoding = Encoding::from_media_type(ARCHIVE).expect("plain archives are known");
            layer::apply(blob, encoding, &target, &Limits::default(), Durability::Later)?;
            Ok(folder)
        })
        .await
    }
}

/// The folder of the client's that the options name; empty if there is none.
fn image_path(options: Option<&Any>) -> Result<String, CheckpointError> {
    let Some(options) = options else { return Ok(String::new()) };
    match proto::any::unpack::<CheckpointOptions>(options) {
        Ok(Some(options)) => Ok(options.image_path),
        // Those of another runtime are for its shim to understand.
        Ok(None) => Ok(String::new()),
        Err(_) => Err(CheckpointError::Options { found: options.type_url.clone() }),
    }
}

/// A folder in `place`, or in the place for temporary files. What a process had in memory is nobody else's to read.
fn folder(place: Option<&Path>) -> Result<TempDir, CheckpointError> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("gantry-checkpoint-");
    let made = match place {
        Some(place) => std::fs::create_dir_all(place).and_then(|()| builder.tempdir_in(place)),
        None => builder.tempdir(),
    };
    made.map_err(CheckpointError::Folder)
}

fn write_blob(meta: &Meta, scope: Scope, bytes: &[u8]) -> Result<Descriptor, CheckpointError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let open = Open { reference: format!("checkpoint-{now}"), total: bytes.len() as u64, expected: None };
    let mut writer = meta.open_writer(scope, open)?;
    writer.append(bytes)?;
    let digest = match writer.commit(Commit::default()) {
        Ok(digest) | Err(ContentError::AlreadyExists { digest }) => digest,
        Err(error) => return Err(error.into()),
    };
    let size = bytes.len() as u64;
    Ok(Descriptor { media_type: SPEC_MEDIA_TYPE.into(), digest, size, annotations: Labels::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_of_a_client_is_read_off_the_options() {
        let options = |path: &str| CheckpointOptions { image_path: path.into(), exit: true, ..Default::default() };
        assert_eq!(image_path(None).unwrap(), "");
        for path in ["", "/a/b"] {
            assert_eq!(image_path(Some(&proto::any::pack(&options(path)))).unwrap(), path);
        }
        let foreign = Any { type_url: "io.example/Options".into(), value: vec![1, 2, 3] };
        assert_eq!(image_path(Some(&foreign)).unwrap(), "");
        let broken = Any { value: vec![0xff], ..proto::any::pack(&options("/a")) };
        assert_eq!(image_path(Some(&broken)).unwrap_err().kind(), Kind::InvalidArgument);
    }
}
