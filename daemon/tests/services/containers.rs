use proto::prost_types::{Any, FieldMask};
use proto::services::containers::v1::container::Runtime;
use proto::services::containers::v1::containers_client::ContainersClient;
use proto::services::containers::v1::{
    Container, CreateContainerRequest, DeleteContainerRequest, GetContainerRequest, ListContainersRequest,
    UpdateContainerRequest,
};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::server::{Server, of, plain, refused};

/// An `Any` that nobody can decode.
fn opaque(value: &[u8]) -> Any {
    Any { type_url: "types.containerd.io/opencontainers/runtime-spec/1/Spec".into(), value: value.to_vec() }
}

fn container(id: &str) -> Container {
    Container {
        id: id.into(),
        labels: [("a".to_owned(), "1".to_owned()), ("b.c".to_owned(), "2".to_owned())].into(),
        image: "docker.io/library/busybox:latest".into(),
        runtime: Some(Runtime { name: "io.containerd.runc.v2".into(), options: Some(opaque(b"options")) }),
        spec: Some(opaque(b"{\"ociVersion\": 1}\xff")),
        snapshotter: "overlayfs".into(),
        snapshot_key: "k".into(),
        extensions: [("x.y".to_owned(), opaque(b"extension"))].into(),
        sandbox: "pod".into(),
        ..Default::default()
    }
}

/// What makes a good container a bad one.
type Change<'a> = &'a dyn Fn(&mut Container);

struct Client(ContainersClient<Channel>);

impl Client {
    fn of(server: &Server) -> Self {
        Self(ContainersClient::new(server.channel.clone()))
    }

    async fn create(&mut self, container: Container) -> Result<Container, Status> {
        let request = CreateContainerRequest { container: Some(container) };
        self.0.create(plain(request)).await.map(|answer| answer.into_inner().container.unwrap())
    }

    async fn get(&mut self, id: &str) -> Result<Container, Status> {
        let answer = self.0.get(plain(GetContainerRequest { id: id.into() })).await;
        answer.map(|answer| answer.into_inner().container.unwrap())
    }

    async fn update(&mut self, container: Container, paths: &[&str]) -> Result<Container, Status> {
        let paths = paths.iter().map(|path| (*path).to_owned()).collect();
        let request = UpdateContainerRequest { container: Some(container), update_mask: Some(FieldMask { paths }) };
        self.0.update(plain(request)).await.map(|answer| answer.into_inner().container.unwrap())
    }

    /// The ids found, by both calls that list.
    async fn find(&mut self, filters: &[&str]) -> Result<Vec<String>, Status> {
        let filters = filters.iter().map(|filter| (*filter).to_owned()).collect();
        let request = ListContainersRequest { filters };
        let listed = self.0.list(plain(request.clone())).await?.into_inner().containers;
        let mut stream = self.0.list_stream(plain(request)).await?.into_inner();
        let mut streamed = Vec::new();
        while let Some(message) = stream.message().await? {
            streamed.push(message.container.unwrap());
        }
        assert_eq!(listed, streamed);
        Ok(listed.into_iter().map(|container| container.id).collect())
    }
}

#[tokio::test]
async fn what_is_put_in_comes_out_byte_for_byte_also_after_a_restart() {
    let server = Server::start().await;
    let created = Client::of(&server).create(container("c")).await.unwrap();
    let times = (created.created_at, created.updated_at);
    assert!(times.0.is_some() && times.0 == times.1);
    let expected = Container { created_at: times.0, updated_at: times.1, ..container("c") };
    assert_eq!(created, expected);
    assert_eq!(Client::of(&server).get("c").await.unwrap(), expected);
    let again = Server::start_in(server.stop().await).await;
    assert_eq!(Client::of(&again).get("c").await.unwrap(), expected);
}

