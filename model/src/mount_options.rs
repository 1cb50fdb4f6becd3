//! The options of a mount, told apart: flags of the kernel, propagation, what is not for the kernel, data for the
//! filesystem. The one table there is; whoever mounts turns it into calls.

/// Flags of mount(2), with the kernel's numbers (Linux, `include/uapi/linux/mount.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MountFlags(u64);

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident = $bits:expr;)+) => {
        impl MountFlags {
            $($(#[$doc])* pub const $name: Self = Self($bits);)+
        }
    };
}

flags! {
    /// No writing.
    RDONLY = 1;
    /// No set-user-id programs.
    NOSUID = 2;
    /// No devices.
    NODEV = 4;
    /// No programs.
    NOEXEC = 8;
    /// Writes go to the disk at once.
    SYNCHRONOUS = 16;
    /// Change what is mounted.
    REMOUNT = 32;
    /// Mandatory locks.
    MANDLOCK = 64;
    /// Changes of directories go to the disk at once.
    DIRSYNC = 128;
    /// No link is followed.
    NOSYMFOLLOW = 256;
    /// No times of access.
    NOATIME = 1024;
    /// No times of access of directories.
    NODIRATIME = 2048;
    /// Show a tree in another place.
    BIND = 4096;
    /// With all that is mounted below.
    REC = 16384;
    /// Neither this nor what is below can be bound elsewhere.
    UNBINDABLE = 1 << 17;
    /// Mounts below come and go for this alone.
    PRIVATE = 1 << 18;
    /// Mounts below come from elsewhere, and go nowhere.
    SLAVE = 1 << 19;
    /// Mounts below come and go for all.
    SHARED = 1 << 20;
    /// Times of access only after changes.
    RELATIME = 1 << 21;
    /// Every time of access.
    STRICTATIME = 1 << 24;
    /// Times are written to the disk late.
    LAZYTIME = 1 << 25;
}

impl MountFlags {
    /// The number that the kernel takes.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Both.
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Sets or clears.
    pub fn set(&mut self, other: Self, is_set: bool) {
        if is_set {
            self.0 |= other.0;
        } else {
            self.0 &= !other.0;
        }
    }
}

/// Options in the form in which the kernel takes them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MountOptions {
    /// Flags, without those of propagation.
    pub flags: MountFlags,
    /// Changes of propagation, each of which is a call of its own.
    pub propagation: Vec<MountFlags>,
    /// What asks for more than a call of the kernel, `loop`, `uidmap=`, `gidmap=` and `X-…`: whoever mounts does it or refuses.
    pub special: Vec<String>,
    /// What is left: for the filesystem.
    pub data: Vec<String>,
}

/// Every option that is a flag: its name, the flag, and whether it sets it.
const FLAGS: &[(&str, MountFlags, bool)] = &[
    ("async", MountFlags::SYNCHRONOUS, false),
    ("atime", MountFlags::NOATIME, false),
    ("bind", MountFlags::BIND, true),
    ("defaults", MountFlags(0), true),
    ("dev", MountFlags::NODEV, false),
    ("diratime", MountFlags::NODIRATIME, false),
    ("dirsync", MountFlags::DIRSYNC, true),
    ("exec", MountFlags::NOEXEC, false),
    ("lazytime", MountFlags::LAZYTIME, true),
    ("mand", MountFlags::MANDLOCK, true),
    ("noatime", MountFlags::NOATIME, true),
    ("nodev", MountFlags::NODEV, true),
    ("nodiratime", MountFlags::NODIRATIME, true),
    ("noexec", MountFlags::NOEXEC, true),
    ("nolazytime", MountFlags::LAZYTIME, false),
    ("nomand", MountFlags::MANDLOCK, false),
    ("norelatime", MountFlags::RELATIME, false),
    ("nostrictatime", MountFlags::STRICTATIME, false),
    ("nosuid", MountFlags::NOSUID, true),
    ("nosymfollow", MountFlags::NOSYMFOLLOW, true),
    ("rbind", MountFlags::BIND.union(MountFlags::REC), true),
    ("relatime", MountFlags::RELATIME, true),
    ("remount", MountFlags::REMOUNT, true),
    ("ro", MountFlags::RDONLY, true),
    ("rw", MountFlags::RDONLY, false),
    ("strictatime", MountFlags::STRICTATIME, true),
    ("suid", MountFlags::NOSUID, false),
    ("sync", MountFlags::SYNCHRONOUS, true),
];

