//! `hosts.toml`, read. Order counts in it: mirrors are asked as they are written. Pure.

use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::{Table, Value};

use super::{Capabilities, Host, HostsError, address_of};
use crate::config::schema;
use crate::images::registry::scheme::Scheme;

/// Every key that a host may have.
const KEYS: [&str; 7] = ["capabilities", "ca", "client", "skip_verify", "override_path", "header", "dial_timeout"];

/// The hosts that a file names for `registry`.
pub(super) fn hosts(file: &Path, text: &str, registry: &str, scheme: Option<Scheme>) -> Result<Vec<Host>, HostsError> {
    let malformed = |what: String| HostsError::Malformed { file: file.to_owned(), what };
    let table: Table = text.parse().map_err(|error: toml::de::Error| malformed(error.to_string()))?;
    for key in table.keys() {
        if !KEYS.contains(&key.as_str()) && !["server", "host"].contains(&key.as_str()) {
            return Err(malformed(format!("key {key} is not known")));
        }
    }
    let reader = Reader { file, registry, scheme };
    let mut hosts = Vec::new();
    if let Some(all) = table.get("host") {
        let all = all.as_table().ok_or_else(|| malformed("host must be a table of hosts".to_owned()))?;
        let order = order(text);
        let mut names: Vec<&String> = all.keys().collect();
        names.sort_by_key(|name| order.iter().position(|one| one == *name).unwrap_or(usize::MAX));
        for name in names {
            let host = all[name].as_table().ok_or_else(|| malformed(format!("host.{name:?} must be a table")))?;
            for key in host.keys() {
                if !KEYS.contains(&key.as_str()) {
                    return Err(malformed(format!("key {key} of host {name:?} is not known")));
                }
            }
            hosts.push(reader.host(name, host)?);
        }
    }
    let server = match table.get("server") {
        None => "",
        Some(server) => server.as_str().ok_or_else(|| malformed("server must be a string".to_owned()))?,
    };
    hosts.push(reader.host(server, &table)?);
    Ok(hosts)
}

