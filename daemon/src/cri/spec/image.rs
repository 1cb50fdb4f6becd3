//! What an image says about how to run it. It is input, never configuration: nothing of it reaches the host unchecked.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::SpecError;

/// The part of an image's configuration that a container starts out from (OCI image spec, config.md).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// `user[:group]`, names or numbers.
    pub user: String,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// The command, if the container names none.
    pub entrypoint: Vec<String>,
    /// The arguments, if the container names neither a command nor arguments.
    pub cmd: Vec<String>,
    /// Where it starts.
    pub working_dir: String,
    /// The folders that are to be volumes, in order.
    pub volumes: Vec<String>,
    /// The signal that ends it.
    pub stop_signal: String,
    /// The digests of its layers, uncompressed, the lowest first.
    pub diff_ids: Vec<String>,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    config: Option<RawConfig>,
    #[serde(default)]
    rootfs: Option<RawRootfs>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct RawConfig {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    volumes: Option<BTreeMap<String, IgnoredAny>>,
    stop_signal: Option<String>,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(default)]
    diff_ids: Option<Vec<String>>,
}

impl ImageConfig {
    /// Reads an image's configuration.
    ///
    /// # Errors
    /// It is no JSON of the specified form.
    pub fn parse(bytes: &[u8]) -> Result<Self, SpecError> {
        let raw: Raw = serde_json::from_slice(bytes)
            .map_err(|error| SpecError::invalid(format!("the configuration of the image: {error}")))?;
        let config = raw.config.unwrap_or_default();
        Ok(Self {
            user: config.user.unwrap_or_default(),
            env: config.env.unwrap_or_default(),
            entrypoint: config.entrypoint.unwrap_or_default(),
            cmd: config.cmd.unwrap_or_default(),
            working_dir: config.working_dir.unwrap_or_default(),
            volumes: config.volumes.unwrap_or_default().into_keys().collect(),
            stop_signal: config.stop_signal.unwrap_or_default(),
            diff_ids: raw.rootfs.and_then(|rootfs| rootfs.diff_ids).unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_and_null_are_the_same() {
        for text in ["{}", r#"{"config":null,"rootfs":null}"#, r#"{"config":{"Env":null,"Volumes":null}}"#] {
            assert_eq!(ImageConfig::parse(text.as_bytes()).unwrap(), ImageConfig::default(), "{text}");
        }
        assert!(ImageConfig::parse(b"7").is_err());
        assert!(ImageConfig::parse(br#"{"config":{"Env":"A=1"}}"#).is_err());
    }

    #[test]
    fn every_field_is_read() {
        let text = |list: &[&str]| list.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>();
        let config = ImageConfig::parse(
            br#"{"config":{"User":"web:log","Env":["A=1"],"Entrypoint":["/e"],"Cmd":["c"],"WorkingDir":"/w",
            "Volumes":{"/b":{},"/a":{}},"StopSignal":"SIGQUIT"},"rootfs":{"type":"layers","diff_ids":["sha256:1"]}}"#,
        )
        .unwrap();
        let expected = ImageConfig {
            user: "web:log".into(),
            env: text(&["A=1"]),
            entrypoint: text(&["/e"]),
            cmd: text(&["c"]),
            working_dir: "/w".into(),
            volumes: text(&["/a", "/b"]),
            stop_signal: "SIGQUIT".into(),
            diff_ids: text(&["sha256:1"]),
        };
        assert_eq!(config, expected);
    }
}
