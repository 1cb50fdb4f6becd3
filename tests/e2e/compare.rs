//! Debian's `ctr` against gantryd and against Debian's containerd: the same output, the same exit code.
//!
//! What is run stands in `compare/*.txt`, one file for each noun; [`script`] tells their form. Both daemons are private and begin
//! empty. The sides run one after the other with the same names, because both put containers of a namespace into the same
//! cgroups and, with Debian's runc, into the same folder of states.
//!
//! Everything is compared that [`normal`] does not take out. Where the two are meant to differ, the script says so at the step,
//! with the reason, and an expectation that nothing needs any more is a failure. With `COMPARE_SHOW` set, all that they say is printed.

mod normal;
mod script;
mod side;

use anyhow::ensure;

use script::{Script, Step};
use side::Side;

/// Runs a script on both sides and tells every step that differs.
fn same(name: &str) -> anyhow::Result<()> {
    let script = Script::load(name)?;
    let theirs = Side::containerd(name)?.play(&script)?;
    let ours = Side::gantryd(name)?.play(&script)?;
    if std::env::var_os("COMPARE_SHOW").is_some() {
        for (step, theirs) in script.steps.iter().zip(&theirs) {
            println!("line {}: {}\n{theirs}", step.line, step.command);
        }
    }
    let differences: Vec<String> = script
        .steps
        .iter()
        .zip(theirs.iter().zip(&ours))
        .filter_map(|(step, (theirs, ours))| difference(step, theirs, ours))
        .collect();
    ensure!(
        differences.is_empty(),
        "{name}: {} of {} steps differ\n\n{}",
        differences.len(),
        script.steps.len(),
        differences.join("\n")
    );
    Ok(())
}

/// What differs between the outcomes of one step, beyond what the step expects.
fn difference(step: &Step, theirs: &str, ours: &str) -> Option<String> {
    let mut expected = theirs.to_owned();
    let mut stale = String::new();
    for (from, to) in &step.differs {
        if !expected.contains(from.as_str()) {
            stale.push_str(&format!("stale expectation, they no longer say: {from}\n"));
        }
        expected = expected.replace(from.as_str(), to);
    }
    let (expected, ours) = match step.sorted {
        true => (sorted(&expected), sorted(ours)),
        false => (expected, ours.to_owned()),
    };
    if step.words && expected == ours {
        stale.push_str("stale expectation, the words are the same\n");
    }
    let is_same = expected == ours || step.words && kinds(&expected) == kinds(&ours);
    (!is_same || !stale.is_empty())
        .then(|| format!("line {}: {}\n{stale}--- theirs\n{expected}--- ours\n{ours}", step.line, step.command))
}

/// An outcome of whose complaints only the kinds are left: the parts after the last `: `.
fn kinds(outcome: &str) -> Vec<&str> {
    let kind = |line: &'_ str| line.starts_with("err: ").then(|| line.rfind(": ")).flatten();
    outcome.lines().map(|line| kind(line).map_or(line, |at| &line[at..])).collect()
}

fn sorted(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.iter().map(|line| format!("{line}\n")).collect()
}

macro_rules! scripts {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() -> anyhow::Result<()> {
            same(stringify!($name))
        }
    )*};
}

scripts! { version namespaces images registry content snapshots leases containers tasks exec run_flags run_security terminal events }

/// A script that no test runs would compare nothing.
#[test]
fn every_script_is_run() -> anyhow::Result<()> {
    let source = include_str!("compare.rs");
    let named = source.lines().find(|line| line.starts_with("scripts! {")).unwrap_or_default();
    for script in Script::all()? {
        ensure!(named.split(' ').any(|name| name == script), "compare/{script}.txt is not in `scripts!`");
    }
    Ok(())
}
