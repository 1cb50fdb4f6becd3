//! Client and server against each other, and each against peers that break the rules.

use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use model::error::{Classify, Kind};
use proto::process::Status;
use proto::prost::Message;
use proto::services::events::ttrpc::v1::ForwardRequest;
use proto::status::Failure;
use proto::task::v3::{StateRequest, StateResponse, WaitRequest, WaitResponse};
use proto::ttrpc::{Decoder, FrameKind, HEADER_BYTES, MAX_PAYLOAD_BYTES, Request, Response, encode};
use proto::types::Envelope;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::client::{CallError, Client};
use super::events::{Forward, Sink};
use super::server::{Server, Service};

const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(20);

/// Answers `State` with what it was asked, never answers `Wait`, fails everything else.
#[derive(Default)]
struct Echo {
    calls: AtomicUsize,
}

impl Service for Echo {
    async fn call(&self, request: Request) -> Response {
        self.calls.fetch_add(1, Ordering::Relaxed);
        match request.method.as_str() {
            "State" => {
                let asked: StateRequest = request.message().unwrap();
                let namespace = request.namespace().unwrap_or_default().to_owned();
                Response::ok(&StateResponse {
                    id: asked.id,
                    bundle: namespace,
                    status: Status::Running.into(),
                    ..Default::default()
                })
            }
            "Wait" => std::future::pending().await,
            _ => Response::unimplemented(&request.service, &request.method),
        }
    }
}

struct Rig {
    folder: tempfile::TempDir,
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Rig {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), tracker: TaskTracker::new(), stop: CancellationToken::new() }
    }

    fn serve<S: Service>(service: S) -> Self {
        let rig = Self::new();
        let listener = rig.listen();
        rig.tracker.spawn(Server::new(service, rig.tracker.clone(), rig.stop.clone()).serve(listener));
        rig
    }

    fn listen(&self) -> UnixListener {
        let path = self.folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        listener
    }

    async fn client(&self) -> Client {
        Client::connect(&self.folder.path().join("s"), LONG, &self.tracker).await.unwrap()
    }

    async fn raw(&self) -> UnixStream {
        UnixStream::connect(self.folder.path().join("s")).await.unwrap()
    }
}

fn state(id: &str) -> Request {
    Request::new("x", "State", &StateRequest { id: id.into(), exec_id: String::new() }).in_namespace("ns1")
}

fn wait() -> Request {
    Request::new("x", "Wait", &WaitRequest::default())
}

async fn next_response(stream: &mut UnixStream) -> (u32, Response) {
    let mut decoder = Decoder::new();
    loop {
        if let Some(frame) = decoder.decode().unwrap() {
            assert_eq!(frame.kind, FrameKind::Response);
            return (frame.stream_id, Response::decode(frame.payload).unwrap());
        }
        let mut buffer = [0; 1024];
        let length = tokio::time::timeout(LONG, stream.read(&mut buffer)).await.unwrap().unwrap();
        assert_ne!(length, 0, "the server hung up");
        decoder.extend(&buffer[..length]);
    }
}

#[tokio::test]
async fn many_calls_share_a_connection_and_each_gets_its_own_answer() {
    let rig = Rig::serve(Echo::default());
    let client = rig.client().await;
    let calls = (0..500).map(|number| {
        let client = client.clone();
        async move {
            let id = format!("id{number}");
            let answer: StateResponse = client.call(&state(&id)).await.unwrap();
            assert_eq!((answer.id, answer.bundle.as_str()), (id, "ns1"));
        }
    });
    futures_util::future::join_all(calls).await;
}

#[tokio::test]
async fn failures_keep_their_kind_and_words() {
    let rig = Rig::serve(Echo::default());
    let client = rig.client().await;
    let error = client.call::<()>(&Request::new("a.B", "Fly", &())).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unimplemented);
    assert!(error.to_string().contains("a.B/Fly"), "{error}");
}

#[tokio::test]
async fn a_call_without_answer_times_out_and_leaves_nothing() {
    let rig = Rig::new();
    // Nobody accepts: the connection waits in the backlog, as with a stopped shim.
    let _listener = rig.listen();
    let client = rig.client().await;
    let error = client.call::<StateResponse>(&state("a").within(SHORT)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::DeadlineExceeded, "{error}");
    assert!(!client.is_closed());
    assert_eq!(client.pending(), 0);
}

