//! The built-in OCI runtime: `<this program> runtime <oci command line>`, a short-lived process over libcontainer.
//!
//! It is an ordinary OCI runtime to its caller: one verb per process, state under `--root`, errors in `--log`. The
//! process of `create` and `exec` first seals itself (see `sealed.rs`), then lets libcontainer fork the container's
//! process, whose last steps are ours again (`workload.rs`), and exits; the process stays behind, adopted by the shim.
//!
//! Not done here, and refused by name: see [`unsupported`].

mod affinity;
mod args;
mod bundle;
mod caps;
mod join;
mod limits;
mod log;
mod loopback;
mod propagation;
mod record;
mod refuse;
mod sealed;
mod setup;
mod start_hooks;
mod terminal;
mod verbs;
mod workload;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use args::{Command, Global};
use log::{Log, Trail};
use verbs::{Context, VerbError};

pub use refuse::unsupported;

/// The word that makes our program the runtime: `gantry-shim runtime …`.
pub const SUBCOMMAND: &str = "runtime";

/// The version of the OCI runtime specification that is implemented.
const OCI_VERSION: &str = "1.2.0";

/// Runs the OCI command line in `args` (without the program's name; a leading [`SUBCOMMAND`] is skipped).
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut args: Vec<OsString> = args.into_iter().collect();
    if args.first().is_some_and(|word| word == SUBCOMMAND) {
        args.remove(0);
    }
    let (global, command) = match args::parse(args.clone()) {
        Ok(parsed) => parsed,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let log = match Log::open(global.log.as_deref(), global.json) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("log: {error}");
            return ExitCode::FAILURE;
        }
    };
    if matches!(command, Command::Create { .. } | Command::Exec { .. }) && !global.sealed {
        let again: Vec<OsString> = [SUBCOMMAND, "--sealed"].map(OsString::from).into_iter().chain(args).collect();
        let error = sealed::execute_again(&again);
        log.line("error", &format!("cannot run from a sealed file: {error}"));
        return ExitCode::FAILURE;
    }
    match run(&global, &log, command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log.line("error", &error.to_string());
            if global.log.is_some() && !matches!(error, VerbError::Io { .. }) {
                // As runc does: the reason also where a person at a terminal sees it.
                eprintln!("{error}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(global: &Global, log: &Log, command: Command) -> Result<(), VerbError> {
    // The shim reads its signals from a descriptor, so they are blocked in it, and Rust programs ignore SIGPIPE: the container
    // must inherit neither.
    if matches!(command, Command::Create { .. } | Command::Exec { .. }) {
        crate::sys::default_signals();
        let _ = nix::sys::signal::SigSet::empty().thread_set_mask();
        // But a hook that does not read its state, or a client that is gone, must not end us. The workload sets it back.
        crate::sys::ignore_broken_pipes();
    }
    // Both would make libcontainer hand descriptors of ours to the container.
    crate::sys::unset_variable(c"LISTEN_FDS");
    crate::sys::unset_variable(c"LISTEN_PID");
    let mut trail = Trail::record(log, global.debug).map_err(|source| VerbError::Io { what: "trail", source })?;
    let mut context = Context { global, log, trail: &mut trail };
    let output = match command {
        Command::Create { id, options } => context.create(&id, &options).map(|()| None),
        Command::Start { id } => context.start(&id).map(|()| None),
        Command::Kill { id, signal, all } => context.kill(&id, signal, all).map(|()| None),
        Command::Delete { id, force } => context.delete(&id, force).map(|()| None),
        Command::Exec { id, options } => context.exec(&id, &options).map(|()| None),
        Command::Pause { id } => context.pause(&id).map(|()| None),
        Command::Resume { id } => context.resume(&id).map(|()| None),
        Command::Update { id, resources } => context.update(&id, &resources).map(|()| None),
        Command::Ps { id } => context.ps(&id).map(Some),
        Command::State { id } => context.state(&id).map(Some),
        Command::Features => Ok(Some(features().to_string())),
        Command::Version => {
            Ok(Some(format!("gantry-runtime version {}\nspec: {OCI_VERSION}", env!("CARGO_PKG_VERSION"))))
        }
    }?;
    if let Some(text) = output {
        writeln!(std::io::stdout(), "{text}").map_err(|source| VerbError::Io { what: "output", source })?;
    }
    Ok(())
}

/// The OCI features document.
fn features() -> serde_json::Value {
    serde_json::json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": OCI_VERSION,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "cgroup": { "v1": true, "v2": true, "systemd": false, "systemdUser": false, "rdma": false },
            "seccomp": {
                "enabled": cfg!(any(target_arch = "x86_64", target_arch = "aarch64")),
                "actions": [
                    "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD",
                    "SCMP_ACT_LOG", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP",
                ],
                "operators": [
                    "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT", "SCMP_CMP_MASKED_EQ",
                    "SCMP_CMP_NE",
                ],
                "archs": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM", "SCMP_ARCH_X86", "SCMP_ARCH_X86_64"],
            },
            "apparmor": { "enabled": true },
            "selinux": { "enabled": false },
            "intelRdt": { "enabled": false },
        },
    })
}
