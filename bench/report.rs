//! What was found, as a table for people and as JSON for programs.

use std::time::Duration;

use serde_json::json;

/// What a figure counts; in all of them less is better, but for rates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Time.
    Milliseconds,
    /// Memory.
    Kibibytes,
    /// Things done in a second.
    PerSecond,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Milliseconds => "ms",
            Self::Kibibytes => "KiB",
            Self::PerSecond => "/s",
        }
    }

    fn text(self, value: f64) -> String {
        match self {
            Self::Milliseconds => format!("{value:.2} ms"),
            Self::Kibibytes | Self::PerSecond => format!("{value:.0} {}", self.name()),
        }
    }
}

/// One thing that was measured.
#[derive(Debug)]
pub(crate) struct Row {
    section: &'static str,
    what: String,
    unit: Unit,
    ours: Spread,
    /// `None` where the peer has no such thing.
    peer: Option<Spread>,
    /// What we want to reach.
    goal: Option<f64>,
}

/// Many figures in few.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Spread {
    n: usize,
    min: f64,
    p10: f64,
    median: f64,
    p90: f64,
}

impl Spread {
    /// Of times, in milliseconds.
    pub(crate) fn of_times(times: impl IntoIterator<Item = Duration>) -> Self {
        Self::of(times.into_iter().map(|time| time.as_secs_f64() * 1e3))
    }

    /// Of any figures; zero of nothing.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let at = |part: f64| sorted.get(((sorted.len() as f64) * part) as usize).copied().unwrap_or_default();
        Self { n: sorted.len(), min: at(0.0), p10: at(0.1), median: at(0.5), p90: at(0.9) }
    }

    fn to_json(self) -> serde_json::Value {
        let Self { n, min, p10, median, p90 } = self;
        json!({"n": n, "min": min, "p10": p10, "median": median, "p90": p90})
    }
}

/// All rows of a run.
#[derive(Debug, Default)]
pub(crate) struct Report {
    section: &'static str,
    rows: Vec<Row>,
}

impl Report {
    /// From here on rows belong to this section.
    pub(crate) fn begin(&mut self, section: &'static str) {
        self.section = section;
    }

    /// Adds times of ours and the peer's.
    pub(crate) fn times(&mut self, what: &str, [ours, peer]: [Vec<Duration>; 2], goal_ms: Option<f64>) {
        let [ours, peer] = [ours, peer].map(Spread::of_times);
        self.add(what, Unit::Milliseconds, ours, Some(peer), goal_ms);
    }

    /// Adds a row.
    pub(crate) fn add(&mut self, what: &str, unit: Unit, ours: Spread, peer: Option<Spread>, goal: Option<f64>) {
        self.rows.push(Row { section: self.section, what: what.to_owned(), unit, ours, peer, goal });
    }

    /// Prints the rows of the section that is under way.
    pub(crate) fn print_section(&self) {
        println!(
            "{:52} {:>11} {:>11} {:>11} {:>7} {:>9}",
            format!("[{}] medians", self.section),
            "gantry",
            "its p10",
            "containerd",
            "ratio",
            "goal"
        );
        for Row { what, unit, ours, peer, goal, .. } in self.rows.iter().filter(|row| row.section == self.section) {
            let peer_text = peer.map(|peer| unit.text(peer.median)).unwrap_or_default();
            let ratio = peer.map(|peer| format!("{:.1}x", ratio(*unit, *ours, peer))).unwrap_or_default();
            let goal = goal.map(|goal| unit.text(goal)).unwrap_or_default();
            let [ours, low] = [ours.median, ours.p10].map(|value| unit.text(value));
            println!("{what:52} {ours:>11} {low:>11} {peer_text:>11} {ratio:>7} {goal:>9}");
        }
        println!();
    }

    /// All rows.
    pub(crate) fn to_json(&self) -> String {
        let rows: Vec<_> = self
            .rows
            .iter()
            .map(|row| {
                json!({
                    "section": row.section,
                    "what": row.what.trim(),
                    "unit": row.unit.name(),
                    "ours": row.ours.to_json(),
                    "peer": row.peer.map(Spread::to_json),
                    "ratio": row.peer.map(|peer| ratio(row.unit, row.ours, peer)),
                    "goal": row.goal,
                })
            })
            .collect();
        format!("{:#}\n", serde_json::Value::from(rows))
    }
}

/// How many times better ours is.
fn ratio(unit: Unit, ours: Spread, peer: Spread) -> f64 {
    match unit {
        Unit::PerSecond => ours.median / peer.median,
        _ => peer.median / ours.median,
    }
}
