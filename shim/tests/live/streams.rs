//! Where output goes, and what happens when nobody takes it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use proto::task::v3 as wire;

use crate::machine::{Machine, assert_gone, eventually, executors, read_in_background};

#[test]
fn a_stuck_reader_delays_neither_the_exit_nor_loses_output() {
    for executor in executors() {
        let mut machine = Machine::new(executor);
        // 6,888,896 bytes: far more than any pipe.
        let mut container = machine.container(&["sh", "-c", "seq 1000000; sleep 1000"]);
        let path = machine.fifo("out");
        container.request.stdout = path.display().to_string();
        let id = &container.id;
        let reading = std::thread::spawn({
            let path = path.clone();
            move || fs::File::open(path).unwrap()
        });
        let mut client = machine.create(&container);
        client.start(id, "").unwrap();
        let mut reader = reading.join().unwrap();
        std::thread::sleep(Duration::from_millis(200));
        assert!(client.state(id, "").is_ok(), "the loop goes on");
        let mut first = vec![0; 6_000_000];
        reader.read_exact(&mut first).unwrap();
        assert!(first.starts_with(b"1\n2\n3\n"));
        let before = Instant::now();
        client.kill(id, "", 9).unwrap();
        assert_eq!(client.wait(id, "").unwrap(), 137);
        assert!(before.elapsed() < Duration::from_secs(2), "the exit does not wait for the output");
        let rest = std::thread::spawn(move || {
            let mut rest = Vec::new();
            reader.read_to_end(&mut rest).unwrap();
            rest.len()
        });
        client.delete(id, "").unwrap();
        assert!(rest.join().unwrap() > 0);
        client.shut_down();
        assert_gone(&container);
    }
}

#[test]
fn output_that_nobody_will_read_does_not_delay_a_delete() {
    for executor in executors() {
        let mut machine = Machine::new(executor);
        let mut container = machine.container(&["sh", "-c", "seq 1000000"]);
        let path = machine.fifo("out");
        container.request.stdout = path.display().to_string();
        let id = &container.id;
        let reading = std::thread::spawn(move || fs::File::open(path).map(drop));
        let mut client = machine.create(&container);
        client.start(id, "").unwrap();
        reading.join().unwrap().unwrap();
        std::thread::sleep(Duration::from_millis(100));
        client.kill(id, "", 9).unwrap();
        client.wait(id, "").unwrap();
        let before = Instant::now();
        client.delete(id, "").unwrap();
        assert!(before.elapsed() < Duration::from_secs(3), "{:?}", before.elapsed());
        client.shut_down();
        assert_gone(&container);
    }
}

#[test]
fn all_output_is_there_when_the_delete_returns() {
    for executor in executors() {
        let mut machine = Machine::new(executor);
        let mut container = machine.container(&["seq", "300000"]);
        let path = machine.path().join("logs/of/out.log");
        container.request.stdout = format!("file://{}", path.display());
        let mut client = machine.create(&container);
        client.start(&container.id, "").unwrap();
        assert_eq!(client.wait(&container.id, "").unwrap(), 0);
        client.delete(&container.id, "").unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 300_000);
        assert!(text.ends_with("\n300000\n"));
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o644);
        client.shut_down();
    }
}

