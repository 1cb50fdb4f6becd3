//! What a streaming request asks for, and the seam to who does it. Knows no transport.

use futures_util::future::BoxFuture;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

/// Changes of size that wait to be made; older ones lose their meaning anyway.
const SIZES_AHEAD: usize = 8;
/// The longest report of a size.
const MAX_SIZE_REPORT: usize = 256;

/// What a process writes to, or reads from.
pub type Input = Box<dyn AsyncRead + Send + Unpin>;
/// See [`Input`].
pub type Output = Box<dyn AsyncWrite + Send + Unpin>;

/// Which streams a client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    /// It sends input.
    pub stdin: bool,
    /// It takes output.
    pub stdout: bool,
    /// It takes what goes to the error stream; not with a terminal.
    pub stderr: bool,
    /// The process has a terminal; its size may change.
    pub tty: bool,
}

/// A request that has been checked, waiting for its client to connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Session {
    /// Run a command in a container.
    Exec {
        /// The container's id.
        container: String,
        /// The command and its arguments.
        command: Vec<String>,
        /// Its streams.
        wanted: Wanted,
    },
    /// Connect to the first process of a container.
    Attach {
        /// The container's id.
        container: String,
        /// Its streams.
        wanted: Wanted,
    },
    /// Connect to ports of a pod.
    Forward {
        /// The pod's id.
        pod: String,
        /// The ports; only the old WebSocket protocol needs them beforehand.
        ports: Vec<u16>,
    },
}

impl Session {
    /// The first part of the path it is served under.
    pub(super) fn verb(&self) -> &'static str {
        match self {
            Self::Exec { .. } => "exec",
            Self::Attach { .. } => "attach",
            Self::Forward { .. } => "portforward",
        }
    }
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Size {
    /// Columns.
    #[serde(rename = "Width")]
    pub width: u16,
    /// Rows.
    #[serde(rename = "Height")]
    pub height: u16,
}

/// The client's ends of a process's streams. Dropped outputs end with the session.
pub struct Io {
    /// What the client sends; ends when it half-closes.
    pub stdin: Option<Input>,
    /// What it is sent.
    pub stdout: Option<Output>,
    /// What it is sent as errors.
    pub stderr: Option<Output>,
    /// Sizes of its terminal.
    pub resize: Option<mpsc::Receiver<Size>>,
}

impl std::fmt::Debug for Io {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Io")
            .field("stdin", &self.stdin.is_some())
            .field("stdout", &self.stdout.is_some())
            .finish_non_exhaustive()
    }
}

/// Who does what clients ask for.
pub trait Backend: Send + Sync + 'static {
    /// Runs a command to its end, all its output written; gives its exit code, or why it could not be run.
    fn exec(
        &self,
        container: String,
        command: Vec<String>,
        wanted: Wanted,
        io: Io,
    ) -> BoxFuture<'static, Result<u32, String>>;

    /// Connects to the first process until it ends or the client leaves, or says why not.
    fn attach(&self, container: String, wanted: Wanted, io: Io) -> BoxFuture<'static, Result<(), String>>;

    /// A connection to a port on the pod's own localhost, or why there is none.
    fn connect(&self, pod: String, port: u16) -> BoxFuture<'static, Result<TcpStream, String>>;
}

/// How a session ended, as its client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    Success,
    /// The command ran and gave another code than 0.
    Exit(u32),
    /// It did not come to that.
    Failure(String),
}

impl End {
    pub(super) fn of_exec(result: Result<u32, String>) -> Self {
        match result {
            Ok(0) => Self::Success,
            Ok(code) => Self::Exit(code),
            Err(why) => Self::Failure(format!("error executing command in container: {why}")),
        }
    }

    pub(super) fn of_attach(result: Result<(), String>) -> Self {
        result.map_or_else(|why| Self::Failure(format!("error attaching to container: {why}")), |()| Self::Success)
    }

    /// What goes to the error stream: from version 4 of the protocol on a Kubernetes `metav1.Status`, before it plain text on failure.
    pub(super) fn report(&self, structured: bool) -> String {
        let plain = match self {
            Self::Success => String::new(),
            Self::Exit(code) => format!("command terminated with non-zero exit code: {code}"),
            Self::Failure(why) => why.clone(),
        };
        if !structured {
            return plain;
        }
        match self {
            Self::Success => serde_json::json!({"metadata": {}, "status": "Success"}),
            Self::Exit(code) => serde_json::json!({
                "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode", "message": plain,
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }),
            Self::Failure(_) => serde_json::json!({
                "metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
                "message": format!("Internal error occurred: {plain}"), "details": {"causes": [{"message": plain}]},
            }),
        }
        .to_string()
    }
}

/// Reads sizes, JSON objects one after the other, until the stream ends or is not that. Runs on `tracker`.
pub(super) fn sizes(mut from: impl AsyncRead + Send + Unpin + 'static, tracker: &TaskTracker) -> mpsc::Receiver<Size> {
    let (sizes, received) = mpsc::channel(SIZES_AHEAD);
    tracker.spawn(async move {
        let mut report = Vec::new();
        while let Ok(byte) = from.read_u8().await {
            report.push(byte);
            if byte == b'}' {
                // What is no size is passed over, as other servers do.
                if let Ok(size) = serde_json::from_slice(&report)
                    && sizes.send(size).await.is_err()
                {
                    return;
                }
                report.clear();
            }
            if report.len() > MAX_SIZE_REPORT {
                return;
            }
        }
    });
    received
}

#[cfg(test)]
mod tests {
    use tokio_util::task::TaskTracker;

    use super::{End, Size, sizes};

    #[test]
    fn ends_are_reported_in_the_form_of_their_protocol() {
        assert_eq!(End::Success.report(false), "");
        assert_eq!(End::Success.report(true), r#"{"metadata":{},"status":"Success"}"#);
        let exit: serde_json::Value = serde_json::from_str(&End::Exit(3).report(true)).unwrap();
        assert_eq!(exit["reason"], "NonZeroExitCode");
        assert_eq!(exit["details"]["causes"][0], serde_json::json!({"reason": "ExitCode", "message": "3"}));
        assert_eq!(End::Failure("no such file".into()).report(false), "no such file");
    }

    #[tokio::test]
    async fn sizes_are_read_until_the_stream_is_something_else() {
        let text = br#"{"Width":80,"Height":24}{"Width":"x"} {"Width":100,"Height":50}"#.to_vec();
        let text = [text, vec![b'x'; 1000], br#"{"Width":1,"Height":1}"#.to_vec()].concat();
        let mut sizes = sizes(std::io::Cursor::new(text), &TaskTracker::new());
        assert_eq!(sizes.recv().await, Some(Size { width: 80, height: 24 }));
        assert_eq!(sizes.recv().await, Some(Size { width: 100, height: 50 }));
        assert_eq!(sizes.recv().await, None);
    }
}
