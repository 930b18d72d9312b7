//! The way to a connection that the remote has accepted: its addresses in order, and the end of a session that is not this one.

use std::time::{Duration, Instant};

use tokio::time::sleep_until;

use super::{Uplink, name_of};
use crate::tasks::Stop;
use crate::time::now;
use crate::uplink::link::{Accepted, Link, LinkError};
use crate::uplink::{Remote, Settings};

/// First and longest pause between two CONNECT packets when the first one only ended an old session: AWS IoT Core allows one a second
/// and client identifier, and closes for more.
const BETWEEN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// A remote whose old session has been ended, and when it may be connected to again.
#[derive(Debug, Clone, Copy)]
pub(in crate::uplink) struct Cleaned {
    remote: u32,
    pause: Duration,
    not_before: Instant,
}

impl Uplink {
    /// The first of the addresses that accepts; `None` if the stop order came.
    pub(super) async fn open(&mut self, mut stop: Stop) -> Option<Result<(Link, Accepted, Remote), LinkError>> {
        let mut last = LinkError::Unreachable("no address".to_owned());
        for remote in self.settings.remotes.clone() {
            self.pulse.beat(now());
            let opened = tokio::select! {
                opened = self.connect(&remote) => opened,
                () = stop.wait() => return None,
            };
            match opened {
                Ok((link, accepted)) => return Some(Ok((link, accepted, remote))),
                Err(error) => {
                    if !matches!(error, LinkError::Silent(_) | LinkError::Unreachable(_)) {
                        self.doubt_subscriptions().await;
                    }
                    last = error;
                }
            }
        }
        Some(Err(last))
    }

    /// The remote may have accepted unheard, with a new session that has no subscription. That is noted at once: a gateway that is
    /// started again asks for them, too.
    async fn doubt_subscriptions(&mut self) {
        self.subscriptions.forget();
        if !self.session.doubt_subscriptions() {
            return;
        }
        if let Some(saving) = self.saving.take()
            && self.pulse.through(saving).await.is_ok()
        {
            self.session.saved();
        }
        self.begin_save();
    }

    async fn connect(&mut self, remote: &Remote) -> Result<(Link, Accepted), LinkError> {
        let name = name_of(remote);
        let dial_within = self.silence.dial_within(self.settings.dial_within, self.pace.usual());
        let settings = Settings { dial_within, ..self.settings.clone() };
        if self.session.is_strange_to(name) {
            Link::clean(&settings, remote, self.tls.as_ref()).await?;
            // Noted at once: a gateway that is started again does not end it a second time.
            self.session.cleaned(name);
            if self.saving.is_none() {
                self.begin_save();
            }
            self.cleaned = Some(Cleaned { remote: name, pause: BETWEEN.0, not_before: now() + BETWEEN.0 });
        }
        if let Some(cleaned) = self.cleaned.filter(|cleaned| cleaned.remote == name) {
            self.pulse.through(sleep_until(cleaned.not_before.into())).await;
        }
        let will = self.next_will(name);
        let has_will = will.is_some();
        let opened = Link::open(&settings, remote, self.tls.as_ref(), will).await;
        self.judge_will(name, has_will, opened.as_ref().err());
        if let Some(cleaned) = self.cleaned.as_mut().filter(|_| opened.is_err()) {
            cleaned.pause = (cleaned.pause * 2).min(BETWEEN.1);
            cleaned.not_before = now() + cleaned.pause;
        }
        if opened.is_ok() {
            self.cleaned = None;
        }
        opened
    }
}
