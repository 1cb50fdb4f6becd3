//! The labels that collection reads (containerd's contract). Pure.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use model::Labels;

use super::node::Node;

/// What every label of collection begins with.
const PREFIX: &str = "containerd.io/gc.";

/// After this time (RFC 3339) a lease or an image is no root any more.
pub const EXPIRE: &str = "containerd.io/gc.expire";

/// A lease with this label holds its resources alone, not what they refer to.
pub const FLAT: &str = "containerd.io/gc.flat";

/// When a snapshot was last used (RFC 3339), for conditional references to it.
const USED_AT: &str = "containerd.io/gc.cond.value-usedat";

/// What a label says about two objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// The object with the label holds the other one.
    Holds(Node),
    /// The object with the label lives as long as the other one does.
    HeldBy(Node),
    /// The object with the label holds a snapshot while one of the conditions is true of the snapshot.
    HoldsIf {
        /// The snapshot.
        snapshot: Node,
        /// The conditions.
        any: Vec<UsedWithin>,
    },
}

/// A condition on how long ago a snapshot was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UsedWithin {
    /// Less than this long ago.
    Less(Duration),
    /// More than this long ago.
    More(Duration),
}

impl UsedWithin {
    /// Whether the condition is true of a snapshot with these labels. Without a readable time it is not.
    pub fn is_true(self, labels: &Labels, now: SystemTime) -> bool {
        let Some(used_at) = labels.get(USED_AT).and_then(|value| time(value)) else { return false };
        let age = now.duration_since(used_at).unwrap_or_default();
        match self {
            Self::Less(limit) => age < limit,
            Self::More(limit) => age > limit,
        }
    }
}

/// Whether an object with these labels is a root by itself.
pub fn is_root(labels: &Labels) -> bool {
    labels.keys().any(|key| key.strip_prefix(PREFIX).is_some_and(|rest| rest.starts_with("root")))
}

/// Whether the object has an end that lies before `now`. One that cannot be read is none.
pub fn is_expired(labels: &Labels, now: SystemTime) -> bool {
    labels.get(EXPIRE).and_then(|value| time(value)).is_some_and(|end| end < now)
}

/// What a label refers to, if it does.
pub fn reference(key: &str, value: &str) -> Option<Reference> {
    let rest = key.strip_prefix(PREFIX)?;
    if let Some(rest) = rest.strip_prefix("cond.snapshot") {
        return conditional(rest.trim_start_matches(['.', '/']), value);
    }
    let (back, rest) = match rest.strip_prefix("ref.") {
        Some(rest) => (false, rest),
        None => (true, rest.strip_prefix("bref.")?),
    };
    let node = if let Some(snapshotter) = rest.strip_prefix("snapshot.") {
        Node::snapshot(before_slash(snapshotter), value)
    } else if names(rest, "content") {
        Node::Content(value.to_owned())
    } else if names(rest, "image") {
        Node::Image(value.to_owned())
    } else if back && names(rest, "container") {
        Node::Container(value.to_owned())
    } else {
        return None;
    };
    Some(if back { Reference::HeldBy(node) } else { Reference::Holds(node) })
}

/// Whether `rest` is `kind`, or `kind` and a name of the reference after a dot or slash.
fn names(rest: &str, kind: &str) -> bool {
    rest.strip_prefix(kind).is_some_and(|name| name.is_empty() || name.starts_with(['.', '/']))
}

fn before_slash(text: &str) -> &str {
    text.split('/').next().unwrap_or(text)
}

/// Reads `condition[,condition]|key`; conditions that are not known are never true.
fn conditional(snapshotter: &str, value: &str) -> Option<Reference> {
    let (conditions, name) = value.split_once('|')?;
    let any = conditions.split(',').filter_map(|condition| {
        let rest = condition.strip_prefix("usedat")?;
        match rest.split_at_checked(1)? {
            ("<", limit) => duration(limit).map(UsedWithin::Less),
            (">", limit) => duration(limit).map(UsedWithin::More),
            _ => None,
        }
    });
    Some(Reference::HoldsIf { snapshot: Node::snapshot(before_slash(snapshotter), name), any: any.collect() })
}

/// Reads a duration as Go prints it: `1h30m`, `1.5s`, `300ms`.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        seconds += number
            * match &rest[..letters] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &rest[letters..];
    }
    (!text.is_empty()).then(|| Duration::try_from_secs_f64(seconds).ok()).flatten()
}

