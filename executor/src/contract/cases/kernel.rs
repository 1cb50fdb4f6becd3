//! What a process gets from the kernel beside its namespaces: time, scheduling, personality, scores, propagation of mounts.

use std::fs;

use serde_json::{Value, json};

use crate::Ended;
use crate::contract::Lab;
use crate::contract::lab::eventually;

/// `linux.timeOffsets`.
pub fn a_time_namespace_has_its_offsets(lab: &Lab) {
    let mut spec = lab.script("cat /proc/uptime; sleep 1000");
    spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "time" }));
    spec["linux"]["timeOffsets"] = json!({ "boottime": { "secs": 10_000_000, "nanosecs": 0 } });
    let container = lab.start(&spec);
    container.wait_for("\n");
    let uptime = |text: &str| text.split('.').next().unwrap().parse::<u64>().unwrap();
    assert!(uptime(&container.streams.text()) >= 10_000_000, "{}", container.streams.text());
    let ran = container.exec("one", &container.script("cat /proc/uptime")).unwrap();
    assert!(uptime(&ran.output) >= 10_000_000, "{ran:?}");
}

/// `process.scheduler`, for the init and for an exec.
pub fn the_scheduler_is_as_asked(lab: &Lab) {
    /// `SCHED_BATCH`, and where `/proc/PID/stat` has the policy, counted behind the name.
    const BATCH: &str = "3";
    const POLICY: usize = 38;
    let policy = |pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit(") ").next().unwrap().split(' ').nth(POLICY).unwrap().to_owned()
    };
    let mut spec = lab.spec(&["sleep", "1000"]);
    spec["process"]["scheduler"] = json!({ "policy": "SCHED_BATCH", "nice": 5 });
    let container = lab.start(&spec);
    assert_eq!(policy(container.pid), BATCH);
    let mut process = container.script("exec sleep 1000");
    process["scheduler"] = json!({ "policy": "SCHED_BATCH", "nice": 5 });
    let (pid, _streams) = container.exec_detached("one", &process, None).unwrap();
    assert_eq!(policy(pid), BATCH);
    end(pid);
}

/// `process.ioPriority`.
pub fn the_io_priority_is_as_asked(lab: &Lab) {
    const BEST_EFFORT_6: i64 = 2 << 13 | 6;
    let mut spec = lab.spec(&["sleep", "1000"]);
    spec["process"]["ioPriority"] = json!({ "class": "IOPRIO_CLASS_BE", "priority": 6 });
    let container = lab.start(&spec);
    assert_eq!(crate::sys::io_priority(container.pid).unwrap(), BEST_EFFORT_6);
    let mut process = container.script("exec sleep 1000");
    process["ioPriority"] = json!({ "class": "IOPRIO_CLASS_BE", "priority": 6 });
    let (pid, _streams) = container.exec_detached("one", &process, None).unwrap();
    assert_eq!(crate::sys::io_priority(pid).unwrap(), BEST_EFFORT_6);
    end(pid);
}

/// The init of a pid namespace does not end before the others in it are reaped, and nobody reaps during a `delete`.
fn end(pid: i32) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    crate::contract::lab::wait(pid);
}

/// `linux.personality`.
pub fn a_personality_is_as_asked(lab: &Lab) {
    std::os::unix::fs::symlink("busybox", lab.rootfs().join("bin/uname")).unwrap();
    let mut spec = lab.spec(&["uname", "-m"]);
    spec["linux"]["personality"] = json!({ "domain": "LINUX32" });
    let ran = lab.run(&spec);
    assert!(["i686\n", "armv8l\n"].contains(&ran.output.as_str()), "{ran:?}");
}

/// `process.oomScoreAdj` that anybody may set, and the umask.
pub fn score_and_umask_are_as_asked(lab: &Lab) {
    let mut spec = lab.script("cat /proc/self/oom_score_adj; umask");
    spec["process"]["oomScoreAdj"] = json!(901);
    spec["process"]["user"] = json!({ "uid": 0, "gid": 0, "umask": 0o027 });
    assert_eq!(lab.run(&spec).output, "901\n0027\n");
}

