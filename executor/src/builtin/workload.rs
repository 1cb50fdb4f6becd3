//! The last steps inside the container, in libcontainer's init: terminal size, owner of the standard streams, working
//! folder, search of the program, seccomp filter, capabilities, `execve`.
//!
//! Up to here the process holds all capabilities of the runtime, whatever its user: libcontainer was not told about the
//! container's. That is what allows a filter to be loaded without `no_new_privs`, and folders to be made as root.
//! The texts are those of Go programs, because clients match on them.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use nix::errno::Errno;
use nix::sys::stat::{FileStat, SFlag, fstat};
use rustix::fs::{Access, AtFlags, Gid, Mode, OFlags, ResolveFlags, Uid, accessat, fchown, mkdirat, open, openat2};
use rustix::thread::{CapabilitySets, capabilities, set_capabilities};

use super::caps::Capabilities;
use super::log::WORKLOAD;
use super::loopback;
use super::propagation;
use super::start_hooks::StartHooks;
use crate::seccomp::Program;

/// Said when the working folder turns out to be one of the host's.
const BREAKOUT: &str =
    "current working directory is outside of container mount namespace root -- possible container breakout detected";

/// The step of entering the working folder, for messages.
const CHDIR: &str = "chdir to cwd";

/// One process to become the user's.
#[derive(Debug, Clone)]
pub(super) struct Workload {
    pub(super) capabilities: Capabilities,
    pub(super) cwd: PathBuf,
    /// Loaded before the program is executed.
    pub(super) filter: Option<Program>,
    /// Run right before the program.
    pub(super) start_hooks: StartHooks,
    /// Height and width of the terminal.
    pub(super) console: Option<(u16, u16)>,
    /// Whether this is the container's init: its errors after `start` have no other reader than its own stderr.
    pub(super) is_init: bool,
    /// Whether the network namespace is new, and its loopback device down.
    pub(super) has_own_loopback: bool,
}

impl Executor for Workload {
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        self.prepare(spec).map_err(|text| {
            tracing::error!(target: WORKLOAD, "{text}");
            ExecutorValidationError::ArgValidationError(text)
        })
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let text = self.become_program(spec);
        tracing::error!(target: WORKLOAD, "{text}");
        if self.is_init {
            eprintln!("{text}");
        }
        Err(ExecutorError::Other(text))
    }
}

impl Workload {
    /// Everything that can fail, before `create` or `exec` reports success.
    pub(super) fn prepare(&self, spec: &Spec) -> Result<(), String> {
        let process = spec.process().as_ref().ok_or("spec has no process")?;
        let uid = process.user().uid();
        if let Some((rows, columns)) = self.console {
            let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
            // Only a hint: the shim sets it again on every resize.
            let _ = rustix::termios::tcsetwinsize(io::stdin(), size);
        }
        if self.has_own_loopback {
            loopback::bring_up().map_err(|errno| format!("bring up the loopback device: {errno}"))?;
        }
        if self.is_init {
            propagation::apply(spec)?;
        }
        own_stdio(uid).map_err(|errno| format!("change owner of standard streams: {errno}"))?;
        self.enter_cwd(uid)?;
        let program = program(spec)?;
        self.may_execute(&program).map_err(|text| go_exec_error(&arguments(spec)[0], text))
    }

    /// Enters the working folder. The init makes it when missing, as root whatever the user: images expect it.
    fn enter_cwd(&self, uid: u32) -> Result<(), String> {
        let failed = |step: &str, error: &dyn std::fmt::Display| match step {
            CHDIR => format!("{CHDIR} ({:?}) set in config.json failed: {error}", self.cwd),
            step => format!("{step} {}: {error}", self.cwd.display()),
        };
        if !self.cwd.is_absolute() {
            return Err("Cwd must be an absolute path".to_owned());
        }
        let folder = self.open_cwd(uid).map_err(|(step, error)| failed(step, &go_text(&error.into())))?;
        rustix::process::fchdir(&folder).map_err(|error| failed(CHDIR, &go_text(&error.into())))?;
        // The kernel names a folder outside of our root with a prefix that is no path; std maps that to an error or not.
        match nix::unistd::getcwd() {
            Ok(path) if path.is_absolute() => Ok(()),
            Ok(_) | Err(_) => Err(BREAKOUT.to_owned()),
        }
    }

