//! The only place that reads clocks: wall time, monotonic time, and whether the wall clock can be
//! trusted.
//!
//! Pure modules get their `now` as an argument; drivers call these functions. A gateway may have no
//! clock battery: until the wall clock has been set it starts somewhere in the past.

mod clock;

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub use clock::STEP_MS;

static CLOCK: clock::Clock = clock::Clock::new();

/// Wall-clock times before this one (2025-01-01 UTC, in milliseconds) can only come from a clock
/// that was never set.
const EARLIEST_PLAUSIBLE_MS: i64 = 1_735_689_600_000;

/// Milliseconds since the Unix epoch; 0 for an earlier time.
#[allow(clippy::disallowed_methods)]
pub fn unix_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// True if `unix_ms` can be a real date: before it there were no gateways.
pub fn is_plausible(unix_ms: i64) -> bool {
    unix_ms >= EARLIEST_PLAUSIBLE_MS
}

/// True if the wall clock of this machine was set since it started; before, dates are worthless.
pub fn clock_is_set() -> bool {
    moment().clock_set
}

/// Milliseconds since the Unix epoch, for times that are stored and compared later; 0 while the
/// clock is not set.
pub fn known_unix_ms() -> i64 {
    let moment = moment();
    if moment.clock_set { moment.unix_ms } else { 0 }
}

/// Monotonic time.
#[allow(clippy::disallowed_methods)]
pub fn now() -> Instant {
    Instant::now()
}

/// A moment by both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Of the wall clock, which may be set meanwhile.
    pub unix_ms: i64,
    /// It was set since this machine started.
    pub clock_set: bool,
    /// Since this machine started, by a clock that is never set.
    pub since_boot: SinceBoot,
}

/// A time that is valid until the machine restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SinceBoot {
    /// Which start of the machine.
    pub boot: u32,
    /// Milliseconds since then.
    pub ms: i64,
}

/// This moment.
pub fn moment() -> Moment {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let ms = time
        .tv_sec
        .saturating_mul(1000)
        .saturating_add(time.tv_nsec / 1_000_000);
    let (unix_ms, since_boot) = (unix_ms(), SinceBoot { boot: boot(), ms });
    Moment {
        unix_ms,
        clock_set: CLOCK.is_set(unix_ms, since_boot),
        since_boot,
    }
}

/// Milliseconds since this machine started, by a clock that is never set.
pub fn boot_ms() -> u64 {
    u64::try_from(moment().since_boot.ms).unwrap_or(0)
}

/// The service's folder in memory, which stays until the machine stops.
fn runtime_folder() -> Option<PathBuf> {
    let folders = std::env::var("RUNTIME_DIRECTORY").ok()?;
    folders.split(':').next().map(PathBuf::from)
}

/// Writes a small file of the runtime folder that only its owner may read, whatever the umask.
pub fn write_private(file: &Path, text: &str) -> std::io::Result<()> {
    let mut options = std::fs::File::options();
    options
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(file)?
        .write_all(text.as_bytes())
}

/// Names this start of the machine.
fn boot() -> u32 {
    static BOOT: OnceLock<u32> = OnceLock::new();
    *BOOT.get_or_init(|| {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
        // A locked-down service cannot read that; its folder in memory lives as long as the machine
        // runs.
        let text = kernel.or_else(|| {
            let file = runtime_folder()?.join("boot");
            std::fs::read_to_string(&file).ok().or_else(|| {
                let drawn = format!("{:016x}", fastrand::u64(..));
                write_private(&file, &drawn).is_ok().then_some(drawn)
            })
        });
        text.map_or_else(
            || fastrand::u32(..),
            |text| crc32c::crc32c(text.trim().as_bytes()),
        )
    })
}

/// Milliseconds since the Unix epoch out of what [`rfc3339`] wrote.
pub fn parse_rfc3339(text: &str) -> Option<i64> {
    let since = humantime::parse_rfc3339(text)
        .ok()?
        .duration_since(UNIX_EPOCH)
        .ok()?;
    i64::try_from(since.as_millis()).ok()
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
        assert_eq!(
            parse_rfc3339("2026-01-31T08:15:30.250Z"),
            Some(1_769_847_330_250)
        );
        assert_eq!(parse_rfc3339("yesterday"), None);
    }

    #[test]
    fn a_date_of_1970_is_not_plausible() {
        assert!(!is_plausible(86_400_000));
        assert!(is_plausible(unix_ms()));
    }
}
