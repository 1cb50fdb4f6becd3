//! Compares gantryd with Debian's containerd, on this machine, in one run: the same client, the same image, the same calls, turn
//! and turn about. Prints medians, their ratio and our goal. It judges nothing: a machine with other work to do gives other numbers.
//!
//! Removing files is a good part of deleting a container. Where `/run` and `/tmp` are on a disk, mounted with `discard` or busy with something
//! else, that disk is measured. Where machines are installed for containers they are in memory; to have them so for one run:
//! `unshare -m sh -c 'mount --make-rprivate / && mount -t tmpfs run /run && mount -t tmpfs tmp /tmp && exec gantry-bench tasks'`, which
//! puts the roots of both daemons in memory as well.
//!
//! Each subject is a *section*: a file of its own with a `SECTION` that is listed in [`SECTIONS`]. A section measures what it
//! likes with what [`Bench`] gives it and adds rows to the [`Report`].

mod bench;
mod density;
mod line;
mod memory;
mod pull;
mod report;
mod tasks;
mod work;

use std::path::PathBuf;

use anyhow::{Context as _, bail};

use bench::{Bench, Section};
use report::Report;

/// All there is to measure, in the order in which it is done.
const SECTIONS: &[Section] = &[tasks::SECTION, line::SECTION, density::SECTION, pull::SECTION];

/// How often each thing is timed, unless told otherwise.
const ROUNDS: usize = 40;

const USAGE: &str = "usage: gantry-bench [SECTION...] [--rounds N] [--json FILE] [--list]";

struct Arguments {
    wanted: Vec<String>,
    rounds: usize,
    json: Option<PathBuf>,
    list: bool,
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let mut parsed = Self { wanted: Vec::new(), rounds: ROUNDS, json: None, list: false };
        while let Some(word) = words.next() {
            match word.as_str() {
                "--rounds" => {
                    parsed.rounds = words.next().context(USAGE)?.parse().context("--rounds wants a number")?
                }
                "--json" => parsed.json = Some(words.next().context(USAGE)?.into()),
                "--list" => parsed.list = true,
                option if option.starts_with('-') => bail!("{option}: {USAGE}"),
                section => parsed.wanted.push(section.to_owned()),
            }
        }
        Ok(parsed)
    }
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse(std::env::args().skip(1))?;
    if arguments.list {
        for section in SECTIONS {
            println!("{:12} {}", section.name, section.about);
        }
        return Ok(());
    }
    for wanted in &arguments.wanted {
        if !SECTIONS.iter().any(|section| section.name == *wanted) {
            bail!("there is no section {wanted}; `--list` tells which there are");
        }
    }
    let is_wanted =
        |section: &&Section| arguments.wanted.is_empty() || arguments.wanted.iter().any(|w| w == section.name);
    let mut report = Report::default();
    for section in SECTIONS.iter().filter(is_wanted) {
        // Daemons of its own: what one section leaves in caches or on disk is nothing to the next.
        let mut bench = Bench::start(arguments.rounds)?;
        report.begin(section.name);
        (section.run)(&mut bench, &mut report).with_context(|| format!("section {}", section.name))?;
        report.print_section();
    }
    if let Some(path) = arguments.json {
        std::fs::write(&path, report.to_json()).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}
