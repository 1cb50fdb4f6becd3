//! Rules about devices on cgroup v2, where they are a program that the kernel asks on every `open` and `mknod`.
//!
//! [`program`] is pure: from `linux.resources.devices` to instructions. A request comes with its access bits; the rules are
//! walked from the last to the first. One that denies a bit still in question ends it with no, one that allows takes its
//! bits out of question, and nothing left in question is a yes. What no rule is about is denied.

use std::path::Path;

use serde_json::Value;

use super::CgroupError;
use crate::sys::bpf;

/// More rules than this are refused; the kernel's bound on instructions is far above.
const MAX_RULES: usize = 4096;
/// Every device a container has without asking: making nodes of any (which does not allow to open them), and the ones
/// that every runtime puts into `/dev`.
const DEFAULTS: [Rule; 10] = [
    Rule::allow(Some(CHARACTER), None, None, MKNOD),
    Rule::allow(Some(BLOCK), None, None, MKNOD),
    Rule::allow(Some(CHARACTER), Some(1), Some(3), ALL),
    Rule::allow(Some(CHARACTER), Some(1), Some(5), ALL),
    Rule::allow(Some(CHARACTER), Some(1), Some(7), ALL),
    Rule::allow(Some(CHARACTER), Some(1), Some(8), ALL),
    Rule::allow(Some(CHARACTER), Some(1), Some(9), ALL),
    Rule::allow(Some(CHARACTER), Some(5), Some(0), ALL),
    Rule::allow(Some(CHARACTER), Some(5), Some(2), ALL),
    Rule::allow(Some(CHARACTER), Some(136), None, ALL),
];

// The kernel's numbers (`BPF_DEVCG_*`).
const BLOCK: u32 = 1;
const CHARACTER: u32 = 2;
const MKNOD: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 4;
const ALL: u32 = MKNOD | READ | WRITE;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    allow: bool,
    /// `None`: of both kinds.
    kind: Option<u32>,
    major: Option<u32>,
    minor: Option<u32>,
    access: u32,
}

impl Rule {
    const fn allow(kind: Option<u32>, major: Option<u32>, minor: Option<u32>, access: u32) -> Self {
        Self { allow: true, kind, major, minor, access }
    }

    fn from_json(rule: &Value) -> Result<Self, String> {
        let word = |name: &str| rule.get(name).and_then(Value::as_str).unwrap_or_default();
        let kind = match word("type") {
            "" | "a" => None,
            "b" => Some(BLOCK),
            "c" | "u" => Some(CHARACTER),
            other => return Err(format!("device rule with the unknown type {other:?}")),
        };
        let mut access = 0;
        for letter in word("access").chars() {
            access |= match letter {
                'r' => READ,
                'w' => WRITE,
                'm' => MKNOD,
                other => return Err(format!("device rule with the unknown access {other:?}")),
            };
        }
        let number = |name: &str| match rule.get(name).and_then(Value::as_i64) {
            // Go's clients say -1 for "any".
            None | Some(-1) => Ok(None),
            Some(number) => u32::try_from(number).map(Some).map_err(|_| format!("device rule with {name} {number}")),
        };
        Ok(Self {
            allow: rule.get("allow").and_then(Value::as_bool).unwrap_or(false),
            kind,
            major: number("major")?,
            minor: number("minor")?,
            access: if access == 0 { ALL } else { access },
        })
    }
}

/// One instruction of the kernel's machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Instruction {
    code: u8,
    /// Destination in the lower half, source in the upper.
    registers: u8,
    offset: i16,
    immediate: i32,
}

// Codes: class, width and source of the operand, as the kernel numbers them.
const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xbf;
const SET: u8 = 0xb7;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
/// Jumps that compare the lower 32 bits.
const JUMP_UNEQUAL: u8 = 0x56;
const JUMP_EQUAL: u8 = 0x16;
const EXIT: u8 = 0x95;

// Registers: the answer, the argument, and what is kept of the request.
const ANSWER: u8 = 0;
const REQUEST: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

