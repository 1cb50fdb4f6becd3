//! From create to delete: states, signals, exit codes, hooks.

use std::fs;
use std::path::Path;

use model::error::{Classify, Kind};
use serde_json::{Value, json};

use super::{KILL, TERM};
use crate::contract::Lab;
use crate::contract::lab::{eventually, wait};
use crate::{Ended, ProcessId, Verb};

/// `create` runs nothing of the user's, and the process survives the runtime's.
pub fn a_created_container_waits_for_start(lab: &Lab) {
    let container = lab.try_create(&lab.script("echo ran")).unwrap();
    assert_eq!(container.status(), "created");
    assert!(ProcessId::of(container.pid).is_some_and(ProcessId::is_alive));
    assert_eq!(container.streams.text(), "");
    container.start();
    assert_eq!(container.wait().output, "ran\n");
    assert_eq!(container.status(), "stopped");
}

/// The wait status of the init is the program's.
pub fn exit_code_is_the_programs(lab: &Lab) {
    let ran = lab.run(&lab.script("echo out; echo err >&2; exit 7"));
    assert_eq!((ran.ended, ran.output.as_str()), (Ended::Exited(7), "out\nerr\n"));
}

/// Signals arrive, also before `start`; a stopped container is not found.
pub fn signals_reach_the_init(lab: &Lab) {
    let container = lab.start(&lab.script("trap 'exit 5' TERM; echo ready; while :; do sleep 0.01; done"));
    container.wait_for("ready");
    container.kill(TERM, false).unwrap();
    assert_eq!(container.wait().ended, Ended::Exited(5));
    assert_eq!(container.kill(TERM, false).unwrap_err().kind(), Kind::NotFound);
    container.delete(false).unwrap();
    let container = lab.try_create(&lab.spec(&["sleep", "100"])).unwrap();
    container.kill(KILL, false).unwrap();
    assert_eq!(container.wait().ended, Ended::Signaled(KILL));
}

/// In the host's pid namespace nobody kills the children of a dead init but `kill --all`.
pub fn killing_all_reaches_children_of_a_dead_init(lab: &Lab) {
    let mut spec = lab.script("sleep 1000 & sleep 1000 & echo ready; exit 0");
    let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["type"] != "pid");
    let container = lab.try_create(&spec).unwrap();
    let cgroup = container.cgroup();
    container.start();
    assert_eq!(container.wait().ended, Ended::Exited(0));
    let orphans = cgroup.pids().unwrap();
    assert_eq!(orphans.len(), 2, "{orphans:?}");
    container.kill(KILL, true).unwrap();
    for pid in orphans {
        assert_eq!(wait(pid), Some(Ended::Signaled(KILL)));
    }
}

/// Without `force` a running container stays.
pub fn delete_refuses_a_running_container(lab: &Lab) {
    let container = lab.start(&lab.spec(&["sleep", "1000"]));
    let error = container.delete(false).unwrap_err();
    assert_ne!(error.kind(), Kind::NotFound);
    assert!(error.to_string().contains("not stopped: running"), "{error}");
    assert_eq!(container.status(), "running");
    container.delete(true).unwrap();
    assert_eq!(container.wait().ended, Ended::Signaled(KILL));
}

/// After `delete` nothing tells of the container: no state, no cgroup, no process, no mount.
pub fn delete_leaves_nothing_behind(lab: &Lab) {
    let container = lab.try_create(&lab.script("exit 0")).unwrap();
    let cgroup = container.cgroup();
    let folders: Vec<_> =
        ["memory", "pids", "cpu", "devices", "freezer"].into_iter().filter_map(|name| cgroup.folder(name)).collect();
    assert!(!folders.is_empty() && folders.iter().all(|folder| folder.is_dir()));
    container.start();
    container.wait();
    container.delete(false).unwrap();
    assert_eq!(container.delete(false).unwrap_err().kind(), Kind::NotFound);
    assert_eq!(lab.finish(&lab.executor.state(&container.id), None).unwrap_err().kind(), Kind::NotFound);
    assert!(folders.iter().all(|folder| !folder.exists()));
    assert_eq!(fs::read_dir(lab.path().join("state/lab")).unwrap().count(), 0);
    let folder = lab.path().to_str().unwrap();
    assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(folder));
}

