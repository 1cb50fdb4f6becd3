//! The stdio of a process, as a client sees it: named pipes in a folder of their own, and threads that copy.
//!
//! Opening a pipe waits for the shim to open its end, so that is left to threads; a thread whose shim never came is let go when
//! the set is dropped.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use nix::sys::stat::Mode;
use rustix::fs::OFlags;

use crate::ClientError;

/// What is copied at once, in bytes.
const BUFFER_BYTES: usize = 32 * 1024;

/// The named pipes of one process. The folder goes with it.
#[derive(Debug)]
pub struct Fifos {
    folder: PathBuf,
    /// The path the process reads from; empty without input.
    pub stdin: String,
    /// The path the process writes to.
    pub stdout: String,
    /// The path of its errors; empty with a terminal, which has one output.
    pub stderr: String,
    copiers: Vec<JoinHandle<()>>,
}

impl Fifos {
    /// Makes the pipes of process `id` in a new folder below `parent`.
    ///
    /// # Errors
    /// When the folder or a pipe cannot be made.
    pub fn create(parent: &Path, id: &str, with_stdin: bool, terminal: bool) -> Result<Self, ClientError> {
        let folder = parent.join(crate::image::unique());
        let failed = |path: &Path| ClientError::io(format!("make {}", path.display()));
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(failed(&folder))?;
        let mut fifos =
            Self { folder, stdin: String::new(), stdout: String::new(), stderr: String::new(), copiers: Vec::new() };
        let make = |name: &str| {
            let path = fifos.folder.join(format!("{id}-{name}"));
            nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).map_err(|error| failed(&path)(error.into()))?;
            Ok::<_, ClientError>(path.display().to_string())
        };
        let (stdin, stdout) = (if with_stdin { make("stdin")? } else { String::new() }, make("stdout")?);
        let stderr = if terminal { String::new() } else { make("stderr")? };
        (fifos.stdin, fifos.stdout, fifos.stderr) = (stdin, stdout, stderr);
        Ok(fifos)
    }

    /// Copies what the process writes to `stdout` and `stderr` until it has closed them. `refused` hears, from another thread, when
    /// what it writes can no longer be passed on, because nobody reads it for one; the pipe is drained all the same.
    pub fn copy_out(
        &mut self,
        stdout: impl Write + Send + 'static,
        stderr: impl Write + Send + 'static,
        refused: impl Fn() + Send + Clone + 'static,
    ) {
        self.copy_one(self.stdout.clone(), stdout, refused.clone());
        if !self.stderr.is_empty() {
            self.copy_one(self.stderr.clone(), stderr, refused);
        }
    }

    fn copy_one(&mut self, path: String, mut to: impl Write + Send + 'static, refused: impl Fn() + Send + 'static) {
        self.copiers.push(std::thread::spawn(move || {
            let Ok(mut from) = File::open(path) else { return };
            if copy(&mut from, &mut to).is_err() {
                refused();
                // A process must not wait for room in a pipe that nobody empties.
                let _ = copy(&mut from, &mut std::io::sink());
            }
        }));
    }

    /// Copies `source` to the process; `ended` hears when the source has no more.
    ///
    /// The thread may stay in a read of `source` for ever and is not waited for.
    pub fn copy_in(&self, mut source: impl Read + Send + 'static, ended: impl FnOnce() + Send + 'static) {
        if self.stdin.is_empty() {
            return;
        }
        let path = self.stdin.clone();
        std::thread::spawn(move || {
            if let Ok(mut to) = OpenOptions::new().write(true).open(path) {
                let _ = copy(&mut source, &mut to);
            }
            ended();
        });
    }

    /// Waits until all that the process wrote is copied.
    pub fn drain(&mut self) {
        for copier in self.copiers.drain(..) {
            // A copier that panicked has nothing more to copy.
            let _ = copier.join();
        }
    }
}

impl Drop for Fifos {
    fn drop(&mut self) {
        // A copier still waiting for a shim is let go by a writer that comes and leaves, one for input by a reader.
        for path in [&self.stdout, &self.stderr].into_iter().filter(|path| !path.is_empty()) {
            let _ = OpenOptions::new().write(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(path);
        }
        if !self.stdin.is_empty() {
            let _ = OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(&self.stdin);
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Copies and flushes piece by piece, so that a prompt without a newline is seen.
fn copy(from: &mut impl Read, to: &mut impl Write) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let length = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        to.write_all(&buffer[..length])?;
        to.flush()?;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn output_is_whole_after_draining() {
        let parent = tempfile::tempdir().unwrap();
        let mut fifos = Fifos::create(parent.path(), "c", true, false).unwrap();
        let (out, err) = (Shared::default(), Shared::default());
        fifos.copy_out(out.clone(), err.clone(), || ());
        std::fs::write(&fifos.stdout, b"to out").unwrap();
        std::fs::write(&fifos.stderr, b"to err").unwrap();
        fifos.drain();
        assert_eq!(
            (out.0.lock().unwrap().as_slice(), err.0.lock().unwrap().as_slice()),
            (&b"to out"[..], &b"to err"[..])
        );
        drop(fifos);
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_reader_that_is_gone_is_told_and_the_pipe_drained() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let parent = tempfile::tempdir().unwrap();
        let mut fifos = Fifos::create(parent.path(), "c", false, true).unwrap();
        let (told, hears) = std::sync::mpsc::channel();
        fifos.copy_out(Closed, Closed, move || told.send(()).unwrap());
        // More than a pipe holds: it would wait for ever if nobody read on.
        std::fs::write(&fifos.stdout, vec![0; 1 << 20]).unwrap();
        fifos.drain();
        assert_eq!(hears.iter().count(), 1);
    }

    #[test]
    fn a_copier_whose_shim_never_came_is_let_go() {
        let parent = tempfile::tempdir().unwrap();
        let mut fifos = Fifos::create(parent.path(), "c", false, true).unwrap();
        fifos.copy_out(Vec::new(), Vec::new(), || ());
        let copiers = std::mem::take(&mut fifos.copiers);
        // The copier must be in its open before the pipe goes; a writer that comes and goes later finds no pipe.
        while std::fs::OpenOptions::new()
            .write(true)
            .custom_flags(OFlags::NONBLOCK.bits() as i32)
            .open(&fifos.stdout)
            .is_err()
        {
            std::thread::yield_now();
        }
        drop(fifos);
        for copier in copiers {
            copier.join().unwrap();
        }
    }
}
