//! Runs plugins: programs that read a configuration from standard input and write a result to standard output.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use model::error::{Classify, Kind};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::time::timeout;
use tracing::debug;

use super::super::record::Network;
use super::{List, Subject, args};
use crate::limits;

/// The most output of a plugin that is kept, in bytes.
const MAX_OUTPUT: u64 = 1 << 20;
/// The most of its errors that is told, in characters.
const MAX_TEXT: usize = 2048;
/// Since when a plugin is told the result of those before it when a network is taken down, and can be asked to check.
const WITH_RESULT: [u32; 3] = [0, 4, 0];
/// Since when plugins can be asked for their status, and told what is still in use.
const WITH_STATUS: [u32; 3] = [1, 1, 0];

/// Why a network could not be set up, looked at or taken down.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// There is none; kubelets and people know this text.
    #[error("no network config found in {}: cni plugin not initialized", folder.display())]
    None {
        /// Where one was looked for.
        folder: PathBuf,
    },
    /// A file is no configuration.
    #[error("network config {file}: {why}")]
    Configuration {
        /// The file.
        file: String,
        /// What is wrong.
        why: String,
    },
    /// A plugin is not installed.
    #[error("failed to find plugin {name:?} in path {searched:?}")]
    Missing {
        /// The plugin.
        name: String,
        /// Where it was looked for.
        searched: Vec<PathBuf>,
    },
    /// A plugin cannot be run.
    #[error("cannot run plugin {name}")]
    Run {
        /// The plugin.
        name: String,
        /// Why.
        source: std::io::Error,
    },
    /// A plugin says no.
    #[error("plugin type={name:?} name={network:?} failed ({command}): {text}")]
    Refused {
        /// The plugin.
        name: String,
        /// The network.
        network: String,
        /// What it was to do.
        command: &'static str,
        /// What it says.
        text: String,
    },
    /// A plugin took too long and was killed.
    #[error("plugin type={name:?} name={network:?} did not end in time ({command})")]
    Late {
        /// The plugin.
        name: String,
        /// The network.
        network: String,
        /// What it was to do.
        command: &'static str,
    },
}

impl Classify for NetworkError {
    fn kind(&self) -> Kind {
        match self {
            Self::None { .. } => Kind::Unavailable,
            Self::Late { .. } => Kind::DeadlineExceeded,
            Self::Configuration { .. } | Self::Missing { .. } | Self::Run { .. } | Self::Refused { .. } => {
                Kind::Unknown
            }
        }
    }
}

/// One call of one plugin.
struct Call<'a> {
    command: &'static str,
    id: &'a str,
    netns: Option<&'a Path>,
    interface: &'a str,
    arguments: &'a str,
    dirs: &'a [PathBuf],
    limit: Duration,
}

impl<'a> Call<'a> {
    fn of(
        command: &'static str,
        subject: &'a Subject,
        network: &'a Network,
        dirs: &'a [PathBuf],
        limit: Duration,
    ) -> Self {
        Self {
            command,
            id: &subject.id,
            netns: subject.netns.as_deref(),
            interface: &network.interface,
            arguments: &subject.arguments,
            dirs,
            limit,
        }
    }

    fn about_nobody(command: &'static str, dirs: &'a [PathBuf], limit: Duration) -> Self {
        Self { command, id: "", netns: None, interface: "", arguments: "", dirs, limit }
    }

