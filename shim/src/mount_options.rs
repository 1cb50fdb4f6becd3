//! The options of a mount, told apart: flags of the kernel, propagation, data for the filesystem. Pure.

use nix::mount::MsFlags;

/// Options in the form in which the kernel takes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parsed {
    /// Flags, without those of propagation.
    pub flags: MsFlags,
    /// Changes of propagation, each of which is a call of its own.
    pub propagation: Vec<MsFlags>,
    /// What is left: for the filesystem.
    pub data: Vec<String>,
}

/// Every option that is a flag: its name, the flag, and whether it sets it.
const FLAGS: &[(&str, MsFlags, bool)] = &[
    ("async", MsFlags::MS_SYNCHRONOUS, false),
    ("atime", MsFlags::MS_NOATIME, false),
    ("bind", MsFlags::MS_BIND, true),
    ("defaults", MsFlags::empty(), true),
    ("dev", MsFlags::MS_NODEV, false),
    ("diratime", MsFlags::MS_NODIRATIME, false),
    ("dirsync", MsFlags::MS_DIRSYNC, true),
    ("exec", MsFlags::MS_NOEXEC, false),
    ("mand", MsFlags::MS_MANDLOCK, true),
    ("noatime", MsFlags::MS_NOATIME, true),
    ("nodev", MsFlags::MS_NODEV, true),
    ("nodiratime", MsFlags::MS_NODIRATIME, true),
    ("noexec", MsFlags::MS_NOEXEC, true),
    ("nomand", MsFlags::MS_MANDLOCK, false),
    ("norelatime", MsFlags::MS_RELATIME, false),
    ("nostrictatime", MsFlags::MS_STRICTATIME, false),
    ("nosuid", MsFlags::MS_NOSUID, true),
    ("rbind", MsFlags::MS_BIND.union(MsFlags::MS_REC), true),
    ("relatime", MsFlags::MS_RELATIME, true),
    ("remount", MsFlags::MS_REMOUNT, true),
    ("ro", MsFlags::MS_RDONLY, true),
    ("rw", MsFlags::MS_RDONLY, false),
    ("strictatime", MsFlags::MS_STRICTATIME, true),
    ("suid", MsFlags::MS_NOSUID, false),
    ("sync", MsFlags::MS_SYNCHRONOUS, true),
];

const PROPAGATION: &[(&str, MsFlags)] = &[
    ("private", MsFlags::MS_PRIVATE),
    ("rprivate", MsFlags::MS_PRIVATE.union(MsFlags::MS_REC)),
    ("shared", MsFlags::MS_SHARED),
    ("rshared", MsFlags::MS_SHARED.union(MsFlags::MS_REC)),
    ("slave", MsFlags::MS_SLAVE),
    ("rslave", MsFlags::MS_SLAVE.union(MsFlags::MS_REC)),
    ("unbindable", MsFlags::MS_UNBINDABLE),
    ("runbindable", MsFlags::MS_UNBINDABLE.union(MsFlags::MS_REC)),
];

/// Sorts the options. What is no flag is the filesystem's, which refuses what it does not know.
pub(crate) fn parse<'a>(options: impl IntoIterator<Item = &'a str>) -> Parsed {
    let mut parsed = Parsed { flags: MsFlags::empty(), propagation: Vec::new(), data: Vec::new() };
    for option in options {
        if let Some((_, flag, sets)) = FLAGS.iter().find(|(name, ..)| *name == option) {
            parsed.flags.set(*flag, *sets);
        } else if let Some((_, flag)) = PROPAGATION.iter().find(|(name, _)| *name == option) {
            parsed.propagation.push(*flag);
        } else {
            parsed.data.push(option.to_owned());
        }
    }
    parsed
}

/// An overlay whose layers are named relative to a folder they share, because the kernel takes no more than a page of
/// data: the folder, and the data with the shorter names.
///
/// `None` when there are no layers with a folder in common.
pub(crate) fn shorten(data: &[String]) -> Option<(String, Vec<String>)> {
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
    let mut data = data.to_vec();
    data[at] = format!("{LAYERS}{}", short.join(":"));
    Some((shared.to_owned(), data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_propagation_and_data_are_told_apart() {
        let parsed = parse(["rbind", "ro", "nosuid", "rslave", "size=1m", "suid", "index=off"]);
        assert_eq!(parsed.flags, MsFlags::MS_BIND | MsFlags::MS_REC | MsFlags::MS_RDONLY);
        assert_eq!(parsed.propagation, [MsFlags::MS_SLAVE | MsFlags::MS_REC]);
        assert_eq!(parsed.data, ["size=1m", "index=off"]);
    }

    #[test]
    fn the_last_of_two_opposites_wins() {
        assert_eq!(parse(["ro", "rw"]).flags, MsFlags::empty());
        assert_eq!(parse(["rw", "ro"]).flags, MsFlags::MS_RDONLY);
    }

    #[test]
    fn layers_are_named_from_the_folder_they_share() {
        let data = ["lowerdir=/s/12/fs:/s/1/fs:/s/123/fs", "upperdir=/s/9/fs"].map(String::from);
        let (folder, short) = shorten(&data).unwrap();
        assert_eq!(folder, "/s");
        assert_eq!(short, ["lowerdir=12/fs:1/fs:123/fs", "upperdir=/s/9/fs"]);
        assert_eq!(shorten(&["lowerdir=/a/x:/b/y".to_owned()]), None, "only the root is shared");
        assert_eq!(shorten(&["upperdir=/a".to_owned()]), None);
    }
}
