//! Mounts: what every container has, what its pod gives it, what it asks for. The host is looked at in [`bind`] alone.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use proto::cri::{Mount, MountPropagation};
use serde_json::{Value, json};

use super::SpecError;
use super::host::{Spread, spread_at};
use super::namespaces::mappings;

/// The most mounts that a container may ask for.
const MAX_MOUNTS: usize = 10_000;

/// The files of a pod that its containers share.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodFiles {
    /// `/etc/hostname`.
    pub hostname: Option<PathBuf>,
    /// `/etc/hosts`.
    pub hosts: Option<PathBuf>,
    /// `/etc/resolv.conf`.
    pub resolv_conf: Option<PathBuf>,
    /// `/dev/shm`.
    pub shm: Option<PathBuf>,
}

/// What decides how the kernel's own file systems are mounted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kernel {
    /// `/sys` can be written to.
    pub sys_writable: bool,
    /// The cgroup can be written to.
    pub cgroup_writable: bool,
    /// `/sys` is the machine's: users of a namespace of their own may not mount it for a network that is not theirs.
    pub bind_sys: bool,
}

/// A bind mount, ready for a specification.
#[derive(Debug, Clone, PartialEq)]
pub struct Bind {
    /// Where in the container, absolute.
    pub destination: String,
    value: Value,
    propagation: MountPropagation,
}

/// What every container has.
pub fn standard(kernel: Kernel) -> Vec<Value> {
    let mount = |target: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": target, "type": kind, "source": source, "options": options});
    let mode = |writable: bool| if writable { "rw" } else { "ro" };
    let sys = if kernel.bind_sys {
        mount("/sys", "bind", "/sys", &["rbind", "rprivate", "nosuid", "noexec", "nodev", "rro"])
    } else {
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", mode(kernel.sys_writable)])
    };
    let cgroup = mode(kernel.cgroup_writable);
    vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        sys,
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", cgroup]),
    ]
}

/// The files that the pod gives, as if they were asked for; not those whose place is taken.
pub fn of_pod(files: &PodFiles, wanted: &[Mount], read_only: bool) -> Vec<Mount> {
    let entries = [
        ("/etc/hostname", &files.hostname, read_only),
        ("/etc/hosts", &files.hosts, read_only),
        ("/etc/resolv.conf", &files.resolv_conf, read_only),
        ("/dev/shm", &files.shm, false),
    ];
    let free = |path: &str| wanted.iter().all(|mount| Path::new(&mount.container_path) != Path::new(path));
    entries
        .into_iter()
        .filter(|(path, ..)| free(path))
        .filter_map(|(path, source, readonly)| {
            let host_path = source.as_ref()?.display().to_string();
            Some(Mount { container_path: path.into(), host_path, readonly, ..Mount::default() })
        })
        .collect()
}

/// What of the machine the mounts of one container depend on.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// `/proc/self/mountinfo`.
    pub mountinfo: &'a str,
    /// Whether the handler can make a whole tree read-only.
    pub recursive_read_only: bool,
    /// Whether the handler can map the owners of a mount.
    pub idmap: bool,
}

