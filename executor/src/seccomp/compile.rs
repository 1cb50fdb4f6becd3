//! Rules to instructions. Per architecture the call numbers are cut into ranges of one decision each and searched as a
//! balanced tree, so a call costs about ten comparisons whatever the length of the profile.
//!
//! ```text
//! load arch ─► one of the architectures? ─no─► kill
//!                 │ load number ─► tree of ranges ─► return action
//!                 │                              └─► compare arguments ─► return action
//! ```

use super::profile::{Arch, Condition, KILL_PROCESS, NO_SUCH_CALL, Op, Profile, Rules, SeccompError};

/// The kernel's limit (`BPF_MAXINSNS`).
const MAX_INSTRUCTIONS: usize = 4096;
/// Numbers from here on are those of the x32 interface.
const X32: u32 = 0x4000_0000;

/// One classic BPF instruction, laid out as the kernel reads it (`struct sock_filter`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// What to do.
    pub code: u16,
    /// How many instructions to skip when true.
    pub jump_true: u8,
    /// How many when false.
    pub jump_false: u8,
    /// Operand.
    pub operand: u32,
}

/// A filter ready to be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// `SECCOMP_FILTER_FLAG_*`
    pub flags: u32,
    /// At most as many as the kernel takes (4096).
    pub instructions: Vec<Instruction>,
}

pub(super) const LOAD: u16 = 0x20;
pub(super) const AND: u16 = 0x54;
pub(super) const JUMP: u16 = 0x05;
pub(super) const EQUAL: u16 = 0x15;
pub(super) const GREATER: u16 = 0x25;
pub(super) const AT_LEAST: u16 = 0x35;
pub(super) const RETURN: u16 = 0x06;
/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

pub(super) fn compile(profile: &Profile) -> Result<Program, SeccompError> {
    let mut instructions = vec![load(ARCH)];
    for (arch, calls) in &profile.archs {
        let mut block = vec![load(NUMBER)];
        block.extend(tree(&ranges(*arch, calls, profile), *arch));
        instructions.push(jump(EQUAL, arch.audit(), 1, 0));
        instructions.push(skip(block.len()));
        instructions.extend(block);
    }
    instructions.push(finish(KILL_PROCESS));
    if instructions.len() > MAX_INSTRUCTIONS {
        return Err(SeccompError::TooLong(instructions.len()));
    }
    Ok(Program { flags: profile.flags, instructions })
}

/// The decisions in the order of call numbers: each holds from its number to the next one's.
fn ranges(arch: Arch, calls: &std::collections::BTreeMap<u32, Rules>, profile: &Profile) -> Vec<(u32, Rules)> {
    let plain = |action| Rules { conditional: Vec::new(), otherwise: Some(action) };
    let mut ranges: Vec<(u32, Rules)> = Vec::new();
    let mut add = |start: u32, rules: Rules| match ranges.last_mut() {
        Some((last, replaced)) if *last == start => *replaced = rules,
        Some((_, same)) if *same == rules => {}
        _ => ranges.push((start, rules)),
    };
    add(0, plain(profile.default));
    for (number, rules) in calls {
        let mut rules = rules.clone();
        rules.otherwise = rules.otherwise.or(Some(profile.default));
        // Alternatives that say what happens anyway, at the end, say nothing.
        while rules.conditional.last().is_some_and(|(_, action)| Some(*action) == rules.otherwise) {
            rules.conditional.pop();
        }
        add(*number, rules);
        add(number + 1, plain(profile.default));
    }
    let newest = calls.keys().next_back().copied();
    add(newest.map_or(0, |number| number + 1), plain(if newest.is_some() { profile.newer } else { profile.default }));
    if arch == Arch::X86_64 {
        add(X32, plain(NO_SUCH_CALL));
    }
    ranges
}

fn tree(ranges: &[(u32, Rules)], arch: Arch) -> Vec<Instruction> {
    if let [(_, rules)] = ranges {
        return decision(rules, arch);
    }
    let (left, right) = ranges.split_at(ranges.len() / 2);
    let (below, from) = (tree(left, arch), tree(right, arch));
    let mut block = match u8::try_from(below.len()) {
        Ok(distance) => vec![jump(AT_LEAST, right[0].0, distance, 0)],
        Err(_) => vec![jump(AT_LEAST, right[0].0, 0, 1), skip(below.len())],
    };
    block.extend(below);
    block.extend(from);
    block
}

