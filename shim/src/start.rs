//! `start`: finds the socket of the group or makes it, starts the server on it, and prints the address.
//!
//! When this returns, the server's socket accepts: it listens already here, and is handed over.

use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::address::{self, AddressError, Claim};
use crate::args::Args;
use crate::bootstrap::{self, Bootstrap};
use crate::place::{join_cgroup, score_like};
use crate::serve::{LISTEN_VARIABLE, TTRPC_VARIABLE};
use crate::spec::Spec;
use crate::{journal, log};

/// The most that a daemon sends.
const MAX_INPUT_BYTES: u64 = 4 << 20;
/// The file in the bundle with the address.
pub(crate) const ADDRESS_FILE: &str = "address";

/// Why no server could be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// The working folder is gone.
    #[error("no working directory")]
    Folder(#[source] io::Error),
    /// The socket.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// A second process could not be started.
    #[error("cannot start the server")]
    Spawn(#[source] io::Error),
    /// The folder given in the options is no cgroup.
    #[error("cannot join the shim cgroup {path}")]
    Cgroup {
        /// The cgroup.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The address could not be written or printed.
    #[error("cannot tell the address")]
    Tell(#[source] io::Error),
}

/// Carries `start` out.
///
/// # Errors
/// See [`StartError`]; no server is left then.
pub(crate) fn run(args: &Args) -> Result<(), StartError> {
    let bundle = std::env::current_dir().map_err(StartError::Folder)?;
    log::init(&bundle, args.debug);
    for flag in &args.unknown {
        log::info!("flag {flag} is unknown and ignored");
    }
    let mut input = Vec::new();
    // What cannot be read is as good as nothing: all of it is optional.
    if !io::stdin().is_terminal() {
        let _ = io::stdin().take(MAX_INPUT_BYTES).read_to_end(&mut input);
    }
    let bootstrap = bootstrap::read(&input, args);
    // A sandbox that has been started elsewhere serves this container.
    if let Some(options) = bootstrap.options.as_ref().filter(|options| !options.task_api_address.is_empty()) {
        return tell_of(&bundle, &options.task_api_address, options.task_api_version, &bootstrap);
    }
    let group = Spec::read(&bundle).ok().and_then(|spec| spec.group().map(ToOwned::to_owned));
    let dir = bootstrap.socket_dir.clone().unwrap_or_else(|| address::DEFAULT_DIR.into());
    let path = address::path(&dir, &args.address, &args.namespace, group.as_deref().unwrap_or(&args.id));

    let server = match address::claim(&path)? {
        Claim::Shared => None,
        Claim::Mine(listener) => {
            let server = serve(args, &bootstrap, listener.into());
            if server.is_err() {
                let _ = std::fs::remove_file(&path);
            }
            Some(server?)
        }
    };
    let told = tell(&bundle, &path, &bootstrap);
    if told.is_err()
        && let Some(mut server) = server
    {
        let _ = server.kill();
        let _ = std::fs::remove_file(&path);
    }
    told
}

fn tell(bundle: &Path, path: &Path, bootstrap: &Bootstrap) -> Result<(), StartError> {
    tell_of(bundle, &address::url(path), 0, bootstrap)
}

/// Prints an address with the version of the service behind it, and leaves it in the bundle; version 0 is ours.
fn tell_of(bundle: &Path, url: &str, version: u32, bootstrap: &Bootstrap) -> Result<(), StartError> {
    std::fs::write(bundle.join(ADDRESS_FILE), url).map_err(StartError::Tell)?;
    // One of an earlier task in the same bundle would be taken for ours.
    let _ = std::fs::remove_file(bundle.join(model::journal::FILE_NAME));
    debug_assert!(journal::read(bundle).is_none());
    let answer = bootstrap::answer(bootstrap.form, url, version);
    let mut stdout = io::stdout().lock();
    stdout.write_all(&answer).and_then(|()| stdout.flush()).map_err(StartError::Tell)
}

/// Starts this program again, as the server. The listening socket becomes its standard input, which needs no number.
fn serve(args: &Args, bootstrap: &Bootstrap, listener: OwnedFd) -> Result<Child, StartError> {
    let program = std::env::args_os().next().unwrap_or_default();
    // The file may be replaced while this runs; the server is to be what we are.
    let mut command = Command::new("/proc/self/exe");
    command.arg0(program);
    for (flag, value) in [
        ("-namespace", &args.namespace),
        ("-id", &args.id),
        ("-address", &args.address),
        ("-publish-binary", &args.publish_binary),
    ] {
        command.arg(flag).arg(value);
    }
    if args.debug || bootstrap.debug {
        command.arg("-debug");
    }
    command.env(LISTEN_VARIABLE, "0").stdin(Stdio::from(listener)).stdout(Stdio::null()).stderr(Stdio::null());
    if let Some(address) = &bootstrap.ttrpc_address
        && std::env::var_os(TTRPC_VARIABLE).is_none()
    {
        command.env(TTRPC_VARIABLE, address);
    }
    let mut server = command.spawn().map_err(StartError::Spawn)?;
    let placed = place(&server, bootstrap);
    if placed.is_err() {
        let _ = server.kill();
        let _ = server.wait();
    }
    placed.map(|()| server)
}

/// Puts the server where it belongs: the daemon's out-of-memory score and one, and the cgroup for shims.
fn place(server: &Child, bootstrap: &Bootstrap) -> Result<(), StartError> {
    let daemon = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    if let Err(error) = score_like(&server.id().to_string(), daemon) {
        log::warning!("the out-of-memory score stays as it is: {error}");
    }
    match bootstrap.options.as_ref().map(|options| options.shim_cgroup.as_str()).filter(|path| !path.is_empty()) {
        Some(path) => {
            join_cgroup(server.id(), path).map_err(|source| StartError::Cgroup { path: path.to_owned(), source })
        }
        None => Ok(()),
    }
}
