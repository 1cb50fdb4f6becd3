//! One more process in a running container: `exec`. Not libcontainer's work, which takes three processes for it and cannot
//! enter a user namespace.
//!
//! ```text
//! this process   opens what it needs of the host, joins the namespaces of the init ─► fork ─► reads the pipe, ends
//! its child      enters the cgroups, terminal, limits, user, then the last steps of every process (workload.rs)
//! ```
//!
//! The pipe is close-on-exec: a byte says that all is ready, what comes behind it or instead of it is the reason of a
//! failure, and its end without one means that the program runs. The child becomes the subreaper's when this process ends.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use libcontainer::oci_spec::runtime::{Process, Spec};
use nix::errno::Errno;
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Gid, Uid};
use serde_json::Value;

use super::workload::{Workload, go_text};
use super::{affinity, limits, terminal};
use crate::ProcessId;
use crate::cgroup::Cgroup;

/// The namespaces by their names in `/proc` and their flags.
const NAMESPACES: [(&str, i32); 8] = [
    ("user", libc::CLONE_NEWUSER),
    ("mnt", libc::CLONE_NEWNS),
    ("pid", libc::CLONE_NEWPID),
    ("net", libc::CLONE_NEWNET),
    ("ipc", libc::CLONE_NEWIPC),
    ("uts", libc::CLONE_NEWUTS),
    ("cgroup", libc::CLONE_NEWCGROUP),
    ("time", libc::CLONE_NEWTIME),
];
/// The personality of 32-bit programs.
const PER_LINUX32: libc::c_ulong = 8;
/// Said once everything but the program itself is in order.
const READY: u8 = b'!';
/// The most read of a failure's text.
const MAX_REASON: u64 = 16 << 10;
/// The most read of the container's `/etc/passwd`.
const MAX_PASSWD: u64 = 1 << 20;

/// What one process is to be, and what it joins.
pub(super) struct Joining<'run> {
    pub(super) init: ProcessId,
    pub(super) cgroup: &'run Cgroup,
    /// The container's spec.
    pub(super) spec: &'run Value,
    /// Its own part.
    pub(super) process: Process,
    pub(super) workload: Workload,
    pub(super) console_socket: Option<&'run Path>,
    pub(super) pid_file: Option<&'run Path>,
}

/// What is opened on the host's side, before the namespaces are joined.
struct Opened {
    members: Vec<File>,
    /// The root of a container without a mount namespace of its own.
    root: Option<OwnedFd>,
    console: Option<UnixStream>,
    is_in_user_namespace: bool,
}

