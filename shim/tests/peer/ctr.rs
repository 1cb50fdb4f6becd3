//! By `ctr`.

use std::fs;

use crate::peer::{Peer, RUNTIME, containerds, eventually, pids_with};

#[test]
fn containers_run_are_looked_into_and_go() {
    for programs in containerds() {
        let peer = Peer::start(programs);
        let rootfs = peer.path().join("rootfs").display().to_string();
        let flags = ["run", "--rm", "--runtime", RUNTIME, "--rootfs", &rootfs];
        let ran = peer.try_ctr(&[&flags[..], &["one", "/bin/sh", "-c", "echo out; echo err >&2; exit 7"]].concat());
        assert_eq!((ran.status.code(), ran.stdout.as_slice()), (Some(7), &b"out\n"[..]), "{ran:?}");
        assert!(String::from_utf8_lossy(&ran.stderr).contains("err\n"), "{ran:?}");
        let wrong = peer.try_ctr(&[&flags[..], &["two", "/bin/nonsense"]].concat());
        assert!(String::from_utf8_lossy(&wrong.stderr).contains("OCI runtime create failed: "), "{wrong:?}");
        let _ = peer.try_ctr(&["container", "rm", "two"]);

        let log = peer.path().join("logs/three.log");
        let uri = format!("file://{}", log.display());
        peer.run("three", &["--log-uri", &uri], &["/bin/sh", "-c", "echo logged; while true; do sleep 0.1; done"]);
        assert_eq!(peer.status("three"), "RUNNING");
        eventually("it has logged", || fs::read_to_string(&log).is_ok_and(|text| text == "logged\n"));
        assert_eq!(peer.ctr(&["task", "exec", "--exec-id", "e", "three", "/bin/echo", "executed"]), "executed\n");
        peer.ctr(&["task", "pause", "three"]);
        assert_eq!(peer.status("three"), "PAUSED");
        peer.ctr(&["task", "resume", "three"]);
        assert!(peer.ctr(&["task", "ps", "three"]).lines().count() >= 2);
        assert!(peer.ctr(&["task", "metrics", "three"]).contains("memory"));
        peer.remove("three");
        peer.assert_clean();
    }
}

#[test]
fn containers_of_a_group_share_one_shim_until_the_last_is_gone() {
    for programs in containerds() {
        let peer = Peer::start(programs);
        for (id, annotation) in
            [("one", "io.containerd.runc.v2.group=pod"), ("two", "io.kubernetes.cri.sandbox-id=pod")]
        {
            peer.run(id, &["--annotation", annotation], &["/bin/sleep", "1000"]);
        }
        let shims = || pids_with(&peer.address().display().to_string(), "-publish-binary").len();
        eventually("there is one shim", || shims() == 1);
        peer.remove("one");
        assert_eq!(peer.status("two"), "RUNNING");
        assert_eq!(shims(), 1);
        assert_eq!(peer.ctr(&["task", "exec", "--exec-id", "e", "two", "/bin/echo", "still"]), "still\n");
        peer.remove("two");
        peer.assert_clean();
    }
}

#[test]
fn a_daemon_that_was_killed_finds_what_runs_and_what_has_ended() {
    for programs in containerds() {
        let mut peer = Peer::start(programs);
        peer.run("stays", &[], &["/bin/sleep", "1000"]);
        let go = peer.path().join("rootfs/go");
        peer.run("ends", &[], &["/bin/sh", "-c", "while ! test -e /go; do sleep 0.05; done; exit 9"]);
        peer.kill9();
        let pid = fs::read_to_string(peer.bundle("ends").join("init.pid")).unwrap();
        fs::write(&go, "").unwrap();
        eventually("it has ended", || !std::path::Path::new(&format!("/proc/{}/root/bin", pid.trim())).exists());
        peer.come_back();
        assert_eq!(peer.status("stays"), "RUNNING");
        assert_eq!(peer.ctr(&["task", "exec", "--exec-id", "e", "stays", "/bin/echo", "here"]), "here\n");
        eventually("its end is known", || peer.status("ends") == "STOPPED");
        let removed = peer.try_ctr(&["task", "rm", "ends"]);
        assert!(String::from_utf8_lossy(&removed.stderr).contains("exit code 9"), "{removed:?}");
        peer.ctr(&["container", "rm", "ends"]);
        peer.remove("stays");
        peer.assert_clean();
    }
}
