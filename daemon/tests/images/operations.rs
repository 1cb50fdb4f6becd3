//! What is under way is listed, with numbers, and can be ended.

use std::time::Duration;

use proto::gantry::v1::operations_client::OperationsClient;
use proto::gantry::v1::{CancelOperationRequest, ListOperationsRequest, Operation};
use tonic::Code;

use crate::client::{Left, ingests, pull};
use crate::fake::{Fake, Send, serve_made};
use crate::fixtures::{Compress, Made, layer, noise};
use crate::server::{Server, of, plain, refused};

async fn list(server: &Server) -> Vec<Operation> {
    let mut client = OperationsClient::new(server.channel.clone());
    client.list(plain(ListOperationsRequest::default())).await.unwrap().into_inner().operations
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_is_seen_by_others_and_ended_by_them() {
    let mut made = Made::default();
    let image = made.image("amd64", &[layer(&[("noise", &noise(500_000))])], Compress::No);
    let (layer, manifest) = (image.layers[0].clone(), image.manifest.clone());
    let (serve, digest) = (made.clone(), layer.clone());
    let fake = Fake::start(move |asked, _| {
        let mut good = serve_made(&serve, &manifest, asked);
        if asked.is_blob(&digest) {
            good.send = Send::Stall(200_000);
        }
        good
    })
    .await;
    let server = Server::start().await;
    let name = fake.name("a:t");
    let pulling = async {
        let outcome = pull(&server, &name).await;
        refused(outcome, Code::Cancelled, "ended");
    };
    let looking = async {
        let mut client = OperationsClient::new(server.channel.clone());
        let mut watch = client.watch(plain(ListOperationsRequest::default())).await.unwrap().into_inner();
        let part = format!("layer-{layer}");
        let operation = loop {
            let seen = watch.message().await.unwrap().unwrap().operations;
            let far = |one: &Operation| one.parts.iter().any(|one| one.name == part && one.done_bytes == 200_000);
            if let Some(operation) = seen.into_iter().find(far) {
                break operation;
            }
        };
        assert_eq!((operation.kind.as_str(), operation.image.as_str()), ("pull", name.as_str()));
        assert_eq!(operation.namespace, "default");
        assert!(operation.phase.starts_with("Pulling from"), "{operation:?}");
        assert!(operation.done_bytes >= 200_000 && operation.total_bytes > operation.done_bytes, "{operation:?}");
        let found = operation.parts.iter().find(|one| one.name == part).unwrap();
        assert_eq!((found.phase.as_str(), found.total_bytes), ("downloading", made.blobs[&layer].len() as u64));
        // Other namespaces see it when they ask for all.
        let other = |all_namespaces| of("other", ListOperationsRequest { all_namespaces });
        assert!(client.list(other(false)).await.unwrap().into_inner().operations.is_empty());
        assert_eq!(client.list(other(true)).await.unwrap().into_inner().operations.len(), 1);
        client.cancel(plain(CancelOperationRequest { id: operation.id })).await.unwrap();
    };
    let both = async { tokio::join!(pulling, looking) };
    tokio::time::timeout(Duration::from_secs(60), both).await.expect("it is ended");
    assert!(list(&server).await.is_empty());
    // Only what can be gone on with is left.
    let left = Left::of(&server).await;
    assert_eq!((left.images.len(), left.snapshots.len(), left.leases), (0, 0, 0));
    let kept: Vec<_> = ingests(&server).await.into_iter().map(|ingest| (ingest.r#ref, ingest.offset)).collect();
    assert_eq!(kept, [(format!("layer-{layer}"), 200_000)]);
    let mut client = OperationsClient::new(server.channel.clone());
    refused(client.cancel(plain(CancelOperationRequest { id: 1 })).await, Code::NotFound, "operation 1");
}