#[tokio::test]
async fn a_dropped_call_leaves_nothing_and_does_not_disturb_others() {
    let rig = Rig::new();
    let listener = rig.listen();
    let client = rig.client().await;
    let (mut peer, _) = listener.accept().await.unwrap();
    let dropped = tokio::time::timeout(SHORT, client.call::<WaitResponse>(&wait())).await;
    assert!(dropped.is_err());
    assert_eq!(client.pending(), 0);
    let answering = async {
        let mut out = Vec::new();
        // The late answer to the dropped call, then one to a call that never was, then the right one.
        for (id, name) in [(1, "late"), (77, "odd"), (3, "right")] {
            let answer = StateResponse { id: name.into(), ..Default::default() };
            encode(FrameKind::Response, id, &Response::ok(&answer), &mut out).unwrap();
        }
        tokio::time::sleep(SHORT / 4).await;
        peer.write_all(&out).await.unwrap();
    };
    let call = state("b");
    let (answer, ()) = tokio::join!(client.call::<StateResponse>(&call), answering);
    assert_eq!(answer.unwrap().id, "right");
}

#[tokio::test]
async fn the_end_of_the_connection_fails_all_calls_and_is_noticed() {
    let rig = Rig::new();
    let listener = rig.listen();
    let client = rig.client().await;
    let (peer, _) = listener.accept().await.unwrap();
    let waiting = {
        let client = client.clone();
        tokio::spawn(async move { client.call::<WaitResponse>(&wait()).await })
    };
    tokio::time::sleep(SHORT / 4).await;
    assert!(!client.is_closed());
    drop(peer);
    tokio::time::timeout(LONG, client.closed()).await.unwrap();
    assert!(matches!(waiting.await.unwrap(), Err(CallError::Closed)));
    assert!(matches!(client.call::<StateResponse>(&state("a")).await, Err(CallError::Closed)));
}

#[tokio::test]
async fn dropping_the_last_handle_ends_both_tasks() {
    let rig = Rig::new();
    let listener = rig.listen();
    let client = rig.client().await;
    let (mut peer, _) = listener.accept().await.unwrap();
    let other = client.clone();
    drop(client);
    assert!(!other.is_closed());
    drop(other);
    let mut buffer = [0; 1];
    assert_eq!(tokio::time::timeout(LONG, peer.read(&mut buffer)).await.unwrap().unwrap(), 0);
    rig.tracker.close();
    tokio::time::timeout(LONG, rig.tracker.wait()).await.unwrap();
}

#[tokio::test]
async fn a_server_that_talks_nonsense_ends_the_connection() {
    let rig = Rig::new();
    let listener = rig.listen();
    let client = rig.client().await;
    let (mut peer, _) = listener.accept().await.unwrap();
    // A response frame whose payload is no message.
    peer.write_all(&[0, 0, 0, 2, 0, 0, 0, 1, 2, 0, 0xff, 0xff]).await.unwrap();
    tokio::time::timeout(LONG, client.closed()).await.unwrap();
}

#[tokio::test]
async fn an_answer_that_is_too_long_fails_its_call_only() {
    let rig = Rig::new();
    let listener = rig.listen();
    let client = rig.client().await;
    let (mut peer, _) = listener.accept().await.unwrap();
    let feeding = async {
        let mut head = Vec::from(u32::try_from(MAX_PAYLOAD_BYTES + 1).unwrap().to_be_bytes());
        head.extend([0, 0, 0, 1, 2, 0]);
        tokio::time::sleep(SHORT / 4).await;
        peer.write_all(&head).await.unwrap();
        peer.write_all(&vec![0; MAX_PAYLOAD_BYTES + 1]).await.unwrap();
        let mut out = Vec::new();
        encode(FrameKind::Response, 3, &Response::ok(&StateResponse::default()), &mut out).unwrap();
        peer.write_all(&out).await.unwrap();
    };
    let calling = async {
        let error = client.call::<StateResponse>(&state("a")).await.unwrap_err();
        assert_eq!(error.kind(), Kind::ResourceExhausted, "{error}");
        client.call::<StateResponse>(&state("b")).await.unwrap();
    };
    tokio::time::timeout(LONG, async { tokio::join!(feeding, calling) }).await.unwrap();
}

#[tokio::test]
async fn a_request_that_is_too_long_is_refused_before_it_is_sent() {
    let rig = Rig::serve(Echo::default());
    let client = rig.client().await;
    let error = client.call::<StateResponse>(&state(&"x".repeat(MAX_PAYLOAD_BYTES))).await.unwrap_err();
    assert_eq!(error.kind(), Kind::ResourceExhausted, "{error}");
    client.call::<StateResponse>(&state("a")).await.unwrap();
}

