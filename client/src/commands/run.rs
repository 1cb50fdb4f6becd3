//! `gantry run`

use std::collections::BTreeMap;

use client::container::{LOG_URI_LABEL, NewContainer};
use client::spec::{Bind, Wanted};
use client::task::Stdio;
use client::{Client, ClientError};
use proto::services::containers::v1::Container;

use super::attached;
use crate::output::{self, Format};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Go on in the background and print the container's id.
    #[arg(short, long)]
    detach: bool,
    /// Remove the container when it has ended.
    #[arg(long)]
    rm: bool,
    /// Give it a terminal.
    #[arg(short, long)]
    tty: bool,
    /// Pass input on.
    #[arg(short, long)]
    interactive: bool,
    /// The container's id; made up when absent.
    #[arg(long)]
    name: Option<String>,
    /// Set a variable, NAME=value; again for more.
    #[arg(short, long)]
    env: Vec<String>,
    /// The working directory.
    #[arg(short, long)]
    workdir: Option<String>,
    /// Run as user or user:group, by name or number.
    #[arg(short, long)]
    user: Option<String>,
    /// Show a folder of the host inside: source:target or source:target:ro; again for more.
    #[arg(short, long)]
    volume: Vec<String>,
    /// Use the host's network.
    #[arg(long)]
    net_host: bool,
    /// Make the root filesystem read-only.
    #[arg(long)]
    read_only: bool,
    /// Limit memory: bytes, or with k, m, g.
    #[arg(short, long, value_parser = bytes)]
    memory: Option<i64>,
    /// Limit processor time: 1.5 is one and a half processors.
    #[arg(long)]
    cpus: Option<f64>,
    /// Limit the number of processes.
    #[arg(long)]
    pids_limit: Option<i64>,
    /// The name it sees as its own.
    #[arg(long)]
    hostname: Option<String>,
    /// Refuse gaining privileges by exec.
    #[arg(long)]
    no_new_privileges: bool,
    /// Set a label, name=value; again for more.
    #[arg(short, long)]
    label: Vec<String>,
    /// Where output goes when detached: file:///path or binary:///path?arg=value.
    #[arg(long)]
    log_uri: Option<String>,
    /// The runtime's name.
    #[arg(long, default_value = client::DEFAULT_RUNTIME)]
    runtime: String,
    /// The OCI executor below the runtime: runc, crun, youki, or a path; absent is gantry's own.
    #[arg(long)]
    executor: Option<String>,
    /// The snapshotter of its root filesystem.
    #[arg(long, default_value = client::DEFAULT_SNAPSHOTTER)]
    snapshotter: String,
    /// The image.
    image: String,
    /// The command, replacing the image's.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// Characters of an id that is made up.
const ID_CHARACTERS: usize = 12;

pub(crate) async fn run(client: &Client, arguments: Arguments, format: Format) -> Result<u8, ClientError> {
    if arguments.detach && (arguments.rm || arguments.interactive || arguments.tty) {
        return Err(ClientError::Invalid(
            "-d goes on without this program: --rm, -i and -t make no sense with it".into(),
        ));
    }
    if arguments.log_uri.is_some() && !arguments.detach {
        return Err(ClientError::Invalid("--log-uri needs -d: an attached container's output is shown here".into()));
    }
    attached::check_terminal(arguments.tty, arguments.interactive)?;
    let wanted = wanted(&arguments)?;
    let labels = labels(&arguments)?;
    let image = attached::unpacked(client, &arguments.image, &arguments.snapshotter).await?;
    let id = arguments.name.clone().unwrap_or_else(made_up_id);
    let options = arguments
        .executor
        .as_ref()
        .map(|name| proto::any::pack(&proto::runc::v1::Options { binary_name: name.clone(), ..Default::default() }));
    let new = NewContainer {
        id: &id,
        image: &image,
        snapshotter: &arguments.snapshotter,
        runtime: &arguments.runtime,
        runtime_options: options,
        user: arguments.user.as_deref(),
        wanted: &wanted,
        labels,
    };
    let container = client.create_container(new).await?;
    let outcome = if arguments.detach {
        detached(client, &container, &arguments, format).await
    } else {
        in_front(client, &container, &arguments).await
    };
    // A container that never ran is of no use to anybody.
    if arguments.rm || outcome.is_err() {
        let removed = client.remove_container(&container).await;
        return outcome.and_then(|code| removed.map(|()| code));
    }
    outcome
}

