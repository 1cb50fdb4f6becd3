use proto::services::introspection::v1::introspection_client::IntrospectionClient;
use proto::services::introspection::v1::{PluginInfoRequest, PluginsRequest};
use proto::services::version::v1::version_client::VersionClient;
use proto::types::RuntimeRequest;
use tonic::Code;

use crate::server::{Server, refused};

#[tokio::test]
async fn the_version_is_one_that_clients_can_read() {
    let server = Server::start().await;
    let version = VersionClient::new(server.channel.clone()).version(()).await.unwrap().into_inner();
    let numbers: Vec<_> = version.version.trim_start_matches('v').split(['.', '+']).take(3).collect();
    assert!(numbers.iter().all(|number| number.parse::<u32>().is_ok()), "{}", version.version);
    assert!(!version.revision.is_empty());
}

#[tokio::test]
async fn plugins_can_be_filtered() {
    let server = Server::start().await;
    let mut client = IntrospectionClient::new(server.channel.clone());
    let mut find = async |filters: &[&str]| {
        let filters = filters.iter().map(|filter| (*filter).to_owned()).collect();
        client.plugins(PluginsRequest { filters }).await.map(|answer| answer.into_inner().plugins)
    };
    let all = find(&[]).await.unwrap();
    assert!(all.len() > 20, "{}", all.len());
    let runtime = find(&["type==io.containerd.runtime.v1", "type==io.containerd.runtime.v2"]).await.unwrap();
    assert_eq!(runtime.len(), 1);
    assert_eq!(runtime[0].platforms[0].os, "linux");
    let native = find(&["type==io.containerd.snapshotter.v1, id==native"]).await.unwrap();
    assert_eq!(native.len(), 1);
    assert!(native[0].init_err.is_none() && native[0].platforms.len() == 1);
    refused(find(&["type="]).await, Code::InvalidArgument, "filter");
}

#[tokio::test]
async fn the_uuid_outlives_a_restart() {
    let server = Server::start().await;
    let ask =
        async |server: &Server| IntrospectionClient::new(server.channel.clone()).server(()).await.unwrap().into_inner();
    let first = ask(&server).await;
    assert_eq!(first.pid, u64::from(std::process::id()));
    assert!(first.pidns > 0 && first.deprecations.is_empty());
    let uuid = std::fs::read_to_string(server.path("root/io.containerd.grpc.v1.introspection/uuid")).unwrap();
    assert_eq!(first.uuid, uuid);
    let again = Server::start_in(server.stop().await).await;
    assert_eq!(ask(&again).await.uuid, first.uuid);
}

#[tokio::test]
async fn plugin_info_of_what_is_there_and_what_is_not() {
    let server = Server::start().await;
    let mut client = IntrospectionClient::new(server.channel.clone());
    let mut ask = async |kind: &str, id: &str, options| {
        let request = PluginInfoRequest { r#type: kind.into(), id: id.into(), options };
        client.plugin_info(request).await.map(tonic::Response::into_inner)
    };
    let (kind, id) = ("io.containerd.runtime.v2", "task");
    let plain = ask(kind, id, None).await.unwrap();
    assert_eq!((plain.plugin.unwrap().id, plain.extra), (id.to_owned(), None));
    refused(ask(kind, "nothing", None).await, Code::NotFound, "io.containerd.runtime.v2.nothing");
    let other = proto::any::pack(&proto::types::Descriptor::default());
    refused(ask(kind, id, Some(other)).await, Code::InvalidArgument, "containerd.types.Descriptor");
    let runtime = RuntimeRequest { runtime_path: "/nonexistent/shim".into(), options: None };
    refused(
        ask(kind, id, Some(proto::any::pack(&runtime))).await,
        Code::Unknown,
        "/nonexistent/shim\" binary not installed",
    );
}

#[tokio::test]
async fn a_snapshotter_that_cannot_run_is_listed_with_the_reason_and_one_that_is_switched_off_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "not a folder").unwrap();
    let mut config = crate::server::config(folder.path());
    config.overlay.root_path = Some(file);
    config.disabled_plugins.insert("io.containerd.snapshotter.v1.native".into());
    let server = Server::start_with(config, folder).await;
    let filters = vec!["type==io.containerd.snapshotter.v1".to_owned()];
    let mut client = IntrospectionClient::new(server.channel.clone());
    let rows = client.plugins(PluginsRequest { filters }).await.unwrap().into_inner().plugins;
    assert_eq!(rows.len(), 1);
    let failure = rows[0].init_err.clone().unwrap();
    assert_eq!((rows[0].id.as_str(), failure.code), ("overlayfs", 2));
    assert!(failure.message.contains("file"), "{failure:?}");
}
