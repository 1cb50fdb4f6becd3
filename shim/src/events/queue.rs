//! Events that wait: the first of them in memory, the rest in a file of the bundle.
//!
//! A daemon that is away for a night must neither cost an event nor make this process large. The file has a bound too, and when
//! that is reached, ends of processes still find room for a while. Without a file, when the bundle is gone or the disk is
//! full, the bound is that of memory: then something must go, and it is the oldest event that is not the end of a process.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use prost::Message as _;
use proto::events::TaskExit;
use proto::services::events::ttrpc::v1::ForwardRequest;

use crate::log;

/// The file in the bundle.
pub(crate) const FILE_NAME: &str = "events.spool";

/// The most events in memory while there is a file.
const IN_MEMORY: usize = 64;
/// The most events in memory without one.
const MAX_IN_MEMORY: usize = 2048;
/// The largest file for events of any kind.
const MAX_FILE_BYTES: u64 = 16 << 20;
/// The largest file at all: what is beyond the bound above is for ends of processes.
const MAX_FILE_BYTES_FOR_EXITS: u64 = 32 << 20;
/// The topic of the end of a process.
const EXIT: &str = "/tasks/exit";
/// Bytes before each event in the file: its length.
const LENGTH_BYTES: u64 = 4;

/// An event that waits, encoded.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Queued {
    /// The request that takes it to the daemon.
    pub request: Vec<u8>,
    /// Its topic.
    pub topic: String,
    /// The container whose init it says the end of.
    pub init_exit: Option<String>,
}

impl Queued {
    /// What is in the file is what goes over the wire: the rest is read from it.
    fn from_request(request: Vec<u8>) -> Option<Self> {
        let envelope = ForwardRequest::decode(request.as_slice()).ok()?.envelope?;
        let exit: Option<TaskExit> = envelope.event.as_ref().and_then(|any| proto::any::unpack(any).ok().flatten());
        let init_exit = exit.filter(|exit| exit.id == exit.container_id).map(|exit| exit.container_id);
        Some(Self { request, topic: envelope.topic, init_exit })
    }
}

/// All that waits, in order.
#[derive(Debug)]
pub(super) struct Queue {
    memory: VecDeque<Queued>,
    spool: Spool,
}

impl Queue {
    /// Nothing waits. The file is made in `folder` when it is needed.
    pub(super) fn new(folder: &Path) -> Self {
        let spool = Spool { path: folder.join(FILE_NAME), file: None, begin: 0, end: 0, has_complained: false };
        Self { memory: VecDeque::new(), spool }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.memory.is_empty()
    }

    /// How many wait in memory, and how many bytes in the file.
    pub(super) fn waiting(&self) -> (usize, u64) {
        (self.memory.len(), self.spool.end - self.spool.begin)
    }

    pub(super) fn front(&self) -> Option<&Queued> {
        self.memory.front()
    }

    pub(super) fn push(&mut self, queued: Queued) {
        if self.spool.is_empty() && self.memory.len() < IN_MEMORY {
            return self.memory.push_back(queued);
        }
        let bound = if queued.topic == EXIT { MAX_FILE_BYTES_FOR_EXITS } else { MAX_FILE_BYTES };
        match self.spool.append(&queued.request, bound) {
            Ok(()) => {}
            Err(error) if self.spool.is_empty() => {
                log::debug!("no file for waiting events: {error}");
                self.make_room();
                self.memory.push_back(queued);
            }
            Err(error) => {
                if !std::mem::replace(&mut self.spool.has_complained, true) {
                    log::error!("events that wait for the daemon are dropped, the first of {}: {error}", queued.topic);
                }
            }
        }
    }

    pub(super) fn pop_front(&mut self) -> Option<Queued> {
        let first = self.memory.pop_front();
        if self.memory.is_empty() {
            self.memory.shrink_to(IN_MEMORY);
            while self.memory.len() < IN_MEMORY
                && let Some(request) = self.spool.take()
            {
                self.memory.extend(Queued::from_request(request));
            }
        }
        first
    }

    /// Drops the oldest event that can be spared if memory is full; the first may be on its way.
    fn make_room(&mut self) {
        if self.memory.len() < MAX_IN_MEMORY {
            return;
        }
        let spare = self.memory.iter().skip(1).position(|queued| queued.topic != EXIT).map_or(1, |at| at + 1);
        if let Some(dropped) = self.memory.remove(spare) {
            log::error!("{MAX_IN_MEMORY} events wait for the daemon: one of {} is dropped", dropped.topic);
        }
    }
}

/// The file. It is there only while something is in it.
#[derive(Debug)]
struct Spool {
    path: PathBuf,
    file: Option<File>,
    begin: u64,
    end: u64,
    has_complained: bool,
}

impl Spool {
    fn is_empty(&self) -> bool {
        self.begin == self.end
    }

