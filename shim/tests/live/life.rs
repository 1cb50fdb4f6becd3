//! The whole life of a container, call by call.

use prost::Message as _;
use proto::cgroups::v1::Metrics;
use proto::process::Status;
use proto::task::v3 as wire;

use crate::client::Client;
use crate::machine::{Machine, assert_gone, eventually, executors, read_in_background};

#[test]
fn a_container_lives_and_leaves_nothing() {
    for executor in executors() {
        let mut machine = Machine::new(executor);
        let mut container = machine.container(&["sh", "-c", "echo out; echo err >&2; exit 7"]);
        let (out, err) = (machine.fifo("out"), machine.fifo("err"));
        container.request.stdout = out.display().to_string();
        container.request.stderr = format!("fifo://{}", err.display());
        let (out, err) = (read_in_background(&out), read_in_background(&err));
        let mut client = machine.create(&container);
        let created = client.state(&container.id, "").unwrap();
        assert_eq!(created.status(), Status::Created);
        assert_eq!(created.stdout, container.request.stdout);
        assert_eq!(client.start(&container.id, "").unwrap(), created.pid);
        assert_eq!(client.wait(&container.id, "").unwrap(), 7);
        let stopped = client.state(&container.id, "").unwrap();
        assert_eq!((stopped.status(), stopped.exit_status), (Status::Stopped, 7));
        assert!(stopped.exited_at.is_some());
        assert_eq!(client.wait(&container.id, "").unwrap(), 7, "waiting for what has ended");
        let deleted = client.delete(&container.id, "").unwrap();
        assert_eq!((deleted.pid, deleted.exit_status, deleted.exited_at), (created.pid, 7, stopped.exited_at));
        assert_eq!(out.join().unwrap(), "out\n");
        assert_eq!(err.join().unwrap(), "err\n");
        let topics = machine.daemon.topics("/tasks/delete");
        assert_eq!(topics, ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]);
        let pid = client.shim_pid();
        client.shut_down();
        eventually("the shim has ended", || !std::path::Path::new(&format!("/proc/{pid}/fd/0")).exists());
        assert_gone(&container);
        assert_eq!(std::fs::read_dir(machine.path().join("s")).unwrap().count(), 0, "the socket is gone");
    }
}

#[test]
fn old_daemons_get_the_plain_address_and_version_2() {
    for executor in executors() {
        let mut machine = Machine::new(executor);
        let container = machine.container(&["true"]);
        let output = machine.run_start(&container, b"");
        let address = String::from_utf8(output.stdout).unwrap();
        let path = address.strip_prefix("unix:///run/containerd/s/").expect("a plain address");
        assert_eq!(path.len(), 64, "{address}");
        assert_eq!(std::fs::read_to_string(container.bundle.join("address")).unwrap(), address);
        let socket = std::path::Path::new(address.strip_prefix("unix://").unwrap());
        let mut client = Client::connect(socket).of_version_2();
        let _: wire::CreateTaskResponse = client.call("Create", &container.request).unwrap();
        client.start(&container.id, "").unwrap();
        assert_eq!(client.wait(&container.id, "").unwrap(), 0);
        client.delete(&container.id, "").unwrap();
        client.shut_down();
        eventually("the socket is removed", || !socket.exists());
        assert_gone(&container);
    }
}

#[test]
fn a_daemon_may_hand_the_socket_over() {
    for executor in executors() {
        let mut machine = Machine::new(executor);
        let container = machine.container(&["sh", "-c", "exit 3"]);
        let socket = machine.serve(&container);
        let mut client = Client::connect(&socket);
        let _: wire::CreateTaskResponse = client.call("Create", &container.request).unwrap();
        let address = std::fs::read_to_string(container.bundle.join("address")).unwrap();
        assert_eq!(address, format!("unix://{}", socket.display()));
        client.start(&container.id, "").unwrap();
        assert_eq!(client.wait(&container.id, "").unwrap(), 3);
        client.delete(&container.id, "").unwrap();
        client.shut_down();
        eventually("the socket is removed", || !socket.exists());
    }
}

#[test]
fn a_created_container_can_be_deleted_without_a_start() {
    for executor in executors() {
        let mut machine = Machine::new(executor);
        let container = machine.container(&["sleep", "1000"]);
        let mut client = machine.create(&container);
        client.delete(&container.id, "").unwrap();
        let topics = machine.daemon.topics("/tasks/delete");
        assert_eq!(topics, ["/tasks/create", "/tasks/exit", "/tasks/delete"]);
        client.shut_down();
        assert_gone(&container);
    }
}