/// Makes a bind mount of what is asked for. The source is looked up, and made as a folder if it is not there.
///
/// # Errors
/// A path or a combination makes no sense, or cannot be had here.
pub fn bind(mount: &Mount, place: Place<'_>) -> Result<Bind, SpecError> {
    let Mount { container_path, host_path, .. } = mount;
    if container_path.is_empty() || container_path.contains('\0') {
        return Err(SpecError::invalid("a mount has no container_path"));
    }
    if !host_path.starts_with('/') || host_path.contains('\0') {
        return Err(SpecError::invalid(format!(
            "host_path {host_path:?} of the mount on {container_path:?} is not absolute"
        )));
    }
    let propagation = MountPropagation::try_from(mount.propagation)
        .map_err(|_| SpecError::invalid(format!("unknown propagation of the mount on {container_path:?}")))?;
    if mount.recursive_read_only {
        if !mount.readonly {
            return Err(SpecError::invalid("recursive_read_only needs readonly"));
        }
        if propagation != MountPropagation::PropagationPrivate {
            return Err(SpecError::invalid("recursive_read_only needs private propagation"));
        }
        if !place.recursive_read_only {
            return Err(SpecError::unsupported("recursive read-only mounts are not supported by this runtime handler"));
        }
    }
    let source = source(Path::new(host_path))?;
    let spread = || spread_at(place.mountinfo, &source);
    let spreading = match propagation {
        MountPropagation::PropagationPrivate => "rprivate",
        MountPropagation::PropagationHostToContainer => match spread() {
            Spread::Private => return Err(not_shared(host_path, "shared or slave")),
            Spread::Slave | Spread::Shared => "rslave",
        },
        MountPropagation::PropagationBidirectional => match spread() {
            Spread::Shared => "rshared",
            Spread::Private | Spread::Slave => return Err(not_shared(host_path, "shared")),
        },
    };
    let mode = match (mount.readonly, mount.recursive_read_only) {
        (true, true) => "rro",
        (true, false) => "ro",
        (false, _) => "rw",
    };
    let destination = Path::new("/").join(container_path).display().to_string();
    let source =
        source.to_str().ok_or_else(|| SpecError::invalid(format!("{host_path:?} leads to a name that is no text")))?;
    let mut value =
        json!({"destination": destination, "type": "bind", "source": source, "options": ["rbind", spreading, mode]});
    let (uids, gids) = (mappings(&mount.uid_mappings)?, mappings(&mount.gid_mappings)?);
    if uids.is_empty() != gids.is_empty() {
        return Err(SpecError::invalid(format!("the mount on {container_path:?} maps users or groups, but not both")));
    }
    if !uids.is_empty() {
        if !place.idmap {
            return Err(SpecError::unsupported("idmapped mounts are not supported by this runtime handler"));
        }
        value["uidMappings"] = uids.into();
        value["gidMappings"] = gids.into();
    }
    Ok(Bind { destination, value, propagation })
}

fn not_shared(path: &str, what: &str) -> SpecError {
    SpecError::Unsupported(format!("path {path:?} is mounted on a mount that is not {what}"))
}

/// The folder or file itself, made as a folder if it is not there.
fn source(path: &Path) -> Result<PathBuf, SpecError> {
    match fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let made = DirBuilder::new().recursive(true).mode(0o755).create(path);
            made.map_err(SpecError::host("make the folder to mount", path))?;
        }
        found => {
            found.map_err(SpecError::host("find the mount source", path))?;
        }
    }
    fs::canonicalize(path).map_err(SpecError::host("resolve the mount source", path))
}

/// All mounts of a container, in the order in which they are to be made, and how its root spreads.
///
/// # Errors
/// There are too many.
pub fn assemble(standard: Vec<Value>, binds: Vec<Bind>) -> Result<(Vec<Value>, Option<&'static str>), SpecError> {
    if binds.len() > MAX_MOUNTS {
        return Err(SpecError::invalid(format!("{} mounts, {MAX_MOUNTS} are allowed", binds.len())));
    }
    let asked = |propagation| binds.iter().any(|bind| bind.propagation == propagation);
    let root = if asked(MountPropagation::PropagationBidirectional) {
        Some("rshared")
    } else if asked(MountPropagation::PropagationHostToContainer) {
        Some("rslave")
    } else {
        None
    };
    let taken = |mount: &Value| {
        let place = Path::new(mount["destination"].as_str().unwrap_or_default());
        binds.iter().any(|bind| Path::new(&bind.destination) == place)
    };
    let mut all: Vec<Value> = standard.into_iter().filter(|mount| !taken(mount)).collect();
    all.extend(binds.into_iter().map(|bind| bind.value));
    sort(&mut all);
    Ok((all, root))
}

