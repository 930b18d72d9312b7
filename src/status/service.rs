//! The service manager (systemd): ready, reloading, stopping, what the gateway is at, and that it is alive. Without one, nothing.

use std::time::Duration;

use sd_notify::NotifyState;

/// The connection to the service manager.
#[derive(Debug)]
pub struct Service {
    /// How often it wants a sign of life; `None` if it does not watch.
    watchdog: Option<Duration>,
    told: String,
    /// A failure was told.
    is_deaf: bool,
}

impl Service {
    /// The one that started this process, by its environment.
    pub fn of_environment() -> Self {
        Self {
            watchdog: sd_notify::watchdog_enabled(),
            told: String::new(),
            is_deaf: false,
        }
    }

    /// How often [`Self::alive`] is to be called, so that a late one does no harm; `None` if nobody watches.
    pub fn sign_every(&self) -> Option<Duration> {
        self.watchdog.map(|limit| limit / 4)
    }

    /// The gateway runs, or runs on after a reload.
    pub fn ready(&mut self) {
        self.tell(&[NotifyState::Ready]);
    }

    /// It begins to read its files again; [`Self::ready`] ends that.
    pub fn reloading(&mut self) {
        // Without a monotonic clock there is no systemd that would want it.
        let time = NotifyState::monotonic_usec_now().unwrap_or(NotifyState::MonotonicUsec(0));
        self.tell(&[NotifyState::Reloading, time]);
    }

    /// It stops, which may take so long.
    pub fn stopping(&mut self, at_most: Duration) {
        self.tell(&[NotifyState::Stopping, extend(at_most)]);
    }

    /// It will not be ready before so long.
    pub fn starts_later(&mut self, after: Duration) {
        self.tell(&[extend(after + Duration::from_secs(60))]);
    }

    /// One line for `systemctl status`.
    pub fn status(&mut self, text: &str) {
        if self.told != text {
            text.clone_into(&mut self.told);
            self.tell(&[NotifyState::Status(text)]);
        }
    }

    /// Everything that must go on goes on.
    pub fn alive(&mut self) {
        if self.watchdog.is_some() {
            self.tell(&[NotifyState::Watchdog]);
        }
    }

    fn tell(&mut self, state: &[NotifyState<'_>]) {
        match sd_notify::notify(state) {
            Ok(()) => self.is_deaf = false,
            Err(error) if !self.is_deaf => {
                tracing::warn!(%error, "the service manager cannot be told how the gateway is");
                self.is_deaf = true;
            }
            Err(_) => {}
        }
    }
}

fn extend(by: Duration) -> NotifyState<'static> {
    NotifyState::ExtendTimeoutUsec(u32::try_from(by.as_micros()).unwrap_or(u32::MAX))
}
