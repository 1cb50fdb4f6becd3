use std::process::Stdio;
use std::time::{Duration, SystemTime};

use proto::events::{ContainerCreate, ContainerDelete, NamespaceCreate, TaskExit};
use proto::prost::Message;
use proto::prost_types::Any;
use proto::services::containers::v1::container::Runtime;
use proto::services::containers::v1::containers_client::ContainersClient;
use proto::services::containers::v1::{Container, CreateContainerRequest, DeleteContainerRequest};
use proto::services::events::v1::events_client::EventsClient;
use proto::services::events::v1::{ForwardRequest, PublishRequest, SubscribeRequest};
use proto::services::namespaces::v1::namespaces_client::NamespacesClient;
use proto::services::namespaces::v1::{CreateNamespaceRequest, Namespace};
use proto::types::Envelope;
use tokio::io::AsyncWriteExt;
use tonic::{Code, Request, Status, Streaming};

use crate::server::{Server, of, refused};

/// The longest to wait for an event.
const WAIT: Duration = Duration::from_secs(10);

async fn subscribe(server: &Server, filters: &[&str]) -> Result<Streaming<Envelope>, Status> {
    let filters = filters.iter().map(|filter| (*filter).to_owned()).collect();
    let mut client = EventsClient::new(server.channel.clone());
    client.subscribe(SubscribeRequest { filters }).await.map(tonic::Response::into_inner)
}

async fn next(events: &mut Streaming<Envelope>) -> Envelope {
    tokio::time::timeout(WAIT, events.message()).await.expect("an event comes in time").unwrap().unwrap()
}

fn exit(id: &str) -> Any {
    proto::any::pack(&TaskExit { container_id: id.into(), ..Default::default() })
}

#[tokio::test]
async fn changes_are_told_with_namespace_topic_and_payload() {
    let server = Server::start().await;
    let mut events = subscribe(&server, &[]).await.unwrap();
    let namespace = Some(Namespace { name: "made".into(), labels: Default::default() });
    NamespacesClient::new(server.channel.clone()).create(CreateNamespaceRequest { namespace }).await.unwrap();
    let mut containers = ContainersClient::new(server.channel.clone());
    let container = Container {
        id: "c".into(),
        image: "i".into(),
        runtime: Some(Runtime { name: "r".into(), options: Some(exit("o")) }),
        spec: Some(Any::default()),
        ..Default::default()
    };
    containers.create(of("moby", CreateContainerRequest { container: Some(container) })).await.unwrap();
    containers.delete(of("moby", DeleteContainerRequest { id: "c".into() })).await.unwrap();

    let first = next(&mut events).await;
    assert_eq!((first.namespace.as_str(), first.topic.as_str()), ("made", "/namespaces/create"));
    let payload: NamespaceCreate = proto::any::unpack(&first.event.unwrap()).unwrap().unwrap();
    assert_eq!(payload.name, "made");
    let second = next(&mut events).await;
    assert_eq!((second.namespace.as_str(), second.topic.as_str()), ("moby", "/containers/create"));
    assert!(second.timestamp.is_some());
    let event = second.event.unwrap();
    assert_eq!(event.type_url, "containerd.events.ContainerCreate");
    let payload: ContainerCreate = proto::any::unpack(&event).unwrap().unwrap();
    let runtime = payload.runtime.unwrap();
    assert_eq!(
        (payload.id, payload.image, runtime.name, runtime.options),
        ("c".into(), "i".into(), "r".into(), Some(exit("o")))
    );
    let third = next(&mut events).await;
    let payload: ContainerDelete = proto::any::unpack(&third.event.unwrap()).unwrap().unwrap();
    assert_eq!((third.topic, payload.id), ("/containers/delete".into(), "c".into()));
}

#[tokio::test]
async fn publish_stamps_and_forward_passes_on() {
    let server = Server::start().await;
    let mut events = subscribe(&server, &["namespace==moby,topic~=|^/tasks/|"]).await.unwrap();
    let mut client = EventsClient::new(server.channel.clone());
    let mut publish = async |namespace: &str, topic: &str, id: &str| {
        let request = PublishRequest { topic: topic.into(), event: Some(exit(id)) };
        client.publish(of(namespace, request)).await
    };
    publish("other", "/tasks/exit", "1").await.unwrap();
    publish("moby", "/other/exit", "2").await.unwrap();
    publish("moby", "/tasks/exit", "3").await.unwrap();
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(5);
    let sent = Envelope {
        timestamp: Some(time.into()),
        namespace: "moby".into(),
        topic: "/tasks/exit".into(),
        event: Some(Any { type_url: "unheard.of".into(), value: vec![0xff] }),
    };
    client.forward(ForwardRequest { envelope: Some(sent.clone()) }).await.unwrap();
    assert_eq!(next(&mut events).await.event, Some(exit("3")));
    assert_eq!(next(&mut events).await, sent);
}