/// A paused container does nothing, and goes on after `resume`.
pub fn pause_stops_the_clock(lab: &Lab) {
    let container = lab.start(&lab.script("while :; do echo tick; sleep 0.01; done"));
    container.wait_for("tick");
    lab.finish(&lab.executor.pause(&container.id), None).unwrap();
    assert_eq!(container.status(), "paused");
    assert!(container.cgroup().is_frozen().unwrap());
    let length = container.streams.text().len();
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(container.streams.text().len(), length);
    lab.finish(&lab.executor.pause(&container.id), None).expect_err("it is paused already");
    container.exec("one", &container.script("true")).expect_err("a paused container takes no exec");
    lab.finish(&lab.executor.resume(&container.id), None).unwrap();
    assert_eq!(container.status(), "running");
    assert!(eventually(|| container.streams.text().len() > length));
    lab.finish(&lab.executor.resume(&container.id), None).expect_err("it is not paused");
    lab.finish(&lab.executor.pause(&container.id), None).unwrap();
    container.delete(true).unwrap();
    assert_eq!(container.wait().ended, Ended::Signaled(KILL));
}

/// Hooks get the OCI state on their input; `poststop` runs with `delete`.
pub fn hooks_are_run_with_the_state(lab: &Lab) {
    let log = lab.path().join("hooks.log");
    let hook = |name: &str| json!([{ "path": "/bin/sh", "args": ["sh", "-c", format!("(echo {name}; cat; echo) >> {}", log.display())] }]);
    let mut spec = lab.script("exit 0");
    spec["annotations"] = json!({ "some.key": "some value" });
    spec["hooks"] =
        json!({ "createRuntime": hook("createRuntime"), "poststart": hook("poststart"), "poststop": hook("poststop") });
    let container = lab.try_create(&spec).unwrap();
    let text = fs::read_to_string(&log).unwrap();
    let (name, state) = text.split_once('\n').unwrap();
    // runc before 1.2 runs `poststart` with `create`, so more may follow.
    let state: Value = serde_json::from_str(state.lines().next().unwrap()).unwrap();
    assert_eq!(name, "createRuntime");
    assert_eq!(state["id"], container.id.as_str());
    assert_eq!(state["pid"], container.pid);
    assert_eq!(state["annotations"]["some.key"], "some value");
    let config = Path::new(state["bundle"].as_str().unwrap()).join("config.json");
    let seen: Value = serde_json::from_slice(&fs::read(config).unwrap()).unwrap();
    assert_eq!(seen["process"]["args"], spec["process"]["args"]);
    container.start();
    container.wait();
    container.delete(false).unwrap();
    let text = fs::read_to_string(&log).unwrap();
    let names: Vec<&str> = text.lines().filter(|line| !line.is_empty() && !line.starts_with('{')).collect();
    assert_eq!(names, ["createRuntime", "poststart", "poststop"], "{text}");
}

/// A second container of the same id is refused and the first not harmed; a failed create can be repeated.
pub fn ids_are_unique(lab: &Lab) {
    assert!(lab.create_with(&lab.spec(&["nope"]), "twice", None).is_err());
    let container = lab.create_with(&lab.script("echo first"), "twice", None).unwrap();
    let error = lab.create_with(&lab.spec(&["true"]), "twice", None).err().expect("the id is taken");
    assert!(error.to_string().contains("container with given ID already exists"), "{error}");
    container.start();
    // The second create has replaced the config and taken over the files of the first; the container has not noticed.
    assert_eq!(container.wait().ended, Ended::Exited(0));
}

/// Verbs on a container that was never made.
pub fn unknown_containers_are_not_found(lab: &Lab) {
    let executor = &lab.executor;
    for invocation in [
        executor.state("nobody"),
        executor.kill("nobody", TERM, false),
        executor.delete("nobody", false),
        executor.ps("nobody"),
    ] {
        let error = lab.finish(&invocation, None).unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound, "{error}");
        assert!(error.to_string().contains("does not exist"), "{error}");
    }
    assert_eq!(executor.start("nobody").verb, Verb::Start);
    assert!(lab.finish(&executor.start("nobody"), None).is_err());
}
