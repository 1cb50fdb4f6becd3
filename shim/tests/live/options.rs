//! Each of the runtime's options has its effect.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use prost::Message as _;
use proto::runc::v1::Options;
use proto::task::v3 as wire;

use crate::client::Client;
use crate::machine::{Container, Machine, assert_gone, eventually, executors, finish};

fn with(container: &mut Container, options: Options) {
    container.request.options = Some(proto::any::pack(&options));
}

#[test]
fn the_runtime_is_the_one_named_and_gets_what_was_asked_for() {
    for _ in executors().iter().take(1) {
        let mut machine = Machine::new("builtin");
        let mut container = machine.container(&["true"]);
        let (program, seen) = (machine.path().join("spy"), machine.path().join("seen"));
        fs::write(&program, format!("#!/bin/busybox sh\necho \"$@\" >>{}\nexit 1\n", seen.display())).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        with(
            &mut container,
            Options {
                binary_name: program.display().to_string(),
                root: "/run/shim-test-root".into(),
                systemd_cgroup: true,
                no_pivot_root: true,
                no_new_keyring: true,
                ..Default::default()
            },
        );
        machine.try_create(&container).err().expect("the spy runs nothing");
        let line = fs::read_to_string(&seen).unwrap();
        for wanted in ["--root /run/shim-test-root/shim-test ", "--systemd-cgroup", "--no-pivot", "--no-new-keyring"] {
            assert!(line.contains(wanted), "{wanted} in {line}");
        }
        let written = fs::read_to_string(container.bundle.join("options.json")).unwrap();
        assert!(written.contains("\"root\":\"/run/shim-test-root\""), "{written}");
        assert_gone(&container);
    }
}

#[test]
fn the_owner_of_the_streams_can_open_them_again() {
    for executor in executors() {
        let mut machine = Machine::new(executor);
        let script =
            "busybox stat -L -c '%u %g' /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2; echo again >/dev/stdout";
        let mut container = machine.container(&["busybox", "sh", "-c", script]);
        container.spec["process"]["user"] = serde_json::json!({"uid": 1234, "gid": 5678});
        let path = machine.path().join("out");
        container.request.stdin = "gantry-attach:///".into();
        container.request.stdout = format!("file://{}", path.display());
        with(&mut container, Options { io_uid: 1234, io_gid: 5678, ..Default::default() });
        let mut client = machine.create(&container);
        client.start(&container.id, "").unwrap();
        client.wait(&container.id, "").unwrap();
        client.delete(&container.id, "").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "1234 5678\n1234 5678\n1234 5678\nagain\n");
        client.shut_down();
        assert_gone(&container);
    }
}

#[test]
fn the_shim_is_in_the_cgroup_for_shims_and_the_container_is_not() {
    let hierarchy = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].map(std::path::Path::new);
    let Some(hierarchy) = hierarchy.into_iter().find(|path| path.join("cgroup.procs").exists()) else { return };
    for executor in executors() {
        let name = format!("shims-{}-{executor}", std::process::id());
        let folder = hierarchy.join(&name);
        fs::create_dir(&folder).unwrap();
        let mut machine = Machine::new(executor);
        let mut container = machine.container(&["sleep", "1000"]);
        let options = Options { shim_cgroup: format!("/{name}"), ..Default::default() };
        with(&mut container, options.clone());
        // At the start already, as an old daemon says it.
        let output = machine.run_start(&container, &proto::any::pack(&options).encode_to_vec());
        let address = String::from_utf8(output.stdout).unwrap();
        let mut client = Client::connect(std::path::Path::new(address.strip_prefix("unix://").unwrap()));
        let procs = || fs::read_to_string(folder.join("cgroup.procs")).unwrap();
        let shim = client.shim_pid();
        assert_eq!(procs(), format!("{shim}\n"));
        let created: wire::CreateTaskResponse = client.call("Create", &container.request).unwrap();
        client.start(&container.id, "").unwrap();
        assert_eq!(procs(), format!("{shim}\n"), "not the container's {}", created.pid);
        finish(&container, client);
        eventually("the cgroup can be removed", || fs::remove_dir(&folder).is_ok());
    }
}

#[test]
fn a_service_that_is_there_already_is_passed_on() {
    for _ in executors().iter().take(1) {
        let mut machine = Machine::new("builtin");
        let container = machine.container(&["true"]);
        let options = Options {
            task_api_address: "unix:///run/sandbox/of/another".into(),
            task_api_version: 3,
            ..Default::default()
        };
        let output = machine.run_start(&container, &proto::any::pack(&options).encode_to_vec());
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "unix:///run/sandbox/of/another");
        assert!(!machine.path().join("s").exists(), "no socket of ours");
    }
}
