//! What is under way: every pull, push, import and export, whoever asked for it, so that it can be looked at and ended.
//!
//! An operation is listed from [`Operations::begin`] until it is dropped. The list is memory only; what it holds is what
//! [`super::progress`] knows anyway. It decides nothing about the work.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use model::Namespace;
use proto::types::transfer::Progress;
use tokio_util::sync::CancellationToken;

use super::TransferError;
use super::progress::{Reporter, Seen, reporting};
use crate::streaming::Channel;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An image from a registry.
    Pull,
    /// An image to a registry.
    Push,
    /// Images from an archive.
    Import,
    /// Images into an archive.
    Export,
}

impl Kind {
    /// As people are told.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Import => "import",
            Self::Export => "export",
        }
    }
}

/// One operation as it stands.
#[derive(Debug, Clone)]
pub struct Status {
    /// Unique while the daemon runs.
    pub id: u64,
    /// What is done.
    pub kind: Kind,
    /// Where.
    pub namespace: Namespace,
    /// The image it is about; empty where that is not known.
    pub image: String,
    /// Since when.
    pub started_at: SystemTime,
    /// How far it is.
    pub seen: Seen,
}

/// The operations that are under way. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Operations {
    list: Arc<Mutex<List>>,
}

#[derive(Debug, Default)]
struct List {
    last: u64,
    running: BTreeMap<u64, Running>,
}

#[derive(Debug)]
struct Running {
    kind: Kind,
    namespace: Namespace,
    image: String,
    started_at: SystemTime,
    reporter: Reporter,
    cancel: CancellationToken,
}

impl Operations {
    /// Lists an operation until it is dropped.
    pub fn begin(&self, kind: Kind, namespace: &Namespace, image: &str) -> Operation {
        let (reporter, cancel) = (Reporter::default(), CancellationToken::new());
        let mut list = self.lock();
        list.last += 1;
        let id = list.last;
        let running = Running {
            kind,
            namespace: namespace.clone(),
            image: image.to_owned(),
            started_at: SystemTime::now(),
            reporter: reporter.clone(),
            cancel: cancel.clone(),
        };
        list.running.insert(id, running);
        drop(list);
        Operation { id, all: self.clone(), reporter, cancel }
    }

    /// What is under way, of one namespace or of all, the oldest first.
    pub fn list(&self, only: Option<&Namespace>) -> Vec<Status> {
        let list = self.lock();
        let meant = list.running.iter().filter(|(_, one)| only.is_none_or(|only| one.namespace == *only));
        let status = |(id, one): (&u64, &Running)| Status {
            id: *id,
            kind: one.kind,
            namespace: one.namespace.clone(),
            image: one.image.clone(),
            started_at: one.started_at,
            seen: one.reporter.seen(),
        };
        meant.map(status).collect()
    }

    /// Ends an operation; whether there is one of that number.
    pub fn cancel(&self, id: u64) -> bool {
        let list = self.lock();
        list.running.get(&id).inspect(|one| one.cancel.cancel()).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        // Every change under the lock is a single insertion or removal.
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One that is under way.
#[derive(Debug)]
pub struct Operation {
    id: u64,
    all: Operations,
    reporter: Reporter,
    cancel: CancellationToken,
}

impl Operation {
    /// Does `work`, and reports on it to `channel`, too, if there is one; `last` makes the last words of what came out.
    ///
    /// # Errors
    /// The work failed, or somebody ended it.
    pub async fn run<T>(
        self,
        channel: Option<Channel>,
        work: impl AsyncFnOnce(Reporter) -> Result<T, TransferError>,
        last: impl FnOnce(&Result<T, TransferError>) -> Vec<Progress>,
    ) -> Result<T, TransferError> {
        let ended = self.cancel.clone();
        let work = async |reporter| {
            tokio::select! {
                outcome = work(reporter) => outcome,
                () = ended.cancelled() => Err(TransferError::Ended),
            }
        };
        reporting(self.reporter.clone(), channel, work, last).await
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        let gone = self.all.lock().running.remove(&self.id);
        // Outside of the lock.
        drop(gone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_operation_is_listed_while_it_runs_and_can_be_ended() {
        let (all, namespace) = (Operations::default(), Namespace::new("a").unwrap());
        let operation = all.begin(Kind::Pull, &namespace, "r.example/a:t");
        let status = all.list(Some(&namespace)).remove(0);
        assert_eq!((status.kind, status.image.as_str()), (Kind::Pull, "r.example/a:t"));
        assert!(all.list(Some(&Namespace::new("b").unwrap())).is_empty());
        assert!(all.cancel(status.id) && !all.cancel(status.id + 1));
        let work = async |_| std::future::pending::<Result<(), TransferError>>().await;
        let outcome = operation.run(None, work, |_| Vec::new()).await;
        assert!(matches!(outcome, Err(TransferError::Ended)), "{outcome:?}");
        assert!(all.list(None).is_empty());
    }
}
