//! Messages of remote brokers. Those at QoS 2 are remembered from when they are handed in until
//! their uplink remembers them itself.
//!
//! An uplink acknowledges a message of its remote when the message is safe here and its own memory
//! of it is durable. A crash in between makes the remote repeat a message that the broker has: it
//! is known here by its packet identifier, and goes only where it is missing.
//!
//! Invariants:
//! * Messages of a remote have numbers that grow. Those up to the number that the uplink names as
//!   known are forgotten, unless a destination may still lack them: their packet identifiers may
//!   come again with other messages.
//! * A message of an earlier run that the uplink did not know when this run began has no number any
//!   more. It stays until the remote repeats it, uses its packet identifier for another message, or
//!   has forgotten it.

use std::collections::VecDeque;
use std::time::Instant;

use super::held::{ForwardRefusals, HeldFor, HeldInbound};
use super::qos_2_records::InboundRecord;
use super::record::Record;
use super::session::{Incoming, IncomingState, Rest};
use super::{ByNumber, Engine, Lsn, Output, Ticket};
use crate::message::{ExactInbound, Message, Origin};
use crate::mqtt::PacketId;
use crate::outbox::Handover;

/// In place of the number of a message of an earlier run, until the remote repeats it.
const UNKNOWN: u64 = u64::MAX;
/// Numbers of forgotten messages that may be kept.
const SPARE: usize = 1000;

/// A message.
#[derive(Debug)]
struct RemoteMessage {
    number: u64,
    /// Of its content; 0 if that is not known.
    digest: u32,
    incoming: Incoming,
}

impl RemoteMessage {
    fn record(&self, source: u64, packet_id: PacketId) -> InboundRecord {
        InboundRecord {
            source,
            packet_id,
            number: self.number,
            digest: self.digest,
            progress: self.incoming.progress(),
        }
    }
}

/// The messages of one remote.
#[derive(Debug, Default)]
pub(super) struct RemoteMessages {
    /// Names its uplink in records.
    source: u64,
    messages: ByNumber<PacketId, RemoteMessage>,
    /// Those of this run, in the order of their numbers, and perhaps some that were forgotten.
    in_order: VecDeque<(u64, PacketId)>,
    /// The uplink has said what it knew when this run began.
    has_begun: bool,
}

impl RemoteMessages {
    pub(super) fn incoming_mut(&mut self, packet_id: PacketId) -> Option<&mut Incoming> {
        self.messages
            .get_mut(&packet_id)
            .map(|message| &mut message.incoming)
    }

    /// Adds a message of which the journal has never heard, and returns its record; `None` if there
    /// is another one with its identifier.
    pub(super) fn restore_unknown(
        &mut self,
        packet_id: PacketId,
        incoming: Incoming,
    ) -> Option<InboundRecord> {
        let other = self.messages.get(&packet_id);
        // One that every destination has was completed, or its identifier would not have come
        // again.
        if other.is_some_and(|other| other.incoming.state != IncomingState::Received) {
            return None;
        }
        let message = RemoteMessage {
            number: UNKNOWN,
            digest: 0,
            incoming,
        };
        let record = message.record(self.source, packet_id);
        self.messages.insert(packet_id, message);
        Some(record)
    }

    /// The messages that are forgotten because their uplink knows those up to a number. One that a
    /// destination may still lack is not known there: the remote repeats it.
    fn known_up_to(&mut self, known: u64) -> Vec<PacketId> {
        let (is_all, mut forgotten) = (known == u64::MAX, Vec::new());
        for packet_id in self.numbered_up_to(known) {
            match self.messages.get_mut(&packet_id) {
                Some(message) if is_all || message.incoming.state == IncomingState::Received => {
                    forgotten.push(packet_id);
                }
                Some(message) => message.number = UNKNOWN,
                None => {}
            }
        }
        forgotten
    }

    /// The messages with numbers up to this one.
    fn numbered_up_to(&mut self, last: u64) -> Vec<PacketId> {
        if !self.has_begun || last == u64::MAX {
            let all = self.messages.iter();
            let numbered = all.filter(|(_, message)| message.number <= last);
            return numbered.map(|(packet_id, _)| *packet_id).collect();
        }
        let mut found = Vec::new();
        while let Some((number, packet_id)) =
            self.in_order.pop_front_if(|(number, _)| *number <= last)
        {
            let message = self.messages.get(&packet_id);
            if message.is_some_and(|message| message.number == number) {
                found.push(packet_id);
            }
        }
        found
    }

    /// The run begins, if it has not begun yet: returns the records of the messages of earlier
    /// runs.
    fn begin(&mut self) -> Vec<InboundRecord> {
        if std::mem::replace(&mut self.has_begun, true) {
            return Vec::new();
        }
        let source = self.source;
        let messages = self.messages.iter_mut().map(|(packet_id, message)| {
            message.number = UNKNOWN;
            message.record(source, *packet_id)
        });
        messages.collect()
    }

