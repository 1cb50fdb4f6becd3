//! The processors a process may run on: `process.execCPUAffinity`.

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// Restricts this process to a list such as `0-3,7`.
pub(super) fn set(list: Option<&str>) -> Result<(), String> {
    let Some(list) = list.filter(|list| !list.is_empty()) else { return Ok(()) };
    let set = parse(list).ok_or_else(|| format!("execCPUAffinity {list:?} is no list of processors"))?;
    sched_setaffinity(Pid::from_raw(0), &set)
        .map_err(|errno| format!("set CPU affinity {list}: {}", errno.desc().to_lowercase()))
}

fn parse(list: &str) -> Option<CpuSet> {
    let mut set = CpuSet::new();
    for part in list.split(',').map(str::trim) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last >= CpuSet::count() {
            return None;
        }
        for cpu in first..=last {
            set.set(cpu).ok()?;
        }
    }
    Some(set)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn lists_are_numbers_and_ranges() {
        let set = parse("0-2, 5").unwrap();
        let members: Vec<usize> = (0..8).filter(|cpu| set.is_set(*cpu).unwrap()).collect();
        assert_eq!(members, [0, 1, 2, 5]);
        for bad in ["", "x", "3-1", "1-", "99999"] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }
}
