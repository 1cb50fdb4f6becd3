//! What only the built-in executor promises.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use executor::contract::Lab;
use executor::{Ended, Runtime};
use serde_json::json;

const PROGRAM: &str = env!("CARGO_BIN_EXE_gantry-runtime");

fn lab() -> Lab {
    Lab::new(Runtime::External(PathBuf::from(PROGRAM)))
}

#[test]
fn what_it_cannot_do_is_refused_by_name_and_leaves_nothing() {
    let lab = lab();
    let mut spec = lab.script("true");
    spec["process"]["selinuxLabel"] = json!("system_u:system_r:container_t:s0");
    spec["linux"]["intelRdt"] = json!({ "closID": "x" });
    let text = lab.try_create(&spec).err().unwrap().to_string();
    assert_eq!(
        text,
        "OCI runtime create failed: the built-in runtime does not support process.selinuxLabel, linux.intelRdt"
    );
    assert!(!lab.path().join("state/lab").exists());
}

#[test]
fn limits_that_cannot_be_had_are_lowered_with_a_warning() {
    let lab = lab();
    let mut spec = lab.script("cat /proc/self/oom_score_adj; ulimit -Hn");
    spec["process"]["oomScoreAdj"] = json!(-900);
    spec["process"]["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "hard": 1u64 << 30, "soft": 64 }]);
    spec["process"]["capabilities"]["bounding"].as_array_mut().unwrap().push(json!("CAP_SYS_RESOURCE"));
    let ran = lab.run(&spec);
    assert_eq!(ran.ended, Ended::Exited(0), "{}", ran.output);
    let log = fs::read_to_string(lab.path().join("log.json")).unwrap();
    for (is_granted, warning) in [
        (ran.output.starts_with("-900\n"), "oom_score_adj -900 is not permitted here"),
        (ran.output.ends_with("\n1073741824\n"), "of RLIMIT_NOFILE is not permitted here"),
    ] {
        assert_eq!(is_granted, !log.contains(warning), "{log} {}", ran.output);
    }
}

#[test]
fn a_failed_create_leaves_no_state_no_cgroup_and_no_process() {
    let lab = lab();
    let spec = lab.spec(&["nope"]);
    let error = lab.try_create(&spec).err().unwrap();
    assert_eq!(
        error.to_string(),
        "OCI runtime create failed: unable to start container process: exec: \"nope\": executable file not found in $PATH"
    );
    assert_eq!(fs::read_dir(lab.path().join("state/lab")).unwrap().count(), 0);
    let cgroup = spec["linux"]["cgroupsPath"].as_str().unwrap().trim_start_matches('/').to_owned();
    for controller in ["memory", "pids", "freezer", "devices", "cpu"] {
        assert!(!Path::new("/sys/fs/cgroup").join(controller).join(&cgroup).exists(), "{controller}");
    }
}

#[test]
fn a_create_that_was_killed_half_way_can_be_deleted() {
    let lab = lab();
    let folder = lab.path().join("state/lab/half");
    fs::create_dir_all(folder.join("view")).unwrap();
    fs::write(folder.join("view/config.json"), r#"{"linux":{"cgroupsPath":"/executor-lab-half"}}"#).unwrap();
    let cgroup = Path::new("/sys/fs/cgroup/freezer/executor-lab-half");
    fs::create_dir_all(cgroup).unwrap();
    let mut orphan = Command::new("sleep").arg("1000").spawn().unwrap();
    fs::write(cgroup.join("cgroup.procs"), orphan.id().to_string()).unwrap();
    lab.finish(&lab.executor.delete("half", false), None).unwrap();
    assert!(!folder.exists() && !cgroup.exists());
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&orphan.wait().unwrap()), Some(9));
}

#[test]
fn a_mount_that_fails_is_explained() {
    let lab = lab();
    let mut spec = lab.script("true");
    let mount = json!({ "destination": "/data", "type": "bind", "source": "/no/such/source", "options": ["bind"] });
    spec["mounts"].as_array_mut().unwrap().push(mount);
    let text = lab.try_create(&spec).err().unwrap().to_string();
    assert!(text.contains("/no/such/source"), "{text}");
}

#[test]
fn a_program_that_cannot_be_executed_says_so_on_its_error_stream() {
    let lab = lab();
    let file = lab.rootfs().join("script");
    fs::write(&file, "#!/no/such/interpreter\n").unwrap();
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let ran = lab.run(&lab.spec(&["/script"]));
    assert_eq!((ran.ended, ran.output.as_str()), (Ended::Exited(255), "exec /script: no such file or directory\n"));
    let container = lab.start(&lab.spec(&["sleep", "1000"]));
    let mut process = container.script("");
    process["args"] = json!(["/script"]);
    let text = container.exec("one", &process).unwrap_err().to_string();
    assert!(text.ends_with("exec /script: no such file or directory"), "{text}");
}

#[test]
fn the_program_may_be_deleted_while_its_parent_runs() {
    use std::os::fd::AsRawFd;
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy");
    fs::copy(PROGRAM, &copy).unwrap();
    let file = fs::File::open(&copy).unwrap();
    fs::remove_file(&copy).unwrap();
    let lab = Lab::new(Runtime::External(format!("/proc/self/fd/{}", file.as_raw_fd()).into()));
    let container = lab.start(&lab.spec(&["sleep", "1000"]));
    assert_eq!(container.exec("one", &container.script("echo from nowhere")).unwrap().output, "from nowhere\n");
}

#[test]
fn twenty_at_once_and_again_leave_the_machine_as_it_was() {
    let cgroups = || {
        let mut names = Vec::new();
        for controller in fs::read_dir("/sys/fs/cgroup").unwrap().map(Result::unwrap) {
            let folders = fs::read_dir(controller.path()).unwrap().map(|entry| entry.unwrap().path());
            let mine = format!("executor-lab-{}-", std::process::id());
            names.extend(folders.filter(|path| path.to_string_lossy().contains(&mine)));
        }
        names
    };
    let mounts = || {
        let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
        text.lines().filter(|line| line.contains("executor-lab")).count()
    };
    for _ in 0..3 {
        std::thread::scope(|scope| {
            for number in 0..20 {
                scope.spawn(move || {
                    let lab = lab();
                    let ran = lab.run(&lab.script(&format!("echo {number}; exit {number}")));
                    assert_eq!((ran.ended, ran.output), (Ended::Exited(number), format!("{number}\n")));
                });
            }
        });
        assert_eq!(cgroups(), Vec::<PathBuf>::new());
        assert_eq!(mounts(), 0);
        // Only this process's children could be left: none is.
        assert!(nix::sys::wait::waitpid(None, Some(nix::sys::wait::WaitPidFlag::WNOHANG)).is_err());
    }
}

#[test]
fn a_profile_that_cannot_be_kept_is_refused() {
    let lab = lab();
    let mut spec = lab.script("true");
    spec["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/listener" });
    let text = lab.try_create(&spec).err().unwrap().to_string();
    assert!(text.ends_with("does not support linux.seccomp"), "{text}");
}

#[test]
fn help_for_people_at_a_terminal() {
    let output = Command::new(PROGRAM).arg("--version").output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().starts_with("gantry-runtime version "));
    let output = Command::new(PROGRAM).args(["checkpoint", "x"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "command \"checkpoint\" is not supported by the built-in runtime\n"
    );
}
