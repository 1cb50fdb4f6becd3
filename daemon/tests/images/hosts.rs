//! Mirrors, headers and folders of `hosts.toml`.

use std::path::Path;

use proto::types::transfer::{AuthResponse, AuthType, Data, HttpDebug, OciRegistry, RegistryResolver, WindowUpdate};
use tonic::Code;

use crate::client::{Stream, fresh, image_names, pull, store, transfer};
use crate::fake::{Answer, Asked, Fake, unknown};
use crate::fixtures::{Compress, Image, Made, layer, root};
use crate::server::{Server, config, refused};

/// Layers are large enough to be seen, and not in parts.
fn made() -> (Made, Image) {
    let mut made = Made::default();
    let image = made.image("amd64", &[layer(&[("a", b"a")])], Compress::Gzip);
    (made, image)
}

/// A folder of hosts that has this for `registry`.
fn folder(registry: &str, text: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let host = folder.path().join(registry);
    std::fs::create_dir_all(&host).unwrap();
    std::fs::write(host.join("hosts.toml"), text).unwrap();
    folder
}

async fn pull_by(server: &Server, name: &str, hosts: &Path) -> Result<(), tonic::Status> {
    let resolver = RegistryResolver { host_dir: hosts.display().to_string(), ..Default::default() };
    transfer(server, &OciRegistry { reference: name.into(), resolver: Some(resolver) }, &store(name)).await
}

