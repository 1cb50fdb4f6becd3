//! The files of a pod that its containers share: host name, hosts, resolver, shared memory.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use proto::cri::{DnsConfig, NamespaceMode};

use super::super::record::PodRecord;
use super::super::{Cri, CriError};

/// The size of shared memory.
const SHM: &str = "mode=1777,size=65536k";
/// The largest file of the host that is copied, in bytes.
const MAX_COPY: u64 = 1 << 20;

/// Where the files of a pod are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The durable folder.
    pub root: PathBuf,
    /// The folder that dies with the machine.
    pub state: PathBuf,
    /// `/etc/hostname`.
    pub hostname: PathBuf,
    /// `/etc/hosts`.
    pub hosts: PathBuf,
    /// `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// `/dev/shm`, unless the pod uses that of the host.
    pub shm: PathBuf,
}

impl Cri {
    /// Where the files of a pod are.
    pub(crate) fn files_of_pod(&self, id: &str) -> Files {
        let (root, state) = (self.root().join("sandboxes").join(id), self.state().join("sandboxes").join(id));
        Files {
            hostname: root.join("hostname"),
            hosts: root.join("hosts"),
            resolv_conf: root.join("resolv.conf"),
            shm: state.join("shm"),
            root,
            state,
        }
    }
}

impl Files {
    /// Makes all of them. Blocks.
    pub(super) fn make(&self, record: &PodRecord) -> Result<(), CriError> {
        let config = record.config.clone().unwrap_or_default();
        let hostname = if config.hostname.is_empty() { host_name() } else { config.hostname };
        let resolv = match &config.dns_config {
            Some(dns) if *dns != DnsConfig::default() => resolver(dns),
            _ => copy_of("/etc/resolv.conf"),
        };
        let made = || {
            fs::create_dir_all(&self.root)?;
            write(&self.hostname, format!("{hostname}\n").as_bytes())?;
            write(&self.hosts, copy_of("/etc/hosts").as_bytes())?;
            write(&self.resolv_conf, resolv.as_bytes())?;
            if record.namespaces().ipc() != NamespaceMode::Node {
                self.mount_shm()?;
            }
            Ok::<_, io::Error>(())
        };
        made().map_err(|error| {
            CriError::Failed(format!("cannot make the files of the pod in {}: {error}", self.root.display()))
        })
    }

    /// Mounts shared memory, if it is not there.
    pub(super) fn mount_shm(&self) -> io::Result<()> {
        fs::create_dir_all(&self.shm)?;
        if is_mounted(&self.shm) {
            return Ok(());
        }
        let flags = MsFlags::MS_NOEXEC | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        Ok(mount(Some("shm"), &self.shm, Some("tmpfs"), flags, Some(SHM))?)
    }

    /// Takes shared memory down. Blocks.
    pub(super) fn unmount(&self) -> io::Result<()> {
        match umount2(&self.shm, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes all of them. Blocks.
    pub(super) fn remove(&self) -> io::Result<()> {
        self.unmount()?;
        for folder in [&self.state, &self.root] {
            match fs::remove_dir_all(folder) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

fn is_mounted(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let device = |path: &Path| fs::symlink_metadata(path).map(|of| of.dev()).ok();
    device(path) != path.parent().and_then(device)
}

/// Everybody in the pod may read them, whatever our own mask is.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::write(path, bytes)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))
}

/// A file of the host; nothing if it has none.
fn copy_of(path: &str) -> String {
    use io::Read as _;
    let mut text = String::new();
    let read = fs::File::open(path).and_then(|file| file.take(MAX_COPY).read_to_string(&mut text));
    read.map(|_| text).unwrap_or_default()
}

/// The name of this machine.
pub(super) fn host_name() -> String {
    nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// `resolv.conf` (resolv.conf(5)).
fn resolver(dns: &DnsConfig) -> String {
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text += &format!("search {}\n", dns.searches.join(" "));
    }
    for server in &dns.servers {
        text += &format!("nameserver {server}\n");
    }
    if !dns.options.is_empty() {
        text += &format!("options {}\n", dns.options.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resolver_is_told() {
        let list = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let dns = DnsConfig { servers: list("10.0.0.1 fd00::1"), searches: list("a.b c.d"), options: list("ndots:5") };
        assert_eq!(resolver(&dns), "search a.b c.d\nnameserver 10.0.0.1\nnameserver fd00::1\noptions ndots:5\n");
        assert_eq!(resolver(&DnsConfig::default()), "");
    }
}