    /// Runs the plugin with `configuration`; what it wrote.
    async fn run(&self, network: &str, configuration: &Value) -> Result<Vec<u8>, NetworkError> {
        let name = configuration["type"].as_str().unwrap_or_default();
        let program = self.dirs.iter().map(|folder| folder.join(name)).find(|path| path.is_file());
        let program =
            program.ok_or_else(|| NetworkError::Missing { name: name.to_owned(), searched: self.dirs.to_vec() })?;
        let path = std::env::join_paths(self.dirs).unwrap_or_default();
        let mut command = Command::new(program);
        command.env("CNI_COMMAND", self.command).env("CNI_PATH", path);
        for (key, value) in [("CNI_CONTAINERID", self.id), ("CNI_IFNAME", self.interface), ("CNI_ARGS", self.arguments)]
        {
            if value.is_empty() {
                command.env_remove(key);
            } else {
                command.env(key, value);
            }
        }
        match self.netns {
            Some(netns) => command.env("CNI_NETNS", netns),
            None => command.env("CNI_NETNS", ""),
        };
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
        let failed = |source| NetworkError::Run { name: name.to_owned(), source };
        let mut child = command.spawn().map_err(failed)?;
        limits::restore_for_child(child.id());
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let bytes = configuration.to_string();
        let feed = async {
            if let Some(mut stdin) = stdin {
                // One that does not read its input may be right all the same.
                let _ = stdin.write_all(bytes.as_bytes()).await;
            }
        };
        let ended = timeout(self.limit, async {
            let ((), out, err) = tokio::join!(feed, bounded(stdout), bounded(stderr));
            (child.wait().await, out, err)
        });
        let (command, network) = (self.command, network.to_owned());
        let Ok((status, out, err)) = ended.await else {
            return Err(NetworkError::Late { name: name.to_owned(), network, command });
        };
        if status.map_err(failed)?.success() {
            return Ok(out);
        }
        let text = complaint(&out, &err);
        debug!(plugin = name, command, text, "a network plugin failed");
        Err(NetworkError::Refused { name: name.to_owned(), network, command, text })
    }
}

async fn bounded(pipe: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        // A broken pipe is the end of the output, like every other end.
        let _ = (&mut pipe).take(MAX_OUTPUT).read_to_end(&mut bytes).await;
        let _ = tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await;
    }
    bytes
}

/// What a plugin says when it fails: the message in its error object, else what it printed.
fn complaint(out: &[u8], err: &[u8]) -> String {
    let said: Value = serde_json::from_slice(out).unwrap_or_default();
    let text = match (said["msg"].as_str(), said["details"].as_str()) {
        (Some(message), Some(details)) if !details.is_empty() => format!("{message}; {details}"),
        (Some(message), _) => message.to_owned(),
        (None, _) => [err, out].map(|bytes| String::from_utf8_lossy(bytes).trim().to_owned()).join(" "),
    };
    text.trim().chars().take(MAX_TEXT).collect()
}

/// The configuration of one plugin of a list.
fn configured(list: &List, plugin: &Value, arguments: &Value, previous: Option<&Value>) -> Value {
    let mut configuration = plugin.clone();
    configuration["name"] = list.name.clone().into();
    configuration["cniVersion"] = list.version.clone().into();
    if let Some(given) = args::for_plugin(plugin, arguments) {
        configuration["runtimeConfig"] = given;
    }
    if let Some(object) = configuration.as_object_mut() {
        object.remove("capabilities");
    }
    if let Some(previous) = previous {
        configuration["prevResult"] = previous.clone();
    }
    configuration
}

/// A list and its arguments as they were written down.
fn written(network: &Network) -> Result<(List, Value, Option<Value>), NetworkError> {
    let list = List::parse(&network.list, "(as it was set up)")?;
    let arguments = serde_json::from_str(&network.arguments).unwrap_or_default();
    Ok((list, arguments, serde_json::from_str(&network.result).ok()))
}

/// Sets a network up; its result is in `network` then.
pub(super) async fn add(
    subject: &Subject,
    dirs: &[PathBuf],
    network: &mut Network,
    limit: Duration,
) -> Result<(), NetworkError> {
    let (list, arguments, _) = written(network)?;
    let mut result: Option<Value> = None;
    for plugin in &list.plugins {
        let configuration = configured(&list, plugin, &arguments, result.as_ref());
        let answer = Call::of("ADD", subject, network, dirs, limit).run(&list.name, &configuration).await?;
        result = Some(serde_json::from_slice(&answer).map_err(|error| NetworkError::Refused {
            name: plugin["type"].as_str().unwrap_or_default().to_owned(),
            network: list.name.clone(),
            command: "ADD",
            text: format!("its result is no JSON: {error}"),
        })?);
    }
    network.result = result.map(|result| result.to_string()).unwrap_or_default();
    Ok(())
}

