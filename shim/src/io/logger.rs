//! A program that reads the output of a process: `binary://`.
//!
//! It gets the streams as descriptors 3 and 4 and says on 5 that it is ready, by closing it or by writing a byte. It ends
//! by itself when the streams do; if it does not, it is asked to and then made to.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::io::{DupFlags, dup3};

use super::uri::Binary;

/// The descriptors of the contract: stdout, stderr, ready.
const NUMBERS: [i32; 3] = [3, 4, 5];

/// Keeps the numbers 3, 4 and 5 of this process free for loggers: a child inherits under the number that its parent has.
#[derive(Debug)]
pub(crate) struct Slots {
    slots: [OwnedFd; 3],
}

impl Slots {
    /// Takes the three numbers. To be called before anything else is opened.
    ///
    /// # Errors
    /// Something else has one of them.
    pub(crate) fn reserve() -> io::Result<Self> {
        let mut slots = [null()?, null()?, null()?];
        slots.sort_by_key(|slot| slot.as_raw_fd());
        if slots.each_ref().map(|slot| slot.as_raw_fd()) != NUMBERS {
            return Err(io::Error::other("descriptors 3, 4 and 5 are not free"));
        }
        Ok(Self { slots })
    }

    /// Starts `binary` with these descriptors, for the container `id`. Its parent reaps it.
    ///
    /// # Errors
    /// The program cannot be executed.
    pub(crate) fn start(&mut self, binary: &Binary, ends: LoggerEnds, id: &str, namespace: &str) -> io::Result<u32> {
        let LoggerEnds { stdout, stderr, ready } = ends;
        // One thread: nobody else can start a child while these are not close-on-exec.
        for (slot, fd) in self.slots.iter_mut().zip([&stdout, &stderr, &ready]) {
            dup3(fd, slot, DupFlags::empty())?;
        }
        let child = Command::new(&binary.path)
            .args(&binary.args)
            .env_clear()
            .env("CONTAINER_ID", id)
            .env("CONTAINER_NAMESPACE", namespace)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let null = null()?;
        for slot in &mut self.slots {
            dup3(&null, slot, DupFlags::CLOEXEC)?;
        }
        Ok(child?.id())
    }
}

/// The logger's side of its three descriptors.
#[derive(Debug)]
pub(crate) struct LoggerEnds {
    /// Where it reads the process's standard output.
    pub stdout: OwnedFd,
    /// Where it reads the process's standard error.
    pub stderr: OwnedFd,
    /// Where it says that it is ready.
    pub ready: OwnedFd,
}

fn null() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?)
}
