//! The orderly end of a connection: nothing new is sent, what is in flight is acknowledged on both
//! sides as far as that takes a moment only, then DISCONNECT.
//!
//! A message whose acknowledgement is on its way would be sent again on the next connection: at QoS
//! 1 it would arrive twice.

use std::time::{Duration, Instant};

use super::state::LAST_ANSWER;
use super::{Done, RemoteConnection};
use crate::time::{now, unix_ms};
use crate::uplink::failure::LinkError;
use crate::uplink::link::Command;

/// How long DISCONNECT, and what is before it, may take.
const GOODBYE: Duration = Duration::from_secs(3);
/// How long acknowledgements are waited for when the stop allows no more time.
const LAST_MOMENT: Duration = Duration::from_secs(1);

/// How long an end may take when the time for it is over.
pub(in crate::uplink) const LAST_WORDS: Duration = LAST_MOMENT
    .saturating_add(LAST_ANSWER)
    .saturating_add(GOODBYE)
    .saturating_add(Duration::from_secs(1));

/// An end that waits for acknowledgements.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ending {
    done: Done,
    until: Instant,
}

impl Ending {
    /// Nothing is waited for.
    pub(super) fn at_once(done: Done, at: Instant) -> Self {
        Self { done, until: at }
    }

    /// Messages that were just sent have a moment to be acknowledged.
    pub(super) fn soon(done: Done, at: Instant) -> Self {
        Self {
            done,
            until: at + LAST_MOMENT,
        }
    }

    /// True if it is for this reason.
    pub(super) fn is_because(self, done: Done) -> bool {
        self.done == done
    }
}

impl RemoteConnection<'_> {
    /// From here on nothing new is sent, so that the connection can end gracefully.
    pub(super) fn end(&mut self, done: Done) {
        let until = now() + self.uplink.pace.patience();
        self.ending = Some(Ending { done, until });
    }

    /// Ends a connection whose token ends soon.
    pub(super) fn renew_token(&mut self) {
        let is_due = self
            .uplink
            .renewal
            .is_some_and(|renewal| renewal.is_due(now(), unix_ms() / 1000));
        if is_due && self.ending.is_none() && self.give_up.is_none() {
            self.end(Done::Renewed);
        }
    }

    /// Ends a connection whose will was left out, when it is time to try it again.
    pub(super) fn try_will(&mut self) {
        let is_due = self
            .uplink
            .presence
            .will_due(self.uplink.current, self.began)
            .is_some_and(|due| now() >= due);
        if is_due
            && self.uplink.settings.presence.is_some()
            && self.ending.is_none()
            && self.give_up.is_none()
        {
            self.end(Done::TriesWill);
        }
    }

    /// The stop order came: what waits is sent for `grace`. An end for another reason is not waited
    /// for any more.
    pub(super) fn stop_within(&mut self, grace: Duration) {
        self.give_up = Some(now() + grace);
        self.ending = None;
    }

    /// The time is up: what is in flight has a moment left.
    pub(super) fn hurry(&mut self) {
        let at = now();
        self.is_hurried = true;
        self.give_up = Some(at);
        self.ending = Some(Ending {
            done: Done::Stopped,
            until: at + LAST_MOMENT,
        });
    }

    /// When [`RemoteConnection::is_done`] may become true by itself.
    pub(super) fn ends_at(&self) -> Option<Instant> {
        self.ending
            .map(|ending| ending.until)
            .or_else(|| self.sends_until())
    }

    /// When a stop sends nothing new any more: in time for the acknowledgements of what was sent.
    fn sends_until(&self) -> Option<Instant> {
        let grace = self.grace / 2;
        self.give_up
            .and_then(|give_up| give_up.checked_sub(self.uplink.pace.patience().min(grace)))
    }

    /// Begins the end that is due. Returns the reason when nothing is owed on either side any more,
    /// or the time for it is over.
    pub(super) fn is_done(&mut self) -> Option<Done> {
        let at = now();
        if self.ending.is_none() {
            let is_empty =
                self.uplink.session.in_flight() == 0 && self.uplink.outbox.waiting() == 0;
            if self
                .sends_until()
                .is_some_and(|until| at >= until || is_empty)
            {
                let until = self
                    .give_up
                    .map_or(at, |give_up| give_up.max(at + LAST_MOMENT));
                self.ending = Some(Ending {
                    done: Done::Stopped,
                    until,
                });
            } else if self.uplink.is_relieved() && (is_empty || self.waits_for_rate()) {
                self.end(Done::NotNeeded);
            }
        }
        let Ending { done, until } = self.ending?;
        let owes_nothing = self.uplink.session.is_settled() && self.uplink.deliveries.is_empty();
        (owes_nothing || at >= until).then_some(done)
    }

    /// The state and DISCONNECT, written as far as the link takes them in a moment. If the link
    /// breaks here, the remote publishes the will; the end is the same.
    pub(super) async fn say_goodbye(&mut self, done: Done) {
        if let Err(error) = self.say_last(done).await {
            tracing::debug!(event = "uplink.disconnect_unsent", uplink = %self.uplink.settings.name, %error, "the link broke before DISCONNECT");
            return;
        }
        // A remote that closes first has read enough.
        let written = async { while !self.link.is_idle() && self.link.next().await.is_ok() {} };
        // One that does not take it in time is left.
        let _ = tokio::time::timeout(GOODBYE, written).await;
    }

    async fn say_last(&mut self, done: Done) -> Result<(), LinkError> {
        self.say_offline(done).await?;
        self.link.feed(Command::Disconnect).map(drop)
    }
}
