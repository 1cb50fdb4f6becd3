//! Why a runtime did not do its work. Texts are the runtime's, word for word; only the kind is ours.

use std::path::PathBuf;

use model::error::{Classify, Kind};
use serde::Deserialize;

use crate::{Ended, Outcome, Verb};

/// A failed invocation. `Display` is the text for the client.
#[derive(Debug, thiserror::Error)]
pub enum ExecutorError {
    /// The runtime said no, for a reason in its own words.
    #[error("{}{message}", prefix(*.verb))]
    Failed {
        /// What was to be done.
        verb: Verb,
        /// The runtime's words.
        message: String,
    },
    /// The container does not exist, is not running, or its process has finished: the object of the call is gone.
    #[error("{message}")]
    NotFound {
        /// What was to be done.
        verb: Verb,
        /// The runtime's words.
        message: String,
    },
    /// The runtime ended badly and left no reason.
    #[error("{}unable to retrieve OCI runtime error: {}", prefix(*.verb), ending(*.ended))]
    Silent {
        /// What was to be done.
        verb: Verb,
        /// How it ended.
        ended: Ended,
    },
    /// The runtime did not end within its deadline and was killed.
    #[error("{}the runtime did not answer within {} s", prefix(*.verb), .verb.deadline().as_secs())]
    TimedOut {
        /// What was to be done.
        verb: Verb,
    },
    /// The runtime could not be executed.
    #[error("{}unable to retrieve OCI runtime error (open {}: no such file or directory): {text}", prefix(*.verb), .log.display())]
    Spawn {
        /// What was to be done.
        verb: Verb,
        /// Where its log would have been; named because containerd names it, and people search for that text.
        log: PathBuf,
        /// Why, in the words of Go's `os/exec`.
        text: String,
    },
    /// The executor has no such verb at all; nothing was started.
    #[error("{} is not supported by {executor}: {instead}", .verb.name())]
    Unsupported {
        /// What was to be done.
        verb: Verb,
        /// Which executor it is.
        executor: &'static str,
        /// What would work.
        instead: &'static str,
    },
    /// CRIU, which every runtime needs for this, is not installed; nothing was started.
    #[error("{} needs the program \"criu\": executable file not found in $PATH", .verb.name())]
    NoCriu {
        /// What was to be done.
        verb: Verb,
    },
    /// The runtime printed something other than the JSON it should.
    #[error("output of runtime {}", .verb.name())]
    Output {
        /// What was to be done.
        verb: Verb,
        /// Where the JSON is wrong.
        source: serde_json::Error,
    },
}

impl Classify for ExecutorError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotFound { .. } => Kind::NotFound,
            Self::TimedOut { .. } => Kind::DeadlineExceeded,
            Self::Unsupported { .. } => Kind::Unimplemented,
            Self::NoCriu { .. } => Kind::FailedPrecondition,
            Self::Failed { .. } | Self::Silent { .. } | Self::Spawn { .. } | Self::Output { .. } => Kind::Unknown,
        }
    }
}

/// The words containerd puts before a runtime's error; clients show and match them.
fn prefix(verb: Verb) -> &'static str {
    match verb {
        Verb::Create => "OCI runtime create failed: ",
        Verb::Start => "OCI runtime start failed: ",
        Verb::Exec => "OCI runtime exec failed: ",
        Verb::Pause => "OCI runtime pause failed: ",
        Verb::Resume => "OCI runtime resume failed: ",
        Verb::Restore => "OCI runtime restore failed: ",
        Verb::Checkpoint => "OCI runtime checkpoint failed: ",
        _ => "",
    }
}

fn ending(ended: Ended) -> String {
    match ended {
        Ended::Exited(code) => format!("exit status {code}"),
        Ended::Signaled(signal) => format!("signal {signal}"),
        Ended::TimedOut => "deadline".to_owned(),
    }
}