#[tokio::test]
async fn the_server_refuses_wrong_ids_and_undecodable_requests_and_goes_on() {
    let rig = Rig::serve(Echo::default());
    let mut peer = rig.raw().await;
    for (id, ok) in [(2, false), (1, true), (1, false), (5, true), (3, false), (7, true)] {
        let mut out = Vec::new();
        encode(FrameKind::Request, id, &state("a"), &mut out).unwrap();
        peer.write_all(&out).await.unwrap();
        let (answered, response) = next_response(&mut peer).await;
        assert_eq!(answered, id);
        assert_eq!(response.into_result::<StateResponse>().is_ok(), ok, "stream {id}");
    }
    peer.write_all(&[0, 0, 0, 1, 0, 0, 0, 9, 1, 0, 0xff]).await.unwrap();
    let (_, response) = next_response(&mut peer).await;
    assert_eq!(response.into_result::<StateResponse>().unwrap_err().kind, Kind::InvalidArgument);
}

#[tokio::test]
async fn the_server_answers_a_frame_that_is_too_long_and_goes_on() {
    let rig = Rig::serve(Echo::default());
    let mut peer = rig.raw().await;
    let mut head = Vec::from(u32::try_from(MAX_PAYLOAD_BYTES + 5).unwrap().to_be_bytes());
    head.extend([0, 0, 0, 1, 1, 0]);
    assert_eq!(head.len(), HEADER_BYTES);
    peer.write_all(&head).await.unwrap();
    peer.write_all(&vec![1; MAX_PAYLOAD_BYTES + 5]).await.unwrap();
    let (id, response) = next_response(&mut peer).await;
    assert_eq!(id, 1);
    assert_eq!(response.into_result::<()>().unwrap_err().kind, Kind::ResourceExhausted);
    let mut out = Vec::new();
    encode(FrameKind::Request, 3, &state("a"), &mut out).unwrap();
    peer.write_all(&out).await.unwrap();
    assert_eq!(next_response(&mut peer).await.0, 3);
}

#[tokio::test]
async fn random_bytes_and_torn_frames_do_not_stop_the_server() {
    let rig = Rig::serve(Echo::default());
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..64 {
        let mut peer = rig.raw().await;
        let bytes: Vec<u8> = (0..round * 7)
            .map(|_| {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                seed.to_be_bytes()[0]
            })
            .collect();
        // The server may hang up before it has read all of it.
        let _ = peer.write_all(&bytes).await;
    }
    let answer: StateResponse = rig.client().await.call(&state("a")).await.unwrap();
    assert_eq!(answer.id, "a");
}

#[tokio::test]
async fn stopping_the_server_ends_idle_connections() {
    let rig = Rig::serve(Echo::default());
    let client = rig.client().await;
    client.call::<StateResponse>(&state("a")).await.unwrap();
    rig.stop.cancel();
    tokio::time::timeout(LONG, client.closed()).await.unwrap();
    drop(client);
    rig.tracker.close();
    tokio::time::timeout(LONG, rig.tracker.wait()).await.unwrap();
}

#[derive(Default)]
struct Kept(Mutex<Vec<Envelope>>);

impl Sink for std::sync::Arc<Kept> {
    async fn take(&self, envelope: Envelope) -> Result<(), Failure> {
        if envelope.topic.is_empty() {
            return Err(Failure { kind: Kind::InvalidArgument, message: "no topic".into() });
        }
        self.0.lock().unwrap().push(envelope);
        Ok(())
    }
}

#[tokio::test]
async fn events_are_forwarded_in_order_and_other_methods_are_not_served() {
    let kept = std::sync::Arc::new(Kept::default());
    let rig = Rig::serve(Forward::new(kept.clone()));
    let client = rig.client().await;
    let forward = |topic: &str| {
        let envelope = Envelope { topic: topic.into(), namespace: "n".into(), ..Default::default() };
        Request::new(proto::service::EVENTS, "Forward", &ForwardRequest { envelope: Some(envelope) })
    };
    for number in 0..20 {
        client.call::<()>(&forward(&format!("/t/{number}"))).await.unwrap();
    }
    let topics: Vec<String> = kept.0.lock().unwrap().iter().map(|envelope| envelope.topic.clone()).collect();
    assert_eq!(topics, (0..20).map(|number| format!("/t/{number}")).collect::<Vec<_>>());

    for (request, kind) in [
        (forward(""), Kind::InvalidArgument),
        (Request::new(proto::service::EVENTS, "Forward", &ForwardRequest { envelope: None }), Kind::InvalidArgument),
        (Request::new(proto::service::EVENTS, "Publish", &()), Kind::Unimplemented),
        (Request::new(proto::service::TASK_V2, "Forward", &()), Kind::Unimplemented),
    ] {
        assert_eq!(client.call::<()>(&request).await.unwrap_err().kind(), kind, "{request:?}");
    }
}
