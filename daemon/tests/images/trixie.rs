//! The `ctr` of the next Debian, which lets the daemon move images.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use crate::client::{image_names, snapshots};
use crate::fixtures::{Compress, Made, layer, noise, root, skopeo, two_layers};
use crate::registry::{PASSWORD, Registry, Strict, USER};
use crate::server::Server;

/// The program, unpacked from its package into the target folder.
fn ctr() -> &'static Path {
    static CTR: OnceLock<PathBuf> = OnceLock::new();
    CTR.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("trixie");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/trixie.sh");
        let unpacked = Command::new("bash").arg(script).arg(&folder).arg("containerd").status().unwrap();
        assert!(unpacked.success(), "trixie.sh failed");
        folder.join("bin/ctr")
    })
}

async fn run(server: &Server, arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(ctr());
    command.arg("-a").arg(server.path("g.sock")).args(["-n", "default", "--timeout", "60s"]).args(arguments);
    command.kill_on_drop(true).output().await.unwrap()
}

/// What it writes; it must not fail.
async fn done(server: &Server, arguments: &[&str]) -> String {
    let output = run(server, arguments).await;
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {out}{error}");
    out.into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_pulls_pushes_tags_exports_and_imports_by_the_daemon() {
    if !root() {
        return;
    }
    let Some(registry) = Registry::start() else { return };
    let mut made = Made::default();
    let layers = [&two_layers()[..], &[layer(&[("noise", &noise(6_000_000))])]].concat();
    let here = made.image("amd64", &layers, Compress::Gzip);
    let index = made.index(&[("amd64", &here)]);
    let name = registry.push(&made, &index, "from:t");
    let server = Server::start().await;
    // It asks to unpack only for a platform that is named.
    let unpack = ["--platform", "linux/amd64", "--snapshotter", "overlayfs"];
    let out =
        done(&server, &[&["images", "pull", "--local=false", "--plain-http"], &unpack[..], &[&name]].concat()).await;
    assert!(out.contains("Pulling from OCI Registry") && out.contains("saved"), "{out}");
    assert_eq!(image_names(&server).await, [name.as_str()]);
    assert_eq!(snapshots(&server).await.len(), 3);

    let other = registry.name("to/here:v2");
    done(&server, &["images", "tag", "--local=false", &name, &other]).await;
    let out = done(&server, &["images", "push", "--local=false", "--plain-http", &other]).await;
    assert!(out.contains("Pushing to OCI Registry"), "{out}");
    let raw = skopeo(&["inspect", "--tls-verify=false", "--raw", &format!("docker://{other}")]);
    assert_eq!(model::Digest::sha256(raw.as_bytes()).to_string(), index);

    let archive = server.path("out.tar").display().to_string();
    done(&server, &["images", "export", "--local=false", &archive, &other]).await;
    let second = Server::start().await;
    done(&second, &["images", "import", "--local=false", &archive]).await;
    assert_eq!(image_names(&second).await, [other.as_str()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_asked_who_it_is() {
    if !root() {
        return;
    }
    let Some(registry) = Registry::start_with(Strict { tls: true, password: true, clients: false }) else { return };
    let hosts = tempfile::tempdir().unwrap();
    let folder = hosts.path().join(&registry.host);
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(
        folder.join("hosts.toml"),
        format!("server = 'https://{}'\nca = '{}'\n", registry.host, registry.file("ca.pem")),
    )
    .unwrap();
    // This version does not say which folder of hosts it means.
    let daemon = async || {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        let path = hosts.path().display();
        let text = format!("version = 2\n[plugins.'io.containerd.transfer.v1.local']\nconfig_path = '{path}'\n");
        std::fs::write(&file, text).unwrap();
        let mut config = crate::server::config(folder.path());
        config.document = daemon::config::Document::load(&file).unwrap();
        Server::start_with(config, folder).await
    };
    let mut made = Made::default();
    let image = made.image("amd64", &two_layers(), Compress::Zstd);
    let name = registry.name("a:t");
    let server = daemon().await;
    let archive = server.path("in.tar");
    std::fs::write(&archive, crate::fixtures::archive(&made.entries(&image.manifest, &name))).unwrap();
    done(&server, &["images", "import", "--local=false", &archive.display().to_string()]).await;
    let user = format!("{USER}:{PASSWORD}");
    done(&server, &["images", "push", "--local=false", "--user", &user, &name]).await;
    let other = daemon().await;
    let refused = run(&other, &["images", "pull", "--local=false", &name]).await;
    assert!(!refused.status.success(), "{refused:?}");
    done(&other, &["images", "pull", "--local=false", "--user", &user, &name]).await;
    assert_eq!(image_names(&other).await, [name.as_str()]);
}
