//! States of processes.

use model::task::State;

use crate::process::Status;

impl From<State> for Status {
    fn from(state: State) -> Self {
        match state {
            State::Created { .. } => Self::Created,
            State::Running { .. } => Self::Running,
            State::Paused { .. } => Self::Paused,
            State::Stopped(_) => Self::Stopped,
        }
    }
}
