use proto::grpc::health::v1::HealthCheckRequest;
use proto::grpc::health::v1::health_check_response::ServingStatus::{self, NotServing, ServiceUnknown, Serving};
use proto::grpc::health::v1::health_client::HealthClient;
use tonic::Code;

use crate::server::{Server, refused};

fn ask(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.into() }
}

#[tokio::test]
async fn a_server_is_healthy_and_unknown_services_are_not_found() {
    let server = Server::start().await;
    let mut health = HealthClient::new(server.channel.clone());
    for known in ["", "containerd.services.version.v1.Version"] {
        assert_eq!(health.check(ask(known)).await.unwrap().into_inner().status(), Serving, "{known}");
    }
    refused(health.check(ask("nobody")).await, Code::NotFound, "nobody");
}

#[tokio::test]
async fn who_watches_sees_the_stop() {
    let server = Server::start().await;
    let mut health = HealthClient::new(server.channel.clone());
    let mut watched = health.watch(ask("")).await.unwrap().into_inner();
    let mut unknown = health.watch(ask("nobody")).await.unwrap().into_inner();
    let mut next = async |of_unknown: bool| -> Option<ServingStatus> {
        let stream = if of_unknown { &mut unknown } else { &mut watched };
        stream.message().await.unwrap().map(|message| message.status())
    };
    assert_eq!((next(false).await, next(true).await), (Some(Serving), Some(ServiceUnknown)));
    server.begin_stop();
    assert_eq!((next(false).await, next(false).await, next(true).await), (Some(NotServing), None, None));
}
