//! Images as Kubernetes sees them.

use std::process::Command;

use anyhow::{Context as _, ensure};
use harness::cri::{code, host_network_pod};
use harness::image::BUSYBOX_NAME;
use harness::{Node, Registry, busybox_archive, eventually};
use proto::cri as wire;
use tonic::{Code, Status};

fn spec(image: &str) -> Option<wire::ImageSpec> {
    Some(wire::ImageSpec { image: image.to_owned(), ..wire::ImageSpec::default() })
}

fn pull(node: &Node, image: &str, auth: Option<wire::AuthConfig>) -> Result<String, Status> {
    let request = wire::PullImageRequest { image: spec(image), auth, sandbox_config: None };
    Ok(node.wait(async { node.images().pull_image(request).await })?.into_inner().image_ref)
}

fn status(node: &Node, image: &str) -> Result<Option<wire::Image>, Status> {
    let request = wire::ImageStatusRequest { image: spec(image), verbose: true };
    Ok(node.wait(async { node.images().image_status(request).await })?.into_inner().image)
}

fn list(node: &Node) -> Result<Vec<wire::Image>, Status> {
    Ok(node.wait(async { node.images().list_images(wire::ListImagesRequest::default()).await })?.into_inner().images)
}

fn remove(node: &Node, image: &str) -> Result<(), Status> {
    let request = wire::RemoveImageRequest { image: spec(image) };
    node.wait(async { node.images().remove_image(request).await }).map(drop)
}

#[test]
fn an_image_is_pulled_listed_by_all_its_names_and_removed() -> anyhow::Result<()> {
    let node = Node::without_network()?;
    remove(&node, BUSYBOX_NAME)?;
    let registry = Registry::start()?;
    let reference = registry.push(&busybox_archive()?, "a/busybox:1")?;
    let id = pull(&node, &reference, None)?;
    ensure!(id.starts_with("sha256:") && id.len() == 71, "{id}");
    let image = status(&node, &reference)?.context("the image")?;
    ensure!(image.id == id && image.repo_tags == [reference.clone()], "{image:?}");
    ensure!(image.repo_digests.len() == 1 && image.repo_digests[0].contains("/a/busybox@sha256:"), "{image:?}");
    ensure!(image.size > 100_000 && !image.pinned, "{image:?}");
    // By each of its names it is the same.
    let short = &id["sha256:".len()..]["".len()..12];
    for name in [&id, &image.repo_digests[0], &short.to_owned()] {
        ensure!(status(&node, name)?.as_ref() == Some(&image), "{name}");
    }
    // A second tag is another name of the same image, and a pull by digest is no other image.
    let second = registry.push(&busybox_archive()?, "a/busybox:2")?;
    ensure!(pull(&node, &second, None)? == id && pull(&node, &image.repo_digests[0], None)? == id);
    let listed = list(&node)?;
    ensure!(listed.len() == 1 && listed[0].repo_tags == [reference.clone(), second.clone()], "{listed:?}");
    let streamed = node.wait(async {
        let mut stream = node.images().stream_images(wire::StreamImagesRequest { filter: None }).await?.into_inner();
        let mut all = Vec::new();
        while let Some(message) = stream.message().await? {
            all.extend(message.images);
        }
        Ok::<_, Status>(all)
    })?;
    ensure!(streamed == listed);
    let request = wire::ListImagesRequest { filter: Some(wire::ImageFilter { image: spec(&second) }) };
    let filtered = node.wait(async { node.images().list_images(request).await })?.into_inner().images;
    ensure!(filtered == listed, "{filtered:?}");
    // Other clients see the names, with the label that says whose they are.
    let seen = node.daemon.ctr(&["-n", "k8s.io", "images", "ls"])?.ok()?;
    ensure!(seen.lines().filter(|line| line.contains("io.cri-containerd.image=managed")).count() == 4, "{seen}");
    remove(&node, short)?;
    remove(&node, &reference)?;
    ensure!(list(&node)?.is_empty() && status(&node, &reference)?.is_none());
    let left = node.daemon.ctr(&["-n", "k8s.io", "images", "ls", "-q"])?.ok()?;
    ensure!(left.is_empty(), "{left}");
    Ok(())
}

