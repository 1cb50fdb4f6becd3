//! What a container may do, seen from inside, and what it is refused.

use anyhow::ensure;
use proto::cri;
use proto::cri::security_profile::ProfileType;
use tonic::Code;

use super::rig::{Pod, Rig, code, script_config, security};

fn value(value: i64) -> Option<cri::Int64Value> {
    Some(cri::Int64Value { value })
}

#[test]
fn users_and_groups() -> anyhow::Result<()> {
    let rig = Rig::start()?;
    let pod = rig.pod("users")?;
    type Change = fn(&mut cri::LinuxContainerSecurityContext);
    let rows: [(&str, Change, &str); 6] = [
        ("default", |_| {}, "0 0 0 10"),
        ("uid", |security| security.run_as_user = value(33), "33 34 34 10"),
        ("name", |security| security.run_as_username = "web".into(), "33 34 34 10"),
        (
            "group",
            |security| {
                security.run_as_user = value(33);
                security.run_as_group = value(7);
            },
            "33 7 7 10",
        ),
        (
            "merge",
            |security| {
                security.run_as_user = value(33);
                security.supplemental_groups = vec![77];
            },
            "33 34 34 10 77",
        ),
        (
            "strict",
            |security| {
                security.run_as_user = value(33);
                security.supplemental_groups = vec![77];
                security.supplemental_groups_policy = cri::SupplementalGroupsPolicy::Strict.into();
            },
            "33 34 34 77",
        ),
    ];
    for (name, change, expected) in rows {
        let mut config = script_config(name, "echo $(id -u) $(id -g) $(id -G)");
        change(security(&mut config));
        let id = rig.run(&pod, config)?;
        let status = rig.ended(&id)?;
        let output = super::rig::content(&std::fs::read_to_string(&status.log_path)?)?;
        ensure!(output.trim() == expected, "{name}: {output}");
        let user = status.user.and_then(|user| user.linux).unwrap_or_default();
        let reported: Vec<String> =
            [user.uid, user.gid].iter().chain(&user.supplemental_groups).map(ToString::to_string).collect();
        ensure!(reported.join(" ") == expected, "{name}: {reported:?}");
    }
    // A malformed user never becomes root.
    let wrong: [Change; 5] = [
        |security| security.run_as_group = value(7),
        |security| security.run_as_user = value(-1),
        |security| security.run_as_user = value(1 << 32),
        |security| security.run_as_username = "+0".into(),
        |security| security.run_as_username = "nobody-here".into(),
    ];
    for (at, change) in wrong.iter().enumerate() {
        let mut config = script_config("wrong", "id");
        change(security(&mut config));
        ensure!(code(rig.create(&pod, config)) == Code::InvalidArgument, "row {at}");
    }
    Ok(())
}

/// The bits of a set of capabilities, from `/proc/self/status`.
fn capabilities(rig: &Rig, pod: &Pod, name: &str, capability: cri::Capability) -> anyhow::Result<[u64; 3]> {
    let script = "grep -E '^Cap(Bnd|Inh|Amb)' /proc/self/status";
    let output = rig.printed(pod, name, script, |config| security(config).capabilities = Some(capability))?;
    let bits = |set: &str| {
        let line = output.lines().find_map(|line| line.strip_prefix(set)).unwrap_or_default();
        u64::from_str_radix(line.trim(), 16)
    };
    Ok([bits("CapBnd:")?, bits("CapInh:")?, bits("CapAmb:")?])
}

#[test]
fn capabilities_are_what_was_asked_for() -> anyhow::Result<()> {
    let rig = Rig::start()?;
    let pod = rig.pod("caps")?;
    let list = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    let [bounding, inheritable, ambient] = capabilities(&rig, &pod, "default", cri::Capability::default())?;
    ensure!((bounding, inheritable, ambient) == (0xa804_25fb, 0, 0), "{bounding:x} {inheritable:x} {ambient:x}");
    let none = cri::Capability { drop_capabilities: list(&["ALL"]), ..Default::default() };
    ensure!(capabilities(&rig, &pod, "none", none)? == [0, 0, 0]);
    let one = cri::Capability {
        drop_capabilities: list(&["ALL"]),
        add_capabilities: list(&["NET_ADMIN"]),
        ..Default::default()
    };
    ensure!(capabilities(&rig, &pod, "one", one)? == [1 << 12, 0, 0]);
    let ambient = cri::Capability { add_ambient_capabilities: list(&["NET_BIND_SERVICE"]), ..Default::default() };
    let [_, inheritable, ambient] = capabilities(&rig, &pod, "ambient", ambient)?;
    ensure!((inheritable, ambient) == (1 << 10, 1 << 10), "{inheritable:x} {ambient:x}");
    let mut config = script_config("wrong", "true");
    security(&mut config).capabilities =
        Some(cri::Capability { add_capabilities: list(&["NOPE"]), ..Default::default() });
    ensure!(code(rig.create(&pod, config)) == Code::InvalidArgument);
    Ok(())
}

