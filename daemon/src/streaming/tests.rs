use std::time::Duration;

use futures_util::StreamExt;
use proto::bytes::Bytes;
use proto::types::transfer::{Data, Progress, WindowUpdate};
use tokio_stream::wrappers::ReceiverStream;

use super::bytes::{PIECE_BYTES, Receiver, Sender, WINDOW_BYTES};
use super::*;

fn namespace() -> Namespace {
    Namespace::new("default").unwrap()
}

/// A registered stream: what the client sends into, what it gets, and the daemon's end.
fn open(streams: &Streams, id: &str) -> (mpsc::Sender<Result<Any, Status>>, Outgoing, Channel) {
    let (send, receive) = mpsc::channel(1024);
    let outgoing = streams.register(namespace(), id.into(), ReceiverStream::new(receive)).unwrap();
    let channel = streams.claim(&namespace(), id).unwrap();
    (send, outgoing, channel)
}

#[tokio::test]
async fn a_name_is_in_use_until_its_client_goes() {
    let streams = Streams::default();
    let register = |id: &str| streams.register(namespace(), id.into(), futures_util::stream::empty());
    let first = register("a").unwrap();
    assert!(matches!(register("a"), Err(StreamError::AlreadyExists { .. })));
    assert!(matches!(register(""), Err(StreamError::Name { .. })));
    assert!(streams.register(Namespace::new("other").unwrap(), "a".into(), futures_util::stream::empty()).is_ok());
    let claimed = streams.claim(&namespace(), "a").unwrap();
    assert!(matches!(streams.claim(&namespace(), "a"), Err(StreamError::NotFound { .. })));
    assert!(matches!(register("a"), Err(StreamError::AlreadyExists { .. })));
    drop(first);
    assert!(claimed.send(&Progress::default()).await.is_err());
    assert!(register("a").is_ok());
    assert!(streams.is_empty());
}

#[tokio::test]
async fn there_is_a_bound_on_streams() {
    let streams = Streams::default();
    let register = |id: usize| streams.register(namespace(), id.to_string(), futures_util::stream::empty());
    let all: Vec<_> = (0..MAX_STREAMS).map(|id| register(id).unwrap()).collect();
    assert!(matches!(register(MAX_STREAMS), Err(StreamError::TooMany)));
    drop(all);
    assert!(register(0).is_ok());
}

#[tokio::test]
async fn dropping_the_channel_ends_the_stream_of_the_client() {
    let streams = Streams::default();
    let (_send, mut outgoing, channel) = open(&streams, "a");
    channel.send(&Progress { event: "x".into(), ..Default::default() }).await.unwrap();
    drop(channel);
    let message = outgoing.next().await.unwrap();
    assert_eq!(proto::any::unpack::<Progress>(&message).unwrap().unwrap().event, "x");
    assert!(outgoing.next().await.is_none());
}

#[tokio::test]
async fn a_receiver_never_takes_more_than_its_window() {
    let streams = Streams::default();
    let (send, mut outgoing, channel) = open(&streams, "a");
    let mut receiver = Receiver::new(channel);
    let client = async move {
        let (mut credit, mut sent, total) = (0usize, 0usize, 10 * WINDOW_BYTES + 7);
        while sent < total {
            while credit == 0 {
                let update = proto::any::unpack::<WindowUpdate>(&outgoing.next().await.unwrap()).unwrap().unwrap();
                credit += usize::try_from(update.update).unwrap();
                assert!(credit <= WINDOW_BYTES, "{credit}");
            }
            let piece = PIECE_BYTES.min(credit).min(total - sent);
            let data = Data { data: Bytes::from(vec![7; piece]) };
            send.send(Ok(proto::any::pack(&data))).await.unwrap();
            (credit, sent) = (credit - piece, sent + piece);
        }
        total
    };
    let server = async {
        let mut got = 0;
        while let Some(piece) = receiver.next().await.unwrap() {
            got += piece.len();
        }
        got
    };
    let both = async { tokio::join!(client, server) };
    let (sent, got) = tokio::time::timeout(Duration::from_secs(10), both).await.unwrap();
    assert_eq!(sent, got);
}

#[tokio::test]
async fn a_sender_waits_for_credit() {
    let streams = Streams::default();
    let (send, mut outgoing, channel) = open(&streams, "a");
    let sender = tokio::spawn(async move { Sender::new(channel).send(Bytes::from(vec![1; 100_000])).await });
    let credit = |update| proto::any::pack(&WindowUpdate { update });
    send.send(Ok(credit(10))).await.unwrap();
    let mut sizes = Vec::new();
    let mut next = async || {
        let message = tokio::time::timeout(Duration::from_millis(100), outgoing.next()).await.ok()??;
        Some(proto::any::unpack::<Data>(&message).unwrap().unwrap().data.len())
    };
    sizes.extend(next().await);
    assert_eq!(next().await, None, "no credit, no data");
    send.send(Ok(credit(i32::MAX))).await.unwrap();
    while let Some(size) = next().await {
        sizes.push(size);
    }
    assert_eq!((sizes[0], sizes.iter().sum::<usize>()), (10, 100_000));
    assert!(sizes.iter().all(|size| *size <= PIECE_BYTES));
    sender.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_sender_ends_when_the_client_does() {
    let streams = Streams::default();
    let (send, _outgoing, channel) = open(&streams, "a");
    drop(send);
    assert!(matches!(Sender::new(channel).send(Bytes::from_static(b"x")).await, Err(StreamError::Closed)));
}

#[tokio::test]
async fn something_else_than_data_is_refused() {
    let streams = Streams::default();
    let (send, _outgoing, channel) = open(&streams, "a");
    send.send(Ok(proto::any::pack(&Progress::default()))).await.unwrap();
    assert!(matches!(Receiver::new(channel).next().await, Err(StreamError::Unexpected { .. })));
}
