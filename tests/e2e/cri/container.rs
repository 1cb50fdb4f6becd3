//! Containers of pods: their life, and what clients are told of it.

use anyhow::ensure;
use harness::eventually;
use harness::image::BUSYBOX_NAME;
use proto::cri;
use proto::cri::ContainerState::{ContainerCreated, ContainerExited, ContainerRunning};
use tonic::Code;

use super::rig::{Rig, code, script_config};

#[test]
fn a_container_lives_from_created_to_removed() -> anyhow::Result<()> {
    let rig = Rig::start()?;
    let pod = rig.pod("life")?;
    let mut config = script_config("c", "echo out; echo err >&2; exit 3");
    config.labels = [("app".to_owned(), "x".to_owned())].into();
    config.annotations = [("note".to_owned(), "y".to_owned())].into();
    let id = rig.create(&pod, config)?;
    ensure!(id.len() == 64, "{id}");
    let status = rig.status(&id)?;
    ensure!(status.state() == ContainerCreated && status.created_at > 0 && status.started_at == 0, "{status:?}");
    ensure!(status.labels.get("app").is_some_and(|value| value == "x"), "{status:?}");
    ensure!(status.annotations.get("note").is_some_and(|value| value == "y"), "{status:?}");
    ensure!(status.image.as_ref().is_some_and(|image| image.image == BUSYBOX_NAME), "{status:?}");
    ensure!(status.image_id.starts_with("sha256:"), "{status:?}");
    ensure!(rig.status(&id[..12])?.id == id, "the beginning of an id will do");

    rig.start_container(&id)?;
    let status = rig.ended(&id)?;
    ensure!((status.exit_code, status.reason.as_str()) == (3, "Error"), "{status:?}");
    ensure!(status.created_at <= status.started_at && status.started_at <= status.finished_at, "{status:?}");
    ensure!(code(rig.start_container(&id)) == Code::FailedPrecondition, "it starts once");
    rig.stop(&id, 0)?;
    rig.remove(&id)?;
    ensure!(code(rig.status(&id)) == Code::NotFound, "it is gone");
    rig.remove(&id)?;
    rig.stop(&id, 0)?;
    ensure!(rig.daemon.ctr(&["-n", "k8s.io", "containers", "ls", "-q"])?.ok()?.lines().all(|line| line != id));
    ensure!(!rig.daemon.ctr(&["-n", "k8s.io", "snapshots", "ls"])?.ok()?.contains(&id), "its snapshot is gone");
    Ok(())
}

#[test]
fn ends_have_reasons() -> anyhow::Result<()> {
    let rig = Rig::start()?;
    let pod = rig.pod("reasons")?;
    let (status, output) = rig.run_to_end(&pod, script_config("good", "echo fine"))?;
    ensure!((status.exit_code, status.reason.as_str(), output.as_str()) == (0, "Completed", "fine\n"), "{status:?}");

    let mut config = script_config("missing", "");
    config.command = vec!["/no/such/program".into()];
    let id = rig.create(&pod, config)?;
    let refused = rig.start_container(&id).expect_err("there is no such program");
    ensure!(refused.message().contains("no such file"), "{refused}");
    let status = rig.status(&id)?;
    ensure!((status.exit_code, status.reason.as_str()) == (128, "StartError"), "{status:?}");
    ensure!(status.message.contains("no such file") && status.finished_at > 0, "{status:?}");
    rig.remove(&id)?;

    let id = rig.run(&pod, script_config("killed", "exec sleep 1000"))?;
    rig.stop(&id, 0)?;
    let status = rig.status(&id)?;
    ensure!((status.state(), status.exit_code) == (ContainerExited, 137), "{status:?}");
    Ok(())
}

