//! What this machine can do, asked once: the rest of the generator is pure over it.

use std::fs;
use std::path::{Path, PathBuf};

/// The largest file below `/proc` or `/sys` that is read here, in bytes.
const MAX_FACT_BYTES: u64 = 4 << 20;

/// Facts about the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Host {
    /// Cgroups are version 2 only.
    pub cgroup_v2: bool,
    /// The kernel filters system calls.
    pub seccomp: bool,
    /// The kernel has AppArmor and it is on.
    pub apparmor: bool,
    /// The AppArmor profiles that are loaded.
    pub apparmor_profiles: Vec<String>,
    /// The kernel has SELinux and it is on.
    pub selinux: bool,
    /// Swap can be limited.
    pub swap_controller: bool,
    /// The sizes of huge pages that can be limited, as `2MB`; empty if there is no controller.
    pub hugepage_sizes: Vec<String>,
    /// What a new process of ours starts with as its readiness to be killed, if it cannot be lowered below that.
    pub least_oom_score: Option<i32>,
    /// The capabilities that can be given on: bit `n` is capability number `n`.
    pub capabilities: u64,
    /// `/sys/fs/resctrl` is mounted.
    pub resctrl: bool,
    /// The name of the machine.
    pub hostname: String,
}

/// `CAP_SYS_RESOURCE`.
const SYS_RESOURCE: u64 = 1 << 24;

impl Host {
    /// Asks the machine. What cannot be found out is not there.
    pub fn probe() -> Self {
        let status = read("/proc/self/status");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.map(|text| text.trim().to_owned())
        };
        let mask = |name: &str| field(name).and_then(|text| u64::from_str_radix(&text, 16).ok()).unwrap_or(0);
        let (effective, bounding) = (mask("CapEff"), mask("CapBnd"));
        let score = read("/proc/self/oom_score_adj").trim().parse().ok();
        let cgroup_v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let apparmor = read("/sys/module/apparmor/parameters/enabled").starts_with('Y');
        let profiles = if apparmor { read("/sys/kernel/security/apparmor/profiles") } else { String::new() };
        Self {
            cgroup_v2,
            seccomp: field("Seccomp").is_some(),
            apparmor,
            apparmor_profiles: profiles.lines().filter_map(|line| Some(line.rsplit_once(" (")?.0.to_owned())).collect(),
            selinux: Path::new("/sys/fs/selinux/enforce").exists(),
            swap_controller: has_swap_controller(cgroup_v2),
            hugepage_sizes: hugepage_sizes(cgroup_v2),
            least_oom_score: if effective & SYS_RESOURCE == 0 { score } else { None },
            capabilities: effective & bounding,
            resctrl: Path::new("/sys/fs/resctrl/schemata").exists(),
            hostname: read("/proc/sys/kernel/hostname").trim().to_owned(),
        }
    }

    /// Whether an AppArmor profile is loaded.
    pub fn has_apparmor_profile(&self, name: &str) -> bool {
        self.apparmor_profiles.iter().any(|known| known == name)
    }
}

fn read(path: &str) -> String {
    use std::io::Read;
    let mut text = String::new();
    // A fact that cannot be read is one that does not hold.
    let _ = fs::File::open(path).and_then(|file| file.take(MAX_FACT_BYTES).read_to_string(&mut text));
    text
}

/// The folder of our own cgroup below the second version's mount.
fn own_cgroup_v2() -> PathBuf {
    let cgroups = read("/proc/self/cgroup");
    let path = cgroups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    Path::new("/sys/fs/cgroup").join(path)
}

fn has_swap_controller(cgroup_v2: bool) -> bool {
    if cgroup_v2 {
        // The root has no such file; any other group does.
        let own = own_cgroup_v2();
        return own.join("memory.swap.max").exists() || Path::new("/sys/fs/cgroup/init.scope/memory.swap.max").exists();
    }
    Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists()
}