fn with(code: u8, register: u8, immediate: u32) -> Instruction {
    Instruction { code, registers: register, offset: 0, immediate: immediate.cast_signed() }
}

fn between(code: u8, to: u8, from: u8, offset: i16) -> Instruction {
    Instruction { code, registers: from << 4 | to, offset, immediate: 0 }
}

/// The program for the rules of a spec (`linux.resources.devices`); `None` when there are none.
///
/// # Errors
/// A rule that cannot be read.
pub(crate) fn program(rules: Option<&Value>) -> Result<Option<Vec<Instruction>>, String> {
    let rules = rules.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if rules.is_empty() {
        return Ok(None);
    }
    if rules.len() > MAX_RULES {
        return Err(format!("more than {MAX_RULES} device rules"));
    }
    let mut all = rules.iter().map(Rule::from_json).collect::<Result<Vec<_>, _>>()?;
    all.extend(DEFAULTS);
    Ok(Some(compile(&all)))
}

fn compile(rules: &[Rule]) -> Vec<Instruction> {
    // `struct bpf_cgroup_dev_ctx`: access and kind in one word, then the two numbers.
    let mut program = vec![
        between(LOAD_WORD, KIND, REQUEST, 0),
        between(MOVE, ACCESS, KIND, 0),
        with(SHIFT_RIGHT, ACCESS, 16),
        with(AND, KIND, 0xffff),
        between(LOAD_WORD, MAJOR, REQUEST, 4),
        between(LOAD_WORD, MINOR, REQUEST, 8),
    ];
    for rule in rules.iter().rev() {
        let mut block: Vec<Instruction> = [(KIND, rule.kind), (MAJOR, rule.major), (MINOR, rule.minor)]
            .into_iter()
            .filter_map(|(register, wanted)| wanted.map(|wanted| with(JUMP_UNEQUAL, register, wanted)))
            .collect();
        if rule.allow {
            block.extend([with(AND, ACCESS, !rule.access), with(JUMP_UNEQUAL, ACCESS, 0)]);
        } else {
            let asked = [between(MOVE, ANSWER, ACCESS, 0), with(AND, ANSWER, rule.access), with(JUMP_EQUAL, ANSWER, 0)];
            block.extend(asked);
        }
        block.extend([with(SET, ANSWER, u32::from(rule.allow)), with(EXIT, 0, 0)]);
        // Every jump of a block leads to the next rule.
        let length = block.len();
        for (index, instruction) in block.iter_mut().enumerate() {
            if matches!(instruction.code, JUMP_UNEQUAL | JUMP_EQUAL) {
                instruction.offset = i16::try_from(length - index - 1).expect("a block has at most ten instructions");
            }
        }
        program.append(&mut block);
    }
    program.extend([with(SET, ANSWER, 0), with(EXIT, 0, 0)]);
    program
}

