//! The fifo `log` in the folder of a task: what a shim writes there goes to our own log, line by line.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use model::{ContainerId, Namespace};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error, info, warn};

/// The longest line that is copied; the rest of it is dropped.
const MAX_LINE_BYTES: usize = 8 << 10;

/// How many of the last lines are kept for error texts.
const KEPT_LINES: usize = 16;

/// The name of the fifo.
pub(super) const LOG_FILE: &str = "log";

/// The last lines of a log.
#[derive(Debug, Clone, Default)]
pub(super) struct Tail(Arc<Mutex<VecDeque<String>>>);

impl Tail {
    fn push(&self, line: String) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == KEPT_LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    /// The lines, for an error text.
    pub(super) fn text(&self) -> String {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

/// Copies the fifo of a bundle until `stop` is cancelled. We hold both ends, so that it never ends by itself.
///
/// # Errors
/// The fifo cannot be opened.
pub(super) fn copy(
    bundle: &Path,
    namespace: &Namespace,
    id: &ContainerId,
    tracker: &TaskTracker,
    stop: CancellationToken,
) -> std::io::Result<Tail> {
    let fifo = pipe::OpenOptions::new().read_write(true).open_receiver(bundle.join(LOG_FILE))?;
    let tail = Tail::default();
    let (kept, namespace, id) = (tail.clone(), namespace.clone(), id.clone());
    tracker.spawn(async move {
        let emit = |line: &[u8]| {
            let line = super::process::printable(line);
            if !line.is_empty() {
                show(&namespace, &id, &line);
                kept.push(line);
            }
        };
        tokio::select! {
            () = read_lines(fifo, emit) => {}
            () = stop.cancelled() => {}
        }
    });
    Ok(tail)
}

async fn read_lines(mut fifo: pipe::Receiver, mut emit: impl FnMut(&[u8])) {
    let mut lines = Lines::default();
    // Small: there is one for every task.
    let mut buffer = [0; 512];
    while let Ok(length @ 1..) = fifo.read(&mut buffer).await {
        lines.take(&buffer[..length], &mut emit);
    }
}

/// Cuts a stream into lines of bounded length.
#[derive(Default)]
struct Lines {
    line: Vec<u8>,
}

impl Lines {
    fn take(&mut self, mut bytes: &[u8], emit: &mut impl FnMut(&[u8])) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.add(&bytes[..end]);
            emit(&self.line);
            self.line = Vec::new();
            bytes = &bytes[end + 1..];
        }
        self.add(bytes);
    }

    fn add(&mut self, bytes: &[u8]) {
        let room = MAX_LINE_BYTES - self.line.len();
        self.line.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

/// Shows a line at the level that its writer gave it, where it is said in one of the usual ways.
fn show(ns: &Namespace, container: &ContainerId, line: &str) {
    let says =
        |level: &str| line.contains(&format!("level={level}")) || line.contains(&format!("\"level\":\"{level}\""));
    if says("error") || says("fatal") || says("panic") {
        error!(target: "shim", %ns, %container, line);
    } else if says("warning") || says("warn") {
        warn!(target: "shim", %ns, %container, line);
    } else if says("debug") || says("trace") {
        debug!(target: "shim", %ns, %container, line);
    } else {
        info!(target: "shim", %ns, %container, line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_put_together_and_cut() {
        let mut lines = Lines::default();
        let mut got = Vec::new();
        let long = vec![b'x'; 3 * MAX_LINE_BYTES];
        for bytes in [&b"a"[..], b"b\n\nc", b"d\ne", &long, b"\nlast"] {
            lines.take(bytes, &mut |line: &[u8]| got.push(line.to_vec()));
        }
        assert_eq!(got[..3], [b"ab".to_vec(), vec![], b"cd".to_vec()]);
        assert_eq!(got[3].len(), MAX_LINE_BYTES);
        assert_eq!(got.len(), 4);
    }

    #[test]
    fn only_the_last_lines_are_kept() {
        let tail = Tail::default();
        for number in 0..100 {
            tail.push(number.to_string());
        }
        assert_eq!(tail.text().lines().count(), KEPT_LINES);
        assert!(tail.text().ends_with("\n99"));
    }
}
