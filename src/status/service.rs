//! Notifications to the service manager (systemd): ready, reloading, stopping, status line,
//! watchdog. Without one nothing is sent.

use std::time::Duration;

use sd_notify::NotifyState;

/// The connection to the service manager.
#[derive(Debug)]
pub struct Service {
    /// The watchdog timeout; `None` without a watchdog.
    watchdog: Option<Duration>,
    /// The status line that was sent last.
    sent: String,
    /// The last notification failed, which is in the log.
    has_failed: bool,
}

impl Service {
    /// The one that started this process, by its environment.
    pub fn of_environment() -> Self {
        Self {
            watchdog: sd_notify::watchdog_enabled(),
            sent: String::new(),
            has_failed: false,
        }
    }

    /// The interval of [`Self::alive`]: a quarter of the watchdog timeout; `None` without a
    /// watchdog.
    pub fn sign_every(&self) -> Option<Duration> {
        self.watchdog.map(|limit| limit / 4)
    }

    /// The gateway is up, or a reload is done.
    pub fn ready(&mut self) {
        self.notify(&[NotifyState::Ready]);
    }

    /// A reload begins; [`Self::ready`] ends it.
    pub fn reloading(&mut self) {
        // Without a monotonic clock there is no systemd that would want it.
        let time = NotifyState::monotonic_usec_now().unwrap_or(NotifyState::MonotonicUsec(0));
        self.notify(&[NotifyState::Reloading, time]);
    }

    /// A stop begins, which may take `at_most`.
    pub fn stopping(&mut self, at_most: Duration) {
        self.notify(&[NotifyState::Stopping, extend(at_most)]);
    }

    /// The start is delayed by `after`.
    pub fn starts_later(&mut self, after: Duration) {
        self.notify(&[extend(after + Duration::from_secs(60))]);
    }

    /// One line for `systemctl status`.
    pub fn status(&mut self, text: &str) {
        if self.sent != text {
            text.clone_into(&mut self.sent);
            self.notify(&[NotifyState::Status(text)]);
        }
    }

    /// Feeds the watchdog: all tasks make progress.
    pub fn alive(&mut self) {
        if self.watchdog.is_some() {
            self.notify(&[NotifyState::Watchdog]);
        }
    }

    fn notify(&mut self, state: &[NotifyState<'_>]) {
        match sd_notify::notify(state) {
            Ok(()) => self.has_failed = false,
            Err(error) if !self.has_failed => {
                tracing::warn!(event = "service.notify_failed", %error, "sd_notify failed; the service manager does not see the state of the gateway");
                self.has_failed = true;
            }
            Err(_) => {}
        }
    }
}

fn extend(by: Duration) -> NotifyState<'static> {
    NotifyState::ExtendTimeoutUsec(u32::try_from(by.as_micros()).unwrap_or(u32::MAX))
}
