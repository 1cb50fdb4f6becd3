//! The progress of a transfer: bars on a terminal, plain lines elsewhere, JSON lines for programs.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use proto::types::transfer::Progress;

use crate::output::{self, Format};

/// Shows what the daemon says of a transfer.
pub(crate) enum Show {
    /// One bar for each thing that has a size.
    Bars {
        /// All of them.
        all: MultiProgress,
        /// By name.
        bars: BTreeMap<String, ProgressBar>,
    },
    /// A line when something changes, never for mere bytes.
    Lines {
        /// The last word about each name.
        last: BTreeMap<String, String>,
    },
    /// Everything, for programs.
    Json,
}

impl Show {
    /// The way that fits where output goes.
    pub(crate) fn new(format: Format) -> Self {
        if format == Format::Json {
            Self::Json
        } else if std::io::stderr().is_terminal() {
            Self::Bars { all: MultiProgress::new(), bars: BTreeMap::new() }
        } else {
            Self::Lines { last: BTreeMap::new() }
        }
    }

    /// Takes one message in.
    pub(crate) fn tell(&mut self, message: &Progress) {
        match self {
            Self::Json => output::json(&serde_json::json!({
                "event": message.event, "name": message.name, "parents": message.parents,
                "progress": message.progress, "total": message.total,
            })),
            Self::Lines { last } => {
                let told = last.insert(message.name.clone(), message.event.clone());
                if told.as_deref() != Some(message.event.as_str()) {
                    eprintln!("{}", words(message));
                }
            }
            Self::Bars { all, bars } if message.name.is_empty() || message.total <= 0 => {
                if message.name.is_empty() || !bars.contains_key(&message.name) {
                    let _ = all.println(words(message));
                } else if let Some(bar) = bars.get(&message.name) {
                    bar.set_message(message.event.clone());
                }
            }
            Self::Bars { all, bars } => {
                let bar = bars.entry(message.name.clone()).or_insert_with(|| all.add(bar(&message.name)));
                bar.set_length(message.total.unsigned_abs());
                bar.set_position(message.progress.max(0).unsigned_abs());
                bar.set_message(message.event.clone());
                if matches!(message.event.as_str(), "complete" | "extracted" | "already exists" | "saved") {
                    bar.set_position(message.total.unsigned_abs());
                    bar.abandon();
                }
            }
        }
    }
}

impl Drop for Show {
    fn drop(&mut self) {
        if let Self::Bars { bars, .. } = self {
            bars.values().for_each(ProgressBar::abandon);
        }
    }
}

fn words(message: &Progress) -> String {
    if message.name.is_empty() {
        message.event.clone()
    } else if message.total > 0 {
        format!("{}: {} ({})", short(&message.name), message.event, output::size(message.total))
    } else {
        format!("{}: {}", short(&message.name), message.event)
    }
}

fn bar(name: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(
        "{prefix:26} {msg:12} [{bar:30}] {binary_bytes:>11}/{binary_total_bytes:11} {binary_bytes_per_sec:>13} {eta:>4}",
    );
    let bar =
        ProgressBar::no_length().with_style(style.expect("the template above is well formed").progress_chars("=> "));
    bar.set_prefix(short(name));
    bar
}

/// `layer-sha256:0123456789ab…` as people can tell it apart: the kind and twelve digits.
fn short(name: &str) -> String {
    match name.split_once("sha256:") {
        Some((kind, hex)) => format!("{kind}{}", hex.get(..12).unwrap_or(hex)),
        None => name.to_owned(),
    }
}