#[test]
fn a_stop_asks_with_the_right_signal_and_then_kills() -> anyhow::Result<()> {
    let rig = Rig::start()?;
    let pod = rig.pod("stop")?;
    let trap = "trap 'exit 7' TERM; trap 'exit 8' USR1; echo ready; while true; do sleep 0.05; done";
    let ready = |id: &str| {
        eventually("it is ready", || {
            let log = rig.status(id)?.log_path;
            ensure!(std::fs::read_to_string(&log)?.contains("ready"));
            Ok(())
        })
    };
    let id = rig.run(&pod, script_config("term", trap))?;
    ready(&id)?;
    rig.stop(&id, 60)?;
    ensure!(rig.status(&id)?.exit_code == 7, "TERM is the usual one");

    let mut config = script_config("usr1", trap);
    config.stop_signal = cri::Signal::Sigusr1.into();
    let id = rig.run(&pod, config)?;
    ensure!(rig.status(&id)?.stop_signal() == cri::Signal::Sigusr1);
    ready(&id)?;
    rig.stop(&id, 60)?;
    ensure!(rig.status(&id)?.exit_code == 8, "the pod's own signal wins");

    let id = rig.run(&pod, script_config("deaf", "trap '' TERM; echo ready; while true; do sleep 0.05; done"))?;
    ready(&id)?;
    rig.stop(&id, 1)?;
    ensure!(rig.status(&id)?.exit_code == 137, "who does not hear is killed");
    Ok(())
}

#[test]
fn lists_are_filtered() -> anyhow::Result<()> {
    let rig = Rig::start()?;
    let (one, other) = (rig.pod("list1")?, rig.pod("list2")?);
    let mut config = script_config("a", "exec sleep 1000");
    config.labels = [("app".to_owned(), "x".to_owned())].into();
    let running = rig.run(&one, config)?;
    let created = rig.create_script(&one, "b", "true")?;
    let elsewhere = rig.create_script(&other, "a", "true")?;
    let state = |state: cri::ContainerState| Some(cri::ContainerStateValue { state: state.into() });
    let base = cri::ContainerFilter::default;
    for (filter, expected) in [
        (base(), vec![&running, &created, &elsewhere]),
        (cri::ContainerFilter { id: running.clone(), ..base() }, vec![&running]),
        (cri::ContainerFilter { id: running[..20].into(), ..base() }, vec![&running]),
        (cri::ContainerFilter { id: "nothing".into(), ..base() }, vec![]),
        (cri::ContainerFilter { state: state(ContainerRunning), ..base() }, vec![&running]),
        (cri::ContainerFilter { state: state(ContainerCreated), ..base() }, vec![&created, &elsewhere]),
        (cri::ContainerFilter { pod_sandbox_id: other.id, ..base() }, vec![&elsewhere]),
        (cri::ContainerFilter { pod_sandbox_id: "nothing".into(), ..base() }, vec![]),
        (
            cri::ContainerFilter { label_selector: [("app".to_owned(), "x".to_owned())].into(), ..base() },
            vec![&running],
        ),
    ] {
        let mut found: Vec<_> = rig.list(filter.clone())?.into_iter().map(|container| container.id).collect();
        let mut expected: Vec<_> = expected.into_iter().cloned().collect();
        found.sort();
        expected.sort();
        ensure!(found == expected, "{filter:?}: {found:?}");
    }
    let mut stream = rig.ask(rig.cri().stream_containers(cri::StreamContainersRequest { filter: None }))?;
    let mut count = 0;
    while let Some(piece) = rig.wait(stream.message())? {
        count += piece.containers.len();
    }
    ensure!(count == 3, "the stream says the same: {count}");
    Ok(())
}

