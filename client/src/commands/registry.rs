//! What pulls and pushes say of how a registry is spoken to.

use std::path::PathBuf;

use client::ClientError;
use client::credentials::{Credentials, Secret};
use client::transfer::RegistryOptions;
use model::platform::Platform;

#[derive(Debug, clap::Args)]
#[group(id = "registry")]
pub(super) struct Arguments {
    /// Speak plain HTTP to the registry.
    #[arg(long)]
    plain_http: bool,
    /// A folder of hosts.toml files on the daemon's machine.
    #[arg(long, value_name = "FOLDER")]
    hosts_dir: Option<PathBuf>,
    /// A header to send along.
    #[arg(long = "header", value_name = "NAME:VALUE")]
    headers: Vec<String>,
    /// Who to be at the registry, instead of what Docker's configuration says. Without a password it is read from standard input.
    #[arg(short, long, value_name = "NAME[:PASSWORD]")]
    user: Option<String>,
    /// Docker's configuration.
    #[arg(long, value_name = "FOLDER", env = "DOCKER_CONFIG")]
    docker_config: Option<PathBuf>,
    /// Show what goes to the registry and comes back.
    #[arg(long)]
    http_debug: bool,
    /// Show connections and times.
    #[arg(long)]
    http_trace: bool,
}

impl Arguments {
    pub(super) fn options(self) -> Result<RegistryOptions, ClientError> {
        let mut options = RegistryOptions {
            plain_http: self.plain_http,
            hosts_dir: self.hosts_dir.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default(),
            debug: self.http_debug,
            trace: self.http_trace,
            ..RegistryOptions::default()
        };
        for header in self.headers {
            let (name, value) = header
                .split_once(':')
                .ok_or_else(|| ClientError::Invalid(format!("header {header:?} must be NAME:VALUE")))?;
            options.headers.insert(name.trim().to_owned(), value.trim().to_owned());
        }
        options.credentials = match (self.user, self.docker_config) {
            (Some(user), _) => {
                let (user, password) = match user.split_once(':') {
                    Some((user, password)) => (user.to_owned(), password.to_owned()),
                    None => {
                        let mut line = String::new();
                        std::io::stdin().read_line(&mut line).map_err(ClientError::io("read the password"))?;
                        (user, line.trim_end_matches(['\r', '\n']).to_owned())
                    }
                };
                Credentials::Password { user, password: Secret(password) }
            }
            (None, Some(folder)) => Credentials::Docker(folder.join("config.json")),
            (None, None) => match std::env::home_dir() {
                Some(home) => Credentials::Docker(home.join(".docker/config.json")),
                None => Credentials::None,
            },
        };
        Ok(options)
    }
}

/// Reads `os/architecture[/variant]`, or an architecture alone.
pub(super) fn platform(text: &str) -> Result<Platform, String> {
    let parts: Vec<&str> = text.split('/').collect();
    let (os, architecture, variant) = match parts[..] {
        [architecture] => ("linux", architecture, ""),
        [os, architecture] => (os, architecture, ""),
        [os, architecture, variant] => (os, architecture, variant),
        _ => return Err("a platform is os/architecture[/variant]".to_owned()),
    };
    if os.is_empty() || architecture.is_empty() {
        return Err("a platform is os/architecture[/variant]".to_owned());
    }
    Ok(Platform { os: os.into(), architecture: architecture.into(), variant: variant.into() }.normalized())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_read() {
        let read = |text| platform(text).map(|platform| platform.to_text());
        assert_eq!(read("linux/arm/v6").as_deref(), Ok("linux/arm/v6"));
        assert_eq!(read("x86_64").as_deref(), Ok("linux/amd64"));
        assert!(read("a/b/c/d").is_err() && read("").is_err());
    }
}
