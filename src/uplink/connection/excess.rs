//! Messages that the remote has read and left unanswered, while it answered others: they come faster than it takes them.
//!
//! Whether the remote has read a message is known when it answers one behind it, or a PINGREQ behind it. A connection on which it has
//! left several unanswered for too long ends; the next one sends them again, more slowly.

use std::time::Duration;

use super::ending::Ending;
use super::{Connection, Done};
use crate::outbox::EntryId;
use crate::time::now;
use crate::uplink::link::LinkError;
use crate::uplink::throttle::{Excess, SEVERAL};

/// The part of the time for an answer after which the remote is asked whether it reads.
const ASKED_AFTER: u32 = 3;

impl Connection<'_> {
    /// Looks for messages that the remote has left unanswered, and raises a pace that has proven itself.
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
        let Some(first) = skipped.first().copied() else {
            return;
        };
        let (at, others) = (
            now(),
            self.uplink.session.on_wire().saturating_sub(skipped.len()),
        );
        self.ending = Some(if others == 0 {
            Ending::at_once(Done::Repeats, at)
        } else {
            Ending::soon(Done::Repeats, at)
        });
        if self.slows_down(first, skipped.len()) {
            return;
        }
        if self.uplink.suspicion.overtaken(first) {
            self.uplink.rates.throttle.acquit();
            self.take_out(
                first,
                "the remote answers messages behind this one, and never this one".to_owned(),
            );
        }
    }

    /// From here on messages go more slowly. False if the pace is not why the remote left so many messages unanswered, `first` before
    /// the others.
    pub(super) fn slows_down(&mut self, first: EntryId, unanswered: usize) -> bool {
        let uplink = &mut *self.uplink;
        let excess = uplink.rates.throttle.skipped(first, now());
        let pace = uplink.rates.throttle.per_second();
        uplink.status.set_pace(pace);
        if let Excess::TooFast { is_new } = excess {
            uplink.status.paced(unanswered, is_new);
        }
        excess != Excess::Poison
    }
}
