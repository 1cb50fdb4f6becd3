//! Who we are at registries, as Docker's `config.json` and its credential helpers say it.
//!
//! ```text
//!   credHelpers[host] ─► that helper    else credsStore ─► that helper    else auths[host]
//! ```
//!
//! A helper is a program `docker-credential-NAME` that is asked with `get`, the host on its standard input, JSON on its output. The
//! file is read when it is needed; nothing of it is printed. Without a file we are nobody.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proto::types::transfer::{AuthResponse, AuthType};
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use crate::ClientError;

/// The key of Docker's own registry.
const DOCKER_KEY: &str = "https://index.docker.io/v1/";

/// The user that stands for a token instead of a password.
const TOKEN_USER: &str = "<token>";

/// How long a helper may take; it may ask a person.
const HELPER_TIME: Duration = Duration::from_secs(60);

/// The largest file, and the longest answer of a helper, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// Where credentials come from.
#[derive(Debug, Clone, Default)]
pub enum Credentials {
    /// There are none.
    #[default]
    None,
    /// These, for whichever registry.
    Password {
        /// The name.
        user: String,
        /// The password.
        password: Secret,
    },
    /// This file, if it is there.
    Docker(PathBuf),
}

/// Something that is not printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct File {
    auths: BTreeMap<String, Entry>,
    creds_store: String,
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Helped {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

impl Credentials {
    /// The answer to a daemon that asks who we are at `host`.
    ///
    /// # Errors
    /// The file or a helper is there and cannot be used.
    pub async fn answer(&self, host: &str) -> Result<AuthResponse, ClientError> {
        match self {
            Self::None => Ok(nobody()),
            Self::Password { user, password } => Ok(password_of(user.clone(), password.0.clone())),
            Self::Docker(path) => {
                let file = read(path)?;
                let keys = keys(host);
                let helper = keys.iter().find_map(|key| file.cred_helpers.get(key));
                match helper.or(Some(&file.creds_store)).filter(|name| !name.is_empty()) {
                    Some(name) => match ask(name, &keys).await? {
                        Some(answer) => Ok(answer),
                        None => Ok(of_file(&file, &keys)),
                    },
                    None => Ok(of_file(&file, &keys)),
                }
            }
        }
    }
}

fn read(path: &std::path::Path) -> Result<File, ClientError> {
    let failed = || ClientError::io(format!("read {}", path.display()));
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(File::default()),
        Err(error) => return Err(failed()(error)),
        Ok(metadata) if metadata.len() > MAX_BYTES => {
            return Err(ClientError::Invalid(format!("{} has more than {MAX_BYTES} bytes", path.display())));
        }
        Ok(_) => {}
    }
    let text = std::fs::read(path).map_err(failed())?;
    serde_json::from_slice(&text).map_err(|source| ClientError::Document { what: path.display().to_string(), source })
}

/// How a host may be called, the likeliest first.
fn keys(host: &str) -> Vec<String> {
    let mut keys = Vec::new();
    if matches!(host, "docker.io" | "registry-1.docker.io" | "index.docker.io") {
        keys.extend([DOCKER_KEY.to_owned(), "docker.io".to_owned(), "index.docker.io".to_owned()]);
    } else {
        keys.push(host.to_owned());
        keys.extend(["https://", "http://"].map(|scheme| format!("{scheme}{host}")));
    }
    keys
}

