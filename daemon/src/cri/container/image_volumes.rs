//! Images as volumes: their files, read-only, mounted once for all containers of a pod that ask for them.
//!
//! An image is a view of its layers at `<state>/image-volumes/<pod>/<image>`, a mount of the daemon's own that outlives it. It is taken
//! down with the last container of the pod that uses it, or with the machine.

use std::fs::{self, DirBuilder};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use model::Labels;
use model::error::{Classify as _, Kind};
use proto::cri as wire;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use tracing::warn;

use super::super::images::KnownImage;
use super::super::{Cri, CriError, Pod};
use super::known::InUse;
use crate::api::Failure;
use crate::blocking;
use crate::meta::snapshots::{Access, Prepare, SnapshotName};
use crate::mounts;

/// Collection leaves a snapshot with this label alone.
const ROOT_LABEL: &str = "containerd.io/gc.root";

/// The mounts of a container with image volumes found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// As they are put into the specification: image volumes as what they are mounted from.
    pub mounts: Vec<wire::Mount>,
    /// As they are reported.
    pub reported: Vec<wire::Mount>,
    /// The folders that image volumes are mounted on.
    pub folders: Vec<String>,
    /// Keeps them mounted until the container is on record.
    pub held: Vec<InUse>,
}

impl Cri {
    /// Mounts the image volumes among `mounts`. What is mounted is in `found` also when this fails.
    pub(super) async fn find_image_volumes(
        &self,
        pod: &Pod,
        mounts: &[wire::Mount],
        found: &mut Found,
    ) -> Result<(), Failure> {
        for mount in mounts {
            let Some(image) = mount.image.as_ref().filter(|image| !image.image.is_empty()) else {
                if !mount.image_sub_path.is_empty() {
                    return Err(CriError::Invalid("image_sub_path is set for a mount that is no image".into()).into());
                }
                found.mounts.push(mount.clone());
                found.reported.push(mount.clone());
                continue;
            };
            if !mount.host_path.is_empty() {
                return Err(CriError::Invalid("a mount has both a host_path and an image".into()).into());
            }
            let known = self.find_image(&image.image).await?;
            let known = known.ok_or_else(|| CriError::Missing { what: "image", id: image.image.clone() })?;
            let folder = self.folder_of_image(pod, &known);
            // Before it is mounted: from here on nobody takes it down.
            found.held.push(self.inner.containers_known.use_volume(&folder.display().to_string()));
            found.folders.push(folder.display().to_string());
            self.mount_image_volume(pod, &known, &folder).await?;
            let sub_path = mount.image_sub_path.clone();
            let source = blocking::run(move || below(&folder, &sub_path)).await?;
            let mut bind =
                wire::Mount { host_path: source.display().to_string(), readonly: true, image: None, ..mount.clone() };
            bind.image_sub_path.clear();
            found.mounts.push(bind);
            let image = wire::ImageSpec { image_ref: known.reference().to_owned(), ..image.clone() };
            found.reported.push(wire::Mount { image: Some(image), readonly: true, ..mount.clone() });
        }
        Ok(())
    }

    fn image_volumes_of(&self, pod: &str) -> PathBuf {
        self.state().join("image-volumes").join(pod)
    }

    fn folder_of_image(&self, pod: &Pod, image: &KnownImage) -> PathBuf {
        self.image_volumes_of(&pod.id).join(hex(image))
    }

    /// Mounts an image for a pod, if that is not done.
    async fn mount_image_volume(&self, pod: &Pod, image: &KnownImage, folder: &Path) -> Result<(), Failure> {
        let _turn = self.inner.turns.take(&turn(folder)).await;
        let name = SnapshotName {
            namespace: self.inner.namespace.clone(),
            snapshotter: self.snapshotter_of_pod(pod),
            key: view_key(&pod.id, hex(image)),
        };
        let view = self.view_of_image(&name, image).await?;
        let at = folder.to_owned();
        blocking::run(move || {
            let failed = |error: &dyn std::error::Error| {
                CriError::Failed(format!("cannot mount an image on {}: {error}", at.display()))
            };
            if mounts::is_mounted(&at) {
                return Ok(());
            }
            DirBuilder::new().recursive(true).mode(0o711).create(&at).map_err(|error| failed(&error))?;
            mounts::mount_at(&at, &view).map_err(|error| failed(&error))
        })
        .await
        .map_err(Failure::from)
    }

    /// A view of an image, which is unpacked first if need be.
    async fn view_of_image(&self, name: &SnapshotName, image: &KnownImage) -> Result<Vec<model::Mount>, Failure> {
        let parent = image.fact.chain.as_ref().map(ToString::to_string);
        let labels = Labels::from([(ROOT_LABEL.to_owned(), "image-volume".to_owned())]);
        let prepare = || {
            let request =
                Prepare { name: name.clone(), parent: parent.clone(), labels: labels.clone(), access: Access::Read };
            let (meta, scope) = (self.inner.meta.clone(), self.scope());
            blocking::run(move || meta.prepare_snapshot(scope, request))
        };
        match prepare().await {
            Err(error) if error.kind() == Kind::AlreadyExists => {
                let (meta, name) = (self.inner.meta.clone(), name.clone());
                return Ok(blocking::run(move || meta.snapshot_mounts(&name)).await?);
            }
            Err(error) if error.kind() == Kind::NotFound => {}
            outcome => return Ok(outcome?),
        }
        let reference = image.names.first().map_or("", String::as_str);
        self.inner.images.unpack_here(self.scope(), reference, &image.target, &name.snapshotter).await?;
        Ok(prepare().await?)
    }

