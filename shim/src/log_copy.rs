//! `log-copy`: writes the log of a container that another shim runs.
//!
//! It is a logging program as shims start it (`binary://`): the output comes on descriptors 3 and 4, and a byte on 5 says that it is
//! ready. Its one argument is the `gantry-log://` address that this shim would have been given. It ends with the output, and lives
//! through everything else, the daemon's end included.
//!
//! Nobody tells it that the log was turned over: it looks, before it writes, whether the file of that name is still its own.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::process::ExitCode;
use std::time::SystemTime;

use rustix::event::{PollFd, PollFlags, poll};

use crate::io::cri_log::CriLog;
use crate::io::uri::{self, Uri};

/// The word that it is called by.
pub(crate) const SUBCOMMAND: &str = "log-copy";

/// How much is read at once.
const READ_BYTES: usize = 32 << 10;

/// Copies until both streams have ended.
pub(crate) fn main(mut words: impl Iterator<Item = std::ffi::OsString>) -> ExitCode {
    let address = words.next().unwrap_or_default();
    match copy(&String::from_utf8_lossy(address.as_bytes())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gantry-shim {SUBCOMMAND}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// One stream on its way into the log.
struct Stream {
    from: File,
    log: Option<CriLog>,
}

fn copy(address: &str) -> io::Result<()> {
    let Uri::Log(wanted) = uri::parse(address).map_err(io::Error::other)? else {
        return Err(io::Error::other(format!("{address:?} is no address of a log")));
    };
    let open = |number: u32, name: &'static str| {
        let from = File::open(format!("/proc/self/fd/{number}"))?;
        let log = wanted.path.as_deref().map(|path| CriLog::open(path, name, wanted.max_line)).transpose()?;
        io::Result::Ok(Stream { from, log })
    };
    let mut streams = vec![open(3, "stdout")?, open(4, "stderr")?];
    // Both ways of saying that it is ready are understood: this byte, and the end.
    File::options().write(true).open("/proc/self/fd/5")?.write_all(&[0])?;
    while !streams.is_empty() {
        let mut polled: Vec<PollFd<'_>> =
            streams.iter().map(|stream| PollFd::from_borrowed_fd(stream.from.as_fd(), PollFlags::IN)).collect();
        match poll(&mut polled, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<bool> = polled.iter().map(|one| !one.revents().is_empty()).collect();
        let mut ready = ready.into_iter();
        let mut failed = None;
        streams.retain_mut(|stream| {
            if !ready.next().unwrap_or_default() {
                return true;
            }
            stream.pump().unwrap_or_else(|error| {
                failed.get_or_insert(error);
                false
            })
        });
        if let Some(error) = failed {
            return Err(error);
        }
    }
    Ok(())
}

impl Stream {
    /// Takes what is there; false at the end.
    fn pump(&mut self) -> io::Result<bool> {
        let mut piece = [0; READ_BYTES];
        let read = match self.from.read(&mut piece) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
            read => read?,
        };
        if let Some(log) = &mut self.log {
            let now = SystemTime::now();
            log.follow();
            match read {
                0 => log.finish(now),
                read => log.write(&piece[..read], now),
            }
        }
        Ok(read != 0)
    }
}
