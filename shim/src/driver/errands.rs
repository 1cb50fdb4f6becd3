//! Mounting and unmounting root filesystems, by helpers: a filesystem that does not answer holds up its container and nobody
//! else, and not for ever.

use executor::Ended;
use model::Mount;
use model::error::{Classify as _, Kind};
use model::task::{Exit, Pid};

use super::process::Number;
use super::{Caller, Deadline, Driver, ROOTFS_DIR, UNMOUNT, Watch};
use crate::command::Refusal;
use crate::helper::{self, Done, Helper};
use crate::poll::{EventFlags, Key, TimerId};
use crate::trace::trace;
use crate::{log, rootfs};

/// What comes once a container is gone entirely.
#[derive(Debug)]
pub(super) enum Gone {
    /// It was deleted.
    Deleted { id: String, pid: Pid, exit: Option<Exit>, caller: Caller },
    /// It could not be made.
    Failed(Caller, Refusal),
}

/// What comes after a helper.
#[derive(Debug)]
enum After {
    /// The root of this container is mounted.
    Mounted(Number, Caller),
    /// That of a container which is gone is not any more.
    Unmounted(Gone),
}

/// A helper at work.
#[derive(Debug)]
pub(super) struct Errand {
    helper: Helper,
    timer: TimerId,
    after: After,
}

impl Driver {
    /// Mounts a root filesystem; the container goes on once that is done.
    pub(super) fn mount(&mut self, init: Number, mounts: Vec<Mount>, caller: Caller) -> Result<(), Refusal> {
        let Some(container) = self.container_of(init) else { return Err(Refusal::NoContainer) };
        let place = container.bundle.join(ROOTFS_DIR);
        trace!("mount.begin");
        let helper = helper::start(|| {
            let mounted = rootfs::mount_all(&mounts, &place);
            (mounted.map_err(|error| (error.kind(), crate::text(&error))), ())
        });
        let helper = helper.map_err(|source| Refusal::Io { what: "start a helper", source })?;
        self.wait_for(helper, self.mount_limit, After::Mounted(init, caller))
            .map_err(|(_, source)| Refusal::Io { what: "watch a helper", source })
    }

    /// Unmounts the root filesystem of a container that is no longer in the table, if it has one; then comes `gone`.
    pub(super) fn unmount(&mut self, place: Option<std::path::PathBuf>, gone: Gone) {
        let Some(place) = place else { return self.gone(gone) };
        trace!("unmount.begin");
        let waited = match helper::start(|| (Ok(()), rootfs::unmount_all(&place))) {
            Ok(helper) => self.wait_for(helper, UNMOUNT, After::Unmounted(gone)),
            Err(error) => Err((After::Unmounted(gone), error)),
        };
        if let Err((After::Unmounted(gone), error)) = waited {
            log::warning!("without a helper: {error}");
            drop(rootfs::unmount_all(&place));
            self.gone(gone);
        }
    }

    fn wait_for(
        &mut self,
        helper: Helper,
        limit: std::time::Duration,
        after: After,
    ) -> Result<(), (After, std::io::Error)> {
        let key = self.poll.key();
        if let Err(error) = self.poll.add(&helper, key, EventFlags::IN) {
            return Err((after, error));
        }
        self.watches.insert(key, Watch::Errand);
        let timer = self.timers.set(limit, Deadline::Errand(key));
        self.errands.insert(key, Errand { helper, timer, after });
        Ok(())
    }

    pub(super) fn on_errand(&mut self, key: Key) {
        if let Some(done) = self.errands.get(&key).and_then(|errand| errand.helper.result()) {
            self.end_errand(key, done);
        }
    }

    /// The filesystem does not answer. The helper may be beyond killing; it ends when the kernel lets it.
    pub(super) fn give_errand_up(&mut self, key: Key) {
        let Some(errand) = self.errands.get(&key) else { return };
        errand.helper.give_up();
        let (verb, limit) = match errand.after {
            After::Mounted(..) => ("mount rootfs component", self.mount_limit),
            After::Unmounted(_) => ("unmount rootfs", UNMOUNT),
        };
        let text = format!("failed to {verb}: the filesystem does not answer for {} s", limit.as_secs());
        log::error!("{text}; helper {} is given up", errand.helper.pid);
        self.end_errand(key, Err((Kind::DeadlineExceeded, text)));
    }

    fn end_errand(&mut self, key: Key, done: Done) {
        self.watches.remove(&key);
        let Some(errand) = self.errands.remove(&key) else { return };
        self.timers.cancel(errand.timer);
        self.poll.remove(&errand.helper);
        match errand.after {
            After::Mounted(init, caller) => {
                trace!("mount.end");
                self.mounted(init, caller, done);
            }
            After::Unmounted(gone) => {
                trace!("unmount.end");
                self.gone(gone);
            }
        }
        if self.ends_after_errands && self.errands.is_empty() {
            self.shut_down("a client, while a container went,");
        }
    }

    fn mounted(&mut self, init: Number, caller: Caller, done: Done) {
        let prepared = match done {
            Ok(()) => self.prepare(init, Vec::new(), caller),
            Err((kind, text)) => {
                // What was mounted of it is undone already, unless it hangs: then undoing would hang as well.
                if let Some(container) = self.container_of_mut(init) {
                    container.is_mounted = false;
                }
                Err(Refusal::Told(kind, text))
            }
        };
        if let Err(refusal) = prepared {
            self.launch_failed(init, caller, refusal);
        }
    }

    /// What `forget_container` leaves to be said.
    fn gone(&mut self, gone: Gone) {
        match gone {
            Gone::Deleted { id, pid, exit, caller } => self.deleted(&id, pid, exit, caller),
            Gone::Failed(caller, refusal) => self.refuse(caller, &refusal),
        }
    }

    /// Whether an executor that has ended so may have left something behind. One that fails cleans up; one that was killed,
    /// or whose work could not be taken over, has not.
    pub(super) fn leaves_something(ended: Ended) -> bool {
        ended == Ended::Exited(0) || ended == Ended::TimedOut
    }
}
