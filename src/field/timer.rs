//! Waiting to the microsecond: silences between frames are shorter than the steps of the runtime's
//! own timer.

use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;

use crate::time::now;

/// Longer waits need no precision.
const PRECISE: Duration = Duration::from_millis(50);

/// A timer of the kernel; without one (a system without it) the runtime's.
#[derive(Debug)]
pub(super) struct Timer(Option<AsyncFd<std::os::fd::OwnedFd>>);

impl Timer {
    /// Inside a runtime.
    pub(super) fn new() -> Self {
        let made = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
        );
        // Deprecated because an object could give away a descriptor it has closed; an owned
        // descriptor cannot.
        #[allow(deprecated)]
        Self(made.ok().and_then(|fd| AsyncFd::new(fd).ok()))
    }

    /// Waits until `at`; safe to drop.
    pub(super) async fn sleep_until(&self, at: Instant) {
        let left = at.saturating_duration_since(now());
        if left.is_zero() {
            return;
        }
        if left > PRECISE {
            tokio::time::sleep(left - PRECISE / 2).await;
        }
        let left = at.saturating_duration_since(now());
        if left.is_zero() {
            return;
        }
        match &self.0 {
            Some(fd) if Self::arm(fd, left) => Self::expired(fd).await,
            _ => tokio::time::sleep(left).await,
        }
    }

    fn arm(fd: &AsyncFd<std::os::fd::OwnedFd>, left: Duration) -> bool {
        let nanos = i64::from(left.subsec_nanos());
        let once = Itimerspec {
            it_interval: Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            it_value: Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: nanos,
            },
        };
        timerfd_settime(fd.get_ref(), TimerfdTimerFlags::empty(), &once).is_ok()
    }

    async fn expired(fd: &AsyncFd<std::os::fd::OwnedFd>) {
        let mut expirations = [0; 8];
        while let Ok(mut ready) = fd.readable().await {
            // Setting the timer again takes back an older expiry, so this is the one waited for.
            match rustix::io::read(fd.get_ref(), &mut expirations) {
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_never_ends_early_and_can_be_dropped() {
        let timer = Timer::new();
        assert!(timer.0.is_some());
        for micros in [0, 200, 1_750, 4_000, 60_000] {
            let at = now() + Duration::from_micros(micros);
            timer.sleep_until(at).await;
            assert!(now() >= at, "{micros}");
        }
        let dropped = tokio::time::timeout(
            Duration::from_millis(1),
            timer.sleep_until(now() + Duration::from_millis(40)),
        );
        assert!(dropped.await.is_err());
        let at = now() + Duration::from_millis(5);
        timer.sleep_until(at).await;
        assert!(now() >= at);
    }
}