/// Reads a point in time as RFC 3339 writes it.
pub fn time(text: &str) -> Option<SystemTime> {
    let bytes = text.as_bytes();
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = text.get(from..to)?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let mark = |at: usize, marks: &[u8]| bytes.get(at).is_some_and(|b| marks.contains(b));
    let shape = mark(4, b"-") && mark(7, b"-") && mark(10, b"Tt ") && mark(13, b":") && mark(16, b":");
    if !shape {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let in_range = (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    if !in_range {
        return None;
    }
    let mut rest = text.get(19..)?;
    let mut nanos: u32 = 0;
    if let Some(fraction) = rest.strip_prefix('.') {
        let digits = fraction.find(|c: char| !c.is_ascii_digit()).unwrap_or(fraction.len());
        let padded = format!("{:0<9.9}", &fraction[..digits]);
        nanos = padded.parse().ok().filter(|_| digits > 0)?;
        rest = &fraction[digits..];
    }
    let offset_seconds = match rest.as_bytes() {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let at = text.len() - 6;
            let seconds = number(at + 1, at + 3)? * 3600 + number(at + 4, at + 6)? * 60;
            if *sign == b'+' { seconds } else { -seconds }
        }
        _ => return None,
    };
    let seconds = days_since_1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset_seconds;
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let point = if seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    point?.checked_add(Duration::from_nanos(u64::from(nanos)))
}

/// The number of days from 1970-01-01 to a day of the Gregorian calendar.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    // Years are counted from March, so that the leap day is the last of its year.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days_before_month = (153 * month + 2) / 5;
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + days_before_month + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_refer_as_clients_write_them() {
        let content = || Some(Reference::Holds(Node::Content("v".into())));
        for (key, expected) in [
            ("containerd.io/gc.ref.content", content()),
            ("containerd.io/gc.ref.content.l.0", content()),
            ("containerd.io/gc.ref.content/x", content()),
            ("containerd.io/gc.ref.contents", None),
            ("containerd.io/gc.ref.image.x", Some(Reference::Holds(Node::Image("v".into())))),
            ("containerd.io/gc.ref.snapshot.overlayfs", Some(Reference::Holds(Node::snapshot("overlayfs", "v")))),
            ("containerd.io/gc.ref.snapshot.overlayfs/1", Some(Reference::Holds(Node::snapshot("overlayfs", "v")))),
            ("containerd.io/gc.ref.snapshot.a.b", Some(Reference::Holds(Node::snapshot("a.b", "v")))),
            ("containerd.io/gc.ref.container", None),
            ("containerd.io/gc.bref.container", Some(Reference::HeldBy(Node::Container("v".into())))),
            ("containerd.io/gc.bref.content.x", Some(Reference::HeldBy(Node::Content("v".into())))),
            ("containerd.io/gc.bref.image", Some(Reference::HeldBy(Node::Image("v".into())))),
            ("containerd.io/gc.bref.snapshot.s/x", Some(Reference::HeldBy(Node::snapshot("s", "v")))),
            ("containerd.io/gc.root", None),
            ("containerd.io/uncompressed", None),
        ] {
            assert_eq!(reference(key, "v"), expected, "{key}");
        }
    }

    #[test]
    fn conditional_references_are_read() {
        let read = |value| reference("containerd.io/gc.cond.snapshot.s/x", value);
        let hold =
            |any: &[UsedWithin]| Some(Reference::HoldsIf { snapshot: Node::snapshot("s", "a|b"), any: any.to_vec() });
        assert_eq!(read("usedat<1h30m|a|b"), hold(&[UsedWithin::Less(Duration::from_secs(5400))]));
        assert_eq!(
            read("usedat>1.5s,other<2h,usedat<300ms|a|b"),
            hold(&[UsedWithin::More(Duration::from_millis(1500)), UsedWithin::Less(Duration::from_millis(300))])
        );
        assert_eq!(read("usedat=1h|a|b"), hold(&[]));
        assert_eq!(read("usedat<1h"), None);
    }

    #[test]
    fn conditions_look_at_the_time_of_use() {
        let now = time("2026-01-01T12:00:00Z").unwrap();
        let used = |text: &str| Labels::from([(USED_AT.to_owned(), text.to_owned())]);
        let hour = Duration::from_secs(3600);
        for (condition, labels, answer) in [
            (UsedWithin::Less(hour), used("2026-01-01T11:30:00Z"), true),
            (UsedWithin::Less(hour), used("2026-01-01T10:30:00Z"), false),
            (UsedWithin::More(hour), used("2026-01-01T10:30:00Z"), true),
            (UsedWithin::More(hour), used("nonsense"), false),
            (UsedWithin::Less(hour), Labels::new(), false),
        ] {
            assert_eq!(condition.is_true(&labels, now), answer, "{condition:?} {labels:?}");
        }
    }

    #[test]
    fn times_are_read_as_rfc_3339() {
        let at = |seconds: i64, nanos: u64| {
            let whole = Duration::from_secs(seconds.unsigned_abs());
            let point = if seconds < 0 { UNIX_EPOCH - whole } else { UNIX_EPOCH + whole };
            Some(point + Duration::from_nanos(nanos))
        };
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", at(0, 0)),
            ("2000-03-01T00:00:00Z", at(951_868_800, 0)),
            ("2024-02-29T23:59:59Z", at(1_709_251_199, 0)),
            ("2026-11-25T10:00:00+02:00", at(1_795_593_600, 0)),
            ("2026-11-25T10:00:00.5-00:30", at(1_795_602_600, 500_000_000)),
            ("2026-11-25T10:00:00.123456789Z", at(1_795_600_800, 123_456_789)),
            ("1969-12-31T23:59:59Z", at(-1, 0)),
            ("2026-11-25T10:00:00", None),
            ("2026-11-25T10:00:00.Z", None),
            ("2026-13-25T10:00:00Z", None),
            ("2026-11-25", None),
            ("tomorrow", None),
            ("", None),
            ("2026-11-25T10:00:é0Z", None),
        ] {
            assert_eq!(time(text), expected, "{text}");
        }
    }

    #[test]
    fn an_end_that_cannot_be_read_is_none() {
        let now = time("2026-01-01T00:00:00Z").unwrap();
        let labels = |text: &str| Labels::from([(EXPIRE.to_owned(), text.to_owned())]);
        assert!(is_expired(&labels("2025-12-31T23:59:59Z"), now));
        assert!(!is_expired(&labels("2026-01-01T00:00:01Z"), now));
        assert!(!is_expired(&labels("soon"), now));
        assert!(!is_expired(&Labels::new(), now));
    }
}
