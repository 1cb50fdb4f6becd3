//! The capabilities of a container. Pure.
//!
//! Inheritable and ambient sets stay empty unless ambient ones are asked for by name.

use std::collections::BTreeSet;

use model::capabilities::DEFAULT;
use proto::cri::Capability;
use serde_json::{Value, json};

use super::SpecError;

/// All that there are, by their number in the kernel.
const ALL: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// The capabilities of one process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// What it has and may have.
    pub bounding: Vec<&'static str>,
    /// What it keeps when it runs a program as another user than root.
    pub ambient: Vec<&'static str>,
}

impl Capabilities {
    /// Whether it has one.
    pub fn has(&self, name: &str) -> bool {
        self.bounding.contains(&name)
    }

    /// As a specification says them.
    pub fn to_json(&self) -> Value {
        let mut sets = json!({"bounding": self.bounding, "effective": self.bounding, "permitted": self.bounding});
        if !self.ambient.is_empty() {
            sets["inheritable"] = json!(self.ambient);
            sets["ambient"] = json!(self.ambient);
        }
        sets
    }
}

/// What a container gets. `host` is what this daemon may give: bit `n` is capability number `n`.
///
/// # Errors
/// A capability is not known, or is asked for as ambient but not had.
pub(crate) fn resolve(wanted: Option<&Capability>, privileged: bool, host: u64) -> Result<Capabilities, SpecError> {
    let allowed =
        |name: &&'static str| ALL.iter().position(|known| known == name).is_some_and(|bit| host >> bit & 1 == 1);
    if privileged {
        return Ok(Capabilities { bounding: ALL.into_iter().filter(allowed).collect(), ambient: Vec::new() });
    }
    let none = Capability::default();
    let wanted = wanted.unwrap_or(&none);
    let mut set: BTreeSet<&'static str> = DEFAULT.into_iter().collect();
    // `ALL` is the ground that the names then change, in either direction.
    if wanted.add_capabilities.iter().any(|name| is_all(name)) {
        set = ALL.into_iter().collect();
    }
    if wanted.drop_capabilities.iter().any(|name| is_all(name)) {
        set.clear();
    }
    for name in wanted.add_capabilities.iter().filter(|name| !is_all(name)) {
        set.insert(known(name)?);
    }
    for name in wanted.drop_capabilities.iter().filter(|name| !is_all(name)) {
        set.remove(known(name)?);
    }
    let mut ambient = Vec::new();
    for name in &wanted.add_ambient_capabilities {
        if is_all(name) {
            ambient = ALL.into_iter().collect();
            set.extend(ALL);
            continue;
        }
        let name = known(name)?;
        set.insert(name);
        ambient.push(name);
    }
    ambient.sort_unstable();
    ambient.dedup();
    let keep = |set: Vec<&'static str>| set.into_iter().filter(allowed).collect::<Vec<_>>();
    Ok(Capabilities {
        bounding: keep(ALL.into_iter().filter(|name| set.contains(name)).collect()),
        ambient: keep(ambient),
    })
}

fn is_all(name: &str) -> bool {
    name.eq_ignore_ascii_case("ALL")
}

/// The full name: `CAP_` may be left out, and case does not matter.
fn known(name: &str) -> Result<&'static str, SpecError> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    let found = ALL.into_iter().find(|known| &known["CAP_".len()..] == bare);
    found.ok_or_else(|| SpecError::invalid(format!("unknown capability {name:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &str) -> Vec<String> {
        names.split_whitespace().map(str::to_owned).collect()
    }

    fn made(add: &str, drop: &str) -> Result<Capabilities, SpecError> {
        let wanted = Capability {
            add_capabilities: list(add),
            drop_capabilities: list(drop),
            add_ambient_capabilities: Vec::new(),
        };
        resolve(Some(&wanted), false, u64::MAX)
    }

    #[test]
    fn adding_and_dropping_as_a_table() {
        for (add, drop, count, has, lacks) in [
            ("", "", 14, "CAP_CHOWN", "CAP_SYS_ADMIN"),
            ("SYS_ADMIN", "", 15, "CAP_SYS_ADMIN", "CAP_BPF"),
            ("cap_net_admin", "CHOWN", 14, "CAP_NET_ADMIN", "CAP_CHOWN"),
            ("ALL", "", 41, "CAP_BPF", ""),
            ("ALL", "BPF", 40, "CAP_CHOWN", "CAP_BPF"),
            ("", "ALL", 0, "", "CAP_CHOWN"),
            ("CHOWN", "all", 1, "CAP_CHOWN", "CAP_KILL"),
            ("CHOWN", "CHOWN", 13, "CAP_KILL", "CAP_CHOWN"),
        ] {
            let made = made(add, drop).unwrap();
            assert_eq!(made.bounding.len(), count, "+{add} -{drop}");
            assert!(has.is_empty() || made.has(has), "+{add} -{drop}");
            assert!(!made.has(lacks), "+{add} -{drop}");
            assert!(made.ambient.is_empty());
            let sets = made.to_json();
            assert!(sets.get("inheritable").is_none() && sets.get("ambient").is_none());
        }
        for wrong in ["NOPE", "CAP_"] {
            assert!(made(wrong, "").is_err(), "{wrong:?}");
            assert!(made("", wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn ambient_ones_are_had_too() {
        let wanted = Capability { add_ambient_capabilities: list("NET_RAW SYS_TIME"), ..Default::default() };
        let made = resolve(Some(&wanted), false, u64::MAX).unwrap();
        assert_eq!(made.ambient, ["CAP_NET_RAW", "CAP_SYS_TIME"]);
        assert!(made.has("CAP_SYS_TIME"));
        assert_eq!(made.to_json()["inheritable"], json!(["CAP_NET_RAW", "CAP_SYS_TIME"]));
    }

    #[test]
    fn nobody_gets_what_the_daemon_lacks() {
        let host = !(1 << 24);
        assert!(!resolve(None, true, host).unwrap().has("CAP_SYS_RESOURCE"));
        assert_eq!(resolve(None, true, host).unwrap().bounding.len(), 40);
        let wanted = Capability { add_capabilities: list("ALL"), ..Default::default() };
        assert!(!resolve(Some(&wanted), false, host).unwrap().has("CAP_SYS_RESOURCE"));
    }
}
