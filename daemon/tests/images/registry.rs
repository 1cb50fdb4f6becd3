//! A real registry, Debian's `docker-registry`, in a temporary folder.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::fixtures::{Made, have, root, skopeo};

pub struct Registry {
    process: Child,
    pub host: String,
    /// Removed when this is dropped.
    _folder: TempDir,
}

impl Registry {
    /// Starts one; `None` if what is needed is not installed.
    pub fn start() -> Option<Self> {
        if !have(&["docker-registry", "skopeo"]) || !root() {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        // Free at this moment, which is as good as it gets: the registry wants a number.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let host = format!("127.0.0.1:{port}");
        let blobs = folder.path().join("blobs");
        let config = folder.path().join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{host}'}}\n",
            blobs.display()
        );
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new("docker-registry");
        let process = command.arg("serve").arg(&config).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let registry = Self { process, host, _folder: folder };
        for _ in 0..500 {
            if TcpStream::connect(&registry.host).is_ok() {
                return Some(registry);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the registry does not listen");
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
