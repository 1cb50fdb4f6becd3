//! Medians, and the table they are printed in.

use std::time::Duration;

/// The median; zero of nothing.
pub(crate) fn median(times: impl Iterator<Item = Duration>) -> Duration {
    let mut sorted: Vec<Duration> = times.collect();
    sorted.sort();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// Rows of ours and the peer's.
#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<[String; 4]>,
}

impl Table {
    /// Adds times: ours, then the peer's.
    pub(crate) fn times(&mut self, what: &str, [ours, peer]: [Duration; 2]) {
        let text = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
        self.row(what, text(ours), text(peer), peer.as_secs_f64() / ours.as_secs_f64());
    }

    /// Adds amounts of memory in KiB: ours, then the peer's.
    pub(crate) fn kibibytes(&mut self, what: &str, [ours, peer]: [f64; 2]) {
        let text = |amount: f64| format!("{amount:.0} KiB");
        self.row(what, text(ours), text(peer), peer / ours);
    }

    fn row(&mut self, what: &str, ours: String, peer: String, ratio: f64) {
        self.rows.push([what.to_owned(), ours, peer, format!("{ratio:.1}x")]);
    }

    /// Prints the rows under their heads.
    pub(crate) fn print(&self) {
        println!("{:58} {:>12} {:>12} {:>8}", "median of this run", "gantry", "containerd", "ratio");
        for [what, ours, peer, ratio] in &self.rows {
            println!("{what:58} {ours:>12} {peer:>12} {ratio:>8}");
        }
    }
}