#[test]
fn pause_resume_pids_stats_and_update() {
    for executor in executors() {
        let mut machine = Machine::new(executor);
        let container = machine.container(&["sleep", "1000"]);
        let id = container.id.clone();
        let mut client = machine.create(&container);
        let pid = client.start(&id, "").unwrap();
        client.call::<_, ()>("Pause", &wire::PauseRequest { id: id.clone() }).unwrap();
        assert_eq!(client.state(&id, "").unwrap().status(), Status::Paused);
        let refused = client.call::<_, ()>("Pause", &wire::PauseRequest { id: id.clone() }).unwrap_err();
        assert_eq!(refused.kind, model::Kind::FailedPrecondition);
        client.call::<_, ()>("Resume", &wire::ResumeRequest { id: id.clone() }).unwrap();
        assert_eq!(client.state(&id, "").unwrap().status(), Status::Running);

        let pids: wire::PidsResponse = client.call("Pids", &wire::PidsRequest { id: id.clone() }).unwrap();
        assert_eq!(pids.processes.iter().map(|process| process.pid).collect::<Vec<_>>(), [pid]);

        let resources = serde_json::json!({"memory": {"limit": 64 << 20}}).to_string();
        let resources = prost_types::Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources".into(),
            value: resources.into_bytes(),
        };
        let update = wire::UpdateTaskRequest { id: id.clone(), resources: Some(resources), ..Default::default() };
        client.call::<_, ()>("Update", &update).unwrap();
        let stats: wire::StatsResponse = client.call("Stats", &wire::StatsRequest { id: id.clone() }).unwrap();
        let stats = stats.stats.unwrap();
        if stats.type_url == "io.containerd.cgroups.v1.Metrics" {
            let metrics = Metrics::decode(stats.value.as_slice()).unwrap();
            let tasks = metrics.cgroup_stats.unwrap();
            assert_eq!(tasks.nr_sleeping + tasks.nr_running, 1, "{executor}");
            let memory = metrics.memory.unwrap();
            let usage = memory.usage.unwrap();
            assert_eq!(usage.limit, 64 << 20);
            assert!(usage.usage > 0);
        }

        client.call::<_, ()>("Pause", &wire::PauseRequest { id: id.clone() }).unwrap();
        client.kill(&id, "", 9).unwrap();
        assert_eq!(client.wait(&id, "").unwrap(), 137, "a frozen container dies too");
        let refused = client.kill(&id, "", 9).unwrap_err();
        assert_eq!(
            (refused.kind, refused.message.as_str()),
            (model::Kind::NotFound, "process already finished: not found")
        );
        eventually("it has no processes once its exit is known, which is no refusal", || {
            let pids: wire::PidsResponse = client.call("Pids", &wire::PidsRequest { id: id.clone() }).unwrap();
            pids.processes.is_empty()
        });
        client.delete(&id, "").unwrap();
        let topics = machine.daemon.topics("/tasks/delete");
        assert_eq!(topics[2..5], ["/tasks/paused", "/tasks/resumed", "/tasks/paused"]);
        client.shut_down();
        assert_gone(&container);
    }
}

#[test]
fn kill_all_reaches_every_process() {
    for executor in executors() {
        let mut machine = Machine::new(executor);
        let container = machine.container(&["sh", "-c", "sleep 1000 & sleep 1000 & trap '' TERM; wait; wait; exit 5"]);
        let mut client = machine.create(&container);
        client.start(&container.id, "").unwrap();
        let pids = |client: &mut Client| {
            let pids: wire::PidsResponse =
                client.call("Pids", &wire::PidsRequest { id: container.id.clone() }).unwrap();
            pids.processes.len()
        };
        eventually("three processes", || pids(&mut client) == 3);
        let kill = wire::KillRequest { id: container.id.clone(), signal: 15, all: true, ..Default::default() };
        client.call::<_, ()>("Kill", &kill).unwrap();
        client.wait(&container.id, "").unwrap();
        client.delete(&container.id, "").unwrap();
        client.shut_down();
        assert_gone(&container);
    }
}

#[test]
fn processes_start_without_blocked_or_ignored_signals_and_with_three_descriptors() {
    for executor in executors() {
        let mut machine = Machine::new(executor);
        let script = "grep -E 'Sig(Blk|Ign)' /proc/self/status; echo /proc/self/fd/*";
        let mut container = machine.container(&["busybox", "sh", "-c", &script.replace("grep", "busybox grep")]);
        let path = machine.path().join("out");
        container.request.stdout = format!("file://{}", path.display());
        let mut client = machine.create(&container);
        client.start(&container.id, "").unwrap();
        client.wait(&container.id, "").unwrap();
        client.delete(&container.id, "").unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let mask = |status: &str, name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).expect("the kernel tells");
            u64::from_str_radix(line[name.len()..].trim(), 16).unwrap()
        };
        assert_eq!(mask(&text, "SigBlk:"), 0, "{executor}");
        // 32 and 33 are the C library's own; it ignores them in whatever it spawns.
        assert_eq!(mask(&text, "SigIgn:") & !(0b11 << 31), 0, "{executor}: {text}");
        // The fourth is the folder that is being listed.
        assert!(text.ends_with("/proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2 /proc/self/fd/3\n"), "{text}");
        client.shut_down();
        assert_gone(&container);
    }
}
