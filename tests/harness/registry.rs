//! A real registry on loopback: Debian's docker-registry.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, ensure};

use crate::run::{eventually, run};
use crate::{folder, programs};

/// A registry with nothing in it, on a port of its own.
#[derive(Debug)]
pub struct Registry {
    _folder: tempfile::TempDir,
    child: Child,
    port: u16,
}

impl Registry {
    /// Starts one that speaks plain HTTP.
    ///
    /// # Errors
    /// When it does not listen.
    pub fn start() -> anyhow::Result<Self> {
        Self::start_for(None)
    }

    /// Starts one that lets in only this user, with this password.
    ///
    /// # Errors
    /// When it does not listen.
    pub fn guarded(user: &str, password: &str) -> anyhow::Result<Self> {
        Self::start_for(Some((user, password)))
    }

    fn start_for(user: Option<(&str, &str)>) -> anyhow::Result<Self> {
        let folder = folder("r")?;
        // Free a moment ago; nobody else takes ports from that range in that moment but by chance, and then the start fails.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let config = folder.path().join("config.yml");
        let mut text = format!(
            "version: 0.1\nlog:\n  level: warn\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\nhttp:\n  addr: 127.0.0.1:{port}\n",
            folder.path().join("data").display()
        );
        if let Some((user, password)) = user {
            let users = folder.path().join("users");
            std::fs::write(&users, run(&programs::find("htpasswd")?, &["-Bbn", user, password])?.ok()?)?;
            text += &format!("auth:\n  htpasswd:\n    realm: here\n    path: {}\n", users.display());
        }
        std::fs::write(&config, text)?;
        let log = std::fs::File::create(folder.path().join("log"))?;
        let mut command = Command::new(programs::find("docker-registry")?);
        command.arg("serve").arg(&config).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().context("start docker-registry")?;
        let mut registry = Self { _folder: folder, child, port };
        eventually("the registry listens", || {
            let ended = registry.child.try_wait()?;
            ensure!(ended.is_none(), "docker-registry ended: {ended:?}");
            Ok(TcpStream::connect(("127.0.0.1", port))?)
        })?;
        Ok(registry)
    }

    /// Its name in references.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Pushes an archive with skopeo, a program that is not ours. Returns the reference.
    ///
    /// # Errors
    /// When skopeo refuses.
    pub fn push(&self, archive: &Path, repository: &str) -> anyhow::Result<String> {
        let reference = format!("{}/{repository}", self.host());
        let arguments = [
            "--insecure-policy".to_owned(),
            "copy".to_owned(),
            "--dest-tls-verify=false".to_owned(),
            format!("docker-archive:{}", archive.display()),
            format!("docker://{reference}"),
        ];
        run(&programs::find("skopeo")?, &arguments)?.ok()?;
        Ok(reference)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