/// A bind mount of a shared mount is a slave of the host's, its own master, or on its own, as its options say.
pub fn mounts_propagate_as_asked(lab: &Lab) {
    let mut spec = lab.script("cat /proc/self/mountinfo; echo end; sleep 1000");
    let shared = lab.path().join("shared");
    fs::create_dir(&shared).unwrap();
    let mounts = spec["mounts"].as_array_mut().unwrap();
    for (target, option) in [("/slave", "rslave"), ("/private", "rprivate"), ("/shared", "rshared")] {
        mounts.push(json!({ "destination": target, "type": "bind", "source": shared, "options": ["rbind", option] }));
    }
    // On a mount of its own, which is shared.
    let _mounted = Mounted::tmpfs(&shared);
    let ran = lab.start(&spec);
    ran.wait_for("end\n");
    let text = ran.streams.text();
    let tags = |target: &str| {
        let line = text
            .lines()
            .find(|line| line.split(' ').nth(4) == Some(target))
            .unwrap_or_else(|| panic!("{target}: {text}"));
        line.split(" - ")
            .next()
            .unwrap()
            .split(' ')
            .skip(6)
            .map(|tag| tag.split(':').next().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(tags("/slave"), ["master"], "{text}");
    assert_eq!(tags("/private"), [""; 0], "{text}");
    assert!(tags("/shared").contains(&"shared".to_owned()), "{text}");
}

/// A mount of this test's, gone with it.
struct Mounted<'path>(&'path std::path::Path);

impl<'path> Mounted<'path> {
    fn tmpfs(path: &'path std::path::Path) -> Self {
        use nix::mount::{MsFlags, mount};
        mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        let mounted = Self(path);
        mount(None::<&str>, path, None::<&str>, MsFlags::MS_SHARED, None::<&str>).unwrap();
        mounted
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

/// `linux.rootfsPropagation`.
pub fn the_root_propagates_as_asked(lab: &Lab) {
    for (asked, tag) in [("private", None), ("shared", Some("shared")), ("slave", Some("master"))] {
        let mut spec = lab.script("grep ' / / \\| /[^ ]* / ' /proc/self/mountinfo | head -n 1");
        spec["linux"]["rootfsPropagation"] = json!(asked);
        let output = lab.run(&spec).output;
        match tag {
            None => assert!(!output.contains("shared:") && !output.contains("master:"), "{asked}: {output}"),
            // A slave of nobody is private.
            Some("master") => assert!(!output.contains("shared:"), "{asked}: {output}"),
            Some(tag) => assert!(output.contains(tag), "{asked}: {output}"),
        }
    }
}

/// Sizes and modes of a tmpfs, and a read-only bind mount.
pub fn options_of_mounts_hold(lab: &Lab) {
    let mut spec = lab.script("grep -E ' /(small|ro) ' /proc/self/mountinfo; touch /ro/x; dd if=/dev/zero of=/small/f bs=1M count=3 2>&1 | grep -o 'No space left on device'");
    let mounts = spec["mounts"].as_array_mut().unwrap();
    mounts.push(json!({ "destination": "/small", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "noexec", "nodev", "size=1m", "mode=700"] }));
    mounts.push(
        json!({ "destination": "/ro", "type": "bind", "source": lab.path(), "options": ["rbind", "ro", "nosuid"] }),
    );
    let ran = lab.run(&spec);
    assert!(ran.output.contains("noexec") && ran.output.contains("mode=700"), "{ran:?}");
    assert!(ran.output.contains("Read-only file system") && ran.output.contains("No space left"), "{ran:?}");
    assert_eq!(ran.ended, Ended::Exited(0));
}

/// A CPU quota stops a busy loop for a part of each period.
pub fn the_cpu_quota_throttles(lab: &Lab) {
    let mut spec = lab.script("while :; do :; done");
    spec["linux"]["resources"]["cpu"] = json!({ "quota": 5000, "period": 100_000 });
    let container = lab.start(&spec);
    let stat = container.cgroup().folder("cpu").unwrap().join("cpu.stat");
    let throttled = || {
        let text = fs::read_to_string(&stat).unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix("nr_throttled ")).unwrap();
        value.parse::<u64>().unwrap() > 1
    };
    assert!(eventually(throttled));
}

/// What the kernel lacks is refused, not left out: security labels.
pub fn labels_that_the_kernel_lacks_are_refused(lab: &Lab) {
    let cases: [(&str, Value, &str); 2] = [
        ("apparmorProfile", json!("some-profile"), "/sys/module/apparmor"),
        ("selinuxLabel", json!("system_u:system_r:container_t:s0"), "/sys/fs/selinux/enforce"),
    ];
    for (field, value, kernel) in cases {
        if std::path::Path::new(kernel).exists() {
            continue;
        }
        let mut spec = lab.spec(&["true"]);
        spec["process"][field] = value;
        let error = lab.try_create(&spec).err().unwrap_or_else(|| panic!("{field} is refused"));
        let text = error.to_string().to_lowercase();
        assert!(text.contains("apparmor") || text.contains("selinux"), "{error}");
    }
}

/// All six kinds of hooks, in their order, and the place where the last one before the program runs.
pub fn six_kinds_of_hooks_are_run_in_order(lab: &Lab) {
    let log = lab.path().join("hooks.log");
    let outside =
        |name: &str| json!([{ "path": "/bin/sh", "args": ["sh", "-c", format!("echo {name} >> {}", log.display())] }]);
    let mut spec = lab.script("cat /hook");
    spec["hooks"] = json!({
        "prestart": outside("prestart"),
        "createRuntime": outside("createRuntime"),
        "createContainer": outside("createContainer"),
        "startContainer": [{ "path": "/bin/sh", "args": ["sh", "-c", "echo $ONLY $PWD > /hook; grep CapEff /proc/self/status >> /hook"], "env": ["ONLY=own", "PATH=/bin"] }],
        "poststart": outside("poststart"),
        "poststop": outside("poststop"),
    });
    let container = lab.try_create(&spec).unwrap();
    assert!(!lab.rootfs().join("hook").exists(), "it belongs to start");
    container.start();
    let ran = container.wait();
    container.delete(false).unwrap();
    // The program's rights, not the runtime's.
    assert_eq!(ran.output, "own /\nCapEff:\t00000000a80425fb\n");
    let text = fs::read_to_string(&log).unwrap();
    let names: Vec<&str> = text.lines().collect();
    assert_eq!(names.iter().filter(|name| **name == "poststart").count(), 1, "{text}");
    let before: Vec<&str> = names.into_iter().filter(|name| *name != "poststart").collect();
    assert_eq!(before, ["prestart", "createRuntime", "createContainer", "poststop"], "{text}");
}

/// A failing hook of the start keeps the program from running.
pub fn a_failing_hook_of_create_fails_it(lab: &Lab) {
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let mut spec = lab.script("echo ran");
        spec["hooks"] = json!({ kind: [{ "path": "/bin/false", "args": ["false"] }] });
        assert!(lab.try_create(&spec).is_err(), "{kind}");
    }
}
