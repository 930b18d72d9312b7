//! From the outbox into the session: a message alone, or a reading together with others.

use std::sync::Arc;
use std::time::Duration;

use super::RemoteConnection;
use crate::outbox::{EntryId, Outgoing, Reason, Waiting};
use crate::payload::Payload;
use crate::reading::Timestamp;
use crate::route::{JoinTerms, Routes, WrittenAt};
use crate::time::{moment, now};
use crate::uplink::batch::Joining;
use crate::uplink::client::Uplink;
use crate::uplink::lanes::Ready;

impl RemoteConnection<'_> {
    /// Hands a batch to the session that waits for no more readings. False if there is none, or if
    /// the session has no room.
    pub(super) fn close_batch(&mut self) -> bool {
        let has_more = self.uplink.lanes.reads_on();
        if !self.has_room_for_batch() || has_more {
            return false;
        }
        let is_last = self.give_up.is_some() || self.uplink.is_relieved();
        let uplink = &mut *self.uplink;
        // Alarms need not wait for the others when there is no room for more readings.
        let closed = if is_last || uplink.batches.is_full() {
            uplink.batches.close_any()
        } else {
            uplink.batches.close_due(now())
        };
        let is_there = closed.is_some();
        if let Some(head) = closed {
            uplink.offer_batch(head);
        }
        is_there
    }

    /// True if the session takes one more message, and the link too: until then more readings may
    /// join.
    fn has_room_for_batch(&self) -> bool {
        let session = &self.uplink.session;
        !self.is_held() && session.room() > 0 && self.uplink.pace.has_room(session.on_wire())
    }

    /// Hands a batch to the session that is due and that messages of lower lanes would overtake:
    /// nothing more of its own lane can be taken. False if there is none, or if the session has no
    /// room.
    pub(super) fn close_overtaken(&mut self) -> bool {
        if !self.has_room_for_batch() {
            return false;
        }
        let uplink = &mut *self.uplink;
        let lanes = &uplink.lanes;
        let closed = uplink
            .batches
            .close_due_of(now(), |lane| lanes.is_dry(lane));
        let is_there = closed.is_some();
        if let Some(head) = closed {
            uplink.offer_batch(head);
        }
        is_there
    }
}

impl Uplink {
    /// Takes a message out of the outbox: into a batch, or to the session.
    pub(super) fn take(&mut self, ready: Ready) {
        let routes = Arc::clone(&self.routes.borrow());
        match routes.joins(&ready.waiting.message) {
            Some(join) => self.join(ready, join, &routes),
            None => self.take_alone(ready, &routes),
        }
    }

    fn take_alone(&mut self, ready: Ready, routes: &Routes) {
        let Ready { waiting, rule } = ready;
        if let Some(rule) = rule {
            let payload = routes.payload(&waiting.message, WrittenAt::AsTaken);
            let payload = payload.map_or(0, |payload| payload.len());
            let bytes = waiting.message.topic.as_str().len() + payload;
            self.rates.taken(rule, bytes, now());
        }
        self.offer(waiting);
    }

    /// A reading joins others, unless its format has no place for it.
    fn join(&mut self, ready: Ready, join: JoinTerms, routes: &Routes) {
        let Ready { waiting, rule } = ready;
        let waited = waiting.message.waited_ms(Timestamp::from(moment()));
        let mut joining = Joining {
            waiting,
            join,
            rule,
            bytes: 0,
            waited: Duration::from_millis(waited.unwrap_or(0)),
        };
        let Some(bytes) = self.bytes_of_joining(&joining, routes) else {
            self.note_left_out(joining.waiting.place(), &joining.waiting.message);
            self.outbox.settle(&[joining.waiting.place()]);
            return;
        };
        joining.bytes = bytes;
        self.measure(&joining, routes);
        if let Some(head) = self.batches.add(joining, now()) {
            self.offer_batch(head);
        }
    }