#[test]
fn a_logger_gets_both_streams_and_has_ended_when_the_delete_returns() {
    for executor in executors() {
        let mut machine = Machine::new(executor);
        let mut container = machine.container(&["sh", "-c", "echo to out; echo to err >&2"]);
        let logger = machine.path().join("logger");
        let script = format!(
            "#!/bin/busybox sh\nexec 5>&-\ncd {}\n/bin/busybox cat <&3 >log-out &\n/bin/busybox cat <&4 >log-err\nwait\n\
             echo \"$CONTAINER_ID $CONTAINER_NAMESPACE $*\" >log-who\n",
            machine.path().display()
        );
        fs::write(&logger, script).unwrap();
        fs::set_permissions(&logger, fs::Permissions::from_mode(0o755)).unwrap();
        container.request.stdout = format!("binary://{}?key=a%20value", logger.display());
        container.request.stderr = container.request.stdout.clone();
        let mut client = machine.create(&container);
        client.start(&container.id, "").unwrap();
        client.wait(&container.id, "").unwrap();
        client.delete(&container.id, "").unwrap();
        let read = |name: &str| fs::read_to_string(machine.path().join(name)).unwrap();
        assert_eq!(read("log-out"), "to out\n");
        assert_eq!(read("log-err"), "to err\n");
        assert_eq!(read("log-who"), format!("{} shim-test key a value\n", container.id));
        client.shut_down();
        assert_gone(&container);
    }
}

#[test]
fn a_logger_that_never_ends_delays_a_delete_but_not_for_ever_and_is_killed() {
    // One executor is enough: it takes as long as the shim is patient.
    for executor in executors().into_iter().take(1) {
        let mut machine = Machine::new(executor);
        let mut container = machine.container(&["echo", "hello"]);
        let (logger, pid) = (machine.path().join("logger"), machine.path().join("pid"));
        let script = format!(
            "#!/bin/busybox sh\ntrap '' TERM\necho $$ >{}\nexec 5>&-\nwhile true; do /bin/busybox sleep 0.1; done\n",
            pid.display()
        );
        fs::write(&logger, script).unwrap();
        fs::set_permissions(&logger, fs::Permissions::from_mode(0o755)).unwrap();
        container.request.stdout = format!("binary://{}", logger.display());
        let mut client = machine.create(&container);
        client.start(&container.id, "").unwrap();
        assert_eq!(client.wait(&container.id, "").unwrap(), 0, "the exit does not wait");
        let pid = fs::read_to_string(&pid).unwrap();
        client.delete(&container.id, "").unwrap();
        client.shut_down();
        eventually("it is killed", || !std::path::Path::new(&format!("/proc/{}/root/bin", pid.trim())).exists());
        assert_gone(&container);
    }
}

#[test]
fn a_logger_that_is_missing_or_never_ready_fails_the_create_and_leaves_nothing() {
    for executor in executors() {
        let mut machine = Machine::new(executor);
        let mut container = machine.container(&["true"]);
        container.request.stdout = "binary:///nowhere/logger".into();
        let refused = machine.try_create(&container).err().expect("no logger, no container");
        assert!(refused.message.contains("/nowhere/logger"), "{refused:?}");
        assert_gone(&container);
        let mut container = machine.container(&["true"]);
        container.request.stdout = "binary-v2:///bin/true".into();
        let refused = machine.try_create(&container).err().expect("a logger that says nothing");
        assert!(refused.message.contains("without reporting"), "{refused:?}");
        assert_gone(&container);
    }
}

#[test]
fn a_terminal_has_a_size_and_passes_both_ways() {
    for executor in executors() {
        let mut machine = Machine::new(executor);
        let script = "read line; stty size; echo got $line; test -t 0 && test -t 1 && test -t 2 && exit 6";
        let mut container = machine.container(&["sh", "-c", script]);
        container.spec["process"]["terminal"] = true.into();
        let (input, out) = (machine.fifo("in"), machine.fifo("out"));
        container.request.terminal = true;
        container.request.stdin = input.display().to_string();
        container.request.stdout = out.display().to_string();
        let id = &container.id;
        let text = read_in_background(&out);
        let mut client = machine.create(&container);
        client.start(id, "").unwrap();
        let resize = wire::ResizePtyRequest { id: id.clone(), width: 91, height: 33, ..Default::default() };
        client.call::<_, ()>("ResizePty", &resize).unwrap();
        fs::OpenOptions::new().write(true).open(&input).unwrap().write_all(b"typed\n").unwrap();
        assert_eq!(client.wait(id, "").unwrap(), 6);
        client.delete(id, "").unwrap();
        let text = text.join().unwrap();
        assert!(text.contains("33 91\r\n") && text.contains("got typed\r\n"), "{text:?}");
        client.shut_down();
        assert_gone(&container);
    }
}

