//! Field by field: what is asked for, and where it is found in the document.

use proto::cri::{
    Capability, Int64Value, KeyValue, LinuxContainerResources, LinuxPodSandboxConfig, LinuxSandboxSecurityContext,
    Mount, NamespaceMode, NamespaceOption, WindowsContainerConfig,
};

use super::*;

/// Everything that an [`Input`] borrows.
struct Rig {
    config: ContainerConfig,
    pod: PodSandboxConfig,
    image: ImageConfig,
    files: PodFiles,
    handler: Handler,
    settings: Settings,
    host: Host,
    volumes: Vec<(PathBuf, String)>,
}

impl Rig {
    fn new() -> Self {
        let host = Host {
            seccomp: true,
            capabilities: u64::MAX,
            swap_controller: true,
            hostname: "machine".into(),
            ..Host::default()
        };
        Self {
            config: ContainerConfig { command: vec!["/bin/true".into()], ..ContainerConfig::default() },
            pod: PodSandboxConfig::default(),
            image: ImageConfig::default(),
            files: PodFiles::default(),
            handler: Handler::default(),
            settings: Settings::default(),
            host,
            volumes: Vec::new(),
        }
    }

    fn security(&mut self) -> &mut LinuxContainerSecurityContext {
        self.config.linux.get_or_insert_default().security_context.get_or_insert_default()
    }

    fn resources(&mut self) -> &mut LinuxContainerResources {
        self.config.linux.get_or_insert_default().resources.get_or_insert_default()
    }

    fn pod_security(&mut self) -> &mut LinuxSandboxSecurityContext {
        self.pod_linux().security_context.get_or_insert_default()
    }

    fn pod_linux(&mut self) -> &mut LinuxPodSandboxConfig {
        self.pod.linux.get_or_insert_default()
    }

    fn build(&self) -> Result<Made, SpecError> {
        build(&Input {
            id: "id",
            pod: "pod",
            config: &self.config,
            pod_config: &self.pod,
            image: &self.image,
            image_name: "image",
            accounts: &Accounts::default(),
            pod_pid: 7,
            target_pid: None,
            files: &self.files,
            volumes: &self.volumes,
            mountinfo: "",
            handler: &self.handler,
            recursive_read_only: true,
            idmap: true,
            settings: &self.settings,
            host: &self.host,
            own_oom_score: 0,
        })
    }
}

