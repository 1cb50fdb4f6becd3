//! Running from a file that no container can write. A process that joins a container shows its program as
//! `/proc/PID/exe`; a container that opens that link for writing at the right moment would replace our program on the
//! host (CVE-2019-5736). So the verbs that join one first execute themselves again through a read-only mount of their
//! own file that exists in no namespace, or, on kernels without such mounts, from a sealed copy in memory.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use nix::errno::Errno;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::mount::{OpenTreeFlags, open_tree};

const SELF: &str = "/proc/self/exe";

/// Replaces this process by itself, sealed; returns only on failure.
pub(super) fn execute_again(args: &[OsString]) -> std::io::Error {
    match read_only_mount().or_else(|_| sealed_copy()) {
        Ok(program) => execute(&program, args),
        Err(error) => error,
    }
}

fn read_only_mount() -> std::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = open_tree(rustix::fs::CWD, SELF, flags)?;
    crate::sys::mount_set_read_only(mount.as_fd())?;
    Ok(mount)
}

fn sealed_copy() -> std::io::Result<OwnedFd> {
    let memory = memfd_create(c"runtime", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut copy = File::from(memory);
    std::io::copy(&mut File::open(SELF)?, &mut copy)?;
    copy.seek(SeekFrom::Start(0))?;
    fcntl_add_seals(&copy, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(copy.into())
}

fn execute(program: &OwnedFd, args: &[OsString]) -> std::io::Error {
    let string = |bytes: &[u8]| CString::new(bytes).map_err(|_| Errno::EINVAL);
    let run = || -> nix::Result<std::convert::Infallible> {
        let mut argv = vec![string(b"gantry-runtime")?];
        for arg in args {
            argv.push(string(arg.as_bytes())?);
        }
        let mut environment = Vec::new();
        for (mut name, value) in std::env::vars_os() {
            name.push("=");
            name.push(value);
            environment.push(string(&name.into_vec())?);
        }
        nix::unistd::execveat(program, c"", &argv, &environment, nix::fcntl::AtFlags::AT_EMPTY_PATH)
    };
    match run() {
        Ok(never) => match never {},
        Err(errno) => errno.into(),
    }
}