#[test]
fn a_client_that_goes_and_comes_back_breaks_nothing() {
    for executor in executors() {
        let mut machine = Machine::new(executor);
        let mut container = machine.container(&["sh", "-c", "while read line; do echo $line; done"]);
        let (input, out) = (machine.fifo("in"), machine.fifo("out"));
        container.request.stdin = input.display().to_string();
        container.request.stdout = out.display().to_string();
        let id = &container.id;
        let open = std::thread::spawn({
            let out = out.clone();
            move || fs::File::open(out).unwrap()
        });
        let mut client = machine.create(&container);
        client.start(id, "").unwrap();
        drop(open.join().unwrap());
        for round in ["first", "second"] {
            fs::write(&input, format!("{round}\n")).unwrap();
            let mut reader = fs::File::open(&out).unwrap();
            let mut text = vec![0; round.len() + 1];
            reader.read_exact(&mut text).unwrap();
            assert_eq!(text, format!("{round}\n").into_bytes());
        }
        let close = wire::CloseIoRequest { id: id.clone(), stdin: true, ..Default::default() };
        client.call::<_, ()>("CloseIO", &close).unwrap();
        assert_eq!(client.wait(id, "").unwrap(), 0, "the end of input ends it");
        client.delete(id, "").unwrap();
        client.shut_down();
        assert_gone(&container);
    }
}

#[test]
fn a_terminal_comes_by_way_of_a_bundle_with_a_long_path() {
    for executor in executors() {
        let mut machine = Machine::new(executor);
        let mut container = machine.container(&["tty"]);
        let long = machine.path().join("x".repeat(120)).join(&container.id);
        fs::create_dir_all(long.parent().unwrap()).unwrap();
        fs::rename(&container.bundle, &long).unwrap();
        let (old, new) = (container.bundle.display().to_string(), long.display().to_string());
        for option in &mut container.request.rootfs[0].options {
            *option = option.replace(&old, &new);
        }
        container.request.bundle = new;
        container.bundle = long;
        container.spec["process"]["terminal"] = true.into();
        container.request.terminal = true;
        let path = machine.path().join("out");
        container.request.stdout = format!("file://{}", path.display());
        let mut client = machine.create(&container);
        client.start(&container.id, "").unwrap();
        assert_eq!(client.wait(&container.id, "").unwrap(), 0);
        client.delete(&container.id, "").unwrap();
        assert!(fs::read_to_string(&path).unwrap().starts_with("/dev/"));
        client.shut_down();
        assert_gone(&container);
    }
}

#[test]
fn a_logger_reads_a_terminal_too() {
    for executor in executors() {
        let mut machine = Machine::new(executor);
        let mut container = machine.container(&["sh", "-c", "test -t 1 && echo on a terminal"]);
        let logger = machine.path().join("logger");
        let seen = machine.path().join("seen");
        fs::write(&logger, format!("#!/bin/busybox sh\necho >&5\nexec /bin/busybox cat <&3 >{}\n", seen.display()))
            .unwrap();
        fs::set_permissions(&logger, fs::Permissions::from_mode(0o755)).unwrap();
        container.spec["process"]["terminal"] = true.into();
        container.request.terminal = true;
        container.request.stdout = format!("binary-v2://{}", logger.display());
        let mut client = machine.create(&container);
        client.start(&container.id, "").unwrap();
        assert_eq!(client.wait(&container.id, "").unwrap(), 0);
        client.delete(&container.id, "").unwrap();
        assert_eq!(fs::read_to_string(&seen).unwrap(), "on a terminal\r\n");
        client.shut_down();
        assert_gone(&container);
    }
}
