//! What a container sees and cannot reach: namespaces, mounts, descriptors, capabilities, the runtime itself.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;

use serde_json::json;

use crate::contract::Lab;
use crate::contract::plain_spec;
use crate::contract::spec::DEFAULT_CAPABILITIES;

/// New namespaces differ from the host's; one given by path is joined; one not named is the host's.
pub fn namespaces_are_new_or_joined_by_path(lab: &Lab) {
    let of = |pid: &str, namespace: &str| fs::read_link(format!("/proc/{pid}/ns/{namespace}")).unwrap();
    let first = lab.start(&lab.spec(&["sleep", "1000"]));
    for namespace in ["pid", "ipc", "uts", "mnt", "net"] {
        assert_ne!(of(&first.pid.to_string(), namespace), of("self", namespace), "{namespace}");
    }
    let mut spec = lab.script("hostname; cat /proc/1/comm; sleep 1000");
    spec["linux"]["cgroupsPath"] = json!(format!("{}-second", spec["linux"]["cgroupsPath"].as_str().unwrap()));
    spec["linux"]["namespaces"] = json!([
        { "type": "network", "path": format!("/proc/{}/ns/net", first.pid) },
        { "type": "ipc", "path": format!("/proc/{}/ns/ipc", first.pid) },
        { "type": "pid", "path": format!("/proc/{}/ns/pid", first.pid) },
        { "type": "mount" },
    ]);
    spec.as_object_mut().unwrap().remove("hostname");
    let second = lab.create_with(&spec, "second", None).unwrap();
    second.start();
    for namespace in ["net", "ipc"] {
        assert_eq!(of(&second.pid.to_string(), namespace), of(&first.pid.to_string(), namespace), "{namespace}");
    }
    assert_eq!(of(&second.pid.to_string(), "uts"), of("self", "uts"));
    let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
    second.wait_for(&format!("{host}\nsleep\n"));
}

/// A cgroup namespace shows the container's cgroup as the root, to execs too.
pub fn a_cgroup_namespace_hides_where_it_is(lab: &Lab) {
    let mut spec = lab.spec(&["sleep", "1000"]);
    spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "cgroup" }));
    let container = lab.start(&spec);
    let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/cgroup")).unwrap();
    assert_ne!(of(&container.pid.to_string()), of("self"));
    assert_eq!(
        container.exec("one", &container.script("grep memory: /proc/self/cgroup | sed s/.*://")).unwrap().output,
        "/\n"
    );
    assert_eq!(
        container.exec("two", &container.script("grep pids: /proc/1/cgroup | sed s/.*://")).unwrap().output,
        "/\n"
    );
}

/// `root.readonly`.
pub fn a_read_only_root_refuses_writes(lab: &Lab) {
    let mut spec = lab.script("touch /file; touch /run/file && echo run is writable");
    spec["root"]["readonly"] = json!(true);
    let output = lab.run(&spec).output;
    assert!(output.contains("Read-only file system") && output.contains("run is writable"), "{output}");
    assert!(!lab.rootfs().join("file").exists());
}

/// `maskedPaths` are empty, `readonlyPaths` refuse writes.
pub fn hidden_paths_are_hidden(lab: &Lab) {
    let mut spec = lab.script("cat /secret; ls /hidden | head -n 1; cat /proc/timer_list | head -n 1; echo 1 > /proc/sys/kernel/domainname; echo end");
    fs::write(lab.rootfs().join("secret"), "secret text").unwrap();
    fs::create_dir(lab.rootfs().join("hidden")).unwrap();
    fs::write(lab.rootfs().join("hidden/name"), "").unwrap();
    spec["linux"]["maskedPaths"].as_array_mut().unwrap().extend([
        json!("/secret"),
        json!("/hidden"),
        json!("/not-there"),
    ]);
    let output = lab.run(&spec).output;
    assert!(output.contains("Read-only file system") && output.ends_with("end\n"), "{output}");
    assert_eq!(output.lines().count(), 2, "{output}");
}

