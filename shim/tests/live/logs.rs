//! Logs that the shim writes, and clients that attach.

use std::fs;
use std::path::Path;

use proto::gantry::shim::v1::{AttachInput, AttachOutput, AttachRequest, ReopenRequest};
use proto::service::LOGS;
use proto::ttrpc::{FLAG_NO_DATA, FLAG_REMOTE_CLOSED, Response};

use crate::client::Client;
use crate::machine::{Machine, assert_gone, eventually, exec_request, executors};

/// The lines of a log without their times, which must be there.
fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    let rest = |line: &str| {
        let (time, rest) = line.split_once(' ').expect("a time");
        assert!(time.len() == 30 && time.ends_with('Z'), "{line}");
        rest.to_owned()
    };
    text.lines().map(rest).collect()
}

/// A client that is attached.
struct Attached {
    client: Client,
    stream: u32,
}

impl Attached {
    fn to(socket: &Path, id: &str, exec: &str, stdin: bool) -> Self {
        let mut client = Client::connect(socket).of(LOGS);
        let request = AttachRequest { id: id.into(), exec_id: exec.into(), stdin, stdout: true, stderr: true };
        let stream = client.open("Attach", &request);
        let first: AttachOutput = client.receive_data(stream).expect("attached");
        assert_eq!((first.stream, first.data.len()), (0, 0));
        Self { client, stream }
    }

    fn say(&mut self, text: &str) {
        self.client.send_data(self.stream, 0, &AttachInput { data: text.into() });
    }

    fn close_input(&mut self) {
        self.client.send_data(self.stream, FLAG_REMOTE_CLOSED | FLAG_NO_DATA, &());
    }

    /// Reads until the output is at least as long as `text`, and compares.
    #[track_caller]
    fn hears(&mut self, stream: u32, text: &str) {
        let mut heard = Vec::new();
        while heard.len() < text.len() {
            let output: AttachOutput = self.client.receive_data(self.stream).expect("more output");
            assert_eq!(output.stream, stream, "{output:?}");
            heard.extend(output.data);
        }
        assert_eq!(String::from_utf8(heard).unwrap(), text);
    }

    #[track_caller]
    fn hears_the_end(&mut self) {
        let end: Response = self.client.receive_data::<AttachOutput>(self.stream).expect_err("the end");
        assert_eq!(end.into_result::<()>(), Ok(()));
    }
}