    /// Takes down what containers used that never came to be. To be called when all records are in the index.
    pub(super) async fn sweep_image_volumes(&self) {
        let folder = self.state().join("image-volumes");
        let found = blocking::run(move || {
            let pods = fs::read_dir(&folder).into_iter().flatten().flatten();
            let volumes = |pod: fs::DirEntry| {
                let name = pod.file_name().into_string().ok()?;
                let all = fs::read_dir(pod.path()).into_iter().flatten().flatten();
                Some((name, all.map(|volume| volume.path().display().to_string()).collect::<Vec<_>>()))
            };
            pods.filter_map(volumes).collect::<Vec<_>>()
        })
        .await;
        for (pod, folders) in found {
            let known = self.inner.index.known_pod(&pod);
            let handler = known.map(|known| known.record().handler.clone()).unwrap_or_default();
            let snapshotter = self.inner.settings.snapshotter_of(&handler).to_owned();
            self.release_image_volumes(&pod, &snapshotter, &folders).await;
        }
    }

    /// Takes down those of `folders` that no container of the pod uses any more, as far as that is possible.
    pub(super) async fn release_image_volumes(&self, pod: &str, snapshotter: &str, folders: &[String]) {
        for folder in folders {
            let path = PathBuf::from(folder);
            // Only what this module made can be meant, whatever a record says.
            if path.parent() != Some(self.image_volumes_of(pod).as_path()) {
                continue;
            }
            let _turn = self.inner.turns.take(&turn(&path)).await;
            let users = self.inner.index.containers_of(pod);
            if self.inner.containers_known.uses_volume(folder)
                || users.iter().any(|container| container.record().image_volumes.contains(folder))
            {
                continue;
            }
            let hex = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            let (meta, scope) = (self.inner.meta.clone(), self.scope());
            let name = SnapshotName {
                namespace: self.inner.namespace.clone(),
                snapshotter: snapshotter.to_owned(),
                key: view_key(pod, &hex),
            };
            blocking::run(move || {
                if let Err(error) = mounts::unmount_at(&path) {
                    return warn!(folder = %path.display(), %error, "an image volume cannot be taken down");
                }
                let _ = fs::remove_dir(&path);
                let _ = path.parent().map(fs::remove_dir);
                match meta.remove_snapshot(scope, name) {
                    Err(error) if error.kind() != Kind::NotFound => warn!(%error, "the view of an image volume stays"),
                    _ => {}
                }
            })
            .await;
        }
    }
}

/// The id of an image as the name of a folder.
fn hex(image: &KnownImage) -> &str {
    image.id().rsplit(':').next().unwrap_or_default()
}

fn turn(folder: &Path) -> String {
    format!("image volume {}", folder.display())
}

fn view_key(pod: &str, image: &str) -> String {
    format!("image-volume-{pod}-{image}")
}

/// The folder `sub_path` of the image mounted at `root`. Its links stay in the image.
fn below(root: &Path, sub_path: &str) -> Result<PathBuf, CriError> {
    if sub_path.is_empty() {
        return Ok(root.to_owned());
    }
    let wrong = |why: &dyn std::fmt::Display| CriError::Invalid(format!("image_sub_path {sub_path:?}: {why}"));
    if sub_path.starts_with('/') || sub_path.split('/').any(|part| part == "..") {
        return Err(wrong(&"it must be a path within the image"));
    }
    let opened =
        openat(CWD, root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).and_then(|root| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            openat2(&root, sub_path, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
        });
    let opened = opened.map_err(|error| wrong(&error))?;
    let path = fs::read_link(format!("/proc/self/fd/{}", opened.as_raw_fd())).map_err(|error| wrong(&error))?;
    let root = root.canonicalize().map_err(|error| wrong(&error))?;
    if path.starts_with(&root) { Ok(path) } else { Err(wrong(&"it leads out of the image")) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn parts_of_an_image_stay_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap().join("root");
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::create_dir(folder.path().join("host")).unwrap();
        fs::write(root.join("file"), "").unwrap();
        symlink("/a", root.join("link")).unwrap();
        symlink("../host", root.join("out")).unwrap();
        for (path, expected) in [
            ("", Some("")),
            ("a/b", Some("a/b")),
            ("link/b", Some("a/b")),
            ("file", None),
            ("missing", None),
            ("out", None),
            ("../host", None),
            ("/a", None),
            ("a/../..", None),
        ] {
            assert_eq!(below(&root, path).ok(), expected.map(|path| root.join(path).components().collect()), "{path}");
        }
    }
}