#[test]
fn a_privileged_container_needs_a_privileged_pod() -> anyhow::Result<()> {
    let rig = Rig::start()?;
    let plain = rig.pod("plain")?;
    let mut config = script_config("c", "true");
    security(&mut config).privileged = true;
    ensure!(code(rig.create(&plain, config)) == Code::InvalidArgument);
    let mut open = rig.pod_config("open");
    open.linux.get_or_insert_default().security_context.get_or_insert_default().privileged = true;
    let pod = rig.run_pod(open)?;
    let script =
        "grep Seccomp: /proc/self/status; ls /dev/kmsg; grep -c ' /sys .*[ ,]ro[, ]' /proc/self/mountinfo || true";
    let output = rig.printed(&pod, "c", script, |config| security(config).privileged = true)?;
    ensure!(output == "Seccomp:\t0\n/dev/kmsg\n0\n", "{output}");
    Ok(())
}

#[test]
fn seccomp_profiles_are_in_force() -> anyhow::Result<()> {
    let rig = Rig::start()?;
    let pod = rig.pod("seccomp")?;
    let profile = |kind: ProfileType, file: &str| {
        Some(cri::SecurityProfile { profile_type: kind.into(), localhost_ref: file.into() })
    };
    let script = "grep Seccomp: /proc/self/status; unshare -U true 2>/dev/null && echo unshared || echo refused; \
                  hostname x 2>/dev/null; chmod 700 /tmp 2>/dev/null && echo chmod || echo no chmod";
    let file = rig.daemon.folder().join("profile.json");
    let rules = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["chmod","fchmod","fchmodat","fchmodat2"],"action":"SCMP_ACT_ERRNO"}]}"#;
    std::fs::write(&file, rules)?;
    let local = file.display().to_string();
    for (name, wanted, expected) in [
        ("unset", None, "Seccomp:\t0\nunshared\nchmod\n"),
        ("unconfined", profile(ProfileType::Unconfined, ""), "Seccomp:\t0\nunshared\nchmod\n"),
        ("default", profile(ProfileType::RuntimeDefault, ""), "Seccomp:\t2\nrefused\nchmod\n"),
        ("local", profile(ProfileType::Localhost, &local), "Seccomp:\t2\nunshared\nno chmod\n"),
    ] {
        let output = rig.printed(&pod, name, script, |config| security(config).seccomp = wanted)?;
        ensure!(output == expected, "{name}: {output}");
    }
    for (name, wanted) in [
        ("missing", profile(ProfileType::Localhost, "/no/such/profile")),
        ("nameless", profile(ProfileType::Localhost, "")),
        ("named", profile(ProfileType::RuntimeDefault, &local)),
    ] {
        let mut config = script_config(name, "true");
        security(&mut config).seccomp = wanted;
        ensure!(rig.create(&pod, config).is_err(), "{name}");
    }
    Ok(())
}

#[test]
fn a_root_that_is_read_only_and_paths_that_are_hidden() -> anyhow::Result<()> {
    let rig = Rig::start()?;
    let pod = rig.pod("paths")?;
    let write = "(echo x >/file) 2>/dev/null && echo wrote || echo refused";
    ensure!(rig.printed(&pod, "rw", write, |_| {})? == "wrote\n");
    ensure!(rig.printed(&pod, "ro", write, |config| security(config).readonly_rootfs = true)? == "refused\n");
    let script =
        "cat /proc/version | wc -c; (echo 0 >/proc/sys/vm/swappiness) 2>/dev/null && echo wrote || echo refused";
    let hidden = rig.printed(&pod, "hidden", script, |config| {
        security(config).masked_paths = vec!["/proc/version".into()];
        security(config).readonly_paths = vec!["/proc/sys".into()];
    })?;
    ensure!(hidden == "0\nrefused\n", "{hidden}");
    let seen = rig.printed(&pod, "seen", "test $(cat /proc/version | wc -c) -gt 0 && echo seen", |_| {})?;
    ensure!(seen == "seen\n", "{seen}");
    Ok(())
}

#[test]
fn new_privileges_can_be_refused() -> anyhow::Result<()> {
    let rig = Rig::start()?;
    let pod = rig.pod("nnp")?;
    let script = "grep NoNewPrivs /proc/self/status";
    ensure!(rig.printed(&pod, "may", script, |_| {})? == "NoNewPrivs:\t0\n");
    ensure!(rig.printed(&pod, "not", script, |config| security(config).no_new_privs = true)? == "NoNewPrivs:\t1\n");
    Ok(())
}