#[test]
fn both_streams_are_logged_line_by_line_and_a_renamed_log_goes_on() {
    for executor in executors() {
        let mut machine = Machine::new(executor);
        let script = "echo one; echo two >&2; printf 0123456789abcdef; echo; read x <go; echo three; printf four";
        let mut container = machine.container(&["sh", "-c", script]);
        let base = container.bundle.join("upper");
        nix::unistd::mkfifo(&base.join("go"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let path = machine.path().join("pod/c/0.log");
        let uri = format!("gantry-log://{}?format=cri&max_line=10", path.display());
        (container.request.stdout, container.request.stderr) = (uri.clone(), uri);
        let id = container.id.clone();
        let socket = machine.start(&container);
        let mut client = Client::connect(&socket);
        let _: proto::task::v3::CreateTaskResponse = client.call("Create", &container.request).unwrap();
        client.start(&id, "").unwrap();
        eventually("four lines", || lines(&path).len() == 4);
        let mut first = lines(&path);
        first.sort();
        assert_eq!(first, ["stderr F two", "stdout F abcdef", "stdout F one", "stdout P 0123456789"]);

        let rotated = machine.path().join("pod/c/0.log.1");
        fs::rename(&path, &rotated).unwrap();
        let reopen = ReopenRequest { id: id.clone(), exec_id: String::new() };
        let mut logs = Client::connect(&socket).of(LOGS);
        logs.call::<_, ()>("Reopen", &reopen).unwrap();
        // Opening the fifo for writing waits for the reader in the container.
        fs::write(container.bundle.join("rootfs/go"), "now\n").unwrap();
        assert_eq!(client.wait(&id, "").unwrap(), 0);
        client.delete(&id, "").unwrap();
        assert_eq!(lines(&path), ["stdout F three", "stdout F four"]);
        assert_eq!(lines(&rotated).len(), 4);
        client.shut_down();
        assert_gone(&container);
    }
}

#[test]
fn attached_clients_see_and_feed_a_process_and_the_log_goes_on() {
    for executor in executors() {
        let mut machine = Machine::new(executor);
        let script = "while read line; do echo got $line; done; echo end >&2; exit 3";
        let mut container = machine.container(&["sh", "-c", script]);
        let path = machine.path().join("0.log");
        container.request.stdin = "gantry-attach:///?once=true".into();
        container.request.stdout = format!("gantry-log://{}", path.display());
        container.request.stderr = container.request.stdout.clone();
        let id = container.id.clone();
        let socket = machine.start(&container);
        let mut client = Client::connect(&socket);
        let _: proto::task::v3::CreateTaskResponse = client.call("Create", &container.request).unwrap();
        let mut one = Attached::to(&socket, &id, "", true);
        let mut other = Attached::to(&socket, &id, "", false);
        one.say("early\n");
        client.start(&id, "").unwrap();
        one.hears(1, "got early\n");
        other.hears(1, "got early\n");
        drop(other);
        one.say("late\n");
        one.hears(1, "got late\n");
        one.close_input();
        one.hears(2, "end\n");
        one.hears_the_end();
        assert_eq!(client.wait(&id, "").unwrap(), 3);
        client.delete(&id, "").unwrap();
        assert_eq!(lines(&path), ["stdout F got early", "stdout F got late", "stderr F end"]);
        client.shut_down();
        assert_gone(&container);
    }
}

#[test]
fn input_stays_open_for_the_next_client_and_a_terminal_can_be_attached_to() {
    for executor in executors() {
        let mut machine = Machine::new(executor);
        let mut container =
            machine.container(&["sh", "-c", "stty -echo; echo ready; while read x; do echo got $x; done"]);
        container.spec["process"]["terminal"] = true.into();
        container.request.terminal = true;
        container.request.stdin = "gantry-attach:///".into();
        container.request.stdout = "gantry-log:///".into();
        let id = container.id.clone();
        let socket = machine.start(&container);
        let mut client = Client::connect(&socket);
        let _: proto::task::v3::CreateTaskResponse = client.call("Create", &container.request).unwrap();
        let mut first = Attached::to(&socket, &id, "", true);
        client.start(&id, "").unwrap();
        first.hears(1, "ready\r\n");
        first.say("one\n");
        first.hears(1, "got one\r\n");
        first.close_input();
        drop(first);
        let mut second = Attached::to(&socket, &id, "", true);
        second.say("two\n");
        second.hears(1, "got two\r\n");
        client.kill(&id, "", 9).unwrap();
        client.wait(&id, "").unwrap();
        second.hears_the_end();
        client.delete(&id, "").unwrap();
        client.shut_down();
        assert_gone(&container);
    }
}

#[test]
fn an_exec_can_be_attached_to_before_its_start() {
    for executor in executors() {
        let mut machine = Machine::new(executor);
        let container = machine.container(&["sleep", "1000"]);
        let id = container.id.clone();
        let socket = machine.start(&container);
        let mut client = Client::connect(&socket);
        let _: proto::task::v3::CreateTaskResponse = client.call("Create", &container.request).unwrap();
        client.start(&id, "").unwrap();
        let mut request = exec_request(&container, "e", &["cat"]);
        request.stdin = "gantry-attach:///?once=true".into();
        request.stdout = "gantry-log:///".into();
        request.stderr = "gantry-log:///".into();
        client.call::<_, ()>("Exec", &request).unwrap();
        let mut attached = Attached::to(&socket, &id, "e", true);
        attached.say("all of it");
        attached.close_input();
        client.start(&id, "e").unwrap();
        attached.hears(1, "all of it");
        attached.hears_the_end();
        assert_eq!(client.wait(&id, "e").unwrap(), 0);
        let refused = Client::connect(&socket).of(LOGS);
        let mut refused = refused;
        let to_init = AttachRequest { id: id.clone(), stdout: true, ..Default::default() };
        let stream = refused.open("Attach", &to_init);
        let refusal = refused.receive_data::<AttachOutput>(stream).unwrap_err().into_result::<()>().unwrap_err();
        assert_eq!(refusal.kind, model::Kind::FailedPrecondition, "its output goes nowhere");
        client.kill(&id, "", 9).unwrap();
        client.wait(&id, "").unwrap();
        client.delete(&id, "").unwrap();
        client.shut_down();
        assert_gone(&container);
    }
}

#[test]
fn one_that_does_not_read_is_dropped_and_the_output_goes_on() {
    // One executor is enough: it takes as long as the shim is patient.
    for executor in executors().into_iter().take(1) {
        let mut machine = Machine::new(executor);
        let mut container = machine.container(&["seq", "400000"]);
        let path = machine.path().join("0.log");
        container.request.stdout = format!("gantry-log://{}", path.display());
        let id = container.id.clone();
        let socket = machine.start(&container);
        let mut client = Client::connect(&socket);
        let _: proto::task::v3::CreateTaskResponse = client.call("Create", &container.request).unwrap();
        let mut stuck = Client::connect(&socket).of(LOGS);
        stuck.open("Attach", &AttachRequest { id: id.clone(), stdout: true, ..Default::default() });
        client.start(&id, "").unwrap();
        assert!(client.state(&id, "").is_ok(), "the loop goes on");
        assert_eq!(client.wait(&id, "").unwrap(), 0);
        client.delete(&id, "").unwrap();
        let lines = lines(&path);
        assert_eq!((lines.len(), lines.last().unwrap().as_str()), (400_000, "stdout F 400000"));
        client.shut_down();
        assert_gone(&container);
    }
}
