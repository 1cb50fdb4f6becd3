//! Added processes.

use std::thread;
use std::time::{Duration, Instant};

use proto::process::Status;
use proto::task::v3 as wire;

use crate::client::Client;
use crate::machine::{Machine, assert_gone, exec_request, executors, finish, read_in_background};

#[test]
fn an_exec_is_added_started_and_forgotten() {
    for executor in executors() {
        let mut machine = Machine::new(executor);
        let (container, mut client) = machine.running(&["sleep", "1000"]);
        let id = &container.id;
        let mut request = exec_request(&container, "e", &["sh", "-c", "cat; exit 4"]);
        let (input, out) = (machine.fifo("in"), machine.fifo("out"));
        request.stdin = input.display().to_string();
        request.stdout = out.display().to_string();
        client.call::<_, ()>("Exec", &request).unwrap();
        let refused = client.call::<_, ()>("Exec", &request).unwrap_err();
        assert_eq!(refused.kind, model::Kind::AlreadyExists);
        assert_eq!(client.state(id, "e").unwrap().status(), Status::Created);
        let waiting = client.send("Wait", &wire::WaitRequest { id: id.clone(), exec_id: "e".into() });
        let text = read_in_background(&out);
        let starting = client.send("Start", &wire::StartRequest { id: id.clone(), exec_id: "e".into() });
        assert_eq!(client.receive().0, starting);
        std::fs::write(&input, "by way of the fifo").unwrap();
        // Closing the fifo alone is not the end of input: the client may come back.
        thread::sleep(Duration::from_millis(30));
        std::fs::write(&input, ", twice").unwrap();
        let close = wire::CloseIoRequest { id: id.clone(), exec_id: "e".into(), stdin: true };
        let closing = client.send("CloseIO", &close);
        assert_eq!(client.receive().0, closing);
        let (stream, response) = client.receive();
        assert_eq!(stream, waiting);
        assert_eq!(response.into_result::<wire::WaitResponse>().unwrap().exit_status, 4);
        assert_eq!(client.delete(id, "e").unwrap().exit_status, 4);
        assert_eq!(text.join().unwrap(), "by way of the fifo, twice");
        assert_eq!(client.state(id, "e").unwrap_err().kind, model::Kind::NotFound);
        client.kill(id, "", 9).unwrap();
        client.wait(id, "").unwrap();
        client.delete(id, "").unwrap();
        let topics = machine.daemon.topics("/tasks/delete");
        assert_eq!(
            topics,
            [
                "/tasks/create",
                "/tasks/start",
                "/tasks/exec-added",
                "/tasks/exec-started",
                "/tasks/exit",
                "/tasks/exit",
                "/tasks/delete"
            ]
        );
        client.shut_down();
        assert_gone(&container);
    }
}

#[test]
fn fifty_at_once_all_return() {
    for executor in executors() {
        let mut machine = Machine::new(executor);
        let (container, mut client) = machine.running(&["sleep", "1000"]);
        let address = std::fs::read_to_string(container.bundle.join("address")).unwrap();
        let socket = std::path::PathBuf::from(address.strip_prefix("unix://").unwrap());
        let threads: Vec<_> = (0..50_u32)
            .map(|n| {
                let (socket, container, out) = (socket.clone(), container.clone(), machine.fifo(&format!("out-{n}")));
                thread::spawn(move || {
                    let mut client = Client::connect(&socket);
                    let exec = format!("e{n}");
                    let script = format!("echo {n}; exit {n}");
                    let mut request = exec_request(&container, &exec, &["sh", "-c", &script]);
                    request.stdout = out.display().to_string();
                    let text = read_in_background(&out);
                    assert_eq!(client.run(&request), n);
                    assert_eq!(text.join().unwrap(), format!("{n}\n"));
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        let pid = client.shim_pid();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        assert_eq!(children.split_whitespace().count(), 1, "only the init is left: {children}");
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        assert!(descriptors < 20, "{descriptors} descriptors are open");
        finish(&container, client);
    }
}

#[test]
fn one_that_cannot_be_executed_says_why_and_can_be_deleted() {
    for executor in executors() {
        let mut machine = Machine::new(executor);
        let (container, mut client) = machine.running(&["sleep", "1000"]);
        let id = &container.id;
        client.call::<_, ()>("Exec", &exec_request(&container, "e", &["nonsense"])).unwrap();
        let failed = client.start(id, "e").unwrap_err();
        assert!(failed.message.contains("OCI runtime exec failed: "), "{failed:?}");
        assert!(failed.message.contains("executable file not found in $PATH"), "{failed:?}");
        client.delete(id, "e").unwrap();
        client.kill(id, "", 9).unwrap();
        client.wait(id, "").unwrap();
        let refused = client.call::<_, ()>("Exec", &exec_request(&container, "late", &["true"])).unwrap_err();
        assert_eq!(refused.kind, model::Kind::FailedPrecondition);
        client.delete(id, "").unwrap();
        client.shut_down();
        assert_gone(&container);
    }
}

#[test]
fn a_child_that_keeps_the_output_open_delays_a_delete_but_does_not_stop_it() {
    for executor in executors() {
        let mut machine = Machine::new(executor);
        let (container, mut client) = machine.running(&["sleep", "1000"]);
        let id = &container.id;
        let out = machine.fifo("out");
        let mut request = exec_request(&container, "e", &["sh", "-c", "setsid sleep 1000 & echo parent"]);
        request.stdout = out.display().to_string();
        let text = read_in_background(&out);
        client.exec(&request).unwrap();
        assert_eq!(client.wait(id, "e").unwrap(), 0);
        let before = Instant::now();
        client.delete(id, "e").unwrap();
        assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
        assert_eq!(text.join().unwrap(), "parent\n");
        finish(&container, client);
    }
}