#[test]
fn what_others_imported_is_there_too() -> anyhow::Result<()> {
    let node = Node::without_network()?;
    let image = status(&node, "gantry-busybox")?.context("a familiar name")?;
    ensure!(image.repo_tags == [BUSYBOX_NAME] && image.repo_digests.is_empty(), "{image:?}");
    let request = wire::ImageStatusRequest { image: spec(BUSYBOX_NAME), verbose: true };
    let info = node.wait(async { node.images().image_status(request).await })?.into_inner().info;
    let info: serde_json::Value = serde_json::from_str(info.get("info").context("info")?)?;
    ensure!(info["chainID"].as_str().is_some_and(|chain| chain.starts_with("sha256:")), "{info}");
    ensure!(info["imageSpec"]["rootfs"]["type"] == "layers", "{info}");
    Ok(())
}

#[test]
fn the_image_of_pods_is_made_here_and_pinned() -> anyhow::Result<()> {
    let node = Node::without_network()?;
    let pod = node.run_pod(&host_network_pod("p"))?;
    let pinned: Vec<_> = list(&node)?.into_iter().filter(|image| image.pinned).collect();
    ensure!(pinned.len() == 1 && pinned[0].repo_tags == ["localhost/gantry/pause:1"], "{pinned:?}");
    ensure!(pinned[0].uid == Some(wire::Int64Value { value: 65535 }), "{pinned:?}");
    // It can be removed, and is made again.
    remove(&node, &pinned[0].id)?;
    let second = node.run_pod(&host_network_pod("q"))?;
    for id in [pod, second] {
        node.remove_pod(&id)?;
    }
    Ok(())
}

#[test]
fn credentials_are_those_of_the_request() -> anyhow::Result<()> {
    let node = Node::without_network()?;
    let registry = Registry::start()?;
    let reference = registry.push(&busybox_archive()?, "private/busybox:1")?;
    let guarded = Guarded::before(&registry.host())?;
    let name = reference.replace(&registry.host(), &guarded.host);
    let refused = pull(&node, &name, None).unwrap_err();
    ensure!(
        refused.message().contains("401") || refused.message().to_lowercase().contains("unauthorized"),
        "{refused:?}"
    );
    let named =
        |password: &str| wire::AuthConfig { username: "me".into(), password: password.into(), ..Default::default() };
    ensure!(pull(&node, &name, Some(named("wrong"))).is_err());
    let other = wire::AuthConfig { server_address: "https://other.example".into(), ..named("secret") };
    ensure!(pull(&node, &name, Some(other)).is_err(), "credentials for another registry were sent");
    pull(&node, &name, Some(named("secret")))?;
    remove(&node, &name)?;
    let encoded =
        wire::AuthConfig { auth: "bWU6c2VjcmV0".into(), server_address: guarded.host.clone(), ..Default::default() };
    pull(&node, &name, Some(encoded))?;
    Ok(())
}

/// A door before a registry that lets in who knows the password.
struct Guarded {
    host: String,
    child: std::process::Child,
}