#[tokio::test]
async fn containers_of_one_namespace_are_not_seen_in_another() {
    let server = Server::start().await;
    let mut client = Client::of(&server);
    client.create(container("c")).await.unwrap();
    let other = client.0.get(of("other", GetContainerRequest { id: "c".into() })).await;
    refused(other, Code::NotFound, "container \"c\" in namespace \"other\": not found");
    // A namespace whose name begins alike is another one.
    let other = client.0.list(of("defaul", ListContainersRequest::default())).await.unwrap();
    assert_eq!(other.into_inner().containers, []);
}

#[tokio::test]
async fn what_creation_refuses() {
    let server = Server::start().await;
    let mut client = Client::of(&server);
    client.create(container("taken")).await.unwrap();
    let long = [("k".to_owned(), "v".repeat(4096))];
    for (change, code, words) in [
        (&(|c: &mut Container| c.id = "taken".into()) as Change, Code::AlreadyExists, "container \"taken\": already"),
        (&|c| c.id = String::new(), Code::InvalidArgument, "must not be empty"),
        (&|c| c.id = "a b".into(), Code::InvalidArgument, "must match"),
        (&|c| c.runtime = None, Code::InvalidArgument, "container.Runtime.Name must be set"),
        (&|c| c.spec = None, Code::InvalidArgument, "container.Spec must be set"),
        (&|c| c.snapshotter = String::new(), Code::InvalidArgument, "container.Snapshotter must be set"),
        (&|c| c.labels = long.clone().into(), Code::InvalidArgument, "maximum size"),
        (&|c| c.extensions = [(String::new(), opaque(b""))].into(), Code::InvalidArgument, "zero-length"),
    ] {
        let mut bad = container("new");
        change(&mut bad);
        refused(client.create(bad).await, code, words);
    }
    let nothing = client.0.create(plain(CreateContainerRequest { container: None })).await;
    refused(nothing, Code::InvalidArgument, "container must be set");
    assert_eq!(client.find(&[]).await.unwrap(), ["taken"]);
}

#[tokio::test]
async fn the_namespace_header_is_demanded_by_every_call() {
    let server = Server::start().await;
    let mut client = ContainersClient::new(server.channel.clone());
    let words = "namespace is required";
    refused(client.get(GetContainerRequest::default()).await, Code::FailedPrecondition, words);
    refused(client.list(ListContainersRequest::default()).await, Code::FailedPrecondition, words);
    refused(client.create(CreateContainerRequest::default()).await, Code::FailedPrecondition, words);
    refused(client.update(UpdateContainerRequest::default()).await, Code::FailedPrecondition, words);
    refused(client.delete(DeleteContainerRequest::default()).await, Code::FailedPrecondition, words);
    let streamed = client.list_stream(Request::new(ListContainersRequest::default())).await;
    refused(streamed.map(|_| ()), Code::FailedPrecondition, words);
    refused(client.list(of("a/b", ListContainersRequest::default())).await, Code::InvalidArgument, "must match");
}

#[tokio::test]
async fn filters_find_by_every_field() {
    let server = Server::start().await;
    let mut client = Client::of(&server);
    for id in ["a", "b"] {
        let mut container = container(id);
        container.labels.insert("containerd.io/name".into(), format!("name-{id}"));
        client.create(container).await.unwrap();
    }
    for (filters, found) in [
        (&[][..], &["a", "b"][..]),
        (&["id==a"], &["a"]),
        (&["id==a", "id==b"], &["a", "b"]),
        (&["id==a,id==b"], &[]),
        (&["runtime.name==io.containerd.runc.v2"], &["a", "b"]),
        (&["image~=busybox"], &["a", "b"]),
        (&["labels.\"containerd.io/name\"==name-b"], &["b"]),
        (&["labels.b.c==2,id!=a"], &["b"]),
        (&["labels.nothing"], &[]),
        (&["unknown"], &[]),
    ] {
        assert_eq!(client.find(filters).await.unwrap(), found, "{filters:?}");
    }
    refused(client.find(&["id="]).await, Code::InvalidArgument, "parse error");
}

