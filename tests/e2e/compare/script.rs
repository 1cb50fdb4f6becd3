//! The form of a script: what is run, step by step, and where the outcomes are meant to differ.
//!
//! A line that begins with `$ ` is a step, run by `sh` after `prelude.sh`; a `\` at its end continues it. `#` begins a comment.
//! Lines below a step that begin with two blanks say what is expected of it:
//!
//! - `  sorted`: the order of lines is not specified.
//! - `  words # why`: the complaint is in other words. Its kind, the part after the last `: `, must still be the same.
//! - `  theirs TEXT => ours TEXT # why`: what they say is said by us in that way. Either text may be empty, `\n` is a line's end.

use std::path::PathBuf;

use anyhow::{Context as _, bail};

/// A list of steps.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) steps: Vec<Step>,
}

/// One command line, run on both sides.
#[derive(Debug)]
pub(super) struct Step {
    /// Where it is in its file.
    pub(super) line: usize,
    /// What `sh` runs.
    pub(super) command: String,
    /// Whether lines come in any order.
    pub(super) sorted: bool,
    /// Whether we complain in other words.
    pub(super) words: bool,
    /// What they say, and what we say instead.
    pub(super) differs: Vec<(String, String)>,
}

/// Where the scripts are.
pub(super) fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("e2e/compare")
}

impl Script {
    /// Reads one.
    pub(super) fn load(name: &str) -> anyhow::Result<Self> {
        let path = folder().join(format!("{name}.txt"));
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("in {}", path.display()))
    }

    /// The names of all that there are.
    pub(super) fn all() -> anyhow::Result<Vec<String>> {
        let names = std::fs::read_dir(folder())?.flatten().filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            name.strip_suffix(".txt").map(str::to_owned)
        });
        Ok(names.collect())
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut steps: Vec<Step> = Vec::new();
        let mut continues = false;
        for (index, line) in text.lines().enumerate() {
            if continues {
                let step = steps.last_mut().context("a step is continued")?;
                continues = take(line, &mut step.command);
            } else if let Some(command) = line.strip_prefix("$ ") {
                let mut step =
                    Step { line: index + 1, command: String::new(), sorted: false, words: false, differs: Vec::new() };
                continues = take(command, &mut step.command);
                steps.push(step);
            } else if let Some(expectation) = line.strip_prefix("  ") {
                let step = steps.last_mut().context("an expectation stands below its step")?;
                step.expect(expectation).with_context(|| format!("line {}", index + 1))?;
            } else if !line.is_empty() && !line.starts_with('#') {
                bail!("line {}: neither a step nor an expectation: {line}", index + 1);
            }
        }
        Ok(Self { steps })
    }
}

impl Step {
    fn expect(&mut self, text: &str) -> anyhow::Result<()> {
        if text == "sorted" {
            self.sorted = true;
            return Ok(());
        }
        let (text, why) = text.rsplit_once(" # ").context("no reason is given: `# why`")?;
        anyhow::ensure!(!why.trim().is_empty(), "the reason is empty");
        if text == "words" {
            self.words = true;
            return Ok(());
        }
        let text =
            text.strip_prefix("theirs").context("an expectation is `sorted`, `words` or `theirs … => ours …`")?;
        let (theirs, ours) = text.split_once(" => ours").context("what do we say? `=> ours TEXT`")?;
        let said = |text: &str| text.strip_prefix(' ').unwrap_or(text).replace("\\n", "\n");
        self.differs.push((said(theirs), said(ours)));
        Ok(())
    }
}

/// Appends a line to a command; whether more of it follows.
fn take(line: &str, command: &mut String) -> bool {
    let (part, more) = line.strip_suffix('\\').map_or((line, false), |part| (part, true));
    command.push_str(part);
    more
}
