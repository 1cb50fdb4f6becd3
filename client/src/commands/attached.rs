//! What `run` and `exec` share: a process whose input and output are the caller's.

use std::path::Path;
use std::time::Duration;

use client::io::Fifos;
use client::task::{Process, Stdio};
use client::{Client, ClientError};

use crate::terminal;

/// Where named pipes are made.
const FIFO_FOLDER: &str = "/run/gantry/fifo";

/// How long input may take to close once it has ended here.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// The pipes for a process, and how to name them to the daemon.
pub(crate) fn pipes(id: &str, interactive: bool, tty: bool) -> Result<(Fifos, Stdio), ClientError> {
    let fifos = Fifos::create(Path::new(FIFO_FOLDER), id, interactive, tty)?;
    let stdio =
        Stdio { stdin: fifos.stdin.clone(), stdout: fifos.stdout.clone(), stderr: fifos.stderr.clone(), terminal: tty };
    Ok((fifos, stdio))
}

/// Starts a process, lends it the caller's input, output, signals and terminal, and waits for its end.
///
/// # Errors
/// What the daemon says. The terminal is as it was before, either way.
pub(crate) async fn follow(process: &Process, fifos: Fifos, tty: bool) -> Result<u32, ClientError> {
    let outcome = lend(process, fifos, tty).await;
    terminal::restore();
    outcome
}

async fn lend(process: &Process, mut fifos: Fifos, tty: bool) -> Result<u32, ClientError> {
    let closed = std::sync::Arc::new(tokio::sync::Notify::new());
    let tell = closed.clone();
    fifos.copy_out(std::io::stdout(), std::io::stderr(), move || tell.notify_one());
    let (ended, input_ended) = tokio::sync::oneshot::channel();
    if !fifos.stdin.is_empty() {
        fifos.copy_in(std::io::stdin(), move || {
            // The process may be gone already.
            let _ = ended.send(());
        });
    }
    if tty && terminal::is_one() {
        terminal::raw().map_err(ClientError::io("set the terminal"))?;
    }
    process.start().await?;
    let wait = process.wait();
    let signals = pass_on(process, tty);
    let close = async {
        if input_ended.await.is_ok() {
            // A process that has ended by now needs no end of its input.
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, process.close_stdin()).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::pin!(wait);
    let exit = tokio::select! {
        exit = &mut wait => exit?,
        // Nobody reads what it writes: a pipe of the shell's would end it now, and so do we.
        () = closed.notified() => {
            let _ = process.kill(nix::libc::SIGKILL.unsigned_abs(), false).await;
            wait.await?
        }
        error = signals => return Err(error),
        () = close => unreachable!("it never ends"),
    };
    process.delete().await?;
    // The daemon has let all output pass before it answers, so the pipes are at their end.
    let drained = tokio::task::spawn_blocking(move || fifos.drain()).await;
    drained.map_err(|_| ClientError::Incomplete("end of the output"))?;
    Ok(exit.status)
}

/// Passes signals and changes of the window's size on, until something breaks.
async fn pass_on(process: &Process, tty: bool) -> ClientError {
    match pass_on_signals(process, tty).await {
        Err(error) => error,
        Ok(never) => match never {},
    }
}

async fn pass_on_signals(process: &Process, tty: bool) -> Result<std::convert::Infallible, ClientError> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| signal(kind).map_err(ClientError::io("listen to signals"));
    let (mut terminate, mut interrupt, mut hang_up) =
        (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?, listen(SignalKind::hangup())?);
    let mut window = listen(SignalKind::window_change())?;
    if tty {
        resize(process).await;
    }
    loop {
        let number = tokio::select! {
            _ = terminate.recv() => SignalKind::terminate(),
            _ = interrupt.recv() => SignalKind::interrupt(),
            _ = hang_up.recv() => SignalKind::hangup(),
            _ = window.recv() => {
                if tty {
                    resize(process).await;
                }
                continue;
            }
        };
        // It may have ended in between: then the wait tells.
        let _ = process.kill(number.as_raw_value().unsigned_abs(), false).await;
    }
}

async fn resize(process: &Process) {
    if let Some((width, height)) = terminal::size() {
        // A terminal of the wrong size still works.
        let _ = process.resize(width, height).await;
    }
}

/// Refuses a terminal where the caller has none.
pub(crate) fn check_terminal(tty: bool, interactive: bool) -> Result<(), ClientError> {
    if tty && interactive && !terminal::is_one() {
        return Err(ClientError::Invalid("-t with -i needs a terminal, and input or output here is none".into()));
    }
    Ok(())
}

/// The image of `name`, resolved, and unpacked if it is not yet.
pub(crate) async fn unpacked(
    client: &Client,
    name: &str,
    snapshotter: &str,
) -> Result<client::image::Resolved, ClientError> {
    let image = client.image(name).await?;
    let resolved = client.resolve(&image).await?;
    client.unpack(&resolved, snapshotter).await?;
    Ok(resolved)
}
