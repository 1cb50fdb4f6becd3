//! Pushes.

use proto::types::transfer::ImageStore;
use tonic::Code;

use crate::client::{Left, pull, registry, reported, store, transfer};
use crate::fixtures::{Compress, Made, skopeo, two_layers};
use crate::registry::Registry;
use crate::server::{Server, refused};

fn source(name: &str) -> ImageStore {
    ImageStore { name: name.into(), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_is_what_others_pull() {
    let (Some(one), Some(other)) = (Registry::start(), Registry::start()) else { return };
    let server = Server::start().await;
    let mut made = Made::default();
    let here = made.image("amd64", &two_layers(), Compress::Gzip);
    let index = made.index(&[("amd64", &here)]);
    let name = one.push(&made, &index, "from:t");
    pull(&server, &name).await.unwrap();

    let target = other.name("to/here:v1");
    let (outcome, progress) = reported(&server, &source(&name), &registry(&target)).await;
    outcome.unwrap();
    assert_eq!(progress[0].event, format!("Pushing to OCI Registry ({target})"));
    assert_eq!(progress.last().unwrap().event, format!("Completed push to OCI Registry ({target})"));
    let inspected = skopeo(&["inspect", "--tls-verify=false", "--raw", &format!("docker://{target}")]);
    assert_eq!(model::Digest::sha256(inspected.as_bytes()).to_string(), index);
    let folder = tempfile::tempdir().unwrap();
    let copy = format!("oci:{}:t", folder.path().display());
    skopeo(&["copy", "-q", "--src-tls-verify=false", &format!("docker://{target}"), &copy]);
    for digest in here.layers.iter().chain([&here.config]) {
        let path = folder.path().join("blobs").join(digest.replace(':', "/"));
        assert_eq!(std::fs::read(path).unwrap(), made.blobs[digest]);
    }

    // Again: nothing has to be sent. To another repository: it is taken over from the first one.
    let (outcome, progress) = reported(&server, &source(&name), &registry(&target)).await;
    outcome.unwrap();
    let layer = format!("layer-{}", here.layers[0]);
    assert_eq!(progress.iter().rfind(|one| one.name == layer).unwrap().event, "already exists");
    let (outcome, progress) = reported(&server, &source(&name), &registry(&other.name("third:v1"))).await;
    outcome.unwrap();
    assert_eq!(progress.iter().rfind(|one| one.name == layer).unwrap().event, "mounted");
    assert_eq!(Left::of(&server).await.leases, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_here_is_not_pushed() {
    let server = Server::start().await;
    let error = transfer(&server, &source("127.0.0.1:1/a:t"), &registry("127.0.0.1:1/a:t")).await;
    refused(error, Code::NotFound, "127.0.0.1:1/a:t");
    let error = transfer(&server, &store("127.0.0.1:1/a:t"), &registry("127.0.0.1:1/a")).await;
    refused(error, Code::InvalidArgument, "neither a tag nor a digest");
}