#[test]
fn bad_requests_are_refused_and_leave_nothing() -> anyhow::Result<()> {
    let rig = Rig::start()?;
    let pod = rig.pod("bad")?;
    let base = || script_config("c", "true");
    let mount = |container: &str, host: &str| cri::Mount {
        container_path: container.into(),
        host_path: host.into(),
        ..Default::default()
    };
    type Change<'a> = &'a dyn Fn(&mut cri::ContainerConfig);
    let changes: [(Change, Code); 9] = [
        (&|config| config.metadata = None, Code::InvalidArgument),
        (&|config| config.image = None, Code::InvalidArgument),
        (&|config| config.image.as_mut().unwrap().image = "no-such-image".into(), Code::NotFound),
        (&|config| config.working_dir = "relative".into(), Code::InvalidArgument),
        (&|config| config.mounts = vec![mount("", "/tmp")], Code::InvalidArgument),
        (&|config| config.mounts = vec![mount("/x", "relative")], Code::InvalidArgument),
        (&|config| config.log_path = "../../escape".into(), Code::InvalidArgument),
        (&|config| config.stop_signal = 99, Code::InvalidArgument),
        (&|config| config.devices = vec![cri::Device::default()], Code::InvalidArgument),
    ];
    for (at, (change, expected)) in changes.iter().enumerate() {
        let mut config = base();
        change(&mut config);
        let refused = rig.create(&pod, config);
        ensure!(code(refused.clone()) == *expected, "change {at}: {refused:?}");
    }
    let nowhere = super::rig::Pod { id: "no-such-pod".into(), config: pod.config.clone() };
    ensure!(code(rig.create(&nowhere, base())) == Code::NotFound);
    for id in ["", "no-such-container"] {
        ensure!(code(rig.start_container(id)) == Code::NotFound, "{id:?}");
        ensure!(code(rig.status(id)) == Code::NotFound, "{id:?}");
        ensure!(code(rig.stop(id, 1)) == Code::Ok && code(rig.remove(id)) == Code::Ok, "{id:?}");
    }
    ensure!(rig.list(Default::default())?.is_empty());

    // The name is free again after each failure, and taken while somebody has it.
    let id = rig.create(&pod, base())?;
    let refused = rig.create(&pod, base()).expect_err("the name is taken");
    ensure!(refused.message().contains(&format!("is reserved for \"{id}\"")), "{refused}");
    rig.remove(&id)?;
    rig.create(&pod, base())?;

    let stop = cri::StopPodSandboxRequest { pod_sandbox_id: pod.id.clone() };
    rig.ask(rig.cri().stop_pod_sandbox(stop))?;
    ensure!(code(rig.create(&pod, script_config("late", "true"))) == Code::FailedPrecondition, "the pod has ended");
    Ok(())
}

#[test]
fn images_and_pods_decide_together_what_runs() -> anyhow::Result<()> {
    let rig = Rig::start()?;
    let pod = rig.pod("merge")?;
    let output = rig.printed(&pod, "env", "echo $A:$B:$HOSTNAME; pwd; tr '\\0' ' ' </proc/self/cmdline", |config| {
        let env = |key: &str, value: &str| cri::KeyValue { key: key.into(), value: value.into() };
        config.envs = vec![env("A", "1"), env("B", "x=y"), env("HOSTNAME", "mine")];
        config.working_dir = "/tmp".into();
    })?;
    ensure!(output.starts_with("1:x=y:mine\n/tmp\n"), "{output}");
    // Of a command that is not there the image's is taken.
    let mut config = script_config("of-image", "");
    config.command = Vec::new();
    config.args = ["sh", "-c", "echo by args"].map(str::to_owned).to_vec();
    ensure!(rig.run_to_end(&pod, config)?.1 == "by args\n");
    Ok(())
}

#[test]
fn mounts_do_what_they_say() -> anyhow::Result<()> {
    let rig = Rig::start()?;
    let pod = rig.pod("mounts")?;
    let host = rig.daemon.folder().join("data");
    std::fs::create_dir(&host)?;
    std::fs::write(host.join("file"), "of the host")?;
    let fresh = rig.daemon.folder().join("made/for/it");
    let mount = |container: &str, host: &std::path::Path, readonly| cri::Mount {
        container_path: container.into(),
        host_path: host.display().to_string(),
        readonly,
        ..Default::default()
    };
    let script = "cat /rw/file; echo new >/rw/new; cat /ro/new; (echo no >/ro/no) 2>/dev/null || echo refused; ls -d /made; \
                  ls -d /a/b/c; test -s /etc/hosts && echo hosts; touch /dev/shm/x && echo shm";
    let output = rig.printed(&pod, "c", script, |config| {
        config.mounts = vec![
            mount("/a/b/c", &host, false),
            mount("/a/b", &host, false),
            mount("/rw", &host, false),
            mount("/ro", &host, true),
            mount("/made", &fresh, false),
        ];
        std::fs::create_dir(host.join("c")).expect("a place for the mount below");
    })?;
    ensure!(output == "of the hostnew\nrefused\n/made\n/a/b/c\nhosts\nshm\n", "{output}");
    ensure!(fresh.is_dir() && std::fs::read_to_string(host.join("new"))? == "new\n");
    Ok(())
}

