//! A real registry, Debian's `docker-registry`, in a temporary folder.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::fixtures::{Made, have, root, run, skopeo};

pub struct Registry {
    process: Child,
    pub host: String,
    /// Removed when this is dropped.
    folder: TempDir,
}

/// How a registry wants to be spoken to.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Strict {
    /// Encrypted, with a certificate of an authority of its own.
    pub tls: bool,
    /// Only by who has a certificate of that authority.
    pub clients: bool,
    /// Only with [`USER`] and [`PASSWORD`].
    pub password: bool,
}

pub const USER: &str = "ann";
pub const PASSWORD: &str = "s3cret-of-ann";

impl Registry {
    /// Starts one; `None` if what is needed is not installed.
    pub fn start() -> Option<Self> {
        Self::start_with(Strict::default())
    }

    /// Starts one that wants more.
    pub fn start_with(strict: Strict) -> Option<Self> {
        if !have(&["docker-registry", "skopeo"]) || !root() {
            return None;
        }
        if strict.tls && !have(&["openssl"]) || strict.password && !have(&["htpasswd"]) {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        // Free at this moment, which is as good as it gets: the registry wants a number.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let host = format!("127.0.0.1:{port}");
        let blobs = folder.path().join("blobs");
        let config = folder.path().join("config.yml");
        let at = |name: &str| folder.path().join(name).display().to_string();
        let mut http = format!("addr: '{host}'");
        if strict.tls {
            certificates(folder.path());
            let mut tls = format!("certificate: {}, key: {}", at("server.pem"), at("server.key"));
            if strict.clients {
                tls += &format!(", clientcas: ['{}']", at("ca.pem"));
            }
            http += &format!(", tls: {{{tls}}}");
        }
        let mut auth = String::new();
        if strict.password {
            let line = run("htpasswd", &["-Bbn", USER, PASSWORD]);
            std::fs::write(folder.path().join("users"), line).unwrap();
            auth = format!("auth: {{htpasswd: {{realm: here, path: {}}}}}\n", at("users"));
        }
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{{http}}}\n{auth}",
            blobs.display()
        );
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new("docker-registry");
        let process = command.arg("serve").arg(&config).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let registry = Self { process, host, folder };
        for _ in 0..500 {
            if TcpStream::connect(&registry.host).is_ok() {
                return Some(registry);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the registry does not listen");
    }

    /// A file beside it: `ca.pem`, `client.pem`, `client.key`.
    pub fn file(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    pub fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.host)
    }

    /// Pushes what `root` names.
    pub fn push(&self, made: &Made, root: &str, rest: &str) -> String {
        let layout = tempfile::tempdir().unwrap();
        made.layout(layout.path(), root, "t");
        self.push_layout(layout.path(), rest)
    }

    fn push_layout(&self, layout: &Path, rest: &str) -> String {
        let from = format!("oci:{}:t", layout.display());
        let to = format!("docker://{}", self.name(rest));
        skopeo(&["copy", "-q", "--all", "--preserve-digests", "--dest-tls-verify=false", &from, &to]);
        self.name(rest)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// An authority, and certificates of it for the server and for a client, as files.
fn certificates(folder: &Path) {
    let at = |name: &str| folder.join(name).display().to_string();
    let (days, kind) = (["-days", "2"], ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
    let (ca, ca_key) = (at("ca.pem"), at("ca.key"));
    let own = ["req", "-x509", "-subj", "/CN=test authority", "-keyout", &ca_key, "-out", &ca];
    run("openssl", &[&own[..], &kind, &days].concat());
    for (name, extension) in
        [("server", "subjectAltName=IP:127.0.0.1,DNS:localhost"), ("client", "extendedKeyUsage=clientAuth")]
    {
        let (key, request, certificate) =
            (at(&format!("{name}.key")), at(&format!("{name}.csr")), at(&format!("{name}.pem")));
        let subject = format!("/CN={name}");
        run("openssl", &[&["req", "-new", "-subj", &subject, "-keyout", &key, "-out", &request][..], &kind].concat());
        let extensions = at("extensions");
        std::fs::write(&extensions, extension).unwrap();
        let sign =
            ["x509", "-req", "-in", &request, "-CA", &ca, "-CAkey", &ca_key, "-CAcreateserial", "-out", &certificate];
        run("openssl", &[&sign[..], &["-extfile", &extensions], &days].concat());
    }
}
