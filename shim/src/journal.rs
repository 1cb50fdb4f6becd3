//! Writes down what a restarted daemon must know of a task: [`model::journal::Journal`], one file in the bundle.
//!
//! The file is replaced as a whole at each change and is small. It is not synced: it has to outlive this process and the
//! daemon, while the machine's end is the container's too. A failure to write is logged and stops nothing.

use std::path::{Path, PathBuf};

use executor::ProcessId;
use model::journal::{FILE_NAME, Journal, VERSION};
use model::task::{Exit, Pid};

use crate::log;

/// The journal of one task.
#[derive(Debug)]
pub(crate) struct Writer {
    path: PathBuf,
    journal: Journal,
}

impl Writer {
    /// Starts the journal of a task that has just been created.
    pub(crate) fn start(bundle: &Path, namespace: &str, id: &str, pid: Pid) -> Self {
        let started = i32::try_from(pid).ok().and_then(ProcessId::of).map_or(0, |process| process.started);
        let journal = Journal {
            version: VERSION,
            namespace: namespace.to_owned(),
            id: id.to_owned(),
            pid,
            started,
            exit: None,
            published: false,
        };
        let writer = Self { path: bundle.join(FILE_NAME), journal };
        writer.save();
        writer
    }

    /// Its init has ended, and the daemon does not know it yet.
    pub(crate) fn exited(&mut self, exit: Exit) {
        self.journal.exit = Some(exit);
        self.save();
    }

    /// The daemon has acknowledged the exit.
    pub(crate) fn published(&mut self) {
        self.journal.published = true;
        self.save();
    }

    /// Whether it has.
    pub(crate) fn is_published(&self) -> bool {
        self.journal.published
    }

    fn save(&self) {
        let next = self.path.with_extension("next");
        let json = serde_json::to_vec(&self.journal).expect("a journal has no map with odd keys");
        if let Err(error) = std::fs::write(&next, json).and_then(|()| std::fs::rename(&next, &self.path)) {
            log::warning!("cannot write {}: {error}", self.path.display());
        }
    }
}

/// Reads the journal in a bundle. One that is missing, broken or of a later version is as good as none.
pub(crate) fn read(bundle: &Path) -> Option<Journal> {
    let journal: Journal = serde_json::from_slice(&std::fs::read(bundle.join(FILE_NAME)).ok()?).ok()?;
    (journal.version <= VERSION).then_some(journal)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn each_change_is_on_disk_at_once() {
        let bundle = tempfile::tempdir().unwrap();
        assert_eq!(read(bundle.path()), None);
        let pid = std::process::id();
        let mut writer = Writer::start(bundle.path(), "ns", "c", pid);
        let journal = read(bundle.path()).unwrap();
        assert_eq!((journal.pid, journal.exit, journal.published), (pid, None, false));
        assert_ne!(journal.started, 0);
        let exit = Exit { status: 137, at: SystemTime::UNIX_EPOCH };
        writer.exited(exit);
        assert_eq!(read(bundle.path()).unwrap().exit, Some(exit));
        writer.published();
        assert!(read(bundle.path()).unwrap().published);
        assert_eq!(std::fs::read_dir(bundle.path()).unwrap().count(), 1, "no temporary file is left");
    }
}
