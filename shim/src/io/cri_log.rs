//! A log in the form of the CRI: one line for each line of output, with its time, its stream, and whether it goes on.
//!
//! ```text
//! 2016-10-06T00:17:09.669794202Z stdout F the whole of a line
//! 2016-10-06T00:17:10.113242941Z stderr P the first part of a long one
//! 2016-10-06T00:17:10.113242941Z stderr F and the rest
//! ```
//!
//! Lines are written whole, by one call, so that two streams may share a file and a file may be replaced at any moment. A
//! full disk loses lines, which is said once, and the lines after it are whole again. Must not wait for anything but the disk.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::log;

/// How much is gathered before it is written.
const WRITE_BYTES: usize = 32 << 10;
/// A buffer larger than this is given back once it is empty.
const KEPT_BYTES: usize = 1 << 10;

/// The log of one stream.
#[derive(Debug)]
pub(crate) struct CriLog {
    path: PathBuf,
    file: File,
    stream: &'static str,
    max_line: usize,
    /// The beginning of a line whose end is still to come.
    line: Vec<u8>,
    /// A write has failed in the middle of a line.
    is_torn: bool,
    has_complained: bool,
}

impl CriLog {
    /// Opens the log at `path` for the stream of that name.
    ///
    /// # Errors
    /// The file or its folder cannot be made.
    pub(crate) fn open(path: &Path, stream: &'static str, max_line: usize) -> io::Result<Self> {
        let (path, file) = (path.to_owned(), open(path)?);
        Ok(Self { path, file, stream, max_line, line: Vec::new(), is_torn: false, has_complained: false })
    }

    /// Opens the file again by its name.
    ///
    /// # Errors
    /// As [`open`](Self::open); the old one is kept.
    pub(crate) fn reopen(&mut self) -> io::Result<()> {
        self.file = open(&self.path)?;
        (self.is_torn, self.has_complained) = (false, false);
        Ok(())
    }

    /// Opens the file again if the one of its name is another by now: for those who are told by nobody.
    pub(crate) fn follow(&mut self) {
        let place = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
        let own = self.file.metadata().map(place).ok();
        if own != std::fs::metadata(&self.path).map(place).ok()
            && let Err(error) = self.reopen()
        {
            log::error!("cannot open {} again: {error}", self.path.display());
        }
    }

    /// Takes in what the process has written, and logs the lines that are whole now.
    pub(crate) fn write(&mut self, bytes: &[u8], now: SystemTime) {
        let time = log::exact_timestamp(now);
        let mut out = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = self.max_line - self.line.len();
            match rest.iter().take(room + 1).position(|byte| *byte == b'\n') {
                Some(end) => {
                    self.put(&rest[..end], &time, 'F', &mut out);
                    rest = &rest[end + 1..];
                }
                // Only a further byte tells that the line goes on.
                None if rest.len() > room => {
                    self.put(&rest[..room], &time, 'P', &mut out);
                    rest = &rest[room..];
                }
                None => {
                    self.line.extend_from_slice(rest);
                    rest = &[];
                }
            }
            if out.len() >= WRITE_BYTES {
                self.flush(&mut out);
            }
        }
        self.flush(&mut out);
    }

    /// The process writes no more: what is left is a line without its newline.
    pub(crate) fn finish(&mut self, now: SystemTime) {
        if !self.line.is_empty() {
            let mut out = Vec::new();
            self.put(&[], &log::exact_timestamp(now), 'F', &mut out);
            self.flush(&mut out);
        }
    }

    /// One line of the log, of what was kept and `tail`.
    fn put(&mut self, tail: &[u8], time: &str, tag: char, out: &mut Vec<u8>) {
        let _ = write!(out, "{time} {} {tag} ", self.stream);
        out.extend_from_slice(&self.line);
        out.extend_from_slice(tail);
        out.push(b'\n');
        self.line.clear();
        if self.line.capacity() > KEPT_BYTES {
            self.line = Vec::new();
        }
    }

    fn flush(&mut self, out: &mut Vec<u8>) {
        if out.is_empty() {
            return;
        }
        let torn = std::mem::take(&mut self.is_torn);
        let result = if torn { self.file.write_all(b"\n") } else { Ok(()) };
        let result = result.and_then(|()| self.file.write_all(out));
        out.clear();
        match result {
            Ok(()) => self.has_complained = false,
            Err(error) => {
                self.is_torn = true;
                if !std::mem::replace(&mut self.has_complained, true) {
                    log::error!("lines of {} are lost: {error}", self.path.display());
                }
            }
        }
    }
}