/// The rule common to all runtimes: exit status 0 is success, anything else is explained by the log.
pub(crate) fn interpret(outcome: &Outcome) -> Result<(), ExecutorError> {
    let verb = outcome.verb;
    match (outcome.ended, &outcome.message) {
        (Ended::Exited(0), _) => Ok(()),
        (Ended::TimedOut, _) => Err(ExecutorError::TimedOut { verb }),
        (_, Some(message)) if is_gone(verb, message) => Err(ExecutorError::NotFound { verb, message: message.clone() }),
        (_, Some(message)) => Err(ExecutorError::Failed { verb, message: message.clone() }),
        (ended, None) => Err(ExecutorError::Silent { verb, ended }),
    }
}

/// Whether the words say that the container or its process is no longer there. Only for verbs that act on one: a
/// `create` may well name a file that does not exist.
fn is_gone(verb: Verb, message: &str) -> bool {
    const GONE: [&str; 7] = [
        "does not exist",
        "process already finished",
        "container not running",
        "container is not running",
        "no such process",
        "No such process",
        "ESRCH",
    ];
    match verb {
        Verb::Kill => GONE.iter().any(|words| message.contains(words)),
        Verb::Delete | Verb::State | Verb::Ps | Verb::Pause | Verb::Resume | Verb::Update | Verb::Checkpoint => {
            message.contains("does not exist")
        }
        Verb::Create | Verb::Restore | Verb::Start | Verb::Exec | Verb::Features => false,
    }
}

#[derive(Deserialize)]
struct LogLine {
    level: String,
    msg: String,
}

/// The message of the last error in a JSON-lines log.
pub(crate) fn last_error(log: &str) -> Option<String> {
    log.lines()
        .rev()
        .filter_map(|line| serde_json::from_str::<LogLine>(line).ok())
        .find(|line| matches!(line.level.as_str(), "error" | "fatal") && !line.msg.is_empty())
        .map(|line| line.msg)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(verb: Verb, ended: Ended, message: Option<&str>) -> Outcome {
        Outcome { verb, ended, stdout: Vec::new(), message: message.map(str::to_owned) }
    }

    #[test]
    fn the_last_error_of_a_log_is_its_reason() {
        let log = r#"{"level":"error","msg":"first","time":"t"}
{"level":"warning","msg":"later","time":"t"}
not json
{"level":"error","msg":"runc create failed: no space","time":"t"}
{"level":"info","msg":"end","time":"t"}"#;
        assert_eq!(last_error(log).as_deref(), Some("runc create failed: no space"));
        assert_eq!(last_error("").as_deref(), None);
    }

    #[test]
    fn texts_are_kept_and_kinds_are_ours() {
        use Kind::{DeadlineExceeded, NotFound, Unknown};
        let failed = Ended::Exited(1);
        for (verb, ended, message, text, kind) in [
            (
                Verb::Create,
                failed,
                Some("exec: \"x\": executable file not found in $PATH"),
                "OCI runtime create failed: exec: \"x\": executable file not found in $PATH",
                Unknown,
            ),
            (
                Verb::Create,
                failed,
                Some("mount source does not exist"),
                "OCI runtime create failed: mount source does not exist",
                Unknown,
            ),
            (Verb::Start, failed, Some("cannot start"), "OCI runtime start failed: cannot start", Unknown),
            (
                Verb::Exec,
                Ended::Signaled(9),
                None,
                "OCI runtime exec failed: unable to retrieve OCI runtime error: signal 9",
                Unknown,
            ),
            (Verb::Kill, failed, Some("container not running"), "container not running", NotFound),
            (Verb::Kill, failed, Some("os: process already finished"), "os: process already finished", NotFound),
            (Verb::Delete, failed, Some("container does not exist"), "container does not exist", NotFound),
            (
                Verb::Delete,
                failed,
                Some("cannot delete container x that is not stopped: running"),
                "cannot delete container x that is not stopped: running",
                Unknown,
            ),
            (Verb::Ps, Ended::TimedOut, None, "the runtime did not answer within 10 s", DeadlineExceeded),
        ] {
            let error = interpret(&outcome(verb, ended, message)).unwrap_err();
            assert_eq!((error.to_string().as_str(), error.kind()), (text, kind));
        }
        assert!(interpret(&outcome(Verb::Create, Ended::Exited(0), Some("a warning"))).is_ok());
    }
}
