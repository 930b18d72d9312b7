//! Whether the wall clock can be trusted. A machine without a battery for it starts somewhere in
//! the past, often at a plausible date: systemd begins where it was built, or where the machine was
//! stopped.
//!
//! Proof that the clock was set since the machine started: systemd-timesyncd says so; a
//! battery-backed clock agrees; it was set while this program, or an earlier run of it, was
//! running. Without any sign of the contrary, a plausible date is believed.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use super::{SinceBoot, is_plausible};

/// Smaller steps are ordinary corrections (NTP).
pub const STEP_MS: i64 = 2000;
/// How often files are checked.
const LOOK_EVERY_MS: i64 = 5000;
/// A battery-backed clock may be so far off.
const BATTERY_MS: i64 = 120_000;
/// In the service's folder in memory: the clock was set since the machine started.
const NOTE: &str = "clock-set";

/// The state of knowledge.
#[derive(Debug)]
pub(super) struct Clock {
    is_set: AtomicBool,
    /// The wall clock less the clock that is never set, when they were compared last; `i64::MIN`
    /// before.
    offset_ms: AtomicI64,
    /// When files are checked next, since boot.
    look_at_ms: AtomicI64,
}

impl Clock {
    pub(super) const fn new() -> Self {
        Self {
            is_set: AtomicBool::new(false),
            offset_ms: AtomicI64::new(i64::MIN),
            look_at_ms: AtomicI64::new(i64::MIN),
        }
    }

    /// True once the clock was set.
    pub(super) fn is_set(&self, unix_ms: i64, since_boot: SinceBoot) -> bool {
        let offset = unix_ms - since_boot.ms;
        let before = self.offset_ms.swap(offset, Ordering::Relaxed);
        if !is_plausible(unix_ms) {
            return false;
        }
        if self.is_set.load(Ordering::Relaxed) {
            return true;
        }
        let was_stepped = before != i64::MIN && offset.abs_diff(before) >= STEP_MS.unsigned_abs();
        let looks = since_boot.ms >= self.look_at_ms.load(Ordering::Relaxed);
        if looks {
            self.look_at_ms
                .store(since_boot.ms + LOOK_EVERY_MS, Ordering::Relaxed);
        }
        let is_set = was_stepped
            || (looks && is_proven(Path::new("/"), super::runtime_folder().as_deref(), unix_ms));
        if is_set {
            self.is_set.store(true, Ordering::Relaxed);
        }
        if was_stepped && let Some(folder) = super::runtime_folder() {
            // Without the note the next run has to find out for itself.
            let _ = super::write_private(&folder.join(NOTE), "");
        }
        is_set
    }
}

/// True if the files below `root` prove a clock that shows `unix_ms`.
fn is_proven(root: &Path, runtime: Option<&Path>, unix_ms: i64) -> bool {
    let timesync = root.join("run/systemd/timesync");
    let was_set = timesync.join("synchronized").exists()
        || runtime.is_some_and(|folder| folder.join(NOTE).exists());
    // A machine that fetches the time, or keeps it in a file while it is off, has no clock with a
    // battery.
    let is_doubtful = timesync.exists() || root.join("etc/fake-hwclock.data").exists();
    was_set || !is_doubtful || has_battery(&root.join("sys/class/rtc/rtc0"), unix_ms)
}

fn has_battery(rtc: &Path, unix_ms: i64) -> bool {
    let read = |name: &str| fs::read_to_string(PathBuf::from(rtc).join(name)).ok();
    let seconds: Option<i64> = read("since_epoch").and_then(|text| text.trim().parse().ok());
    let set_the_clock = read("hctosys").is_some_and(|text| text.trim() == "1");
    set_the_clock && seconds.is_some_and(|seconds| (seconds * 1000 - unix_ms).abs() < BATTERY_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: i64 = 1_769_847_330_250;

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let file = root.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        root
    }

    fn check(files: &[(&str, &str)], expected: bool) {
        let root = root(files);
        assert_eq!(
            is_proven(root.path(), Some(&root.path().join("run/wellhead")), NOW_MS),
            expected,
            "{files:?}"
        );
    }

    #[test]
    fn a_plausible_date_is_believed_unless_the_machine_has_no_battery_and_nobody_has_set_it() {
        let (fake, timesyncd) = (
            ("etc/fake-hwclock.data", ""),
            ("run/systemd/timesync/x", ""),
        );
        check(&[], true);
        check(&[fake], false);
        check(&[timesyncd], false);
        check(
            &[timesyncd, fake, ("run/systemd/timesync/synchronized", "")],
            true,
        );
        check(&[fake, ("run/wellhead/clock-set", "")], true);
        let battery = |seconds: &'static str, hctosys: &'static str| {
            [
                timesyncd,
                ("sys/class/rtc/rtc0/since_epoch", seconds),
                ("sys/class/rtc/rtc0/hctosys", hctosys),
            ]
        };
        check(&battery("1769847331\n", "1\n"), true);
        check(&battery("1769847331\n", "0\n"), false);
        check(&battery("0\n", "1\n"), false);
    }

    #[test]
    fn a_step_proves_that_somebody_has_set_the_clock() {
        let clock = Clock::new();
        // Files are not looked at in this test.
        clock.look_at_ms.store(i64::MAX, Ordering::Relaxed);
        let at = |ms| SinceBoot { boot: 1, ms };
        assert!(!clock.is_set(NOW_MS, at(1000)));
        assert!(!clock.is_set(NOW_MS + 1000 + STEP_MS - 1, at(2000)));
        assert!(clock.is_set(NOW_MS + 86_400_000, at(4000)));
        assert!(clock.is_set(NOW_MS + 86_401_000, at(5000)));
        assert!(
            !clock.is_set(5, at(6000)),
            "what is not plausible was not set"
        );
        let clock = Clock::new();
        clock.look_at_ms.store(i64::MAX, Ordering::Relaxed);
        assert!(!clock.is_set(86_400_000, at(1000)));
        assert!(clock.is_set(NOW_MS, at(2000)), "out of 1970");
    }
}