fn of_file(file: &File, keys: &[String]) -> AuthResponse {
    let exact = keys.iter().find_map(|key| file.auths.get(key));
    // An address with a path is the same host.
    let bare = |key: &str| {
        let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
        rest.split('/').next().unwrap_or_default().to_owned()
    };
    let entry = exact.or_else(|| file.auths.iter().find(|(key, _)| keys.contains(&bare(key))).map(|(_, entry)| entry));
    let Some(entry) = entry else { return nobody() };
    if !entry.registrytoken.is_empty() {
        return answer(AuthType::Header, String::new(), format!("Bearer {}", entry.registrytoken));
    }
    if !entry.identitytoken.is_empty() {
        return answer(AuthType::Refresh, String::new(), entry.identitytoken.clone());
    }
    if !entry.username.is_empty() {
        return password_of(entry.username.clone(), entry.password.clone());
    }
    let decoded = STANDARD.decode(entry.auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    match decoded.as_deref().and_then(|text| text.split_once(':')) {
        Some((user, password)) => password_of(user.to_owned(), password.trim_end_matches('\0').to_owned()),
        None => nobody(),
    }
}

fn nobody() -> AuthResponse {
    answer(AuthType::None, String::new(), String::new())
}

fn password_of(user: String, password: String) -> AuthResponse {
    match user.as_str() {
        TOKEN_USER => answer(AuthType::Refresh, String::new(), password),
        _ => answer(AuthType::Credentials, user, password),
    }
}

fn answer(kind: AuthType, username: String, secret: String) -> AuthResponse {
    AuthResponse { auth_type: kind.into(), username, secret, ..Default::default() }
}

/// Asks a helper for the first of `keys` that it knows.
async fn ask(name: &str, keys: &[String]) -> Result<Option<AuthResponse>, ClientError> {
    if name.contains('/') {
        return Err(ClientError::Invalid(format!("credential helper {name:?} must be a name, not a path")));
    }
    let program = format!("docker-credential-{name}");
    for key in keys {
        let mut child = Command::new(&program)
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .map_err(ClientError::io(format!("run {program}")))?;
        let work = async {
            if let Some(mut input) = child.stdin.take() {
                // A helper that knows its answer without reading is fine.
                let _ = input.write_all(key.as_bytes()).await;
            }
            let mut output = Vec::new();
            if let Some(from) = child.stdout.take() {
                from.take(MAX_BYTES).read_to_end(&mut output).await?;
            }
            Ok::<_, std::io::Error>((child.wait().await?, output))
        };
        let (status, output) = tokio::time::timeout(HELPER_TIME, work)
            .await
            .map_err(|_| ClientError::Invalid(format!("{program} did not answer within {} s", HELPER_TIME.as_secs())))?
            .map_err(ClientError::io(format!("hear {program}")))?;
        if status.success() {
            let helped: Helped = serde_json::from_slice(&output)
                .map_err(|source| ClientError::Document { what: format!("the answer of {program}"), source })?;
            return Ok(Some(password_of(helped.username, helped.secret)));
        }
        let said = String::from_utf8_lossy(&output).trim().to_owned();
        // What all helpers say of a host that they do not know.
        if !said.contains("credentials not found") {
            return Err(ClientError::Invalid(format!("{program} failed ({status}): {said}")));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, Credentials) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        std::fs::write(&path, text).unwrap();
        (folder, Credentials::Docker(path))
    }

    #[tokio::test]
    async fn entries_of_the_file_have_several_forms() {
        let (_folder, credentials) = file(
            r#"{"auths": {
                "https://index.docker.io/v1/": {"auth": "dTpwYTpzcw=="},
                "r.example:5000": {"username": "a", "password": "b"},
                "https://t.example/v2/": {"auth": "eDp5", "identitytoken": "refresh-me"},
                "empty.example": {}
            }}"#,
        );
        for (host, kind, user, secret) in [
            ("registry-1.docker.io", AuthType::Credentials, "u", "pa:ss"),
            ("r.example:5000", AuthType::Credentials, "a", "b"),
            ("t.example", AuthType::Refresh, "", "refresh-me"),
            ("empty.example", AuthType::None, "", ""),
            ("other.example", AuthType::None, "", ""),
        ] {
            assert_eq!(credentials.answer(host).await.unwrap(), answer(kind, user.into(), secret.into()), "{host}");
        }
        assert!(
            !format!("{:?}", Credentials::Password { user: "u".into(), password: Secret("p4ss".into()) })
                .contains("p4ss")
        );
    }

    #[tokio::test]
    async fn no_file_is_nobody_and_a_damaged_one_an_error() {
        let (folder, credentials) = file("{");
        assert!(credentials.answer("r.example").await.unwrap_err().to_string().contains("config.json"));
        let none = Credentials::Docker(folder.path().join("none"));
        assert_eq!(none.answer("r.example").await.unwrap(), nobody());
        let (_folder, path) = file(r#"{"credsStore": "../evil"}"#);
        assert!(path.answer("r.example").await.is_err());
    }
}
