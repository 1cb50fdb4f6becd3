//! The kernel's interpreter, as far as filters use it, and a plain reading of the profile to compare with.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::compile::{self, Instruction};
use super::profile::{self, Arch, Condition, Op, Profile};

/// What the kernel shows a filter.
struct Call {
    number: u32,
    arch: u32,
    arguments: [u64; 6],
}

fn interpret(program: &[Instruction], call: &Call) -> u32 {
    let word = |offset: u32| match offset {
        0 => call.number,
        4 => call.arch,
        offset => {
            let argument = call.arguments[(offset as usize - 16) / 8];
            if offset % 8 == 0 { argument as u32 } else { (argument >> 32) as u32 }
        }
    };
    let (mut accumulator, mut position) = (0, 0);
    loop {
        let Instruction { code, jump_true, jump_false, operand } = program[position];
        position += 1;
        let branch = |is_true: bool| usize::from(if is_true { jump_true } else { jump_false });
        match code {
            compile::LOAD => accumulator = word(operand),
            compile::AND => accumulator &= operand,
            compile::JUMP => position += operand as usize,
            compile::EQUAL => position += branch(accumulator == operand),
            compile::GREATER => position += branch(accumulator > operand),
            compile::AT_LEAST => position += branch(accumulator >= operand),
            compile::RETURN => return operand,
            other => panic!("instruction {other:#x}"),
        }
    }
}

fn holds(condition: &Condition, arguments: &[u64; 6], wide: bool) -> bool {
    let cut = |value: u64| if wide { value } else { value & 0xffff_ffff };
    let (argument, value) = (cut(arguments[condition.index as usize]), cut(condition.value));
    match condition.op {
        Op::NotEqual => argument != value,
        Op::Less => argument < value,
        Op::LessOrEqual => argument <= value,
        Op::Equal => argument == value,
        Op::GreaterOrEqual => argument >= value,
        Op::Greater => argument > value,
        Op::MaskedEqual => argument & value == cut(condition.value_two),
    }
}

fn expected(profile: &Profile, arch: Arch, number: u32, arguments: &[u64; 6]) -> u32 {
    if arch == Arch::X86_64 && number >= 0x4000_0000 {
        return profile::NO_SUCH_CALL;
    }
    let calls: &BTreeMap<u32, profile::Rules> = &profile.archs[&arch];
    match calls.get(&number) {
        Some(rules) => rules
            .conditional
            .iter()
            .find(|(conditions, _)| conditions.iter().all(|condition| holds(condition, arguments, arch.is_64_bit())))
            .map(|(_, action)| *action)
            .or(rules.otherwise)
            .unwrap_or(profile.default),
        None if calls.keys().next_back().is_some_and(|newest| number > *newest) => profile.newer,
        None => profile.default,
    }
}

/// A small generator: the same numbers on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }

    fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }

    /// Values near the edges of both words.
    fn value(&mut self) -> u64 {
        let word = [0, 1, 2, 5, 0x7fff_ffff, 0x8000_0000, 0xffff_fffe, 0xffff_ffff];
        self.pick(&word) << 32 | self.pick(&word)
    }
}

fn random_profile(random: &mut Random) -> Value {
    let names = [
        "read",
        "write",
        "open",
        "close",
        "socket",
        "bind",
        "clone",
        "clone3",
        "personality",
        "futex",
        "socketcall",
        "shmget",
        "chown32",
        "mkdirat",
        "openat2",
        "io_uring_setup",
        "ptrace",
        "no_such_call",
    ];
    let ops = [
        "SCMP_CMP_NE",
        "SCMP_CMP_LT",
        "SCMP_CMP_LE",
        "SCMP_CMP_EQ",
        "SCMP_CMP_GE",
        "SCMP_CMP_GT",
        "SCMP_CMP_MASKED_EQ",
    ];
    let actions = ["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_LOG", "SCMP_ACT_TRAP"];
    let rules: Vec<Value> = (0..random.below(30))
        .map(|_| {
            let args: Vec<Value> = (0..random.below(4))
                .map(|_| {
                    json!({ "index": random.below(6), "value": random.value(), "valueTwo": random.value(), "op": random.pick(&ops) })
                })
                .collect();
            json!({ "names": [random.pick(&names), random.pick(&names)], "action": random.pick(&actions), "args": args })
        })
        .collect();
    json!({
        "defaultAction": random.pick(&actions),
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        "syscalls": rules,
    })
}

