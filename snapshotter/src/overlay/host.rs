//! What the overlayfs of this machine is like. Asked once, at the start.

use std::fs;
use std::path::Path;

/// The facts that mount options depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host {
    /// Whether the kernel knows the option `index`, which must be off: snapshots are mounted in changing combinations.
    pub has_index: bool,
    /// Whether attributes have to be in `user.`, since those in `trusted.` are root's alone.
    pub needs_user_xattr: bool,
    /// Whether this is not the machine's own root.
    pub in_user_namespace: bool,
}

/// The first kernel with the mount option `userxattr`.
const USER_XATTR_SINCE: (u32, u32) = (5, 11);

impl Host {
    /// Asks the kernel.
    pub fn probe() -> Self {
        let in_user_namespace = fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| !maps_everything(&map));
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        Self {
            has_index: Path::new("/sys/module/overlay/parameters/index").exists(),
            needs_user_xattr: in_user_namespace && version(&release) >= Some(USER_XATTR_SINCE),
            in_user_namespace,
        }
    }
}

/// Whether a map of identifiers is the one of the first namespace: all of them, each to itself.
fn maps_everything(map: &str) -> bool {
    let mut numbers = map.split_ascii_whitespace().map(str::parse::<u64>);
    matches!((numbers.next(), numbers.next(), numbers.next()), (Some(Ok(0)), Some(Ok(0)), Some(Ok(length))) if length >= u64::from(u32::MAX))
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|letter: char| !letter.is_ascii_digit()).map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_namespace_maps_everything() {
        assert!(maps_everything("         0          0 4294967295\n"));
        assert!(!maps_everything("         0       1000          1\n"));
        assert!(!maps_everything("0 1000 1\n1 100000 65536\n"));
        assert!(!maps_everything(""));
    }

    #[test]
    fn kernel_versions_are_compared_by_number() {
        assert_eq!(version("6.18.44-fc"), Some((6, 18)));
        assert_eq!(version("5.4"), Some((5, 4)));
        assert_eq!(version("?"), None);
        assert!(version("5.4.0") < Some(USER_XATTR_SINCE) && version("5.11.0") >= Some(USER_XATTR_SINCE));
    }
}
