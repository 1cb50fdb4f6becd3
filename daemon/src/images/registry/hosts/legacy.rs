//! The registry keys that containerd's file had before `hosts.toml`: mirrors, TLS and credentials for each host. Pure.
//!
//! They count only where no folder of hosts is configured, and the log says that they are on their way out.

use std::collections::BTreeMap;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use toml::{Table, Value};

use super::{Host, Tls, address_of};
use crate::images::registry::auth::{Credentials, Secret};
use crate::images::registry::scheme::Scheme;

/// What the keys say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Legacy {
    /// The mirrors of a registry, in order; those of `*` are for registries that are not named.
    mirrors: BTreeMap<String, Vec<String>>,
    tls: BTreeMap<String, Tls>,
    credentials: BTreeMap<String, Credentials>,
}

impl Legacy {
    /// Reads the table `registry`.
    pub fn read(registry: &Table) -> Self {
        let table = |key: &str| registry.get(key).and_then(Value::as_table).into_iter().flatten();
        let mut found = Self::default();
        for (name, mirror) in table("mirrors") {
            let endpoints = mirror.get("endpoint").and_then(Value::as_array).into_iter().flatten();
            let endpoints = endpoints.filter_map(|endpoint| endpoint.as_str().map(str::to_owned)).collect();
            found.mirrors.insert(name.clone(), endpoints);
        }
        for (name, config) in table("configs") {
            let text = |part: &str, key: &str| {
                let text = config.get(part)?.get(key)?.as_str()?;
                Some(text.to_owned()).filter(|text| !text.is_empty())
            };
            let file = |key: &str| text("tls", key).map(PathBuf::from);
            let skip = config.get("tls").and_then(|tls| tls.get("insecure_skip_verify")).and_then(Value::as_bool);
            let tls = Tls {
                authorities: file("ca_file").into_iter().collect(),
                identities: file("cert_file").map(|cert| (cert, file("key_file"))).into_iter().collect(),
                skip_verify: skip.unwrap_or(false),
            };
            found.tls.insert(name.clone(), tls);
            if let Some(credentials) = config.get("auth").and_then(credentials) {
                found.credentials.insert(name.clone(), credentials);
            }
        }
        for (address, auth) in table("auths") {
            let host = address.split_once("://").map_or(address.as_str(), |(_, rest)| rest);
            let host = host.split('/').next().unwrap_or_default().to_owned();
            if let Some(credentials) = credentials(auth) {
                found.credentials.entry(host).or_insert(credentials);
            }
        }
        found
    }

    /// Whether they say nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The hosts to ask for what `registry` has.
    pub(super) fn hosts(&self, registry: &str, scheme: Option<Scheme>) -> Vec<Host> {
        let endpoints = self.mirrors.get(registry).or_else(|| self.mirrors.get("*"));
        let mut hosts = Vec::new();
        for endpoint in endpoints.into_iter().flatten() {
            let (scheme, rest) = match endpoint.split_once("://") {
                Some(("http", rest)) => (Scheme::Http, rest),
                Some(("https", rest)) => (Scheme::Https, rest),
                Some(_) => {
                    tracing::warn!(endpoint, "this mirror is neither http nor https, it is left out");
                    continue;
                }
                None => (Scheme::for_host(endpoint), endpoint.as_str()),
            };
            let (address, path) = rest.split_once('/').map_or((rest, ""), |(address, path)| (address, path));
            let mut host = Host::itself(address, Some(scheme));
            let path = path.trim_end_matches('/');
            if !path.is_empty() {
                host.path = if path.ends_with("v2") { format!("/{path}") } else { format!("/{path}/v2") };
            }
            host.is_mirror = host.address != address_of(registry);
            hosts.push(host);
        }
        if !hosts.iter().any(|host| !host.is_mirror) {
            hosts.push(Host::itself(registry, scheme));
        }
        for host in &mut hosts {
            let known = |name: &str| name == host.address || address_of(name) == host.address;
            let tls = self.tls.iter().find(|(name, _)| known(name)).map(|(_, tls)| tls.clone());
            let credentials = self.credentials.iter().find(|(name, _)| known(name)).map(|(_, found)| found.clone());
            host.credentials = credentials;
            if let Some(tls) = tls {
                if !host.is_mirror && scheme.is_none() && tls != Tls::default() {
                    host.scheme = Scheme::Https;
                }
                host.tls = tls;
            }
        }
        hosts
    }
}

/// The credentials of one entry: name and password, both in one, or a token.
fn credentials(auth: &Value) -> Option<Credentials> {
    let text = |key: &str| auth.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    if let Some(token) = text("identitytoken") {
        return Some(Credentials::Refresh(Secret::new(token)));
    }
    if let Some(both) = text("auth") {
        return decode(both);
    }
    let (user, password) = (text("username")?, text("password").unwrap_or_default());
    Some(Credentials::Password { user: user.to_owned(), password: Secret::new(password) })
}

/// Name and password as Docker's configuration has them: `name:password` in base64.
fn decode(both: &str) -> Option<Credentials> {
    let text = String::from_utf8(STANDARD.decode(both.trim()).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some(Credentials::Password { user: user.to_owned(), password: Secret::new(password.trim_end_matches('\0')) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_keys_are_understood() {
        let table: Table = r#"
[mirrors."docker.io"]
endpoint = ["http://127.0.0.1:5000", "https://m.example/cache"]
[mirrors."*"]
endpoint = ["https://any.example"]
[configs."m.example".tls]
ca_file = "/ca"
cert_file = "/cert"
key_file = "/key"
[configs."m.example".auth]
username = "u"
password = "p"
[configs."registry-1.docker.io".tls]
insecure_skip_verify = true
[auths."https://any.example/v1/"]
auth = "dTpwYTpzcw=="
"#
        .parse()
        .unwrap();
        let legacy = Legacy::read(&table);
        let hosts = legacy.hosts("docker.io", None);
        let seen: Vec<_> = hosts.iter().map(|host| (host.address.as_str(), host.path.as_str())).collect();
        assert_eq!(seen, [("127.0.0.1:5000", "/v2"), ("m.example", "/cache/v2"), ("registry-1.docker.io", "/v2")]);
        assert_eq!(hosts[1].tls.identities, [("/cert".into(), Some("/key".into()))]);
        let password =
            |user: &str, password: &str| Credentials::Password { user: user.into(), password: Secret::new(password) };
        assert_eq!(hosts[1].credentials, Some(password("u", "p")));
        assert!(hosts[2].tls.skip_verify);
        let hosts = legacy.hosts("r.example", None);
        assert_eq!(hosts[0].credentials, Some(password("u", "pa:ss")));
        assert_eq!((hosts[0].is_mirror, hosts[1].is_mirror), (true, false));
    }
}
