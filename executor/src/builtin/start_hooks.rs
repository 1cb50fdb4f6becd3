//! The hooks `startContainer`: in the container, as its user and with its rights, right before its program. libcontainer
//! would run them earlier, with every capability of the runtime, although they may be programs of the image; so it is not
//! told about them.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::workload::go_text;

/// The most that one hook may take when it names no timeout of its own.
const PATIENCE: Duration = Duration::from_secs(100);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(2);

/// What is to be run, and what it is told.
#[derive(Debug, Clone, Default)]
pub(super) struct StartHooks {
    hooks: Vec<Value>,
    state: Value,
}

impl StartHooks {
    /// Takes them out of a spec.
    pub(super) fn take_from(spec: &mut Value, id: &str, bundle: &std::path::Path) -> Self {
        let annotations = spec.get("annotations").cloned().unwrap_or_else(|| json!({}));
        let taken =
            spec.pointer_mut("/hooks").and_then(Value::as_object_mut).and_then(|hooks| hooks.remove("startContainer"));
        let hooks = match taken {
            Some(Value::Array(hooks)) => hooks,
            _ => Vec::new(),
        };
        let state = json!({
            "ociVersion": super::OCI_VERSION, "id": id, "status": "created", "bundle": bundle, "annotations": annotations,
        });
        Self { hooks, state }
    }

    /// Runs them in this process's place in the container, one after the other.
    pub(super) fn run(&self) -> Result<(), String> {
        for hook in &self.hooks {
            let path = hook.get("path").and_then(Value::as_str).unwrap_or_default();
            run(hook, path, &self.state).map_err(|text| format!("error running startContainer hook {path}: {text}"))?;
        }
        Ok(())
    }
}

fn run(hook: &Value, path: &str, state: &Value) -> Result<(), String> {
    use std::os::unix::process::CommandExt;
    let words = |name: &str| {
        let list = hook.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        list.iter().filter_map(Value::as_str)
    };
    let mut command = Command::new(path);
    let mut args = words("args");
    command.arg0(args.next().unwrap_or(path)).args(args);
    // Its own environment and nothing of the runtime's.
    command.env_clear().envs(words("env").filter_map(|entry| entry.split_once('=')));
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| go_text(&error))?;
    let mut state = state.clone();
    state["pid"] = json!(std::process::id());
    if let Some(mut input) = child.stdin.take() {
        // A hook need not read it.
        let _ = input.write_all(state.to_string().as_bytes());
    }
    let seconds = hook.get("timeout").and_then(Value::as_u64).filter(|seconds| *seconds > 0);
    let end = Instant::now() + seconds.map_or(PATIENCE, Duration::from_secs);
    loop {
        match child.try_wait().map_err(|error| go_text(&error))? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(status.to_string()),
            None if Instant::now() > end => {
                let _ = child.kill();
                let _ = child.wait();
                return Err("it did not end in time".to_owned());
            }
            None => std::thread::sleep(PAUSE),
        }
    }
}