fn decision(rules: &Rules, arch: Arch) -> Vec<Instruction> {
    let mut block = Vec::new();
    for (conditions, action) in &rules.conditional {
        let checks: Vec<Check> = conditions.iter().map(|condition| check(*condition, arch)).collect();
        // One more for the return at the end.
        let mut left = checks.iter().map(Vec::len).sum::<usize>() + 1;
        for check in checks {
            left -= check.len();
            block.extend(resolve(&check, left));
        }
        block.push(finish(*action));
    }
    block.push(finish(rules.otherwise.expect("`ranges` has filled it in")));
    block
}

/// Where a jump inside of a check leads.
#[derive(Clone, Copy)]
enum To {
    Next,
    /// Past this check: the condition holds.
    Holds,
    /// Past this alternative: it does not.
    Fails,
}

type Check = Vec<(Instruction, To, To)>;

fn resolve(check: &Check, after: usize) -> impl Iterator<Item = Instruction> {
    let length = check.len();
    check.iter().enumerate().map(move |(position, (instruction, on_true, on_false))| {
        let rest = length - position - 1;
        // A rule has at most six conditions of at most seven instructions, so both distances fit.
        let distance = |to: &To| match to {
            To::Next => 0,
            To::Holds => u8::try_from(rest).expect("a check is short"),
            To::Fails => u8::try_from(rest + after).expect("an alternative is short"),
        };
        Instruction { jump_true: distance(on_true), jump_false: distance(on_false), ..*instruction }
    })
}

/// The instructions that compare one argument. The kernel shows it as two words, the low one first on little-endian
/// machines; 32-bit interfaces have only that.
fn check(condition: Condition, arch: Arch) -> Check {
    use To::{Fails, Holds, Next};
    let Condition { index, op, value, value_two } = condition;
    let low_at = ARGUMENTS + 8 * index;
    let high_at = low_at + 4;
    let (high, low) = halves(value);
    let wide = arch.is_64_bit();
    let plain = |instruction| (instruction, Next, Next);
    let test = |code, operand, on_true, on_false| (jump(code, operand, 0, 0), on_true, on_false);
    let mut check = Vec::new();
    match op {
        Op::MaskedEqual => {
            let (wanted_high, wanted_low) = halves(value_two);
            if wide {
                check.extend([plain(load(high_at)), plain(and(high)), test(EQUAL, wanted_high, Next, Fails)]);
            }
            check.extend([plain(load(low_at)), plain(and(low)), test(EQUAL, wanted_low, Next, Fails)]);
        }
        Op::Equal => {
            if wide {
                check.extend([plain(load(high_at)), test(EQUAL, high, Next, Fails)]);
            }
            check.extend([plain(load(low_at)), test(EQUAL, low, Next, Fails)]);
        }
        Op::NotEqual => {
            if wide {
                check.extend([plain(load(high_at)), test(EQUAL, high, Next, Holds)]);
            }
            check.extend([plain(load(low_at)), test(EQUAL, low, Fails, Next)]);
        }
        Op::Greater | Op::GreaterOrEqual => {
            if wide {
                check.extend([plain(load(high_at)), test(GREATER, high, Holds, Next), test(EQUAL, high, Next, Fails)]);
            }
            let code = if op == Op::Greater { GREATER } else { AT_LEAST };
            check.extend([plain(load(low_at)), test(code, low, Next, Fails)]);
        }
        Op::Less | Op::LessOrEqual => {
            if wide {
                check.extend([plain(load(high_at)), test(GREATER, high, Fails, Next), test(EQUAL, high, Next, Holds)]);
            }
            let code = if op == Op::Less { AT_LEAST } else { GREATER };
            check.extend([plain(load(low_at)), test(code, low, Fails, Next)]);
        }
    }
    check
}

fn halves(value: u64) -> (u32, u32) {
    let low = u32::try_from(value & u64::from(u32::MAX)).expect("masked to 32 bits");
    (u32::try_from(value >> 32).expect("shifted to 32 bits"), low)
}

fn load(offset: u32) -> Instruction {
    jump(LOAD, offset, 0, 0)
}

fn and(mask: u32) -> Instruction {
    jump(AND, mask, 0, 0)
}

fn finish(action: u32) -> Instruction {
    jump(RETURN, action, 0, 0)
}

fn skip(count: usize) -> Instruction {
    // A profile of that many instructions is refused at the end of `compile`.
    jump(JUMP, u32::try_from(count).unwrap_or(u32::MAX), 0, 0)
}

fn jump(code: u16, operand: u32, jump_true: u8, jump_false: u8) -> Instruction {
    Instruction { code, jump_true, jump_false, operand }
}
