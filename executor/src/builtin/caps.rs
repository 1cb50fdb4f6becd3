//! Linux capabilities of a process: from their names in the spec to the kernel's five sets.

use rustix::thread::{
    CapabilitySet, CapabilitySets, capability_is_in_bounding_set, clear_ambient_capability_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
};
use serde_json::Value;

/// In the order of their numbers.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The five sets. A set that the spec leaves out is empty: nothing is granted that was not asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Capabilities {
    pub(super) bounding: CapabilitySet,
    pub(super) effective: CapabilitySet,
    pub(super) permitted: CapabilitySet,
    pub(super) inheritable: CapabilitySet,
    pub(super) ambient: CapabilitySet,
}

impl Capabilities {
    /// Reads `process.capabilities`. Names the kernel or this table does not know are returned as second value: they
    /// cannot be granted, and leaving them out only makes the container weaker.
    pub(super) fn from_spec(capabilities: Option<&Value>) -> (Self, Vec<String>) {
        let mut unknown = Vec::new();
        let mut set = |name: &str| {
            let mut set = CapabilitySet::empty();
            let names = capabilities.and_then(|value| value.get(name)).and_then(Value::as_array);
            for name in names.into_iter().flatten().filter_map(Value::as_str) {
                match bit(name) {
                    Some(bit) => set |= bit,
                    None => unknown.push(name.to_owned()),
                }
            }
            set
        };
        let sets = Self {
            bounding: set("bounding"),
            effective: set("effective"),
            permitted: set("permitted"),
            inheritable: set("inheritable"),
            ambient: set("ambient"),
        };
        unknown.sort();
        unknown.dedup();
        (sets, unknown)
    }

    /// Leaves out what this process could not hand on; returns the names of those.
    pub(super) fn restrict(&mut self) -> rustix::io::Result<Vec<&'static str>> {
        let available = rustix::thread::capabilities(None)?.permitted;
        let wanted = self.bounding | self.effective | self.permitted | self.inheritable | self.ambient;
        for set in
            [&mut self.bounding, &mut self.effective, &mut self.permitted, &mut self.inheritable, &mut self.ambient]
        {
            *set &= available;
        }
        // The kernel refuses more than these, and a spec that says otherwise cannot mean more.
        self.effective &= self.permitted;
        self.ambient &= self.permitted & self.inheritable;
        Ok(names(wanted - available))
    }

    /// Gives up everything else. Needs `CAP_SETPCAP` in the effective set when the bounding set shrinks.
    pub(super) fn apply(&self) -> rustix::io::Result<()> {
        for number in 0..64 {
            let bit = CapabilitySet::from_bits_retain(1 << number);
            match capability_is_in_bounding_set(bit) {
                Ok(true) if !self.bounding.contains(bit) => remove_capability_from_bounding_set(bit)?,
                Ok(_) => {}
                // Past the kernel's last capability.
                Err(_) => break,
            }
        }
        clear_ambient_capability_set()?;
        set_capabilities(
            None,
            CapabilitySets { effective: self.effective, permitted: self.permitted, inheritable: self.inheritable },
        )?;
        for bit in self.ambient.iter() {
            configure_capability_in_ambient_set(bit, true)?;
        }
        Ok(())
    }
}

fn bit(name: &str) -> Option<CapabilitySet> {
    let upper = name.to_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    let number = NAMES.iter().position(|known| *known == short)?;
    Some(CapabilitySet::from_bits_retain(1 << number))
}

fn names(set: CapabilitySet) -> Vec<&'static str> {
    NAMES.iter().enumerate().filter(|(number, _)| set.bits() & 1 << number != 0).map(|(_, name)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_bits_and_missing_sets_are_empty() {
        let spec = serde_json::json!({ "bounding": ["CAP_CHOWN", "CAP_CHECKPOINT_RESTORE", "CAP_NOPE"], "effective": ["cap_kill"] });
        let (sets, unknown) = Capabilities::from_spec(Some(&spec));
        assert_eq!(sets.bounding.bits(), 1 | 1 << 40);
        assert_eq!(sets.effective, CapabilitySet::KILL);
        assert!(sets.inheritable.is_empty() && sets.ambient.is_empty() && sets.permitted.is_empty());
        assert_eq!(unknown, ["CAP_NOPE"]);
    }

    #[test]
    fn the_table_is_in_the_kernels_order() {
        for (name, bit_) in [
            ("SYS_ADMIN", CapabilitySet::SYS_ADMIN),
            ("AUDIT_READ", CapabilitySet::AUDIT_READ),
            ("BPF", CapabilitySet::BPF),
            ("MKNOD", CapabilitySet::MKNOD),
        ] {
            assert_eq!(bit(name), Some(bit_), "{name}");
        }
    }
}
