//! A real registry with encryption, passwords and client certificates.

use std::path::Path;

use proto::types::transfer::{AuthRequest, AuthResponse, AuthType, OciRegistry, RegistryResolver};
use tonic::{Code, Status};

use crate::client::{Stream, fresh, image_names, snapshots, store, transfer};
use crate::fixtures::{Compress, Image, Made, layer, noise, two_layers};
use crate::registry::{PASSWORD, Registry, Strict, USER};
use crate::server::{Server, refused};

/// A folder of hosts for one registry.
fn folder(registry: &Registry, text: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let host = folder.path().join(&registry.host);
    std::fs::create_dir_all(&host).unwrap();
    std::fs::write(host.join("hosts.toml"), text).unwrap();
    folder
}

fn remote(name: &str, hosts: &Path, auth_stream: &str) -> OciRegistry {
    let resolver = RegistryResolver {
        host_dir: hosts.display().to_string(),
        auth_stream: auth_stream.into(),
        default_scheme: "https".into(),
        ..Default::default()
    };
    OciRegistry { reference: name.into(), resolver: Some(resolver) }
}

/// Pulls or pushes as a user with a password.
async fn as_user(server: &Server, hosts: &Path, name: &str, password: &str, push: Option<&str>) -> Result<(), Status> {
    let id = fresh("auth");
    let mut stream = Stream::open(server, &id).await.unwrap();
    let remote = remote(name, hosts, &id);
    let work = async {
        match push {
            Some(local) => {
                let from = proto::types::transfer::ImageStore { name: local.into(), ..Default::default() };
                transfer(server, &from, &remote).await
            }
            None => transfer(server, &remote, &store(name)).await,
        }
    };
    tokio::pin!(work);
    loop {
        tokio::select! {
            outcome = &mut work => return outcome,
            asked = stream.next::<AuthRequest>() => if asked.is_some() {
                stream.say(&AuthResponse {
                    auth_type: AuthType::Credentials.into(),
                    username: USER.into(),
                    secret: password.into(),
                    ..Default::default()
                })
                .await;
            },
        }
    }
}

/// An image with a layer that comes in parts.
async fn here(server: &Server, made: &mut Made, name: &str) -> Image {
    let layers = [&two_layers()[..], &[layer(&[("noise", &noise(5_000_000))])]].concat();
    let image = made.image("amd64", &layers, Compress::Gzip);
    let archive = crate::fixtures::archive(&made.entries(&image.manifest, name));
    crate::client::import(server, archive, &proto::types::transfer::ImageStore::default()).await.unwrap();
    image
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_go_over_encrypted_connections_both_ways() {
    let Some(registry) = Registry::start_with(Strict { tls: true, password: true, clients: false }) else { return };
    let (server, mut made) = (Server::start().await, Made::default());
    let hosts = folder(&registry, &format!("ca = '{}'\n", registry.file("ca.pem")));
    let local = registry.name("team/app:v1");
    let image = here(&server, &mut made, &local).await;
    as_user(&server, hosts.path(), &local, PASSWORD, Some(&local)).await.unwrap();

    let other = Server::start().await;
    refused(as_user(&other, hosts.path(), &local, "wrong", None).await, Code::PermissionDenied, &registry.host);
    as_user(&other, hosts.path(), &local, PASSWORD, None).await.unwrap();
    assert_eq!(image_names(&other).await, [local.as_str()]);
    assert_eq!(snapshots(&other).await.len(), image.layers.len());

    // Without the authority it is nobody we know, and the hint says what is missing.
    let nothing = tempfile::tempdir().unwrap();
    let error = transfer(&other, &remote(&local, nothing.path(), ""), &store(&local)).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error:?}");
    assert!(error.message().contains("certificate") && error.message().contains("hosts.toml"), "{error:?}");
    // Unless nobody cares.
    let careless = folder(&registry, "skip_verify = true\n");
    as_user(&other, careless.path(), &local, PASSWORD, None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_ours_opens_what_is_closed_without() {
    let Some(registry) = Registry::start_with(Strict { tls: true, clients: true, password: false }) else { return };
    let (server, mut made) = (Server::start().await, Made::default());
    let local = registry.name("app:v1");
    here(&server, &mut made, &local).await;
    let [ca, certificate, key] = ["ca.pem", "client.pem", "client.key"].map(|name| registry.file(name));
    let without = folder(&registry, &format!("ca = '{ca}'\n"));
    let from = proto::types::transfer::ImageStore { name: local.clone(), ..Default::default() };
    let error = transfer(&server, &from, &remote(&local, without.path(), "")).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error:?}");

    let with = folder(&registry, &format!("ca = '{ca}'\nclient = [['{certificate}', '{key}']]\n"));
    transfer(&server, &from, &remote(&local, with.path(), "")).await.unwrap();
    let other = Server::start().await;
    transfer(&other, &remote(&local, with.path(), ""), &store(&local)).await.unwrap();
    assert_eq!(image_names(&other).await, [local.as_str()]);

    // The same as Docker has it.
    let docker = tempfile::tempdir().unwrap();
    let host = docker.path().join(&registry.host);
    std::fs::create_dir_all(&host).unwrap();
    for (from, to) in [(&ca, "ca.crt"), (&certificate, "client.cert"), (&key, "client.key")] {
        std::fs::copy(from, host.join(to)).unwrap();
    }
    let third = Server::start().await;
    transfer(&third, &remote(&local, docker.path(), ""), &store(&local)).await.unwrap();
    assert_eq!(image_names(&third).await, [local.as_str()]);
}
