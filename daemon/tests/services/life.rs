//! The daemon's own life: folders, sockets, a second one, the end.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

use daemon::app::{App, StartError};
use daemon::config::Config;
use proto::services::version::v1::version_client::VersionClient;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::server::{Server, config, refused};

#[tokio::test]
async fn sockets_and_folders_have_their_modes_and_sockets_go() {
    let server = Server::start().await;
    let mode = |name: &str| std::fs::metadata(server.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!([mode("g.sock"), mode("g.sock.ttrpc"), mode("root"), mode("state")], [0o660, 0o660, 0o700, 0o711]);
    let uid = std::fs::metadata(server.path("g.sock")).unwrap().uid();
    assert_eq!(uid, nix::unistd::geteuid().as_raw());
    let folder = server.stop().await;
    assert!(!folder.path().join("g.sock").exists() && !folder.path().join("g.sock.ttrpc").exists());
}

#[tokio::test]
async fn a_second_daemon_on_the_same_folder_or_socket_is_refused() {
    let server = Server::start().await;
    let folder = server.path("");
    let error = App::open(config(&folder)).await.unwrap_err();
    assert!(matches!(error, StartError::Home(_)), "{error}");
    assert!(error.to_string().contains("another daemon uses"), "{error}");
    let other = Config { root: folder.join("r2"), state: folder.join("s2"), ..config(&folder) };
    let error = App::open(other).await.unwrap().run(CancellationToken::new()).await.unwrap_err();
    assert!(error.to_string().contains("another process listens on"), "{error}");
    VersionClient::new(server.channel.clone()).version(()).await.expect("the first one is not disturbed");
}

#[tokio::test]
async fn a_required_plugin_that_is_not_there_stops_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let name = "io.containerd.grpc.v1.none".to_owned();
    let config = Config { required_plugins: [name].into(), ..config(folder.path()) };
    let error = App::open(config).await.unwrap_err();
    assert!(error.to_string().contains("io.containerd.grpc.v1.none is not there"), "{error}");
}

#[tokio::test]
async fn an_unknown_method_is_unimplemented() {
    let server = Server::start().await;
    let mut client = tonic::client::Grpc::new(server.channel.clone());
    client.ready().await.unwrap();
    let path = "/no.such.Service/Method".parse().unwrap();
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let answer = client.unary(tonic::Request::new(()), path, codec).await;
    refused(answer, Code::Unimplemented, "unknown method Method for service no.such.Service");
}

#[tokio::test]
async fn stopping_is_quick_when_nothing_is_in_flight() {
    let server = Server::start().await;
    VersionClient::new(server.channel.clone()).version(()).await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), server.stop()).await.expect("it does not wait for idle connections");
}