/// Even a descriptor that the caller forgot to close does not reach the container.
pub fn no_descriptor_of_the_host_is_inherited(lab: &Lab) {
    let leak = fs::File::open("/").unwrap();
    nix::fcntl::fcntl(&leak, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    assert!(leak.as_raw_fd() > 2);
    let container = lab.start(&lab.script("ls /proc/self/fd; echo; sleep 1000"));
    container.wait_for("\n\n");
    // The last one is the folder that ls reads.
    assert_eq!(container.streams.text(), "0\n1\n2\n3\n\n");
    assert_eq!(fs::read_dir(format!("/proc/{}/fd", container.pid)).unwrap().count(), 3);
    assert_eq!(container.exec("one", &container.script("exec ls /proc/self/fd")).unwrap().output, "0\n1\n2\n3\n");
}

/// Inheritable and ambient sets are empty unless asked for, in run and exec.
pub fn no_capability_is_inheritable_or_ambient(lab: &Lab) {
    let script = "grep Cap /proc/self/status; sleep 1000";
    let mut spec = lab.script(script);
    let container = lab.start(&spec);
    container.wait_for("CapAmb");
    let exec = container.exec("one", &container.script("grep Cap /proc/self/status")).unwrap().output;
    for output in [container.streams.text(), exec] {
        assert!(
            output.contains("CapInh:\t0000000000000000") && output.contains("CapAmb:\t0000000000000000"),
            "{output}"
        );
        for field in ["CapPrm", "CapEff", "CapBnd"] {
            assert!(output.contains(&format!("{field}:\t00000000a80425fb")), "{DEFAULT_CAPABILITIES:?}: {output}");
        }
    }
    container.delete(true).unwrap();
    let sets = json!(["CAP_KILL"]);
    spec = lab.script("grep -E 'Cap(Eff|Amb)' /proc/self/status");
    spec["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
    spec["process"]["capabilities"] =
        json!({ "bounding": sets, "effective": sets, "permitted": sets, "inheritable": sets, "ambient": sets });
    assert_eq!(lab.run(&spec).output, "CapEff:\t0000000000000020\nCapAmb:\t0000000000000020\n");
}

/// Namespaced sysctls are set; others, and such with tricks in them, are refused.
pub fn sysctls_are_set(lab: &Lab) {
    let mut spec = lab.script("cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmax");
    spec["linux"]["sysctl"] = json!({ "net.ipv4.ip_unprivileged_port_start": "0", "kernel.msgmax": "8000" });
    assert_eq!(lab.run(&spec).output, "0\n8000\n");
    let before = fs::read_to_string("/proc/sys/kernel/panic").unwrap();
    for bad in ["kernel.panic", "net/../kernel.panic", "kernel.shm_rmid_forced+kernel.panic"] {
        let mut spec = plain_spec(&["true"], "/executor-lab-sysctl");
        spec["linux"]["sysctl"] = json!({ bad: "77" });
        assert!(lab.create_with(&spec, "sysctl", None).is_err(), "{bad}");
    }
    assert_eq!(fs::read_to_string("/proc/sys/kernel/panic").unwrap(), before);
}

/// A working folder that is a descriptor of the runtime's does not lead to the host.
pub fn the_working_folder_cannot_leave_the_root(lab: &Lab) {
    fs::write(lab.rootfs().join("inside"), "").unwrap();
    for number in 3..20 {
        let mut spec = lab.script("ls");
        spec["process"]["cwd"] = json!(format!("/proc/self/fd/{number}"));
        // Refused is right. So is a folder of the container.
        if let Ok(container) = lab.try_create(&spec) {
            container.start();
            let output = container.wait().output;
            assert!(output.contains("inside") || output.is_empty(), "cwd by descriptor {number} shows {output}");
        }
    }
    // One that would have to be made.
    let name = format!("executor-lab-made-{}", std::process::id());
    for number in 3..20 {
        let mut spec = lab.script("ls");
        spec["process"]["cwd"] = json!(format!("/proc/self/fd/{number}/{name}"));
        drop(lab.try_create(&spec));
        for folder in ["/", "/sys/fs/cgroup", "/proc", "/run"].map(Path::new).into_iter().chain([lab.path()]) {
            assert!(!folder.join(&name).exists(), "cwd by descriptor {number} makes a folder in {}", folder.display());
        }
    }
}

/// A container that writes to every `/proc/*/exe` it sees does not change the runtime's file.
pub fn the_runtimes_file_cannot_be_written(lab: &Lab) {
    let program = lab.finish(&lab.executor.features(), None).map(|_| lab.executor.features().program);
    let program = program.expect("features");
    let path = if program.is_absolute() { program } else { Path::new("/usr/sbin").join(program) };
    let before = fs::read(&path).unwrap();
    let script = "echo ready; while :; do for exe in /proc/[0-9]*/exe; do case $exe in /proc/1/exe) ;; *) (echo broken > $exe) 2>/dev/null && readlink $exe;; esac; done; done";
    let mut spec = lab.script(script);
    let all = json!(["CAP_DAC_OVERRIDE", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"]);
    spec["process"]["capabilities"] = json!({ "bounding": all, "effective": all, "permitted": all });
    spec["root"]["readonly"] = json!(true);
    let container = lab.start(&spec);
    container.wait_for("ready");
    for index in 0..20 {
        let _ = container.exec(&format!("e{index}"), &container.script("true"));
    }
    assert!(fs::read(&path).unwrap() == before, "{} was changed: {}", path.display(), container.streams.text());
}

/// Bind mounts, read-only ones and files too; missing targets are made; devices and the container's cgroups are there.
pub fn mounts_are_made(lab: &Lab) {
    let outside = lab.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "content\n").unwrap();
    let mut spec = lab.script(
        "cat /data/file; echo new > /data/new && echo written; cat /etc/made; echo x > /etc/made; echo null > /dev/null && head -c 2 /dev/zero | wc -c; test -c /dev/urandom && test -L /dev/fd && echo devices; test -e /sys/fs/cgroup/memory/cgroup.procs && echo cgroups; touch /sys/fs/cgroup/memory/x",
    );
    let bind = |target: &str, source: &Path, options: &[&str]| json!({ "destination": target, "type": "bind", "source": source, "options": options });
    let cgroups =
        json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid"] });
    let file = bind("/etc/made", &outside.join("file"), &["bind", "ro"]);
    spec["mounts"].as_array_mut().unwrap().extend([bind("/data", &outside, &["rbind", "rw"]), file, cgroups]);
    std::os::unix::fs::symlink("busybox", lab.rootfs().join("bin/wc")).unwrap();
    let output = lab.run(&spec).output;
    assert_eq!(
        output.lines().collect::<Vec<_>>(),
        [
            "content",
            "written",
            "content",
            "sh: can't create /etc/made: Read-only file system",
            "2",
            "devices",
            "cgroups",
            "touch: /sys/fs/cgroup/memory/x: Read-only file system"
        ]
    );
    assert_eq!(fs::read_to_string(outside.join("new")).unwrap(), "new\n");
}
