//! Where the output of a container goes: a file in the form that kubelets read, written by the shim itself, so that it goes on while
//! this daemon is away. Here only its name is made, and the shim told to open it anew.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Component, Path};
use std::time::Duration;

use model::error::{Classify as _, Kind};
use proto::cri as wire;
use proto::gantry::shim::v1::{ReopenRequest, ReopenResponse};
use proto::ttrpc::Request;

use super::super::state::{Act, Verdict, judge, of_container};
use super::super::{Cri, CriError};
use crate::api::Failure;
use crate::blocking;
use crate::ttrpc::Client;

/// No fifo nor terminal in the place of a log may hold us up.
const NO_WAITING: i32 = nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY;

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

/// What the shim is told. One that cannot write such a log is told to start `logger`, which can.
pub(super) fn streams(config: &wire::ContainerConfig, log: &str, max_line: u64, logger: Option<&Path>) -> Streams {
    let log =
        format!("gantry-log://{}?format=cri&max_line={max_line}", escaped(if log.is_empty() { "/" } else { log }));
    let Some(logger) = logger else {
        return Streams {
            stdin: match (config.stdin, config.stdin_once) {
                (false, _) => String::new(),
                (true, false) => "gantry-attach:///".into(),
                (true, true) => "gantry-attach:///?once=true".into(),
            },
            // A terminal has one output.
            stderr: if config.tty { String::new() } else { log.clone() },
            stdout: log,
        };
    };
    let program = escaped(&logger.display().to_string());
    let log = format!("binary://{program}?log-copy={}", escaped(&log).replace('/', "%2F"));
    Streams { stdin: String::new(), stderr: if config.tty { String::new() } else { log.clone() }, stdout: log }
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

/// Makes the file of a log, if there is none of that name any more.
fn make_anew(path: &Path) -> Result<(), CriError> {
    let made = OpenOptions::new().append(true).create(true).mode(0o640).custom_flags(NO_WAITING).open(path);
    made.map(drop).map_err(|error| CriError::Failed(format!("cannot make {}: {error}", path.display())))
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
        let answer = client.call::<ReopenResponse>(&call).await;
        client.close();
        match answer {
            // Another shim: whoever writes the log looks itself whether its file is still there.
            Err(error) if error.kind() == Kind::Unimplemented => {
                let path = record.log_path.clone();
                blocking::run(move || make_anew(Path::new(&path))).await?;
            }
            answer => drop(answer?),
        }
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
        let made = streams(&config, "/var/log/a b%/0.log", 16384, None);
        assert_eq!(made.stdout, "gantry-log:///var/log/a%20b%25/0.log?format=cri&max_line=16384");
        assert_eq!((made.stderr == made.stdout, made.stdin.as_str()), (true, ""));
        let terminal = wire::ContainerConfig { tty: true, stdin: true, ..config.clone() };
        let made = streams(&terminal, "", 0, None);
        assert_eq!((made.stdout.as_str(), made.stderr.as_str()), ("gantry-log:///?format=cri&max_line=0", ""));
        assert_eq!(made.stdin, "gantry-attach:///");
        let once = wire::ContainerConfig { stdin: true, stdin_once: true, ..config };
        let foreign = streams(&terminal, "/l/0.log", 9, Some(Path::new("/bin/a b")));
        let expected = "binary:///bin/a%20b?log-copy=gantry-log%3A%2F%2F%2Fl%2F0.log%3Fformat%3Dcri%26max_line%3D9";
        assert_eq!((foreign.stdout.as_str(), foreign.stderr.as_str(), foreign.stdin.as_str()), (expected, "", ""));
        assert_eq!(streams(&once, "", 0, None).stdin, "gantry-attach:///?once=true");
    }
}
