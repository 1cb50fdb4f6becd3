//! In which state pods and containers are, and what may be done with them then. Pure.

use proto::cri::{ContainerState, PodSandboxState};

use super::record::{ContainerRecord, PodPhase, PodRecord};

/// What can be asked of a container that depends on its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Start it.
    Start,
    /// Stop it.
    Stop,
    /// Remove it, by force if need be.
    Remove,
    /// Change its limits.
    Update,
    /// Run a command in it, attach to it, reopen its log, or take its picture.
    Use,
}

/// What is to be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Do it.
    Go,
    /// It is so already: answer well.
    Done,
    /// Refuse.
    No,
}

/// The state of a container.
pub fn of_container(record: &ContainerRecord) -> ContainerState {
    if record.unknown {
        ContainerState::ContainerUnknown
    } else if record.finished_at != 0 {
        ContainerState::ContainerExited
    } else if record.started_at != 0 {
        ContainerState::ContainerRunning
    } else {
        ContainerState::ContainerCreated
    }
}

/// The state of a pod.
pub fn of_pod(record: &PodRecord) -> PodSandboxState {
    if record.phase() == PodPhase::Running { PodSandboxState::SandboxReady } else { PodSandboxState::SandboxNotready }
}

/// Whether a container in `state` can do `act`. One that is being removed can only be removed.
pub fn judge(state: ContainerState, removing: bool, act: Act) -> Verdict {
    use ContainerState::{ContainerCreated, ContainerExited, ContainerRunning, ContainerUnknown};
    match (act, state) {
        (Act::Remove, _) => Verdict::Go,
        (Act::Stop, ContainerExited) => Verdict::Done,
        // One that never ran has nothing to stop.
        (Act::Stop, ContainerCreated) => Verdict::Done,
        (Act::Stop, _) => Verdict::Go,
        _ if removing => Verdict::No,
        (Act::Start, ContainerCreated) => Verdict::Go,
        (Act::Update, ContainerCreated | ContainerRunning) => Verdict::Go,
        (Act::Use, ContainerRunning) => Verdict::Go,
        (Act::Start, ContainerRunning | ContainerExited | ContainerUnknown)
        | (Act::Update, ContainerExited | ContainerUnknown)
        | (Act::Use, ContainerCreated | ContainerExited | ContainerUnknown) => Verdict::No,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ContainerState::{ContainerCreated as C, ContainerExited as E, ContainerRunning as R, ContainerUnknown as U};
    use Verdict::{Done, Go, No};

    #[test]
    fn what_can_be_done_in_which_state() {
        let table = [
            (Act::Start, [Go, No, No, No], [No, No, No, No]),
            (Act::Stop, [Done, Go, Done, Go], [Done, Go, Done, Go]),
            (Act::Remove, [Go; 4], [Go; 4]),
            (Act::Update, [Go, Go, No, No], [No; 4]),
            (Act::Use, [No, Go, No, No], [No; 4]),
        ];
        for (act, staying, leaving) in table {
            for (at, state) in [C, R, E, U].into_iter().enumerate() {
                assert_eq!(judge(state, false, act), staying[at], "{act:?} {state:?}");
                assert_eq!(judge(state, true, act), leaving[at], "{act:?} {state:?}, being removed");
            }
        }
    }

    #[test]
    fn the_state_is_what_the_times_say() {
        let at = |started_at, finished_at, unknown| {
            of_container(&ContainerRecord { started_at, finished_at, unknown, ..ContainerRecord::default() })
        };
        assert_eq!(
            [at(0, 0, false), at(1, 0, false), at(1, 2, false), at(0, 2, false), at(1, 2, true)],
            [C, R, E, E, U]
        );
        for (phase, state) in [
            (PodPhase::Making, PodSandboxState::SandboxNotready),
            (PodPhase::Running, PodSandboxState::SandboxReady),
            (PodPhase::Stopped, PodSandboxState::SandboxNotready),
            (PodPhase::Removing, PodSandboxState::SandboxNotready),
        ] {
            assert_eq!(of_pod(&PodRecord { phase: phase.into(), ..PodRecord::default() }), state);
        }
    }
}