const PROPAGATION: &[(&str, MountFlags)] = &[
    ("private", MountFlags::PRIVATE),
    ("rprivate", MountFlags::PRIVATE.union(MountFlags::REC)),
    ("shared", MountFlags::SHARED),
    ("rshared", MountFlags::SHARED.union(MountFlags::REC)),
    ("slave", MountFlags::SLAVE),
    ("rslave", MountFlags::SLAVE.union(MountFlags::REC)),
    ("unbindable", MountFlags::UNBINDABLE),
    ("runbindable", MountFlags::UNBINDABLE.union(MountFlags::REC)),
];

/// Options that are not for the kernel, by the part before `=`.
const SPECIAL: [&str; 3] = ["loop", "uidmap", "gidmap"];

/// Sorts the options; empty ones are none. What is no flag is the filesystem's, which refuses what it does not know.
pub fn parse<'a>(options: impl IntoIterator<Item = &'a str>) -> MountOptions {
    let mut parsed = MountOptions::default();
    for option in options.into_iter().filter(|option| !option.is_empty()) {
        let name = option.split('=').next().unwrap_or(option);
        if let Some((_, flag, sets)) = FLAGS.iter().find(|(name, ..)| *name == option) {
            parsed.flags.set(*flag, *sets);
        } else if let Some((_, flag)) = PROPAGATION.iter().find(|(name, _)| *name == option) {
            parsed.propagation.push(*flag);
        } else if SPECIAL.contains(&name) || name.starts_with("X-") {
            parsed.special.push(option.to_owned());
        } else {
            parsed.data.push(option.to_owned());
        }
    }
    parsed
}

/// An overlay whose layers are named relative to a folder they share, because the kernel takes no more than a page of
/// data: the folder, and the data with the shorter names.
///
/// `None` when there are no layers with a folder in common, other than the root.
pub fn shorten(data: &[String]) -> Option<(String, Vec<String>)> {
    const LAYERS: &str = "lowerdir=";
    let at = data.iter().position(|option| option.starts_with(LAYERS))?;
    let layers: Vec<&str> = data[at][LAYERS.len()..].split(':').collect();
    let mut shared = layers.first()?.rsplit_once('/')?.0;
    for layer in &layers {
        while !layer.strip_prefix(shared).is_some_and(|rest| rest.starts_with('/')) {
            shared = shared.rsplit_once('/')?.0;
        }
    }
    if shared.is_empty() {
        return None;
    }
    let short: Vec<&str> = layers.iter().map(|layer| &layer[shared.len() + 1..]).collect();
    if short.contains(&"") {
        return None;
    }
    let mut data = data.to_vec();
    data[at] = format!("{LAYERS}{}", short.join(":"));
    Some((shared.to_owned(), data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_propagation_and_data_are_told_apart() {
        let parsed = parse(["rbind", "ro", "nosuid", "", "rslave", "size=1m", "suid", "index=off"]);
        assert_eq!(parsed.flags, MountFlags::BIND.union(MountFlags::REC).union(MountFlags::RDONLY));
        assert_eq!(parsed.propagation, [MountFlags::SLAVE.union(MountFlags::REC)]);
        assert_eq!(parsed.data, ["size=1m", "index=off"]);
        assert_eq!(parsed.special, Vec::<String>::new());
    }

    #[test]
    fn the_last_of_two_opposites_wins() {
        assert_eq!(parse(["ro", "rw"]).flags, MountFlags::default());
        assert_eq!(parse(["rw", "ro"]).flags, MountFlags::RDONLY);
    }

    #[test]
    fn what_is_not_for_the_kernel_is_set_apart() {
        let parsed = parse(["loop", "uidmap=0:1000:1", "X-containerd.mkdir.path=/a", "lowerdir=/a:/b"]);
        assert_eq!(parsed.special, ["loop", "uidmap=0:1000:1", "X-containerd.mkdir.path=/a"]);
        assert_eq!(parsed.data, ["lowerdir=/a:/b"]);
    }

    #[test]
    fn layers_are_named_from_the_folder_they_share() {
        let data = ["lowerdir=/s/12/fs:/s/1/fs:/s/123/fs", "upperdir=/s/9/fs"].map(String::from);
        let (folder, short) = shorten(&data).unwrap();
        assert_eq!(folder, "/s");
        assert_eq!(short, ["lowerdir=12/fs:1/fs:123/fs", "upperdir=/s/9/fs"]);
        for without in ["lowerdir=/a/x:/b/y", "upperdir=/a", "lowerdir=a:b"] {
            assert_eq!(shorten(&[without.to_owned()]), None, "{without}");
        }
    }
}
