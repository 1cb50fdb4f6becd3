//! What may differ between two runs of the same command, and is taken out before outcomes are compared. Nothing else is.

use harness::Ran;
use regex_lite::Regex;

/// Rules, in the order in which they are applied: a pattern, what stands for it, and why it may differ.
const RULES: &[(&str, &str, &str)] = &[
    (r#"time="[^"]*""#, r#"time="<time>""#, "ctr's own log lines carry the time"),
    (
        r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?( ?(Z|[+-]\d\d:?\d\d))?( UTC)?",
        "<time>",
        "when things were made and changed",
    ),
    (r"\b(Less than a second|About a minute|\d+ (second|minute)s?)( ago)?\b", "<age>", "how long ago things were made"),
    (r"elapsed: ?[0-9.]+ ?m?s", "elapsed: <duration>", "how long a transfer took"),
    (
        r"total: +[0-9.]+ [KMGi]*B? ?\([^)]*\)",
        "total: <progress>",
        "how much was there at the last look, and how fast it came",
    ),
    (r"took [0-9.]+[mµ]?s", "took <duration>", "how long an unpack took"),
    (
        r"(?m)^(\S+ +)[1-9]\d*( +(RUNNING|STOPPED|PAUSED|PAUSING|CREATED|UNKNOWN)\b)",
        "$1<pid>$2",
        "process ids of `tasks ls`",
    ),
    (r"(?m)^[1-9]\d*( +(-|&ProcessDetails\{.*\}) *)$", "<pid>$1", "process ids of `tasks ps`"),
    (r#""pid":[1-9]\d*"#, r#""pid":<pid>"#, "process ids of events"),
    (r"/proc/[1-9]\d*/", "/proc/<pid>/", "process ids in paths"),
    (r"done: [0-9.]+[mµ]?s", "done: <duration>", "how long a pull took"),
    (r"UUID: [0-9a-f-]{36}", "UUID: <uuid>", "each daemon has its own"),
    (
        r"v2\.3\.0\+gantry\.[0-9A-Za-z.-]+\n  Revision: \S+",
        "v2.3.0+gantry.<version>\n  Revision: <revision>",
        "ours changes with each release",
    ),
    (r"\^[@D]", "", "what `script` types at the end of its input is echoed until ctr has switched that off"),
    (r"runc create failed: ", "", "runc's own name, which the built-in executor does not say"),
    (r"/fifo/\d+/", "/fifo/<number>/", "ctr's folders of pipes"),
    (r"containerd-mount\d+", "containerd-mount<number>", "ctr's temporary mounts"),
    (
        r"<daemon>/root/(io\.containerd\.snapshotter\.v1\.|snapshots/)(overlayfs|native)/",
        "<snapshots of $2>/",
        "where a daemon keeps snapshots is its own affair; which ones it mounts, and how, is not",
    ),
    (r"extract-\d+-\S+", "extract-<random>", "keys of snapshots that ctr makes up"),
    (
        r"current usage: \d+, peak usage: \d+",
        "current usage: <bytes>",
        "how much memory the set-up of a container takes",
    ),
    (r"0x[0-9a-f]{6,}", "<pointer>", "addresses that Go prints for pointers"),
    (r"(?m)[ \t]+$", "", "blanks at the end of lines of tables"),
    (r"[ \t]+", " ", "widths of columns follow from what is in them"),
];

/// Two labels or more.
const LABELS: &str = r"[^\s,=]+=[^\s,=]*(,[^\s,=]+=[^\s,=]*)+";

/// The rules, ready to use, with what is known of one side.
#[derive(Debug)]
pub(super) struct Normal {
    names: Vec<(String, String)>,
    rules: Vec<(Regex, &'static str)>,
    labels: Regex,
}

impl Normal {
    /// `names` are texts that only this side has, and what stands for them.
    pub(super) fn new(names: &[(&str, &str)]) -> anyhow::Result<Self> {
        let rules = RULES.iter().map(|&(pattern, replacement, _)| Ok((Regex::new(pattern)?, replacement)));
        let names = names.iter().map(|&(name, stands)| (name.to_owned(), stands.to_owned()));
        Ok(Self { names: names.collect(), rules: rules.collect::<anyhow::Result<_>>()?, labels: Regex::new(LABELS)? })
    }

    /// The exit code and all that was said, without what may differ.
    pub(super) fn outcome(&self, ran: &Ran) -> String {
        format!("exit code {}\n{}{}", ran.code, self.labelled("out", &ran.stdout), self.labelled("err", &ran.stderr))
    }

    fn labelled(&self, label: &str, text: &str) -> String {
        let mut text = text.replace('\r', "");
        for (name, stands) in &self.names {
            text = text.replace(name.as_str(), stands);
        }
        for (rule, replacement) in &self.rules {
            text = rule.replace_all(&text, *replacement).into_owned();
        }
        let text = self.labels.replace_all(&text, |found: &regex_lite::Captures<'_>| in_order(&found[0]));
        text.lines().map(|line| format!("{label}: {line}\n")).collect()
    }
}

/// Labels, as `a=b,c=d`, by name: ctr prints them in the order of a Go map, which is another one each time.
fn in_order(labels: &str) -> String {
    let mut labels: Vec<&str> = labels.split(',').collect();
    labels.sort_unstable();
    labels.join(",")
}
