//! An OCI seccomp profile as rules per architecture. Nothing is guessed: an unknown word is an error.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use serde::Deserialize;
use serde_json::Value;

/// The kernel's answer when a profile says `SCMP_ACT_ERRNO` without a number: `EPERM`.
const DEFAULT_ERRNO: u32 = 1;
/// The largest error number the kernel returns.
const MAX_ERRNO: u32 = 4095;
/// More rules than any profile has; bounds what is compiled.
const MAX_RULES: usize = 4096;

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// It is not what the OCI specification describes.
    #[error("seccomp profile")]
    Json(#[from] serde_json::Error),
    /// A word or value that is not supported.
    #[error("seccomp {what} {value:?} is not supported")]
    Unsupported {
        /// Which field.
        what: &'static str,
        /// Its value.
        value: String,
    },
    /// Two rules for one call that say different things.
    #[error("seccomp rules for {0:?} contradict each other")]
    Contradiction(String),
    /// The kernel would not take so many instructions.
    #[error("seccomp profile compiles to {0} instructions, more than the kernel takes")]
    TooLong(usize),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Json {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Option<Vec<String>>,
    #[serde(default)]
    flags: Option<Vec<String>>,
    #[serde(default)]
    listener_path: Option<String>,
    #[serde(default)]
    syscalls: Option<Vec<JsonRule>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonRule {
    names: Vec<String>,
    action: String,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<JsonArg>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonArg {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

/// Architectures whose calls a container can make on the machines supported here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Arch {
    X86_64,
    X86,
    Aarch64,
    Arm,
}

impl Arch {
    #[cfg(target_arch = "x86_64")]
    const NATIVE: Option<Self> = Some(Self::X86_64);
    #[cfg(target_arch = "aarch64")]
    const NATIVE: Option<Self> = Some(Self::Aarch64);
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    const NATIVE: Option<Self> = None;

    /// The kernel's `AUDIT_ARCH_*`.
    pub(super) fn audit(self) -> u32 {
        match self {
            Self::X86_64 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }

    pub(super) fn is_64_bit(self) -> bool {
        matches!(self, Self::X86_64 | Self::Aarch64)
    }

    pub(super) fn number(self, name: &str) -> Option<u32> {
        match self {
            Self::X86_64 => syscalls::x86_64::Sysno::from_str(name).ok().map(|number| number as u32),
            Self::X86 => syscalls::x86::Sysno::from_str(name).ok().map(|number| number as u32),
            Self::Aarch64 => syscalls::aarch64::Sysno::from_str(name).ok().map(|number| number as u32),
            Self::Arm => syscalls::arm::Sysno::from_str(name).ok().map(|number| number as u32),
        }
    }
}

/// A comparison of one argument of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Op {
    NotEqual,
    Less,
    LessOrEqual,
    Equal,
    GreaterOrEqual,
    Greater,
    /// `argument & value == value_two`
    MaskedEqual,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Condition {
    pub(super) index: u32,
    pub(super) op: Op,
    pub(super) value: u64,
    pub(super) value_two: u64,
}

/// What to do with one call.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Rules {
    /// The first of which all conditions hold decides; the strictest come first.
    pub(super) conditional: Vec<(Vec<Condition>, u32)>,
    /// Decides when none does; absent: the profile's default.
    pub(super) otherwise: Option<u32>,
}

/// A profile, resolved. Actions are the kernel's `SECCOMP_RET_*` values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Profile {
    pub(super) default: u32,
    pub(super) flags: u32,
    /// What calls past the newest one named get.
    pub(super) newer: u32,
    pub(super) archs: BTreeMap<Arch, BTreeMap<u32, Rules>>,
    /// Names that no table knows, if their rules would have been stricter than the default.
    pub(super) unknown: Vec<String>,
}

pub(super) const KILL_PROCESS: u32 = 0x8000_0000;
const KILL_THREAD: u32 = 0;
const TRAP: u32 = 0x0003_0000;
const ERRNO: u32 = 0x0005_0000;
const TRACE: u32 = 0x7ff0_0000;
const LOG: u32 = 0x7ffc_0000;
const ALLOW: u32 = 0x7fff_0000;
/// `ENOSYS`
pub(super) const NO_SUCH_CALL: u32 = ERRNO | 38;

/// Whether an action lets the call happen.
pub(super) fn is_permissive(action: u32) -> bool {
    action >= TRACE
}

/// Reads a profile.
pub(super) fn parse(json: &Value) -> Result<Profile, SeccompError> {
    let json: Json = Json::deserialize(json)?;
    if let Some(path) = json.listener_path.filter(|path| !path.is_empty()) {
        return Err(unsupported("listenerPath", &path));
    }
    let default = action(&json.default_action, json.default_errno_ret)?;
    let flags = flags(&json.flags.unwrap_or_default())?;
    let archs = archs(&json.architectures.unwrap_or_default())?;
    let rules = json.syscalls.unwrap_or_default();
    if rules.len() > MAX_RULES {
        return Err(unsupported("number of rules", &rules.len().to_string()));
    }
    let newer = if is_permissive(default) || default == NO_SUCH_CALL { default } else { NO_SUCH_CALL };
    let mut profile = Profile {
        default,
        flags,
        newer,
        archs: archs.into_iter().map(|arch| (arch, BTreeMap::new())).collect(),
        unknown: Vec::new(),
    };
    for rule in rules {
        let action = action(&rule.action, rule.errno_ret)?;
        let alternatives = alternatives(&rule.args.unwrap_or_default())?;
        for name in &rule.names {
            profile.add(name, &alternatives, action)?;
        }
    }
    for rules in profile.archs.values_mut().flat_map(BTreeMap::values_mut) {
        // The strictest of those that apply wins, as among several filters. The kernel orders actions as signed numbers.
        rules.conditional.sort_by_key(|(_, action)| action.cast_signed());
    }
    if is_permissive(default) {
        profile.unknown.sort();
        profile.unknown.dedup();
    } else {
        // A call that nobody here knows is refused anyway.
        profile.unknown.clear();
    }
    Ok(profile)
}

impl Profile {
    fn add(&mut self, name: &str, alternatives: &[Vec<Condition>], action: u32) -> Result<(), SeccompError> {
        let default = self.default;
        let mut is_known = false;
        for (arch, calls) in &mut self.archs {
            if let Some(number) = arch.number(name) {
                is_known = true;
                // Named at least: it is not newer than the profile.
                let rules = calls.entry(number).or_default();
                // A rule that says what happens anyway says nothing, and must not hide another one.
                if action != default {
                    rules.add(name, alternatives, action)?;
                }
            }
            if *arch == Arch::X86
                && let Some((multiplexer, call)) = multiplexed(name)
            {
                is_known = true;
                // The arguments are behind a pointer there, so a rule with conditions can only be taken as a whole:
                // not at all if it permits, for the whole call if it refuses.
                let has_conditions = alternatives.iter().any(|conditions| !conditions.is_empty());
                let number = arch.number(multiplexer).expect("both are x86 calls");
                if action != default && !(has_conditions && is_permissive(action)) {
                    let condition = Condition { index: 0, op: Op::Equal, value: call, value_two: 0 };
                    calls.entry(number).or_default().conditional.push((vec![condition], action));
                }
            }
        }
        if !is_known {
            self.unknown.push(name.to_owned());
        }
        Ok(())
    }
}

impl Rules {
    fn add(&mut self, name: &str, alternatives: &[Vec<Condition>], action: u32) -> Result<(), SeccompError> {
        let contradiction = || SeccompError::Contradiction(name.to_owned());
        for conditions in alternatives {
            if conditions.is_empty() {
                if self.otherwise.is_some_and(|other| other != action) {
                    return Err(contradiction());
                }
                self.otherwise = Some(action);
            } else if self.conditional.iter().any(|(other, decided)| other == conditions && *decided != action) {
                return Err(contradiction());
            } else {
                self.conditional.push((conditions.clone(), action));
            }
        }
        // Whether the general or the special rule wins is not said anywhere.
        let differs = |other: u32| self.conditional.iter().any(|(_, action)| *action != other);
        if self.otherwise.is_some_and(differs) && !is_multiplexer(name) {
            return Err(contradiction());
        }
        Ok(())
    }
}

/// The conditions of a rule: all must hold. As runc has it, several for one argument are alternatives instead.
fn alternatives(args: &[JsonArg]) -> Result<Vec<Vec<Condition>>, SeccompError> {
    let conditions: Vec<Condition> = args.iter().map(condition).collect::<Result<_, _>>()?;
    let arguments: BTreeSet<u32> = conditions.iter().map(|condition| condition.index).collect();
    Ok(if arguments.len() < conditions.len() {
        conditions.into_iter().map(|condition| vec![condition]).collect()
    } else {
        vec![conditions]
    })
}

fn condition(arg: &JsonArg) -> Result<Condition, SeccompError> {
    let op = match arg.op.as_str() {
        "SCMP_CMP_NE" => Op::NotEqual,
        "SCMP_CMP_LT" => Op::Less,
        "SCMP_CMP_LE" => Op::LessOrEqual,
        "SCMP_CMP_EQ" => Op::Equal,
        "SCMP_CMP_GE" => Op::GreaterOrEqual,
        "SCMP_CMP_GT" => Op::Greater,
        "SCMP_CMP_MASKED_EQ" => Op::MaskedEqual,
        other => return Err(unsupported("operator", other)),
    };
    if arg.index > 5 {
        return Err(unsupported("argument index", &arg.index.to_string()));
    }
    Ok(Condition { index: arg.index, op, value: arg.value, value_two: arg.value_two })
}

fn action(name: &str, errno: Option<u32>) -> Result<u32, SeccompError> {
    let number = errno.unwrap_or(DEFAULT_ERRNO);
    if number > MAX_ERRNO {
        return Err(unsupported("errnoRet", &number.to_string()));
    }
    Ok(match name {
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS" => KILL_PROCESS,
        "SCMP_ACT_TRAP" => TRAP,
        "SCMP_ACT_ERRNO" => ERRNO | number,
        "SCMP_ACT_TRACE" => TRACE | number,
        "SCMP_ACT_LOG" => LOG,
        "SCMP_ACT_ALLOW" => ALLOW,
        other => return Err(unsupported("action", other)),
    })
}

fn flags(names: &[String]) -> Result<u32, SeccompError> {
    names.iter().try_fold(0, |flags, name| {
        Ok(flags
            | match name.as_str() {
                // The process has one thread, so there is nothing to synchronise.
                "SECCOMP_FILTER_FLAG_TSYNC" => 0,
                "SECCOMP_FILTER_FLAG_LOG" => 2,
                "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => 4,
                other => return Err(unsupported("flag", other)),
            })
    })
}

/// The architectures listed that this machine can run, and its own.
fn archs(names: &[String]) -> Result<BTreeSet<Arch>, SeccompError> {
    let native = Arch::NATIVE.ok_or_else(|| unsupported("architecture", std::env::consts::ARCH))?;
    let mut archs = BTreeSet::from([native]);
    for name in names {
        let arch = match name.as_str() {
            "SCMP_ARCH_X86_64" => Arch::X86_64,
            "SCMP_ARCH_X86" => Arch::X86,
            "SCMP_ARCH_AARCH64" => Arch::Aarch64,
            "SCMP_ARCH_ARM" => Arch::Arm,
            // Its calls answer ENOSYS; see the module's description.
            "SCMP_ARCH_X32" => continue,
            // Listed by profiles for all machines; this one cannot run them.
            other if other.starts_with("SCMP_ARCH_") => continue,
            other => return Err(unsupported("architecture", other)),
        };
        let is_x86 = |arch| matches!(arch, Arch::X86_64 | Arch::X86);
        if is_x86(arch) == is_x86(native) {
            archs.insert(arch);
        }
    }
    Ok(archs)
}

/// On x86 these calls can also be made through another call, by number.
fn multiplexed(name: &str) -> Option<(&'static str, u64)> {
    const SOCKETS: [&str; 20] = [
        "socket",
        "bind",
        "connect",
        "listen",
        "accept",
        "getsockname",
        "getpeername",
        "socketpair",
        "send",
        "recv",
        "sendto",
        "recvfrom",
        "shutdown",
        "setsockopt",
        "getsockopt",
        "sendmsg",
        "recvmsg",
        "accept4",
        "recvmmsg",
        "sendmmsg",
    ];
    const IPC: [(&str, u64); 12] = [
        ("semop", 1),
        ("semget", 2),
        ("semctl", 3),
        ("semtimedop", 4),
        ("msgsnd", 11),
        ("msgrcv", 12),
        ("msgget", 13),
        ("msgctl", 14),
        ("shmat", 21),
        ("shmdt", 22),
        ("shmget", 23),
        ("shmctl", 24),
    ];
    if let Some(position) = SOCKETS.iter().position(|known| *known == name) {
        return Some(("socketcall", position as u64 + 1));
    }
    IPC.iter().find(|(known, _)| *known == name).map(|(_, number)| ("ipc", *number))
}

/// Whether the name is such another call itself: it has rules for single numbers and one for the rest.
fn is_multiplexer(name: &str) -> bool {
    matches!(name, "socketcall" | "ipc")
}

fn unsupported(what: &'static str, value: &str) -> SeccompError {
    SeccompError::Unsupported { what, value: value.to_owned() }
}