fn all_have(asked: &[Asked], what: &str) -> bool {
    !asked.is_empty() && asked.iter().all(|asked| asked.path.contains(what))
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_are_asked_in_order_and_told_for_whom() {
    if !root() {
        return;
    }
    let (made, image) = made();
    let server = Server::start().await;
    // The first knows nothing, the second is broken, the third has all; the registry itself does not exist.
    let empty = Fake::start(|_, _| unknown("NAME_UNKNOWN")).await;
    let broken = Fake::start(|_, _| Answer::new(500, "no")).await;
    let good = Fake::of(&made, &image.manifest).await;
    let text = format!(
        "server = 'http://127.0.0.1:1'\n[host.'http://{}']\n[host.'http://{}']\n[host.'http://{}/v2/']\n",
        empty.host, broken.host, good.host
    );
    let hosts = folder("r.example", &text);
    pull_by(&server, "r.example/a:t", hosts.path()).await.unwrap();
    assert_eq!(image_names(&server).await, ["r.example/a:t"]);
    assert!(all_have(&good.asked(), "?ns=r.example"), "{:?}", good.asked());
    assert!(all_have(&empty.asked(), "ns=r.example"));
    // It is not asked for every blob again.
    let broken = broken.asked().len();
    assert!((1..=2).contains(&broken), "{broken}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_mirrors_may_not_do_they_are_not_asked() {
    if !root() {
        return;
    }
    let (made, image) = made();
    let server = Server::start().await;
    let (mirror, registry) = (Fake::of(&made, &image.manifest).await, Fake::of(&made, &image.manifest).await);
    let text =
        format!("server = 'http://{}'\n[host.'http://{}']\ncapabilities = ['pull']\n", registry.host, mirror.host);
    let hosts = folder("r.example", &text);
    pull_by(&server, "r.example/a:t", hosts.path()).await.unwrap();
    assert!(registry.asked().iter().all(|asked| asked.path.contains("/manifests/t")), "{:?}", registry.asked());
    assert_eq!(mirror.blob_requests(&image.layers[0]).len(), 1);
    let none = folder("r.example", &format!("server = 'http://{0}'\ncapabilities = ['pull']\n", registry.host));
    refused(pull_by(&server, "r.example/b:t", none.path()).await, Code::FailedPrecondition, "resolve tags");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_lies_is_left() {
    if !root() {
        return;
    }
    let (made, image) = made();
    let server = Server::start().await;
    let registry = Fake::of(&made, &image.manifest).await;
    let (wrong, layer) = (made.clone(), image.layers[0].clone());
    let manifest = image.manifest.clone();
    let mirror = Fake::start(move |asked, _| {
        let mut good = crate::fake::serve_made(&wrong, &manifest, asked);
        if asked.is_blob(&layer) {
            *good.body.last_mut().unwrap() ^= 1;
        }
        good
    })
    .await;
    let hosts = folder("r.example", &format!("server = 'http://{}'\n[host.'http://{}']\n", registry.host, mirror.host));
    pull_by(&server, "r.example/a:t", hosts.path()).await.unwrap();
    assert_eq!(registry.blob_requests(&image.layers[0]).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_fail_all_are_named() {
    let server = Server::start().await;
    let (one, other) = (Fake::start(|_, _| Answer::new(500, "tired")).await, Fake::start(|_, _| unknown("X")).await);
    let hosts = folder("r.example", &format!("server = 'http://{}'\n[host.'http://{}']\n", other.host, one.host));
    let error = pull_by(&server, "r.example/a:t", hosts.path()).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound, "{error:?}");
    for words in ["(mirror of r.example) has no t", &other.host, "answers 500", "tired"] {
        assert!(error.message().contains(words), "{words}: {error:?}");
    }
    let wrong = folder("r.example", "sever = 'x'\n");
    refused(pull_by(&server, "r.example/a:t", wrong.path()).await, Code::FailedPrecondition, "sever");
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_go_to_the_hosts_they_are_for() {
    if !root() {
        return;
    }
    let (made, image) = made();
    let server = Server::start().await;
    let elsewhere = Fake::of(&made, &image.manifest).await;
    let port = elsewhere.host.split_once(':').unwrap().1.to_owned();
    let (serve, manifest) = (made.clone(), image.manifest.clone());
    let fake = Fake::start(move |asked, _| {
        if asked.path.contains("/blobs/") {
            return Answer::new(307, "").with("Location", format!("http://localhost:{port}{}", asked.path));
        }
        crate::fake::serve_made(&serve, &manifest, asked)
    })
    .await;
    let hosts = folder(
        &fake.host,
        &format!("server = 'http://{}'\n[header]\nx-token = 'secret'\nx-more = ['a', 'b']\n", fake.host),
    );
    let name = fake.name("a:t");
    let resolver = RegistryResolver {
        host_dir: hosts.path().display().to_string(),
        headers: [("x-client".to_owned(), "c".to_owned())].into(),
        ..Default::default()
    };
    let from = OciRegistry { reference: name.clone(), resolver: Some(resolver) };
    transfer(&server, &from, &store(&name)).await.unwrap();
    for asked in fake.asked() {
        assert_eq!(asked.headers.get("x-token").map(String::as_str), Some("secret"));
        assert_eq!(asked.headers.get("x-client").map(String::as_str), Some("c"));
        assert!(asked.headers["user-agent"].starts_with("gantry/"));
    }
    assert!(!elsewhere.asked().is_empty());
    for asked in elsewhere.asked() {
        assert!(!asked.headers.contains_key("x-token") && !asked.headers.contains_key("x-client"), "{asked:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_come_from_the_configuration_too() {
    if !root() {
        return;
    }
    let (made, image) = made();
    let fake = Fake::of(&made, &image.manifest).await;
    let hosts = folder("_default", &format!("[host.'http://{}']\n", fake.host));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    let text = format!(
        "version = 2\n[plugins.'io.containerd.transfer.v1.local']\nconfig_path = '{}'\n",
        hosts.path().display()
    );
    std::fs::write(&file, text).unwrap();
    let document = daemon::config::Document::load(&file).unwrap();
    let mut config = config(folder.path());
    config.document = document;
    let server = Server::start_with(config, folder).await;
    pull(&server, "r.example/a:t").await.unwrap();
    assert_eq!(image_names(&server).await, ["r.example/a:t"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_can_be_seen_but_no_credentials() {
    if !root() {
        return;
    }
    let (made, image) = made();
    let server = Server::start().await;
    let (serve, manifest) = (made.clone(), image.manifest.clone());
    let fake = Fake::start(move |asked, _| match asked.headers.contains_key("authorization") {
        true => crate::fake::serve_made(&serve, &manifest, asked),
        false => Answer::new(401, "").with("WWW-Authenticate", "Basic realm=\"here\""),
    })
    .await;
    let (logs, auth) = (fresh("logs"), fresh("auth"));
    let mut lines = Stream::open(&server, &logs).await.unwrap();
    let mut asks = Stream::open(&server, &auth).await.unwrap();
    let name = fake.name("a:t");
    let resolver = RegistryResolver {
        http_debug: HttpDebug::Both.into(),
        logs_stream: logs,
        auth_stream: auth,
        ..Default::default()
    };
    let from = OciRegistry { reference: name.clone(), resolver: Some(resolver) };
    let to = store(&name);
    let work = async {
        let transfer = transfer(&server, &from, &to);
        tokio::pin!(transfer);
        loop {
            tokio::select! {
                outcome = &mut transfer => return outcome,
                asked = asks.next::<proto::types::transfer::AuthRequest>() => if asked.is_some() {
                    let kind = AuthType::Credentials.into();
                    asks.say(&AuthResponse { auth_type: kind, username: "u".into(), secret: "hunter2".into(), ..Default::default() }).await;
                },
            }
        }
    };
    let listen = async {
        lines.say(&WindowUpdate { update: 1 << 20 }).await;
        let mut text = String::new();
        while let Some(Data { data }) = lines.next().await {
            text += std::str::from_utf8(&data).unwrap();
        }
        text
    };
    let (outcome, text) = tokio::join!(work, listen);
    outcome.unwrap();
    for words in ["> GET", "/v2/a/manifests/t", "< HTTP/1.1 401", "< HTTP/1.1 200", "answered after"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    // `u:hunter2` in base64.
    assert!(!text.contains("dTpodW50ZXIy") && !text.contains("hunter2"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_may_not_be_passed_on_comes_from_where_its_manifest_says() {
    if !root() {
        return;
    }
    let (mut made, image) = made();
    let elsewhere = Fake::of(&made, &image.manifest).await;
    let mut manifest: serde_json::Value = serde_json::from_slice(&made.blobs[&image.manifest]).unwrap();
    manifest["layers"][0]["mediaType"] = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip".into();
    manifest["layers"][0]["urls"] =
        serde_json::json!(["ftp://x/y", format!("http://{}/{}", elsewhere.host, image.layers[0])]);
    let root = made.document(crate::fixtures::MANIFEST, &manifest);
    made.blobs.remove(&image.layers[0]);
    let (server, fake) = (Server::start().await, Fake::of(&made, &root).await);
    pull(&server, &fake.name("a:t")).await.unwrap();
    assert_eq!(elsewhere.asked().len(), 1);
}