    /// The first message under this identifier, if a message repeats it.
    fn repeated(&mut self, exact: ExactInbound, digest: u32) -> Option<Incoming> {
        let first = self.messages.get_mut(&exact.packet_id)?;
        let is_same = first.digest == 0 || first.digest == digest;
        (exact.is_repeated && is_same).then_some(first.incoming)
    }

    fn insert(&mut self, exact: ExactInbound, message: RemoteMessage) {
        if self.in_order.len() > 4 * self.messages.len() + SPARE {
            let messages = &self.messages;
            let is_current = |(number, packet_id): &(u64, PacketId)| {
                let message = messages.get(packet_id);
                message.is_some_and(|message| message.number == *number)
            };
            self.in_order.retain(is_current);
        }
        self.in_order.push_back((exact.number, exact.packet_id));
        self.messages.insert(exact.packet_id, message);
    }
}

/// The messages of all remotes, by uplink.
#[derive(Debug, Default)]
pub(super) struct Remotes(Vec<RemoteMessages>);

impl Remotes {
    /// Those of uplinks with these names in records.
    pub(super) fn new(sources: Vec<u64>) -> Self {
        let remote = |source| RemoteMessages {
            source,
            ..RemoteMessages::default()
        };
        Self(sources.into_iter().map(remote).collect())
    }

    pub(super) fn of_source(&mut self, source: u64) -> Option<&mut RemoteMessages> {
        self.0.iter_mut().find(|remote| remote.source == source)
    }

    fn of(&mut self, origin: Origin) -> Option<&mut RemoteMessages> {
        match origin {
            Origin::Uplink(index) => self.0.get_mut(usize::from(index)),
            Origin::Field | Origin::Client | Origin::Own => None,
        }
    }

    /// As a record says.
    pub(super) fn restore(&mut self, record: InboundRecord, incoming: Incoming) {
        if let Some(remote) = self.of_source(record.source) {
            let message = RemoteMessage {
                number: record.number,
                digest: record.digest,
                incoming,
            };
            remote.messages.insert(record.packet_id, message);
        }
    }

    /// The same for one that is forgotten.
    pub(super) fn restore_freed(&mut self, source: u64, packet_id: PacketId) {
        if let Some(remote) = self.of_source(source) {
            remote.messages.remove(&packet_id);
        }
    }

    /// The progress of each.
    pub(super) fn incoming(&self) -> impl Iterator<Item = &Incoming> {
        let messages = self.0.iter().flat_map(|remote| remote.messages.values());
        messages.map(|message| &message.incoming)
    }

    /// Writes all of them.
    pub(super) fn record(&self, mut put: impl FnMut(Record<'_>)) {
        for remote in &self.0 {
            for (packet_id, message) in &remote.messages {
                put(Record::Inbound(message.record(remote.source, *packet_id)));
            }
        }
    }
}

/// Tells messages apart that come under one packet identifier.
fn digest_of(message: &Message) -> u32 {
    let topic = crc32c::crc32c(message.topic.as_str().as_bytes());
    crc32c::crc32c_append(topic, &message.payload).max(1)
}

impl Engine {
    /// A message of a remote broker: it is safe when it is durable and every destination has it.
    /// `exact` is there at QoS 2.
    pub(super) fn inbound(
        &mut self,
        reply: u64,
        message: Message,
        exact: Option<ExactInbound>,
        now: Instant,
    ) {
        let waiter = HeldInbound {
            reply,
            after: 0,
            origin: message.origin,
            exact,
            digest: exact.map_or(0, |_| digest_of(&message)),
            handover: None,
        };
        let known = exact.and_then(|exact| self.known_inbound(&waiter, exact));
        let Some(known) = known else {
            return self.accept_inbound(message, waiter, Rest::ALL, now);
        };
        match known.state {
            IncomingState::Partial(rest) => {
                let handover = self.inbound_handover(&waiter, known.receipt);
                let waiter = HeldInbound { handover, ..waiter };
                self.accept_inbound(message, waiter, rest, now);
            }
            // Under its new number.
            IncomingState::Received => {
                self.remember_inbound(&waiter, known);
                self.promise(reply, self.records.newest());
            }
            IncomingState::Held(ticket) => {
                self.remember_inbound(&waiter, known);
                self.wait_instead(ticket, reply);
            }
        }
    }