/// What lies below comes after what it lies on; of equals the order is kept.
pub fn sort(mounts: &mut [Value]) {
    mounts.sort_by_key(|mount| Path::new(mount["destination"].as_str().unwrap_or_default()).components().count());
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIVATE: &str = "1 0 8:1 / / rw - ext4 /dev/sda rw\n";
    const SLAVE: &str = "1 0 8:1 / / rw master:1 - ext4 /dev/sda rw\n";
    const SHARED: &str = "1 0 8:1 / / rw shared:1 - ext4 /dev/sda rw\n";

    fn place(mountinfo: &str) -> Place<'_> {
        Place { mountinfo, recursive_read_only: true, idmap: true }
    }

    fn options(mount: &Mount, mountinfo: &str) -> Option<String> {
        let bind = bind(mount, place(mountinfo)).ok()?;
        let options = bind.value["options"].as_array().unwrap();
        Some(options.iter().map(|option| option.as_str().unwrap()).collect::<Vec<_>>().join(","))
    }

    #[test]
    fn propagation_and_modes_as_a_table() {
        use MountPropagation::{
            PropagationBidirectional as Both, PropagationHostToContainer as In, PropagationPrivate as No,
        };
        let mount = |propagation: MountPropagation, readonly, recursive_read_only| Mount {
            container_path: "/c".into(),
            host_path: "/etc".into(),
            propagation: propagation.into(),
            readonly,
            recursive_read_only,
            ..Mount::default()
        };
        for (mount, info, expected) in [
            (mount(No, false, false), PRIVATE, Some("rbind,rprivate,rw")),
            (mount(No, true, false), PRIVATE, Some("rbind,rprivate,ro")),
            (mount(No, true, true), PRIVATE, Some("rbind,rprivate,rro")),
            (mount(No, false, true), PRIVATE, None),
            (mount(In, true, true), SHARED, None),
            (mount(In, false, false), SHARED, Some("rbind,rslave,rw")),
            (mount(In, true, false), SLAVE, Some("rbind,rslave,ro")),
            (mount(In, false, false), PRIVATE, None),
            (mount(Both, false, false), SHARED, Some("rbind,rshared,rw")),
            (mount(Both, false, false), SLAVE, None),
            (mount(Both, false, false), PRIVATE, None),
            (Mount { propagation: 9, ..mount(No, false, false) }, SHARED, None),
        ] {
            assert_eq!(options(&mount, info).as_deref(), expected, "{mount:?}");
        }
        let wanted = mount(No, true, true);
        assert!(bind(&wanted, Place { recursive_read_only: false, ..place(PRIVATE) }).is_err());
    }

    #[test]
    fn sources_are_made_and_links_followed() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().canonicalize().unwrap();
        std::os::unix::fs::symlink(base.join("real"), base.join("link")).unwrap();
        std::fs::create_dir(base.join("real")).unwrap();
        let mount = |host: String| Mount { container_path: "x".into(), host_path: host, ..Mount::default() };
        let made = bind(&mount(base.join("link").display().to_string()), place(PRIVATE)).unwrap();
        assert_eq!(made.value["source"], base.join("real").to_str().unwrap());
        assert_eq!(made.destination, "/x");
        bind(&mount(base.join("new/er").display().to_string()), place(PRIVATE)).unwrap();
        assert!(base.join("new/er").is_dir());
        std::fs::write(base.join("file"), "").unwrap();
        for wrong in ["rel".to_owned(), String::new(), base.join("file/below").display().to_string()] {
            assert!(bind(&mount(wrong.clone()), place(PRIVATE)).is_err(), "{wrong:?}");
        }
        let nowhere = Mount { host_path: "/etc".into(), ..Mount::default() };
        assert!(bind(&nowhere, place(PRIVATE)).is_err());
    }

    #[test]
    fn owners_are_mapped_where_that_is_possible() {
        let ids = vec![proto::cri::IdMapping { host_id: 1000, container_id: 0, length: 10 }];
        let mount = Mount {
            container_path: "/c".into(),
            host_path: "/etc".into(),
            uid_mappings: ids.clone(),
            gid_mappings: ids,
            ..Mount::default()
        };
        let made = bind(&mount, place(PRIVATE)).unwrap();
        assert_eq!(made.value["uidMappings"], json!([{"containerID": 0, "hostID": 1000, "size": 10}]));
        assert!(bind(&mount, Place { idmap: false, ..place(PRIVATE) }).is_err());
        assert!(bind(&Mount { gid_mappings: Vec::new(), ..mount }, place(PRIVATE)).is_err());
    }

    #[test]
    fn deeper_ones_come_later_and_defaults_give_way() {
        let mount = |path: &str| Mount { container_path: path.into(), host_path: "/etc".into(), ..Mount::default() };
        let binds =
            ["/a/b/c", "/a", "/dev/mqueue", "/a/b/", "/proc/"].map(|path| bind(&mount(path), place(PRIVATE)).unwrap());
        let (all, root) = assemble(standard(Kernel::default()), binds.to_vec()).unwrap();
        let order: Vec<_> = all.iter().map(|mount| mount["destination"].as_str().unwrap()).collect();
        assert_eq!(
            order,
            ["/dev", "/sys", "/a", "/proc/", "/dev/pts", "/dev/mqueue", "/a/b/", "/sys/fs/cgroup", "/a/b/c"]
        );
        assert_eq!(root, None);
        assert_eq!(all.iter().find(|mount| mount["destination"] == "/dev/mqueue").unwrap()["type"], "bind");
    }

    #[test]
    fn the_root_spreads_as_far_as_its_mounts() {
        use MountPropagation::{PropagationBidirectional as Both, PropagationHostToContainer as In};
        let mount = |propagation: MountPropagation| {
            let mount = Mount {
                propagation: propagation.into(),
                container_path: "/c".into(),
                host_path: "/etc".into(),
                ..Mount::default()
            };
            bind(&mount, place(SHARED)).unwrap()
        };
        for (binds, expected) in
            [(vec![], None), (vec![mount(In)], Some("rslave")), (vec![mount(In), mount(Both)], Some("rshared"))]
        {
            assert_eq!(assemble(Vec::new(), binds).unwrap().1, expected);
        }
    }

    #[test]
    fn the_pods_files_give_way_to_what_is_asked_for() {
        let files = PodFiles { hosts: Some("/p/hosts".into()), shm: Some("/p/shm".into()), ..PodFiles::default() };
        let given = of_pod(&files, &[], true);
        let short: Vec<_> = given.iter().map(|mount| (mount.container_path.as_str(), mount.readonly)).collect();
        assert_eq!(short, [("/etc/hosts", true), ("/dev/shm", false)]);
        let own = Mount { container_path: "/etc/hosts".into(), ..Mount::default() };
        assert_eq!(of_pod(&files, &[own], false).len(), 1);
    }

    #[test]
    fn the_kernels_file_systems_as_a_table() {
        let option = |kernel: Kernel, path: &str| {
            let all = standard(kernel);
            let mount = all.iter().find(|mount| mount["destination"] == path).unwrap();
            mount["options"].as_array().unwrap().last().unwrap().as_str().unwrap().to_owned()
        };
        for (kernel, sys, cgroup) in [
            (Kernel::default(), "ro", "ro"),
            (Kernel { sys_writable: true, cgroup_writable: true, bind_sys: false }, "rw", "rw"),
            (Kernel { cgroup_writable: true, ..Kernel::default() }, "ro", "rw"),
            (Kernel { bind_sys: true, ..Kernel::default() }, "rro", "ro"),
        ] {
            assert_eq!(
                (option(kernel, "/sys"), option(kernel, "/sys/fs/cgroup")),
                (sys.into(), cgroup.into()),
                "{kernel:?}"
            );
        }
    }
}