    /// Opens the working folder part by part. Never through the links of `/proc/*/fd`, which lead to whatever the runtime
    /// has open on the host.
    fn open_cwd(&self, uid: u32) -> Result<OwnedFd, (&'static str, rustix::io::Errno)> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let root = open("/", flags, Mode::empty()).map_err(|error| ("open root for", error))?;
        let find = |path: &Path| openat2(&root, path, flags, Mode::empty(), resolve);
        let mut folder = find(Path::new(".")).map_err(|error| (CHDIR, error))?;
        for part in self.cwd.ancestors().collect::<Vec<_>>().into_iter().rev() {
            let Some(name) = part.file_name() else { continue };
            let inside = part.strip_prefix("/").unwrap_or(part);
            folder = match find(inside) {
                Err(rustix::io::Errno::NOENT) if self.is_init => {
                    let _as_root = FileOwner::root(uid);
                    let mode = Mode::from_raw_mode(0o755);
                    mkdirat(&folder, name, mode).map_err(|error| ("mkdir", error))?;
                    find(inside)
                }
                found => found,
            }
            .map_err(|error| (CHDIR, error))?;
        }
        // Once more as a whole: a path with `..` ends elsewhere than its last part.
        let inside = self.cwd.strip_prefix("/").unwrap_or(&self.cwd);
        let inside = if inside.as_os_str().is_empty() { Path::new(".") } else { inside };
        find(inside).map_err(|error| (CHDIR, error))
    }

    /// Whether the user, with the capabilities it will have, may execute the file.
    fn may_execute(&self, program: &Path) -> Result<(), &'static str> {
        let held = capabilities(None).map_err(|_| "cannot read capabilities")?;
        let weaker = CapabilitySets { effective: self.capabilities.effective & held.permitted, ..held };
        set_capabilities(None, weaker).map_err(|_| "cannot drop capabilities")?;
        let answer = accessat(rustix::fs::CWD, program, Access::EXEC_OK, AtFlags::EACCESS);
        set_capabilities(None, held).map_err(|_| "cannot restore capabilities")?;
        answer.map_err(|_| "permission denied")
    }

    /// Does not return but for an error.
    pub(super) fn become_program(&self, spec: &Spec) -> String {
        let arguments = arguments(spec);
        let program = match program(spec) {
            Ok(program) => program,
            Err(text) => return text,
        };
        let string = |bytes: &[u8]| CString::new(bytes).unwrap_or_default();
        let argv: Vec<CString> = arguments.iter().map(|word| string(word.as_bytes())).collect();
        let environment = environment(spec);
        let path = string(program.as_os_str().as_bytes());
        // Ignored signals and the mask survive `execve`; ours ignores SIGPIPE, as every Rust program.
        crate::sys::reset_signals();
        let _ = nix::sys::signal::SigSet::empty().thread_set_mask();
        // Loading needs CAP_SYS_ADMIN or `no_new_privs`. With the latter it is the last step, so that the profile need
        // not allow what dropping capabilities takes.
        let has_no_new_privileges = rustix::thread::no_new_privs().unwrap_or(false);
        let filter = |when: bool| match &self.filter {
            Some(filter) if when == has_no_new_privileges => crate::sys::load_seccomp(filter),
            _ => Ok(()),
        };
        if let Err(errno) = filter(false) {
            return format!("load seccomp filter: {errno}");
        }
        if let Err(errno) = self.capabilities.apply() {
            return format!("apply capabilities: {errno}");
        }
        if let Err(errno) = filter(true) {
            return format!("load seccomp filter: {errno}");
        }
        if let Err(text) = self.start_hooks.run() {
            return text;
        }
        match nix::unistd::execve(&path, &argv, &environment) {
            Ok(never) => match never {},
            Err(errno) => format!("exec {}: {}", program.display(), go_errno(errno)),
        }
    }
}

/// While it lives, files are made for root.
struct FileOwner(u32);

impl FileOwner {
    fn root(uid: u32) -> Self {
        nix::unistd::setfsuid(nix::unistd::Uid::from_raw(0));
        Self(uid)
    }
}

impl Drop for FileOwner {
    fn drop(&mut self) {
        nix::unistd::setfsuid(nix::unistd::Uid::from_raw(self.0));
        // The kernel takes the file capabilities away with the identity.
        if let Ok(held) = capabilities(None) {
            let _ = set_capabilities(None, CapabilitySets { effective: held.permitted, ..held });
        }
    }
}

