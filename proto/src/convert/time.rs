//! Points in time.

use std::time::SystemTime;

use model::error::{Classify, Kind};
use prost_types::Timestamp;

/// A timestamp that no clock of this machine can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("timestamp {seconds}.{nanos:09} is out of range")]
pub struct TimeError {
    /// Seconds since 1970.
    pub seconds: i64,
    /// Nanoseconds on top.
    pub nanos: i32,
}

impl Classify for TimeError {
    fn kind(&self) -> Kind {
        Kind::InvalidArgument
    }
}

/// For the wire.
#[must_use]
pub fn to_wire(time: SystemTime) -> Timestamp {
    Timestamp::from(time)
}

/// From the wire.
///
/// # Errors
///
/// Its nanoseconds are not within a second, or it is too far away.
pub fn from_wire(timestamp: Timestamp) -> Result<SystemTime, TimeError> {
    let refused = TimeError { seconds: timestamp.seconds, nanos: timestamp.nanos };
    if !(0..1_000_000_000).contains(&timestamp.nanos) {
        return Err(refused);
    }
    SystemTime::try_from(timestamp).map_err(|_| refused)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_on_both_sides_of_1970_come_back() {
        for time in [
            SystemTime::UNIX_EPOCH,
            SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789),
            SystemTime::UNIX_EPOCH - Duration::new(62_135_596_800, 0),
            SystemTime::UNIX_EPOCH - Duration::new(1, 500),
        ] {
            assert_eq!(from_wire(to_wire(time)).unwrap(), time);
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for (seconds, nanos) in [(0, -1), (0, 1_000_000_000), (i64::MAX, 1_000_000_000)] {
            assert_eq!(from_wire(Timestamp { seconds, nanos }), Err(TimeError { seconds, nanos }));
        }
    }

    #[test]
    fn the_ends_of_time_do_not_panic() {
        for seconds in [i64::MIN, i64::MAX] {
            let _ = from_wire(Timestamp { seconds, nanos: 999_999_999 });
        }
    }
}
