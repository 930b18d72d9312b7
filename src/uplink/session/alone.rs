//! A message that may make the remote close the connection: sent alone, or with QoS 1 instead of
//! QoS 2. Pure.

use super::{InFlight, QoS, SendStage, Session};
use crate::message::SessionLost;
use crate::outbox::{EntryId, Outgoing};

impl Session {
    /// The message that has waited longest for an answer of the remote; `None` if a PUBREL has
    /// waited longer: the remote has that message.
    pub(in crate::uplink) fn first_unanswered_message(&self) -> Option<EntryId> {
        let first = self
            .in_flight
            .iter()
            .find(|entry| entry.is_written() && entry.needs <= self.saved)?;
        (first.stage != SendStage::Released).then(|| first.place())
    }

    /// The remote answers the message at `index`: those before it had left earlier.
    pub(super) fn note_overtaken(&mut self, index: usize) {
        let first = self.first_unanswered_message();
        let is_behind = |place: &EntryId| {
            self.in_flight
                .index_of(*place)
                .is_some_and(|first| first < index)
        };
        if let Some(first) = first.filter(is_behind) {
            self.overtaken = Some(first);
        }
    }

    /// True if the remote has answered messages behind this one on this connection.
    pub(in crate::uplink) fn is_overtaken(&self, place: EntryId) -> bool {
        self.overtaken == Some(place)
    }

    /// On this connection nothing is sent beside a message, and it only when everything of higher
    /// lanes was answered and [`Session::may_try_alone`] was called. False if the message is not in
    /// flight.
    pub(in crate::uplink) fn isolate(&mut self, place: EntryId) -> bool {
        let is_there = self.in_flight.index_of(place).is_some();
        if is_there {
            self.in_flight.put_higher_lanes_first(place.queue);
            self.alone = Some(place);
        }
        is_there
    }

    /// The remote has answered PINGREQ: a message that is sent alone may go.
    pub(in crate::uplink) fn may_try_alone(&mut self) {
        self.may_try = true;
    }

    /// True if a message is to be sent alone, and the remote has not shown that it reads.
    pub(in crate::uplink) fn waits_for_ping(&self) -> bool {
        self.alone.is_some() && !self.may_try
    }

    /// The message that is sent alone on this connection.
    pub(in crate::uplink) fn alone(&self) -> Option<EntryId> {
        self.alone
    }

    /// True if the message at `index` may not be written because of one that is sent alone.
    pub(super) fn must_wait_for_another(&self, index: usize) -> bool {
        let Some(alone) = self.alone else {
            return false;
        };
        let Some(suspect) = self.in_flight.index_of(alone) else {
            return false;
        };
        match index.cmp(&suspect) {
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Equal => !self.may_try || self.in_flight.on_wire() > 0,
            std::cmp::Ordering::Greater => true,
        }
    }

    /// A QoS 2 message that the remote does not have is sent again with QoS 1, as a new one. False
    /// if it is none, or if its class says that it must not come twice.
    pub(in crate::uplink) fn resend_with_qos_1(&mut self, place: EntryId) -> bool {
        let Some(index) = self.in_flight.index_of(place) else {
            return false;
        };
        let may_come_twice = |message: &Outgoing| message.if_session_lost != SessionLost::Drop;
        let is_exact = self
            .in_flight
            .get(index)
            .is_some_and(|entry| entry.is_exact() && entry.message().is_some_and(may_come_twice));
        if is_exact {
            self.take_back(index);
            self.max_qos = self.max_qos.min(QoS::AtLeastOnce);
            self.lower_qos();
        }
        is_exact
    }

    /// The remote takes QoS 1 and never took QoS 2: what was sent with QoS 2 and was not answered
    /// goes with QoS 1 too.
    pub(in crate::uplink) fn resend_all_with_qos_1(&mut self) {
        let is_open = |entry: &InFlight| {
            entry.is_exact() && entry.stage == SendStage::Sent && !entry.is_written()
        };
        let open: Vec<EntryId> = self
            .in_flight
            .iter()
            .filter(|entry| is_open(entry))
            .map(InFlight::place)
            .collect();
        for place in open {
            self.resend_with_qos_1(place);
        }
    }

    /// True if the remote has the message: nothing is left to remove.
    pub(in crate::uplink) fn is_released(&self, place: EntryId) -> bool {
        let entry = self
            .in_flight
            .index_of(place)
            .and_then(|index| self.in_flight.get(index));
        entry.is_some_and(|entry| entry.stage == SendStage::Released)
    }

    /// A person removes a message. True if the remote may have it: then it is ended there first,
    /// and settled with that.
    pub(in crate::uplink) fn purge(&mut self, place: EntryId) -> bool {
        let Some(index) = self.in_flight.index_of(place) else {
            return false;
        };
        let may_be_there = self
            .in_flight
            .get(index)
            .is_some_and(|entry| entry.is_exact() && entry.stage == SendStage::Sent);
        if !may_be_there {
            self.forget(place);
        } else if self.in_flight.get(index).is_some_and(InFlight::is_written) {
            self.release_instead(place);
        } else {
            // Released in its turn.
            self.release(index);
        }
        may_be_there
    }

    /// True if the remote has answered a QoS 2 message with PUBACK: what was not sent to it goes
    /// with QoS 1 from here on.
    pub(in crate::uplink) fn lacks_qos_2(&self) -> bool {
        self.lacks_qos_2
    }

    /// PUBACK came for a QoS 2 message.
    pub(super) fn lower_to_qos_1(&mut self) {
        self.lacks_qos_2 = true;
        self.max_qos = self.max_qos.min(QoS::AtLeastOnce);
        self.lower_qos();
    }
}