fn hugepage_sizes(cgroup_v2: bool) -> Vec<String> {
    let controller = if cgroup_v2 {
        read("/sys/fs/cgroup/cgroup.controllers").split_whitespace().any(|name| name == "hugetlb")
    } else {
        Path::new("/sys/fs/cgroup/hugetlb").exists()
    };
    if !controller {
        return Vec::new();
    }
    let Ok(entries) = fs::read_dir("/sys/kernel/mm/hugepages") else { return Vec::new() };
    let sizes = entries.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let kilobytes: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        Some(page_size(kilobytes))
    });
    let mut sizes: Vec<String> = sizes.collect();
    sizes.sort();
    sizes
}

/// The name that cgroups have for a size of pages.
fn page_size(kilobytes: u64) -> String {
    match kilobytes {
        _ if kilobytes >= 1 << 20 && kilobytes.is_multiple_of(1 << 20) => format!("{}GB", kilobytes >> 20),
        _ if kilobytes >= 1 << 10 && kilobytes.is_multiple_of(1 << 10) => format!("{}MB", kilobytes >> 10),
        _ => format!("{kilobytes}KB"),
    }
}

/// How mounts spread from the mount that a path lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spread {
    /// Nowhere.
    Private,
    /// Into it only.
    Slave,
    /// Both ways.
    Shared,
}

/// How mounts spread at `path`, by the text of `/proc/self/mountinfo`. The path has no symbolic links.
pub fn spread_at(mountinfo: &str, path: &Path) -> Spread {
    let mut best: Option<(usize, Spread)> = None;
    for line in mountinfo.lines() {
        let mut fields = line.split(' ');
        let Some(point) = fields.nth(4).map(unescaped) else { continue };
        if !path.starts_with(&point) {
            continue;
        }
        let optional: Vec<&str> = fields.skip(1).take_while(|field| *field != "-").collect();
        let has = |name: &str| optional.iter().any(|field| field.starts_with(name));
        let spread = match () {
            () if has("shared:") => Spread::Shared,
            () if has("master:") => Spread::Slave,
            () => Spread::Private,
        };
        // Of several mounts on one place the last one is on top.
        let length = point.as_os_str().len();
        if best.is_none_or(|(known, _)| known <= length) {
            best = Some((length, spread));
        }
    }
    best.map_or(Spread::Private, |(_, spread)| spread)
}

/// The kernel writes blanks and backslashes as octal numbers.
fn unescaped(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let (bytes, mut out, mut at) = (text.as_bytes(), Vec::new(), 0);
    while at < bytes.len() {
        let digits = (bytes[at] == b'\\').then(|| text.get(at + 1..at + 4)).flatten();
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 4;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_seccomp_and_a_name() {
        let host = Host::probe();
        assert!(host.seccomp && !host.hostname.is_empty());
    }

    #[test]
    fn page_sizes_have_the_names_of_cgroups() {
        for (kilobytes, name) in [(64, "64KB"), (2048, "2MB"), (1 << 20, "1GB"), (16 << 20, "16GB"), (1536, "1536KB")] {
            assert_eq!(page_size(kilobytes), name);
        }
    }

    #[test]
    fn the_mount_that_a_path_lies_on_decides() {
        let info = "1 0 8:1 / / rw shared:1 - ext4 /dev/sda rw\n\
                    2 1 0:2 / /a rw - tmpfs t rw\n\
                    3 2 0:3 / /a/b rw master:7 - tmpfs t rw\n\
                    4 2 0:3 / /a/b\\040c rw shared:3 master:7 - tmpfs t rw\n\
                    5 1 0:3 / /top rw shared:3 - tmpfs t rw\n\
                    6 5 0:3 / /top rw - tmpfs t rw\n";
        for (path, expected) in [
            ("/", Spread::Shared),
            ("/x", Spread::Shared),
            ("/a", Spread::Private),
            ("/ab", Spread::Shared),
            ("/a/b/c", Spread::Slave),
            ("/a/b c/d", Spread::Shared),
            ("/top/x", Spread::Private),
        ] {
            assert_eq!(spread_at(info, Path::new(path)), expected, "{path}");
        }
        assert_eq!(spread_at("", Path::new("/")), Spread::Private);
    }
}