#[test]
fn programs_decide_as_their_profiles_read() {
    let mut random = Random(7);
    let mut compiled = 0;
    while compiled < 300 {
        // Random rules often contradict each other; those profiles are refused.
        let Ok(profile) = profile::parse(&random_profile(&mut random)) else { continue };
        compiled += 1;
        let program = compile::compile(&profile).unwrap();
        for (arch, calls) in &profile.archs {
            let mut numbers: Vec<u32> =
                calls.keys().flat_map(|number| [number.saturating_sub(1), *number, number + 1]).collect();
            numbers.extend([0, 1000, 0x3fff_ffff, 0x4000_0000, u32::MAX]);
            for number in numbers {
                for _ in 0..20 {
                    let mut arguments: [u64; 6] = std::array::from_fn(|_| random.value());
                    if random.below(2) == 0
                        && let Some((conditions, _)) = calls.get(&number).and_then(|rules| rules.conditional.first())
                    {
                        for condition in conditions {
                            arguments[condition.index as usize] = condition.value;
                        }
                    }
                    let call = Call { number, arch: arch.audit(), arguments };
                    let (got, wanted) =
                        (interpret(&program.instructions, &call), expected(&profile, *arch, number, &arguments));
                    assert_eq!(got, wanted, "{arch:?} {number} {arguments:x?} {profile:?}");
                }
            }
        }
        let foreign = Call { number: 0, arch: 0x1234, arguments: [0; 6] };
        assert_eq!(interpret(&program.instructions, &foreign), profile::KILL_PROCESS);
    }
}

#[test]
fn what_is_not_understood_is_refused() {
    let profile = |change: fn(&mut Value)| {
        let mut json = json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{ "names": ["read"], "action": "SCMP_ACT_ERRNO" }] });
        change(&mut json);
        profile::parse(&json).map(drop).map_err(|error| error.to_string())
    };
    assert_eq!(profile(|_| {}), Ok(()));
    for (change, text) in [
        (
            (|json| json["defaultAction"] = json!("SCMP_ACT_MAYBE")) as fn(&mut Value),
            "seccomp action \"SCMP_ACT_MAYBE\" is not supported",
        ),
        (
            |json| json["syscalls"][0]["action"] = json!("SCMP_ACT_NOTIFY"),
            "seccomp action \"SCMP_ACT_NOTIFY\" is not supported",
        ),
        (|json| json["listenerPath"] = json!("/s"), "seccomp listenerPath \"/s\" is not supported"),
        (
            |json| json["flags"] = json!(["SECCOMP_FILTER_FLAG_X"]),
            "seccomp flag \"SECCOMP_FILTER_FLAG_X\" is not supported",
        ),
        (|json| json["syscalls"][0]["errnoRet"] = json!(5000), "seccomp errnoRet \"5000\" is not supported"),
        (
            |json| json["syscalls"] = json!([{ "names": ["read"], "action": "SCMP_ACT_ERRNO" }, { "names": ["read"], "action": "SCMP_ACT_KILL" }]),
            "seccomp rules for \"read\" contradict each other",
        ),
    ] {
        assert_eq!(profile(change).unwrap_err(), text);
    }
}

#[test]
fn calls_nobody_knows_are_told_only_where_the_rule_is_lost() {
    for (default, unknown) in [("SCMP_ACT_ALLOW", 1), ("SCMP_ACT_ERRNO", 0)] {
        let json =
            json!({ "defaultAction": default, "syscalls": [{ "names": ["no_such_call"], "action": "SCMP_ACT_KILL" }] });
        assert_eq!(super::compile(Some(&json)).unwrap().unwrap().1.len(), unknown);
    }
    assert_eq!(super::compile(None).unwrap(), None);
}