#[tokio::test]
async fn what_is_refused() {
    let server = Server::start().await;
    let mut client = EventsClient::new(server.channel.clone());
    let publish = |topic: &str, event| PublishRequest { topic: topic.into(), event };
    for (request, words) in [
        (publish("tasks/exit", Some(exit("c"))), "topic"),
        (publish("", Some(exit("c"))), "topic"),
        (publish("/tasks/ex it", Some(exit("c"))), "must match"),
        (publish("/tasks/exit", None), "event must be set"),
    ] {
        refused(client.publish(of("moby", request)).await, Code::InvalidArgument, words);
    }
    let headless = client.publish(Request::new(publish("/tasks/exit", Some(exit("c"))))).await;
    refused(headless, Code::FailedPrecondition, "namespace is required");
    refused(client.forward(ForwardRequest { envelope: None }).await, Code::InvalidArgument, "event must be set");
    let no_time = Envelope { namespace: "a".into(), topic: "/a".into(), event: Some(exit("c")), timestamp: None };
    refused(client.forward(ForwardRequest { envelope: Some(no_time) }).await, Code::InvalidArgument, "timestamp");
    refused(subscribe(&server, &["topic==/tasks/exit"]).await.map(|_| ()), Code::InvalidArgument, "parse error");
}

#[tokio::test]
async fn a_subscription_ends_with_the_daemon_after_what_was_told() {
    let server = Server::start().await;
    let mut events = subscribe(&server, &[]).await.unwrap();
    let request = PublishRequest { topic: "/tasks/exit".into(), event: Some(exit("last")) };
    EventsClient::new(server.channel.clone()).publish(of("moby", request)).await.unwrap();
    server.begin_stop();
    assert_eq!(next(&mut events).await.event, Some(exit("last")));
    let end = tokio::time::timeout(WAIT, events.message()).await.unwrap();
    refused(end, Code::Unavailable, "daemon is stopping");
}

#[tokio::test]
async fn old_shims_publish_by_the_daemons_own_program() {
    let server = Server::start().await;
    let mut events = subscribe(&server, &[]).await.unwrap();
    let publish = async |address: &str, event: &[u8]| {
        let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_gantryd"))
            .args(["-address", address, "publish", "-topic", "/tasks/exit", "-namespace", "moby"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(event).await.unwrap();
        drop(stdin);
        let output = child.wait_with_output().await.unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    let address = server.path("g.sock");
    let address = address.to_str().unwrap();
    assert_eq!(publish(address, &exit("c").encode_to_vec()).await, (true, String::new()));
    let event = next(&mut events).await;
    assert_eq!((event.namespace.as_str(), event.topic.as_str(), event.event), ("moby", "/tasks/exit", Some(exit("c"))));
    let (succeeded, text) = publish(address, b"\xff").await;
    assert!(!succeeded && text.contains("standard input holds no event"), "{text}");
    let (succeeded, text) = publish("/nonexistent.sock", b"").await;
    assert!(!succeeded && text.contains("cannot reach the daemon on /nonexistent.sock"), "{text}");
}

#[tokio::test]
async fn hundreds_may_listen_on_one_connection() {
    const LISTENERS: usize = 300;
    let server = Server::start().await;
    let mut all = Vec::new();
    for _ in 0..LISTENERS {
        // A server that allows fewer streams would hold this one back until another ends.
        let listening = tokio::time::timeout(WAIT, subscribe(&server, &[])).await;
        all.push(listening.expect("a stream is granted in time").unwrap());
    }
    let request = PublishRequest { topic: "/tasks/exit".into(), event: Some(exit("c")) };
    EventsClient::new(server.channel.clone()).publish(of("moby", request)).await.unwrap();
    for events in &mut all {
        assert_eq!(next(events).await.event, Some(exit("c")));
    }
}