#[tokio::test]
async fn more_than_one_page_is_listed_whole_and_in_order() {
    let server = Server::start().await;
    let mut client = Client::of(&server);
    let ids: Vec<_> = (0..600).map(|n| format!("c{n:03}")).collect();
    let creations = ids.iter().map(|id| {
        let mut client = Client(client.0.clone());
        async move { client.create(container(id)).await.unwrap() }
    });
    futures_util::future::join_all(creations).await;
    assert_eq!(client.find(&[]).await.unwrap(), ids);
}

#[tokio::test]
async fn updates_touch_what_their_mask_names() {
    let server = Server::start().await;
    let mut client = Client::of(&server);
    let mut sent = container("c");
    sent.labels = [("a".to_owned(), "9".to_owned()), ("new".to_owned(), "n".to_owned())].into();
    sent.image = "other".into();
    sent.spec = Some(opaque(b"other"));
    sent.snapshot_key = "other".into();
    sent.extensions = [("x.y".to_owned(), opaque(b"changed")), ("z".to_owned(), opaque(b"z"))].into();
    let old = container("c");
    let merged = [("a", "9"), ("b.c", "2")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    let cases: [(&[&str], Container); 8] = [
        (&[], sent.clone()),
        (&["labels"], Container { labels: sent.labels.clone(), ..old.clone() }),
        (&["labels.a"], Container { labels: merged.into(), ..old.clone() }),
        (&["labels.b.c", "image"], {
            let labels = [("a".to_owned(), "1".to_owned())].into();
            Container { labels, image: "other".into(), ..old.clone() }
        }),
        (&["spec"], Container { spec: sent.spec.clone(), ..old.clone() }),
        (&["snapshotkey"], Container { snapshot_key: "other".into(), ..old.clone() }),
        (&["snapshot_key"], Container { snapshot_key: "other".into(), ..old.clone() }),
        (&["extensions.x.y"], {
            Container { extensions: [("x.y".to_owned(), opaque(b"changed"))].into(), ..old.clone() }
        }),
    ];
    for (paths, expected) in cases {
        client.create(old.clone()).await.unwrap();
        let updated = client.update(sent.clone(), paths).await.unwrap();
        assert_ne!(updated.updated_at, updated.created_at, "{paths:?}");
        let (created_at, updated_at) = (updated.created_at, updated.updated_at);
        let expected = Container { created_at, updated_at, ..expected };
        assert_eq!(updated, expected, "{paths:?}");
        assert_eq!(client.get("c").await.unwrap(), expected, "{paths:?}");
        client.0.delete(plain(DeleteContainerRequest { id: "c".into() })).await.unwrap();
    }
}

#[tokio::test]
async fn what_updates_and_deletions_refuse() {
    let server = Server::start().await;
    let mut client = Client::of(&server);
    let stored = client.create(container("c")).await.unwrap();
    for (change, paths, code, words) in [
        (&(|c: &mut Container| c.id = "x".into()) as Change, &[][..], Code::NotFound, "container \"x\""),
        (&|c| c.id = String::new(), &[], Code::InvalidArgument, "must specify a container id"),
        (&|c| c.snapshotter = "native".into(), &[], Code::InvalidArgument, "container.Snapshotter field is immutable"),
        (&|c| c.runtime = None, &[], Code::InvalidArgument, "container.Runtime.Name field is immutable"),
        (&|c| c.spec = None, &[], Code::InvalidArgument, "container.Spec must be set"),
        (&|_| (), &["runtime"], Code::InvalidArgument, "cannot update \"runtime\" field on \"c\""),
        (&|_| (), &["labels", "sandbox"], Code::InvalidArgument, "\"sandbox\""),
        (&|_| (), &["image.x"], Code::InvalidArgument, "\"image.x\""),
    ] {
        let mut sent = container("c");
        change(&mut sent);
        refused(client.update(sent, paths).await, code, words);
    }
    assert_eq!(client.get("c").await.unwrap(), stored);
    let mut delete = async |id: &str| client.0.delete(plain(DeleteContainerRequest { id: id.into() })).await;
    refused(delete("x").await, Code::NotFound, "container \"x\" in namespace \"default\": not found");
    delete("c").await.unwrap();
    refused(delete("c").await, Code::NotFound, "not found");
}