impl Drop for CriLog {
    fn drop(&mut self) {
        self.finish(SystemTime::now());
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    // No fifo nor terminal in its place may hold us up.
    options.append(true).create(true).mode(0o640).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Some(folder) = path.parent() {
                DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
            }
            options.open(path)
        }
        opened => opened,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const TIME: &str = "1970-01-01T00:00:01.000000005Z";

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::new(1, 5)
    }

    #[test]
    fn who_is_told_by_nobody_sees_that_the_log_was_turned_over() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("log"), folder.path().join("old"));
        let mut log = CriLog::open(&path, "stdout", 100).unwrap();
        log.follow();
        log.write(b"one\nha", now());
        std::fs::rename(&path, &old).unwrap();
        log.follow();
        log.write(b"lf\n", now());
        let lines = |path: &Path| std::fs::read_to_string(path).unwrap().replace(&format!("{TIME} stdout F "), "");
        assert_eq!((lines(&old), lines(&path)), ("one\n".to_owned(), "half\n".to_owned()));
    }

    fn logged(max_line: usize, pieces: &[&str]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pod/0.log");
        let mut log = CriLog::open(&path, "stdout", max_line).unwrap();
        for piece in pieces {
            log.write(piece.as_bytes(), now());
        }
        log.finish(now());
        drop(log);
        let text = std::fs::read_to_string(&path).unwrap();
        let prefix = format!("{TIME} stdout ");
        text.lines().map(|line| line.strip_prefix(&prefix).expect("the prefix").to_owned()).collect()
    }

    #[test]
    fn lines_are_whole_however_they_came() {
        assert_eq!(logged(80, &["one\ntw", "o", "\n\nthree"]), ["F one", "F two", "F ", "F three"]);
        assert_eq!(logged(80, &["", "\n"]), ["F "]);
        assert_eq!(logged(80, &[]), Vec::<String>::new());
    }

    #[test]
    fn long_lines_are_parts_and_only_the_last_is_full() {
        assert_eq!(logged(4, &["abcdefghij\nk\n"]), ["P abcd", "P efgh", "F ij", "F k"]);
        assert_eq!(logged(4, &["abcd\nefgh"]), ["F abcd", "F efgh"], "one that just fits is no part");
        assert_eq!(logged(4, &["ab", "cd", "e", "\n"]), ["P abcd", "F e"]);
    }

    #[test]
    fn any_cutting_gives_the_same_log() {
        let text = "x".repeat(37) + "\n" + &"y\n".repeat(9) + &"z".repeat(15);
        let whole = logged(10, &[&text]);
        for size in 1..text.len() {
            let pieces: Vec<&str> =
                (0..text.len()).step_by(size).map(|at| &text[at..(at + size).min(text.len())]).collect();
            assert_eq!(logged(10, &pieces), whole, "in pieces of {size}");
        }
    }

    #[test]
    fn a_renamed_file_is_replaced_between_two_lines() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("0.log"), folder.path().join("0.log.1"));
        let mut log = CriLog::open(&path, "stderr", 80).unwrap();
        log.write(b"before\nbeg", now());
        std::fs::rename(&path, &old).unwrap();
        log.reopen().unwrap();
        log.write(b"un\n", now());
        assert_eq!(std::fs::read_to_string(&old).unwrap(), format!("{TIME} stderr F before\n"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{TIME} stderr F begun\n"));
    }

    #[test]
    fn a_full_disk_loses_lines_and_no_more() {
        let mut log = CriLog::open(Path::new("/dev/full"), "stdout", 80).unwrap();
        log.write(b"lost\n", now());
        assert!(log.is_torn && log.has_complained);
        let folder = tempfile::tempdir().unwrap();
        log.path = folder.path().join("0.log");
        log.reopen().unwrap();
        log.write(b"kept\n", now());
        assert_eq!(std::fs::read_to_string(&log.path).unwrap(), format!("{TIME} stdout F kept\n"));
    }
}
