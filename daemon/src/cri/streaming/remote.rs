//! Exec and attach over SPDY: gathers the streams that a client opens one by one, runs the session, and reports its end.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::session::{Backend, End, Io, Session, Wanted, sizes};
use super::spdy::{Connection, Stream};

/// How long a client may take to open all its streams.
const OPENING: Duration = Duration::from_secs(30);
/// How long the report of the end may take to be written to a client that does not read.
const REPORTING: Duration = Duration::from_secs(10);

/// The versions of the protocol that are spoken, the best first.
pub(super) const PROTOCOLS: [&str; 5] =
    ["v5.channel.k8s.io", "v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];

/// What a version can do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Version(u8);

impl Version {
    /// The version of a protocol's name; without one it is the first.
    pub(super) fn of(protocol: Option<&str>) -> Self {
        let digit = protocol.and_then(|name| name.strip_prefix('v')).and_then(|name| name.bytes().next());
        Self(digit.map_or(1, |digit| digit - b'0'))
    }

    fn resizes(self) -> bool {
        self.0 >= 3
    }

    pub(super) fn structured(self) -> bool {
        self.0 >= 4
    }
}

/// The streams of one session.
#[derive(Debug, Default)]
struct Streams {
    error: Option<Stream>,
    stdin: Option<Stream>,
    stdout: Option<Stream>,
    stderr: Option<Stream>,
    resize: Option<Stream>,
}

impl Streams {
    /// Until all that were asked for are there. A stream that nobody asked for is refused, and so is a second one of a kind.
    async fn gather(connection: &mut Connection, wanted: Wanted, version: Version) -> Result<Self, String> {
        let mut streams = Self::default();
        while !streams.complete(wanted, version) {
            let stream = connection.accept().await.ok_or("the client left before it opened its streams")?;
            let kind = stream.header("streamtype").unwrap_or_default().to_owned();
            let slot = match kind.as_str() {
                "error" => &mut streams.error,
                "stdin" if wanted.stdin => &mut streams.stdin,
                "stdout" if wanted.stdout => &mut streams.stdout,
                "stderr" if wanted.stderr => &mut streams.stderr,
                "resize" => &mut streams.resize,
                _ => return Err(format!("unexpected stream type {kind:?}")),
            };
            if slot.replace(stream).is_some() {
                return Err(format!("a second stream of type {kind:?}"));
            }
        }
        Ok(streams)
    }

    fn complete(&self, wanted: Wanted, version: Version) -> bool {
        self.error.is_some()
            && self.stdin.is_some() == wanted.stdin
            && self.stdout.is_some() == wanted.stdout
            && self.stderr.is_some() == wanted.stderr
            && (self.resize.is_some() || !wanted.tty || !version.resizes())
    }
}

/// Serves one session on a connection, to its end.
pub(super) async fn serve(
    mut connection: Connection,
    session: Session,
    protocol: Option<&str>,
    backend: &dyn Backend,
    tracker: &TaskTracker,
) {
    let version = Version::of(protocol);
    let wanted = match &session {
        Session::Exec { wanted, .. } | Session::Attach { wanted, .. } => *wanted,
        Session::Forward { .. } => return,
    };
    let streams = match timeout(OPENING, Streams::gather(&mut connection, wanted, version)).await {
        Ok(Ok(streams)) => streams,
        Ok(Err(why)) => {
            debug!(why, "streaming client refused");
            return connection.close().await;
        }
        Err(_) => {
            debug!("streaming client did not open its streams in time");
            return connection.close().await;
        }
    };
    let io = Io {
        stdin: streams.stdin.map(|stream| Box::new(stream) as _),
        stdout: streams.stdout.map(|stream| Box::new(stream) as _),
        stderr: streams.stderr.map(|stream| Box::new(stream) as _),
        resize: streams.resize.map(|stream| sizes(stream, tracker)),
    };
    let end = match session {
        Session::Exec { container, command, wanted } => {
            End::of_exec(backend.exec(container, command, wanted, io).await)
        }
        Session::Attach { container, wanted } => tokio::select! {
            result = backend.attach(container, wanted, io) => End::of_attach(result),
            () = connection.ended() => return,
        },
        Session::Forward { .. } => return,
    };
    if let Some(mut error) = streams.error {
        let report = end.report(version.structured());
        let writing = async {
            error.write_all(report.as_bytes()).await?;
            error.shutdown().await
        };
        if !matches!(timeout(REPORTING, writing).await, Ok(Ok(()))) {
            debug!("streaming client did not take the report of its session's end");
        }
    }
    connection.close().await;
}