/// Takes a network down, whether or not it is up.
pub(super) async fn delete(
    subject: &Subject,
    dirs: &[PathBuf],
    network: &Network,
    limit: Duration,
) -> Result<(), NetworkError> {
    let (list, arguments, result) = written(network)?;
    let previous = result.filter(|_| list.is_since(WITH_RESULT));
    for plugin in list.plugins.iter().rev() {
        let configuration = configured(&list, plugin, &arguments, previous.as_ref());
        Call::of("DEL", subject, network, dirs, limit).run(&list.name, &configuration).await?;
    }
    Ok(())
}

/// Asks whether a network is still up.
pub(super) async fn check(
    subject: &Subject,
    dirs: &[PathBuf],
    network: &Network,
    limit: Duration,
) -> Result<(), NetworkError> {
    let (list, arguments, result) = written(network)?;
    if !list.is_since(WITH_RESULT) || list.document["disableCheck"] == true {
        return Ok(());
    }
    for plugin in &list.plugins {
        let configuration = configured(&list, plugin, &arguments, result.as_ref());
        Call::of("CHECK", subject, network, dirs, limit).run(&list.name, &configuration).await?;
    }
    Ok(())
}

/// Asks whether a network could take pods now.
pub(super) async fn status(dirs: &[PathBuf], list: &List, limit: Duration) -> Result<(), NetworkError> {
    // Those of older versions cannot say more than that they are there.
    let asked = list.is_since(WITH_STATUS);
    for plugin in &list.plugins {
        let name = plugin["type"].as_str().unwrap_or_default();
        if !dirs.iter().any(|folder| folder.join(name).is_file()) {
            return Err(NetworkError::Missing { name: name.to_owned(), searched: dirs.to_vec() });
        }
        if asked {
            let configuration = configured(list, plugin, &Value::Null, None);
            Call::about_nobody("STATUS", dirs, limit).run(&list.name, &configuration).await?;
        }
    }
    Ok(())
}

/// Whether a list's plugins can be told what is still in use.
pub(super) fn collects(list: &List) -> bool {
    list.is_since(WITH_STATUS) && list.document["disableGC"] != true
}