#[test]
fn commands_run_in_a_container_within_bounds() -> anyhow::Result<()> {
    let rig = Rig::start()?;
    let pod = rig.pod("exec")?;
    let id = rig.run(&pod, script_config("c", "exec sleep 1000"))?;
    let done = rig.exec(&id, &["sh", "-c", "echo out; echo err >&2; exit 5"], 30)?;
    ensure!((done.exit_code, done.stdout.as_slice(), done.stderr.as_slice()) == (5, b"out\n", b"err\n"), "{done:?}");
    ensure!(code(rig.exec(&id, &["sleep", "1000"], 1)) == Code::DeadlineExceeded);
    let endless = rig.exec(&id, &["sh", "-c", "head -c 20000000 /dev/zero"], 60)?;
    // As much as fits into the message.
    ensure!(
        (15 << 20..=16 << 20).contains(&endless.stdout.len()) && endless.exit_code == 0,
        "{}",
        endless.stdout.len()
    );
    ensure!(code(rig.exec(&id, &[], 1)) == Code::InvalidArgument);
    ensure!(rig.exec(&id, &["/no/such/program"], 5).is_err());
    let created = rig.create_script(&pod, "d", "true")?;
    ensure!(code(rig.exec(&created, &["true"], 1)) == Code::FailedPrecondition);
    Ok(())
}

#[test]
fn limits_can_be_changed() -> anyhow::Result<()> {
    let rig = Rig::start()?;
    let pod = rig.pod("limits")?;
    let mut config = script_config("c", "exec sleep 1000");
    let limits =
        cri::LinuxContainerResources { cpu_shares: 100, memory_limit_in_bytes: 64 << 20, ..Default::default() };
    config.linux.get_or_insert_default().resources = Some(limits);
    let id = rig.run(&pod, config)?;
    let update = |linux: cri::LinuxContainerResources| cri::UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(linux),
        ..Default::default()
    };
    let wanted = cri::LinuxContainerResources { memory_limit_in_bytes: 128 << 20, ..Default::default() };
    rig.ask(rig.cri().update_container_resources(update(wanted)))?;
    let now = rig.status(&id)?.resources.and_then(|resources| resources.linux).unwrap_or_default();
    ensure!((now.cpu_shares, now.memory_limit_in_bytes) == (100, 128 << 20), "{now:?}");
    let request = cri::ContainerStatusRequest { container_id: id.clone(), verbose: true };
    let info = rig.ask(rig.cri().container_status(request))?.info;
    let info: serde_json::Value = serde_json::from_str(&info["info"])?;
    ensure!(info["runtimeSpec"]["linux"]["resources"]["memory"]["limit"] == 128 << 20, "{info}");
    let pid = info["pid"].as_u64().unwrap_or_default();
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let in_force = match cgroups.lines().find_map(|line| line.split_once(":memory:")) {
        Some((_, path)) => std::fs::read_to_string(format!("/sys/fs/cgroup/memory{path}/memory.limit_in_bytes"))?,
        None => {
            let path = cgroups.trim().trim_start_matches("0::");
            std::fs::read_to_string(format!("/sys/fs/cgroup{path}/memory.max"))?
        }
    };
    ensure!(in_force.trim() == (128 << 20).to_string(), "{in_force}");
    let wrong = cri::LinuxContainerResources { cpu_quota: -7, ..Default::default() };
    ensure!(code(rig.ask(rig.cri().update_container_resources(update(wrong)))) == Code::InvalidArgument);
    rig.stop(&id, 0)?;
    let late = cri::LinuxContainerResources { cpu_shares: 5, ..Default::default() };
    ensure!(code(rig.ask(rig.cri().update_container_resources(update(late)))) == Code::FailedPrecondition);
    Ok(())
}