/// Puts a program on a cgroup in place of the ones that are there. While both are, the stricter holds.
///
/// # Errors
/// [`CgroupError::Gone`], or what the kernel says.
pub(crate) fn attach(folder: &Path, program: &[Instruction]) -> Result<(), CgroupError> {
    let failed = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::NotFound => CgroupError::Gone { path: folder.to_owned() },
        _ => CgroupError::Io { path: folder.to_owned(), source },
    };
    let cgroup = std::fs::File::open(folder).map_err(failed)?;
    let errno = |errno: nix::errno::Errno| failed(errno.into());
    let before = bpf::attached(&cgroup).map_err(errno)?;
    let loaded = bpf::load(program).map_err(errno)?;
    bpf::attach(&cgroup, &loaded).map_err(errno)?;
    for id in before {
        // One that is gone already is what we want.
        let _ = bpf::open(id).and_then(|old| bpf::detach(&cgroup, &old));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// What the kernel's machine would answer.
    fn ask(program: &[Instruction], kind: u32, major: u32, minor: u32, access: u32) -> bool {
        let mut registers = [0_u64; 6];
        let mut at = 0;
        loop {
            let instruction = program[at];
            let (to, from) = (usize::from(instruction.registers & 15), usize::from(instruction.registers >> 4));
            let immediate = i64::from(instruction.immediate).cast_unsigned();
            at += 1;
            let low = |value: u64| value & 0xffff_ffff;
            match instruction.code {
                LOAD_WORD => {
                    registers[to] = u64::from([access << 16 | kind, major, minor][instruction.offset as usize / 4]);
                }
                MOVE => registers[to] = registers[from],
                SET => registers[to] = immediate,
                AND => registers[to] &= immediate,
                SHIFT_RIGHT => registers[to] >>= immediate,
                JUMP_UNEQUAL if low(registers[to]) != low(immediate) => at += instruction.offset as usize,
                JUMP_EQUAL if low(registers[to]) == low(immediate) => at += instruction.offset as usize,
                JUMP_UNEQUAL | JUMP_EQUAL => {}
                EXIT => return registers[0] != 0,
                other => panic!("unknown code {other:#x}"),
            }
        }
    }

    #[test]
    fn later_rules_win_bit_by_bit() {
        let rules = json!([
            { "allow": false, "access": "rwm" },
            { "allow": true, "type": "c", "major": 10, "minor": 229, "access": "r" },
            { "allow": true, "type": "c", "major": 10, "minor": 229, "access": "w" },
            { "allow": true, "type": "b", "major": 8, "access": "rw" },
            { "allow": false, "type": "b", "major": 8, "minor": 1, "access": "w" },
            { "allow": false, "type": "c", "major": 1, "minor": -1, "access": "rwm" },
        ]);
        let program = program(Some(&rules)).unwrap().unwrap();
        for (kind, major, minor, access, expected) in [
            (CHARACTER, 10, 229, READ | WRITE, true),
            (CHARACTER, 10, 228, READ, false),
            (BLOCK, 10, 229, READ, false),
            (BLOCK, 8, 0, READ | WRITE, true),
            (BLOCK, 8, 1, READ, true),
            (BLOCK, 8, 1, READ | WRITE, false),
            // Nodes of anything may be made, and the default devices stay usable whatever the rules say.
            (CHARACTER, 4, 64, MKNOD, true),
            (CHARACTER, 4, 64, MKNOD | WRITE, false),
            (CHARACTER, 1, 3, READ | WRITE | MKNOD, true),
            (CHARACTER, 1, 1, READ, false),
            (CHARACTER, 136, 7, READ | WRITE, true),
        ] {
            assert_eq!(ask(&program, kind, major, minor, access), expected, "{kind} {major}:{minor} {access}");
        }
    }

    #[test]
    fn a_privileged_container_may_all_and_none_have_no_program() {
        let all = program(Some(&json!([{ "allow": true, "access": "rwm" }]))).unwrap().unwrap();
        assert!(ask(&all, BLOCK, 8, 0, ALL) && ask(&all, CHARACTER, 4, 64, READ));
        assert_eq!(program(None), Ok(None));
        assert_eq!(program(Some(&json!([]))), Ok(None));
    }

    #[test]
    fn rules_that_say_nothing_known_are_refused() {
        for rule in [json!({ "type": "x" }), json!({ "access": "rz" }), json!({ "major": -2 })] {
            assert!(program(Some(&json!([rule]))).is_err(), "{rule}");
        }
        assert!(program(Some(&Value::Array(vec![json!({}); MAX_RULES + 1]))).is_err());
    }

    #[test]
    fn the_kernel_takes_the_program() {
        let rules =
            json!([{ "allow": false, "access": "rwm" }, { "allow": true, "type": "c", "major": 10, "access": "r" }]);
        let program = program(Some(&rules)).unwrap().unwrap();
        // Loading alone needs no cgroup v2; the guest's checks attach it.
        bpf::load(&program).expect("these tests run as root");
        assert!(bpf::load(&program[..3]).is_err(), "a program without an end is no program");
    }
}