impl Joining<'_> {
    /// Runs it.
    ///
    /// # Errors
    /// Why it could not be run, in the words for the client.
    pub(super) fn run(mut self) -> Result<(), String> {
        let (opened, init, flags) = self.open()?;
        let pid_file = self
            .pid_file
            .map(|path| (path, OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(path)));
        let pid_file =
            pid_file.map(|(path, file)| file.map_err(failed(&format!("pid file {}", path.display())))).transpose()?;
        let (reader, mut writer) = pipe()?;
        // Whoever is in the container must not look into us while we are half in it.
        nix::sys::prctl::set_dumpable(false).map_err(|errno| format!("set dumpable: {errno}"))?;
        if opened.is_in_user_namespace {
            // Afterwards nothing could be raised any more.
            limits::set(&self.process)?;
        }
        if flags != 0 {
            crate::sys::join_namespaces(init.as_fd(), flags)
                .map_err(|errno| format!("join namespaces: {}", errno.desc().to_lowercase()))?;
        }
        match crate::sys::fork().map_err(|errno| format!("fork: {}", errno.desc().to_lowercase()))? {
            ForkResult::Child => {
                drop(reader);
                let text = self.become_it(&opened, &mut writer);
                let _ = writer.write_all(text.as_bytes());
                // Nothing of the parent's must be flushed or dropped a second time.
                crate::sys::exit_now(1)
            }
            ForkResult::Parent { child } => {
                drop(writer);
                let mut said = Vec::new();
                (&reader).take(MAX_REASON).read_to_end(&mut said).map_err(failed("status of the process"))?;
                match said.split_first() {
                    Some((&READY, [])) => {}
                    other => {
                        let _ = waitpid(child, None);
                        let reason = match other {
                            Some((&READY, rest)) => String::from_utf8_lossy(rest).into_owned(),
                            Some(_) => String::from_utf8_lossy(&said).into_owned(),
                            None => "the process ended before it could be set up".to_owned(),
                        };
                        return Err(reason);
                    }
                }
                if let Some(mut file) = pid_file {
                    write!(file, "{child}").map_err(failed("pid file"))?;
                }
                Ok(())
            }
        }
    }

    fn open(&self) -> Result<(Opened, OwnedFd, i32), String> {
        let pid = rustix::process::Pid::from_raw(self.init.pid).ok_or("container not running")?;
        let init = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
            .map_err(|errno| format!("open init: {}", go_text(&errno.into())))?;
        // The descriptor is of the process that has the pid now: it must still be the one meant.
        if !self.init.is_alive() {
            return Err("container not running".to_owned());
        }
        let mut flags = 0;
        for (name, flag) in NAMESPACES {
            let of = |who: &str| std::fs::read_link(format!("/proc/{who}/ns/{name}"));
            match (of(&pid.as_raw_nonzero().to_string()), of("self")) {
                (Ok(theirs), Ok(ours)) if theirs != ours => flags |= flag,
                (Ok(_), Ok(_)) => {}
                // A kernel without that kind.
                (Err(theirs), Err(_)) if theirs.kind() == io::ErrorKind::NotFound => {}
                (Err(error), _) | (_, Err(error)) => return Err(format!("namespace {name}: {}", go_text(&error))),
            }
        }
        let members = self.cgroup.open_members().map_err(|error| super::verbs::chain(&error))?;
        let folder = |path: String| File::open(&path).map(OwnedFd::from).map_err(failed(&path));
        let root =
            if flags & libc::CLONE_NEWNS == 0 { Some(folder(format!("/proc/{}/root", self.init.pid))?) } else { None };
        let console = match self.console_socket {
            Some(path) => {
                Some(UnixStream::connect(path).map_err(failed(&format!("console socket {}", path.display())))?)
            }
            None => None,
        };
        let is_in_user_namespace = flags & libc::CLONE_NEWUSER != 0;
        Ok((Opened { members, root, console, is_in_user_namespace }, init, flags))
    }

    /// All steps of the child. Returns only with the reason why there is no program.
    fn become_it(&mut self, opened: &Opened, writer: &mut File) -> String {
        if let Err(text) = self.prepare(opened) {
            return text;
        }
        let mut spec = Spec::default();
        spec.set_process(Some(self.process.clone()));
        if let Err(text) = self.workload.prepare(&spec) {
            return text;
        }
        if let Err(error) = writer.write_all(&[READY]) {
            return go_text(&error);
        }
        self.workload.become_program(&spec)
    }

    fn prepare(&mut self, opened: &Opened) -> Result<(), String> {
        let errno = |what: &'static str| move |errno: Errno| format!("{what}: {}", errno.desc().to_lowercase());
        affinity::set(self.process.exec_cpu_affinity().as_ref().and_then(|affinity| affinity.initial().as_deref()))?;
        for mut file in &opened.members {
            file.write_all(b"0").map_err(failed("join the cgroup"))?;
        }
        affinity::set(
            self.process.exec_cpu_affinity().as_ref().and_then(|affinity| affinity.cpu_affinity_final().as_deref()),
        )?;
        if let Some(root) = &opened.root {
            nix::unistd::fchdir(root).map_err(errno("enter the root"))?;
            nix::unistd::chroot(".").map_err(errno("enter the root"))?;
        }
        if opened.is_in_user_namespace {
            nix::unistd::setresgid(Gid::from_raw(0), Gid::from_raw(0), Gid::from_raw(0))
                .map_err(errno("become root of the user namespace"))?;
            nix::unistd::setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0))
                .map_err(errno("become root of the user namespace"))?;
        } else {
            limits::set(&self.process)?;
        }
        nix::unistd::setsid().map_err(errno("setsid"))?;
        limits::set_priorities(&self.process)?;
        if self.process.no_new_privileges() == Some(true) {
            nix::sys::prctl::set_no_new_privs().map_err(errno("no_new_privs"))?;
        }
        if let Some(console) = &opened.console {
            terminal::make(console).map_err(|error| format!("terminal: {}", go_text(&error)))?;
        }
        if self.spec.pointer("/linux/personality/domain").and_then(Value::as_str) == Some("LINUX32") {
            crate::sys::set_personality(PER_LINUX32).map_err(errno("personality"))?;
        }
        if let Some(profile) = self.process.apparmor_profile().as_deref().filter(|profile| !profile.is_empty()) {
            confine(profile).map_err(|error| format!("apply apparmor profile {profile}: {}", go_text(&error)))?;
        }
        self.look_up_home();
        if let Some(umask) = self.process.user().umask() {
            nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(umask));
        }
        // Leaked by whoever started us; ours are all close-on-exec anyway.
        crate::sys::close_on_exec_from(3).map_err(errno("close descriptors"))?;
        self.become_user().map_err(errno("set user and groups"))
    }

    /// The container's user with every capability still at hand: the workload's last steps give them up.
    fn become_user(&self) -> Result<(), Errno> {
        let user = self.process.user();
        let groups: Vec<Gid> =
            user.additional_gids().as_deref().unwrap_or_default().iter().map(|gid| Gid::from_raw(*gid)).collect();
        match nix::unistd::setgroups(&groups) {
            // A user namespace in which groups are not to be changed at all.
            Err(Errno::EPERM) if groups.is_empty() => {}
            result => result?,
        }
        nix::sys::prctl::set_keepcaps(true)?;
        let (gid, uid) = (Gid::from_raw(user.gid()), Uid::from_raw(user.uid()));
        nix::unistd::setresgid(gid, gid, gid)?;
        nix::unistd::setresuid(uid, uid, uid)?;
        nix::sys::prctl::set_keepcaps(false)?;
        let held = rustix::thread::capabilities(None).map_err(|errno| Errno::from_raw(errno.raw_os_error()))?;
        let all = rustix::thread::CapabilitySets { effective: held.permitted, ..held };
        rustix::thread::set_capabilities(None, all).map_err(|errno| Errno::from_raw(errno.raw_os_error()))
    }

    /// The user's home as the container's `/etc/passwd` has it, when none was given.
    fn look_up_home(&mut self) {
        let mut env = self.process.env().clone().unwrap_or_default();
        if env.iter().rev().any(|entry| entry.strip_prefix("HOME=").is_some_and(|home| !home.is_empty())) {
            return;
        }
        let home = home_of(self.process.user().uid()).unwrap_or_else(|| "/".to_owned());
        env.retain(|entry| !entry.starts_with("HOME="));
        env.push(format!("HOME={home}"));
        self.process.set_env(Some(env));
    }
}