#[test]
fn devices_are_there_with_their_permissions() -> anyhow::Result<()> {
    let rig = Rig::start()?;
    let pod = rig.pod("devices")?;
    let script =
        "head -c 1 /dev/mine >/dev/null && echo read; (echo x >/dev/mine) 2>/dev/null && echo wrote || echo refused";
    let device = |permissions: &str| cri::Device {
        container_path: "/dev/mine".into(),
        host_path: "/dev/kmsg".into(),
        permissions: permissions.into(),
    };
    // Reading needs a device that gives something: the kernel's log does, and nobody else has it.
    let script_read = "test -c /dev/mine && echo there; (: >/dev/mine) 2>/dev/null && echo write || echo refused";
    let output = rig.printed(&pod, "ro", script_read, |config| config.devices = vec![device("r")])?;
    ensure!(output == "there\nrefused\n", "{output}");
    let output = rig.printed(&pod, "rw", script_read, |config| config.devices = vec![device("rw")])?;
    ensure!(output == "there\nwrite\n", "{output}");
    let output = rig.printed(&pod, "zero", script, |config| {
        config.devices = vec![cri::Device { host_path: "/dev/zero".into(), ..device("rwm") }];
    })?;
    ensure!(output == "read\nwrote\n", "{output}");
    Ok(())
}

#[test]
fn devices_by_name_come_with_what_their_vendor_says() -> anyhow::Result<()> {
    let folder = harness::folder("cdi")?;
    let specification = serde_json::json!({
        "cdiVersion": "0.6.0", "kind": "tests.example/thing",
        "devices": [{"name": "one", "containerEdits": {
            "env": ["THING=one"], "deviceNodes": [{"path": "/dev/thing", "hostPath": "/dev/zero"}],
            "mounts": [{"hostPath": folder.path(), "containerPath": "/thing", "options": ["rbind", "ro"]}],
        }}],
    });
    std::fs::write(folder.path().join("thing.json"), specification.to_string())?;
    let config = format!("[plugins.\"io.containerd.grpc.v1.cri\"]\ncdi_spec_dirs = [{:?}]\n", folder.path());
    let rig = Rig::with_config(&config)?;
    let pod = rig.pod("cdi")?;
    let script = "echo $THING; test -c /dev/thing && head -c 1 /dev/thing | wc -c; ls /thing";
    let expected = "one\n1\nthing.json\n";
    let output = rig.printed(&pod, "field", script, |config| {
        config.cdi_devices = vec![cri::CdiDevice { name: "tests.example/thing=one".into() }];
    })?;
    ensure!(output == expected, "{output}");
    let output = rig.printed(&pod, "annotation", script, |config| {
        config.annotations = [("cdi.k8s.io/x".to_owned(), "tests.example/thing=one".to_owned())].into();
    })?;
    ensure!(output == expected, "{output}");
    let mut config = script_config("unknown", "true");
    config.cdi_devices = vec![cri::CdiDevice { name: "tests.example/thing=two".into() }];
    let refused = rig.create(&pod, config).expect_err("there is no such device");
    ensure!(refused.message().contains("tests.example/thing=two"), "{refused}");
    Ok(())
}

#[test]
fn what_this_machine_cannot_do_is_refused_by_name() -> anyhow::Result<()> {
    let rig = Rig::start()?;
    let pod = rig.pod("cannot")?;
    let mut config = script_config("blockio", "true");
    config.annotations = [("io.kubernetes.cri.blockio-class".to_owned(), "slow".to_owned())].into();
    let refused = rig.create(&pod, config).expect_err("blockio is not served");
    ensure!(refused.message().contains("slow"), "{refused}");
    if !std::path::Path::new("/sys/module/apparmor").exists() {
        let mut config = script_config("apparmor", "true");
        let profile =
            cri::SecurityProfile { profile_type: ProfileType::Localhost.into(), localhost_ref: "mine".into() };
        security(&mut config).apparmor = Some(profile);
        let refused = rig.create(&pod, config).expect_err("there is no AppArmor");
        ensure!(refused.message().contains("AppArmor"), "{refused}");
    }
    Ok(())
}

#[test]
fn processes_are_shared_as_far_as_asked_for() -> anyhow::Result<()> {
    let rig = Rig::start()?;
    let pod = rig.pod("pids")?;
    let options = |pid: cri::NamespaceMode, target: &str| {
        Some(cri::NamespaceOption {
            pid: pid.into(),
            target_id: target.into(),
            network: cri::NamespaceMode::Node.into(),
            ..Default::default()
        })
    };
    let mut config = script_config("first", "exec sleep 1000");
    security(&mut config).namespace_options = options(cri::NamespaceMode::Container, "");
    let first = rig.run(&pod, config)?;
    let own = rig.printed(&pod, "own", "echo $$", |config| {
        security(config).namespace_options = options(cri::NamespaceMode::Container, "");
    })?;
    ensure!(own == "1\n", "{own}");
    let joined = rig.printed(&pod, "target", "tr '\\0' ' ' </proc/1/cmdline", |config| {
        security(config).namespace_options = options(cri::NamespaceMode::Target, &first);
    })?;
    ensure!(joined.starts_with("sleep 1000"), "{joined}");
    let mut config = script_config("nobody", "true");
    security(&mut config).namespace_options = options(cri::NamespaceMode::Target, "no-such-container");
    ensure!(rig.create(&pod, config).is_err());
    Ok(())
}