/// A change of the request, a place in the document, and what is found there.
type Row = (fn(&mut Rig), &'static str, Value);

#[test]
fn each_field_has_its_place() {
    let rows: Vec<Row> = vec![
        (|_| {}, "/process/args", json!(["/bin/true"])),
        (|_| {}, "/process/cwd", json!("/")),
        (|_| {}, "/process/user", json!({"uid": 0, "gid": 0, "additionalGids": [0]})),
        (|_| {}, "/process/terminal", json!(false)),
        (|rig| rig.config.tty = true, "/process/terminal", json!(true)),
        (|rig| rig.config.tty = true, "/process/env/1", json!("TERM=xterm")),
        (|_| {}, "/process/env/1", json!("HOSTNAME=machine")),
        (|rig| rig.pod.hostname = "h".into(), "/process/env/1", json!("HOSTNAME=h")),
        (
            |rig| rig.config.envs = vec![KeyValue { key: "A".into(), value: b"1".to_vec() }],
            "/process/env/2",
            json!("A=1"),
        ),
        (|rig| rig.config.working_dir = "/w".into(), "/process/cwd", json!("/w")),
        (|rig| rig.image.user = "5:6".into(), "/process/user/gid", json!(6)),
        (|rig| rig.security().run_as_user = Some(Int64Value { value: 9 }), "/process/user/uid", json!(9)),
        (|_| {}, "/process/noNewPrivileges", json!(false)),
        (|rig| rig.security().no_new_privs = true, "/process/noNewPrivileges", json!(true)),
        (|_| {}, "/process/capabilities/ambient", Value::Null),
        (
            |rig| {
                rig.security().capabilities =
                    Some(Capability { drop_capabilities: vec!["ALL".into()], ..Capability::default() });
            },
            "/process/capabilities/bounding",
            json!([]),
        ),
        (|_| {}, "/root", json!({"path": "rootfs", "readonly": false})),
        (|rig| rig.security().readonly_rootfs = true, "/root/readonly", json!(true)),
        (|_| {}, "/process/oomScoreAdj", json!(0)),
        (|rig| rig.resources().oom_score_adj = -5, "/process/oomScoreAdj", json!(-5)),
        (
            |rig| {
                rig.resources().oom_score_adj = -5;
                rig.settings.restrict_oom_score_adj = true;
            },
            "/process/oomScoreAdj",
            json!(0),
        ),
        (|rig| rig.resources().cpu_shares = 3, "/linux/resources/cpu/shares", json!(3)),
        (|rig| rig.resources().memory_limit_in_bytes = 3, "/linux/resources/memory/limit", json!(3)),
        (|_| {}, "/linux/resources/devices", json!([{"allow": false, "access": "rwm"}])),
        (|_| {}, "/linux/cgroupsPath", json!("/k8s.io/id")),
        (|rig| rig.pod_linux().cgroup_parent = "/a/b".into(), "/linux/cgroupsPath", json!("/a/b/id")),
        (
            |rig| rig.pod_linux().cgroup_parent = "/a.slice/a-b.slice".into(),
            "/linux/cgroupsPath",
            json!("a-b.slice:cri-containerd:id"),
        ),
        (|_| {}, "/linux/maskedPaths", json!([])),
        (|rig| rig.security().masked_paths = vec!["/proc/x".into()], "/linux/maskedPaths", json!(["/proc/x"])),
        (|rig| rig.security().readonly_paths = vec!["/proc/x".into()], "/linux/readonlyPaths", json!(["/proc/x"])),
        (|rig| rig.settings.disable_proc_mount = true, "/linux/maskedPaths/2", json!("/proc/kcore")),
        (|_| {}, "/linux/seccomp", Value::Null),
        (
            |rig| rig.settings.unset_seccomp_profile = "runtime/default".into(),
            "/linux/seccomp/defaultAction",
            json!("SCMP_ACT_ERRNO"),
        ),
        (|_| {}, "/annotations/io.kubernetes.cri.sandbox-id", json!("pod")),
        (|_| {}, "/annotations/io.kubernetes.cri.image-name", json!("image")),
        (
            |rig| {
                rig.pod.annotations = [("a.b".to_owned(), "1".to_owned()), ("c".to_owned(), "2".to_owned())].into();
                rig.handler.pod_annotations = vec!["a.*".into()];
            },
            "/annotations/a.b",
            json!("1"),
        ),
        (|rig| rig.config.annotations = [("a.b".to_owned(), "1".to_owned())].into(), "/annotations/a.b", Value::Null),
        (|rig| rig.files.hosts = Some("/etc/hosts".into()), "/mounts/5/destination", json!("/etc/hosts")),
        (
            |rig| rig.volumes = vec![("/etc".into(), "/v".into())],
            "/mounts/3",
            json!({"destination": "/v", "type": "bind", "source": "/etc", "options": ["rbind", "rprivate", "rw"]}),
        ),
        (
            |rig| {
                let mount = Mount { container_path: "/c".into(), host_path: "/etc".into(), ..Mount::default() };
                rig.config.mounts = vec![mount];
            },
            "/mounts/3/destination",
            json!("/c"),
        ),
    ];
    for (at, (change, place, expected)) in rows.into_iter().enumerate() {
        let mut rig = Rig::new();
        change(&mut rig);
        let made = rig.build().unwrap_or_else(|error| panic!("row {at}, {place}: {error}"));
        assert_eq!(made.spec.pointer(place).cloned().unwrap_or_default(), expected, "row {at}, {place}");
    }
}

#[test]
fn a_privileged_container_is_not_held_back() {
    let mut rig = Rig::new();
    rig.security().privileged = true;
    rig.security().masked_paths = vec!["/proc/x".into()];
    rig.settings.unset_seccomp_profile = "runtime/default".into();
    assert!(rig.build().unwrap_err().to_string().contains("no privileged container allowed"));
    rig.pod_security().privileged = true;
    let spec = rig.build().unwrap().spec;
    assert_eq!(spec["process"]["capabilities"]["bounding"].as_array().unwrap().len(), 41);
    assert_eq!((&spec["linux"]["maskedPaths"], spec["linux"].get("seccomp")), (&json!([]), None));
    assert_eq!(spec["linux"]["resources"]["devices"], json!([{"allow": true, "access": "rwm"}]));
    assert!(spec["linux"]["devices"].as_array().unwrap().iter().any(|node| node["path"] == "/dev/null"));
    for path in ["/sys", "/sys/fs/cgroup"] {
        let mount = spec["mounts"].as_array().unwrap().iter().find(|mount| mount["destination"] == path).unwrap();
        assert!(mount["options"].as_array().unwrap().contains(&json!("rw")), "{path}");
    }
    rig.handler.privileged_without_host_devices = true;
    let spec = rig.build().unwrap().spec;
    assert_eq!(spec["linux"]["devices"], json!([]));
    assert_eq!(spec["linux"]["resources"]["devices"], json!([{"allow": false, "access": "rwm"}]));
    rig.handler.privileged_without_host_devices_all_devices_allowed = true;
    assert_eq!(rig.build().unwrap().spec["linux"]["resources"]["devices"], json!([{"allow": true, "access": "rwm"}]));
}

#[test]
fn what_cannot_be_honoured_is_refused() {
    let rows: Vec<fn(&mut Rig)> = vec![
        |rig| rig.config.command.clear(),
        |rig| rig.config.windows = Some(WindowsContainerConfig::default()),
        |rig| rig.config.working_dir = "w".into(),
        |rig| rig.security().run_as_group = Some(Int64Value { value: 1 }),
        |rig| rig.image.user = "somebody".into(),
        |rig| rig.resources().cpu_quota = -9,
        |rig| rig.resources().oom_score_adj = 1001,
        |rig| rig.config.mounts = vec![Mount::default()],
        |rig| rig.config.devices = vec![proto::cri::Device::default()],
        |rig| rig.config.cdi_devices = vec![proto::cri::CdiDevice { name: "v.com/x=0".into() }],
        |rig| {
            rig.settings.cdi = false;
            rig.config.annotations = [("cdi.k8s.io/x".to_owned(), "v.com/x=0".to_owned())].into();
        },
        |rig| {
            let options = NamespaceOption { pid: NamespaceMode::Target.into(), ..NamespaceOption::default() };
            rig.security().namespace_options = Some(options);
        },
        |rig| {
            rig.config.annotations = [("io.kubernetes.cri.blockio-class".to_owned(), "slow".to_owned())].into();
        },
    ];
    for (at, change) in rows.into_iter().enumerate() {
        let mut rig = Rig::new();
        change(&mut rig);
        assert!(rig.build().is_err(), "row {at}");
    }
}

#[test]
fn containers_of_one_image_do_not_share_an_environment() {
    let mut one = Rig::new();
    one.image.env = vec!["SHARED=1".into()];
    one.config.envs = vec![KeyValue { key: "SECRET".into(), value: b"1".to_vec() }];
    let mut other = Rig::new();
    other.image = one.image.clone();
    let (one, other) = (one.build().unwrap().spec, other.build().unwrap().spec);
    let has = |spec: &Value| spec["process"]["env"].as_array().unwrap().contains(&json!("SECRET=1"));
    assert_eq!((has(&one), has(&other)), (true, false));
}
