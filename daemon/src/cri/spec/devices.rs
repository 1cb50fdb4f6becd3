//! Devices: what a container finds in its `/dev`, and may use.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use proto::cri::Device as Wanted;
use serde_json::{Value, json};

use super::SpecError;

/// The most devices of one container; no machine has that many nodes below `/dev`.
const MAX_DEVICES: usize = 16 << 10;
/// How deep `/dev` is looked through.
const MAX_DEPTH: usize = 16;
/// What below `/dev` is no device of the machine, or is the container's own.
const NOT_OF_THE_HOST: [&str; 7] = ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"];

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Device {
    /// Where in the container.
    pub path: String,
    /// `c` or `b`.
    pub kind: char,
    /// The driver.
    pub major: u64,
    /// Which of the driver's devices.
    pub minor: u64,
    /// Permission bits.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Some of `rwm`.
    pub access: String,
}

impl Device {
    /// As an entry of `linux.devices`.
    pub(crate) fn node(&self) -> Value {
        json!({"path": self.path, "type": self.kind.to_string(), "major": self.major, "minor": self.minor,
            "fileMode": self.mode, "uid": self.uid, "gid": self.gid})
    }

    /// As an entry of `linux.resources.devices`.
    pub(crate) fn rule(&self) -> Value {
        json!({"allow": true, "type": self.kind.to_string(), "major": self.major, "minor": self.minor, "access": self.access})
    }

    /// Reads what the host says of a node. `None` if it is no device.
    fn read(host: &Path, path: String, access: &str) -> Result<Option<Self>, SpecError> {
        let meta = fs::symlink_metadata(host).map_err(SpecError::host("look at the device", host))?;
        let kind = match meta.file_type() {
            kind if kind.is_char_device() => 'c',
            kind if kind.is_block_device() => 'b',
            _ => return Ok(None),
        };
        let (major, minor) = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
        Ok(Some(Self {
            path,
            kind,
            major: major.into(),
            minor: minor.into(),
            mode: meta.mode() & 0o7777,
            uid: meta.uid(),
            gid: meta.gid(),
            access: access.to_owned(),
        }))
    }
}

/// The devices that a container asks for. A folder of the host means all devices in it.
///
/// # Errors
/// A device is not there or is none, or its permissions make no sense.
pub(crate) fn wanted(devices: &[Wanted]) -> Result<Vec<Device>, SpecError> {
    let mut found = Vec::new();
    for Wanted { container_path, host_path, permissions } in devices {
        if permissions.is_empty() || !permissions.bytes().all(|byte| matches!(byte, b'r' | b'w' | b'm')) {
            return Err(SpecError::invalid(format!("device permissions {permissions:?} are not some of \"rwm\"")));
        }
        if !host_path.starts_with('/') {
            return Err(SpecError::invalid(format!("device path {host_path:?} is not absolute")));
        }
        let host = fs::canonicalize(host_path).map_err(SpecError::host("find the device", host_path))?;
        let path = if container_path.is_empty() { host_path } else { container_path };
        if !path.starts_with('/') {
            return Err(SpecError::invalid(format!("device path {path:?} is not absolute")));
        }
        let before = found.len();
        if host.is_dir() {
            below(&host, Path::new(path), permissions, 0, &mut found)?;
        } else {
            found.extend(Device::read(&host, path.clone(), permissions)?);
        }
        if found.len() == before {
            return Err(SpecError::invalid(format!("{host_path:?} is not a device node")));
        }
    }
    Ok(found)
}

/// All devices of the machine, for a container that may do everything.
///
/// # Errors
/// `/dev` cannot be read.
pub(crate) fn of_host() -> Result<Vec<Device>, SpecError> {
    let mut found = Vec::new();
    below(Path::new("/dev"), Path::new("/dev"), "rwm", 0, &mut found)?;
    // The container's own terminal goes there.
    found.retain(|device| device.path != "/dev/console");
    Ok(found)
}

fn below(host: &Path, path: &Path, access: &str, depth: usize, found: &mut Vec<Device>) -> Result<(), SpecError> {
    let entries = fs::read_dir(host).map_err(SpecError::host("list the devices in", host))?;
    let mut names: Vec<PathBuf> = entries.flatten().map(|entry| PathBuf::from(entry.file_name())).collect();
    names.sort();
    for name in names {
        let (host, path) = (host.join(&name), path.join(&name));
        let Ok(meta) = fs::symlink_metadata(&host) else { continue };
        if meta.is_dir() {
            let skipped = NOT_OF_THE_HOST.iter().any(|skipped| name.as_os_str() == *skipped);
            if !skipped && depth < MAX_DEPTH {
                below(&host, &path, access, depth + 1, found)?;
            }
            continue;
        }
        // A device can go at any time; a name that is no text cannot be said in a specification.
        let Some(path) = path.to_str() else { continue };
        if let Ok(Some(device)) = Device::read(&host, path.to_owned(), access) {
            if found.len() >= MAX_DEVICES {
                return Err(SpecError::invalid(format!("more than {MAX_DEVICES} devices")));
            }
            found.push(device);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(host: &str, container: &str, permissions: &str) -> Wanted {
        Wanted { container_path: container.into(), host_path: host.into(), permissions: permissions.into() }
    }

    #[test]
    fn a_device_is_what_the_host_says() {
        let made = wanted(&[wish("/dev/null", "/dev/nothing", "rw"), wish("/dev/zero", "", "rwm")]).unwrap();
        let short: Vec<_> =
            made.iter().map(|d| (d.path.as_str(), d.kind, d.major, d.minor, d.access.as_str())).collect();
        assert_eq!(short, [("/dev/nothing", 'c', 1, 3, "rw"), ("/dev/zero", 'c', 1, 5, "rwm")]);
        assert_eq!(made[0].rule(), json!({"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw"}));
        assert_eq!(made[0].node()["fileMode"], 0o666);
    }

    #[test]
    fn links_are_followed_and_folders_mean_what_is_in_them() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/null", folder.path().join("link")).unwrap();
        let link = folder.path().join("link").display().to_string();
        assert_eq!(wanted(&[wish(&link, "/dev/x", "r")]).unwrap()[0].minor, 3);
        let all = of_host().unwrap();
        assert!(all.iter().any(|device| device.path == "/dev/null"));
        assert!(all.iter().all(|device| device.path != "/dev/console" && !device.path.starts_with("/dev/pts/")));
    }

    #[test]
    fn what_is_no_device_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().display().to_string();
        for wish in [
            wish("/etc/passwd", "", "rw"),
            wish("/dev/nonexistent", "", "rw"),
            wish("dev/null", "", "rw"),
            wish("/dev/null", "x", "rw"),
            wish("/dev/null", "", ""),
            wish("/dev/null", "", "rx"),
            wish(&empty, "", "rw"),
        ] {
            assert!(wanted(std::slice::from_ref(&wish)).is_err(), "{wish:?}");
        }
    }
}
