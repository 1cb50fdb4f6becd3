//! The sandbox service: with a process of its own, without, and containers beside it.

use std::path::Path;

use model::Kind;
use proto::sandbox as wire;
use proto::service::SANDBOX;
use proto::status::Failure;

use crate::client::Client;
use crate::machine::{Container, Machine, assert_gone, eventually, executors};

fn create(client: &mut Client, container: &Container) -> Result<(), Failure> {
    let request = wire::CreateSandboxRequest {
        sandbox_id: container.id.clone(),
        bundle_path: container.request.bundle.clone(),
        rootfs: container.request.rootfs.clone(),
        netns_path: "/run/netns/x".into(),
        // As the CRI does: what it knows of the pod.
        options: Some(prost_types::Any { type_url: "runtime.v1.PodSandboxConfig".into(), value: vec![1, 2] }),
        ..Default::default()
    };
    client.call("CreateSandbox", &request)
}

fn start(client: &mut Client, id: &str) -> Result<wire::StartSandboxResponse, Failure> {
    client.call("StartSandbox", &wire::StartSandboxRequest { sandbox_id: id.into() })
}

fn status(client: &mut Client, id: &str) -> Result<wire::SandboxStatusResponse, Failure> {
    client.call("SandboxStatus", &wire::SandboxStatusRequest { sandbox_id: id.into(), verbose: true })
}

fn stop(client: &mut Client, id: &str, timeout_secs: u32) {
    client.call::<_, ()>("StopSandbox", &wire::StopSandboxRequest { sandbox_id: id.into(), timeout_secs }).unwrap();
}

fn shut_down(client: &mut Client, id: &str) {
    client.call::<_, ()>("ShutdownSandbox", &wire::ShutdownSandboxRequest { sandbox_id: id.into() }).unwrap();
}

fn ping(client: &mut Client, id: &str) -> Result<(), Failure> {
    client.call("PingSandbox", &wire::PingRequest { sandbox_id: id.into() })
}

/// A container in the sandbox.
fn member(machine: &mut Machine, sandbox: &Container, args: &[&str]) -> Container {
    let mut container = machine.container(args);
    container.spec["annotations"] = serde_json::json!({"io.kubernetes.cri.sandbox-id": sandbox.id});
    container
}

