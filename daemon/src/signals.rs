//! Signals: which one means what.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info;

use crate::app::State;

/// Listens for SIGTERM and SIGINT, which cancel the token that is returned, and for SIGUSR1, which writes the state to the log.
/// SIGPIPE is ignored by the runtime of the language already. The listener ends with the token; a second SIGTERM or SIGINT ends
/// the process at once.
///
/// # Errors
/// The kernel refuses.
pub fn listen(state: State) -> io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut report = signal(SignalKind::user_defined1())?;
    let stop = CancellationToken::new();
    let token = stop.clone();
    // Nobody waits for it: it has nothing to finish.
    TaskTracker::new().spawn(async move {
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
                _ = report.recv() => {
                    state.log();
                    continue;
                }
            };
            if token.is_cancelled() {
                info!(signal = name, "stopping at once");
                std::process::exit(1);
            }
            info!(signal = name, "stopping");
            token.cancel();
        }
    });
    Ok(stop)
}