/// Tells which attachments are still in use: container and interface.
pub(super) async fn collect(
    dirs: &[PathBuf],
    list: &List,
    attachments: &[(String, String)],
    limit: Duration,
) -> Result<(), NetworkError> {
    if !collects(list) {
        return Ok(());
    }
    let valid: Vec<Value> = attachments
        .iter()
        .map(|(container, interface)| json!({ "containerID": container, "ifname": interface }))
        .collect();
    for plugin in &list.plugins {
        let mut configuration = configured(list, plugin, &Value::Null, None);
        configuration["cni.dev/valid-attachments"] = valid.clone().into();
        Call::about_nobody("GC", dirs, limit).run(&list.name, &configuration).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    /// A plugin that writes down how it was called, and does what `script` says.
    fn plugin(folder: &Path, name: &str, script: &str) {
        let text = format!(
            "#!/bin/sh\ninput=$(cat)\necho \"$CNI_COMMAND {name} $CNI_CONTAINERID $CNI_IFNAME [$CNI_NETNS] $input\" >>{}/log\n{script}\n",
            folder.display()
        );
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn network(version: &str) -> Network {
        let list = json!({ "name": "n", "cniVersion": version, "plugins": [
            { "type": "one", "capabilities": { "portMappings": true } }, { "type": "two" } ] });
        Network {
            list: list.to_string(),
            interface: "eth0".into(),
            arguments: r#"{"portMappings":[1]}"#.into(),
            ..Network::default()
        }
    }

    fn subject() -> Subject {
        Subject { id: "pod".into(), netns: Some("/n".into()), arguments: "A=b".into() }
    }

    fn calls(folder: &Path) -> Vec<String> {
        let text = fs::read_to_string(folder.join("log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    #[tokio::test]
    async fn plugins_are_chained_and_taken_down_in_reverse() {
        let folder = tempfile::tempdir().unwrap();
        let dirs = [folder.path().to_owned()];
        plugin(folder.path(), "one", r#"echo '{"ips":[{"address":"10.0.0.2/24"}]}'"#);
        plugin(folder.path(), "two", r#"echo "$input" | sed 's/.*"prevResult"://; s/,"type".*//'"#);
        let mut network = network("0.4.0");
        add(&subject(), &dirs, &mut network, LIMIT).await.unwrap();
        assert!(network.result.contains("10.0.0.2"), "{}", network.result);
        check(&subject(), &dirs, &network, LIMIT).await.unwrap();
        delete(&Subject { netns: None, ..subject() }, &dirs, &network, LIMIT).await.unwrap();
        let calls = calls(folder.path());
        let heads: Vec<_> = calls.iter().map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(heads, ["ADD one", "ADD two", "CHECK one", "CHECK two", "DEL two", "DEL one"]);
        assert!(
            calls[0].contains("pod eth0 [/n]") && calls[0].contains(r#""runtimeConfig":{"portMappings":[1]}"#),
            "{}",
            calls[0]
        );
        assert!(!calls[1].contains("runtimeConfig") && calls[1].contains("prevResult"), "{}", calls[1]);
        assert!(calls[4].contains("[]") && calls[4].contains("prevResult"), "{}", calls[4]);
    }

    #[tokio::test]
    async fn old_lists_are_neither_checked_nor_told_results() {
        let folder = tempfile::tempdir().unwrap();
        let dirs = [folder.path().to_owned()];
        plugin(folder.path(), "one", "echo '{}'");
        plugin(folder.path(), "two", "echo '{}'");
        let mut network = network("0.3.1");
        add(&subject(), &dirs, &mut network, LIMIT).await.unwrap();
        check(&subject(), &dirs, &network, LIMIT).await.unwrap();
        delete(&subject(), &dirs, &network, LIMIT).await.unwrap();
        let calls = calls(folder.path());
        assert_eq!(calls.len(), 4);
        assert!(!calls[3].contains("prevResult"));
    }

    #[tokio::test]
    async fn a_plugin_that_fails_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let dirs = [folder.path().to_owned()];
        plugin(folder.path(), "one", r#"echo '{"code":7,"msg":"no room","details":"at all"}'; exit 1"#);
        let error = add(&subject(), &dirs, &mut network("1.0.0"), LIMIT).await.unwrap_err();
        assert!(error.to_string().contains("no room; at all"), "{error}");
        plugin(folder.path(), "one", "echo broken >&2; exit 3");
        let error = add(&subject(), &dirs, &mut network("1.0.0"), LIMIT).await.unwrap_err();
        assert!(error.to_string().contains("broken"), "{error}");
        plugin(folder.path(), "one", "echo nonsense");
        let error = add(&subject(), &dirs, &mut network("1.0.0"), LIMIT).await.unwrap_err();
        assert!(error.to_string().contains("no JSON"), "{error}");
        plugin(folder.path(), "one", "echo '{}'");
        let error = add(&subject(), &dirs, &mut network("1.0.0"), LIMIT).await.unwrap_err();
        assert!(matches!(error, NetworkError::Missing { .. }), "{error}");
        plugin(folder.path(), "one", "exec sleep 60");
        let error = add(&subject(), &dirs, &mut network("1.0.0"), Duration::from_millis(200)).await.unwrap_err();
        assert!(matches!(error, NetworkError::Late { .. }), "{error}");
    }

    #[tokio::test]
    async fn status_and_collection_are_for_those_who_know_them() {
        let folder = tempfile::tempdir().unwrap();
        let dirs = [folder.path().to_owned()];
        plugin(folder.path(), "one", "");
        let list = |version: &str| {
            List::parse(&json!({ "name": "n", "cniVersion": version, "plugins": [{ "type": "one" }] }).to_string(), "f")
                .unwrap()
        };
        status(&dirs, &list("1.0.0"), LIMIT).await.unwrap();
        collect(&dirs, &list("1.0.0"), &[], LIMIT).await.unwrap();
        assert_eq!(calls(folder.path()).len(), 0);
        status(&dirs, &list("1.1.0"), LIMIT).await.unwrap();
        collect(&dirs, &list("1.1.0"), &[("a".into(), "eth0".into())], LIMIT).await.unwrap();
        let calls = calls(folder.path());
        assert!(
            calls[0].starts_with("STATUS") && calls[1].contains(r#"[{"containerID":"a","ifname":"eth0"}]"#),
            "{calls:?}"
        );
        assert!(status(&[], &list("1.0.0"), LIMIT).await.is_err(), "a plugin that is not installed cannot work");
    }
}
