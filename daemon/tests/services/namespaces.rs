use std::collections::BTreeMap;

use proto::prost_types::FieldMask;
use proto::services::containers::v1::container::Runtime;
use proto::services::containers::v1::containers_client::ContainersClient;
use proto::services::containers::v1::{Container, CreateContainerRequest, DeleteContainerRequest};
use proto::services::namespaces::v1::namespaces_client::NamespacesClient;
use proto::services::namespaces::v1::{
    CreateNamespaceRequest, DeleteNamespaceRequest, GetNamespaceRequest, ListNamespacesRequest, Namespace,
    UpdateNamespaceRequest,
};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::server::{Server, of, refused};

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn namespace(name: &str, pairs: &[(&str, &str)]) -> Option<Namespace> {
    Some(Namespace { name: name.into(), labels: labels(pairs) })
}

struct Client(NamespacesClient<Channel>);

impl Client {
    async fn get(&mut self, name: &str) -> BTreeMap<String, String> {
        let answer = self.0.get(GetNamespaceRequest { name: name.into() }).await.unwrap();
        let namespace = answer.into_inner().namespace.unwrap();
        assert_eq!(namespace.name, name);
        namespace.labels
    }

    async fn names(&mut self) -> Vec<String> {
        let answer = self.0.list(ListNamespacesRequest::default()).await.unwrap();
        answer.into_inner().namespaces.into_iter().map(|namespace| namespace.name).collect()
    }

    async fn create(&mut self, name: &str, pairs: &[(&str, &str)]) -> Result<Namespace, Status> {
        let request = CreateNamespaceRequest { namespace: namespace(name, pairs) };
        self.0.create(request).await.map(|answer| answer.into_inner().namespace.unwrap())
    }

    async fn update(&mut self, name: &str, pairs: &[(&str, &str)], paths: &[&str]) -> Result<Namespace, Status> {
        let paths = paths.iter().map(|path| (*path).to_owned()).collect();
        let update_mask = Some(FieldMask { paths });
        let request = UpdateNamespaceRequest { namespace: namespace(name, pairs), update_mask };
        self.0.update(request).await.map(|answer| answer.into_inner().namespace.unwrap())
    }

    async fn delete(&mut self, name: &str) -> Result<(), Status> {
        self.0.delete(DeleteNamespaceRequest { name: name.into() }).await.map(|_| ())
    }
}

#[tokio::test]
async fn a_namespace_lives_and_dies() {
    let server = Server::start().await;
    let mut client = Client(NamespacesClient::new(server.channel.clone()));
    assert_eq!(client.get("never-created").await, labels(&[]));
    assert_eq!(client.names().await, [""; 0]);
    client.create("b", &[("x", "1"), ("empty", "")]).await.unwrap();
    client.create("a", &[]).await.unwrap();
    assert_eq!(client.names().await, ["a", "b"]);
    assert_eq!(client.get("b").await, labels(&[("x", "1")]));
    client.delete("a").await.unwrap();
    assert_eq!(client.names().await, ["b"]);
    let again = Server::start_in(server.stop().await).await;
    let mut client = Client(NamespacesClient::new(again.channel.clone()));
    assert_eq!(client.get("b").await, labels(&[("x", "1")]));
}

#[tokio::test]
async fn updates_as_a_table() {
    let server = Server::start().await;
    let mut client = Client(NamespacesClient::new(server.channel.clone()));
    for (sent, paths, after) in [
        (&[("a", "9")][..], &[][..], &[("a", "9")][..]),
        (&[("a", "9"), ("c.d", "3")], &["labels.c.d"], &[("a", "1"), ("b", "2"), ("c.d", "3")]),
        (&[("a", "")], &["labels.a"], &[("b", "2")]),
        (&[], &["labels.a", "labels.b"], &[]),
    ] {
        client.update("n", &[("a", "1"), ("b", "2")], &[]).await.expect("an update makes what was not created");
        let answer = client.update("n", sent, paths).await.unwrap();
        assert_eq!(answer.labels, labels(after), "{sent:?} {paths:?}");
        assert_eq!(client.get("n").await, labels(after), "{sent:?} {paths:?}");
    }
}

#[tokio::test]
async fn what_is_refused() {
    let server = Server::start().await;
    let mut client = Client(NamespacesClient::new(server.channel.clone()));
    client.create("a", &[]).await.unwrap();
    let long = "x".repeat(4096);
    refused(client.create("a", &[]).await, Code::AlreadyExists, "namespace \"a\": already exists");
    refused(client.create("", &[]).await, Code::InvalidArgument, "must not be empty");
    refused(client.create("a/b", &[]).await, Code::InvalidArgument, "must match");
    refused(client.create("b", &[("k", &long)]).await, Code::InvalidArgument, "maximum size");
    refused(client.update("a", &[("k", &long)], &[]).await, Code::InvalidArgument, "maximum size");
    refused(client.update("a", &[], &["labels"]).await, Code::InvalidArgument, "\"labels\"");
    refused(client.update("a", &[], &["name"]).await, Code::InvalidArgument, "\"name\"");
    refused(client.delete("never").await, Code::NotFound, "namespace \"never\": not found");
    refused(client.delete("a/b").await, Code::NotFound, "not found");
    let nothing = client.0.create(CreateNamespaceRequest { namespace: None }).await;
    refused(nothing, Code::InvalidArgument, "namespace must be set");
    assert_eq!(client.names().await, ["a"]);
}

#[tokio::test]
async fn one_that_is_in_use_exists_and_cannot_be_deleted() {
    let server = Server::start().await;
    let mut client = Client(NamespacesClient::new(server.channel.clone()));
    let mut containers = ContainersClient::new(server.channel.clone());
    let container = Container {
        id: "c".into(),
        runtime: Some(Runtime { name: "r".into(), options: None }),
        spec: Some(Default::default()),
        ..Default::default()
    };
    containers.create(of("used", CreateContainerRequest { container: Some(container) })).await.unwrap();
    assert_eq!(client.names().await, ["used"]);
    refused(client.delete("used").await, Code::FailedPrecondition, "must be empty, but it still has containers");
    containers.delete(of("used", DeleteContainerRequest { id: "c".into() })).await.unwrap();
    client.delete("used").await.unwrap();
    assert_eq!(client.names().await, [""; 0]);
}