    fn append(&mut self, event: &[u8], bound: u64) -> io::Result<()> {
        let file = match &self.file {
            Some(file) => file,
            None => {
                let mut options = OpenOptions::new();
                options.read(true).write(true).create(true).truncate(true).mode(0o600);
                self.file.insert(options.open(&self.path)?)
            }
        };
        let length = u32::try_from(event.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let size = LENGTH_BYTES + u64::from(length);
        if self.end + size > bound {
            return Err(io::Error::other(format!("{bound} bytes of them wait")));
        }
        // A torn write is overwritten by the next one.
        file.write_all_at(&length.to_be_bytes(), self.end)?;
        file.write_all_at(event, self.end + LENGTH_BYTES)?;
        self.end += size;
        Ok(())
    }

    /// The next event; the file goes with the last.
    fn take(&mut self) -> Option<Vec<u8>> {
        let event = if self.is_empty() { None } else { self.read() };
        if let Some(event) = &event {
            self.begin += LENGTH_BYTES + event.len() as u64;
        }
        if (event.is_none() || self.is_empty()) && self.file.take().is_some() {
            let _ = std::fs::remove_file(&self.path);
            (self.begin, self.end, self.has_complained) = (0, 0, false);
        }
        event
    }

    fn read(&self) -> Option<Vec<u8>> {
        let file = self.file.as_ref()?;
        let mut length = [0; LENGTH_BYTES as usize];
        let read = file.read_exact_at(&mut length, self.begin).and_then(|()| {
            let mut event = vec![0; u32::from_be_bytes(length) as usize];
            file.read_exact_at(&mut event, self.begin + LENGTH_BYTES).map(|()| event)
        });
        read.map_err(|error| log::error!("waiting events are lost: {error}")).ok()
    }
}

#[cfg(test)]
mod tests {
    use proto::events::TaskStart;
    use proto::types::Envelope;

    use super::*;

    fn queued(pid: u32, is_exit: bool) -> Queued {
        let (topic, event) = if is_exit {
            let exit = TaskExit { container_id: "c".into(), id: "c".into(), pid, ..Default::default() };
            (EXIT, proto::any::pack(&exit))
        } else {
            ("/tasks/start", proto::any::pack(&TaskStart { container_id: "c".into(), pid }))
        };
        let envelope = Envelope { topic: topic.into(), event: Some(event), ..Default::default() };
        Queued::from_request(ForwardRequest { envelope: Some(envelope) }.encode_to_vec()).unwrap()
    }

    #[test]
    fn order_stays_and_the_file_comes_and_goes() {
        let folder = tempfile::tempdir().unwrap();
        let mut queue = Queue::new(folder.path());
        let file = folder.path().join(FILE_NAME);
        for round in 0..2 {
            for pid in 0..1000 {
                queue.push(queued(pid, pid % 3 == 0));
            }
            assert!(file.exists());
            assert_eq!(queue.waiting().0, IN_MEMORY);
            for pid in 0..500 {
                assert_eq!(queue.pop_front(), Some(queued(pid, pid % 3 == 0)), "round {round}");
            }
            queue.push(queued(1000, true));
            for pid in 500..=1000 {
                assert_eq!(queue.front(), Some(&queued(pid, pid % 3 == 0 || pid == 1000)));
                queue.pop_front();
            }
            assert!(queue.is_empty() && !file.exists());
            assert_eq!(queue.pop_front(), None);
        }
    }

    #[test]
    fn a_full_file_has_room_for_ends_only() {
        let folder = tempfile::tempdir().unwrap();
        let mut queue = Queue::new(folder.path());
        queue.spool.end = MAX_FILE_BYTES - 10;
        queue.spool.begin = queue.spool.end;
        for pid in 0..IN_MEMORY as u32 {
            queue.push(queued(pid, false));
        }
        queue.push(queued(1, false));
        assert_eq!(queue.memory.len(), IN_MEMORY + 1, "nothing is in the file, so memory takes it");
        queue.push(queued(7, true));
        queue.push(queued(8, false));
        assert_ne!(queue.waiting().1, 0);
        let mut exits = 0;
        while let Some(queued) = queue.pop_front() {
            exits += u32::from(queued.topic == EXIT);
        }
        assert_eq!(exits, 1);
    }

    #[test]
    fn without_a_file_the_oldest_that_is_no_end_goes() {
        let mut queue = Queue::new(Path::new("/nowhere"));
        queue.push(queued(0, false));
        queue.push(queued(1, true));
        for pid in 2..MAX_IN_MEMORY as u32 {
            queue.push(queued(pid, false));
        }
        queue.push(queued(5000, true));
        assert_eq!(queue.memory.len(), MAX_IN_MEMORY);
        let topics: Vec<_> = queue.memory.iter().map(|queued| queued.topic.as_str()).collect();
        assert_eq!(topics[..3], ["/tasks/start", EXIT, "/tasks/start"], "the first may be on its way");
        assert_eq!(topics.last(), Some(&EXIT));
        assert_eq!(queue.memory[1].init_exit.as_deref(), Some("c"));
    }
}