impl Guarded {
    fn before(registry: &str) -> anyhow::Result<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let program = format!(
            r#"
import http.server, http.client
class Door(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.headers.get("Authorization") != "Basic bWU6c2VjcmV0":
            self.send_response(401); self.send_header("WWW-Authenticate", 'Basic realm="door"'); self.send_header("Content-Length", "0"); self.end_headers(); return
        there = http.client.HTTPConnection("{registry}")
        headers = {{k: v for k, v in self.headers.items() if k.lower() not in ("host", "authorization", "connection")}}
        there.request(self.command, self.path, headers=headers)
        answer = there.getresponse(); body = answer.read()
        self.send_response(answer.status)
        for k, v in answer.getheaders():
            if k.lower() not in ("content-length", "transfer-encoding", "connection"): self.send_header(k, v)
        self.send_header("Content-Length", answer.getheader("Content-Length") or str(len(body)) if self.command == "HEAD" else str(len(body))); self.end_headers()
        if self.command != "HEAD": self.wfile.write(body)
    do_HEAD = do_GET
    def log_message(self, *a): pass
http.server.ThreadingHTTPServer(("127.0.0.1", {port}), Door).serve_forever()
"#
        );
        let child = Command::new("python3").args(["-c", &program]).spawn().context("start python3")?;
        let guarded = Self { host: format!("127.0.0.1:{port}"), child };
        eventually("the door is there", || Ok(std::net::TcpStream::connect(("127.0.0.1", port)).map(drop)?))?;
        Ok(guarded)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn pulls_and_removals_at_the_same_time() -> anyhow::Result<()> {
    let node = Node::without_network()?;
    let registry = Registry::start()?;
    let reference = registry.push(&busybox_archive()?, "a/busybox:1")?;
    let (node, reference) = (&node, reference.as_str());
    for _ in 0..3 {
        std::thread::scope(|scope| {
            let pulls: Vec<_> = (0..4).map(|_| scope.spawn(move || pull(node, reference, None))).collect();
            let removal = scope.spawn(move || remove(node, reference));
            let ids: Vec<_> = pulls.into_iter().map(|pull| pull.join().expect("no panic")).collect();
            removal.join().expect("no panic")?;
            ensure!(ids.iter().all(|id| id.as_ref().ok() == ids[0].as_ref().ok() || id.is_err()), "{ids:?}");
            anyhow::Ok(())
        })?;
    }
    let id = pull(node, reference, None)?;
    ensure!(status(node, reference)?.context("the image")?.id == id);
    Ok(())
}

#[test]
fn what_is_used_on_disk_follows_the_images() -> anyhow::Result<()> {
    let node = Node::without_network()?;
    let usage = || -> anyhow::Result<wire::FilesystemUsage> {
        let info = node.wait(async { node.images().image_fs_info(wire::ImageFsInfoRequest {}).await })?.into_inner();
        ensure!(info.container_filesystems.is_empty());
        info.image_filesystems.into_iter().next().context("a filesystem")
    };
    let full = usage()?;
    let root = node.daemon.root().display().to_string();
    ensure!(full.fs_id.clone().unwrap_or_default().mountpoint.starts_with(&root), "{full:?}");
    ensure!(
        full.used_bytes.unwrap_or_default().value > 500_000 && full.inodes_used.unwrap_or_default().value > 0,
        "{full:?}"
    );
    remove(&node, BUSYBOX_NAME)?;
    eventually("what is not used is collected", || {
        let empty = usage()?;
        ensure!(empty.used_bytes.unwrap_or_default().value == 0, "{empty:?}");
        Ok(())
    })
}

#[test]
fn wrong_requests_for_images() -> anyhow::Result<()> {
    let node = Node::without_network()?;
    ensure!(pull(&node, "", None).unwrap_err().code() == Code::InvalidArgument);
    ensure!(pull(&node, "UPPER/case:x:y", None).unwrap_err().code() == Code::InvalidArgument);
    let wrong = wire::AuthConfig { auth: "!".into(), ..Default::default() };
    ensure!(pull(&node, "127.0.0.1:1/a:b", Some(wrong)).unwrap_err().code() == Code::InvalidArgument);
    ensure!(pull(&node, "127.0.0.1:1/a:b", None).is_err());
    let registry = Registry::start()?;
    ensure!(pull(&node, &format!("{}/no/such:1", registry.host()), None).unwrap_err().code() == Code::NotFound);
    let unknown = wire::ImageSpec { runtime_handler: "none".into(), ..spec("127.0.0.1:1/a:b").context("a spec")? };
    let request = wire::PullImageRequest { image: Some(unknown), auth: None, sandbox_config: None };
    ensure!(code(node.wait(async { node.images().pull_image(request).await })) == Code::InvalidArgument);
    ensure!(status(&node, "no-such-image")?.is_none() && status(&node, "")?.is_none());
    remove(&node, "no-such-image")?;
    ensure!(remove(&node, "").unwrap_err().code() == Code::InvalidArgument);
    Ok(())
}
