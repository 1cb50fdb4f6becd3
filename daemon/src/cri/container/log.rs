//! Where the output of a container goes: a file in the form that kubelets read, written by the shim itself, so that it goes on while
//! this daemon is away. Here only its name is made, and the shim told to open it anew.

use std::path::{Component, Path};
use std::time::Duration;

use proto::cri as wire;
use proto::gantry::shim::v1::{ReopenRequest, ReopenResponse};
use proto::ttrpc::Request;

use super::super::state::{Act, Verdict, judge, of_container};
use super::super::{Cri, CriError};
use crate::api::Failure;
use crate::ttrpc::Client;

/// How long a shim may take to open a log again.
const REOPENING: Duration = Duration::from_secs(10);

/// The standard streams of a container, as its shim is told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Streams {
    pub stdin: String,
    pub stdout: String,
    pub stderr: String,
}

/// The file of a container's log; empty for none.
///
/// # Errors
/// The path leads out of the pod's folder.
pub(super) fn path(folder: &str, file: &str) -> Result<String, CriError> {
    if folder.is_empty() || file.is_empty() {
        return Ok(String::new());
    }
    let leads_out = |part: Component<'_>| !matches!(part, Component::Normal(_) | Component::CurDir);
    if !folder.starts_with('/') || file.contains('\0') || Path::new(file).components().any(leads_out) {
        return Err(CriError::Invalid(format!(
            "log_path {file:?} is no path below the pod's log directory {folder:?}"
        )));
    }
    Ok(Path::new(folder).join(file).display().to_string())
}

/// What the shim is told.
pub(super) fn streams(config: &wire::ContainerConfig, log: &str, max_line: u64) -> Streams {
    let log =
        format!("gantry-log://{}?format=cri&max_line={max_line}", escaped(if log.is_empty() { "/" } else { log }));
    Streams {
        stdin: match (config.stdin, config.stdin_once) {
            (false, _) => String::new(),
            (true, false) => "gantry-attach:///".into(),
            (true, true) => "gantry-attach:///?once=true".into(),
        },
        // A terminal has one output.
        stderr: if config.tty { String::new() } else { log.clone() },
        stdout: log,
    }
}

/// A path in a URI (RFC 3986).
fn escaped(path: &str) -> String {
    use std::fmt::Write as _;
    path.bytes().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'_' | b'.' | b'~') {
            text.push(byte.into());
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
        text
    })
}

impl Cri {
    pub(in super::super) async fn reopen_container_log(
        &self,
        request: wire::ReopenContainerLogRequest,
    ) -> Result<wire::ReopenContainerLogResponse, Failure> {
        let container = self.container(&request.container_id)?;
        let record = container.record();
        if judge(of_container(&record), record.removing, Act::Use) != Verdict::Go {
            return Err(CriError::State(format!("container {:?} is not running", container.id)).into());
        }
        if record.log_path.is_empty() {
            return Ok(wire::ReopenContainerLogResponse {});
        }
        let gone = || CriError::State(format!("container {:?} is not running", container.id));
        let socket = self.inner.tasks.socket(&self.inner.namespace, &container.id).ok_or_else(gone)?;
        let client = Client::connect(&socket, REOPENING, &self.inner.tracker).await.map_err(|_| gone())?;
        let message = ReopenRequest { id: container.id.clone(), exec_id: String::new() };
        let call = Request::new(proto::service::LOGS, "Reopen", &message).within(REOPENING);
        let answer: ReopenResponse = client.call(&call).await?;
        let ReopenResponse {} = answer;
        client.close();
        Ok(wire::ReopenContainerLogResponse {})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_stays_in_the_folder_of_its_pod() {
        for (folder, file, expected) in [
            ("/p", "c/0.log", Some("/p/c/0.log")),
            ("/p", "", Some("")),
            ("", "c", Some("")),
            ("/p", "../c", None),
            ("/p", "/c", None),
            ("p", "c", None),
            ("/p", "c\0", None),
        ] {
            assert_eq!(path(folder, file).ok().as_deref(), expected, "{folder} {file}");
        }
    }

    #[test]
    fn the_shim_is_told_by_uri() {
        let config = wire::ContainerConfig::default();
        let made = streams(&config, "/var/log/a b%/0.log", 16384);
        assert_eq!(made.stdout, "gantry-log:///var/log/a%20b%25/0.log?format=cri&max_line=16384");
        assert_eq!((made.stderr == made.stdout, made.stdin.as_str()), (true, ""));
        let terminal = wire::ContainerConfig { tty: true, stdin: true, ..config.clone() };
        let made = streams(&terminal, "", 0);
        assert_eq!((made.stdout.as_str(), made.stderr.as_str()), ("gantry-log:///?format=cri&max_line=0", ""));
        assert_eq!(made.stdin, "gantry-attach:///");
        let once = wire::ContainerConfig { stdin: true, stdin_once: true, ..config };
        assert_eq!(streams(&once, "", 0).stdin, "gantry-attach:///?once=true");
    }
}
