//! Where the content of a registry can be had: its mirrors in order, and itself last, as `hosts.toml` says (containerd's contract).
//!
//! ```text
//!   folder of the host? ──► hosts.toml ──► [host."…"] in order, then `server`
//!        │                      └ none ──► *.crt, *.cert, *.key as Docker has them, for the registry itself
//!        └ none ──► the mirrors of the configuration file (deprecated), then the registry itself
//! ```
//!
//! Files are read anew for each transfer. It opens no connection. A file that cannot be understood is an error that names it: a
//! mirror must not be left out because of a typing error.

mod legacy;
mod parse;

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::auth::Credentials;
use super::scheme::Scheme;

pub use legacy::Legacy;

/// How long a connection may take to be made, unless `dial_timeout` says otherwise.
pub const DIAL_TIME: Duration = Duration::from_secs(30);

/// Where folders of hosts are looked for unless configured.
pub const DEFAULT_PATHS: [&str; 2] = ["/etc/containerd/certs.d", "/etc/docker/certs.d"];

/// The folder for hosts that have none of their own.
const ANY_HOST: &str = "_default";

/// Why it is not known where to go.
#[derive(Debug, thiserror::Error)]
pub enum HostsError {
    /// A file cannot be read.
    #[error("cannot read {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// `hosts.toml` is not TOML, or a key has a value that it cannot have.
    #[error("{}: {what}", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// What may be asked of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// What a tag stands for. It is to be trusted for that.
    pub resolve: bool,
    /// Content by digest.
    pub pull: bool,
    /// To take content.
    pub push: bool,
}

impl Capabilities {
    /// All of them.
    pub const ALL: Self = Self { resolve: true, pull: true, push: true };
}

/// How the other end is known, and we to it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tls {
    /// Authorities to trust beside those of the system, in PEM.
    pub authorities: Vec<PathBuf>,
    /// Our certificates with their keys; without one, the certificate's file has the key too.
    pub identities: Vec<(PathBuf, Option<PathBuf>)>,
    /// Whether to believe anybody.
    pub skip_verify: bool,
}

/// One host to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// How it is spoken to.
    pub scheme: Scheme,
    /// Its name and port.
    pub address: String,
    /// What its paths begin with, `/v2` for one; without a slash at the end.
    pub path: String,
    /// What it may be asked.
    pub capabilities: Capabilities,
    /// How it is known.
    pub tls: Tls,
    /// What to send along with each request.
    pub headers: Vec<(String, String)>,
    /// How long a connection to it may take to be made.
    pub dial_time: Duration,
    /// Whether it stands in for the registry, and has to be told for which.
    pub is_mirror: bool,
    /// Who we are there, if the configuration says it.
    pub credentials: Option<Credentials>,
}

impl Host {
    /// The registry itself, as nobody said anything about it.
    pub fn itself(registry: &str, scheme: Option<Scheme>) -> Self {
        let scheme = scheme.unwrap_or_else(|| Scheme::for_host(registry));
        Self {
            scheme,
            address: address_of(registry).to_owned(),
            path: "/v2".to_owned(),
            capabilities: Capabilities::ALL,
            tls: Tls::default(),
            headers: Vec::new(),
            dial_time: DIAL_TIME,
            is_mirror: false,
            credentials: None,
        }
    }

    /// Whether nothing was said of it that the usual way of speaking to a registry does not have.
    pub fn is_plain(&self) -> bool {
        self.path == "/v2" && self.tls == Tls::default() && self.headers.is_empty() && !self.is_mirror
    }
}

/// Where the registry of a name is found: the one of Docker has another address than name.
pub fn address_of(registry: &str) -> &str {
    if registry == "docker.io" { "registry-1.docker.io" } else { registry }
}

/// What is known of hosts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sources {
    /// Folders that have a folder for each host, the first that has one counts.
    pub paths: Vec<PathBuf>,
    /// The deprecated keys of the configuration file; they count where there are no folders.
    pub legacy: Legacy,
    /// What to send along with each request, to whichever host.
    pub headers: Vec<(String, String)>,
}

impl Sources {
    /// The folders in a list as configuration has it, with `:` between them.
    pub fn of_paths(list: &str) -> Self {
        let paths = list.split(':').filter(|path| !path.is_empty()).map(PathBuf::from).collect();
        Self { paths, ..Self::default() }
    }

