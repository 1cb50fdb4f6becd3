//! `delete`: cleans up after a server that is dead, or that has already done all of it. Needs nothing but what is in the
//! bundle, and not even that.
//!
//! Kills what is left of the container, has the executor remove its part, unmounts, and prints how the container ended:
//! as the dead server wrote it down, or, if it had no time to, as killed.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use executor::cgroup::Cgroup;
use executor::{ExecutorError, ProcessId, executor_for};
use model::journal::Journal;
use model::task::Exit;
use prost::Message as _;
use proto::task::v3::DeleteResponse;
use rustix::process::{Pid, Signal};

use crate::args::Args;
use crate::driver::{INIT_PID_FILE, ROOTFS_DIR};
use crate::{address, helper, journal, log, once, rootfs, runtime, start};

/// The status of a container that was killed.
const KILLED: u32 = 128 + 9;
/// How long a killed process may take to go.
const KILL_WAIT: Duration = Duration::from_secs(5);
/// How long a filesystem may take to be unmounted.
const UNMOUNT_WAIT: Duration = Duration::from_secs(10);

/// Why it could not be told how the container ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeleteError {
    /// The working folder is gone, and no bundle was named.
    #[error("no working directory, and no -bundle")]
    Folder(#[source] io::Error),
    /// Standard output is closed.
    #[error("cannot tell how the container ended")]
    Tell(#[source] io::Error),
}

/// Carries `delete` out. Parts that fail are logged, and do not keep the others from being done.
///
/// # Errors
/// See [`DeleteError`].
pub(crate) fn run(args: &Args) -> Result<(), DeleteError> {
    let bundle = match &args.bundle {
        Some(bundle) => bundle.clone(),
        None => std::env::current_dir().map_err(DeleteError::Folder)?,
    };
    log::init(&bundle, args.debug);
    let journal = journal::read(&bundle);
    let process = init(&bundle, journal.as_ref());
    // Must be asked before the process is gone.
    let cgroup = process.and_then(|process| Cgroup::of_pid(process.pid).ok());

    let executor = executor_for(runtime::remembered(&args.namespace, &bundle));
    match once::run(&executor.delete(&args.id, true)).and_then(|outcome| executor.interpret(&outcome)) {
        Ok(()) | Err(ExecutorError::NotFound { .. }) => {}
        Err(error) => log::warning!("{}", crate::text(&error)),
    }
    if let Some(process) = process.filter(|process| process.exists()) {
        kill(process);
    }
    if let Some(cgroup) = cgroup
        && let Err(error) = cgroup.kill()
    {
        log::warning!("what is left of the container cannot be killed: {error}");
    }
    unmount(&bundle.join(ROOTFS_DIR));
    remove_socket(&bundle);

    let exit = journal.as_ref().and_then(|journal| journal.exit);
    let exit = exit.unwrap_or_else(|| Exit { status: KILLED, at: SystemTime::now() });
    let response = DeleteResponse {
        pid: journal.map_or_else(|| read_pid(&bundle).unwrap_or(0), |journal| journal.pid),
        exit_status: exit.status,
        exited_at: Some(proto::convert::time::to_wire(exit.at)),
    };
    let mut stdout = io::stdout().lock();
    stdout.write_all(&response.encode_to_vec()).and_then(|()| stdout.flush()).map_err(DeleteError::Tell)
}

/// Unmounts, but not for ever: the daemon waits.
fn unmount(place: &Path) {
    match helper::start(|| (Ok(()), rootfs::unmount_all(place))) {
        Ok(helper) => {
            if helper.wait(UNMOUNT_WAIT).is_none() {
                log::error!("{} does not answer and stays mounted", place.display());
                helper.give_up();
            }
        }
        Err(error) => {
            log::warning!("without a helper: {error}");
            drop(rootfs::unmount_all(place));
        }
    }
}

/// The init, if it is certainly the one that was written down.
fn init(bundle: &Path, journal: Option<&Journal>) -> Option<ProcessId> {
    let (pid, started) = match journal {
        Some(journal) => (journal.pid, journal.started),
        // The server died before it could write more than the pid; without a start time it may be anyone's by now,
        // unless its root is still our bundle.
        None => (read_pid(bundle)?, 0),
    };
    let process = ProcessId::of(i32::try_from(pid).ok()?)?;
    let is_same = if started == 0 { lives_in(process, bundle) } else { process.started == started };
    is_same.then_some(process)
}

/// Whether the process has the bundle's root as its own.
fn lives_in(process: ProcessId, bundle: &Path) -> bool {
    let root = std::fs::read_link(format!("/proc/{}/root", process.pid));
    let dir = |path: PathBuf| std::fs::metadata(path).ok();
    let own = dir(format!("/proc/{}/root/.", process.pid).into());
    let ours = dir(bundle.join(ROOTFS_DIR));
    use std::os::unix::fs::MetadataExt as _;
    root.is_ok_and(|root| root != Path::new("/"))
        || matches!((own, ours), (Some(own), Some(ours)) if (own.dev(), own.ino()) == (ours.dev(), ours.ino()))
}

fn read_pid(bundle: &Path) -> Option<u32> {
    std::fs::read_to_string(bundle.join(INIT_PID_FILE)).ok()?.trim().parse().ok()
}

fn kill(process: ProcessId) {
    let Some(pid) = Pid::from_raw(process.pid) else { return };
    let _ = rustix::process::kill_process(pid, Signal::KILL);
    if !once::wait_gone(pid, KILL_WAIT) {
        log::error!("process {} was killed and does not go", process.pid);
    }
}

/// Removes the server's socket, unless a server of the group is behind it.
fn remove_socket(bundle: &Path) {
    let Ok(url) = std::fs::read_to_string(bundle.join(start::ADDRESS_FILE)) else { return };
    let path = Path::new(address::from_url(url.trim()));
    if path.exists() && !address::answers(path) {
        let _ = std::fs::remove_file(path);
    }
}
