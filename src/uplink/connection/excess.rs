//! Messages that the remote has read and left unanswered, while it answered others: they come
//! faster than it takes them.
//!
//! Whether the remote has read a message is known when it answers one behind it, or a PINGREQ
//! behind it. A connection on which it has left several unanswered for too long ends; the next one
//! sends them again, more slowly.

use std::time::Duration;

use super::ending::Ending;
use super::{Done, RemoteConnection};
use crate::outbox::EntryId;
use crate::time::now;
use crate::uplink::failure::LinkError;
use crate::uplink::throttle::SEVERAL;

/// The part of the time for an answer after which the remote is asked whether it reads.
const ASKED_AFTER: u32 = 3;

impl RemoteConnection<'_> {
    /// Looks for messages that the remote has left unanswered, and raises a pace that has proven
    /// itself.
    pub(super) fn check_excess(&mut self) -> Result<(), LinkError> {
        let uplink = &mut *self.uplink;
        if uplink.rates.throttle.raise(now()) {
            uplink.status.pace_ended();
        }
        uplink.status.set_pace(uplink.rates.throttle.per_second());
        // A suspect that is sent alone tells more.
        if self.ending.is_some()
            || self.give_up.is_some()
            || uplink.session.alone().is_some()
            || !uplink.rates.throttle.has_answers()
        {
            return Ok(());
        }
        let within = uplink.settings.answer_within;
        let skipped = self.unanswered_for(within, true);
        if skipped.len() >= SEVERAL {
            self.end_because_of(&skipped);
        } else if self.pinged.is_none()
            && self.unanswered_for(within / ASKED_AFTER, false).len() >= SEVERAL
        {
            self.ping()?;
        }
        Ok(())
    }

    /// Messages that were sent so long ago, and that the remote `has_read` or may not have read.
    fn unanswered_for(&self, time: Duration, has_read: bool) -> Vec<EntryId> {
        let (at, uplink) = (now(), &*self.uplink);
        let is_meant = |place: &EntryId| {
            let sent = uplink.pace.sent_at(*place);
            sent.is_some_and(|sent| at >= sent + time) && uplink.pace.is_read(*place) == has_read
        };
        uplink
            .session
            .unanswered_messages()
            .filter(is_meant)
            .collect()
    }

    /// The remote has left these messages unanswered.
    fn end_because_of(&mut self, skipped: &[EntryId]) {
        let at = now();
        let others = self.uplink.session.on_wire().saturating_sub(skipped.len());
        self.ending = Some(if others == 0 {
            Ending::at_once(Done::Repeats, at)
        } else {
            Ending::soon(Done::Repeats, at)
        });
        let poison = self.slow_down(skipped);
        if poison.is_empty() {
            return;
        }
        self.uplink.rates.throttle.acquit();
        for place in poison {
            self.take_out(
                place,
                "the remote answers messages behind this one, and never this one".to_owned(),
            );
        }
    }

    /// From here on messages go more slowly, because the remote left these unanswered. Returns
    /// those of them that it leaves unanswered however slowly they come.
    pub(super) fn slow_down(&mut self, skipped: &[EntryId]) -> Vec<EntryId> {
        let uplink = &mut *self.uplink;
        let excess = uplink.rates.throttle.skipped(skipped, now());
        uplink.status.set_pace(uplink.rates.throttle.per_second());
        uplink.status.paced(skipped.len(), excess.is_new);
        excess.poison
    }
}