    /// The hosts to ask for what `registry` has, in order; never none. Reads files.
    ///
    /// # Errors
    /// A file that is there cannot be used.
    pub fn hosts(&self, registry: &str, scheme: Option<Scheme>) -> Result<Vec<Host>, HostsError> {
        let mut hosts = match self.paths.iter().find_map(|path| folder(path, registry)) {
            Some(folder) => self.of_folder(&folder, registry, scheme)?,
            None if self.paths.is_empty() => self.legacy.hosts(registry, scheme),
            None => vec![Host::itself(registry, scheme)],
        };
        for host in &mut hosts {
            host.headers.extend(self.headers.iter().cloned());
        }
        Ok(hosts)
    }

    fn of_folder(&self, folder: &Path, registry: &str, scheme: Option<Scheme>) -> Result<Vec<Host>, HostsError> {
        let file = folder.join("hosts.toml");
        match std::fs::read_to_string(&file) {
            Ok(text) => parse::hosts(&file, &text, registry, scheme),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let mut host = Host::itself(registry, scheme);
                host.tls = certificates(folder)?;
                if scheme.is_none() && host.tls != Tls::default() {
                    // Whoever puts certificates there wants them used, on this machine too.
                    host.scheme = Scheme::Https;
                }
                Ok(vec![host])
            }
            Err(source) => Err(HostsError::Read { file, source }),
        }
    }
}

/// The folder of a host within one of the configured folders.
fn folder(path: &Path, registry: &str) -> Option<PathBuf> {
    let names = match registry.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => {
            vec![format!("{name}_{port}_"), registry.to_owned(), name.to_owned()]
        }
        _ => vec![registry.to_owned()],
    };
    names.into_iter().chain([ANY_HOST.to_owned()]).map(|name| path.join(name)).find(|folder| folder.is_dir())
}

/// The certificates of a folder as Docker has them: authorities end in `.crt`, our own ones in `.cert`, their keys in `.key`.
fn certificates(folder: &Path) -> Result<Tls, HostsError> {
    let failed = |source| HostsError::Read { file: folder.to_owned(), source };
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        files.push(entry.map_err(failed)?.path());
    }
    files.sort();
    let ends = |file: &Path, end: &str| file.extension().is_some_and(|extension| extension == end);
    let mut tls = Tls::default();
    for file in files {
        if ends(&file, "crt") {
            tls.authorities.push(file);
        } else if ends(&file, "cert") {
            let key = file.with_extension("key");
            if !key.is_file() {
                return Err(HostsError::Malformed { file, what: "there is no key of that name beside it".to_owned() });
            }
            tls.identities.push((file, Some(key)));
        }
    }
    Ok(tls)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, name: &str, text: &str) {
        let file = folder.join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }

    fn sources(folder: &Path) -> Sources {
        Sources { paths: vec![folder.join("none"), folder.to_owned()], ..Sources::default() }
    }

    #[test]
    fn without_files_it_is_the_registry_itself() {
        let folder = tempfile::tempdir().unwrap();
        let hosts = sources(folder.path()).hosts("docker.io", None).unwrap();
        assert_eq!(hosts, [Host::itself("docker.io", None)]);
        assert_eq!((hosts[0].address.as_str(), hosts[0].scheme), ("registry-1.docker.io", Scheme::Https));
    }

    #[test]
    fn the_folder_of_a_host_has_several_names() {
        for name in ["r.example_5000_", "r.example:5000", "r.example", "_default"] {
            let folder = tempfile::tempdir().unwrap();
            write(folder.path(), &format!("{name}/hosts.toml"), "[host.\"http://mirror\"]\n");
            let hosts = sources(folder.path()).hosts("r.example:5000", None).unwrap();
            assert_eq!(
                hosts.iter().map(|host| host.address.as_str()).collect::<Vec<_>>(),
                ["mirror", "r.example:5000"]
            );
        }
    }

    #[test]
    fn certificates_as_docker_has_them() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["ca.crt", "a.cert", "a.key"] {
            write(folder.path(), &format!("r.example/{name}"), "");
        }
        let hosts = sources(folder.path()).hosts("r.example", None).unwrap();
        let at = |name: &str| folder.path().join("r.example").join(name);
        assert_eq!(hosts[0].tls.authorities, [at("ca.crt")]);
        assert_eq!(hosts[0].tls.identities, [(at("a.cert"), Some(at("a.key")))]);
        std::fs::remove_file(at("a.key")).unwrap();
        assert!(sources(folder.path()).hosts("r.example", None).is_err());
    }

    #[test]
    fn headers_go_to_every_host() {
        let header = ("X-Meta".to_owned(), "1".to_owned());
        let sources = Sources { headers: vec![header.clone()], ..Sources::default() };
        assert_eq!(sources.hosts("r.example", None).unwrap()[0].headers, [header]);
    }
}
