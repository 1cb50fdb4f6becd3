//! Streams, and pairs of ends that are none.

use proto::prost_types::Any;
use proto::services::streaming::v1::streaming_client::StreamingClient;
use proto::services::transfer::v1::transfer_client::TransferClient;
use proto::services::transfer::v1::{TransferOptions, TransferRequest};
use proto::types::transfer::{ImageExportStream, ImageImportStream, Progress, ReadStream};
use tonic::Code;

use crate::client::{Stream, registry, store, transfer};
use crate::server::{Server, plain, refused};

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_used_once_at_a_time() {
    let server = Server::start().await;
    let first = Stream::open(&server, "a").await.unwrap();
    refused(Stream::open(&server, "a").await.map(|_| ()), Code::AlreadyExists, "already exists");
    drop(first);
    let again = async {
        while Stream::open(&server, "a").await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), again).await.expect("the name becomes free");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_begins_with_its_name() {
    let server = Server::start().await;
    let mut client = StreamingClient::new(server.channel.clone());
    for first in [vec![], vec![proto::any::pack(&Progress::default())]] {
        let answer = client.stream(plain(tokio_stream::iter(first))).await;
        refused(answer.map(|_| ()), Code::InvalidArgument, "StreamInit");
    }
    refused(Stream::open(&server, "").await.map(|_| ()), Code::InvalidArgument, "0 bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn pairs_that_lead_nowhere_are_named() {
    let server = Server::start().await;
    let (registry, store, read) = (registry("127.0.0.1:1/a:t"), store("127.0.0.1:1/a:t"), ReadStream::default());
    let import = ImageImportStream { stream: "s".into(), ..Default::default() };
    let export = ImageExportStream { stream: "s".into(), ..Default::default() };
    let words = "containerd.types.transfer.ReadStream";
    refused(transfer(&server, &read, &store).await, Code::Unimplemented, words);
    refused(transfer(&server, &store, &read).await, Code::Unimplemented, words);
    let words = "containerd.types.transfer.OCIRegistry";
    refused(transfer(&server, &registry, &registry).await, Code::Unimplemented, words);
    refused(transfer(&server, &registry, &export).await, Code::Unimplemented, words);
    refused(transfer(&server, &import, &registry).await, Code::Unimplemented, words);
    // A stream that nobody opened.
    refused(transfer(&server, &import, &store).await, Code::NotFound, "\"s\"");

    let mut client = TransferClient::new(server.channel.clone());
    refused(client.transfer(plain(TransferRequest::default())).await, Code::InvalidArgument, "source");
    let broken = Any { type_url: "containerd.types.transfer.ImageStore".into(), value: vec![0xff] };
    let request = TransferRequest {
        source: Some(broken.clone()),
        destination: Some(broken),
        options: Some(TransferOptions { progress_stream: "none".into() }),
    };
    refused(client.transfer(plain(request)).await, Code::InvalidArgument, "ImageStore");
}
