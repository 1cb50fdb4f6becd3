//! By dockerd, which drives a containerd.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use serde_json::json;

use crate::peer::{Peer, RUNTIME, containerds, eventually, trixie};

/// A private dockerd whose only runtime is ours.
struct Docker<'a> {
    peer: &'a Peer,
    root: PathBuf,
    child: Child,
}

impl<'a> Docker<'a> {
    fn start(peer: &'a Peer) -> Self {
        trixie("docker.io");
        let root = trixie("docker-cli");
        let config = json!({
            "runtimes": {"gantry": {"runtimeType": RUNTIME}},
            "default-runtime": "gantry",
            "storage-driver": "vfs",
            "bridge": "none",
            "userland-proxy": false,
            "iptables": false,
            "ip6tables": false,
        });
        fs::write(peer.path().join("docker.json"), config.to_string()).unwrap();
        let child = Self::spawn(peer, &root);
        let docker = Self { peer, root, child };
        docker.await_service();
        docker
    }

    fn spawn(peer: &Peer, root: &std::path::Path) -> Child {
        let path = |name: &str| peer.path().join(name);
        let log = File::options().append(true).create(true).open(path("docker.log")).unwrap();
        let mut command = Command::new(root.join("usr/sbin/dockerd"));
        command.arg("--config-file").arg(path("docker.json")).arg("--data-root").arg(path("docker"));
        command.arg("--exec-root").arg(path("docker-exec")).arg("--pidfile").arg(path("docker.pid"));
        command.arg("-H").arg(format!("unix://{}", path("docker.sock").display()));
        command.arg("--containerd").arg(peer.address()).arg("--containerd-namespace").arg(peer.namespace());
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
    }

    fn await_service(&self) {
        eventually("dockerd serves", || self.try_docker(&["version"]).status.success());
    }

    fn try_docker(&self, words: &[&str]) -> Output {
        let mut command = Command::new(self.root.join("usr/bin/docker"));
        command.arg("-H").arg(format!("unix://{}", self.peer.path().join("docker.sock").display())).args(words);
        command.env("HOME", self.peer.path()).stdin(Stdio::null()).output().unwrap()
    }

    #[track_caller]
    fn docker(&self, words: &[&str]) -> String {
        let output = self.try_docker(words);
        assert!(output.status.success(), "docker {words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn end(&mut self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
        self.child.wait().unwrap();
        // A killed one leaves it, and the next refuses to start beside a process of that pid.
        let _ = fs::remove_file(self.peer.path().join("docker.pid"));
    }
}

impl Drop for Docker<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.peer.path().join("docker.log")).unwrap_or_default();
            eprintln!("log of dockerd:\n{log}");
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn containers_of_dockerd_run_on_this_shim() {
    for programs in containerds() {
        let peer = Peer::start(programs);
        let mut docker = Docker::start(&peer);
        let archive = peer.path().join("box.tar").display().to_string();
        let rootfs = peer.path().join("rootfs");
        let packed = Command::new("tar").arg("-C").arg(&rootfs).args(["-cf", &archive, "."]).status().unwrap();
        assert!(packed.success());
        docker.docker(&["import", &archive, "box"]);
        let ran = docker.try_docker(&["run", "--rm", "--network", "none", "box", "/bin/sh", "-c", "echo out; exit 5"]);
        assert_eq!((ran.status.code(), ran.stdout.as_slice()), (Some(5), &b"out\n"[..]), "{ran:?}");

        let script = "trap 'exit 3' TERM; echo begun; while true; do sleep 0.05; done";
        docker.docker(&["run", "-d", "--name", "long", "--network", "none", "box", "/bin/sh", "-c", script]);
        assert_eq!(docker.docker(&["exec", "long", "/bin/echo", "executed"]), "executed\n");
        docker.docker(&["pause", "long"]);
        docker.docker(&["unpause", "long"]);
        docker.docker(&["update", "--memory", "64m", "--memory-swap", "64m", "long"]);
        assert!(docker.docker(&["stats", "--no-stream", "long"]).contains("64MiB"));
        assert!(docker.docker(&["top", "long"]).contains("sleep"));
        eventually("its output is logged", || docker.docker(&["logs", "long"]) == "begun\n");
        docker.docker(&["stop", "long"]);
        let state = docker.docker(&["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "long"]);
        assert_eq!(state, "exited 3\n");
        docker.docker(&["start", "long"]);
        assert_eq!(docker.docker(&["exec", "long", "/bin/echo", "again"]), "again\n");
        docker.docker(&["rm", "-f", "long"]);
        docker.end(nix::sys::signal::Signal::SIGTERM);
        drop(docker);
        peer.assert_clean();
    }
}
