//! Pulls that go well.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};

use futures_util::future::join_all;
use model::Digest;
use proto::services::images::v1::ListImagesRequest;
use proto::services::images::v1::images_client::ImagesClient;
use proto::services::transfer::v1::TransferRequest;
use proto::services::transfer::v1::transfer_client::TransferClient;

use crate::client::{
    Left, content, folders, image_names, images, ingests, leases, pull, registry, reported, snapshots, store, transfer,
};
use crate::fake::Fake;
use crate::fixtures::{Compress, INDEX, Made, layer, noise, root, two_layers};
use crate::registry::Registry;
use crate::server::{Server, of};

#[tokio::test(flavor = "multi_thread")]
async fn what_was_pushed_is_pulled_and_unpacked_however_it_is_compressed() {
    let Some(remote) = Registry::start() else { return };
    let server = Server::start().await;
    for compress in [Compress::Gzip, Compress::Zstd, Compress::No] {
        let mut made = Made::default();
        let extra = layer(&[("extra", format!("{compress:?}").as_bytes())]);
        let [below, above] = two_layers();
        let image = made.image("amd64", &[below, above, extra], compress);
        let name = remote.push(&made, &image.manifest, &format!("{compress:?}:t").to_lowercase());
        pull(&server, &name).await.unwrap();

        let record = images(&server).await.into_iter().find(|image| image.name == name).unwrap();
        assert_eq!(record.target.unwrap().digest, image.manifest);
        let labels = content(&server, &image.manifest).await.unwrap().labels;
        assert_eq!(labels["containerd.io/gc.ref.content.config"], image.config);
        for (at, layer) in image.layers.iter().enumerate() {
            assert_eq!(labels[&format!("containerd.io/gc.ref.content.l.{at}")], *layer);
        }
        let source = format!("containerd.io/distribution.source.{}", remote.host);
        assert!(labels.contains_key(&source), "{labels:?}");
        let labels = content(&server, &image.config).await.unwrap().labels;
        assert_eq!(labels["containerd.io/gc.ref.snapshot.overlayfs"], *image.chain.last().unwrap());
        let labels = content(&server, &image.layers[0]).await.unwrap().labels;
        assert!(labels[&source].contains(&format!("{compress:?}").to_lowercase()), "{labels:?}");
        assert_eq!(labels["containerd.io/uncompressed"], image.chain[0]);

        let folders = folders(&server, image.chain.last().unwrap()).await;
        assert_eq!(folders.len(), 3);
        assert_eq!(std::fs::read(folders[0].join("extra")).unwrap(), format!("{compress:?}").as_bytes());
        assert_eq!(std::fs::read(folders[1].join("etc/new")).unwrap(), b"new");
        let whiteout = std::fs::symlink_metadata(folders[1].join("etc/old")).unwrap();
        assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
        assert_eq!(std::fs::metadata(folders[2].join("etc/old")).unwrap().mode() & 0o7777, 0o640);
    }
    assert_eq!((ingests(&server).await.len(), leases(&server).await), (0, 0));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_reports_what_it_does() {
    if !root() {
        return;
    }
    let mut made = Made::default();
    let image = made.image("amd64", &two_layers(), Compress::Gzip);
    let (server, fake) = (Server::start().await, Fake::of(&made, &image.manifest).await);
    let name = fake.name("a/b:t");
    let (outcome, progress) = reported(&server, &registry(&name), &store(&name)).await;
    outcome.unwrap();
    let events: Vec<_> = progress.iter().map(|one| (one.event.as_str(), one.name.as_str())).collect();
    let first_and_last = (events[0].0.to_owned(), events[events.len() - 1].0.to_owned());
    let whole = format!("OCI Registry ({name})");
    assert_eq!(first_and_last, (format!("Resolving from {whole}"), format!("Completed pull from {whole}")));
    assert!(events.contains(&("fetching image content", &name)), "{events:?}");
    assert!(events.contains(&("saved", &name)), "{events:?}");
    let layer = format!("layer-{}", image.layers[0]);
    let last = progress.iter().rfind(|one| one.name == layer).unwrap();
    let size = i64::try_from(made.blobs[&image.layers[0]].len()).unwrap();
    assert_eq!((last.event.as_str(), last.progress, last.total), ("extracted", size, size));
    assert_eq!(last.parents, [format!("manifest-{}", image.manifest)]);
    let manifest = progress.iter().rfind(|one| one.name == last.parents[0]).unwrap();
    assert_eq!(manifest.parents, [name.as_str()]);
    assert_eq!(last.desc.as_ref().unwrap().digest, image.layers[0]);

    let (outcome, progress) = reported(&server, &registry(&name), &store(&name)).await;
    outcome.unwrap();
    let manifest = progress.iter().rfind(|one| one.name.starts_with("manifest-")).unwrap();
    assert_eq!(manifest.event, "already exists");
    assert_eq!(fake.blob_requests(&image.layers[0]).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_index_the_image_for_this_machine_is_taken() {
    let Some(remote) = Registry::start() else { return };
    let server = Server::start().await;
    let mut made = Made::default();
    let here = made.image("amd64", &two_layers(), Compress::Gzip);
    let other = made.image("s390x", &[layer(&[("s390x", b"")])], Compress::Gzip);
    let index = made.index(&[("s390x", &other), ("amd64", &here)]);
    let name = remote.push(&made, &index, "index:t");
    pull(&server, &name).await.unwrap();
    let target = images(&server).await.remove(0).target.unwrap();
    assert_eq!((target.digest.as_str(), target.media_type.as_str()), (index.as_str(), INDEX));
    let labels = content(&server, &index).await.unwrap().labels;
    assert_eq!(labels.get("containerd.io/gc.ref.content.m.1"), Some(&here.manifest));
    assert_eq!(labels.get("containerd.io/gc.ref.content.m.0"), None);
    assert_eq!(content(&server, &other.manifest).await, None);
    assert_eq!(snapshots(&server).await.len(), 2);

    // Without platforms all of them are fetched; unpacked is still what was asked for.
    let mut all = store(&name);
    all.platforms.clear();
    transfer(&server, &registry(&name), &all).await.unwrap();
    assert!(content(&server, &other.layers[0]).await.is_some());
    assert_eq!(snapshots(&server).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_without_this_machine_says_what_there_is() {
    let mut made = Made::default();
    let other = made.image("s390x", &[layer(&[("a", b"")])], Compress::No);
    let index = made.index(&[("s390x", &other)]);
    let (server, fake) = (Server::start().await, Fake::of(&made, &index).await);
    let error = pull(&server, &fake.name("a:t")).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::NotFound);
    assert!(error.message().contains("linux/amd64") && error.message().contains("linux/s390x"), "{error:?}");
    assert_eq!(Left::of(&server).await, Left::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_pulls_what_it_names() {
    let mut made = Made::default();
    let image = made.image("amd64", &[layer(&[("a", b"")])], Compress::No);
    let (server, fake) = (Server::start().await, Fake::of(&made, "").await);
    let name = fake.name(&format!("a@{}", image.manifest));
    transfer(&server, &registry(&name), &proto::types::transfer::ImageStore { unpacks: vec![], ..store(&name) })
        .await
        .unwrap();
    assert_eq!(image_names(&server).await, [name]);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_who_want_the_same_download_and_unpack_it_once() {
    if !root() {
        return;
    }
    let mut made = Made::default();
    let image = made.image("amd64", &[layer(&[("big", &noise(3_000_000))]), layer(&[("b", b"")])], Compress::Gzip);
    let (server, fake) = (Server::start().await, Fake::of(&made, &image.manifest).await);
    let names: Vec<String> = (0..10).map(|at| fake.name(&format!("a:t{at}"))).collect();
    for outcome in join_all(names.iter().map(|name| pull(&server, name))).await {
        outcome.unwrap();
    }
    for blob in image.layers.iter().chain([&image.config]) {
        assert_eq!(fake.blob_requests(blob).len(), 1, "{blob}");
    }
    let left = Left::of(&server).await;
    assert_eq!((left.images.len(), left.snapshots.len(), left.ingests.len(), left.leases), (10, 2, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_namespace_shares_the_bytes() {
    if !root() {
        return;
    }
    let mut made = Made::default();
    let image = made.image("amd64", &two_layers(), Compress::Gzip);
    let (server, fake) = (Server::start().await, Fake::of(&made, &image.manifest).await);
    let name = fake.name("a:t");
    pull(&server, &name).await.unwrap();
    let request = TransferRequest {
        source: Some(proto::any::pack(&registry(&name))),
        destination: Some(proto::any::pack(&store(&name))),
        options: None,
    };
    TransferClient::new(server.channel.clone()).transfer(of("other", request)).await.unwrap();
    assert_eq!(fake.blob_requests(&image.layers[0]).len(), 1);
    let list = ImagesClient::new(server.channel.clone()).list(of("other", ListImagesRequest::default())).await;
    assert_eq!(list.unwrap().into_inner().images.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_without_layers_is_pulled() {
    let mut made = Made::default();
    let image = made.image("amd64", &[], Compress::No);
    let (server, fake) = (Server::start().await, Fake::of(&made, &image.manifest).await);
    pull(&server, &fake.name("a:t")).await.unwrap();
    assert_eq!(image_names(&server).await.len(), 1);
    assert_eq!(Digest::sha256(&made.blobs[&image.config]).to_string(), image.config);
}
