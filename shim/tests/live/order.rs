//! Events: in order, once, and not lost.

use std::time::Duration;

use crate::daemon::Event;
use crate::machine::{Machine, assert_gone, eventually, exec_request, executors};

#[test]
fn a_start_is_told_before_the_exit_of_what_dies_at_once() {
    for executor in executors() {
        let mut machine = Machine::new(executor);
        let container = machine.container(&["sleep", "1000"]);
        let id = &container.id;
        let mut client = machine.create(&container);
        client.start(id, "").unwrap();
        for n in 0..20 {
            let exec = format!("e{n}");
            client.call::<_, ()>("Exec", &exec_request(&container, &exec, &["true"])).unwrap();
            client.start(id, &exec).unwrap();
            assert_eq!(client.wait(id, &exec).unwrap(), 0);
            client.delete(id, &exec).unwrap();
        }
        let mut all = vec!["/tasks/create", "/tasks/start"];
        all.extend(["/tasks/exec-added", "/tasks/exec-started", "/tasks/exit"].repeat(20));
        let events = machine.daemon.events(|events| events.len() == all.len());
        assert_eq!(events.iter().map(|event| event.topic.as_str()).collect::<Vec<_>>(), all);
        client.kill(id, "", 9).unwrap();
        client.wait(id, "").unwrap();
        client.delete(id, "").unwrap();
        client.shut_down();
    }
}

#[test]
fn the_init_is_the_last_to_end_with_pids_of_its_own_and_without() {
    for executor in executors() {
        for own_pids in [true, false] {
            let mut machine = Machine::new(executor);
            let mut container = machine.container(&["sleep", "1000"]);
            if !own_pids {
                let namespaces = container.spec["linux"]["namespaces"].as_array_mut().unwrap();
                namespaces.retain(|namespace| namespace["type"] != "pid");
            }
            let id = container.id.clone();
            let mut client = machine.create(&container);
            client.start(&id, "").unwrap();
            for exec in ["a", "b", "c"] {
                client.call::<_, ()>("Exec", &exec_request(&container, exec, &["sleep", "1000"])).unwrap();
                client.start(&id, exec).unwrap();
            }
            client.kill(&id, "", 9).unwrap();
            assert_eq!(client.wait(&id, "").unwrap(), 137);
            let events = machine.daemon.events(|events| events.iter().any(|event| event.is_exit_of(&id)));
            let exits: Vec<&Event> = events.iter().filter(|event| event.topic == "/tasks/exit").collect();
            assert_eq!(exits.len(), 4, "{exits:#?}");
            assert!(exits[3].is_exit_of(&id), "{exits:#?}");
            assert!(exits.iter().all(|exit| exit.status == Some(137)), "{exits:#?}");
            client.delete(&id, "").unwrap();
            client.shut_down();
            assert_gone(&container);
        }
    }
}

#[test]
fn a_daemon_that_was_away_hears_of_the_exit_once_and_in_order() {
    for executor in executors() {
        let mut machine = Machine::new(executor);
        let container = machine.container(&["sh", "-c", "exit 9"]);
        let id = &container.id;
        let mut client = machine.create(&container);
        machine.daemon.topics("/tasks/create");
        machine.daemon.go();
        client.start(id, "").unwrap();
        assert_eq!(client.wait(id, "").unwrap(), 9);
        let journal = || -> model::journal::Journal {
            serde_json::from_slice(&std::fs::read(container.bundle.join(model::journal::FILE_NAME)).unwrap()).unwrap()
        };
        assert_eq!(journal().exit.map(|exit| exit.status), Some(9));
        assert!(!journal().published);
        std::thread::sleep(Duration::from_millis(300));
        machine.daemon.come();
        let topics = machine.daemon.topics("/tasks/exit");
        assert_eq!(topics, ["/tasks/create", "/tasks/start", "/tasks/exit"]);
        eventually("the journal says so", || journal().published);
        client.delete(id, "").unwrap();
        assert_eq!(machine.daemon.topics("/tasks/delete").len(), 4, "nothing came twice");
        client.shut_down();
    }
}

#[test]
fn a_kill_for_memory_is_told_before_the_exit() {
    for executor in executors() {
        let mut machine = Machine::new(executor);
        let script = "x=$(dd if=/dev/zero bs=1M count=64 | busybox tr '\\0' a); echo $x";
        let mut container = machine.container(&["sh", "-c", script]);
        container.spec["linux"]["resources"]["memory"] = serde_json::json!({"limit": 16 << 20, "swap": 16 << 20});
        container.spec["process"]["args"] = serde_json::json!(["busybox", "tail", "/dev/zero"]);
        let id = &container.id;
        let mut client = machine.create(&container);
        client.start(id, "").unwrap();
        assert_eq!(client.wait(id, "").unwrap(), 137);
        let topics = machine.daemon.topics("/tasks/exit");
        assert_eq!(topics, ["/tasks/create", "/tasks/start", "/tasks/oom", "/tasks/exit"], "{executor}");
        client.delete(id, "").unwrap();
        client.shut_down();
        assert_gone(&container);
    }
}
