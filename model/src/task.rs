//! The life of a task, decided by one pure function.
//!
//! ```text
//!            Start            Pause
//!  Created ────────► Running ◄──────► Paused
//!     │                 │     Resume     │
//!     └──── Exited ─────┴──── Exited ────┴──► Stopped
//! ```

use std::time::SystemTime;

/// The process id of a container's first process, or of one that was added.
pub type Pid = u32;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Exit {
    /// The exit code, or 128 + the signal's number.
    pub status: u32,
    /// When it was reaped.
    pub at: SystemTime,
}

/// Where a process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Set up, waiting for its start.
    Created {
        /// The waiting process.
        init: Pid,
    },
    /// Running.
    Running {
        /// The process.
        init: Pid,
    },
    /// Frozen.
    Paused {
        /// The process.
        init: Pid,
    },
    /// Ended.
    Stopped(Exit),
}

/// What can happen to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cue {
    /// A client starts it.
    Start,
    /// A client freezes it.
    Pause,
    /// A client thaws it.
    Resume,
    /// It ended.
    Exited(Exit),
}

/// A cue that does not fit the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cannot {cue:?} from {state:?}")]
pub struct Refused {
    /// The state, unchanged.
    pub state: State,
    /// The cue.
    pub cue: Cue,
}

impl State {
    /// The state after `cue`. Anything not listed is refused, so a new state starts out strict.
    ///
    /// # Errors
    /// [`Refused`] when the cue does not fit.
    pub fn after(self, cue: Cue) -> Result<Self, Refused> {
        use Cue::{Exited, Pause, Resume, Start};
        use State::{Created, Paused, Running, Stopped};
        Ok(match (self, cue) {
            (Created { init }, Start) => Running { init },
            (Running { init }, Pause) => Paused { init },
            (Paused { init }, Resume) => Running { init },
            (Created { .. } | Running { .. } | Paused { .. }, Exited(exit)) => Stopped(exit),
            (state, cue) => return Err(Refused { state, cue }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_against_every_cue() {
        let exit = Exit { status: 137, at: SystemTime::UNIX_EPOCH };
        let (created, running, paused) =
            (State::Created { init: 7 }, State::Running { init: 7 }, State::Paused { init: 7 });
        let stopped = State::Stopped(exit);
        for (state, answers) in [
            (created, [Some(running), None, None, Some(stopped)]),
            (running, [None, Some(paused), None, Some(stopped)]),
            (paused, [None, None, Some(running), Some(stopped)]),
            (stopped, [None, None, None, None]),
        ] {
            let got = [Cue::Start, Cue::Pause, Cue::Resume, Cue::Exited(exit)].map(|cue| state.after(cue).ok());
            assert_eq!(got, answers, "from {state:?}");
        }
    }
}
