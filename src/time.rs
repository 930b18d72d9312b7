//! The only place that reads clocks: wall time, monotonic time, and whether the wall clock can be trusted.
//!
//! Pure modules get their `now` as an argument; drivers call these functions.
//! A gateway may have no clock battery: until the wall clock has been set it starts somewhere in the past.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Wall-clock times before this one (2025-01-01 UTC, in milliseconds) can only come from a clock that was never set.
const EARLIEST_PLAUSIBLE_MS: i64 = 1_735_689_600_000;

/// Milliseconds since the Unix epoch; 0 if the clock stands before it.
#[allow(clippy::disallowed_methods)]
pub fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// True if `unix_ms` can be a real date, false if the clock of this machine has not been set since it started.
pub fn clock_is_set(unix_ms: i64) -> bool {
    unix_ms >= EARLIEST_PLAUSIBLE_MS
}

/// Monotonic time.
#[allow(clippy::disallowed_methods)]
pub fn now() -> Instant {
    Instant::now()
}

/// RFC 3339 in UTC with milliseconds, such as `2026-01-31T08:15:30.250Z`.
pub fn rfc3339(unix_ms: i64) -> String {
    let ms = u64::try_from(unix_ms).unwrap_or(0);
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(ms)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_with_milliseconds_and_zone() {
        assert_eq!(rfc3339(1_769_847_330_250), "2026-01-31T08:15:30.250Z");
        assert_eq!(rfc3339(-5), "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn a_clock_that_starts_in_1970_is_not_set() {
        assert!(!clock_is_set(86_400_000));
        assert!(clock_is_set(unix_ms()));
    }
}