    /// Lets a message of a remote go the rest of its way.
    fn accept_inbound(
        &mut self,
        message: Message,
        mut waiter: HeldInbound,
        rest: Rest,
        now: Instant,
    ) {
        let known = waiter.receipt();
        waiter.handover = waiter
            .handover
            .or_else(|| self.inbound_handover(&waiter, 0));
        let held = Some(HeldFor::Inbound(waiter));
        let (ticket, reached) = self.route(message, None, held, rest, now);
        let drawn = ticket.and(waiter.receipt());
        let state = ticket.map_or(IncomingState::Received, IncomingState::Held);
        let incoming = Incoming::on_none(state, drawn.or(known).unwrap_or(0));
        let after = reached.after.max(self.remember_inbound(&waiter, incoming));
        match ticket.and_then(|ticket| self.held.waiter_mut(ticket)) {
            Some(HeldFor::Inbound(waiter)) => waiter.after = after,
            _ => self.promise(waiter.reply, after),
        }
    }

    /// What is known of a message that may be a repetition. One that is sent for the first time is
    /// none, whatever its packet identifier.
    fn known_inbound(&mut self, waiter: &HeldInbound, exact: ExactInbound) -> Option<Incoming> {
        let origin = waiter.origin;
        let remote = self.remotes.of(origin)?;
        for packet_id in remote.known_up_to(exact.known) {
            self.forget_inbound(origin, packet_id);
        }
        let remote = self.remotes.of(origin)?;
        for record in remote.begin() {
            self.records.put(Record::Inbound(record));
        }
        let repeated = remote.repeated(exact, waiter.digest);
        if repeated.is_none() {
            self.forget_inbound(origin, exact.packet_id);
        }
        repeated
    }

    /// Forgets a message of a remote, if there is one.
    fn forget_inbound(&mut self, origin: Origin, packet_id: PacketId) {
        let Some(remote) = self.remotes.of(origin) else {
            return;
        };
        if let Some(message) = remote.messages.remove(&packet_id) {
            let session = remote.source;
            let after = self.records.put(Record::Freed { session, packet_id });
            self.receipts.end(message.incoming.receipt, after);
        }
    }

    /// The hand-over of a QoS 2 message of a remote, with the receipt that it has already if it has
    /// one.
    fn inbound_handover(&mut self, waiter: &HeldInbound, receipt: u64) -> Option<Handover> {
        let packet_id = waiter.exact?.packet_id.get();
        let source = self.remotes.of(waiter.origin)?.source;
        self.handover(source, packet_id, receipt)
    }

    /// Remembers a QoS 2 message of a remote under its newest number. Returns the batch that says
    /// so; 0 for other messages.
    fn remember_inbound(&mut self, waiter: &HeldInbound, incoming: Incoming) -> Lsn {
        let Some((remote, exact)) = self.remotes.of(waiter.origin).zip(waiter.exact) else {
            return 0;
        };
        let mut message = RemoteMessage {
            number: exact.number,
            digest: waiter.digest,
            incoming,
        };
        let record = message.record(remote.source, exact.packet_id);
        let after = self.records.put(Record::Inbound(record));
        if incoming.state == IncomingState::Received {
            self.receipts.end(incoming.receipt, after);
            message.incoming.receipt = 0;
        }
        remote.insert(exact, message);
        after
    }

    /// The repetition of a message that waits for its destinations takes the place of the first.
    fn wait_instead(&mut self, ticket: Ticket, reply: u64) {
        if let Some(HeldFor::Inbound(waiter)) = self.held.waiter_mut(ticket) {
            let earlier = std::mem::replace(&mut waiter.reply, reply);
            self.outputs.push(Output::NotSafe(earlier));
        }
    }

    /// Every destination has a message of a remote, or some refused it.
    pub(super) fn inbound_stored(
        &mut self,
        ticket: Ticket,
        waiter: HeldInbound,
        refusals: ForwardRefusals,
    ) {
        let HeldInbound {
            reply,
            mut after,
            origin,
            exact,
            ..
        } = waiter;
        let message = exact
            .zip(self.remotes.of(origin))
            .and_then(|(exact, remote)| remote.messages.get_mut(&exact.packet_id))
            .filter(|message| message.incoming.state == IncomingState::Held(ticket));
        match (message, refusals.all()) {
            (Some(message), 0) => {
                let incoming = Incoming::on_none(IncomingState::Received, message.incoming.receipt);
                let number = message.number;
                let exact = exact.map(|exact| ExactInbound { number, ..exact });
                let stored = HeldInbound { exact, ..waiter };
                after = after.max(self.remember_inbound(&stored, incoming));
            }
            (Some(message), missing) => {
                message.incoming.state = IncomingState::Partial(Rest::to_destinations(missing));
            }
            (None, _) => {
                let newest = self.records.newest();
                self.receipts.end(waiter.receipt().unwrap_or(0), newest);
            }
        }
        if refusals.all() == 0 {
            self.promise(reply, after);
        } else {
            self.outputs.push(Output::NotSafe(reply));
        }
    }

    /// Says that a message of a remote is safe when the batch `after` is durable.
    fn promise(&mut self, reply: u64, after: Lsn) {
        if !self.gate.hold_reply(after, reply) {
            self.outputs.push(Output::Safe(reply));
        }
    }
}