/// The names of the hosts in the order in which they are written; the tables of TOML have none.
fn order(text: &str) -> Vec<String> {
    let headers = text.lines().filter_map(|line| {
        let rest = line.trim_start().strip_prefix('[')?.trim_start().strip_prefix("host")?.trim_start();
        let rest = rest.strip_prefix('.')?.trim_start();
        let quote = rest.chars().next()?;
        if quote == '"' || quote == '\'' {
            return rest[1..].split(quote).next().map(str::to_owned);
        }
        rest.split([']', '.']).next().map(|name| name.trim().to_owned())
    });
    let mut names: Vec<String> = Vec::new();
    for name in headers {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

struct Reader<'a> {
    file: &'a Path,
    registry: &'a str,
    scheme: Option<Scheme>,
}

impl Reader<'_> {
    fn wrong(&self, key: &str, what: &str) -> HostsError {
        HostsError::Malformed { file: self.file.to_owned(), what: format!("{key} must be {what}") }
    }

    /// One host: `url` is its address, nothing for the registry itself.
    fn host(&self, url: &str, table: &Table) -> Result<Host, HostsError> {
        let mut host = Host::itself(self.registry, self.scheme);
        let override_path = self.flag(table, "override_path")?;
        if !url.is_empty() {
            let (scheme, rest) = match url.split_once("://") {
                Some(("http", rest)) => (Scheme::Http, rest),
                Some(("https", rest)) => (Scheme::Https, rest),
                Some(_) => return Err(self.wrong(&format!("{url:?}"), "an address of http or https")),
                None => (self.scheme.unwrap_or_else(|| Scheme::for_host(url)), url),
            };
            let (address, path) = rest.split_once('/').map_or((rest, ""), |(address, path)| (address, path));
            if address.is_empty() || address.contains(['@', '?', '#', ' ']) || path.contains(['?', '#', ' ']) {
                return Err(self.wrong(&format!("{url:?}"), "an address without user or query"));
            }
            host.scheme = scheme;
            host.address = address_of(address).to_owned();
            let path: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
            host.path = path.iter().map(|part| format!("/{part}")).collect();
            if !override_path && path.last() != Some(&"v2") {
                host.path.push_str("/v2");
            }
            host.is_mirror = host.address != address_of(self.registry);
        } else if override_path {
            host.path.clear();
        }
        host.capabilities = self.capabilities(table)?;
        host.tls.skip_verify = self.flag(table, "skip_verify")?;
        host.tls.authorities = self.texts(table, "ca")?.into_iter().map(|path| self.path(&path)).collect();
        host.tls.identities = self.identities(table)?;
        host.headers = self.headers(table)?;
        if let Some(value) = table.get("dial_timeout") {
            let time = value.as_str().and_then(schema::duration).filter(|time| *time > Duration::ZERO);
            host.dial_time = time.ok_or_else(|| self.wrong("dial_timeout", "a duration like \"30s\""))?;
        }
        Ok(host)
    }

    fn path(&self, path: &str) -> PathBuf {
        self.file.parent().unwrap_or(Path::new("/")).join(path)
    }

    fn flag(&self, table: &Table, key: &str) -> Result<bool, HostsError> {
        match table.get(key) {
            None => Ok(false),
            Some(value) => value.as_bool().ok_or_else(|| self.wrong(key, "true or false")),
        }
    }

    /// A string, or a list of them.
    fn texts(&self, table: &Table, key: &str) -> Result<Vec<String>, HostsError> {
        match table.get(key) {
            None => Ok(Vec::new()),
            Some(Value::String(text)) => Ok(vec![text.clone()]),
            Some(Value::Array(list)) => {
                let text = |value: &Value| value.as_str().map(str::to_owned);
                let all: Option<_> = list.iter().map(text).collect();
                all.ok_or_else(|| self.wrong(key, "a string or a list of strings"))
            }
            Some(_) => Err(self.wrong(key, "a string or a list of strings")),
        }
    }

    fn capabilities(&self, table: &Table) -> Result<Capabilities, HostsError> {
        let words = self.texts(table, "capabilities")?;
        if words.is_empty() {
            return Ok(Capabilities::ALL);
        }
        let mut found = Capabilities { resolve: false, pull: false, push: false };
        for word in words {
            match word.to_ascii_lowercase().as_str() {
                "pull" => found.pull = true,
                "resolve" => found.resolve = true,
                "push" => found.push = true,
                // Referrers are read as content is.
                "referrers" => {}
                _ => return Err(self.wrong("capabilities", "of \"pull\", \"resolve\", \"push\", \"referrers\"")),
            }
        }
        Ok(found)
    }

    /// A file that has both, a list of such files, or a list of pairs.
    fn identities(&self, table: &Table) -> Result<Vec<(PathBuf, Option<PathBuf>)>, HostsError> {
        let wrong = || self.wrong("client", "a file, a list of files, or a list of pairs of a certificate and its key");
        let one = |value: &Value| match value {
            Value::String(file) => Ok((self.path(file), None)),
            Value::Array(pair) => match &pair[..] {
                [Value::String(file)] => Ok((self.path(file), None)),
                [Value::String(file), Value::String(key)] if key.is_empty() => Ok((self.path(file), None)),
                [Value::String(file), Value::String(key)] => Ok((self.path(file), Some(self.path(key)))),
                _ => Err(wrong()),
            },
            _ => Err(wrong()),
        };
        match table.get("client") {
            None => Ok(Vec::new()),
            Some(value @ Value::String(_)) => Ok(vec![one(value)?]),
            Some(Value::Array(list)) => list.iter().map(one).collect(),
            Some(_) => Err(wrong()),
        }
    }

    fn headers(&self, table: &Table) -> Result<Vec<(String, String)>, HostsError> {
        let wrong = || self.wrong("header", "a table of strings or lists of strings");
        let Some(value) = table.get("header") else { return Ok(Vec::new()) };
        let mut headers = Vec::new();
        for (name, value) in value.as_table().ok_or_else(wrong)? {
            let values = match value {
                Value::Array(values) => values.iter().collect(),
                value => vec![value],
            };
            for value in values {
                headers.push((name.clone(), value.as_str().ok_or_else(wrong)?.to_owned()));
            }
        }
        Ok(headers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Host>, HostsError> {
        hosts(Path::new("/certs.d/docker.io/hosts.toml"), text, "docker.io", None)
    }

    #[test]
    fn mirrors_come_in_their_order_and_the_registry_last() {
        let hosts = read(
            r#"
server = "https://registry-1.docker.io"
[host."https://z.example"]
capabilities = ["pull"]
[host."http://a.example:5000/cache"]
  skip_verify = true
  dial_timeout = "5s"
[host.'https://m.example/api/hub']
  override_path = true
  [host.'https://m.example/api/hub'.header]
  x-one = "1"
  x-two = ["2", "3"]
"#,
        )
        .unwrap();
        let seen: Vec<_> =
            hosts.iter().map(|host| (host.address.as_str(), host.path.as_str(), host.is_mirror)).collect();
        assert_eq!(
            seen,
            [
                ("z.example", "/v2", true),
                ("a.example:5000", "/cache/v2", true),
                ("m.example", "/api/hub", true),
                ("registry-1.docker.io", "/v2", false)
            ]
        );
        assert_eq!(hosts[0].capabilities, Capabilities { resolve: false, pull: true, push: false });
        assert!(hosts[1].tls.skip_verify && hosts[1].scheme == Scheme::Http);
        assert_eq!(hosts[1].dial_time, Duration::from_secs(5));
        assert_eq!(hosts[2].headers.len(), 3);
        assert_eq!(hosts[3].capabilities, Capabilities::ALL);
    }

    #[test]
    fn certificates_have_three_forms() {
        for (client, identities) in [
            ("client = 'both.pem'", vec![("/certs.d/docker.io/both.pem", None)]),
            ("client = ['a.pem', '/b.pem']", vec![("/certs.d/docker.io/a.pem", None), ("/b.pem", None)]),
            ("client = [['/c', '/k'], ['/d', '']]", vec![("/c", Some("/k")), ("/d", None)]),
        ] {
            let hosts = read(&format!("ca = ['x.crt', '/y.crt']\n{client}")).unwrap();
            let wanted: Vec<_> = identities
                .into_iter()
                .map(|(file, key): (&str, Option<&str>)| (PathBuf::from(file), key.map(PathBuf::from)))
                .collect();
            assert_eq!(hosts[0].tls.identities, wanted);
            assert_eq!(hosts[0].tls.authorities, [Path::new("/certs.d/docker.io/x.crt"), Path::new("/y.crt")]);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, words) in [
            ("server = 1", "server"),
            ("sever = ''", "sever"),
            ("[host.\"https://a\"]\nskip_verfy = true", "skip_verfy"),
            ("[host.\"ftp://a\"]", "ftp://a"),
            ("[host.\"https://u:p@a\"]", "user"),
            ("capabilities = ['fetch']", "capabilities"),
            ("dial_timeout = '0s'", "dial_timeout"),
            ("client = [[1]]", "client"),
            ("[header]\na = 1", "header"),
            ("[host", "hosts.toml"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains("hosts.toml"), "{text}: {error}");
        }
    }
}