async fn detached(
    client: &Client,
    container: &Container,
    arguments: &Arguments,
    format: Format,
) -> Result<u8, ClientError> {
    let uri = arguments.log_uri.clone().unwrap_or_default();
    let stdio = Stdio { stdout: uri.clone(), stderr: uri, ..Default::default() };
    let process = client.create_task(container, stdio).await?;
    if let Err(error) = process.start().await {
        // The first error is the one to tell.
        let _ = process.delete().await;
        return Err(error);
    }
    match format {
        Format::Text => output::line(&container.id),
        Format::Json => output::json(&serde_json::json!({"id": container.id})),
    }
    Ok(0)
}

async fn in_front(client: &Client, container: &Container, arguments: &Arguments) -> Result<u8, ClientError> {
    let (fifos, stdio) = attached::pipes(&container.id, arguments.interactive, arguments.tty)?;
    let process = client.create_task(container, stdio).await?;
    match attached::follow(&process, fifos, arguments.tty).await {
        Ok(status) => Ok(exit_code(status)),
        Err(error) => {
            // Nobody watches it any more: it must not stay.
            let _ = process.kill(nix::libc::SIGKILL.unsigned_abs(), true).await;
            let _ = process.delete().await;
            Err(error)
        }
    }
}

/// The exit code of a process, as far as the kernel lets it through.
pub(crate) fn exit_code(status: u32) -> u8 {
    u8::try_from(status).unwrap_or(u8::MAX)
}

fn wanted(arguments: &Arguments) -> Result<Wanted, ClientError> {
    Ok(Wanted {
        args: arguments.command.clone(),
        env: arguments.env.clone(),
        cwd: arguments.workdir.clone(),
        terminal: arguments.tty,
        binds: arguments.volume.iter().map(|text| bind(text)).collect::<Result<_, _>>()?,
        host_network: arguments.net_host,
        read_only: arguments.read_only,
        memory_limit: arguments.memory,
        cpus: arguments.cpus,
        pids_limit: arguments.pids_limit,
        hostname: arguments.hostname.clone(),
        no_new_privileges: arguments.no_new_privileges,
    })
}

fn labels(arguments: &Arguments) -> Result<BTreeMap<String, String>, ClientError> {
    let mut labels = BTreeMap::new();
    for text in &arguments.label {
        let (name, value) =
            text.split_once('=').ok_or_else(|| ClientError::Invalid(format!("label {text:?} is not name=value")))?;
        labels.insert(name.to_owned(), value.to_owned());
    }
    labels.extend(arguments.log_uri.iter().map(|uri| (LOG_URI_LABEL.to_owned(), uri.clone())));
    Ok(labels)
}

fn bind(text: &str) -> Result<Bind, ClientError> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, read_only) = match parts[..] {
        [source, target] => (source, target, false),
        [source, target, "ro"] => (source, target, true),
        [source, target, "rw"] => (source, target, false),
        _ => return Err(ClientError::Invalid(format!("volume {text:?} is not source:target[:ro]"))),
    };
    if !source.starts_with('/') || !target.starts_with('/') {
        return Err(ClientError::Invalid(format!("volume {text:?}: both paths must be absolute")));
    }
    Ok(Bind { source: source.into(), target: target.into(), read_only })
}

/// Bytes: a number, or one with k, m or g, each 1024 times the one before.
fn bytes(text: &str) -> Result<i64, String> {
    let (digits, shift) = match text.to_ascii_lowercase().chars().last() {
        Some('k') => (&text[..text.len() - 1], 10),
        Some('m') => (&text[..text.len() - 1], 20),
        Some('g') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number: i64 = digits.parse().map_err(|_| format!("{text:?} is not a number of bytes, as 64m or 1g"))?;
    number.checked_shl(shift).filter(|bytes| bytes >> shift == number).ok_or_else(|| format!("{text:?} is too large"))
}

pub(crate) fn made_up_id() -> String {
    use std::hash::{BuildHasher as _, RandomState};
    // Randomly keyed hashes of nothing: good enough to be told apart, and the daemon refuses a second of the same name.
    let text = format!("{:016x}", RandomState::new().hash_one(std::process::id()));
    text[..ID_CHARACTERS].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_unit() {
        for (text, expected) in [("1", Some(1)), ("2k", Some(2048)), ("64M", Some(64 << 20)), ("1g", Some(1 << 30))] {
            assert_eq!(bytes(text).ok(), expected, "{text}");
        }
        for text in ["", "m", "x", "1t", "9223372036854775807g"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn volumes_are_read_strictly() {
        assert_eq!(bind("/a:/b:ro").unwrap(), Bind { source: "/a".into(), target: "/b".into(), read_only: true });
        for text in ["/a", "a:/b", "/a:b", "/a:/b:x", "/a:/b:ro:x"] {
            assert!(bind(text).is_err(), "{text}");
        }
    }
}
