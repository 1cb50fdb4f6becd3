//! The server's surroundings: descriptors, session, subreaper, score. Then the driver's loop, and the end.
//!
//! The listening socket is handed over, by `start` or by a daemon that saves itself the second process:
//! [`LISTEN_VARIABLE`] has the number of the descriptor. 0, standard input, is the simplest.

use std::io::{self, IsTerminal as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::args::Args;
use crate::driver::{Driver, Parts};
use crate::io::logger::Slots;
use crate::place::score_like;
use crate::trace::trace;
use crate::{address, log, start, sys, trace};

/// The environment variable with the number of the listening socket.
pub(crate) const LISTEN_VARIABLE: &str = "GANTRY_SHIM_LISTEN_FD";
/// The environment variable with the daemon's socket for events.
pub(crate) const TTRPC_VARIABLE: &str = "TTRPC_ADDRESS";

/// The environment variable with the seconds that a root filesystem may take to be mounted.
const MOUNT_VARIABLE: &str = "GANTRY_SHIM_MOUNT_SECONDS";

/// Variables that mean the daemon or this process. An executor would take them for its own: `runc` for one makes a
/// container announce itself to the daemon's service manager, and hands descriptors on to it.
const NOT_FOR_CHILDREN: [&str; 5] = [LISTEN_VARIABLE, "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"];

/// Where descriptors go that are in the way.
const OUT_OF_THE_WAY: i32 = 10;

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    /// Started by hand, or by a daemon that does not hand a socket over.
    #[error("no command, and no socket in {LISTEN_VARIABLE}: a daemon starts this program with start or delete")]
    NoSocket,
    /// What was handed over is no listening socket.
    #[error("{LISTEN_VARIABLE}={value}")]
    Socket {
        /// The variable.
        value: String,
        /// Why not.
        source: io::Error,
    },
    /// The kernel refuses something that a server cannot do without.
    #[error("cannot {what}")]
    Setup {
        /// What.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The loop broke.
    #[error("the event loop has failed")]
    Loop(#[source] io::Error),
}

/// Serves until the end.
///
/// # Errors
/// See [`ServeError`]
pub(crate) fn run(args: &Args) -> Result<(), ServeError> {
    let listener = take_listener()?;
    sys::close_all_but(&listener);
    sys::forget_variables(&NOT_FOR_CHILDREN);
    let setup = |what| move |source| ServeError::Setup { what, source };
    let slots = Slots::reserve().map_err(setup("reserve descriptors"))?;
    let bundle = std::env::current_dir().map_err(setup("find the bundle"))?;
    log::init(&bundle, args.debug);
    trace::init();
    trace!("serve.begin");
    for flag in &args.unknown {
        log::info!("flag {flag} is unknown and ignored");
    }
    let socket = listener.local_addr().ok().and_then(|address| address.as_pathname().map(Path::to_owned));
    if let Some(socket) = &socket
        && !bundle.join(start::ADDRESS_FILE).exists()
        && let Err(error) = std::fs::write(bundle.join(start::ADDRESS_FILE), address::url(socket))
    {
        log::warning!("cannot write the address: {error}");
    }
    settle_in().map_err(setup("become a server"))?;
    let events = std::env::var_os(TTRPC_VARIABLE).filter(|address| !address.is_empty());
    let events = events.map(|address| PathBuf::from(address::from_url(&address.to_string_lossy())));
    let mount_limit = std::env::var(MOUNT_VARIABLE).ok().and_then(|seconds| seconds.parse().ok());
    let mount_limit = mount_limit.map(std::time::Duration::from_secs);
    let parts = Parts { listener, socket, namespace: args.namespace.clone(), events, bundle, slots, mount_limit };
    let mut driver = Driver::new(parts).map_err(setup("watch descriptors"))?;
    trace!("serve.ready");
    let result = driver.run().map_err(ServeError::Loop);
    driver.remove_socket();
    if let Err(error) = &result {
        log::error!("{error}");
    }
    result
}

fn take_listener() -> Result<UnixListener, ServeError> {
    let value = std::env::var(LISTEN_VARIABLE).map_err(|_| ServeError::NoSocket)?;
    let take = || -> io::Result<OwnedFd> {
        match value.parse().map_err(|_| io::ErrorKind::InvalidInput)? {
            0 if io::stdin().is_terminal() => Err(io::ErrorKind::InvalidInput.into()),
            // A copy; the loop's own standard input becomes nothing.
            0 => Ok(rustix::io::fcntl_dupfd_cloexec(io::stdin().as_fd(), OUT_OF_THE_WAY)?),
            number => Ok(rustix::io::fcntl_dupfd_cloexec(sys::inherited(number)?, OUT_OF_THE_WAY)?),
        }
    };
    take().and_then(address::adopt).map_err(|source| ServeError::Socket { value: value.clone(), source })
}

/// Leaves everything of the daemon behind.
fn settle_in() -> io::Result<()> {
    // Fails for the leader of a process group, which has what it needs.
    let _ = rustix::process::setsid();
    let _ = rustix::thread::set_name(c"gantry-shim");
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    // The bundle will be deleted; executors want a working folder that exists.
    std::env::set_current_dir("/")?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    nix::unistd::dup2_stderr(&null)?;
    let parent = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    // `start` has set the score, and is gone soon or already.
    if !is_ours(parent)
        && let Err(error) = score_like("self", parent)
    {
        log::warning!("the out-of-memory score stays as it is: {error}");
    }
    Ok(())
}

/// Whether a process runs the same program as we do.
fn is_ours(pid: i32) -> bool {
    let program = |pid: &str| std::fs::read_link(format!("/proc/{pid}/exe")).ok();
    pid <= 1 || program("self") == program(&pid.to_string())
}