fn home_of(uid: u32) -> Option<String> {
    // An image may put anything there: a pipe must not make us wait.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/etc/passwd").ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = String::new();
    file.take(MAX_PASSWD).read_to_string(&mut text).ok()?;
    home_in(&text, uid)
}

fn home_in(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.len() >= 6 && fields[2].parse() == Ok(uid) && !fields[5].is_empty()).then(|| fields[5].to_owned())
    })
}

/// Writes the profile to the real procfs: neither to another filesystem at `/proc` nor to a file mounted over it.
fn confine(profile: &str) -> io::Result<()> {
    use rustix::fs::{Mode, OFlags, ResolveFlags, fstatfs, open, openat2};
    const PROC_MAGIC: rustix::fs::FsWord = 0x9fa0;
    let proc = open("/proc", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    if fstatfs(&proc)?.f_type != PROC_MAGIC {
        return Err(io::Error::from_raw_os_error(libc::EXDEV));
    }
    let find =
        |path: &str| openat2(&proc, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::NO_XDEV);
    let file = find("thread-self/attr/apparmor/exec").or_else(|_| find("thread-self/attr/exec"))?;
    File::from(file).write_all(format!("exec {profile}").as_bytes())
}

fn pipe() -> Result<(File, File), String> {
    let (reader, writer) =
        nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|errno| format!("pipe: {errno}"))?;
    Ok((reader.into(), writer.into()))
}

fn failed(what: &str) -> impl Fn(io::Error) -> String {
    move |error| format!("{what}: {}", go_text(&error))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_home_is_found_by_number() {
        let text =
            "root:x:0:0::/root:/bin/sh\nbad line\nnobody:x:65534:1:::/x\nuser:x:1000:1000:U:/home/user:/bin/sh\n";
        assert_eq!(super::home_in(text, 1000).as_deref(), Some("/home/user"));
        assert_eq!(super::home_in(text, 65534), None);
        assert_eq!(super::home_in(text, 7), None);
    }
}