/// Hands the standard streams to the container's user, so that it can open `/dev/stdout` and the like. Host devices and
/// what cannot change its owner are left.
fn own_stdio(uid: u32) -> Result<(), Errno> {
    let null = std::fs::metadata("/dev/null").map(|meta| meta.rdev()).ok();
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    for stream in [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()] {
        let stat: FileStat = match fstat(stream) {
            Ok(stat) => stat,
            Err(Errno::EBADF) => continue,
            Err(errno) => return Err(errno),
        };
        let is_device = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFCHR;
        if stat.st_uid == uid || is_device && Some(stat.st_rdev) == null {
            continue;
        }
        match fchown(stream, Some(Uid::from_raw(uid)), Some(Gid::from_raw(stat.st_gid))) {
            Ok(()) => {}
            Err(errno) if [libc::EINVAL, libc::EPERM, libc::EROFS].contains(&errno.raw_os_error()) => {}
            Err(errno) => return Err(Errno::from_raw(errno.raw_os_error())),
        }
    }
    Ok(())
}

fn arguments(spec: &Spec) -> &[String] {
    spec.process().as_ref().and_then(|process| process.args().as_deref()).unwrap_or_default()
}

/// Finds `args[0]` as Go's `exec.LookPath` does, and says the same when it does not.
fn program(spec: &Spec) -> Result<PathBuf, String> {
    let name = arguments(spec).first().ok_or("process has no args")?;
    if name.contains('/') {
        let problem = match std::fs::metadata(name) {
            Ok(meta) if meta.is_dir() => "is a directory".to_owned(),
            Ok(meta) if meta.mode() & 0o111 == 0 => "permission denied".to_owned(),
            Ok(_) => return Ok(PathBuf::from(name)),
            Err(error) => format!("stat {name}: {}", go_text(&error)),
        };
        return Err(go_exec_error(name, &problem));
    }
    let path = variable(spec, "PATH").unwrap_or_default();
    for folder in std::env::split_paths(OsStr::new(path)) {
        let candidate = folder.join(name);
        let found = std::fs::metadata(&candidate).is_ok_and(|meta| meta.is_file() && meta.mode() & 0o111 != 0);
        if found && !name.is_empty() && candidate.is_absolute() {
            return Ok(candidate);
        }
    }
    Err(go_exec_error(name, "executable file not found in $PATH"))
}

fn variable<'spec>(spec: &'spec Spec, name: &str) -> Option<&'spec str> {
    let environment = spec.process().as_ref()?.env().as_deref()?;
    environment.iter().rev().find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='))
}

/// The environment in the order of the spec, the last of two equal names winning, and the user's home when none was
/// given: libcontainer has looked it up and set it in this process.
fn environment(spec: &Spec) -> Vec<CString> {
    let entries = spec.process().as_ref().and_then(|process| process.env().as_deref()).unwrap_or_default();
    let name = |entry: &str| entry.split_once('=').map_or_else(|| entry.to_owned(), |(name, _)| name.to_owned());
    let mut kept: Vec<&str> = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        if !entries[index + 1..].iter().any(|later| name(later) == name(entry)) {
            kept.push(entry);
        }
    }
    let home = std::env::var("HOME").ok().filter(|_| variable(spec, "HOME").is_none_or(str::is_empty));
    let home = home.map(|home| format!("HOME={home}"));
    kept.retain(|entry| home.is_none() || !entry.starts_with("HOME="));
    kept.into_iter().chain(home.as_deref()).filter_map(|entry| CString::new(entry).ok()).collect()
}

fn go_exec_error(name: &str, problem: &str) -> String {
    format!("exec: \"{name}\": {problem}")
}

pub(super) fn go_text(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), |code| go_errno(Errno::from_raw(code)))
}

/// Errors as Go prints them: the C library's words in lower case.
fn go_errno(errno: Errno) -> String {
    match errno {
        Errno::ENOENT => "no such file or directory".to_owned(),
        Errno::EACCES => "permission denied".to_owned(),
        Errno::EPERM => "operation not permitted".to_owned(),
        Errno::ENOEXEC => "exec format error".to_owned(),
        Errno::ENOTDIR => "not a directory".to_owned(),
        Errno::EROFS => "read-only file system".to_owned(),
        Errno::E2BIG => "argument list too long".to_owned(),
        Errno::ELOOP => "too many levels of symbolic links".to_owned(),
        other => other.desc().to_lowercase(),
    }
}