    /// Writes a batch that may have no room for one more reading, where its size is only guessed.
    fn measure(&mut self, joining: &Joining, routes: &Routes) {
        let Some(batch) = self.batches.to_measure(joining) else {
            return;
        };
        let payload = routes.payload_of_all(batch.format(), batch.members(), WrittenAt::AsTaken);
        let bytes = payload.map_or(0, |payload| payload.len());
        self.batches.measured(joining, bytes);
    }

    /// What a reading adds to the payload of the readings that wait for others, or more, before it
    /// is compressed.
    fn bytes_of_joining(&self, joining: &Joining, routes: &Routes) -> Option<usize> {
        let format = &joining.join.format;
        if let Payload::Reading(reading) = &joining.waiting.message.payload
            && let Some(guessed) = format.guess(reading)
        {
            return Some(guessed);
        }
        let written =
            |readings: &[&Waiting]| routes.bytes_written(format, readings.iter().copied());
        let own = &joining.waiting;
        let alone = written(&[own])?;
        if joining.join.format.shrinks() {
            // Only writing all of them tells.
            return Some(alone);
        }
        let Some(last) = self.batches.last_before(joining) else {
            return Some(alone);
        };
        let both = written(&[last, own])?;
        Some(both.saturating_sub(written(&[last])?))
    }

    fn offer_batch(&mut self, head: Waiting) {
        self.prepare_schema(&head);
        if let Some((rule, guessed)) = self.batches.cost_of(head.place()) {
            let bytes = self.bytes_of_batch(&head).unwrap_or(guessed);
            self.rates.taken(rule, bytes, now());
        }
        self.offer(head);
    }

    /// The bytes of a batch whose size is only guessed; `None` of others.
    fn bytes_of_batch(&self, head: &Waiting) -> Option<usize> {
        let batch = self.batches.sent(head.place())?;
        let routes = self.routes.borrow();
        let format = batch.format();
        let written = || routes.payload_of_all(format, batch.members(), WrittenAt::AsTaken);
        let payload = format.shrinks().then(written)??;
        Some(head.message.topic.as_str().len() + payload.len())
    }

    /// Hands a message to the session, unless its class forbids to send it a second time.
    fn offer(&mut self, waiting: Waiting) {
        if let Some(lost) = self.session.offer(waiting) {
            let queue = lost.lane as usize;
            self.outbox
                .give_up(queue, lost.seq, &lost.message, Reason::SessionLost);
            self.outbox.settle(&[lost.place()]);
        }
    }

    /// The remote takes no packet as large as that of a message: a batch goes in two. False if it
    /// is none, or of one reading.
    pub(super) fn split(&mut self, place: EntryId) -> bool {
        let Some(halves) = self.batches.split(place) else {
            return false;
        };
        self.session.forget(place);
        for half in halves {
            self.offer(half);
        }
        true
    }

    /// Messages have their end: they are settled, with all readings of those that are batches.
    pub(super) fn settle(&mut self, places: &[EntryId]) {
        let all = places
            .iter()
            .flat_map(|place| self.batches.places_of(*place));
        let all: Vec<EntryId> = all.collect();
        self.outbox.settle(&all);
    }

    /// The remote has lost the session, and a message must not come twice.
    pub(super) fn lose(&mut self, place: EntryId, message: Option<&Outgoing>) {
        if let Some(batch) = self.batches.end(place) {
            for member in batch.into_members() {
                self.lose(member.place(), Some(&member.message));
            }
            return;
        }
        if let Some(message) = message {
            let reason = Reason::SessionLost;
            self.outbox.give_up(place.queue, place.seq, message, reason);
        }
        self.outbox.settle(&[place]);
    }

    /// The format of a reading has no place for it.
    pub(super) fn note_left_out(&self, place: EntryId, message: &Outgoing) {
        tracing::debug!(event = "uplink.reading_left_out", uplink = %self.settings.name, seq = place.seq, topic = %message.topic, "the `format` has no place for a reading that is not good; it is not sent");
        self.status.counters.left_out.count();
    }
}
