//! After a kill -9, and with several containers in one shim.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::task::v3 as wire;

use crate::client::Client;
use crate::machine::{Machine, assert_gone, eventually, executors};

#[test]
fn delete_cleans_up_after_a_killed_shim() {
    for executor in executors() {
        for own_pids in [true, false] {
            let mut machine = Machine::new(executor);
            let mut container = machine.container(&["sh", "-c", "sleep 1000 & sleep 1000"]);
            if !own_pids {
                let namespaces = container.spec["linux"]["namespaces"].as_array_mut().unwrap();
                namespaces.retain(|namespace| namespace["type"] != "pid");
            }
            let mut client = machine.create(&container);
            let pid = client.start(&container.id, "").unwrap();
            let shim = client.shim_pid();
            kill(Pid::from_raw(shim), Signal::SIGKILL).unwrap();
            eventually("the shim is gone", || !std::path::Path::new(&format!("/proc/{shim}/fd/0")).exists());
            let deleted = machine.run_delete(&container);
            assert_eq!((deleted.pid, deleted.exit_status), (pid, 137));
            assert!(deleted.exited_at.is_some());
            assert_gone(&container);
            assert_eq!(std::fs::read_dir(machine.path().join("s")).unwrap().count(), 0, "the socket is gone");
            let again = machine.run_delete(&container);
            assert_eq!(again.exit_status, 137, "and it can be repeated");
        }
    }
}

#[test]
fn delete_knows_the_exit_that_the_dead_shim_had_written_down() {
    for executor in executors() {
        let mut machine = Machine::new(executor);
        let container = machine.container(&["sh", "-c", "exit 21"]);
        let mut client = machine.create(&container);
        client.start(&container.id, "").unwrap();
        assert_eq!(client.wait(&container.id, "").unwrap(), 21);
        kill(Pid::from_raw(client.shim_pid()), Signal::SIGKILL).unwrap();
        assert_eq!(machine.run_delete(&container).exit_status, 21);
        assert_gone(&container);
    }
}

#[test]
fn delete_without_any_state_is_harmless() {
    for executor in executors() {
        let mut machine = Machine::new(executor);
        let container = machine.container(&["true"]);
        let deleted = machine.run_delete(&container);
        assert_eq!((deleted.pid, deleted.exit_status), (0, 137));
    }
}

#[test]
fn containers_of_a_group_share_one_shim() {
    for executor in executors() {
        let mut machine = Machine::new(executor);
        let mut containers = [machine.container(&["sleep", "1000"]), machine.container(&["sleep", "1000"])];
        let group = format!("group-{}", std::process::id());
        for container in &mut containers {
            container.spec["annotations"] = serde_json::json!({"io.kubernetes.cri.sandbox-id": group});
        }
        let sockets = containers.each_ref().map(|container| machine.start(container));
        assert_eq!(sockets[0], sockets[1]);
        let mut client = Client::connect(&sockets[0]);
        for container in &containers {
            let _: wire::CreateTaskResponse = client.call("Create", &container.request).unwrap();
            client.start(&container.id, "").unwrap();
        }
        client.kill(&containers[0].id, "", 9).unwrap();
        client.wait(&containers[0].id, "").unwrap();
        client.delete(&containers[0].id, "").unwrap();
        client.shut_down();
        assert!(client.state(&containers[1].id, "").is_ok(), "the other one lives, and so does the shim");
        client.kill(&containers[1].id, "", 9).unwrap();
        client.wait(&containers[1].id, "").unwrap();
        client.delete(&containers[1].id, "").unwrap();
        client.shut_down();
        containers.iter().for_each(assert_gone);
    }
}

#[test]
fn a_termination_signal_ends_a_shim_only_without_containers() {
    for executor in executors() {
        let mut machine = Machine::new(executor);
        let container = machine.container(&["sleep", "1000"]);
        let mut client = machine.create(&container);
        let shim = Pid::from_raw(client.shim_pid());
        kill(shim, Signal::SIGTERM).unwrap();
        client.start(&container.id, "").unwrap();
        client.kill(&container.id, "", 9).unwrap();
        client.wait(&container.id, "").unwrap();
        client.delete(&container.id, "").unwrap();
        kill(shim, Signal::SIGTERM).unwrap();
        eventually("it has ended", || !std::path::Path::new(&format!("/proc/{shim}/fd/0")).exists());
        assert_gone(&container);
    }
}
