//! gantry on a machine with cgroup v2 alone: an emulated one, with Debian's kernel and nothing but what the checks need.
//!
//! Whatever cannot be had (the emulator, the kernel) fails the test with the reason; nothing is skipped.

mod initramfs;
mod machine;

use anyhow::{Context as _, ensure};
use harness::emulator::Kernel;

/// What is checked once.
const ONCE: [&str; 3] = ["host", "serve", "import"];
/// What is checked with every executor.
const EACH: [&str; 13] = [
    "exit-code",
    "own-cgroup",
    "limits-written",
    "metrics",
    "pause",
    "exec",
    "exec-in-cgroup",
    "restart",
    "kill-all",
    "out-of-memory",
    "pids-limit",
    "devices",
    "nothing-left",
];
/// The executors.
const EXECUTORS: [&str; 3] = ["builtin", "runc", "crun"];

#[test]
fn containers_run_with_cgroup_v2_alone() -> anyhow::Result<()> {
    let folder = harness::folder("guest")?;
    let kernel = Kernel::fetch()?;
    let archive = folder.path().join("initramfs");
    initramfs::make(folder.path(), &archive, &kernel).context("make the guest's filesystem")?;
    let console = machine::boot(&kernel.image, &archive, &folder.path().join("console"))?;
    let wrong = wrong(&console);
    ensure!(wrong.is_empty(), "{}\nthe guest's console:\n{console}", wrong.join("\n"));
    Ok(())
}

/// What the console does not say, or says badly.
fn wrong(console: &str) -> Vec<String> {
    let each = EXECUTORS.iter().flat_map(|executor| EACH.iter().map(move |check| format!("{executor} {check}")));
    let expected = ONCE.iter().map(|&check| check.to_owned()).chain(each);
    let said = |verdict: &str, check: &str| console.lines().any(|line| line.trim_end() == format!("{verdict} {check}"));
    let mut wrong: Vec<String> = expected
        .filter(|check| !said("PASS", check))
        .map(|check| if said("FAIL", &check) { format!("{check}: failed") } else { format!("{check}: no verdict") })
        .collect();
    if !console.lines().any(|line| line.trim_end() == "GUEST END") {
        wrong.push("the guest did not come to its end".to_owned());
    }
    // A check that nobody expects has been forgotten above.
    let failed = console.lines().filter_map(|line| line.trim_end().strip_prefix("FAIL "));
    wrong.extend(
        failed.map(|check| format!("{check}: failed")).filter(|line| !wrong.contains(line)).collect::<Vec<_>>(),
    );
    wrong
}

#[test]
fn a_missing_or_bad_verdict_is_told() {
    assert!(wrong("").iter().any(|line| line == "import: no verdict"));
    let console = "PASS host\r\nFAIL import\r\nFAIL unheard-of\r\nGUEST END\r\n";
    let wrong = wrong(console);
    assert!(!wrong.iter().any(|line| line.starts_with("host:") || line.contains("its end")), "{wrong:?}");
    assert!(
        wrong.contains(&"import: failed".to_owned()) && wrong.contains(&"unheard-of: failed".to_owned()),
        "{wrong:?}"
    );
    assert!(wrong.contains(&"crun pause: no verdict".to_owned()), "{wrong:?}");
}
