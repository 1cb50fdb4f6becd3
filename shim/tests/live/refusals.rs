//! What is asked for in vain: the right error, and nothing left behind.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use model::Kind;
use proto::task::v3 as wire;

use crate::machine::{Machine, assert_gone, executors};

#[test]
fn creates_that_fail_leave_nothing() {
    for executor in executors() {
        let mut machine = Machine::new(executor);
        let mut container = machine.container(&["nonsense"]);
        let refused = machine.try_create(&container).err().expect("no such program");
        assert_eq!(refused.kind, Kind::Unknown);
        assert!(refused.message.starts_with("OCI runtime create failed: "), "{refused:?}");
        assert!(refused.message.contains("executable file not found in $PATH"), "{refused:?}");
        assert_gone(&container);

        container = machine.container(&["true"]);
        container.request.rootfs[0].r#type = "nosuchfs".into();
        let refused = machine.try_create(&container).err().expect("no such filesystem");
        assert!(refused.message.contains("failed to mount rootfs component"), "{refused:?}");
        assert_gone(&container);

        container = machine.container(&["true"]);
        container.request.stdout = "/nowhere/fifo".into();
        let refused = machine.try_create(&container).err().expect("no such fifo");
        assert_eq!(refused.kind, Kind::NotFound, "{refused:?}");
        assert_gone(&container);
    }
}

#[test]
fn an_executor_that_is_missing_is_named() {
    for _ in executors().iter().take(1) {
        let mut machine = Machine::new("builtin");
        let mut container = machine.container(&["true"]);
        container.request.options = Some(proto::any::pack(&proto::runc::v1::Options {
            binary_name: "no-such-runtime".into(),
            ..Default::default()
        }));
        let refused = machine.try_create(&container).err().expect("no such executor");
        assert!(refused.message.contains("no-such-runtime"), "{refused:?}");
        assert_gone(&container);
    }
}

#[test]
fn unknown_things_are_not_found_and_unknown_calls_unimplemented() {
    for executor in executors() {
        let mut machine = Machine::new(executor);
        let container = machine.container(&["sleep", "1000"]);
        let id = container.id.clone();
        let mut client = machine.create(&container);
        let twice = client.call::<_, wire::CreateTaskResponse>("Create", &container.request).unwrap_err();
        assert_eq!(twice.kind, Kind::AlreadyExists);
        assert_eq!(client.state("other", "").unwrap_err().kind, Kind::NotFound);
        assert_eq!(client.wait(&id, "none").unwrap_err().kind, Kind::NotFound);
        assert_eq!(client.kill(&id, "", 999).unwrap_err().kind, Kind::InvalidArgument);
        assert_eq!(client.call::<_, ()>("Migrate", &()).unwrap_err().kind, Kind::Unimplemented);
        client.start(&id, "").unwrap();
        assert_eq!(client.start(&id, "").unwrap_err().kind, Kind::FailedPrecondition);
        assert_eq!(client.delete(&id, "").unwrap_err().kind, Kind::FailedPrecondition);
        client.kill(&id, "", 9).unwrap();
        client.wait(&id, "").unwrap();
        client.delete(&id, "").unwrap();
        assert_eq!(client.delete(&id, "").unwrap_err().kind, Kind::NotFound);
        client.shut_down();
        assert_gone(&container);
    }
}

#[test]
fn nonsense_on_the_socket_hurts_nobody_else() {
    for executor in executors() {
        let mut machine = Machine::new(executor);
        let container = machine.container(&["sleep", "1000"]);
        let socket = machine.start(&container);
        let mut other = UnixStream::connect(&socket).unwrap();
        other.write_all(&[0xff; 4096]).unwrap();
        let mut half = UnixStream::connect(&socket).unwrap();
        half.write_all(&[0, 0, 1, 0, 0, 0, 0, 1, 1, 0, b'x']).unwrap();
        let crowd: Vec<UnixStream> = (0..200).map(|_| UnixStream::connect(&socket).unwrap()).collect();
        drop(crowd);
        let mut client = crate::client::Client::connect(&socket);
        let _: wire::CreateTaskResponse = client.call("Create", &container.request).unwrap();
        drop(half);
        let mut rest = Vec::new();
        other.shutdown(std::net::Shutdown::Write).unwrap();
        let _ = other.read_to_end(&mut rest);
        client.delete(&container.id, "").unwrap();
        client.shut_down();
        assert_gone(&container);
    }
}

#[test]
fn executors_get_nothing_that_was_meant_for_the_daemon() {
    for _ in executors().iter().take(1) {
        let mut machine = Machine::new("builtin");
        let mut container = machine.container(&["true"]);
        let program = machine.path().join("spy");
        let seen = machine.path().join("seen");
        let script =
            format!("#!/bin/busybox sh\n/bin/busybox env >{0}\necho /proc/self/fd/* >>{0}\nexit 1\n", seen.display());
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        container.request.options = Some(proto::any::pack(&proto::runc::v1::Options {
            binary_name: program.display().to_string(),
            ..Default::default()
        }));
        let leaked = std::fs::File::open("/dev/zero").unwrap();
        rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).unwrap();
        let socket = machine.serve_with(&container, &[("NOTIFY_SOCKET", "/run/notify"), ("LISTEN_FDS", "1")]);
        let mut client = crate::client::Client::connect(&socket);
        let shim = client.shim_pid();
        let refused = client.call::<_, wire::CreateTaskResponse>("Create", &container.request).unwrap_err();
        assert!(refused.message.starts_with("OCI runtime create failed: "), "{refused:?}");
        let seen = std::fs::read_to_string(&seen).unwrap();
        for name in ["NOTIFY_SOCKET", "LISTEN_FDS", "GANTRY_SHIM_LISTEN_FD"] {
            assert!(!seen.contains(name), "{seen}");
        }
        let links: Vec<_> = std::fs::read_dir(format!("/proc/{shim}/fd"))
            .unwrap()
            .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
            .collect();
        assert!(!links.contains(&"/dev/zero".into()), "{links:?}");
        client.shut_down();
        assert_gone(&container);
    }
}