#[test]
fn memory_that_is_not_there_kills() -> anyhow::Result<()> {
    let rig = Rig::start()?;
    let pod = rig.pod("oom")?;
    let mut config = script_config("c", "x=$(head -c 200000000 /dev/zero | tr '\\0' x); echo ${#x}");
    let limits = cri::LinuxContainerResources { memory_limit_in_bytes: 16 << 20, ..Default::default() };
    config.linux.get_or_insert_default().resources = Some(limits);
    let id = rig.run(&pod, config)?;
    rig.ended(&id)?;
    eventually("the reason is known", || {
        let status = rig.status(&id)?;
        ensure!(status.reason == "OOMKilled" && status.exit_code != 0, "{status:?}");
        Ok(())
    })
}

#[test]
fn containers_outlive_the_daemon() -> anyhow::Result<()> {
    let mut rig = Rig::start()?;
    let pod = rig.pod("restart")?;
    let stays = rig.run(&pod, script_config("stays", "exec sleep 1000"))?;
    let flag = rig.daemon.folder().join("flag");
    std::fs::create_dir(&flag)?;
    let mut config = script_config("ends", "while ! test -e /flag/now; do sleep 0.02; done; echo ended; exit 9");
    config.mounts = vec![cri::Mount {
        container_path: "/flag".into(),
        host_path: flag.display().to_string(),
        ..Default::default()
    }];
    let ends = rig.run(&pod, config)?;
    let created = rig.create_script(&pod, "created", "echo late")?;
    let before = rig.status(&stays)?;
    let log = rig.status(&ends)?.log_path;
    rig.daemon.kill9()?;
    std::fs::write(flag.join("now"), "")?;
    eventually("it goes on without the daemon", || {
        ensure!(std::fs::read_to_string(&log)?.contains("ended"));
        Ok(())
    })?;
    rig.daemon.launch()?;
    ensure!(rig.status(&stays)? == before, "nothing about it has changed");
    let status = rig.ended(&ends).inspect_err(|_| eprintln!("{}", rig.daemon.log()))?;
    ensure!((status.exit_code, status.reason.as_str()) == (9, "Error"), "{status:?}");
    rig.start_container(&created)?;
    ensure!(rig.ended(&created)?.exit_code == 0);
    let refused = rig.create_script(&pod, "stays", "true").expect_err("names are taken still");
    ensure!(refused.code() == Code::AlreadyExists, "{refused}");
    ensure!(rig.exec(&stays, &["true"], 10)?.exit_code == 0);
    Ok(())
}

#[test]
fn an_image_can_be_a_volume() -> anyhow::Result<()> {
    let rig = Rig::start()?;
    let pod = rig.pod("imagevol")?;
    let volume = |path: &str, sub_path: &str| cri::Mount {
        container_path: path.into(),
        image: Some(cri::ImageSpec { image: BUSYBOX_NAME.into(), ..Default::default() }),
        image_sub_path: sub_path.into(),
        readonly: true,
        ..Default::default()
    };
    let script = "ls /v/bin/busybox /sub/passwd; (echo no >/v/no) 2>/dev/null || echo refused";
    let output =
        rig.printed(&pod, "c", script, |config| config.mounts = vec![volume("/v", ""), volume("/sub", "etc")])?;
    ensure!(output == "/sub/passwd\n/v/bin/busybox\nrefused\n", "{output}");
    for wrong in ["../etc", "no/such", "bin/busybox"] {
        let mut config = script_config("wrong", "true");
        config.mounts = vec![volume("/v", wrong)];
        ensure!(code(rig.create(&pod, config)) == Code::InvalidArgument, "{wrong}");
    }
    let all = rig.list(Default::default())?;
    let status = rig.status(&all[0].id)?;
    let reported = status.mounts.first().and_then(|mount| mount.image.clone()).unwrap_or_default();
    ensure!(reported.image_ref.contains("sha256:"), "{status:?}");
    let mounted = || {
        std::fs::read_to_string("/proc/self/mountinfo").map(|text| text.contains(&format!("image-volumes/{}", pod.id)))
    };
    ensure!(mounted()?, "it is mounted while somebody uses it");
    rig.remove(&all[0].id)?;
    ensure!(!mounted()?, "and taken down with the last one");
    Ok(())
}