#[test]
fn a_sandbox_with_a_process_lives_beside_its_containers() {
    for executor in executors() {
        let mut machine = Machine::new(executor);
        // The init of a pid namespace gets no signal that it has no handler for.
        let sandbox = machine.container(&["sh", "-c", "trap 'exit 3' TERM; while true; do sleep 0.01; done"]);
        let id = sandbox.id.clone();
        let socket = machine.start(&sandbox);
        let mut client = Client::connect(&socket).of(SANDBOX);
        assert_eq!(ping(&mut client, &id).unwrap_err().kind, Kind::NotFound);
        create(&mut client, &sandbox).unwrap();
        assert_eq!(create(&mut client, &sandbox).unwrap_err().kind, Kind::AlreadyExists);
        assert_eq!(status(&mut client, &id).unwrap().state, "SANDBOX_NOTREADY");
        let started = start(&mut client, &id).unwrap();
        assert!(started.pid != 0 && started.created_at.is_some());
        ping(&mut client, &id).unwrap();
        let ready = status(&mut client, &id).unwrap();
        assert_eq!(
            (ready.state.as_str(), ready.pid, ready.created_at),
            ("SANDBOX_READY", started.pid, started.created_at)
        );
        assert_eq!(ready.info["netns"], "/run/netns/x");
        let platform: wire::PlatformResponse =
            client.call("Platform", &wire::PlatformRequest { sandbox_id: id.clone() }).unwrap();
        assert_eq!(platform.platform.unwrap().os, "linux");
        let metrics = wire::SandboxMetricsRequest { sandbox_id: id.clone() };
        let metrics: wire::SandboxMetricsResponse = client.call("SandboxMetrics", &metrics).unwrap();
        let metrics = metrics.metrics.unwrap();
        assert_eq!(metrics.id, id);
        assert!(metrics.data.unwrap().type_url.starts_with("io.containerd.cgroups."));

        let container = member(&mut machine, &sandbox, &["sleep", "1000"]);
        assert_eq!(machine.start(&container), socket, "it finds the sandbox's shim");
        let mut tasks = Client::connect(&socket);
        let _: proto::task::v3::CreateTaskResponse = tasks.call("Create", &container.request).unwrap();
        tasks.start(&container.id, "").unwrap();
        tasks.kill(&container.id, "", 9).unwrap();
        tasks.wait(&container.id, "").unwrap();
        tasks.delete(&container.id, "").unwrap();
        tasks.shut_down();
        ping(&mut client, &id).unwrap();

        let mut waiting = Client::connect(&socket).of(SANDBOX);
        let stream = waiting.send("WaitSandbox", &wire::WaitSandboxRequest { sandbox_id: id.clone() });
        stop(&mut client, &id, 20);
        let (answered, response) = waiting.receive();
        let waited: wire::WaitSandboxResponse = response.into_result().unwrap();
        assert_eq!((answered, waited.exit_status), (stream, 3), "it was asked, not killed");
        let stopped = status(&mut client, &id).unwrap();
        assert_eq!((stopped.state.as_str(), stopped.exited_at), ("SANDBOX_NOTREADY", waited.exited_at));
        let shim = tasks.shim_pid();
        shut_down(&mut client, &id);
        eventually("the shim has ended", || !Path::new(&format!("/proc/{shim}/fd/0")).exists());
        let topics = machine.daemon.topics("/tasks/delete");
        assert_eq!(topics, ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"], "of the container alone");
        assert_gone(&sandbox);
        assert_gone(&container);
    }
}

#[test]
fn a_sandbox_without_a_process_is_its_state() {
    for executor in executors().into_iter().take(1) {
        let mut machine = Machine::new(executor);
        let mut sandbox = machine.container(&[]);
        sandbox.request.rootfs.clear();
        let id = sandbox.id.clone();
        let socket = machine.start(&sandbox);
        let mut client = Client::connect(&socket).of(SANDBOX);
        create(&mut client, &sandbox).unwrap();
        assert_eq!(start(&mut client, &id).unwrap().pid, 0);
        assert_eq!(start(&mut client, &id).unwrap_err().kind, Kind::FailedPrecondition);
        let container = member(&mut machine, &sandbox, &["sleep", "1000"]);
        let mut tasks = Client::connect(&machine.start(&container));
        let _: proto::task::v3::CreateTaskResponse = tasks.call("Create", &container.request).unwrap();
        let mut waiting = Client::connect(&socket).of(SANDBOX);
        waiting.send("WaitSandbox", &wire::WaitSandboxRequest { sandbox_id: id.clone() });
        stop(&mut client, &id, 0);
        assert_eq!(waiting.receive().1.into_result::<wire::WaitSandboxResponse>().unwrap().exit_status, 0);
        shut_down(&mut client, &id);
        assert_eq!(status(&mut client, &id).unwrap_err().kind, Kind::NotFound);
        assert!(tasks.state(&container.id, "").is_ok(), "the container is there, and so is the shim");
        tasks.delete(&container.id, "").unwrap();
        tasks.shut_down();
        assert_gone(&container);
    }
}

#[test]
fn a_sandbox_whose_process_cannot_run_or_does_not_end_leaves_nothing() {
    for executor in executors() {
        let mut machine = Machine::new(executor);
        let wrong = machine.container(&["nonsense"]);
        let mut client = Client::connect(&machine.start(&wrong)).of(SANDBOX);
        let refused = create(&mut client, &wrong).unwrap_err();
        assert!(refused.message.contains("executable file not found in $PATH"), "{refused:?}");
        assert_eq!(ping(&mut client, &wrong.id).unwrap_err().kind, Kind::NotFound);
        Client::connect(&machine.start(&wrong)).shut_down();
        assert_gone(&wrong);

        let stubborn = machine.container(&["sleep", "1000"]);
        let socket = machine.start(&stubborn);
        let mut client = Client::connect(&socket).of(SANDBOX);
        create(&mut client, &stubborn).unwrap();
        start(&mut client, &stubborn.id).unwrap();
        stop(&mut client, &stubborn.id, 1);
        let shim = Client::connect(&socket).shim_pid();
        shut_down(&mut client, &stubborn.id);
        eventually("the shim has ended", || !Path::new(&format!("/proc/{shim}/fd/0")).exists());
        assert_gone(&stubborn);
    }
}
